"""Pictures that lie in the body, put into order: one straight, evenly spaced stack, or a word on why not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.scans.scan import Source, UnreadableError

UNEVEN = 0.1  # of the usual distance between slices
_TURNED = 5e-3  # largest difference of direction cosines within a stack
_FAR = 1e6  # mm
_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_CONVERT = "convert the series to NIfTI with dcm2niix, or leave it out"


@dataclass(frozen=True)
class Plane:
    """Where one picture lies, in DICOM's own terms (mm; left, back, up).

    position:    centre of the first pixel. orientation: direction along a row, then along a column, as unit vectors.
    spacing:     mm from row to row, mm from column to column. thickness: mm, 0 unknown.
    order:       what sorts pictures of the same place: echo, time, number in the series.
    """

    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float = 0.0
    order: tuple = ()


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in order.

    index:  (C, n), which plane is slice k of channel c. slot: (N,), the slice that each plane is.
    affine: (4, 4), of (slice, row, column) to RAS+ mm. spacing: mm along those axes. notes: gaps, tilt.
    """

    index: np.ndarray
    slot: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, float, float]
    notes: tuple[str, ...] = ()


def plane(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], thickness: float, order: tuple
) -> Plane | None:
    """A plane if its numbers make sense: three and six of them, less than a kilometre, unit and orthogonal directions."""
    if len(position) != 3 or len(orientation) != 6 or len(spacing) != 2:
        return None
    if not 1e-6 < min(spacing) <= max(spacing) < _FAR or max(map(abs, position)) > _FAR or not thickness < _FAR:
        return None
    row, column = orientation[:3], orientation[3:]
    lengths = sum(a * a for a in row), sum(a * a for a in column), 1 + sum(a * b for a, b in zip(row, column, strict=True))
    if any(abs(length - 1) > 0.02 for length in lengths):
        return None
    return Plane(tuple(position), tuple(orientation), tuple(spacing), max(thickness, 0.0), order)


def parallel(one: Plane, other: Plane) -> bool:
    """Whether two planes have the same directions."""
    return all(abs(a - b) <= _TURNED for a, b in zip(one.orientation, other.orientation, strict=True))


def normal(orientation: Sequence[float]) -> np.ndarray:
    """Unit vector across a plane, (3,)."""
    across = np.cross(orientation[:3], orientation[3:])
    return across / np.linalg.norm(across)


def stack(place: Source, planes: Sequence[Plane]) -> Stack:
    """Planes put into order along their normal; several at the same place are channels, all slices having equally many.

    Raises UnreadableError for planes that are not parallel, that miss a slice, or that do not stand in one straight line.
    """
    groups, centres, across = _grouped(place, planes)
    counts = [len(group) for group in groups]
    if min(counts) != max(counts):
        fewest = int(np.argmin(counts))
        fault = f"is part of an uneven series: slice {fewest + 1} of {len(groups)} is there {counts[fewest]} times, "
        fault += f"others up to {max(counts)} times"
        raise UnreadableError(place, fault, "export it again, or remove the incomplete time point")
    index = np.array([sorted(group, key=lambda i: (planes[i].order, i)) for group in groups]).T  # (C, n)
    slot = np.empty(len(planes), int)
    slot[index] = np.arange(len(groups))
    first, thickness = planes[0], float(np.median([p.thickness for p in planes]))
    step = across * (thickness or 1.0) if len(groups) == 1 else _step(place, first, centres, across)
    notes = () if len(groups) == 1 else _notes(step, across, thickness)
    return Stack(index, slot, _affine(first, centres[0], step), _spacing(first, step), notes)


def scatter(place: Source, planes: Sequence[Plane], apart: float = 0.0) -> Stack:
    """`stack` for planes with slices left out on purpose and any number per slice, as in a segmentation.

    apart: mm between slices as stated; where it does not fit, the least distance found counts. index is empty.
    Raises UnreadableError as `stack`, and for planes that do not stand on multiples of one distance.
    """
    groups, centres, across = _grouped(place, planes)
    first, where = planes[0], np.zeros(1, int)
    step = across * (apart or first.thickness or 1.0)
    if len(groups) > 1:
        gaps = np.diff(centres @ across)
        for width in (apart or float(gaps.min()), float(gaps.min())):
            steps = np.rint(gaps / width).astype(int)
            if 0 < steps.min() and steps.max() < 1e5 and np.abs(gaps / width - steps).max() <= UNEVEN:
                break
        else:
            fault = "has slices at uneven distances"
            raise UnreadableError(place, fault, "write the segmentation again on the slices of its series")
        where = np.concatenate([where, np.cumsum(steps)])
        step = (centres[-1] - centres[0]) / where[-1]
    slot = np.empty(len(planes), int)
    for group, k in zip(groups, where, strict=True):
        slot[group] = k
    return Stack(np.empty((0, where[-1] + 1), int), slot, _affine(first, centres[0], step), _spacing(first, step))


def flat(stacked: Stack) -> tuple[np.ndarray, tuple[float, float]]:
    """Affine (4, 4) of (row, column, slice) and spacing of a stack of one slice, as a picture has them."""
    return stacked.affine[:, [1, 2, 0, 3]], stacked.spacing[1:]


def _grouped(place: Source, planes: Sequence[Plane]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Which planes share a slice, in order; the n positions (n, 3) of the slices; the unit normal (3,)."""
    first = planes[0]
    turned, sizes = (np.array([getattr(p, name) for p in planes]) for name in ("orientation", "spacing"))
    if np.abs(turned - turned[0]).max() > _TURNED or np.abs(sizes / sizes[0] - 1).max() > 1e-3:
        raise UnreadableError(place, "is part of a series whose slices lie in different directions", _CONVERT)
    across = normal(first.orientation)
    points = np.array([p.position for p in planes])  # (N, 3)
    along = points @ across
    order = np.argsort(along, kind="stable")
    near = 0.02 * min(first.spacing)
    groups = np.split(order, np.flatnonzero(np.diff(along[order]) > near) + 1)
    centres = points[[group[0] for group in groups]]
    same = np.repeat(centres, [len(group) for group in groups], axis=0)  # (N, 3), in order
    if np.linalg.norm(points[order] - same, axis=1).max() > 0.5 * min(first.spacing):
        raise UnreadableError(place, "is part of a series whose slices lie side by side", _CONVERT)
    return groups, centres, across


def _step(place: Source, first: Plane, centres: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Vector (3,) from slice to slice."""
    gaps = np.diff(centres @ across)
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > UNEVEN * usual:
        fault = f"is part of a series with uneven distances: slices {worst + 1} and {worst + 2} of {len(centres)} are "
        fault += f"{gaps[worst]:.4g} mm apart where others are {usual:.4g} mm"
        missing = "export it again with the missing slices, or leave it out"
        raise UnreadableError(place, fault, missing if gaps[worst] > usual else _CONVERT)
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    away = centres - centres[0] - np.arange(len(centres))[:, None] * step
    away -= (away @ across)[:, None] * across
    if np.linalg.norm(away, axis=1).max() > 0.5 * min(first.spacing):
        raise UnreadableError(place, "is part of a series whose slices do not stand in one straight line", _CONVERT)
    return step


def _notes(step: np.ndarray, across: np.ndarray, thickness: float) -> tuple[str, ...]:
    apart, notes = float(step @ across), []
    if thickness and apart > 1.1 * thickness:
        notes.append(f"gaps: slices {thickness:.4g} mm thick, {apart:.4g} mm apart")
    if thickness and apart < 0.9 * thickness:
        notes.append(f"overlap: slices {thickness:.4g} mm thick, {apart:.4g} mm apart")
    tilt = float(np.degrees(np.arccos(np.clip(apart / np.linalg.norm(step), -1, 1))))
    if tilt > 0.5:
        notes.append(f"gantry tilt: {tilt:.1f} degrees, kept as a sheared affine")
    return tuple(notes)


def _affine(first: Plane, origin: np.ndarray, step: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 3] = origin
    affine[:3] = _TO_RAS @ affine[:3]
    return affine + 0.0  # no negative zeros


def _spacing(first: Plane, step: np.ndarray) -> tuple[float, float, float]:
    return tuple(round(float(x), 6) for x in (np.linalg.norm(step), *first.spacing))
