"""DICOM segmentations: a mask as a file that names its series, its slices and its structures. By highdicom, an optional extra."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from headwater.errors import InputError
from headwater.runfolder import write_whole
from headwater.scans.formats import dicom_header, frames, mosaic
from headwater.scans.scan import Scan, UnreadableError

MISSING = "DICOM segmentations need highdicom: pip install 'headwater[dicom]', or ask for nifti."
_TO_RAS = np.array([-1.0, -1.0, 1.0])
_REMEDY = "ask for nifti"


def require() -> None:
    """Raises InputError where highdicom is missing."""
    try:
        import highdicom  # noqa: F401
    except ImportError as fault:
        raise InputError(MISSING) from fault


def write(mask: Integer[np.ndarray, "*S"], scan: Scan, place: Path, names: Mapping[int, str]) -> Path:
    """A DICOM-SEG on the slices of the series that `scan` was read from.

    mask: (slices, rows, columns) or (rows, columns), values as they are to be read again. names: of every value above 0, also of
    those that are not in the mask. Values 1, 2, ... n become binary segments, which every viewer reads; others a label map
    (DICOM 2024), for binary segments are counted without gaps.
    Raises InputError without highdicom, and UnreadableError for a series that no segmentation can be put on.
    """
    require()
    import highdicom
    from pydicom.uid import generate_uid

    values = sorted(value for value in names if value > 0)
    kind = "BINARY" if values == list(range(1, len(values) + 1)) else "LABELMAP"
    with dicom_header.quiet():
        sources, pixels = _ordered(mask, scan)
        try:
            made = highdicom.seg.Segmentation(
                sources, pixels, kind, [_described(highdicom, value, names[value]) for value in values],
                series_instance_uid=generate_uid(), series_number=1000, sop_instance_uid=generate_uid(), instance_number=1,
                manufacturer="Headwater", manufacturer_model_name="Headwater", software_versions=_version(),
                device_serial_number="0", content_label="SEGMENTATION", omit_empty_frames=bool(pixels.any()),
            )  # fmt: skip
            return write_whole(place, lambda beside: made.save_as(beside))
        except dicom_header.broken() as fault:
            why = f"cannot carry a DICOM segmentation ({type(fault).__name__})"
            raise UnreadableError(scan.source, why, _REMEDY) from fault


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("headwater")
    except PackageNotFoundError:
        return "0"


def _described(highdicom: Any, value: int, name: str) -> Any:
    """One segment: its number, its name, and that a machine drew it."""
    from pydicom.sr.codedict import codes

    name = (name.strip() or f"structure {value}")[:64]
    own = highdicom.sr.CodedConcept(value=f"VALUE{value}", scheme_designator="99HEADWATER", meaning=name)
    drawn = highdicom.AlgorithmIdentificationSequence(
        name="Headwater", version=_version(), family=codes.cid7162.ArtificialIntelligence
    )
    anatomy = codes.SCT.AnatomicalStructure
    return highdicom.seg.SegmentDescription(value, name, anatomy, own, "AUTOMATIC", algorithm_identification=drawn)


def _ordered(mask: np.ndarray, scan: Scan) -> tuple[list[Any], np.ndarray]:
    """Source data sets without their pixels, and the mask's slices (n, rows, columns) in their order.

    Of several pictures at one place (times, echoes) the first is the source.
    """
    from pydicom import dcmread

    slices = mask[None] if mask.ndim == 2 else mask
    heads = [dcmread(path, stop_before_pixels=True, force=True) for path in scan.source.files]
    if any(mosaic.is_mosaic(head) for head in heads):
        raise UnreadableError(scan.source, "is a mosaic, which has no slices to refer to", _REMEDY)
    if len(heads) == 1 and int(heads[0].get("NumberOfFrames") or 1) > 1:
        at = _places(heads[0], int(heads[0].NumberOfFrames), scan, len(slices))
        return heads, np.ascontiguousarray(slices[at])
    at = [_places(head, 1, scan, len(slices))[0] for head in heads]
    first: dict[int, Any] = {}
    for k, head in zip(at, heads, strict=True):
        first.setdefault(k, head)
    if sorted(first) != list(range(len(slices))):
        raise UnreadableError(scan.source, "has slices that cannot be told apart", _REMEDY)
    return [first[k] for k in range(len(slices))], np.ascontiguousarray(slices)


def _places(head: Any, count: int, scan: Scan, slices: int) -> list[int]:
    """The slice of the scan that each frame of a file is."""
    planes = frames.planes(head, count)
    if planes is None or slices == 1:
        return list(range(count)) if planes is None else [0] * count
    inverse = np.linalg.inv(scan.affine)
    return [int(np.rint((inverse @ [*(_TO_RAS * p.position), 1.0])[0])) for p in planes]
