"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) through SimpleITK, an extra: pip install 'headwater[itk]'."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater.scans.formats import AGAIN, EXPORT, MM, check_size, content, millimetres, sized, within_limit
from headwater.scans.formats.gunzip import inflate
from headwater.scans.scan import Scan, Source, UnreadableError

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
COMPANIONS = (".raw", ".zraw", ".raw.gz")  # voxels whose header is another file beside them
_HEAD = 1 << 20  # bytes within which a header must end
_META = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "long": "i4", "ulong": "u4",
         "long_long": "i8", "ulong_long": "u8", "float": "f4", "double": "f8"}  # fmt: skip
_LINE = 500  # letters: on longer lines with a fault in them SimpleITK ends the program
_COUNTS = {"dimsize": 1, "elementspacing": 1, "elementsize": 1, "offset": 1, "position": 1, "origin": 1, "centerofrotation": 1,
           "transformmatrix": 2, "rotation": 2, "orientation": 2, "elementnumberofchannels": 0, "headersize": 0,
           "compresseddatasize": 0}  # of numbers: axes to this power  # fmt: skip
_NUMBER = re.compile(r"[-+]?(\d{1,18}(\.\d{0,30})?|\.\d{1,30})([eE][-+]?\d{1,2})?")
_FLAGS = ("binarydata", "binarydatabyteordermsb", "elementbyteordermsb", "compresseddata")
_NRRD = {"char": 1, "short": 2, "int": 4, "longlong": 8, "float": 4, "double": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8}


@dataclass(frozen=True)
class _Form:
    """What the text at the start says."""

    name: str
    shape: tuple[int, ...]  # in the file's order, values of one voxel included
    dtype: np.dtype  # of a NRRD without its sign and byte order
    packing: str  # "raw", "gzip" or another one, which is left to SimpleITK
    start: int  # of the voxels, if they are in this file
    files: tuple[str, ...]  # of the voxels, if they are not
    spaced: bool
    oriented: bool
    unit: float  # mm


def read(source: Source) -> Scan:
    """The scan in a file: (C, *S) float32 with *S in SimpleITK's order (slices, rows, columns); vectors are channels.

    The affine is turned from left, back, up (LPS) to right, front, up (RAS+). A fourth axis counts channels.
    Raises UnreadableError without SimpleITK, and for what is cut off, damaged, larger than the limit or keeps its
    voxels outside its own folder.
    """
    path = source.path
    form = _form(path)
    within_limit(path, form.shape, form.dtype)
    places = _inside(path, form.files) if form.files else (path,)
    voxels = _checked(places[0], form) if form.packing in ("raw", "gzip") and len(places) == 1 else None
    sitk = _library(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if form.name == "MetaImage" else "NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        if voxels is None:
            image = reader.Execute()
            array = sitk.GetArrayFromImage(image)  # (t, z, y, x, parts), as far as there are
        else:
            reader.ReadImageInformation()
            *size, parts = form.shape
            image, array = reader, voxels.reshape(*size[::-1], *([parts] if parts > 1 else []))
    except RuntimeError:  # its text quotes paths and header
        raise UnreadableError(path, "cannot be decoded by SimpleITK", EXPORT) from None
    if array.dtype.kind not in "biuf":
        raise UnreadableError(path, f"has {array.dtype} voxels, which are not supported", "save the magnitude instead")
    axes = image.GetDimension()
    if array.ndim > axes:
        array = np.moveaxis(array, -1, 0)
        if axes > 3:
            raise UnreadableError(path, f"has {axes} axes and channels ({sized(array.shape)})", "save one file for each time")
    elif axes == 4:
        axes = 3
    elif axes in (2, 3):
        array = array[None]
    else:
        raise UnreadableError(path, f"has {axes} axes", "save it with two or three axes, and one more for channels")
    affine, spacing = _affine(image, axes, form.unit)
    if not (np.isfinite(affine).all() and 1e-6 <= min(spacing) and max(spacing) < 1e6):
        raise UnreadableError(path, "states no usable place in the body", "write spacing and directions again")
    flat = axes == 3 and array.shape[1] == 1  # one slice is a picture, as in the other formats
    if flat:
        array, spacing, affine = array[:, 0], spacing[1:], affine[:, [1, 2, 0, 3]]
    notes = () if form.oriented or not form.spaced else ("orientation not stated",)
    values = np.array(array, dtype=np.float32, order="C")
    stored = str(array.dtype.newbyteorder("="))
    return Scan(values, spacing, affine, source, stored, form.name, "", form.spaced, notes)


def _library(path: Path) -> object:
    """SimpleITK, told to keep its warnings to itself."""
    try:
        import SimpleITK as sitk
    except ImportError:
        fault = "is MetaImage or NRRD, for which SimpleITK is missing"
        raise UnreadableError(path, fault, "pip install 'headwater[itk]'") from None
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


def _affine(image: object, axes: int, unit: float) -> tuple[np.ndarray, tuple[float, ...]]:
    """(4, 4) from indices (slice, row, column) to RAS+ mm, and mm per voxel in that order."""
    full = image.GetDimension()
    spacing = np.array(image.GetSpacing()[:axes]) * unit
    turn = np.array(image.GetDirection()).reshape(full, full)[:axes, :axes]
    affine = np.eye(4)
    affine[:axes, :axes] = (turn * spacing)[:, ::-1]  # columns by slice, row, column
    affine[:axes, 3] = np.array(image.GetOrigin()[:axes]) * unit
    affine[:2] *= -1  # left, back to right, front
    return affine, millimetres(spacing[::-1])


def _form(path: Path) -> _Form:
    """The header of either format."""
    check_size(path)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    try:
        return _nrrd(path, head) if head.startswith(b"NRRD") else _meta(path, head)
    except UnreadableError:
        raise
    except (KeyError, ValueError, IndexError) as error:
        raise UnreadableError(path, f"has an unreadable header ({type(error).__name__})", EXPORT) from None


def _meta(path: Path, head: bytes) -> _Form:
    """The header of a MetaImage: lines "Key = value", the last of them ElementDataFile."""
    last = re.search(rb"^ElementDataFile\s*=[ \t]*([^\r\n]*)\r?\n?", head, re.MULTILINE)
    if last is None:
        raise UnreadableError(path, "has no MetaImage header", "check that it is MetaImage or NRRD, or export it again")
    text = head[: last.start()].decode("latin-1")
    told = _orderly(path, text)
    shape = tuple(int(n) for n in told["dimsize"].split())
    parts = int(told.get("elementnumberofchannels", 1))
    name = last.group(1).decode("latin-1").strip()
    files: tuple[str, ...] = () if name.upper() == "LOCAL" else (name,)
    if name.upper().startswith("LIST"):
        files = tuple(head[last.end() :].decode("latin-1").split("\n"))
        files = tuple(line.strip() for line in files if line.strip())
    start = last.end() if not files else int(told.get("headersize", 0))  # -1: the voxels are the end of their file
    kind = told["elementtype"].removeprefix("MET_").lower().removesuffix("_array")
    big = "1" in [told.get(key, "0").lower().replace("true", "1") for key in _FLAGS[1:3]]
    packed, binary = (
        told.get(key, usual).lower() in ("true", "1") for key, usual in (("compresseddata", "0"), ("binarydata", "1"))
    )
    if not binary:
        raise UnreadableError(path, "keeps its voxels as text", "save it with binary voxels, or as NIfTI")
    packing = "gzip" if packed else "raw"
    oriented = bool({"transformmatrix", "rotation", "orientation"} & set(told))
    spaced = bool({"elementspacing", "elementsize"} & set(told))
    dtype = np.dtype(_META[kind]).newbyteorder(">" if big else "<")
    return _Form("MetaImage", (*shape, parts), dtype, packing, start, files, spaced, oriented, 1.0)


def _orderly(path: Path, text: str) -> dict[str, str]:
    """Key -> value of the header of a MetaImage. SimpleITK believes it: a wrong number of axes or values ends the program."""
    rows = [line.partition("=") for line in text.splitlines() if line.strip()]
    names = [key.strip().lower() for key, _, _ in rows]
    told = dict(zip(names, (value.strip() for _, _, value in rows), strict=True))
    axes = told.get("ndims", "")
    right = axes in ("1", "2", "3", "4", "5") and len(told) == len(names) and all(equals for _, equals, _ in rows)
    right &= {"NDims", "DimSize", "ElementType"} <= {key.strip() for key, _, _ in rows}
    right &= all(len(key) < 200 and len(value) < 4000 and key.isascii() for key, value in told.items())
    for name, power in _COUNTS.items() if right else ():
        numbers = told.get(name, "").split()
        right &= name not in told or (len(numbers) == int(axes) ** power and all(_NUMBER.fullmatch(n) for n in numbers))
        right &= name not in told or names.index(name) > names.index("ndims")
    right &= all(told.get(key, "true").lower() in ("true", "false", "1", "0") for key in _FLAGS)
    if not right:
        raise UnreadableError(path, "has a header that contradicts itself", EXPORT)
    return told


def _nrrd(path: Path, head: bytes) -> _Form:
    """The header of a NRRD: lines "key: value" up to an empty one."""
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start() if end else len(head)].decode("latin-1")
    fields = [line for line in text.splitlines() if ":=" not in line and not line.startswith("#")]
    if max(map(len, fields)) > _LINE:
        raise UnreadableError(path, "has a line in its header that is too long", EXPORT)
    told = {key.strip().lower(): value.strip() for key, value in re.findall(r"^([\w ]+):(?!=)([^\r\n]*)", text, re.MULTILINE)}
    shape = tuple(int(n) for n in told["sizes"].split())
    kind = told["type"].lower().removeprefix("unsigned ").removeprefix("signed ").removesuffix("_t").removesuffix(" int")
    kind = {"uchar": "char", "ushort": "short", "uint": "int", "long long": "longlong", "ulonglong": "longlong"}.get(kind, kind)
    name = told.get("data file", told.get("datafile"))
    files: tuple[str, ...] = () if name is None else (name,)
    if name is not None and name.upper().startswith("LIST"):
        files = tuple(line.strip() for line in text[text.lower().index("list") :].splitlines()[1:] if line.strip())
    if end is None and not files:
        raise UnreadableError(path, "is cut off inside its header", AGAIN)
    encoding = told["encoding"].lower()
    packing = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(encoding, encoding)
    packing = packing if {"line skip", "lineskip", "byte skip", "byteskip"}.isdisjoint(told) else "skipped"
    units = set(re.findall(r'"([^"]*)"', told.get("space units", ""))) - {""}
    unit = MM.get(units.pop().lower(), 1.0) if len(units) == 1 else 1.0
    spaced = bool({"spacings", "space directions"} & set(told))
    oriented = "space" in told and "space directions" in told
    start = end.end() if end and not files else 0
    dtype = np.dtype(f"i{_NRRD[kind.removeprefix('u')]}")
    return _Form("NRRD", shape, dtype, packing, start, files, spaced, oriented, unit)


def _inside(path: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of the voxels, all of which must lie in the folder of their header."""
    folder, found = path.parent.resolve(), []
    for name in names:
        place = (path.parent / name).resolve()
        if not place.is_relative_to(folder) or "%" in name or re.search(r"\s\d+\s", name):
            fault = "keeps its voxels outside its own folder" if "%" not in name else "keeps its voxels in numbered files"
            raise UnreadableError(path, fault, "save header and voxels as one .mha or .nrrd file")
        if not place.is_file():
            raise UnreadableError(path, "lacks the file of its voxels", "put both files into one folder")
        found.append(place)
    return tuple(found)


def _checked(place: Path, form: _Form) -> np.ndarray | None:
    """The voxels of a MetaImage, flat; None for a NRRD. Raises UnreadableError if not all are there.

    SimpleITK gives whatever lies in memory for a MetaImage whose packed size is stated too small or not at all.
    """
    meta = form.name == "MetaImage"
    whole = form.dtype.itemsize * int(np.prod(form.shape, dtype=object))
    if form.packing == "raw":
        start = form.start if form.start >= 0 else check_size(place) - whole
        have = check_size(place) - max(start, 0)
        if have < whole or start < 0:
            raise UnreadableError(place, f"is cut off at {max(0, 100 * min(have, whole + start) // whole)} %", AGAIN)
        return np.fromfile(place, form.dtype, whole // form.dtype.itemsize, offset=start) if meta else None
    packed = content(place)[max(form.start, 0) :]
    raw, damage, more = inflate(packed, whole, bare=meta)
    if len(raw) < whole or damage:
        raise UnreadableError(place, f"is {damage or 'cut off'} at {100 * len(raw) // whole} %", AGAIN)
    if more:
        raise UnreadableError(place, "unpacks to more than its header says", EXPORT)
    return np.frombuffer(raw, form.dtype) if meta else None
