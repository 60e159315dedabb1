"""How the learning rate moves over a run."""

import math


def learning_rate(step: int, steps: int, peak: float, warmup: float, shape: str = "cosine") -> float:
    """Linear warm-up over a share of the steps, then half a cosine down to nothing, or a polynomial.

    Args:    step: 0 .. steps-1; warmup: share of the steps in [0, 1). shape: "cosine", or "poly": the power 0.9 of what is left,
             which without warm-up is nnU-Net's.
    Source:  Loshchilov and Hutter 2017 (cosine), Goyal et al. 2017 (warm-up), Isensee et al. 2021 (polynomial).
    """
    rising = max(shape == "cosine", round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    gone = (step - rising) / max(1, steps - rising)
    return peak * (1 - gone) ** 0.9 if shape == "poly" else peak * 0.5 * (1 + math.cos(math.pi * gone))


def teacher_momentum(step: int, final: float) -> float:
    """How much of the teacher stays: at first little, so that a short run does not end with a teacher that is still random.

    (1 + step) / (10 + step), up to `final`: the usual warm-up of exponential moving averages.
    """
    return min(final, (1 + step) / (10 + step))
