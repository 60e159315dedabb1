"""How many numbers a patch really has: intrinsic dimension by two nearest neighbours (Facco et al. 2017)."""

from dataclasses import dataclass

import numpy as np

from headwater.scans.distribution.finding import Finding, Null, Plot, Series, absent, beside, short
from headwater.scans.distribution.patches import Patches
from headwater.scans.distribution.intervals import spread

DISCARD = 0.1  # the largest ratios, where density is not constant any more
_POINTS = 1200
_FEWEST = 40
_CLONES = 5


@dataclass(frozen=True, eq=False)
class TwoNN:
    """An estimate. dimension: slope of the fitted line; likelihood: the same by maximum likelihood; error: its standard error.

    log_ratio: log(r2 / r1), rising, the largest tenth left out. exceeded: -log(1 - F) at each. points: without duplicates.
    """

    dimension: float
    likelihood: float
    error: float
    log_ratio: np.ndarray
    exceeded: np.ndarray
    points: int
    duplicates: int


def two_nn(points: np.ndarray) -> TwoNN | None:
    """Dimension of points (n, d) from the ratio of the distances to the second and to the first neighbour.

    The ratio is Pareto with the dimension as its exponent, whatever the density, as long as that is constant over two
    neighbours. Line through the origin over the smallest 90 %; likelihood of a censored exponential, error d / sqrt(kept).
    Exact copies count once. None with fewer than 10 distinct points, or if no ratio exceeds 1.
    The error holds for independent points; at a given n high dimensions read too low,
    by how much a Gaussian of the same n shows.
    """
    whole = len(points)
    points = np.unique(np.asarray(points, dtype=np.float64), axis=0)
    if len(points) < 10:
        return None
    first, second = _two_nearest(points)
    some = first > 0
    ratio = np.sort(np.log(second[some] / first[some]))
    count = len(ratio)
    keep = int(count * (1 - DISCARD))
    if keep < 5 or ratio[keep - 1] <= 0:
        return None
    kept = ratio[:keep]
    exceeded = -np.log1p(-np.arange(1, keep + 1) / count)
    line = float(kept @ exceeded / (kept @ kept))
    likelihood = float((keep - 1) / (kept.sum() + (count - keep) * kept[-1]))
    return TwoNN(line, likelihood, likelihood / float(np.sqrt(keep)), kept, exceeded, len(points), whole - len(points))


def _two_nearest(points: np.ndarray, chunk: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n,) to the nearest and second nearest other point: candidates by dot products, then exactly."""
    points = points - points.mean(axis=0)
    square = (points**2).sum(axis=1)
    found = []
    for i in range(0, len(points), chunk):
        part = points[i : i + chunk]
        distance = square - 2 * part @ points.T
        distance[np.arange(len(part)), i + np.arange(len(part))] = np.inf
        near = np.argpartition(distance, 3, axis=1)[:, :4]  # two spare: dot products round
        exact = np.sqrt(((points[near] - part[:, None]) ** 2).sum(axis=2))
        found.append(np.sort(exact, axis=1)[:, :2])
    first, second = np.concatenate(found).T
    return first, second


def dimension(patches: Patches, rng: np.random.Generator) -> tuple[list[Finding], list[Plot]]:
    """Intrinsic dimension of the patches, with its error, at n, n/2 and n/4, beside Gaussian clones of equal covariance and n."""
    name, unit = "intrinsic dimension", "dimensions"
    flat = patches.flat
    if len(flat) < _FEWEST:
        return [absent(name, unit, f"{len(flat)} patches with contrast are too few ({_FEWEST} are needed)")], []
    points = flat[np.sort(rng.permutation(len(flat))[:_POINTS])]
    real = two_nn(points)
    if real is None or real.points < _FEWEST:
        left = 0 if real is None else real.points
        return [absent(name, unit, f"of {len(points)} patches too few are distinct ({left})" if left else "patches repeat")], []
    points = np.unique(points, axis=0)
    clones = [c for c in (two_nn(_clone(points, rng)) for _ in range(_CLONES)) if c is not None]
    null = Null("Gaussian draws of the same covariance and number", *spread(np.array([c.dimension for c in clones])))
    at = {share: _part(points, share, rng) for share in (1, 2, 4)}
    value, width = real.dimension, points.shape[1]
    interval = (max(0.0, value - 1.96 * real.error), value + 1.96 * real.error)
    sentence = _sentence(value, real, null, at, interval, width)
    return [Finding(name, value, unit, sentence, interval, real.error, null)], [
        _plot(real, clones[0], null.value),
        _scale_plot(at, len(points), real),
    ]


def _clone(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian points (n, d) of the same mean and covariance: random mixtures of the centred ones."""
    n, d = points.shape
    mean = points.mean(axis=0)
    centred = (points - mean) / np.sqrt(n - 1)
    if n <= d:
        return mean + rng.standard_normal((n, n)) @ centred
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return mean + rng.standard_normal((n, d)) @ (vectors * np.sqrt(np.maximum(values, 0))).T


def _part(points: np.ndarray, share: int, rng: np.random.Generator) -> tuple[float, float] | None:
    """Mean and standard deviation of the dimension over `share` disjoint parts of the points."""
    order = rng.permutation(len(points))
    found = [t.dimension for t in (two_nn(points[part]) for part in np.array_split(order, share)) if t is not None]
    return (float(np.mean(found)), float(np.std(found))) if found else None


def _sentence(
    value: float, real: TwoNN, null: Null, at: dict[int, tuple[float, float] | None], interval: tuple[float, float], width: int
) -> str:
    quarter = at[4]
    moves = quarter is not None and abs(quarter[0] - value) > max(2 * real.error, 0.1 * value)
    scale = f", {short(quarter[0])} with a quarter of them, so it depends on scale" if quarter and moves else ""
    copies = f", {real.duplicates} exact copies aside" if real.duplicates else ""
    miss = real.exceeded - real.dimension * real.log_ratio
    mixed = ", the line fits badly as for patches of several kinds" if miss.var() > 0.03 * real.exceeded.var() else ""
    numbers = f"{short(value)} ± {short(1.96 * real.error)} of {width}{copies}{scale}{mixed}"
    side = beside(value, interval, null)
    equal = f"Gaussian patches of equal covariance read {short(null.value)} at this number"
    if side < 0:
        return f"Patches vary in about {short(value)} ways ({numbers}), fewer than their covariance alone explains ({equal})."
    if side > 0:
        return f"Patches vary in about {short(value)} ways ({numbers}), more than their covariance alone shows ({equal})."
    return f"Patches vary in about {short(value)} ways ({numbers}), no fewer than their covariance alone explains ({equal})."


def _plot(real: TwoNN, clone: TwoNN, expected: float) -> Plot:
    """-log(1 - F) against log(r2 / r1), whose slope is the dimension."""
    some = np.unique(np.linspace(0, len(real.log_ratio) - 1, 80).round().astype(int))
    other = np.unique(np.linspace(0, len(clone.log_ratio) - 1, 80).round().astype(int))
    end = float(real.log_ratio[-1])
    series = (
        Series("patches", tuple(real.log_ratio[some].tolist()), tuple(real.exceeded[some].tolist()), "points"),
        Series(f"line of slope {short(real.dimension)}", (0.0, end), (0.0, end * real.dimension)),
        Series("Gaussian", tuple(clone.log_ratio[other].tolist()), tuple(clone.exceeded[other].tolist())),
    )
    return Plot("neighbours", "Two nearest neighbours", "log of second over first distance", "-log of share above", series)


def _scale_plot(at: dict[int, tuple[float, float] | None], count: int, real: TwoNN) -> Plot:
    """The dimension at n, n/2 and n/4, with its standard error at n and the spread over parts below."""
    rows = [(count // share, *found) for share, found in sorted(at.items(), reverse=True) if found is not None]
    rows = [(n, mean, max(deviation, real.error * np.sqrt(count / n))) for n, mean, deviation in rows]
    x, y, half = (tuple(float(v) for v in column) for column in zip(*rows, strict=True))
    low, high = (tuple(m + sign * 1.96 * h for m, h in zip(y, half, strict=True)) for sign in (-1, 1))
    series = (Series("patches", x, y, "points", low, high),)
    return Plot("dimension by number", "Dimension by number of patches", "patches", "dimension", series, log_x=True)
