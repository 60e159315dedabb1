"""One resampling of a scan into a parent: rotation, scale, mirroring and place in a single step."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from headwater.errors import InputError


@dataclass(frozen=True)
class Placement:
    """What one resampling needs: parent voxel p shows the scan at centre + matrix (p - (size - 1) / 2).

    centre: scan voxels (index coordinates, voxel centres are whole numbers). matrix: d x d, scan voxels per parent voxel.
    size: voxels of the parent. All in array order.
    """

    centre: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    size: tuple[int, ...]


def draw_placements(
    rng: np.random.Generator,
    shapes: list[tuple[int, ...]],
    size: tuple[int, ...],
    *,
    rotation: float = 15.0,
    scale: tuple[float, float] = (0.7, 1.4),
    shift: float = 1.0,
    probability: float = 0.2,
    mirror: tuple[int, ...] = (),
    spacing: tuple[float, ...] | None = None,
) -> list[Placement]:
    """One placement per scan.

    Args:    shapes: voxels of each scan; size: voxels of the parent. rotation: largest angle in degrees, uniform in +-rotation
             in each plane of axes. scale: log-uniform; above 1 the parent shows more of the scan. Rotation and scale happen
             independently, each with `probability`. shift: part of the slack between scan and parent that the place may use
             (0 centred, 1 anywhere the smaller of the two lies inside the larger). mirror: axes flipped with chance 1/2.
             spacing: mm per axis of scan and parent, so that rotations are rigid in mm; None for equal spacing.
    Returns: placements; where neither rotation nor scale happened the parent's voxels are voxels of the scan.
    Raises:  InputError for settings out of range.
    """
    d = len(size)
    if not 0 < scale[0] <= scale[1]:
        raise InputError(f"Scale range of a placement is {scale}: give two positive factors like (0.7, 1.4).")
    if not (0 <= shift <= 1 and 0 <= probability <= 1):
        raise InputError(f"Shift {shift} and probability {probability} of a placement must lie in [0, 1], for example 1 and 0.2.")
    if any(not 0 <= axis < d for axis in mirror):
        raise InputError(f"Mirror axes {mirror} do not exist in {d}D: use axes from 0 to {d - 1}.")
    placements = []
    for shape in shapes:
        if len(shape) != d:
            raise InputError(f"A scan of shape {tuple(shape)} cannot fill a parent of {size}: both need {d} axes.")
        chance, place, flip = rng.random(2), rng.random(d), rng.random(d)  # always drawn, so one setting never moves another
        angles = np.deg2rad(rotation) * rng.uniform(-1, 1, size=d * (d - 1) // 2)
        zoom = np.exp(rng.uniform(*np.log(scale)))
        signs = np.where(np.isin(np.arange(d), mirror) & (flip < 0.5), -1.0, 1.0)
        matrix = np.diag(signs)
        if chance[0] < probability:
            matrix = _rotation(angles, np.ones(d) if spacing is None else np.asarray(spacing)) @ matrix
        if chance[1] < probability:
            matrix = zoom * matrix
        slack = np.asarray(shape) - np.asarray(size)
        first = np.rint(slack / 2 + shift * (place - 0.5) * slack)
        centre = first + (np.asarray(size) - 1) / 2
        placements.append(Placement(tuple(centre.tolist()), tuple(map(tuple, matrix.tolist())), tuple(size)))
    return placements


def place(
    array: np.ndarray | Tensor, placement: Placement, mode: str = "linear", padding: str = "reflect"
) -> Shaped[Tensor, "C *S"]:
    """The parent that a placement cuts from a scan (C, *S_i); only the voxels it needs are read.

    Args:    array: numpy, memory map or tensor of any real type. mode: "linear" gives float32; "nearest" gives float32 for
             floating arrays and int64 for integers (labels). padding outside the scan: "reflect" (edge voxel not repeated)
             or "zero" (the mean of a z-scored scan; background of labels; "linear" fades to it over one voxel).
    Returns: (C, *size). A placement that only shifts and mirrors by whole voxels copies values exactly.
    Raises:  InputError for an unknown mode or padding or a wrong number of axes.
    """
    if mode not in ("linear", "nearest") or padding not in ("reflect", "zero"):
        raise InputError(f"Unknown resampling {mode!r} or padding {padding!r}: use linear or nearest, reflect or zero.")
    if array.ndim != len(placement.size) + 1:
        raise InputError(f"A scan of shape {tuple(array.shape)} needs {len(placement.size) + 1} axes: channels first.")
    matrix = np.asarray(placement.matrix)
    signs = np.where(np.diag(matrix) < 0, -1, 1)
    first = np.asarray(placement.centre) - (np.asarray(placement.size) - 1) / 2
    if np.allclose(matrix, np.diag(signs), atol=1e-9) and np.allclose(first, np.rint(first), atol=1e-6):
        return _copy(array, np.rint(first).astype(int), signs, placement.size, mode, padding)
    return _resample(array, placement, mode, padding)


def _copy(
    array: np.ndarray | Tensor, first: np.ndarray, signs: np.ndarray, size: tuple[int, ...], mode: str, padding: str
) -> Tensor:
    """Pad, crop and flip by whole voxels."""
    wanted = [np.arange(f, f + s)[:: int(g)] for f, s, g in zip(first, size, signs, strict=True)]
    inside = [_fold(w, n) for w, n in zip(wanted, array.shape[1:], strict=True)]
    corner = [int(i.min()) for i in inside]
    out = _read(array, corner, [int(i.max()) + 1 for i in inside], mode)
    for axis, (index, low, w, n) in enumerate(zip(inside, corner, wanted, array.shape[1:], strict=True), start=1):
        local = index - low
        if len(local) != out.shape[axis] or (np.diff(local) != 1).any():
            out = out.index_select(axis, torch.from_numpy(local))
        if padding == "zero" and (w.min() < 0 or w.max() >= n):
            out = out.index_fill(axis, torch.from_numpy(np.flatnonzero((w < 0) | (w >= n))), 0)
    return out


def _resample(array: np.ndarray | Tensor, placement: Placement, mode: str, padding: str) -> Tensor:
    """Linear or nearest sampling at centre + matrix (p - (size - 1) / 2)."""
    shape, size, d = array.shape[1:], placement.size, len(placement.size)
    offsets = [torch.arange(s, dtype=torch.float32).sub((s - 1) / 2) for s in size]
    mesh = torch.meshgrid(*offsets, indexing="ij")
    at = []  # d fields of scan coordinates
    for row, c in zip(placement.matrix, placement.centre, strict=True):
        field = mesh[0] * row[0] + c
        for m, q in zip(row[1:], mesh[1:], strict=True):
            field.add_(q, alpha=m)
        at.append(field)
    outside = torch.zeros(size, dtype=torch.bool)
    if padding == "reflect":
        at = [_mirror(a, n) for a, n in zip(at, shape, strict=True)]
    elif mode == "nearest":
        for a, n in zip(at, shape, strict=True):
            outside |= (a < -0.5) | (a > n - 0.5)
    low = [max(0, min(n - 1, int(a.min().floor()))) for a, n in zip(at, shape, strict=True)]
    high = [max(0, min(n - 1, int(a.max().ceil()))) + 1 for a, n in zip(at, shape, strict=True)]
    block = _read(array, low, high, mode)
    at = [a - c for a, c in zip(at, low, strict=True)]
    if mode == "nearest":
        index = torch.zeros(size, dtype=torch.int64)
        for a, n in zip(at, block.shape[1:], strict=True):
            index = index * n + a.round().long().clamp(0, n - 1)
        out = block.flatten(1)[:, index.flatten()].reshape(-1, *size)
        return out.masked_fill(outside, 0)
    # grid_sample names components from the last array axis to the first
    grid = torch.stack([(2 * a + 1) / n - 1 for a, n in zip(at, block.shape[1:], strict=True)][::-1], -1)
    border = "zeros" if padding == "zero" else "border"
    assert d in (2, 3), "grid_sample knows 2D and 3D"
    return F.grid_sample(block[None], grid[None], mode="bilinear", padding_mode=border, align_corners=False)[0]


def _read(array: np.ndarray | Tensor, low: list[int], high: list[int], mode: str) -> Tensor:
    """A block of the scan as float32, or int64 for labels."""
    window = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    if isinstance(array, Tensor):
        labels = mode == "nearest" and not array.is_floating_point()
        return array[window].to("cpu", torch.int64 if labels else torch.float32, copy=True)
    labels = mode == "nearest" and array.dtype.kind in "iub"
    return torch.from_numpy(np.array(array[window], dtype=np.int64 if labels else np.float32, order="C"))


def _fold(index: np.ndarray, n: int) -> np.ndarray:
    """Whole coordinates reflected into 0..n-1 without repeating the edge voxel."""
    period = max(2 * (n - 1), 1)
    index = index % period
    return np.minimum(index, period - index) if n > 1 else np.zeros_like(index)


def _mirror(at: Float[Tensor, "*S"], n: int) -> Float[Tensor, "*S"]:
    """Coordinates reflected into [0, n - 1]."""
    last = n - 1
    if last == 0:
        return torch.zeros_like(at)
    low, high = at.aminmax()
    if low < -last or high > 2 * last:
        at = at.remainder(2 * last)
    return last - (last - at.abs()).abs() if low < 0 or high > last else at


def _rotation(angles: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Product of plane rotations, rigid in mm, between voxel coordinates of the given spacing."""
    d = len(spacing)
    turn = np.eye(d)
    for (i, j), angle in zip(combinations(range(d), 2), angles, strict=True):
        plane = np.eye(d)
        plane[i, i] = plane[j, j] = np.cos(angle)
        plane[i, j], plane[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ plane
    return turn * spacing[None, :] / spacing[:, None]
