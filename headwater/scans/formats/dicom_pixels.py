"""The pixels of one DICOM file: declared, compared with the file's size, decoded."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.scans.formats import sized, within_limit
from headwater.scans.formats.dicom_header import AGAIN, broken, integer, kind, quiet, text
from headwater.scans.scan import UnreadableError

REMEDY = "decompress it with `gdcmconv --raw`, install decoders (pip install pylibjpeg pylibjpeg-libjpeg), or use dcm2niix"
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # younger than pydicom 3.0


@dataclass(frozen=True)
class Pixels:
    """What a header says about its pixels. values: after a palette is applied, 3 per pixel instead of one."""

    path: Path
    frames: int
    rows: int
    columns: int
    values: int
    colour: str
    native: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, values per pixel, rows, columns."""
        return self.frames, self.values, self.rows, self.columns


def declared(path: Path, data: Any) -> Pixels:
    """What the header of a file promises, believed only if the file is large enough and the limit is kept.

    Raises UnreadableError for a file without a picture, with one larger than the file or the limit, or of an unknown make.
    """
    rows, columns, frames = integer(data, "rows"), integer(data, "columns"), integer(data, "frames", 1) or 1
    samples, bits = integer(data, "samples", 1), integer(data, "allocated")
    if not rows or not columns:
        held = kind(data)
        if not data and "Image" in held:  # pydicom gave up on the whole of it
            raise UnreadableError(path, "is cut off or damaged", AGAIN)
        fault = f"holds no picture but a {held}" if held and "Image" not in held else "holds no picture"
        raise UnreadableError(path, fault, "leave it out")
    colour = text(data, "photometric").upper()
    if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64) or frames < 1:
        fault = f"has pixels of a kind that is not supported ({samples} values per pixel, {bits} bits each, {frames} frames)"
        raise UnreadableError(path, fault, "convert it to grey values or RGB, or leave it out")
    values = 3 if colour.startswith("PALETTE") else samples
    native = not _syntax(data).is_encapsulated
    within_limit(path, (frames, values, rows, columns), np.uint8 if bits < 8 else np.dtype(f"u{bits // 8}"))
    least = math.ceil(frames * rows * columns * samples * bits / 8)
    if colour == "YBR_FULL_422":
        least = least * 2 // 3
    size = path.stat().st_size
    if native and size < least and not _syntax(data).is_deflated:
        fault = f"is cut off: its header says {sized((frames, rows, columns))} pixels, {least} bytes, but it has {size} bytes"
        raise UnreadableError(path, fault, AGAIN)
    return Pixels(path, frames, rows, columns, values, colour, native)


def decode(pixels: Pixels, data: Any) -> np.ndarray:
    """The stored values of all frames (F, values, R, C) in their own type, YBR and palettes as RGB.

    Unused bits are cleared; modality tables and scaling are not applied. Raises UnreadableError for what cannot be decoded.
    """
    path = pixels.path
    with quiet():
        decoder = _decoder(path, data)
        try:
            _complete(data, pixels)
            array, _ = decoder.as_array(data, allow_excess_frames=False)
            if pixels.colour.startswith("PALETTE"):
                from pydicom.pixels import apply_color_lut

                array = apply_color_lut(array, data)[..., :3]
        except UnreadableError:
            raise
        except NotImplementedError:
            raise _unsupported(path, data) from None
        except broken() as error:
            raise _undecoded(path, data, error) from None
    colours = pixels.values == 3 and array.shape[-1] == 3
    flat = array if colours else array[..., None]  # (..., R, C, values)
    if flat.size != math.prod(pixels.shape) or flat.shape[-3:] != (pixels.rows, pixels.columns, pixels.values):
        raise UnreadableError(path, "decodes to another size than its header says", AGAIN)
    flat = flat.reshape(pixels.frames, pixels.rows, pixels.columns, pixels.values)
    return np.moveaxis(flat, -1, 1)


def _syntax(data: Any) -> Any:
    """How the file is written; for one that does not say, what pydicom found when it parsed the header."""
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    stated = data.file_meta.get("TransferSyntaxUID") if getattr(data, "file_meta", None) is not None else None
    if stated and isinstance(stated, str) and UID(stated).is_transfer_syntax:
        return UID(stated)
    if stated:
        return _Unknown(stated)
    implicit, little = data.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


class _Unknown(str):
    """A way of writing that pydicom's list does not have: taken for a compressed one."""

    is_encapsulated, is_deflated, name = True, False, ""


def _decoder(path: Path, data: Any) -> Any:
    """pydicom's decoder, if its library is installed."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.pixels import get_decoder

    syntax = _syntax(data)
    if not isinstance(getattr(data, "file_meta", None), FileMetaDataset):
        data.file_meta = FileMetaDataset()
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise _unsupported(path, data) from None
    if not decoder.is_available:
        raise _unsupported(path, data)
    data.file_meta.TransferSyntaxUID = syntax
    return decoder


def _complete(data: Any, pixels: Pixels) -> None:
    """Fills in what sloppy writers leave out, and counts what cannot be short: native bytes and compressed frames."""
    from pydicom.encaps import parse_fragments

    usual = {"SamplesPerPixel": 1, "PixelRepresentation": 0, "BitsStored": data.BitsAllocated}
    usual |= {"PlanarConfiguration": 0, "PhotometricInterpretation": "RGB" if pixels.values == 3 else "MONOCHROME2"}
    for name, value in usual.items():
        if data.get(name) in (None, ""):
            setattr(data, name, value)
    data.NumberOfFrames = pixels.frames
    stored = next((data[name].value for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in data), None)
    if not stored:
        raise UnreadableError(pixels.path, "has no pixels, though its header announces them", AGAIN)
    if not pixels.native:
        if parse_fragments(stored)[0] < pixels.frames:
            raise UnreadableError(pixels.path, f"is cut off: it has fewer than its {pixels.frames} frames", AGAIN)
    elif not pixels.colour.startswith("YBR") and len(stored) * 8 < math.prod(pixels.shape) * data.BitsAllocated // (
        3 if pixels.colour.startswith("PALETTE") else 1
    ):
        raise UnreadableError(pixels.path, f"is cut off: {len(stored)} bytes of pixels are there, its header says more", AGAIN)


def _unsupported(path: Path, data: Any) -> UnreadableError:
    syntax = _syntax(data)
    remedy = "save it uncompressed with the program that wrote it" if syntax == _DEFLATED_FRAMES else REMEDY
    name = "Deflated Image Frame Compression" if syntax == _DEFLATED_FRAMES else syntax.name.split(" (Process")[0]
    bits = integer(data, "allocated")
    detail = ", one bit per pixel" if bits == 1 else f", {integer(data, 'stored', bits)} bits" if "Extended" in name else ""
    named = f"is compressed as {name}{detail}" if name and not name[0].isdigit() else "is compressed in a way of its maker's own"
    return UnreadableError(path, f"{named}, which cannot be decoded here", remedy)


def _undecoded(path: Path, data: Any, error: Exception) -> UnreadableError:
    """Told apart from damage: pydicom wraps what a decoder cannot do into RuntimeError."""
    told = str(error)
    cannot = ("missing dependencies", "1 bits allocated", "only supported", "not support")
    if isinstance(error, RuntimeError) and any(word in told for word in cannot):
        return _unsupported(path, data)
    if not _syntax(data).is_encapsulated:
        return UnreadableError(path, "has pixels that are damaged or cut off", AGAIN)
    again = "copy it again from its source, or decompress it with `gdcmconv --raw`"
    return UnreadableError(path, "has compressed pixels that do not decode: damaged or cut off", again)
