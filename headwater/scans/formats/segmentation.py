"""DICOM segmentations: the frames of all segments as one label volume, and its place on the scan it was drawn on."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from headwater.scans.formats import dicom_header, dicom_pixels, frames, within_limit
from headwater.scans.formats.dicom_header import inner, integer, text, values
from headwater.scans.formats.planes import Stack, flat, scatter
from headwater.scans.scan import Scan, Source, UnreadableError

NAME = "DICOM-SEG"
_NEAR = 0.1  # of a voxel, that a segmentation may lie off its scan
_ANATOMY = re.compile(r"[A-Za-z][A-Za-z0-9 _,.()+/-]{0,63}")


def read(source: Source | Path | str) -> Scan:
    """The labels in one DICOM-SEG file: array (1, slices, rows, columns) int32, 0 background, else the segment's number.

    Fractional segments count where they exceed one half. Where segments overlap, the higher number wins, with a note.
    Slices run along their normal from the first that has a frame to the last; a slice without one is background. A
    single slice is a picture (1, rows, columns), and so is a frame without a place (`spaced` False).
    Raises UnreadableError as `dicom.read`, and for a file that is no segmentation.
    """
    place = Source.of(source)
    path = place.path
    with dicom_header.quiet():
        head = dicom_header.whole(path)
        if text(head, "modality") != "SEG" and not dicom_header.kind(head).startswith(("Segmentation", "Label Map")):
            raise UnreadableError(path, "is no DICOM segmentation", "give it as a scan, or leave it out")
        pixels = dicom_pixels.declared(path, head)
        if pixels.values != 1:
            raise UnreadableError(path, "is a segmentation in colour", "write it again with one value per pixel")
        labelled = text(head, "segment_type") == "LABELMAP" or dicom_header.kind(head).startswith("Label Map")
        numbers = None if labelled else _segments(path, head, pixels.frames)
        stacked = _stack(place, head, pixels)
    slices = stacked.index.shape[1] if stacked else 1
    within_limit(path, (slices, pixels.rows, pixels.columns), np.int32)
    raw = dicom_pixels.decode(pixels, head)
    out, overlap = np.zeros((slices, pixels.rows, pixels.columns), np.int32), 0
    half = (integer(head, "fractional", 1) or 1) / 2 if text(head, "segment_type") == "FRACTIONAL" else 0
    for i in range(pixels.frames):
        frame = raw[i, 0]
        label = frame.astype(np.int32) if numbers is None else np.where(frame > half, numbers[i], 0).astype(np.int32)
        under = out[stacked.slot[i] if stacked else 0]
        overlap += int(((under > 0) & (label > 0) & (under != label)).sum())
        np.maximum(under, label, out=under)
    notes = (f"{overlap} voxels belong to several segments, the highest number kept",) if overlap else ()
    stored = str(raw.dtype.newbyteorder("="))
    return _scan(place, out, stacked, stored, notes)


def names(source: Source | Path | str) -> dict[int, str]:
    """What each label stands for, by the file: number to name.

    The segment's label if it reads like a name of anatomy and shares no word with the patient, the institution or a date;
    else the coded name of its kind; else "segment 3". Raises UnreadableError for a file that cannot be opened.
    """
    path = Source.of(source).path
    with dicom_header.quiet():
        head = dicom_header.whole(path)
        private = _private_words(head)
        found = {}
        for item in values(head, "segments"):
            number, kind = integer(item, "segment_number", -1), inner(item, "segment_kind")
            tried = (text(item, "segment_label"), text(kind, "meaning") if kind is not None else "")
            if number >= 0:
                found[number] = next((name for name in tried if _anatomical(name, private)), f"segment {number}")
    return found


def onto(seg: Scan, scan: Scan) -> np.ndarray:
    """Labels (1, *S) int32 on the grid of `scan`, if the segmentation has its pixels and some of its slices, in either order.

    Nothing is resampled: slices are copied to where they lie. Raises UnreadableError if the two lie otherwise, or if
    a label would fall outside.
    """
    if not (seg.spaced and scan.spaced) and seg.shape == scan.shape:
        return seg.array.astype(np.int32)
    remedy = "resample the mask onto the grid of its scan, or leave it out"
    labels, grid = _volume(seg), _volume(scan)
    if not (seg.spaced and scan.spaced) or labels[0].shape[1:] != grid[0].shape[1:]:
        raise UnreadableError(seg.source, "has another size or place than its scan", remedy)
    moved = np.linalg.inv(grid[1]) @ labels[1]  # index in the segmentation -> index in the scan
    n, rows, columns = labels[0].shape
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array([n, rows, columns]) - 1)
    there = corners @ moved[:3, :3].T + moved[:3, 3]
    if n == 1:
        moved = moved.copy()
        moved[0, 0] = 1.0  # one slice has no next
    each = np.arange(n) * moved[0, 0] + moved[0, 3]
    slices = np.rint(each).astype(int)
    rounded = np.concatenate([slices[corners[:, 0], None], corners[:, 1:]], axis=1)
    if np.abs(there - rounded).max() > _NEAR or np.abs(each - slices).max() > _NEAR:
        raise UnreadableError(seg.source, "does not lie on the slices and pixels of its scan", remedy)
    inside = (slices >= 0) & (slices < grid[0].shape[0])
    if labels[0][~inside].any():
        raise UnreadableError(seg.source, "has labels outside its scan", remedy)
    out = np.zeros(grid[0].shape, np.int32)
    out[slices[inside]] = labels[0][inside]
    return out.reshape(1, *scan.shape)


def _volume(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """First channel as (slices, rows, columns), and the affine of those axes."""
    return (scan.array[0][None], scan.affine[:, [2, 0, 1, 3]]) if scan.ndim == 2 else (scan.array[0], scan.affine)


def _segments(path: Path, head: Any, count: int) -> list[int]:
    """The segment each frame belongs to, from its functional group or the shared one."""
    shared = inner(inner(head, "shared"), "identification")
    own = [inner(item, "identification") for item in values(head, "per_frame")[:count]]
    own += [None] * (count - len(own))
    found = [integer(item if item is not None else shared, "referenced_segment") for item in own if item is not None or shared]
    if len(found) < count and count == 1 and len(values(head, "segments")) == 1:
        found = [integer(values(head, "segments")[0], "segment_number")]
    if len(found) < count or min(found) < 1:
        raise UnreadableError(path, "does not say which segment each of its frames shows", "write it again with its frames named")
    return found


def _stack(place: Source, head: Any, pixels: dicom_pixels.Pixels) -> Stack | None:
    planes = frames.planes(head, pixels.frames)
    if planes is not None:
        return scatter(place, planes, frames.between(head))
    segments = len(values(head, "segments"))
    if pixels.frames > max(1, segments):
        raise UnreadableError(place, "does not say where in the body its frames lie", "write it again with their positions")
    return None  # one picture, each segment a frame


def _scan(place: Source, out: np.ndarray, stacked: Stack | None, stored: str, notes: tuple[str, ...]) -> Scan:
    if stacked is None:
        return Scan(out[:1], (1.0, 1.0), np.eye(4), place, stored, NAME, "SEG", False, notes)
    if len(out) > 1:
        return Scan(out[None], stacked.spacing, stacked.affine, place, stored, NAME, "SEG", True, notes)
    affine, spacing = flat(stacked)
    return Scan(out, spacing, affine, place, stored, NAME, "SEG", True, notes)


def _private_words(head: Any) -> set[str]:
    """Words of three letters and more in the elements that name people and places."""
    said = []
    for tag in dicom_header.PERSON:
        try:
            said += [str(head[tag].value)] if tag in head else []
        except dicom_header.broken():
            continue
    return {word for word in re.split(r"[^a-z0-9]+", " ".join(said).lower()) if len(word) > 2}


def _anatomical(name: str, private: set[str]) -> bool:
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return bool(_ANATOMY.fullmatch(name)) and not re.search(r"\d{4}", name) and not words & private
