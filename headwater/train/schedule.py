"""How the learning rate moves over a run."""

import math


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then half a cosine down to nothing.

    Args:    step: 0 .. steps-1; warmup: share of the steps in [0, 1).
    Source:  Loshchilov and Hutter 2017 (cosine), Goyal et al. 2017 (warm-up).
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
