"""Pictures: PNG, JPEG, BMP and WebP, with all the bits they have."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np

from headwater.scans.formats import AGAIN, content, within_limit
from headwater.scans.formats.gunzip import inflate
from headwater.scans.scan import Scan, Source, UnreadableError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_PNG = b"\x89PNG\r\n\x1a\n"
_PARTS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # values per pixel, by the colour type of a PNG
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # interlaced
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I", "F")


def read(source: Source, *, indices: bool = False) -> Scan:
    """The picture in a file: (1, rows, columns), or (3, rows, columns) in colour, with the numbers it stores.

    Eight or sixteen bits, colour too. Palettes become the colours they stand for, or with `indices` stay numbers.
    Alpha is dropped, with a note; orientation and resolution tags are not followed, as they say nothing about a body.
    Raises UnreadableError for what is cut off, damaged, larger than the limit, in CMYK or no such picture.
    """
    path = source.path
    data = content(path)
    if data.startswith(_PNG):
        _check_png(path, data)
    image = _opened(path, data)
    within_limit(path, (*image.size[::-1], len(image.getbands())), np.float32)
    name, notes = {"JPEG": "JPEG", "WEBP": "WebP"}.get(image.format, image.format), []
    if image.mode not in _MODES:
        raise UnreadableError(path, f"has {image.mode} colours", "save it in grey or RGB")
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"first of {image.n_frames} frames")
    if image.mode in ("LA", "PA", "RGBA"):
        notes.append("alpha dropped")
    array = _values(path, data, image, indices)  # (rows, columns) or (rows, columns, 3)
    stored = "uint8" if array.dtype == bool else str(array.dtype.newbyteorder("="))
    channels = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    channels = np.array(channels, dtype=np.float32, order="C")
    return Scan(channels, (1.0, 1.0), np.eye(4), source, stored, name, "", False, tuple(notes))


def _opened(path: Path, data: bytes) -> object:
    """The picture, its header read, nothing decoded."""
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    kinds = ((_PNG, PngImageFile), (b"\xff\xd8", JpegImageFile), (b"BM", BmpImageFile), (b"RIFF", WebPImageFile))
    kind = next((kind for magic, kind in kinds if data.startswith(magic)), None)
    if kind is None:
        raise UnreadableError(path, "is no PNG, JPEG, BMP or WebP picture", "check what it is, or convert it to PNG")
    try:
        return kind(io.BytesIO(data))
    except (SyntaxError, OSError, ValueError, EOFError, struct.error) as error:
        fault = f"has an unreadable header ({type(error).__name__})"
        if kind is JpegImageFile and "-bit layers" in str(error):
            raise UnreadableError(path, "is a JPEG with more than 8 bits", "convert it to a 16-bit PNG or TIFF") from None
        raise UnreadableError(path, fault, AGAIN) from None


def _values(path: Path, data: bytes, image: object, indices: bool) -> np.ndarray:
    """(rows, columns) or (rows, columns, 3), in the type the file stores."""
    try:
        if data.startswith(_PNG) and data[24] == 16 and data[25] != 0:
            return _sixteen(path, data, image)
        image.load()
    except OSError as error:
        fault = "is cut off" if "truncated" in str(error) else f"is damaged ({type(error).__name__})"
        raise UnreadableError(path, fault, AGAIN) from None
    if image.mode in ("P", "PA"):
        array = np.asarray(image.getchannel(0) if image.mode == "PA" else image)
        return array if indices else _through(image, array)
    array = np.asarray(image)
    return array[..., 0] if image.mode == "LA" else array[..., :3] if array.ndim == 3 else array


def _through(image: object, array: np.ndarray) -> np.ndarray:
    """Indices to what the palette has for them: (rows, columns, 3), or (rows, columns) if all of that is grey."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)  # (entries, 3)
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    colours = table[array]
    grey = (table[np.unique(array)] == table[np.unique(array)][:, :1]).all()
    return colours[..., 0] if grey else colours


def _sixteen(path: Path, data: bytes, image: object) -> np.ndarray:
    """Colour (or grey with alpha) in sixteen bits, of which Pillow by itself keeps eight.

    It is decoded with a layout that hands the bytes over: grey and alpha as four of them, and colours
    twice, once as what Pillow drops (in the other byte order, that is the lower byte), once as what it keeps.
    """
    if data[25] == 4:
        return _laid_out(image, "RGBA")[..., :2].astype(np.uint16) @ np.array([256, 1], np.uint16)
    kind = "RGB" if data[25] == 2 else "RGBA"
    upper = _laid_out(image, f"{kind};16B")
    lower = _laid_out(_opened(path, data), f"{kind};16L")
    return upper[..., :3].astype(np.uint16) * 256 + lower[..., :3]


def _laid_out(image: object, layout: str) -> np.ndarray:
    """The pixels, decoded as if their bytes were laid out so."""
    image.tile = [tile._replace(args=layout) for tile in image.tile]
    image.load()
    return np.asarray(image)


def _check_png(path: Path, data: bytes) -> None:
    """Every byte of a PNG against its checksums, and its pixels against the size it declares."""
    if len(data) < 33:
        raise UnreadableError(path, "is cut off inside its header", AGAIN)
    columns, rows, bits, colour, _, _, passes = struct.unpack(">IIBBBBB", data[16:29])
    within_limit(path, (rows, columns, _PARTS.get(colour, 1)), np.float32)
    depth, at, kind, pixels = bits * _PARTS.get(colour, 1), 8, b"", []
    while kind != b"IEND" and at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + length
        if kind == b"IDAT":
            pixels.append(data[at + 8 : end])
        if end + 4 > len(data):
            kind = b""
        elif zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise UnreadableError(path, f"is damaged at {100 * at // len(data)} % (a checksum does not fit)", AGAIN)
        at = end + 4
    whole = 0  # bytes of all rows, each with one that names its filter
    for top, left, down, right in _PASSES if passes else ((0, 0, 1, 1),):
        high, wide = (rows - top + down - 1) // down, (columns - left + right - 1) // right
        whole += high * (1 + (wide * depth + 7) // 8) if high > 0 and wide > 0 else 0
    raw, damage, _ = inflate(b"".join(pixels), whole, bare=True)
    if kind != b"IEND" or len(raw) < whole or damage:
        raise UnreadableError(path, f"is {damage or 'cut off'} at {min(99, 100 * len(raw) // max(whole, 1))} %", AGAIN)
