"""The one resampling of a view: coordinates as a small matrix product, values by pairs of slices."""

from collections.abc import Iterator
from math import floor

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

BRICK = 32768  # points sampled at once: below what torch shares among threads, who would wait for each other at every step
SIDE = 64  # and along axis 1: the slices that a brick needs stay few, and so the row numbers small


def read(
    array: np.ndarray | Tensor,
    first: list[int],
    size: tuple[int, ...],
    labels: bool,
    padding: str,
    flips: list[int] | tuple[int, ...] = (),
) -> Shaped[Tensor, "C *S"]:
    """A copy of `size` voxels of the scan from voxel `first` on, mirrored along the axes `flips`, contiguous.

    Args:    array: (C, *S_i), numpy, memory map or tensor of any real type; only the block within is touched. labels: integers
             stay integers. padding: "reflect" (edge voxel not repeated) or "zero".
    Returns: float32, or int64 for labels of an integer type, on the device of the scan.
    """
    last = [f + s for f, s in zip(first, size, strict=True)]
    inside = [(max(f, 0), min(e, n)) for f, e, n in zip(first, last, array.shape[1:], strict=True)]
    beyond = [(a - f, e - b) for (a, b), f, e in zip(inside, first, last, strict=True)]  # voxels outside the scan, per side
    far = any(a >= b or max(two) > b - a - (padding == "reflect") for (a, b), two in zip(inside, beyond, strict=True))
    over = any(low or high for low, high in beyond)
    if far or (over and isinstance(array, Tensor) and array.device.type != "cpu"):
        out = _gathered(array, first, size, labels, padding)
    else:
        window = array[(slice(None), *(slice(a, b) for a, b in inside))]
        out = _tensor(window, labels)
        if over:
            out = _padded(out, size, beyond, padding)
    return out.flip([axis + 1 for axis in flips]) if flips else out


def linear(block: Float[Tensor, "C *D"], left: Float[Tensor, "n K"], right: Float[Tensor, "d K *R"]) -> Float[Tensor, "C n *R"]:
    """Linear interpolation of a block at the coordinates left @ right[i] along its axes i; all must lie inside the block.

    Coordinates: 0 the centre of voxel 0; from 0.001 to D - 1.001, so that rounding stays inside. Sampling in 3D is done as
    sampling in 2D, which torch has vectorised: a slice below the next is one tall picture, (z, y) is its row
    floor(z) height + y, and the slice above is a second channel of the same memory. Rows are float32, so a coordinate is right
    to about 3e-8 times the rows: some 1e-4 voxel for 64 voxels per axis, 5e-4 for 160.
    """
    width, height = block.shape[-1], block.shape[-2]
    if block.ndim == 3:
        across = torch.stack([_normalised(right[1], width), _normalised(right[0], height)])
        grid = _fields(left, across)[:, :, None]  # (2, n, 1, R)
        tall = block.unsqueeze(0).expand(len(left), *block.shape)
        return _sample(tall, grid)[:, :, 0].movedim(1, 0).contiguous()
    block = block.contiguous()
    out = block.new_empty((len(block), len(left), *right.shape[2:]))
    depth = _fields(left, right[:1])[0]
    bricks = [(brick, *_span(depth[brick])) for brick in _bricks(tuple(depth.shape))]
    thick = max(high - low for _, low, high in bricks)
    rows, unit = (thick - 1) * height, 2 / ((thick - 1) * height)
    across = torch.stack([_normalised(right[2], width), _normalised(right[1], rows)])
    for brick, low, _ in bricks:
        low = min(low, block.shape[1] - thick)
        whole = depth[brick]
        share = whole.frac()  # floor shares its work among threads however little it is
        grid = _fields(left[brick[0]], across[:, :, brick[1]])
        grid[1].add_(whole.sub_(share).sub_(low), alpha=height * unit)
        for channel, made in zip(block, out, strict=True):
            start = channel.storage_offset() + low * height * width
            tall = channel.as_strided((1, 2, rows, width), (0, height * width, width, 1), start)
            lower, upper = _sample(tall, grid.view(2, 1, 1, -1))[0].view(2, *share.shape)
            torch.lerp(lower, upper, share, out=made[brick])
    return out


def nearest(
    block: Shaped[Tensor, "C *D"], left: Float[Tensor, "n K"], right: Float[Tensor, "d K *R"]
) -> Shaped[Tensor, "C n *R"]:
    """The voxel of the block nearest to each coordinate left @ right[i]."""
    fields = _fields(left, right)
    index = torch.zeros(fields.shape[1:], dtype=torch.int64, device=block.device)
    for at, n in zip(fields, block.shape[1:], strict=True):
        index.mul_(n).add_(at.round_().to(torch.int64))
    return block.flatten(1).index_select(1, index.flatten()).unflatten(1, index.shape)


def _normalised(right: Tensor, count: int) -> Tensor:
    """Factors whose product counts voxels, made to count from -1 to 1 as grid_sample does. Row 0 is the constant."""
    right = right * (2 / count)
    right[0] += 1 / count - 1
    return right


def _fields(left: Tensor, right: Tensor) -> Tensor:
    """(n, K) times (d, K, *R) -> (d, n, *R)."""
    return torch.matmul(left, right.flatten(2)).unflatten(2, right.shape[2:])


def _sample(pictures: Tensor, grid: Tensor) -> Tensor:
    """Pictures (n, C, H, W) at a grid (2, n, h, w), the two coordinates apart in memory, as vector units like them."""
    return F.grid_sample(pictures, grid.permute(1, 2, 3, 0), mode="bilinear", padding_mode="border", align_corners=False)


def _bricks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes that cover a view, about BRICK points in each."""
    side = min(shape[1], SIDE)
    thick = max(1, BRICK // (side * shape[2]))
    for low in range(0, shape[1], side):
        for first in range(0, shape[0], thick):
            yield slice(first, min(first + thick, shape[0])), slice(low, min(low + side, shape[1]))


def _span(at: Tensor) -> tuple[int, int]:
    """The first slice that these coordinates need and one past the last."""
    low, high = at.aminmax()
    return floor(low), floor(high) + 2


def _padded(inner: Tensor, size: tuple[int, ...], beyond: list[tuple[int, int]], padding: str) -> Tensor:
    """A block on the CPU continued by `beyond` voxels per side, fewer than it has; only the margins are gathered."""
    held = inner.numpy()  # numpy copies in this thread alone
    out = (np.zeros if padding == "zero" else np.empty)((len(held), *size), held.dtype)
    out[(slice(None), *(slice(low, s - high) for (low, high), s in zip(beyond, size, strict=True)))] = held
    for axis in range(1, out.ndim if padding == "reflect" else 0):  # margins of this axis, as far as those before are filled
        later = tuple(slice(a, s - b) for (a, b), s in zip(beyond[axis:], size[axis:], strict=True))
        filled = np.moveaxis(out[(slice(None),) * (axis + 1) + later], axis, 0)
        low, end = beyond[axis - 1][0], size[axis - 1] - beyond[axis - 1][1]
        filled[:low] = filled[2 * low : low : -1]
        if end < size[axis - 1]:
            stop = 2 * end - size[axis - 1] - 2  # -1: the first of all is the last one needed
            filled[end:] = filled[end - 2 : stop if stop >= 0 else None : -1]
    return torch.from_numpy(out)


def _gathered(array: np.ndarray | Tensor, first: list[int], size: tuple[int, ...], labels: bool, padding: str) -> Tensor:
    """A block that reaches further beyond the scan than the scan is large: voxel by voxel along each axis."""
    wanted = [np.arange(f, f + s) for f, s in zip(first, size, strict=True)]
    inside = [_fold(w, n) for w, n in zip(wanted, array.shape[1:], strict=True)]
    window = (slice(None), *(slice(int(i.min()), int(i.max()) + 1) for i in inside))
    out = _tensor(array[window], labels)
    for axis, (index, w, n) in enumerate(zip(inside, wanted, array.shape[1:], strict=True), start=1):
        out = out.index_select(axis, torch.from_numpy(index - index.min()).to(out.device))
        if padding == "zero":
            out = out.index_fill(axis, torch.from_numpy(np.flatnonzero((w < 0) | (w >= n))).to(out.device), 0)
    return out


def _tensor(window: np.ndarray | Tensor, labels: bool) -> Tensor:
    """A copy as float32, or as int64 for labels."""
    if isinstance(window, Tensor):
        kind = torch.int64 if labels and not window.is_floating_point() else torch.float32
        return window.to(kind, copy=True, memory_format=torch.contiguous_format)
    if window.dtype == np.float16:  # torch converts halves with vector units
        return torch.from_numpy(np.array(window, order="C")).float()
    return torch.from_numpy(np.array(window, dtype=np.int64 if labels and window.dtype.kind in "iub" else np.float32, order="C"))


def _fold(index: np.ndarray, n: int) -> np.ndarray:
    """Whole coordinates reflected into 0..n-1 without repeating the edge voxel."""
    period = max(2 * (n - 1), 1)
    index = index % period
    return np.minimum(index, period - index) if n > 1 else np.zeros_like(index)
