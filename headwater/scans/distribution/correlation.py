"""How far structure reaches: the distance, in mm, over which voxels stay alike.

Descriptive: no study is known in which it predicts the better network.
"""

from dataclasses import dataclass

import numpy as np

from headwater.scans.distribution.finding import Finding, Null, Plot, Series, absent, beside, short
from headwater.scans.distribution.patches import Sample, lively, normal
from headwater.scans.distribution.intervals import interval, resample, weighted_median
from headwater.scans.distribution.spectral import fine_axes

_BLOCK = {2: 1024, 3: 96}  # voxels per axis of the block looked at, at most
_LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_GRID = 40  # points of a curve


@dataclass(frozen=True, eq=False)
class Decay:
    """Of one scan. lag (mm), correlation: mean over its finely sampled axes; length: where that falls below 1/e.

    length is infinite if it never does, None if no axis has two voxels; shuffled: the same for shuffled voxels.
    voxel: the finest spacing.
    """

    lag: np.ndarray
    correlation: np.ndarray
    length: float | None
    shuffled: float | None
    voxel: float


def of_scan(sample: Sample, rng: np.random.Generator) -> Decay:
    """Autocorrelation of one scan with contrast (C, *S)."""
    array, centre, scale = lively(np.asarray(sample.array), rng)
    spacing = np.array(sample.spacing, dtype=float)
    fine = fine_axes(array.shape[1:], sample.spacing)
    block = normal(_central(array), centre, scale)
    mixed = rng.permuted(block.reshape(len(block), -1), axis=1).reshape(block.shape)
    lag, correlation, length = _decay(block, spacing, fine)
    return Decay(lag, correlation, length, _decay(mixed, spacing, fine)[2], float(spacing[fine].min() if fine else spacing.min()))


def _central(array: np.ndarray) -> np.ndarray:
    """The middle of a large scan."""
    most = _BLOCK[array.ndim - 1]
    starts = [max(0, (n - most) // 2) for n in array.shape[1:]]
    return array[(slice(None), *(slice(s, s + most) for s in starts))]


def autocorrelation(block: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(C, *S) to lags (voxels, 0 first, at most half the axis) and the correlation of voxels so far apart along it."""
    block = block - block.mean(axis=tuple(range(1, block.ndim)), keepdims=True)
    variance = float(np.mean(block**2))
    n = block.shape[axis + 1]
    lags = [k for k in _LAGS if k <= n // 2]
    moved = np.moveaxis(block, axis + 1, -1)
    found = [float(np.mean(moved[..., k:] * moved[..., :-k])) / variance for k in lags]
    return np.array([0, *lags]), np.array([1.0, *found])


def crossing(lag: np.ndarray, correlation: np.ndarray) -> float:
    """First lag at which the correlation is 1/e, between lags on a straight line; infinite if it stays above."""
    below = np.flatnonzero(correlation < np.exp(-1))
    if len(below) == 0:
        return float("inf")
    i = int(below[0])
    share = (correlation[i - 1] - np.exp(-1)) / (correlation[i - 1] - correlation[i])
    return float(lag[i - 1] + share * (lag[i] - lag[i - 1]))


def _decay(block: np.ndarray, spacing: np.ndarray, fine: list[int]) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Lags (mm) and autocorrelation, mean over the fine axes (all, if none is), and where it crosses 1/e."""
    axes = [a for a in (fine or range(len(spacing))) if block.shape[a + 1] >= 2]
    if not axes or block.std() == 0:
        return np.zeros(0), np.zeros(0), None
    curves = [(spacing[a] * lag, r) for a in axes for lag, r in [autocorrelation(block, a)]]
    reach = min(x[-1] for x, _ in curves)
    lag = np.unique(np.concatenate([x[x <= reach] for x, _ in curves]))
    mean = np.mean([np.interp(lag, x, r) for x, r in curves], axis=0)
    return lag, mean, crossing(lag, mean)


def correlation(
    found: list[Decay], unit: np.ndarray, units: int, mm: str, rng: np.random.Generator
) -> tuple[list[Finding], list[Plot]]:
    """Correlation length, median over scans; unit (scans,): whose each is, 0..units-1. mm: what spacing is in.

    Interval: bootstrap over scans. Null: the same scans with their voxels shuffled. A scan cannot show structure much
    longer than a fifth of itself, because its own mean is taken off.
    """
    draws = resample(units, rng)
    name = "correlation length"
    keep = [i for i, s in enumerate(found) if s.length is not None and s.shuffled is not None]
    if not keep:
        return [absent(name, mm, "the middle of the scans has no contrast")], []
    used = [found[i] for i in keep]
    lengths = np.array([s.length for s in used])
    plots = [_plot(used, mm)]
    value, reach, voxel = (float(np.median(v)) for v in (lengths, [s.lag[-1] for s in used], [s.voxel for s in used]))
    if not np.isfinite(value):
        return [absent(name, mm, f"voxels {short(reach)} {mm} apart, the farthest looked at, are still alike (above 1/e)")], plots
    shuffled = np.array([s.shuffled for s in used])
    shuffled = shuffled[np.isfinite(shuffled)]
    null = None
    if len(shuffled):
        low, middle, high = (float(p) for p in np.percentile(shuffled, [2.5, 50, 97.5]))
        null = Null("the same voxels shuffled (up to one voxel)", middle, low, max(high, voxel))
    span = interval(weighted_median(lengths, unit[keep], draws), len(set(unit[keep])))
    side = beside(value, span, null) if null else 0
    numbers = f"correlation falls to 1/e at {short(value)} {mm}"
    if side > 0 and value > reach / 4:
        sentence = f"Structure reaches {short(value)} {mm} at least ({numbers}); too small a part was seen to show much more."
    elif side > 0:
        by_chance = f"shuffled voxels {short(null.value)}, background included"
        sentence = f"Voxels are alike over about {short(value / voxel)} voxels ({numbers}, {by_chance})."
    else:
        sentence = f"A voxel tells little about its neighbour ({numbers}, within one voxel)."
    return [Finding(name, value, mm, sentence, span, None, null)], plots


def _plot(used: list[Decay], mm: str) -> Plot:
    reach = float(np.median([s.lag[-1] for s in used]))
    grid = np.linspace(0, reach, _GRID)
    far = [s for s in used if s.lag[-1] >= reach]
    mean = np.mean([np.interp(grid, s.lag, s.correlation) for s in far], axis=0)
    voxel = float(np.median([s.voxel for s in used]))
    series = (
        Series("scans", tuple(grid.tolist()), tuple(mean.tolist())),
        Series("shuffled voxels", (0.0, voxel, reach), (1.0, 0.0, 0.0)),
        Series("1/e", (0.0, reach), (float(np.exp(-1)),) * 2),
    )
    return Plot("autocorrelation", "How alike voxels are, by distance", mm, "correlation", series)
