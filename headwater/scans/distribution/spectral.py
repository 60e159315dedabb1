"""How contrast is spread over scales: the slope of the power spectrum, in cycles per mm.

Descriptive: no study is known in which it predicts the better network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.scans.distribution.finding import Finding, Null, Plot, Series, absent, beside, short
from headwater.scans.distribution.patches import Sample, lively, normal
from headwater.scans.distribution.intervals import interval, resample, weighted_mean

_WINDOW = {2: 256, 3: 48}  # voxels per axis of a window, at most
FEWEST = 16  # voxels an axis needs for a spectrum
_THICK = 2.5  # an axis this much coarser than the finest is a stack of slices
_SLICES = 8
_GRID = 40  # points of a curve


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Of one scan. frequency (cycles per mm), power: averaged over shells; slope: of the log spectrum.

    white: the same after shuffling the voxels, several times. band: lowest and highest frequency fitted. axes: how many
    it is taken over. slope is None where the scan is too small.
    """

    frequency: np.ndarray
    power: np.ndarray
    slope: float | None
    white: tuple[float, ...]
    band: tuple[float, float]
    axes: int


def fine_axes(shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Axes long enough for a spectrum whose voxels are not much coarser than the finest; the others are stacks of slices."""
    long = [a for a, n in enumerate(shape) if n >= FEWEST]
    finest = min((spacing[a] for a in long), default=0.0)
    return [a for a in long if spacing[a] <= _THICK * finest]


def of_scan(sample: Sample, rng: np.random.Generator, shuffles: int = 1) -> Spectrum:
    """Spectrum of one scan with contrast (C, *S)."""
    array, centre, scale = lively(np.asarray(sample.array), rng)
    fine = fine_axes(array.shape[1:], sample.spacing)
    if len(fine) < 2:
        return Spectrum(np.zeros(0), np.zeros(0), None, (), (0.0, 0.0), len(fine))
    windows = _windows(array, centre, scale, fine, rng)
    step = tuple(float(sample.spacing[a]) for a in fine)
    frequency, power = radial(windows, step)
    slope, band = slope_of(frequency, power, windows.shape[1:], step)
    flat = windows.reshape(len(windows), -1)
    mixed = (rng.permuted(flat, axis=1).reshape(windows.shape) for _ in range(shuffles if slope is not None else 0))
    white = tuple(slope_of(*radial(m, step), windows.shape[1:], step)[0] for m in mixed)
    return Spectrum(frequency, power, slope, white, band, len(fine))


def _windows(array: np.ndarray, centre: np.ndarray, scale: np.ndarray, fine: list[int], rng: np.random.Generator) -> np.ndarray:
    """(w, *fine axes): up to four windows of every channel, thick axes as separate slices; constant ones left out."""
    size = np.array(array.shape[1:])
    edge = size.copy()
    edge[fine] = np.minimum(size[fine], _WINDOW[3 if len(fine) == 3 else 2])
    coarse = [a for a in range(len(size)) if a not in fine]
    found: list[np.ndarray] = []
    for _ in range(int(np.clip(size.prod() // edge.prod(), 1, 4))):
        start = rng.integers(0, size - edge + 1)
        block = array[(slice(None), *(slice(int(s), int(s + e)) for s, e in zip(start, edge, strict=True)))]
        stack = np.moveaxis(normal(block, centre, scale), [1 + a for a in coarse], range(1, 1 + len(coarse)))
        stack = stack.reshape(-1, *edge[fine])
        some = np.unique(np.linspace(0, len(stack) - 1, _SLICES).round().astype(int)) if coarse else slice(None)
        found += list(stack[some])
    windows = np.stack(found)
    varied = windows.reshape(len(windows), -1).std(axis=1) > 1e-3
    return windows[varied] if varied.any() else windows


def radial(windows: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(w, *S) to frequency (cycles per mm) and power, averaged over windows and over shells of equal frequency.

    Each window is tapered (Hann) after its tapered mean is taken off. A shell is as wide as the coarsest axis resolves;
    shells reach to the lowest of the axes' Nyquist frequencies, so that every one is whole.
    """
    shape = windows.shape[1:]
    taper = np.ones(shape)
    for a, n in enumerate(shape):
        hann = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
        taper = taper * hann.reshape([-1 if b == a else 1 for b in range(len(shape))])
    axes = tuple(range(1, windows.ndim))
    mean = (windows * taper).sum(axis=axes, keepdims=True) / taper.sum()
    power = np.mean(np.abs(np.fft.rfftn((windows - mean) * taper, axes=axes)) ** 2, axis=0)
    every = [np.fft.fftfreq(n, s) for n, s in zip(shape[:-1], spacing[:-1], strict=True)]
    every.append(np.fft.rfftfreq(shape[-1], spacing[-1]))
    radius = np.sqrt(sum(g**2 for g in np.meshgrid(*every, indexing="ij")))
    width = max(1 / (n * s) for n, s in zip(shape, spacing, strict=True))
    shell = np.floor(radius / width + 0.5).astype(int)
    last = int(min(0.5 / s for s in spacing) / width)
    times = np.full(power.shape, 2.0)  # rfft holds half of the plane
    times[..., 0] = 1
    if shape[-1] % 2 == 0:
        times[..., -1] = 1
    count, total, where = (
        np.bincount(shell.ravel(), weights=w.ravel(), minlength=last + 1)[1 : last + 1]
        for w in (times, times * power, times * radius)
    )
    some = count > 0
    return where[some] / count[some], total[some] / count[some]


def slope_of(
    frequency: np.ndarray, power: np.ndarray, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> tuple[float | None, tuple[float, float]]:
    """Slope of log power against log frequency and the band fitted; slope None if that is too narrow.

    The band begins at three cycles per window (below, the taper smears) and ends at 0.7 of the lowest Nyquist frequency;
    points are weighted by 1/frequency, so that each octave counts the same. Slopes steeper than -3 read too steep, as the
    taper smears: -4 reads -4.1 in windows of 256 pixels, -4.2 in 64, -4.4 in 28.
    """
    low = 2.9 * max(1 / (n * s) for n, s in zip(shape, spacing, strict=True))
    high = 0.7 * min(0.5 / s for s in spacing)
    some = (frequency >= low) & (frequency <= high) & (power > 0)
    if some.sum() < 4:
        return None, (low, high)
    x, y, w = np.log(frequency[some]), np.log(power[some]), 1 / frequency[some]
    x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
    slope = float((w * x * y).sum() / (w * x * x).sum())
    return slope, (float(frequency[some].min()), float(frequency[some].max()))


def spectrum(
    found: list[Spectrum], unit: np.ndarray, units: int, mm: str, rng: np.random.Generator
) -> tuple[list[Finding], list[Plot]]:
    """Slope of the power spectrum, mean over scans; unit (scans,): whose each is, 0..units-1. mm: what spacing is in.

    Interval: bootstrap over scans. Null: the same windows with their voxels shuffled, through the same estimator.
    """
    draws = resample(units, rng)
    name, of = "slope of the power spectrum", f"log power per log cycles per {mm.removesuffix('s')}"
    keep = [i for i, s in enumerate(found) if s.slope is not None]
    if not keep:
        return [absent(name, of, f"it needs two axes of {FEWEST} voxels and more that are sampled alike")], []
    used = [found[i] for i in keep]
    value = float(np.mean([s.slope for s in used]))
    span = interval(weighted_mean(np.array([s.slope for s in used]), unit[keep], draws), len(set(unit[keep])))
    white = np.array([w for s in used for w in s.white])
    half = 2 * float(white.std(ddof=1) / np.sqrt(len(used))) if len(white) > 1 else 0.0
    middle = float(white.mean())
    null = Null("the same voxels shuffled (white noise)", middle, middle - half, middle + half)
    low, high = (float(np.median([s.band[i] for s in used])) for i in (0, 1))
    where = f"between {short(low)} and {short(high)} cycles per {mm.removesuffix('s')}"
    side = beside(value, span, null)
    grid, mean = _mean(used)
    inner = (grid >= low) & (grid <= high)
    straight = inner.sum() < 4 or np.corrcoef(np.log(grid[inner]), mean[inner])[0, 1] ** 2 > 0.98
    poor = "" if straight else "; it is no straight line, so read the plot and not the number"
    numbers = f"slope {short(value)} {where}, shuffled voxels {short(null.value)}"
    if side < 0:
        edges = -1 - int(np.median([s.axes for s in used]))  # Porod's law
        sentence = f"Coarse structure carries more power than fine structure ({numbers}, sharp borders alone {edges}){poor}."
    elif side > 0:
        sentence = f"Fine structure carries more power than coarse structure ({numbers}), as after sharpening{poor}."
    else:
        sentence = f"Power is spread over scales as in white noise ({numbers})."
    return [Finding(name, value, of, sentence, span, None, null)], [_plot(grid, mean, value, (low, high), mm)]


def _mean(used: list[Spectrum]) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies that all scans have and the mean of their log power there."""
    low, high = max(s.frequency[0] for s in used), min(s.frequency[-1] for s in used)
    if low >= high:  # spacings differ too much for a mean: the scan in the middle stands for all
        used = [sorted(used, key=lambda s: s.slope or 0)[len(used) // 2]]
        low, high = used[0].frequency[0], used[0].frequency[-1]
    grid = np.geomspace(low, high, _GRID)
    tiny = np.finfo(float).tiny
    logs = [np.interp(np.log(grid), np.log(s.frequency), np.log(np.maximum(s.power, tiny))) for s in used]
    return grid, np.mean([y - y.mean() for y in logs], axis=0)


def _plot(grid: np.ndarray, mean: np.ndarray, slope: float, band: tuple[float, float], mm: str) -> Plot:
    """Radial power, the line fitted and white noise."""
    ends = np.array(band)
    inner = (grid >= band[0]) & (grid <= band[1])
    inner = inner if inner.any() else np.ones(len(grid), bool)
    line = np.exp(np.mean(mean[inner] - slope * np.log(grid[inner])) + slope * np.log(ends))
    series = (
        Series("scans", tuple(grid.tolist()), tuple(np.exp(mean).tolist())),
        Series("fitted line", tuple(ends.tolist()), tuple(line.tolist())),
        Series("white noise", tuple(ends.tolist()), (float(line.mean()),) * 2),
    )
    one = mm.removesuffix("s")
    return Plot("spectrum", "Power against spatial frequency", f"cycles per {one}", "power, mean over scans", series, True, True)
