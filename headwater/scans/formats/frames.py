"""The frames of one DICOM file: where each lies and how its values scale, in ordinary and in enhanced files."""

from typing import Any

import numpy as np

from headwater.scans.formats.dicom_header import inner, integer, number, text, values, vector
from headwater.scans.formats.planes import Plane, plane
from headwater.scans.scan import Source, UnreadableError


def single(data: Any) -> Plane | None:
    """The plane of an ordinary file with one picture; None if it does not say where it lies."""
    order = (number(data, "echo_time"), "/".join(values(data, "image_type")[2:]), number(data, "temporal"))
    order += (number(data, "number"), text(data, "time"))
    position, orientation = vector(data, "position", 3), vector(data, "orientation", 6)
    return plane(position, orientation, vector(data, "spacing", 2), number(data, "thickness"), order)


def planes(data: Any, count: int) -> list[Plane] | None:
    """One plane per frame, from the functional groups where there are any; None if a frame does not say where it lies."""
    per_frame = values(data, "per_frame")
    if not per_frame:
        one = single(data) if count == 1 else None
        return [one] if one else None
    if len(per_frame) < count:
        return None
    shared = inner(data, "shared")
    found = [_frame(data, shared, own, i) for i, own in enumerate(per_frame[:count])]
    return found if all(found) else None


def between(data: Any) -> float:
    """Millimetres from slice to slice as stated, 0 if they are not."""
    first = next(iter(values(data, "per_frame")), None)
    measures = _group(inner(data, "shared"), first, "measures")
    return abs(number(measures, "between")) if measures is not None else abs(number(data, "between"))


def scaling(place: Source, data: Any, count: int) -> np.ndarray:
    """(count, 2) slope and intercept of each frame. Raises UnreadableError for a slope of 0."""
    usual = (number(data, "slope", 1.0), number(data, "inter", 0.0))
    shared, found = inner(data, "shared"), []
    own = values(data, "per_frame")[:count]
    for frame in [*own, *[None] * (count - len(own))]:
        group = _group(shared, frame, "transformation")
        found.append(usual if group is None else (number(group, "slope", 1.0), number(group, "inter", 0.0)))
    if any(slope == 0 for slope, _ in found):
        raise UnreadableError(place, "scales its values by 0", "export it again, or leave it out")
    return np.array(found, dtype=float)


def _group(shared: Any, own: Any, name: str) -> Any:
    """A functional group of a frame, else the one all frames share, else None."""
    mine = inner(own, name)
    return mine if mine is not None else inner(shared, name)


def _frame(data: Any, shared: Any, own: Any, i: int) -> Plane | None:
    position, orientation = _group(shared, own, "plane_position"), _group(shared, own, "plane_orientation")
    measures, content = _group(shared, own, "measures"), inner(own, "content")
    if position is None or orientation is None or measures is None:
        return None
    echo = _group(shared, own, "echo")
    effective = number(echo, "effective_echo") if echo is not None else 0.0
    order = (effective, "", number(content, "temporal_index") if content is not None else 0.0, float(integer(data, "number")), i)
    where, turned = vector(position, "position", 3), vector(orientation, "orientation", 6)
    return plane(where, turned, vector(measures, "spacing", 2), number(measures, "thickness"), order)
