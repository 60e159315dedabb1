"""Siemens mosaics: the slices of a volume side by side in one picture, cut apart and put where they were."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from headwater.scans.formats.dicom_header import broken, integer, number, values
from headwater.scans.formats.planes import Plane
from headwater.scans.scan import Source, UnreadableError

_REMEDY = "convert the series to NIfTI with dcm2niix"


def is_mosaic(data: Any) -> bool:
    """Whether a header says so."""
    return "MOSAIC" in values(data, "image_type")


def planes(place: Source, data: Any, picture: Plane | None) -> list[Plane]:
    """Where each slice lies, in the order of the tiles.

    The position in the header is that of the whole picture as if it were one large slice about the same centre; number of
    slices and their direction come from the CSA header (parsed by nibabel). Raises UnreadableError without them.
    """
    from nibabel.nicom import csareader

    try:
        stated = csareader.get_csa_header(data, "image") or {"tags": {}}
        count = int(csareader.get_n_mosaic(stated) or 0)
        across = np.array(csareader.get_slice_normal(stated), dtype=float)
    except (*broken(), csareader.CSAReadError):
        count, across = 0, np.empty(0)
    rows, columns = integer(data, "rows"), integer(data, "columns")
    side = math.ceil(math.sqrt(max(count, 1)))
    if picture is None or count < 1 or across.shape != (3,) or not abs(np.linalg.norm(across) - 1) < 0.02:
        fault = "is a mosaic whose number of slices or direction cannot be read (private Siemens header missing)"
        raise UnreadableError(place, fault, _REMEDY)
    if rows % side or columns % side:
        raise UnreadableError(place, f"is a mosaic of {count} slices that do not fit {rows} x {columns} pixels", _REMEDY)
    along_row, along_column = np.array(picture.orientation[:3]), np.array(picture.orientation[3:])
    corner = np.array(picture.position) + along_row * picture.spacing[1] * (columns - columns // side) / 2
    corner = corner + along_column * picture.spacing[0] * (rows - rows // side) / 2
    step = across * (abs(number(data, "between")) or picture.thickness or 1.0)
    return [replace(picture, position=tuple((corner + k * step).tolist())) for k in range(count)]


def untile(picture: np.ndarray, count: int) -> np.ndarray:
    """(R, C) tiled row by row to (count, r, c)."""
    side = math.ceil(math.sqrt(count))
    r, c = picture.shape[0] // side, picture.shape[1] // side
    return picture.reshape(side, r, side, c).swapaxes(1, 2).reshape(-1, r, c)[:count]
