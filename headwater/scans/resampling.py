"""Turn, crop and resample a scan, and the way back: pure functions of arrays; the geometry between is a value."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Integer, Shaped

MARGIN = 4  # voxels kept around what is not background
WORTH = 0.1  # share of the voxels that a crop must save
SAME = 0.01  # spacings that differ by less are one spacing
_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_REACH = {"lanczos": 3.0, "linear": 1.0}  # how far a kernel looks, in voxels of the coarser grid

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Geometry:
    """How a prepared grid lies in the grid of its file: turned, then cropped, then resampled. All in array order.

    shape: of the file. axes, flips: axis a of the turned grid is axis axes[a] of the file, backwards where flips[a].
    box: (start, stop) per turned axis. step: turned voxels per prepared voxel, 1 where nothing is resampled.
    size: of the prepared grid, whose centre is the centre of the box.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    box: Box
    step: tuple[float, ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, value: dict) -> "Geometry":
        """From JSON."""
        return cls(**{k: tuple(tuple(x) if isinstance(x, list) else x for x in v) for k, v in value.items()})

    def plain(self) -> dict:
        """For JSON."""
        return asdict(self)

    @property
    def first(self) -> tuple[float, ...]:
        """Where the first prepared voxel lies in the box, in turned voxels."""
        inside = [stop - start for start, stop in self.box]
        return tuple(((n - 1) - (m - 1) * s) / 2 for n, m, s in zip(inside, self.size, self.step, strict=True))

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """From indices of the prepared grid to indices of the file; file affine @ matrix is the prepared affine."""
        matrix = np.eye(4)
        for a, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            start = self.box[a][0] + self.first[a]
            matrix[axis] = 0
            matrix[axis, a] = -self.step[a] if flip else self.step[a]
            matrix[axis, 3] = self.shape[axis] - 1 - start if flip else start
        return matrix


def direction(orientation: str, target: str) -> tuple[tuple[int, ...], tuple[bool, ...]] | None:
    """Axes and flips that bring an orientation such as "LPS" to another; None if either is unknown or they span other planes."""
    ways = [[_LETTERS.get(letter) for letter in name] for name in (orientation, target)]
    if not orientation or None in ways[0] + ways[1] or sorted(a for a, _ in ways[0]) != sorted(a for a, _ in ways[1]):
        return None
    found = [next((i, s) for i, (a, s) in enumerate(ways[0]) if a == axis) for axis, _ in ways[1]]
    return tuple(i for i, _ in found), tuple(s != sign for (_, s), (_, sign) in zip(found, ways[1], strict=True))


def turn(array: Shaped[np.ndarray, "..."], axes: tuple[int, ...], flips: tuple[bool, ...]) -> Shaped[np.ndarray, "..."]:
    """The last axes of an array permuted, then flipped; a view."""
    lead = array.ndim - len(axes)
    array = array.transpose(*range(lead), *(lead + axis for axis in axes))
    return array[(..., *(slice(None, None, -1 if flip else 1) for flip in flips))]


def content_box(image: Shaped[np.ndarray, "C *S"], mask: Integer[np.ndarray, "*S"] | None = None) -> Box:
    """The box around everything that is not background, MARGIN voxels wider, or all if that saves less than WORTH.

    Background are voxels that have, in every channel, the value of all corners of that channel and no structure in the
    mask; with a channel whose corners differ there is none. What is cut off is therefore one value per channel.
    """
    shape = image.shape[1:]
    whole = tuple((0, n) for n in shape)
    filled = np.zeros(shape, bool) if mask is None else mask != 0
    for channel in image:
        corners = channel[np.ix_(*[[0, n - 1] for n in shape])]
        if (corners != corners.flat[0]).any():
            return whole
        filled |= channel != corners.flat[0]
    box = []
    for axis, n in enumerate(shape):
        at = np.flatnonzero(filled.any(axis=tuple(i for i in range(len(shape)) if i != axis)))
        if not len(at):
            return whole
        box.append((max(0, int(at[0]) - MARGIN), min(n, int(at[-1]) + 1 + MARGIN)))
    kept = math.prod(stop - start for start, stop in box) / math.prod(shape)
    return tuple(box) if kept < 1 - WORTH else whole


def steps(spacing: tuple[float, ...], target: tuple[float, ...]) -> tuple[float, ...]:
    """Old voxels per new voxel along each axis; 1 where the spacing is within SAME of the target."""
    return tuple(1.0 if abs(s / t - 1) <= SAME else t / s for s, t in zip(spacing, target, strict=True))


def sizes(shape: tuple[int, ...], step: tuple[float, ...]) -> tuple[int, ...]:
    """Voxels along each axis after resampling."""
    return tuple(max(1, round(n / s)) for n, s in zip(shape, step, strict=True))


def forth(image: Shaped[np.ndarray, "C *S"], geometry: Geometry) -> Float[np.ndarray, "C *T"]:
    """Values of the file's grid on the prepared grid, float32 if resampled; Lanczos, one channel after the other."""
    return _values(_boxed(image, geometry), geometry.size, geometry.first, geometry.step, "lanczos")


def forth_classes(mask: Integer[np.ndarray, "*S"], geometry: Geometry) -> Integer[np.ndarray, "*T"]:
    """Classes of the file's grid on the prepared grid: at each voxel the one with the largest share of it."""
    return _classes(_boxed(mask, geometry), geometry.size, geometry.first, geometry.step)


def back(array: Shaped[np.ndarray, "..."], geometry: Geometry, fill: float | tuple[float, ...] = 0) -> Shaped[np.ndarray, "..."]:
    """A prepared array on the grid of its file.

    Args:    array: classes (*T), whole numbers up to 65535, or values such as probabilities (C, *T), floating.
             fill: what lies outside the crop; one number, or one per channel ((1, 0, 0) for probabilities of three classes).
    Returns: (*S) or (C, *S); the exact inverse of turn and crop; resampled linearly, so probabilities still sum to 1.
    """
    inside = tuple(stop - start for start, stop in geometry.box)
    first = tuple(-f / s for f, s in zip(geometry.first, geometry.step, strict=True))
    step = tuple(1 / s for s in geometry.step)
    classes = array.ndim == len(inside)
    array = _classes(array, inside, first, step) if classes else _values(array, inside, first, step, "linear")
    turned = tuple(geometry.shape[axis] for axis in geometry.axes)
    values = np.asarray(fill, dtype=array.dtype).reshape(-1, *[1] * len(inside))
    out = np.empty(array.shape[: array.ndim - len(inside)] + turned, array.dtype)
    out[...] = values[0] if classes else values
    out[(..., *(slice(*span) for span in geometry.box))] = array
    lead, order = out.ndim - len(inside), np.argsort(geometry.axes)
    flipped = out[(..., *(slice(None, None, -1 if flip else 1) for flip in geometry.flips))]
    return np.ascontiguousarray(flipped.transpose(*range(lead), *(lead + int(a) for a in order)))


def _boxed(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Turned and cropped, a view."""
    return turn(array, geometry.axes, geometry.flips)[(..., *(slice(*span) for span in geometry.box))]


def weights(n: int, size: int, first: float, step: float, kernel: str) -> "scipy.sparse.csr_array":  # noqa: F821
    """(size, n): rows that take `size` samples at first, first + step, ... of a line of n voxels.

    The kernel is widened by the step where that is above 1, so what the new grid cannot hold is averaged out before it is
    sampled. Every row sums to 1 and has its centre where the sample lies, so constants and ramps stay what they are;
    beyond its ends the line goes on with its last value.
    """
    from scipy.sparse import csr_array

    wide, reach = max(1.0, step), _REACH[kernel]
    at = first + step * np.arange(size)
    half = math.ceil(reach * wide)
    index = np.floor(at).astype(int)[:, None] + np.arange(-half, half + 2)  # (size, taps)
    off = index - at[:, None]
    x = np.abs(off) / wide
    share = np.where(x < reach, np.sinc(x) * np.sinc(x / reach) if kernel == "lanczos" else 1 - x, 0)
    share /= share.sum(1, keepdims=True)
    tent = np.clip(1 - x / 2, 0, None)
    tent /= tent.sum(1, keepdims=True)
    centre = (tent * off).sum(1, keepdims=True)
    spread = (tent * off**2).sum(1, keepdims=True) - centre**2
    share -= tent * (off - centre) / spread * (share * off).sum(1, keepdims=True)
    inside = np.clip(index, 0, n - 1).ravel()
    rows = np.repeat(np.arange(size), index.shape[1])
    table = csr_array((share.ravel().astype(np.float32), (rows, inside)), shape=(size, n))
    table.eliminate_zeros()
    return table


def _along(array: np.ndarray, table: "scipy.sparse.csr_array", axis: int) -> np.ndarray:  # noqa: F821
    """A table applied along one axis; float32."""
    moved = np.ascontiguousarray(np.moveaxis(array, axis, 0), dtype=np.float32)
    out = table @ moved.reshape(len(moved), -1)
    return np.moveaxis(out.reshape(len(out), *moved.shape[1:]), 0, axis)


def _values(
    array: np.ndarray, size: tuple[int, ...], first: tuple[float, ...], step: tuple[float, ...], kernel: str
) -> np.ndarray:
    """(C, *S) to (C, *size), axis by axis, the coarsest first for it leaves least."""
    todo = sorted((axis for axis in range(len(step)) if step[axis] != 1), key=lambda axis: -step[axis])
    if not todo:
        return np.ascontiguousarray(array)
    tables = {axis: weights(array.shape[1 + axis], size[axis], first[axis], step[axis], kernel) for axis in todo}
    out = np.empty((len(array), *size), np.float32)
    for channel, result in zip(array, out, strict=True):
        for axis in todo:
            channel = _along(channel, tables[axis], axis)
        result[...] = channel
    return out


def _classes(array: np.ndarray, size: tuple[int, ...], first: tuple[float, ...], step: tuple[float, ...]) -> np.ndarray:
    """(*S), 0 to 65535, to (*size): the share of each class, only where it is near; background is what the others leave."""
    if all(s == 1 for s in step):
        return np.ascontiguousarray(array)
    from scipy.ndimage import find_objects

    tables = [weights(n, m, f, s, "lanczos") for n, m, f, s in zip(array.shape, size, first, step, strict=True)]
    out, best, left = np.zeros(size, array.dtype), np.zeros(size, np.float32), np.ones(size, np.float32)
    for value, box in enumerate(find_objects(array), start=1):
        if box is None:
            continue
        share, near = (array[box] == value).astype(np.float32), []
        for axis, (table, span) in enumerate(zip(tables, box, strict=True)):
            part = table[:, span.start : span.stop]
            touched = np.flatnonzero(np.diff(part.indptr))
            near.append(slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0))
            share = _along(share, part[near[-1]], axis)
        place = tuple(near)
        left[place] -= share
        wins = share > best[place]
        best[place][wins], out[place][wins] = share[wins], value
    out[left > best + 1e-6] = 0
    return out
