"""DICOM: the files of one series, or one file with many frames, to a scan."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from headwater.scans import scan as values
from headwater.scans.formats import dicom_header, dicom_pixels, frames, mosaic, within_limit
from headwater.scans.formats.planes import Plane, flat, stack
from headwater.scans.scan import Scan, Source, UnreadableError

NAME = "DICOM"
SUFFIXES = (".dcm", ".dicom", ".ima")
_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT".split())


def sniff(path: Path) -> bool:
    """Whether a file is DICOM, from its first 132 bytes: the mark, or without it an element of group 2 or 8 in front."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:] == b"DICM":
        return True
    if start[:2] not in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08") or len(start) < 16:
        return False
    little = start[1:2] == b"\0"
    element, length = (int.from_bytes(part, "little" if little else "big") for part in (start[2:4], start[4:8]))
    explicit = start[4:6] in _VRS
    return element <= 0x0020 and (explicit or (little and length <= 64 and length % 2 == 0))


def read(source: Source | Path | str) -> Scan:
    """The scan in the files of one series, in any order: array (C, slices, rows, columns) float32, scaled by slope and intercept.

    Slices are sorted along their normal, spacing and affine come from their positions; pictures of the same place (time
    points, echoes) and colours are channels. A single slice is a picture (C, rows, columns). Frames without a place are
    stacked in their order, `spaced` False. MONOCHROME1 keeps its values (high is dark) with a note: it is a way of showing
    them, not another measure. Modality tables are applied, real-world and display windows are not.
    Raises UnreadableError for files that are missing, damaged, larger than the limit, compressed in a way that pydicom,
    numpy and Pillow cannot decode, and for series that are no single, straight, evenly spaced stack.
    """
    place = Source.of(source)
    if sum(path.stat().st_size for path in place.files if path.is_file()) > values.LIMIT:
        raise UnreadableError(place, f"is part of a series larger than {values.LIMIT / 2**30:g} GiB", "split it")
    with dicom_header.quiet():
        heads = [dicom_header.whole(path) for path in place.files]
        for path, head in zip(place.files, heads, strict=True):
            if dicom_header.text(head, "modality") == "SEG" or dicom_header.kind(head).startswith(("Segmentation", "Label Map")):
                raise UnreadableError(path, "is a segmentation, not a scan", "give it as a mask")
        pixels = [dicom_pixels.declared(path, head) for path, head in zip(place.files, heads, strict=True)]
        _alike(place, pixels)
        where = _where(place, heads, pixels)
        scales = [frames.scaling(place, head, pix.frames) for head, pix in zip(heads, pixels, strict=True)]
    if any(found is None for found in where):
        if len(pixels) > 1:
            fault = f"is one of {len(pixels)} files that do not say where in the body they lie"
            raise UnreadableError(place, fault, "give each as a picture of its own")
        return _unplaced(place, heads[0], pixels[0], scales[0])
    return _placed(place, heads, pixels, [plane for found in where for plane in found], scales)


def _where(place: Source, heads: list, pixels: list[dicom_pixels.Pixels]) -> list[list[Plane] | None]:
    """The planes of each file; None for one that does not say."""
    tiled = [mosaic.is_mosaic(head) for head in heads]
    if not any(tiled):
        return [frames.planes(head, pix.frames) for head, pix in zip(heads, pixels, strict=True)]
    if not all(tiled) or any(pix.frames > 1 for pix in pixels):
        raise UnreadableError(place, "is part of a series of which only some pictures are mosaics", dicom_header.CONVERT)
    found = [mosaic.planes(place, head, frames.single(head)) for head in heads]
    if len(set(map(len, found))) > 1:
        raise UnreadableError(place, "is part of a series of mosaics with different numbers of slices", dicom_header.CONVERT)
    return found


def _alike(place: Source, pixels: list[dicom_pixels.Pixels]) -> None:
    """All files have one size, and together keep the limit."""
    sizes = sorted({f"{p.rows} x {p.columns}" + (" in colour" if p.values == 3 else "") for p in pixels})
    if len(sizes) > 1:
        raise UnreadableError(
            place, f"is part of a series of pictures of {len(sizes)} sizes ({sizes[0]}, {sizes[1]})", dicom_header.CONVERT
        )
    within_limit(place, (sum(p.frames for p in pixels), *pixels[0].shape[1:]), np.float32)


def _placed(place: Source, heads: list, pixels: list, planes: list[Plane], scales: list[np.ndarray]) -> Scan:
    """Every frame decoded into its slice and channel."""
    stacked = stack(place, planes)
    channels, slices = stacked.index.shape
    tiled, colours, modality = mosaic.is_mosaic(heads[0]), pixels[0].values, dicom_header.modality(heads[0])
    rank = np.empty(len(planes), int)
    rank[stacked.index] = np.arange(channels)[:, None]
    side = math.ceil(math.sqrt(len(planes) // len(pixels))) if tiled else 1
    out, at, notes, stored = None, 0, [], ""
    for head, pix, scale in zip(heads, pixels, scales, strict=True):
        found, stored, more = _decoded(place, head, pix, scale)  # (F, values, R, C)
        if tiled:
            found = mosaic.untile(found[0, 0], len(planes) // len(pixels))[:, None]
        if out is None:
            out = np.empty((channels, colours, slices, pix.rows // side, pix.columns // side), np.float32)
        span = slice(at, at + len(found))
        out[rank[span], :, stacked.slot[span]] = found
        head.clear()  # its pixels are not needed twice
        at, notes = span.stop, [*notes, *(note for note in more if note not in notes)]
    array = out.reshape(channels * colours, *out.shape[2:])
    several = [f"{channels} pictures of each slice (times, echoes), as channels"] if channels > 1 else []
    notes = [*stacked.notes, *several, *notes]
    affine, spacing = stacked.affine, stacked.spacing
    if slices == 1:
        (affine, spacing), array = flat(stacked), array[:, 0]
    if tiled:
        notes.append(f"mosaic: cut into {slices} slices")
    return _scan(place, modality, array, spacing, affine, stored, True, notes)


def _unplaced(place: Source, head: Any, pix: dicom_pixels.Pixels, scale: np.ndarray) -> Scan:
    """One file that does not say where it lies: a picture, with its spacing if that is stated, or frames in their order."""
    found, stored, notes = _decoded(place, head, pix, scale)
    array = np.moveaxis(found, 1, 0)  # (values, F, R, C)
    spacing, spaced = (1.0,) * 3, False
    if pix.frames == 1:
        array, spacing = array[:, 0], (1.0, 1.0)
        stated, detector = (dicom_header.vector(head, name, 2) for name in ("spacing", "detector"))
        size = stated or detector
        if size and 1e-6 < min(size) and max(size) < 1e6:
            spacing, spaced = tuple(round(float(x), 6) for x in size), True
            notes += [] if stated else ["spacing is that at the detector"]
    else:
        notes.append(f"{pix.frames} frames that do not say where in the body they lie, stacked in their order")
    affine = np.diag([*(*spacing, 1.0)[:3], 1.0])
    return _scan(place, dicom_header.modality(head), array, spacing, affine, stored, spaced, notes)


def _decoded(place: Source, data: Any, pix: dicom_pixels.Pixels, scale: np.ndarray) -> tuple[np.ndarray, str, list[str]]:
    """Scaled values (F, values, R, C), the stored type, and what is to be said about them."""
    raw = dicom_pixels.decode(pix, data)
    stored, notes = str(raw.dtype.newbyteorder("=")), []
    if pix.colour == "MONOCHROME1":
        notes.append("MONOCHROME1: high values are dark, kept as stored")
    if pix.colour.startswith("PALETTE"):
        notes.append("palette turned into RGB")
    if dicom_header.text(data, "lossy") == "01":
        notes.append("was compressed with loss")
    if dicom_header.text(data, "burned_in").upper() == "YES":
        notes.append("has text burned into its pixels")
    if pix.values == 1 and "ModalityLUTSequence" in data:
        raw = _tabled(place, raw, data)
    elif pix.values == 1 and not (scale == (1.0, 0.0)).all():
        slope, inter = (scale[:, i, None, None, None] for i in (0, 1))
        raw = raw * slope + inter  # float64
    with np.errstate(over="ignore"):
        array = raw.astype(np.float32)
    if not np.isfinite(array).any():
        raise UnreadableError(pix.path, "has no finite value (all NaN or infinite)", "export it again, or leave it out")
    return array, stored, notes


def _tabled(place: Source, raw: np.ndarray, data: Any) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    try:
        with dicom_header.quiet():
            return apply_modality_lut(raw, data)
    except dicom_header.broken():
        raise UnreadableError(place, "has a damaged table of values (modality LUT)", dicom_header.AGAIN) from None


def _scan(
    place: Source, modality: str, array: np.ndarray, spacing: tuple, affine: np.ndarray, stored: str, spaced: bool, notes: list
) -> Scan:
    array = np.ascontiguousarray(array)
    return Scan(array, spacing, affine, place, stored, NAME, modality, spaced, tuple(notes))
