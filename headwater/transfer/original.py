"""From slabs of scores on the prepared grid to classes on the grid of the file, a few planes at a time.

The same as `resampling.back` of the probabilities and a decision there, without ever holding them all: planes are resampled
within themselves as they come, then across to as many planes of the file as they reach, decided, and dropped.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Integer
from torch import Tensor

from headwater.scans import resampling
from headwater.scans.resampling import Geometry
from headwater.scans.store import class_type
from headwater.transfer.task import Task

Keep = Callable[[tuple[slice, ...], np.ndarray], None]


def decided(
    parts: Iterable[tuple[int, Tensor]], axis: int, geometry: Geometry, task: Task, memory: float, keep: Keep | None = None
) -> Integer[np.ndarray, "*S"]:
    """Classes on the grid of the file, uint8 or uint16, background outside the crop.

    parts: as `tiles.slabs` hands them out along `axis`. memory: GiB that planes on their way may take, though never fewer than
    the resampling of one plane needs. keep: is shown each piece of the probabilities (L, *T) and where it lies in the crop.
    Raises: FloatingPointError for scores that are not finite.
    """
    inside = tuple(stop - start for start, stop in geometry.box)
    mask = np.zeros(inside, class_type(task.classes))
    for at, found in probabilities(parts, axis, geometry, task, memory):
        box = tuple(slice(at, at + found.shape[1 + axis]) if i == axis else slice(None) for i in range(len(inside)))
        mask[box] = task.decide(found, probable=True)
        if keep is not None:
            keep(box, found)
    return resampling.back(mask, unscaled(geometry))


def unscaled(geometry: Geometry) -> Geometry:
    """The way from the crop at the file's own spacing to the file."""
    return replace(geometry, step=(1.0,) * len(geometry.box), size=tuple(stop - start for start, stop in geometry.box))


def probabilities(
    parts: Iterable[tuple[int, Tensor]], axis: int, geometry: Geometry, task: Task, memory: float
) -> Iterator[tuple[int, np.ndarray]]:
    """(first plane, probabilities (L, *T) of some planes along `axis`) in the crop at the file's spacing, in order."""
    inside = [stop - start for start, stop in geometry.box]
    step = geometry.step[axis]
    table = resampling.weights(geometry.size[axis], inside[axis], -geometry.first[axis] / step, 1 / step, "linear")
    low = np.minimum.reduceat(table.indices, table.indptr[:-1])  # first and last plane that each plane of the file is made of
    high = np.maximum.reduceat(table.indices, table.indptr[:-1])
    plane = 4 * task.logits * math.prod(n for i, n in enumerate(inside) if i != axis)
    most = max(1, int(memory * 2**30 / 3 / plane))  # planes as they come, waiting, and made
    held, first, done = None, 0, 0  # planes not done with, the number of the first, planes of the file that are done
    for one in _planes(parts, axis, geometry, task, most):
        held = one if held is None else np.concatenate([held, one], 1)
        while done < len(low) and high[done] < first + held.shape[1]:
            last = min(int(np.searchsorted(high, first + held.shape[1])), done + most)
            made = _across(table[done:last, first : first + held.shape[1]], held)
            yield done, np.moveaxis(made, 1, 1 + axis)
            done = last
        drop = (int(low[done]) if done < len(low) else first + held.shape[1]) - first
        held, first = held[:, drop:], first + drop


def _planes(parts: Iterable[tuple[int, Tensor]], axis: int, geometry: Geometry, task: Task, most: int) -> Iterator[np.ndarray]:
    """Probabilities (L, n, *others) with n <= most planes along `axis`, at the file's spacing along the other axes."""
    axes = tuple(range(len(geometry.size)))
    size = [stop - start for start, stop in geometry.box]
    for _, scores in parts:
        for one in scores.split(most, 1 + axis):
            found = task.probabilities(one).numpy()
            if not np.isfinite(found).all():
                raise FloatingPointError("the network gives scores that are not finite")
            here = tuple(found.shape[1:])
            shape = tuple(here[i] if i == axis else size[i] for i in axes)
            step = tuple(1.0 if i == axis else geometry.step[i] for i in axes)
            flat = Geometry(shape, axes, (False,) * len(axes), tuple((0, n) for n in shape), step, here)
            yield np.moveaxis(resampling.back(found, flat), 1 + axis, 1)


def _across(table: "scipy.sparse.csr_array", planes: np.ndarray) -> np.ndarray:  # noqa: F821
    """A table (m, n) applied to planes (L, n, *others), channel by channel: (L, m, *others)."""
    if table.shape[0] == table.shape[1] and (table.diagonal() == 1).all():
        return planes
    out = np.empty((len(planes), table.shape[0], *planes.shape[2:]), np.float32)
    for channel, result in zip(planes, out, strict=True):
        result[...] = (table @ channel.reshape(len(channel), -1)).reshape(result.shape)
    return out
