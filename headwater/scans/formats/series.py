"""DICOM files put together: which belong to one series, and what is no scan."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from headwater.scans.formats import dicom_header, frames, mosaic
from headwater.scans.formats.dicom_header import inner, integer, number, text, values
from headwater.scans.formats.planes import Plane, normal, parallel, stack
from headwater.scans.scan import Fault, Source, UnreadableError

_SCOUT = re.compile(r"locali[sz]er|scout|survey|surview|topogram|scanogram|pilot|\bloc\b", re.IGNORECASE)
_SCREEN = ("SCREEN SAVE", "SCREENSHOT", "DOSE", "REPORT", "PROTOCOL")
_PICTURES = {"CR", "DX", "MG", "RG", "XA", "RF", "US", "IVUS", "OP", "OPT", "OCT", "XC", "ES", "GM", "SM", "IO", "PX", "NM"}
_KINDS = (("SR", "report"), ("Report", "report"), ("Presentation State", "presentation state"), ("Key Object", "report"))
_KINDS += (("Encapsulated", "report"), ("Structure Set", "structure set"), ("RT ", "radiotherapy plan"), ("Waveform", "waveform"))
_LEAVE = "nothing to do: it is no scan"


@dataclass(frozen=True)
class Series:
    """One scan among DICOM files, found by their headers alone.

    source:   its files, sorted along the normal, channel (time point, echo) by channel.
    uid, subject, session, referenced: raw identifiers (series; PatientID or study; study or its date; the series that a
    segmentation was drawn on, "" if it does not say): mask them before they are shown.
    name:     the path of its first file. localiser: a scout view, to be set aside. segmentation: a mask (DICOM-SEG).
    """

    source: Source
    uid: str
    modality: str
    subject: str
    session: str
    name: str
    localiser: bool = False
    segmentation: bool = False
    referenced: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """What grouping needs of one file."""

    path: Path
    uid: str
    instance: str
    key: tuple
    plane: Plane | None
    parts: tuple  # what may split a series that is no even stack: image type, echo, acquisition
    subject: str
    session: str
    modality: str
    localiser: bool
    referenced: str
    segmentation: bool


def group(paths: Iterable[Path], progress: Callable[[int], None] | None = None) -> tuple[list[Series], list[Fault]]:
    """Files to series and what is set aside with its reason; only headers are read.

    Files of one SeriesInstanceUID are one series, unless their size, directions, spacing, colour or kind differ; files
    with many frames, and pictures that do not say where they lie, stand alone. A series that is no even stack is split
    by image type, echo or acquisition if that makes it one. Localisers are in both lists: as series so marked, and as a
    fault of that kind. Kinds of faults: "localiser", "secondary capture", "report", "presentation state", "waveform",
    "structure set", "radiotherapy plan", "dose", "projection", "no picture", "index" (a DICOMDIR), "duplicate" and "damaged".
    progress: called with 1 after every file.
    """
    files: dict[tuple, list[_File]] = defaultdict(list)
    faults: list[Fault] = []
    seen: set[str] = set()
    with dicom_header.quiet():
        for path in sorted(Path(p) for p in paths):
            found = _look(path)
            if isinstance(found, Fault):
                faults.append(found)
            elif found.instance and found.instance in seen:
                faults.append(Fault(str(path), "is a second copy of a slice already there", "delete one of them", "duplicate"))
            else:
                seen.add(found.instance)
                files[found.uid, found.key].append(found)
            if progress is not None:
                progress(1)
    series = [one for same in files.values() for one in _together(same)]
    scouts = [s for s in series if s.localiser]
    faults += [Fault(s.name, f"is a localiser ({len(s.source.files)} files)", _LEAVE, "localiser") for s in scouts]
    return sorted(series, key=lambda s: s.name), faults


def _look(path: Path) -> _File | Fault:
    """One header, read and judged."""
    if path.name.upper() == "DICOMDIR":
        return Fault(str(path), "is an index of DICOM files", "nothing to do: the files themselves are read", "index")
    try:
        data = dicom_header.head(path)
    except UnreadableError as error:
        return Fault(str(path), error.fault, error.remedy, "damaged")
    aside = _aside(path, data)
    if aside is not None:
        return aside
    patient, study = text(data, "patient"), text(data, "study")
    modality, types, count = dicom_header.modality(data), values(data, "image_type"), integer(data, "frames", 1)
    segmentation, scout = text(data, "modality") == "SEG", "LOCALIZER" in types or bool(_SCOUT.search(text(data, "description")))
    plane = frames.single(data) if count <= 1 and not segmentation else None
    instance = text(data, "instance")
    alone = "" if plane else text(data, "concatenation") or instance or str(path)
    spacing = tuple(round(x, 4) for x in plane.spacing) if plane else ()
    key = (integer(data, "rows"), integer(data, "columns"), integer(data, "samples", 1), spacing, scout, modality, alone)
    parts = ("/".join(types), number(data, "echo_time"), number(data, "acquisition"))
    referenced = text(inner(data, "referenced"), "series") if segmentation and values(data, "referenced") else ""
    uid = text(data, "series") or str(path.parent)
    session = study or text(data, "study_date")
    key += (mosaic.is_mosaic(data),)
    return _File(path, uid, instance, key, plane, parts, patient or study, session, modality, scout, referenced, segmentation)


def _aside(path: Path, data: Any) -> Fault | None:
    """Why a file is no scan, if it is none. The words are the standard's, never the file's."""
    held, types = dicom_header.kind(data), values(data, "image_type")
    if "Directory" in held:
        return Fault(str(path), "is an index of DICOM files", "nothing to do: the files themselves are read", "index")
    if text(data, "modality") == "RTDOSE" or held == "RT Dose":
        return Fault(str(path), "is a radiotherapy dose, no scan", _LEAVE, "dose")
    if not integer(data, "rows") or not integer(data, "columns"):
        named = f"holds no picture but a {held}" if held and "Image" not in held else "holds no picture"
        what = next((kind for word, kind in _KINDS if word in held), "no picture")
        return Fault(str(path), named, _LEAVE, what)
    if types[:1] == ("DERIVED",) and "PROJECTION IMAGE" in types:
        return Fault(str(path), "is a projection computed from a scan", "use the scan that it was made from", "projection")
    captured = "Secondary Capture" in held
    placed = bool(values(data, "position"))
    screen = any(word in kind for word in _SCREEN for kind in types)
    if not placed and (screen or (captured and dicom_header.modality(data) not in _PICTURES)):
        fault = "is a secondary capture (a picture of a screen or a sheet) without a place in the body"
        return Fault(str(path), fault, "export the scan that it was made from", "secondary capture")
    return None


def _together(files: list[_File]) -> list[Series]:
    """The series in files of one key; three directions square to each other are a localiser, whatever its name."""
    turned = _by_direction(files)
    crossed = False
    if len(turned) > 2 and files[0].plane is not None:
        across = [normal(part[0].plane.orientation) for part in turned]
        crossed = any(max(abs(a @ b), abs(b @ c), abs(a @ c)) < 0.2 for a, b, c in combinations(across[:12], 3))
    return [_series(part, crossed) for same in turned for part in _even(same)]


def _by_direction(files: list[_File]) -> list[list[_File]]:
    """Files whose planes are parallel."""
    found: list[list[_File]] = []
    for file in files:
        same = (part for part in found if file.plane is None or parallel(part[0].plane, file.plane))
        part = next(same, None)
        if part is None:
            found.append([file])
        else:
            part.append(file)
    return found


def _even(files: list[_File]) -> list[list[_File]]:
    """The files as one stack or, where they are none, split by the first attribute that makes stacks which overlap.

    Parts one above the other are no stacks of their own: there a slice is missing, as reading will say.
    """
    if _order(files) is not None:
        return [files]
    for i in range(len(files[0].parts)):
        split: dict[object, list[_File]] = defaultdict(list)
        for file in files:
            split[file.parts[i]].append(file)
        parts = list(split.values())
        if len(parts) > 1 and all(_order(part) is not None for part in parts) and _overlap(parts):
            return parts
    return [files]


def _overlap(parts: list[list[_File]]) -> bool:
    """Whether the stretches along the normal that the parts cover reach into each other."""
    across = normal(parts[0][0].plane.orientation)
    along = [[float(across @ file.plane.position) for file in part] for part in parts]
    ranges = sorted((min(part), max(part)) for part in along)
    return all(after[0] < before[1] for before, after in pairwise(ranges))


def _order(files: list[_File]) -> tuple[list[_File], tuple[str, ...]] | None:
    """Files sorted, and notes on their geometry; None if they are no even stack."""
    if files[0].plane is None:
        return files, ()
    try:
        stacked = stack(Source((files[0].path,)), [file.plane for file in files])
    except UnreadableError:
        return None
    return [files[i] for i in stacked.index.ravel()], stacked.notes


def _series(files: list[_File], crossed: bool) -> Series:
    ordered, notes = _order(files) or (files, ())
    first = ordered[0]
    source = Source(tuple(file.path for file in ordered))
    return Series(
        source, first.uid, first.modality, first.subject, first.session, str(first.path),
        first.localiser or crossed, first.segmentation, first.referenced, notes,
    )  # fmt: skip
