"""How good masks are, and how sure we are of a difference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from headwater.streams import numpy_stream


def dice(prediction: Int[Tensor, "*S"], truth: Int[Tensor, "*S"], classes: int) -> Float[np.ndarray, " K"]:
    """Dice of each structure (background left out), as MONAI defines it.

    Returns: classes - 1 values in [0, 1]; nan where the truth has no such structure.
    Source:  monai.metrics.compute_dice (ignore_empty).
    """
    from monai.metrics import compute_dice
    from monai.networks.utils import one_hot

    shown = [one_hot(mask[None, None], classes) for mask in (prediction, truth)]
    return compute_dice(*shown, include_background=False)[0].numpy()


def overlaps(
    prediction: Integer[np.ndarray, "*S"], truth: Integer[np.ndarray, "*S"], structures: Sequence[tuple[int, ...]], classes: int
) -> Float[np.ndarray, " K"]:
    """Dice of each structure, which unites some classes; nan where the truth has none of it.

    Voxels whose truth is `classes` or more do not count.
    """
    counts = truth < classes
    pairs = ([torch.from_numpy(np.isin(mask, one) & counts).long() for mask in (prediction, truth)] for one in structures)
    return np.array([float(dice(*pair, 2)[0]) for pair in pairs], np.float64)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> int:
        """1 when the whole interval lies above nought, -1 below, 0 when it holds nought or is unknown."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def interval(
    values: Float[np.ndarray, "draws *seeds subjects"],
    seed: int,
    resamples: int = 4000,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Mean over draws of labels, trainings of each draw (if there is such an axis) and test subjects, all resampled.

    Trainings lie within draws; draws and subjects are crossed (every network is scored on every subject), so draws, with
    trainings inside them, and subjects are resampled independently: the pigeonhole bootstrap (Owen 2007), hierarchical on
    one side. Three draws are too few for a bootstrap alone (simulated coverage falls to 0.78 where draws matter most), so the
    interval is widened to Student's t with Satterthwaite's degrees of freedom where that is wider. Subjects scored nan are
    left out. For a paired comparison pass the differences. With one draw only trainings and subjects are resampled, and nothing
    is said about which labels were drawn; with one subject the interval is nan. No end lies outside `bounds`, the values
    there can be.
    """
    from scipy.stats import t

    values = np.asarray(values, dtype=np.float64)
    values = values.reshape(len(values), -1, values.shape[-1])  # (draws, seeds, subjects)
    values = values[:, :, np.isfinite(values).all(axis=(0, 1))]
    draws, seeds, subjects = values.shape
    if subjects == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    if subjects == 1:
        return Interval(float(values.mean()), float("nan"), float("nan"))
    means = resampled(values, seed, resamples)
    low, high = np.quantile(means, [0.025, 0.975])
    each = values.mean(axis=2)
    each = each.mean(axis=1) if draws > 1 else each[0]  # a draw's mean holds what its trainings differ by
    mean, by_row, by_subject = values.mean(), _variance(each), _variance(values.mean(axis=(0, 1)))
    if by_row + by_subject > 0:
        freedom = (by_row + by_subject) ** 2 / (by_row**2 / max(1, len(each) - 1) + by_subject**2 / (subjects - 1))
        reach = t.ppf(0.975, freedom) * np.sqrt(by_row + by_subject)
        low, high = max(bounds[0], min(low, mean - reach)), min(bounds[1], max(high, mean + reach))
    return Interval(float(mean), float(low), float(high))


def resampled(
    values: Float[np.ndarray, "draws seeds subjects"], seed: int, resamples: int, *key: int | str
) -> Float[np.ndarray, " resamples"]:
    """Means of bootstrap studies; the same seed, key and shape give the same studies, so curves can be resampled in pairs."""
    draws, seeds, subjects = values.shape
    rng = numpy_stream(seed, "bootstrap", *key)
    rows = rng.multinomial(draws, np.full(draws, 1 / draws), size=resamples)
    within = rows[..., None].astype(float)
    if seeds > 1:  # as often as its draw was taken, trainings of it are taken anew
        within = rng.multinomial(rows * seeds, np.full(seeds, 1 / seeds)) / seeds
    columns = rng.multinomial(subjects, np.full(subjects, 1 / subjects), size=resamples) / subjects
    flat = values.reshape(draws * seeds, subjects)
    return ((within.reshape(resamples, -1) / draws) @ flat * columns).sum(axis=1)


def _variance(means: Float[np.ndarray, " n"]) -> float:
    """Of the mean of these means; nothing is known from one."""
    return float(means.var(ddof=1) / len(means)) if len(means) > 1 else 0.0
