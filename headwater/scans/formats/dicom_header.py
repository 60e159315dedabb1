"""The heads of DICOM files: chosen elements only, parsed from their bytes, with nothing in them trusted.

pydicom finds the elements; their values are taken from the bytes here, ten times as fast as its own conversion, and a
damaged value counts as absent. What names a patient is read by `series` alone and goes into no message.
"""

import binascii
import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from headwater.scans import scan
from headwater.scans.scan import UnreadableError

AGAIN = "copy it again from its source, or leave it out"
CONVERT = "convert the series to NIfTI with dcm2niix"
_CHUNK, _HEAD = 1 << 20, 1 << 16
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_CSA = (0x00290010, 0x00290011, 0x00291010, 0x00291110)  # private, of Siemens
PERSON = (0x00100010, 0x00100020, 0x00080050, 0x00080080, 0x00080090, 0x00081070, 0x00100030, 0x00101000, 0x00101001)
_WIDTHS = {"US": (2, "H"), "UL": (4, "L"), "FD": (8, "d"), "FL": (4, "f")}
_TAGS = {  # name -> tag, type; "" is text, DS a decimal number in text, SQ a sequence
    "kind": (0x00080016, ""), "meta_kind": (0x00020002, ""), "instance": (0x00080018, ""), "image_type": (0x00080008, ""),
    "modality": (0x00080060, ""),
    "study_date": (0x00080020, ""), "time": (0x00080032, ""), "description": (0x0008103E, ""), "patient": (0x00100020, ""),
    "referenced": (0x00081115, "SQ"), "study": (0x0020000D, ""), "series": (0x0020000E, ""), "concatenation": (0x00209161, ""),
    "thickness": (0x00180050, "DS"), "echo_time": (0x00180081, "DS"), "between": (0x00180088, "DS"),
    "detector": (0x00181164, "DS"), "acquisition": (0x00200012, "DS"), "number": (0x00200013, "DS"),
    "position": (0x00200032, "DS"), "orientation": (0x00200037, "DS"), "temporal": (0x00200100, "DS"),
    "samples": (0x00280002, "US"), "photometric": (0x00280004, ""), "frames": (0x00280008, "DS"), "rows": (0x00280010, "US"),
    "columns": (0x00280011, "US"), "spacing": (0x00280030, "DS"), "allocated": (0x00280100, "US"), "stored": (0x00280101, "US"),
    "burned_in": (0x00280301, ""), "inter": (0x00281052, "DS"), "slope": (0x00281053, "DS"), "lossy": (0x00282110, ""),
    "segment_type": (0x00620001, ""), "segments": (0x00620002, "SQ"), "segment_number": (0x00620004, "US"),
    "segment_label": (0x00620005, ""), "fractional": (0x0062000E, "US"),
    "segment_kind": (0x0062000F, "SQ"), "meaning": (0x00080104, ""),
    "referenced_segment": (0x0062000B, "US"), "identification": (0x0062000A, "SQ"),
    "shared": (0x52009229, "SQ"), "per_frame": (0x52009230, "SQ"), "content": (0x00209111, "SQ"),
    "plane_position": (0x00209113, "SQ"), "plane_orientation": (0x00209116, "SQ"), "measures": (0x00289110, "SQ"),
    "transformation": (0x00289145, "SQ"), "echo": (0x00189114, "SQ"), "effective_echo": (0x00189082, "FD"),
    "temporal_index": (0x00209128, "UL"),
}  # fmt: skip
_LAST = 0x00280101  # nothing that groups series stands behind this
_KNOWN = frozenset("CR CT DX ES GM IO IVUS MG MR NM OCT OP OPT OT PT PX RF RG RTDOSE RTIMAGE SC SEG SM US XA XC".split())


class _Bounded(io.BufferedReader):
    """A file whose deflated rest, which pydicom asks for at once, may not unpack to more than LIMIT."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size == -1:
            inflate, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data
            while rest and not inflate.eof and total <= scan.LIMIT:
                total += len(inflate.decompress(rest, _CHUNK))
                rest = inflate.unconsumed_tail
            if total > scan.LIMIT:
                raise ValueError("unpacks to more than the limit")
        return data


def broken() -> tuple[type[Exception], ...]:
    """What pydicom, Pillow and struct raise on damaged input."""
    from PIL import Image
    from pydicom.errors import BytesLengthException, InvalidDicomError

    known = (ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError)
    known += (RuntimeError, StopIteration, TypeError, ValueError, binascii.Error, struct.error, zlib.error)
    return (*known, BytesLengthException, InvalidDicomError, Image.DecompressionBombError)


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings, which quote values, and without its checks of them."""
    from pydicom.config import disable_value_validation

    logger = logging.getLogger("pydicom")
    before = logger.level
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(before)


def head(path: Path) -> Any:
    """The elements of a file that grouping needs, as a pydicom data set; reading ends behind them. Call it within `quiet`.

    Nearly always they are in the first 64 KiB: pydicom parses memory a third faster than a file.
    Raises UnreadableError for a file that is missing, empty or has no DICOM header.
    """
    from pydicom.filereader import read_partial

    ended = []

    def past(tag: int, vr: str | None, length: int) -> bool:
        beyond = int.__gt__(tag, _LAST)  # pydicom's own comparison is a Python function
        if beyond:
            ended.append(tag)
        return beyond

    try:
        with open(path, "rb", 0) as file:
            start = file.read(_HEAD)
        data = read_partial(io.BytesIO(start), past, force=True, specific_tags=_chosen())
        if ended or len(start) < _HEAD:
            return _checked(path, data)
    except broken() as error:
        if isinstance(error, OSError) and error.strerror:
            raise _fault(path, error) from None
    try:
        with _Bounded(io.FileIO(path)) as file:
            return _checked(path, read_partial(file, past, force=True, specific_tags=_chosen()))
    except broken() as error:
        raise _fault(path, error) from None


def whole(path: Path) -> Any:
    """What decoding needs of a file within the limit, with its pixels as they are stored; otherwise as `head`."""
    from pydicom.filereader import read_partial

    try:
        if path.stat().st_size > scan.LIMIT:
            raise UnreadableError(path, f"is larger than {scan.LIMIT / 2**30:g} GiB", "split it")
        content = path.read_bytes()
        with _Bounded(io.FileIO(path)) if _DEFLATED in content else io.BytesIO(content) as file:
            return _checked(path, read_partial(file, force=True, specific_tags=_decoding()))
    except broken() as error:
        raise _fault(path, error) from None


def _checked(path: Path, data: Any) -> Any:
    if not data and not data.file_meta:
        raise UnreadableError(path, "has no DICOM header", "check that it is a DICOM file, or leave it out")
    return data


def values(data: Any, name: str) -> tuple:
    """The values of one element, as text, float or int by its type; () if it is absent, empty or damaged."""
    tag, kind = _tag(name)
    try:
        element = data.get_item(tag)
        if element is None or element.value is None:
            return ()
        value = element.value
        if kind == "SQ":
            return tuple(data[tag].value)
        if not isinstance(value, bytes):
            parts = [value] if isinstance(value, (str, int, float)) else list(value)
        elif kind in _WIDTHS and (element.VR or kind) in _WIDTHS:
            width, code = _WIDTHS[element.VR or kind]
            order = "<" if element.is_little_endian else ">"
            parts = struct.unpack(f"{order}{len(value) // width}{code}", value[: len(value) // width * width])
        else:
            parts = value.decode("latin-1").split("\\")
        if kind:
            return tuple(float(part) for part in parts if not isinstance(part, str) or part.strip(" \0"))
        return tuple(str(part).strip(" \0") for part in parts)
    except broken():
        return ()


def text(data: Any, name: str) -> str:
    """The first value as text, "" without one."""
    return next(iter(values(data, name)), "")


def number(data: Any, name: str, default: float = 0.0) -> float:
    """The first value if it is a finite number, else `default`."""
    found = next(iter(values(data, name)), default)
    return found if math.isfinite(found) else default


def integer(data: Any, name: str, default: int = 0) -> int:
    """The first value as a whole number."""
    return int(number(data, name, default))


def vector(data: Any, name: str, length: int) -> tuple[float, ...]:
    """Exactly `length` finite numbers, or ()."""
    found = values(data, name)
    return found if len(found) == length and all(map(math.isfinite, found)) else ()


def inner(data: Any, name: str) -> Any:
    """The first item of a sequence, or None."""
    return next(iter(values(data, name)), None) if data is not None else None


def modality(data: Any) -> str:
    """MR, CT, ... "" if it is none that the standard knows."""
    found = text(data, "modality")
    return found if found in _KNOWN else ""


def kind(data: Any) -> str:
    """The standard's own name of what a file holds, such as "CT Image"; "" for a private kind."""
    from pydicom.uid import UID_dictionary

    meta = getattr(data, "file_meta", None)
    stated = text(data, "kind") or (text(meta, "meta_kind") if meta is not None else "")
    return UID_dictionary.get(stated, ("",))[0].removesuffix(" Storage")


def _fault(path: Path, error: Exception) -> UnreadableError:
    """In words of ours: what a library says may quote the file."""
    if isinstance(error, UnreadableError):
        return error
    if isinstance(error, OSError) and error.strerror:
        return UnreadableError(path, f"cannot be opened ({error.strerror})", "check its name and its permissions")
    if "limit" in str(error):
        return UnreadableError(path, f"unpacks to more than {scan.LIMIT / 2**30:g} GiB", "leave it out, or split it")
    return UnreadableError(path, "is no DICOM file, or cut off or damaged", AGAIN)


@cache
def _tag(name: str) -> tuple[Any, str]:
    from pydicom.tag import BaseTag

    return BaseTag(_TAGS[name][0]), _TAGS[name][1]


@cache
def _chosen() -> list[int]:
    return [tag for tag, _ in _TAGS.values() if tag <= _LAST]


@cache
def _decoding() -> list[int]:
    """Ours, all about pixels (groups 28 and 7FE0), the private ones, and those that name people, which `names` avoids."""
    from pydicom.datadict import DicomDictionary

    pixels = [tag for tag in DicomDictionary if tag >> 16 in (0x0028, 0x7FE0)]
    return [*pixels, *(tag for tag, _ in _TAGS.values()), *_CSA, *PERSON]
