"""Are patches Gaussian? Asked along directions that can tell: wavelets, principal axes, neighbour differences.

Projections on random directions cannot: a sum of many values reads Gaussian whatever the values are (central limit
theorem; Diaconis and Freedman 1984). Heavy tails have two sources that one number does not tell apart: sparse structure
(edges among smooth tissue) and contrast that differs between places or scans (a mixture of scales).
"""

import numpy as np

from headwater.scans.distribution.finding import Finding, Null, Plot, Series, absent, beside, short
from headwater.scans.distribution.patches import Patches
from headwater.scans.distribution.intervals import interval, resample, sums

FAMILIES = ("intensity", "wavelet", "principal", "neighbour")
WORDS = {
    "intensity": "single voxels",
    "wavelet": "wavelet details",
    "principal": "leading principal axes of patches",
    "neighbour": "differences of neighbouring voxels",
}
_AXES = 8  # principal directions
_CLONES = 40
_FEWEST = 50  # patches
_GAUSSIAN_L = 0.1226017  # L-kurtosis of the normal distribution (Hosking 1990)


def directions(array: np.ndarray) -> dict[str, np.ndarray]:
    """Coefficients of patches (n, C, *p) along each family of directions: name to (n, m), constant ones left out.

    wavelet: Haar details along each axis at scales 2, 4, 8 (one coefficient per patch, from its centre).
    """
    n, axes = len(array), range(2, array.ndim)
    size = array.shape[2:]
    middle = tuple(p // 2 for p in size)
    found: dict[str, list[np.ndarray]] = {family: [] for family in FAMILIES}
    found["intensity"].append(array[(slice(None), slice(None), *middle)])
    for axis in axes:
        if array.shape[axis] > 1:
            before = [m - (a == axis - 2) for a, m in enumerate(middle)]
            here, there = (array[(slice(None), slice(None), *place)] for place in (middle, before))
            found["neighbour"].append(here - there)
        for scale in (2, 4, 8):
            if scale <= array.shape[axis]:
                found["wavelet"].append(_haar(array, axis, scale))
    flat = array.reshape(n, -1).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    found["principal"].append(flat @ vectors[:, ::-1][:, : min(_AXES, n - 1)])
    whole = {
        family: np.concatenate(parts, axis=1).astype(np.float64) if parts else np.zeros((n, 0)) for family, parts in found.items()
    }
    return {family: c[:, c.std(axis=0) > 1e-6] for family, c in whole.items()}


def _haar(array: np.ndarray, axis: int, scale: int) -> np.ndarray:
    """(n, C): mean of one half of the central cube of that scale less the mean of the other half, along an axis."""
    where = [slice(None)] * array.ndim
    for a in range(2, array.ndim):
        edge = min(scale, array.shape[a])
        start = array.shape[a] // 2 - edge // 2
        where[a] = slice(start, start + edge)
    cube = np.moveaxis(array[tuple(where)], axis, 2)
    cube = cube.reshape(*cube.shape[:3], -1).mean(axis=3, dtype=np.float64)  # (n, C, scale)
    return cube[:, :, scale // 2 :].mean(axis=2) - cube[:, :, : scale // 2].mean(axis=2)


def kurtosis(moments: np.ndarray) -> np.ndarray:
    """Excess kurtosis from (..., 5, m): count and the sums of the first four powers."""
    count, one, two, three, four = np.moveaxis(moments, -2, 0)
    mean = one / count
    two, three, four = two / count, three / count, four / count
    variance = np.maximum(two - mean**2, 1e-300)
    fourth = four - 4 * mean * three + 6 * mean**2 * two - 3 * mean**4
    return fourth / variance**2 - 3


def powers(values: np.ndarray) -> np.ndarray:
    """(n, m) to (n, 5, m): ones and the first four powers of the standardised values."""
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    return np.stack([np.ones_like(values), values, values**2, values**3, values**4], axis=1)


def l_kurtosis(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ratio of the fourth to the second L-moment (Hosking 1990) of values (n,) under weights (..., n); (...,).

    Bounded by -1/4 and 1, so a few outliers do not make it; Gaussian 0.1226, uniform 0, Laplace 0.2357.
    """
    order = np.argsort(values)
    x, w = values[order], weights[..., order]
    total = w.sum(axis=-1)
    rank = (np.cumsum(w, axis=-1) - w / 2) / total[..., None]
    b0, b1, b2, b3 = ((w * rank**r) @ x / total for r in range(4))
    second = 2 * b1 - b0
    return np.asarray((20 * b3 - 30 * b2 + 12 * b1 - b0) / np.where(second > 0, second, 1))


def gaussianity(patches: Patches, rng: np.random.Generator) -> tuple[list[Finding], list[Plot]]:
    """Excess kurtosis of each family (median over its directions), and the L-kurtosis of wavelets.

    Intervals: bootstrap over scans. Null: Gaussian draws of the same covariance and number, through the same estimator.
    """
    names = {family: f"tails of {WORDS[family]}" for family in FAMILIES}
    if len(patches.array) < _FEWEST:
        why = f"{len(patches.array)} patches with contrast are too few ({_FEWEST} are needed)"
        return [absent(names[f], "excess kurtosis", why) for f in FAMILIES] + [
            absent("shape of wavelet details", "L-kurtosis", why)
        ], []
    found = directions(patches.array)
    clones = _clones(found, rng)
    draws = resample(patches.units, rng)
    findings, plots = [], []
    for family in FAMILIES:
        if found[family].shape[1] == 0:
            findings.append(absent(names[family], "excess kurtosis", "patches are one voxel wide"))
            continue
        every = sums(powers(found[family]), patches.unit, patches.units)  # (units, 5, m)
        value = float(np.median(kurtosis(every.sum(axis=0))))
        boot = np.median(kurtosis(np.einsum("bu,ukm->bkm", draws, every)), axis=1)
        null = _range(np.array([np.median(kurtosis(powers(c[family]).sum(axis=0))) for c in clones]))
        span = interval(boot, patches.units)
        sentence = _tails(WORDS[family], value, span, null)
        findings.append(Finding(names[family], value, "excess kurtosis", sentence, span, None, null))
        plots.append(_histogram(family, found[family]))
    findings.append(_robust(found["wavelet"], [c["wavelet"] for c in clones], patches, draws))
    return findings, plots


def _clones(found: dict[str, np.ndarray], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """Gaussian draws of all directions together, of the covariance and number of the real ones."""
    joined = np.concatenate(list(found.values()), axis=1)
    values, vectors = np.linalg.eigh(np.cov(joined, rowvar=False).reshape(joined.shape[1], -1))
    root = vectors * np.sqrt(np.maximum(values, 0))
    ends = np.cumsum([c.shape[1] for c in found.values()])[:-1]
    drawn = (rng.standard_normal(joined.shape) @ root.T for _ in range(_CLONES))
    return [dict(zip(found, np.split(d, ends, axis=1), strict=True)) for d in drawn]


def _range(values: np.ndarray) -> Null:
    low, high = np.percentile(values, [2.5, 97.5])
    return Null("Gaussian draws of the same covariance and number", float(values.mean()), float(low), float(high))


def _tails(what: str, value: float, span: tuple[float, float] | None, null: Null) -> str:
    """One sentence on the kurtosis of a family."""
    What = what[0].upper() + what[1:]
    numbers = f"excess kurtosis {short(value)}, Gaussian {short(null.low)} to {short(null.high)}"
    side = beside(value, span, null)
    if side > 0:
        return (
            f"{What} have heavier tails than a Gaussian ({numbers}): rare strong structure, or contrast that differs "
            "between places or scans, which mean and covariance do not describe."
        )
    if side < 0:
        return f"{What} have lighter tails than a Gaussian ({numbers}): values keep within bounds or fall into groups."
    return f"{What} cannot be told from a Gaussian by their tails ({numbers})."


def _robust(real: np.ndarray, clones: list[np.ndarray], patches: Patches, draws: np.ndarray) -> Finding:
    """L-kurtosis of wavelet details: the same question where single outliers do not count."""
    name, unit = "shape of wavelet details", "L-kurtosis"
    if real.shape[1] == 0:
        return absent(name, unit, "patches are one voxel wide")
    ones = np.ones(len(real))
    value = float(np.median([l_kurtosis(c, ones) for c in real.T]))
    null = _range(np.array([np.median([l_kurtosis(c, ones) for c in clone.T]) for clone in clones]))
    weights = draws[:150][:, patches.unit]
    span = interval(np.median([l_kurtosis(c, weights) for c in real.T], axis=0), patches.units)
    side = beside(value, span, null)
    numbers = f"L-kurtosis {short(value)}, Gaussian {short(_GAUSSIAN_L)}"
    if side > 0:
        sentence = f"The bulk of wavelet details, not only outliers, is more peaked than a Gaussian ({numbers})."
    elif side < 0:
        sentence = f"The bulk of wavelet details is flatter than a Gaussian ({numbers})."
    else:
        sentence = f"The bulk of wavelet details cannot be told from a Gaussian ({numbers})."
    return Finding(name, value, unit, sentence, span, None, null)


def _histogram(family: str, values: np.ndarray) -> Plot:
    """Standardised coefficients of a family beside the Gaussian."""
    values = ((values - values.mean(axis=0)) / values.std(axis=0)).ravel()
    edges = np.linspace(-6, 6, 49)
    middle = (edges[:-1] + edges[1:]) / 2
    count = np.histogram(np.clip(values, -6, 6), edges)[0]  # what lies beyond is in the outermost bars
    density = count / (len(values) * np.diff(edges))
    gauss = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    some = density > 0
    series = (
        Series("scans", tuple(middle[some].tolist()), tuple(density[some].tolist()), "points"),
        Series("Gaussian", tuple(middle.tolist()), tuple(gauss.tolist())),
    )
    return Plot(f"histogram {family}", f"Values of {WORDS[family]}", "standard deviations", "density", series, log_y=True)
