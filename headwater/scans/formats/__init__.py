"""One module per file format: SUFFIXES and read(source) -> Scan. Here is what they share: opening, limits, units."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from headwater.scans import scan
from headwater.scans.scan import Source, UnreadableError

AGAIN = "copy it again from its source, or leave it out"
EXPORT = "export it again, or leave it out"
CHANNELS = 16  # a first axis of at most this many is taken for channels where a file does not say
MM = {
    "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "cm": 10.0, "m": 1000.0, "nm": 1e-6, "nanometer": 1e-6, "inch": 25.4,
    "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3,
}  # fmt: skip


def content(path: Path) -> bytes:
    """All bytes of a file. Raises UnreadableError if it cannot be opened, is empty or larger than the limit."""
    try:
        check_size(path)
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(path, f"cannot be opened ({error.strerror})", "check its name and its permissions") from None


def check_size(path: Path) -> int:
    """Bytes in a file. Raises UnreadableError if it is not there, empty or larger than the limit."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableError(path, f"cannot be opened ({error.strerror})", "check its name and its permissions") from None
    if size == 0:
        raise UnreadableError(path, "is empty", AGAIN)
    if size > scan.LIMIT:
        raise UnreadableError(path, f"is larger than {scan.LIMIT / 2**30:g} GiB", "split it")
    return size


def within_limit(source: Source | Path, shape: tuple[int, ...], dtype: np.dtype | type) -> int:
    """Values in an array of this shape, if it may be held in memory: neither as stored nor as float32 above the limit.

    Raises UnreadableError for more, and for shapes without a value.
    """
    shape = tuple(int(n) for n in shape)
    if not shape or min(shape) < 1:
        raise UnreadableError(source, f"has no voxels (its header says {sized(shape) or 'no'})", EXPORT)
    values = math.prod(shape)
    if values * max(4, np.dtype(dtype).itemsize) > scan.LIMIT:
        fault = f"declares {sized(shape)} values, more than the limit of {scan.LIMIT / 2**30:g} GiB"
        raise UnreadableError(source, fault, "crop or split it if it really is so large, or leave it out")
    return values


def sized(shape: tuple[int, ...]) -> str:
    """(5, 6) as "5 x 6"."""
    return " x ".join(str(n) for n in shape)


def millimetres(lengths: Iterable[float]) -> tuple[float, ...]:
    """Spacing as plain numbers, without the last digits that single precision makes up."""
    return tuple(round(float(n), 6) if n >= 0.01 else float(f"{n:.6g}") for n in lengths)
