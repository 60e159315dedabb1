"""Where the views of one scan lie: drawn first, cut later, so that they can be replayed and shown."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from headwater import settings
from headwater.errors import InputError
from headwater.views.crops import draw_pairs
from headwater.views.spatial import Placement, draw_placements, part, place, reach, to_view

POINTS = {2: 16, 3: 8}  # common points per axis of views with geometry of their own


@dataclass(frozen=True, eq=False)
class Geometry:
    """Coordinate maps of the views of one scan.

    views, local: one placement per global view and per local crop. whole: the part of the parent that holds them all where they
    share its geometry, so that one resampling serves all; starts: of views, then local crops, in it. None: geometry of their own.
    boxes: the part each view shares with the other, as in Views. points, valid: the same physical points in every view.
    padding: outside the scan.
    """

    views: tuple[Placement, ...]
    local: tuple[Placement, ...]
    boxes: Float[np.ndarray, "V d 2"]
    padding: str
    whole: Placement | None = None
    starts: tuple[tuple[int, ...], ...] = ()
    points: Float[np.ndarray, "V *O d"] | None = None
    valid: Bool[np.ndarray, "*O"] | None = None

    @property
    def groups(self) -> tuple[tuple[Placement, ...], ...]:
        """Placements of equal size: the views, then the local crops if there are any."""
        return (self.views, self.local) if self.local else (self.views,)


def draw_geometry(
    stream: Callable[[str], np.random.Generator],
    shape: tuple[int, ...],
    how: settings.Views,
    spacing: tuple[float, ...] | None = None,
) -> Geometry:
    """Two overlapping views and `how.locals` small crops of a scan of `shape` voxels.

    The parent is placed in the scan and two crops in the parent. They share its rotation, scale, flips and elastic change, or, if
    how.independent, each crop takes its own about the centre that it has in the unchanged parent. Local crops lie anywhere
    in the parent.

    Args:    stream: a generator for each purpose, by name. spacing: mm per axis, None if all are equal.
    Raises:  InputError for what does not fit.
    """
    parent, padding = _parent(shape, how)
    local_size = _local_size(how, parent)
    change = {"rotation": how.rotation, "scale": how.scale, "probability": how.geometry, "mirror": how.mirror}
    change |= {"elastic": how.elastic, "spacing": spacing}
    placement = draw_placements(stream("placement"), [shape], parent, **change)[0]
    pair = draw_pairs(stream("crops"), 1, parent, how.crop, how.overlap)
    starts = [tuple(s) for s in pair.starts[:, 0].tolist()]
    sizes = [how.crop] * len(starts) + [local_size] * how.locals
    if how.locals:
        room = np.asarray(parent) - np.asarray(local_size)
        starts += [tuple(s) for s in stream("locals").integers(0, room, (how.locals, len(parent)), endpoint=True).tolist()]
    if not how.independent:
        boxes = pair.boxes[:, 0].numpy()
        low = np.min(starts, 0)
        whole = part(placement, tuple(low.tolist()), tuple((np.add(starts, sizes).max(0) - low).tolist()))
        placed = [part(placement, s, n) for s, n in zip(starts, sizes, strict=True)]
        inner = tuple(tuple((np.asarray(s) - low).tolist()) for s in starts)
        return Geometry(tuple(placed[:2]), tuple(placed[2:]), boxes, padding, whole, inner)
    plain = Placement(placement.centre, tuple(map(tuple, np.eye(len(parent)).tolist())), parent)
    placed = []
    for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        own = draw_placements(stream(f"view {i}"), [shape], size, **change)[0]
        placed.append(replace(own, centre=part(plain, start, size).centre))
    views, points, valid = _meeting(placed[:2], shape)
    boxes = np.stack([p[valid].min(0) for p in points]), np.stack([p[valid].max(0) for p in points])
    found = {"points": points.astype(np.float32), "valid": valid}
    return Geometry(views, tuple(placed[2:]), np.stack(boxes, -1).astype(np.float32), padding, **found)


def cut(array: np.ndarray | Tensor, geometry: Geometry) -> list[Float[Tensor, "C ..."]]:
    """The views, then the local crops, of a scan (C, *S_i): one resampling, or one per view. They may share their memory."""
    placed = (*geometry.views, *geometry.local)
    if geometry.whole is None:
        return [place(array, p, padding=geometry.padding) for p in placed]
    whole = place(array, geometry.whole, padding=geometry.padding)
    made = []
    for start, placement in zip(geometry.starts, placed, strict=True):
        window = (slice(first, first + length) for first, length in zip(start, placement.size, strict=True))
        made.append(whole[(slice(None), *window)])
    return made


def shared_points(
    placements: tuple[Placement, ...], shape: tuple[int, ...], count: int
) -> tuple[Float[np.ndarray, "V *O d"], Bool[np.ndarray, "*O"]]:
    """A regular lattice of physical points where the views can meet, in the coordinates of each view.

    The lattice fills the box around what the views share within the scan: `count` cells per axis, points at their middles.
    Returns coordinates, 0 at the outer edge of a view's first voxel, 1 at that of its last; and which lie in every view.
    """
    size = np.asarray(shape, dtype=float)
    edges = np.stack([reach(p) for p in placements] + [np.stack([0 * size, size - 1], 1)])
    low, high = edges[:, :, 0].max(0), edges[:, :, 1].min(0)  # of the boxes around the views
    straight = tuple(replace(p, bend=None) for p in placements)
    rough, _, inside = _lattice(straight, low, high, count)
    if inside.any():
        cell = (high - low) / count
        low, high = np.maximum(low, rough[inside].min(0) - cell), np.minimum(high, rough[inside].max(0) + cell)
    _, points, valid = _lattice(placements, low, high, count)
    lattice = (count,) * len(shape)
    return points.reshape(len(placements), *lattice, len(shape)), (valid & bool((high >= low).all())).reshape(lattice)


def _lattice(
    placements: tuple[Placement, ...], low: np.ndarray, high: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, d) of a lattice between two corners of the scan, the same in every view (V, n, d), and which all views have."""
    axes = [a + (b - a) * (np.arange(count) + 0.5) / count for a, b in zip(low, high, strict=True)]
    flat = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(low))
    points = np.stack([(to_view(p, flat) + 0.5) / np.asarray(p.size) for p in placements])
    return flat, points, ((points >= 0) & (points <= 1)).all((0, 2))


def _meeting(
    placed: list[Placement], shape: tuple[int, ...]
) -> tuple[tuple[Placement, ...], Float[np.ndarray, "V *O d"], Bool[np.ndarray, "*O"]]:
    """The views with the points they share; views that strong changes have driven apart move together until they meet."""
    middle = np.mean([p.centre for p in placed], 0)
    inside = np.clip(middle, 0, np.asarray(shape) - 1.0)
    for share in (1.0, 0.5, 0.25, 0.0):
        target = middle if share == 1.0 else inside
        views = tuple(replace(p, centre=tuple((target + share * (np.asarray(p.centre) - middle)).tolist())) for p in placed)
        points, valid = shared_points(views, shape, POINTS[len(shape)])
        if valid.any():
            return views, points, valid
    raise InputError("Two views of a scan meet nowhere: set views.scale=0.8,1.25, views.elastic=0.5 or views.independent=false.")


def _local_size(how: settings.Views, parent: tuple[int, ...]) -> tuple[int, ...]:
    size = how.local_crop or tuple(max(1, n // 2) for n in how.crop)
    if how.locals and (len(size) != len(parent) or any(n > p for n, p in zip(size, parent, strict=True))):
        fits = ",".join(str(max(1, min(n // 2, p))) for n, p in zip(how.crop, parent, strict=False))
        raise InputError(
            f"views.local_crop {','.join(map(str, size))} does not fit the parent: set for example views.local_crop={fits}."
        )
    return size


def _parent(shape: tuple[int, ...], how: settings.Views) -> tuple[tuple[int, ...], str]:
    """The parent's voxels and the padding; a scan that may not be padded lends its own size."""
    if how.padding != "refuse" or len(shape) != len(how.parent):
        return how.parent, "reflect" if how.padding == "refuse" else how.padding
    if any(c > n for c, n in zip(how.crop, shape, strict=True)):
        fits = ",".join(str(min(c, n)) for c, n in zip(how.crop, shape, strict=True))
        raise InputError(
            f"A crop of {' x '.join(map(str, how.crop))} voxels is larger than a scan of {' x '.join(map(str, shape))}: "
            f"set views.padding=reflect, or views.crop={fits}."
        )
    return tuple(min(p, n) for p, n in zip(how.parent, shape, strict=True)), "reflect"
