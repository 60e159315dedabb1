"""One coordinate map per view: rotation, scale, mirroring, place and elastic change, resampled once."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from headwater.errors import InputError
from headwater.views.elastic import Bend, displacement, draw_bend, undo, weights
from headwater.views.resample import linear, nearest, read


@dataclass(frozen=True)
class Placement:
    """A coordinate map: parent voxel p shows the scan at centre + matrix (p + bend(p) - (size - 1) / 2).

    centre: scan voxels (index coordinates, voxel centres are whole numbers). matrix: d x d, scan voxels per parent voxel.
    size: voxels of the parent. All in array order. bend: elastic change in parent voxels, None for none.
    """

    centre: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    size: tuple[int, ...]
    bend: Bend | None = None


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
    elastic: float = 0.0,
    spacing: tuple[float, ...] | None = None,
) -> list[Placement]:
    """One placement per scan.

    Args:    shapes: voxels of each scan; size: voxels of the parent. rotation: largest angle in degrees, uniform in +-rotation
             in each plane of axes. scale: log-uniform; above 1 the parent shows more of the scan. elastic: strength, 0 (none)
             to 0.95; 1 could fold. Rotation, scale and elastic change happen independently, each with `probability`.
             shift: part of the slack between scan and parent that the place may use
             (0 centred, 1 anywhere the smaller of the two lies inside the larger). mirror: axes flipped with chance 1/2.
             spacing: mm per axis of scan and parent, so that rotations are rigid in mm; None for equal spacing.
    Returns: placements; where no such change happened the parent's voxels are voxels of the scan.
    Raises:  InputError for settings out of range.
    """
    d = len(size)
    _check(d, scale, shift, probability, mirror, elastic)
    placements = []
    for shape in shapes:
        if len(shape) != d:
            raise InputError(f"A scan of shape {tuple(shape)} cannot fill a parent of {size}: both need {d} axes.")
        drawn = rng.random(4 + 2 * d + d * (d - 1) // 2)  # always all, so one setting never moves another
        turns, scales, bends = (drawn[:3] < probability).tolist()
        zoom, lies, flips, angles = float(drawn[3]), drawn[4 : 4 + d], drawn[4 + d : 4 + 2 * d].tolist(), drawn[4 + 2 * d :]
        bend = draw_bend(rng, size, elastic) if elastic > 0 else None
        matrix = np.diag([-1.0 if axis in mirror and flip < 0.5 else 1.0 for axis, flip in enumerate(flips)])
        if turns:
            millimetres = np.ones(d) if spacing is None else np.asarray(spacing)
            matrix = _rotation(np.deg2rad(rotation) * (2 * angles - 1), millimetres) @ matrix
        if scales:
            matrix = scale[0] * (scale[1] / scale[0]) ** zoom * matrix
        slack = np.subtract(shape, size)
        first = np.rint(slack / 2 + shift * (lies - 0.5) * slack)
        centre = first + (np.asarray(size) - 1) / 2
        rows = tuple(map(tuple, matrix.tolist()))
        placements.append(Placement(tuple(centre.tolist()), rows, tuple(size), bend if bends else None))
    return placements


def part(placement: Placement, start: tuple[int, ...], size: tuple[int, ...]) -> Placement:
    """The placement of the `size` voxels of a parent that begin at voxel `start`."""
    first, whole = np.asarray(start), np.asarray(placement.size)
    away = first + (np.asarray(size) - 1) / 2 - (whole - 1) / 2
    centre = np.asarray(placement.centre) + np.asarray(placement.matrix) @ away
    bend = placement.bend
    if bend is not None:
        bend = replace(bend, low=tuple((np.asarray(bend.low) - first).tolist()))
    return Placement(tuple(centre.tolist()), placement.matrix, tuple(size), bend)


def to_scan(placement: Placement, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Where in the scan parent points lie; both in index coordinates, voxel centres are whole numbers."""
    if placement.bend is not None:
        points = points + displacement(placement.bend, points)
    return np.asarray(placement.centre) + (points - _middle(placement)) @ np.asarray(placement.matrix).T


def to_view(placement: Placement, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Where in the parent points of the scan lie: the inverse of `to_scan`, exact, or to 1e-4 voxel under elastic change."""
    away = points - np.asarray(placement.centre)
    bent = np.linalg.solve(np.asarray(placement.matrix), away.T).T + _middle(placement)
    return bent if placement.bend is None else undo(placement.bend, bent)


def reach(placement: Placement) -> Float[np.ndarray, "d 2"]:
    """Least and greatest scan coordinates of the parent's voxel centres per axis, elastic change at its bound."""
    matrix, half = np.asarray(placement.matrix), _middle(placement)
    edges = np.asarray(placement.centre)[:, None] + (np.abs(matrix) @ half)[:, None] * np.array([-1.0, 1.0])
    if placement.bend is not None:  # a B-spline stays between its control points
        nodes = np.tensordot(matrix, placement.bend.nodes, 1).reshape(len(half), -1)
        edges += np.stack([nodes.min(1), nodes.max(1)], 1)
    return edges


def place(
    array: np.ndarray | Tensor, placement: Placement, mode: str = "linear", padding: str = "reflect"
) -> Shaped[Tensor, "C *S"]:
    """The parent that a placement cuts from a scan (C, *S_i); only the voxels it needs are read.

    Args:    array: numpy, memory map or tensor of any real type. mode: "linear" gives float32; "nearest" gives float32 for
             floating arrays and int64 for integers (labels). padding outside the scan: "reflect" (edge voxel not repeated)
             or "zero" (the mean of a z-scored scan; background of labels; "linear" fades to it over one voxel).
    Returns: (C, *size) on the device of the scan. A placement that only shifts and mirrors by whole voxels copies exactly.
    Raises:  InputError for an unknown mode or padding or a wrong number of axes.
    """
    if mode not in ("linear", "nearest") or padding not in ("reflect", "zero"):
        raise InputError(f"Unknown resampling {mode!r} or padding {padding!r}: use linear or nearest, reflect or zero.")
    if array.ndim != len(placement.size) + 1:
        raise InputError(f"A scan of shape {tuple(array.shape)} needs {len(placement.size) + 1} axes: channels first.")
    labels = mode == "nearest"
    first = [c - (s - 1) / 2 for c, s in zip(placement.centre, placement.size, strict=True)]
    if _copies(placement, first):
        flips = [axis for axis, row in enumerate(placement.matrix) if row[axis] < 0]
        return read(array, [round(f) for f in first], placement.size, labels, padding, flips)
    low, high = np.floor(reach(placement) + [-1e-3, 1e-3]).astype(int).T
    block = read(array, low.tolist(), tuple((high - low + 2).tolist()), labels, padding)
    factors = [f.to(block.device) for f in _factors(placement, low)]
    return (nearest if labels else linear)(block, *factors)


def _copies(placement: Placement, first: list[float]) -> bool:
    """Whether the parent's voxels are voxels of the scan, its axes mirrored or not."""
    steps = (abs(abs(m) - (i == j)) for i, row in enumerate(placement.matrix) for j, m in enumerate(row))
    return placement.bend is None and all(abs(f - round(f)) < 1e-6 for f in first) and max(steps) < 1e-9


def _factors(placement: Placement, origin: np.ndarray) -> tuple[Tensor, Tensor]:
    """(n, K) and (d, K, *rest): their product over K is the map to scan coordinates, counted from `origin`.

    Along axis 0 the map is a constant, a slope and the B-splines of its control points, so K is 2, or 9 when bent.
    """
    matrix, size, d = np.asarray(placement.matrix), placement.size, len(placement.size)
    offsets = [np.arange(s) - (s - 1) / 2 for s in size]
    left = [np.ones(size[0]), offsets[0]]
    right = np.empty((d, 2, *size[1:]))
    right[:] = (np.asarray(placement.centre) - origin).reshape(d, *(1,) * d)
    for axis in range(1, d):
        right += matrix[:, axis].reshape(d, *(1,) * d) * offsets[axis].reshape(-1, *(1,) * (d - 1 - axis))
    right[:, 1] = matrix[:, 0].reshape(d, *(1,) * (d - 1))
    along, over, bend = np.stack(left, 1), right, placement.bend
    if bend is not None:
        rows = [
            weights(np.arange(s, dtype=float), bend.low[i], bend.step[i], bend.nodes.shape[i + 1]) for i, s in enumerate(size)
        ]
        nodes = np.einsum("ij,j...->i...", matrix, bend.nodes)
        for axis in range(1, d):  # (d, *K) in scan voxels, one axis of control points after the other becomes voxels
            nodes = np.moveaxis(np.einsum("...k,nk->...n", np.moveaxis(nodes, axis + 1, -1), rows[axis]), -1, axis + 1)
        along, over = np.concatenate([along, rows[0]], 1), np.concatenate([over, nodes], 1)
    return torch.from_numpy(along.astype(np.float32)), torch.from_numpy(np.ascontiguousarray(over, dtype=np.float32))


def _middle(placement: Placement) -> np.ndarray:
    return (np.asarray(placement.size) - 1) / 2


def _check(d: int, scale: tuple[float, float], shift: float, probability: float, mirror: tuple[int, ...], elastic: float) -> None:
    if not 0 < scale[0] <= scale[1]:
        raise InputError(f"views.scale cannot be {scale}: give two positive factors, the smaller first, such as 0.8,1.25.")
    if not (0 <= shift <= 1 and 0 <= probability <= 1):
        raise InputError(f"Shift {shift} and views.geometry {probability} must lie from 0 to 1: give for example 1 and 0.5.")
    if any(not 0 <= axis < d for axis in mirror):
        raise InputError(f"views.mirror {mirror} names axes that do not exist in {d}D: use axes from 0 to {d - 1}.")
    if not 0 <= elastic <= 0.95:
        raise InputError(f"views.elastic cannot be {elastic}: give 0 (none) to 0.95, such as 0.5; from 1 on it could fold.")


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
