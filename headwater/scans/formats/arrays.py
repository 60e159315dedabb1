"""NumPy's files: .npy and .npz, without pickles, and by parts."""

import struct
import threading
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from headwater.scans import scan
from headwater.scans.formats import AGAIN, CHANNELS, check_size, sized, within_limit
from headwater.scans.scan import Scan, Source, UnreadableError

SUFFIXES = (".npy", ".npz")
_STEP = 1 << 24  # bytes read at a time
_BROKEN = (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, struct.error, zlib.error)
_PICKLED = "save plain numbers; pickles are not opened, as they can run programs"
_kept: OrderedDict[tuple, np.ndarray] = OrderedDict()  # unpacked arrays of .npz files, the last used at the end
_lock = threading.Lock()


def read(source: Source) -> Scan:
    """The scan in an array, or in the part of one that the source names: (C, *S) float32, spacing 1, not stated.

    Two axes are a picture, three a volume, four a volume with its channels first (16 at most); a last axis of
    3 holds colours. part: "17" is entry 17 of a .npy; "images" an array of a .npz, "images/17" entry 17 of that.
    Raises UnreadableError for what is cut off, damaged, pickled, larger than the limit, or has other axes.
    """
    path = source.path
    array = _part(path, source.part)
    if array.dtype.kind not in "biuf":
        fault = f"holds {'complex' if array.dtype.kind == 'c' else 'other'} values, not numbers of one kind"
        raise UnreadableError(path, fault, "save whole numbers or floats")
    within_limit(path, array.shape, array.dtype)
    notes = []
    if array.ndim > 2 and array.shape[-1] == 3 and min(array.shape[-3:-1]) > 3:
        array = np.moveaxis(array, -1, 0)  # (3, *S)
        notes.append("last axis of 3 read as colours")
    elif array.ndim == 4 and array.shape[0] > CHANNELS:
        fault = f"has four axes ({sized(array.shape)}), the first too long for channels"
        raise UnreadableError(path, fault, "save one file for each scan, or channels, slices, rows, columns")
    elif array.ndim in (2, 3):
        array = array[None]
    if array.ndim not in (3, 4):
        remedy = "save pictures with two axes and volumes with three, channels before them"
        raise UnreadableError(path, f"has {array.ndim} axes ({sized(array.shape) or 'a single number'})", remedy)
    stored = "uint8" if array.dtype == bool else str(array.dtype.newbyteorder("="))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is counted so
        values = np.array(array, dtype=np.float32, order="C")
    axes = values.ndim - 1
    return Scan(values, (1.0,) * axes, np.eye(4), source, stored, "NumPy", "", False, tuple(notes))


def parts(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array in a file, from the headers alone; the one of a .npy is called "".

    Raises UnreadableError if the file or a header in it cannot be read.
    """
    return dict(_directory(path, *_stamp(path)))


def load(path: Path, key: str = "") -> np.ndarray:
    """One whole array as it is stored, read-only; those of .npz files are kept for a while, as they had to be unpacked.

    Raises UnreadableError for a key that is not there, and for what is cut off, damaged, pickled or larger than the limit.
    """
    stamp = _stamp(path)
    found = _directory(path, *stamp)
    if key not in found:
        raise UnreadableError(path, "does not hold the array that is asked for", "look at the folder again")
    if key == "":
        return _mapped(path, stamp[1])
    name = (path, *stamp, key)
    with _lock:  # two threads after the same array unpack it once
        if name not in _kept:
            array = _unpacked(path, key)
            _kept[name] = array
            while len(_kept) > 1 and sum(one.nbytes for one in _kept.values()) > scan.LIMIT:
                _kept.popitem(last=False)
        _kept.move_to_end(name)
        return _kept[name]


def _stamp(path: Path) -> tuple[int, int]:
    """When a file was changed last, and its bytes: another file has others."""
    size = check_size(path)
    return path.stat().st_mtime_ns, size


@lru_cache(maxsize=16)
def _directory(path: Path, changed: int, size: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array."""
    with path.open("rb") as file:
        packed = file.read(2) == b"PK" or path.suffix.lower() == ".npz"
        if not packed:
            file.seek(0)
            return {"": _header(path, file)[:2]}
    if not zipfile.is_zipfile(path):
        raise UnreadableError(path, "is cut off or no .npz file (its directory, which comes last, is missing)", AGAIN)
    found = {}
    with _archive(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".npy") and len(member.filename) > 4:
                with _member(path, archive, member) as file:
                    found[member.filename[:-4]] = _header(path, file)[:2]
    return found


def _part(path: Path, part: str) -> np.ndarray:
    """The array, or the entry of an array, that a part names."""
    names = _directory(path, *_stamp(path))
    key, index = part, ""
    if part not in names:
        key, _, index = part.rpartition("/")
    if not part and len(names) == 1:
        key = next(iter(names))
    if key not in names:
        fault = f"holds {len(names)} arrays" if not part else "does not hold the array that is asked for"
        raise UnreadableError(path, fault, "name one of its arrays, or save one scan per file")
    array = load(path, key)
    if not index:
        return array
    if not index.isdecimal() or array.ndim < 2 or int(index) >= len(array):
        raise UnreadableError(path, f"has no entry {index[:20]!r} (its axes: {sized(array.shape)})", "look at the folder again")
    return array[int(index)]


def _header(path: Path, file: BufferedIOBase) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type and whether the first axis runs fastest; the file is then at its first value."""
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = npy.read_array_header_2_0(file)
    except (*_BROKEN, SyntaxError, tokenize.TokenError, MemoryError):  # Python's parser runs out of stack, not of memory
        fault = "has no readable NumPy header"
        raise UnreadableError(path, fault, "save it again with numpy.save; pickles are not opened") from None
    if any(n < 0 for n in shape):
        raise UnreadableError(path, f"has no voxels (its header says {sized(shape)})", AGAIN)
    return tuple(int(n) for n in shape), dtype, bool(fortran)


def _mapped(path: Path, size: int) -> np.ndarray:
    """The array of a .npy, read from disk as it is used."""
    with path.open("rb") as file:
        shape, dtype, fortran = _header(path, file)
        start = file.tell()
    if dtype.hasobject:
        raise UnreadableError(path, "holds Python objects (a pickle)", _PICKLED)
    whole = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size < whole:
        raise UnreadableError(path, f"is cut off at {100 * size // whole} %", AGAIN)
    if size > whole:
        raise UnreadableError(path, f"is {size - whole} bytes longer than its header says", AGAIN)
    if size == start:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _archive(path: Path) -> zipfile.ZipFile:
    """The archive, its directory read."""
    try:
        return zipfile.ZipFile(path)
    except _BROKEN as error:
        raise UnreadableError(path, f"has an unreadable directory ({type(error).__name__})", AGAIN) from None


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BufferedIOBase:
    """One array's bytes as a stream, if they are packed as NumPy does it."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise UnreadableError(path, "is packed in a way that NumPy does not use", "save it again with numpy.savez_compressed")
    try:
        return archive.open(member)
    except _BROKEN as error:
        raise UnreadableError(path, f"is damaged ({type(error).__name__})", AGAIN) from None


def _unpacked(path: Path, key: str) -> np.ndarray:
    """One array of an archive, whole and checked; nothing is set aside for it before its sizes agree."""
    with _archive(path) as archive:
        member = archive.getinfo(f"{key}.npy")
        with _member(path, archive, member) as file:
            shape, dtype, fortran = _header(path, file)
            if dtype.hasobject:
                raise UnreadableError(path, "holds Python objects (a pickle)", _PICKLED)
            values = within_limit(path, shape or (1,), dtype)
            size = values * dtype.itemsize
            if file.tell() + size != member.file_size or size > 1032 * member.compress_size + 1024:
                raise UnreadableError(path, "declares another size than it holds", AGAIN)
            flat = np.empty(size, np.uint8)
            for start in range(0, size, _STEP):
                try:
                    piece = file.read(min(_STEP, size - start))
                except _BROKEN as error:
                    fault = f"is damaged at {100 * start // size} % ({type(error).__name__})"
                    raise UnreadableError(path, fault, AGAIN) from None
                if len(piece) < min(_STEP, size - start):
                    raise UnreadableError(path, f"is cut off at {100 * (start + len(piece)) // size} %", AGAIN)
                flat[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
    array = flat.view(dtype).reshape(shape, order="F" if fortran else "C")
    array.flags.writeable = False
    return array
