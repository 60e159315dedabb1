"""A scan in a few kilobytes, by which copies of it are found whatever was done to its size, intensities or direction."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from headwater.streams import numpy_stream

GRID = {2: 32, 3: 16}  # cells along each axis: 2 kB for a picture, 8 kB for a volume
ORDER = 8  # periods across the scan below which a frequency counts
NEAR = 0.26  # distance between spectra beyond which nobody looks; the copies of all planted kinds are nearer
_LEAF, _TREES = 48, 12
_PER_CELL = 4  # planes read for each cell along the slowest axis: enough for its mean


def fingerprint(array: np.ndarray) -> np.ndarray:
    """Standardised thumbnail float16 (g,)*d of a scan (C, *S) with 2 or 3 axes; all zero for a blank one.

    The field of view is cut into g cells along each axis, whatever the number of voxels, and every cell holds its mean:
    another size, an affine change of intensity or another integer type leave it as it is. Mean 0 and spread 1 under
    `taper`, so that what enters or leaves at the border counts little. Channels are standardised, then averaged.
    Non-finite voxels count as 0. Raises ValueError for another number of axes or an empty array.
    """
    d = array.ndim - 1
    if d not in GRID or array.size == 0:
        raise ValueError(f"a fingerprint is of 1 + 2 or 1 + 3 axes with voxels in them, not of shape {array.shape}")
    return np.clip(_joined(array, (GRID[d],) * d), -1000, 1000).astype(np.float16)


def finer(array: np.ndarray) -> np.ndarray:
    """The same with up to three times as many cells, float32: what settles a pair that looks alike as thumbnails."""
    most = 3 * GRID[array.ndim - 1]
    return _joined(array, tuple(min(n, most) for n in array.shape[1:])).astype(np.float32)


def _joined(array: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """The mean of the standardised channels, standardised."""
    whole = np.mean([standard(_cells(channel, cells)) for channel in array], axis=0)
    return standard(whole) if len(array) > 1 else whole


def standard(cells: np.ndarray) -> np.ndarray:
    """Mean 0 and spread 1 under the taper; 0 where there is no spread beyond rounding."""
    cells = cells.astype(np.float64)
    weight = taper(cells.shape)
    off = cells - float((cells * weight).mean())
    spread = float(np.sqrt((off * off * weight).mean()))
    return off / spread if spread > 1e-6 * float(np.abs(cells).max()) else np.zeros_like(cells)


def spectra(prints: np.ndarray) -> np.ndarray:
    """What flips leave as it is and small shifts nearly: low frequencies (n, m) of fingerprints (n, *g), of unit length.

    Square roots of the power of the tapered thumbnail, averaged over the signs of each frequency.
    """
    axes = tuple(range(1, prints.ndim))
    tapered = prints.astype(np.float32) * taper(prints.shape[1:]).astype(np.float32)
    power = np.abs(np.fft.fftn(tapered, axes=axes)) ** 2
    for axis in axes:
        power = (power + np.roll(np.flip(power, axis), 1, axis)) / 2
    low = power[(slice(None), *[slice(ORDER)] * len(axes))]
    order = np.indices(low.shape[1:]).sum(0)
    low = np.sqrt(low[:, (order > 0) & (order < ORDER)])  # (n, m)
    return low / np.maximum(np.linalg.norm(low, axis=1, keepdims=True), 1e-12)


def neighbours(prints: Sequence[np.ndarray], seed: int, turn: int = 0, count: int = 6) -> np.ndarray:
    """Pairs (m, 2) of indices, the lower first: each scan with the few whose spectra are nearest, none beyond NEAR.

    Found by random projection trees: each halves the scans at the median of one random direction per level until few are
    left, among which all distances are computed; n log n in all. Source: Dasgupta & Freund 2008, with one direction for
    all of a level.
    """
    if len(prints) < 2:
        return np.zeros((0, 2), int)
    points = np.concatenate([spectra(np.stack(prints[i : i + 1024])) for i in range(0, len(prints), 1024)])
    n, levels = len(points), int(np.ceil(np.log2(max(1.0, len(points) / _LEAF))))
    keys, squares = [], []
    for tree in range(_TREES if levels else 1):
        rng = numpy_stream(seed, "duplicates", turn, tree)
        places = points @ rng.standard_normal((points.shape[1], max(1, levels)), np.float32)
        leaves = [np.arange(n)]
        for level in range(levels):
            leaves = [half for leaf in leaves for half in _halves(leaf, places[leaf, level])]
        for leaf in leaves:
            rows, columns, apart = _within(points[leaf], count)
            keys.append(leaf[rows] * n + leaf[columns])
            squares.append(apart)
    key, once = np.unique(np.concatenate(keys), return_index=True)
    square, row = np.concatenate(squares)[once], key // n
    order = np.lexsort((square, row))
    rank = np.arange(len(order)) - np.searchsorted(row[order], row[order])  # 0 for the nearest of each scan
    kept = key[order[rank < count]]
    return np.unique(np.sort(np.stack([kept // n, kept % n], 1), axis=1), axis=0)


def _halves(leaf: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A leaf cut at the median of where its scans lie."""
    order, half = np.argsort(places, kind="stable"), len(leaf) // 2
    return leaf[order[:half]], leaf[order[half:]]


def _within(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and squared distances of each scan of a leaf and its nearest ones there, no farther than NEAR."""
    apart = np.maximum(2 - 2 * (points @ points.T), 0)  # spectra have unit length
    np.fill_diagonal(apart, np.inf)
    count = min(count, len(points) - 1)
    if count < 1:
        return (np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32))
    columns = np.argpartition(apart, count - 1, axis=1)[:, :count].ravel()
    rows = np.repeat(np.arange(len(points)), count)
    kept = apart[rows, columns] < NEAR**2
    return rows[kept], columns[kept], apart[rows[kept], columns[kept]]


@lru_cache(8)
def taper(shape: tuple[int, ...]) -> np.ndarray:
    """Weights of mean 1 that fall to the border of the field of view like a sine."""
    whole = np.ones(shape)
    for axis, n in enumerate(shape):
        whole *= np.sin(np.pi * (np.arange(n) + 0.5) / n).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    whole /= whole.mean()
    whole.flags.writeable = False  # shared by all who ask
    return whole


def _cells(channel: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """Means over so many cells of one channel (*S), read in the order in which it lies in memory."""
    order = sorted(range(channel.ndim), key=lambda axis: -abs(channel.strides[axis]))
    counts = [cells[axis] for axis in order]
    whole = channel.transpose(order)
    planes = _planes(whole.shape[0], counts[0])
    whole = (whole if len(planes) == len(whole) else whole[planes]).astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        means = _shrunk(whole, counts)
    if not np.isfinite(means).all():  # not a number, infinite, or sums too large for float32
        whole = np.where(np.isfinite(whole), whole, np.float32(0))
        means = _shrunk(whole / max(np.abs(whole).max(), np.float32(1)), counts)
    return means.transpose(np.argsort(order))


def _shrunk(whole: np.ndarray, counts: list[int]) -> np.ndarray:
    """Area means: the slowest axis first, as one product of matrices that touches every voxel once."""
    means = (_areas(len(whole), counts[0]) @ whole.reshape(len(whole), -1)).reshape(counts[0], *whole.shape[1:])
    for axis in range(1, means.ndim - 1):
        means = np.matmul(_areas(means.shape[axis], counts[axis]), means)
    return means @ _areas(means.shape[-1], counts[-1]).T


@lru_cache(256)
def _planes(n: int, g: int) -> np.ndarray:
    """Which of n planes to read: all, or evenly spaced ones that are the same seen from either end."""
    most = _PER_CELL * g
    if n <= most:
        return np.arange(n)
    half = ((np.arange(most // 2) + 0.5) * n / most).astype(int)
    return np.concatenate([half, n - 1 - half[::-1]])


@lru_cache(256)
def _areas(n: int, g: int) -> np.ndarray:
    """Weights (g, n) by which n voxels are averaged into g cells of equal width."""
    edges = np.linspace(0, n, g + 1)
    low = np.maximum(edges[:-1, None], np.arange(n))
    share = np.clip(np.minimum(edges[1:, None], np.arange(n) + 1) - low, 0, None)
    return (share / share.sum(1, keepdims=True)).astype(np.float32)
