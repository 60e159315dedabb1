"""TIFF: 8, 16 and 32 bits, whole numbers and floats, grey, colour and channels, single pages and stacks."""

import logging
import re
import zlib
from pathlib import Path

import numpy as np

from headwater.scans import scan
from headwater.scans.formats import AGAIN, CHANNELS, EXPORT, MM, check_size, millimetres, sized, within_limit
from headwater.scans.scan import Scan, Source, UnreadableError

SUFFIXES = (".tif", ".tiff")
_DEFLATE, _JPEG = (8, 32946), 7
_SPARE = 1 << 20  # bytes that a piece may unpack to beyond what it should
_ALONE = {"_multifile": False, "is_mmstack": False, "is_ndtiff": False}  # a file that names others does not open them
_WHITE_IS_ZERO, _RGB, _PALETTE, _SEPARATED = 0, 2, 3, 5


def read(source: Source, *, indices: bool = False) -> Scan:
    """The scan in a TIFF: pages, or an axis Z of ImageJ or OME, are slices: (C, pages, rows, columns); one page is a picture.

    Samples of a pixel and an axis C are channels; of colours with alpha the alpha is dropped. Palettes become the
    colours they stand for, or with `indices` stay numbers. Spacing is what ImageJ or OME state with a unit; the dots
    per inch of other TIFFs say nothing about a body.
    Raises UnreadableError for what is cut off, damaged, larger than the limit, of pages that differ in size or
    packed in a way that needs a library which is not there.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it complains about is checked here
    path = source.path
    check_size(path)
    try:
        with tifffile.TiffFile(path, **_ALONE) as file:
            series = _one_series(path, file)
            page = series.keyframe
            within_limit(path, series.shape, series.dtype)
            _check_pieces(path, file, series)
            array = _decoded(path, file, series)
            spacing, said = _spacing(file)
            table = page.colormap if page.photometric == _PALETTE and not indices else None
    except tifffile.TiffFileError as error:
        raise UnreadableError(path, f"is no readable TIFF ({type(error).__name__})", AGAIN) from None
    notes = [said] if said else []
    if file.is_ome and series.kind != "ome":
        notes.append("one of several files: its own pages only")
    if len(series.levels) > 1:
        notes.append(f"largest of {len(series.levels)} resolutions")
    if array.dtype.kind not in "biuf":
        raise UnreadableError(path, f"has {array.dtype} voxels, which are not supported", "save whole numbers or floats")
    stored = "uint8" if array.dtype == bool else str(array.dtype.newbyteorder("="))
    if page.photometric == _WHITE_IS_ZERO:
        notes.append("white is zero")
    axes = series.axes
    if table is not None:
        array, axes = _through(array, table), series.axes + "S"
    channels, slices = _arranged(path, array, axes, notes)
    if page.photometric == _RGB and page.extrasamples and channels.shape[0] == 4:
        channels = channels[:3]
        notes.append("alpha dropped")
    depth = spacing.get("Z")
    stated = "X" in spacing and "Y" in spacing and (depth is not None or not slices)
    if spacing and not stated:
        notes.append("distance of slices not stated")
    size = millimetres(spacing[axis] for axis in ("ZYX" if slices else "YX")) if stated else (1.0,) * (3 if slices else 2)
    channels = np.array(channels, dtype=np.float32, order="C")
    return Scan(channels, size, np.diag([*size, 1.0, 1.0][:3] + [1.0]), source, stored, "TIFF", "", stated, tuple(notes))


def _one_series(path: Path, file: object) -> object:
    """The one array in the file."""
    if not len(file.pages) or not file.series:
        raise UnreadableError(path, "has no pages", AGAIN)
    _check_chain(path, file)
    kinds = file.series
    if len(kinds) > 1:
        shapes = {tuple(series.keyframe.shape) for series in kinds}
        if len(shapes) > 1:
            said = " and ".join(sized(shape) for shape in sorted(shapes)[:3])
            raise UnreadableError(path, f"has pages that differ in size ({said})", "save one file for each size")
        raise UnreadableError(path, f"holds {len(kinds)} series of pages", "save one file for each")
    series = kinds[0]
    page = series.keyframe
    if page.photometric == _SEPARATED:
        raise UnreadableError(path, "has CMYK colours", "save it in grey or RGB")
    if page.dtype is None:
        raise UnreadableError(path, f"has {page.bitspersample} bits per value, which are not supported", "save 8, 16 or 32 bits")
    return series


def _check_chain(path: Path, file: object) -> None:
    """Whether each page is followed by another or by the end. Damage there would look like fewer pages."""
    pages, size = file.pages, file.filehandle.size
    at = pages.next_page_offset
    file.filehandle.seek(at)
    word = file.filehandle.read(file.tiff.offsetsize)
    if len(word) < file.tiff.offsetsize:
        raise UnreadableError(path, f"is cut off after page {len(pages)}", AGAIN)
    if int.from_bytes(word, "big" if file.byteorder == ">" else "little") >= size:
        raise UnreadableError(path, f"is cut off after page {len(pages)} (the next lies beyond its end)", AGAIN)


def _check_pieces(path: Path, file: object, series: object) -> None:
    """Whether all voxels lie within the file, and unpack to no more than they should."""
    size, end = file.filehandle.size, 0
    page = series.keyframe
    if series.dataoffset is not None:
        end = series.dataoffset + series.nbytes
    for one in series.pages:
        if one is None:
            raise UnreadableError(path, "lacks some of its pages", AGAIN)
        counts, offsets = one.databytecounts, one.dataoffsets
        if len(counts) != len(offsets) or not counts or min(counts) < 0:
            raise UnreadableError(path, "does not say where its voxels are", EXPORT)
        end = max(end, *(a + n for a, n in zip(offsets, counts, strict=True)))
        if end > size:
            raise UnreadableError(path, f"is cut off at {min(99, 100 * size // end)} %", AGAIN)
        if one.shape != page.shape or (page.compression == 1 and 8 * sum(counts) < page.bitspersample * page.size):
            raise UnreadableError(path, "has pages of another size than its header says", AGAIN)
        for at, count in zip(offsets, counts, strict=True) if page.compression in (*_DEFLATE, _JPEG) else ():
            file.filehandle.seek(at)
            if page.compression == _JPEG:
                _whole_jpeg(path, file.filehandle.read(count))
            elif count * 1032 > scan.LIMIT:
                _bounded(path, file.filehandle.read(count), one.nbytes)


def _whole_jpeg(path: Path, packed: bytes) -> None:
    """Nothing if a piece in JPEG ends as it should: libtiff makes up what is missing."""
    if packed and not packed.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise UnreadableError(path, "is cut off within its voxels", AGAIN)


def _bounded(path: Path, packed: bytes, most: int) -> None:
    """Nothing if these bytes unpack to `most` at most (a row of padding aside)."""
    machine, have = zlib.decompressobj(), 0
    while packed and not machine.eof:
        have += len(machine.decompress(packed, 1 << 24))
        packed = machine.unconsumed_tail
        if have > 2 * most + _SPARE:
            raise UnreadableError(path, "unpacks to more than its header says", EXPORT)


def _decoded(path: Path, file: object, series: object) -> np.ndarray:
    """The array of the series, by tifffile, or where that lacks the means by Pillow's libtiff."""
    page = series.keyframe
    try:
        return series.asarray(maxworkers=1)
    except zlib.error:
        raise UnreadableError(path, "is damaged (its voxels do not unpack)", AGAIN) from None
    except (ValueError, NotImplementedError, AttributeError, ImportError) as error:
        if page.compression == 1 or page.compression in _DEFLATE:
            raise UnreadableError(path, f"is damaged ({type(error).__name__})", AGAIN) from None
    name = getattr(page.compression, "name", str(page.compression))
    array = _by_pillow(path, series)
    if array is None:
        raise UnreadableError(path, f"is packed as {name}, for which a library is missing", "pip install imagecodecs")
    return array


def _by_pillow(path: Path, series: object) -> np.ndarray | None:
    """The array of a series of pages of this kind as libtiff decodes it; None where Pillow would change the values."""
    from PIL import UnidentifiedImageError
    from PIL.TiffImagePlugin import TiffImageFile

    page = series.keyframe
    if page.samplesperpixel > 1 and page.bitspersample != 8 or page.planarconfig != 1:
        return None
    layers = []
    try:
        with TiffImageFile(path) as image:
            for one in series.pages:
                image.seek(one.index)
                layer = np.asarray(image)
                if layer.shape != page.shape or layer.dtype.itemsize != page.dtype.itemsize or image.mode in ("CMYK", "LAB"):
                    return None
                layers.append(layer.view(page.dtype) if layer.dtype.kind != page.dtype.kind else layer)
    except (UnidentifiedImageError, SyntaxError, KeyError):
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(path, f"is damaged ({type(error).__name__})", AGAIN) from None
    return np.stack(layers).reshape(series.shape)


def _through(array: np.ndarray, colormap: np.ndarray) -> np.ndarray:
    """Indices to what the palette has for them, (..., 3), in 8 bits if it uses no more."""
    table = np.asarray(colormap).T  # (entries, 3), uint16
    table = (table >> 8).astype(np.uint8) if (table % 257 == 0).all() or (table % 256 == 0).all() else table
    return table[np.minimum(array, len(table) - 1)]


def _arranged(path: Path, array: np.ndarray, axes: str, notes: list[str]) -> tuple[np.ndarray, bool]:
    """(C, rows, columns) or (C, slices, rows, columns), and whether there are slices."""
    keep = [i for i, n in enumerate(array.shape) if n > 1 or axes[i] in "YX"]
    array, axes = array.reshape([array.shape[i] for i in keep]), "".join(axes[i] for i in keep)
    inner = [i for i, axis in enumerate(axes) if axis not in "YXSC"]
    if len(inner) == 2 and set("ZT") == {axes[i] for i in inner}:
        notes.append("time points as channels")
        axes, inner = axes.replace("T", "C"), [axes.index("Z")]
    elif len(inner) == 2 and axes[inner[0]] not in "ZT" and array.shape[inner[0]] <= CHANNELS:
        axes, inner = axes[: inner[0]] + "C" + axes[inner[0] + 1 :], inner[1:]
    if len(inner) > 1:
        fault = f"has {len(axes)} axes ({sized(array.shape)})"
        raise UnreadableError(path, fault, "save it as slices, rows, columns and one more axis for channels")
    if inner and axes[inner[0]] == "T":
        notes.append("time points as slices")
    order = [i for i, axis in enumerate(axes) if axis in "SC"] + inner + [axes.index("Y"), axes.index("X")]
    array = array.transpose(order)
    axes = 3 if inner else 2
    return array.reshape(-1, *array.shape[-axes:]), bool(inner)


def _spacing(file: object) -> tuple[dict[str, float], str]:
    """mm per voxel by axis as OME or ImageJ state them, empty if they do not; and a note."""
    if file.is_ome:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", file.ome_metadata or "")
        told = dict(re.findall(r'PhysicalSize(\w+)="([^"]*)"', pixels.group())) if pixels else {}
        found = {}
        for axis in "XYZ":
            unit, length = MM.get(told.get(f"{axis}Unit", "\u00b5m")), _number(told.get(axis))
            if unit and length:
                found[axis] = length * unit
        return found, ""
    if not file.is_imagej:
        return {}, ""
    told, tags = file.imagej_metadata or {}, file.pages[0].tags
    unit = MM.get(str(told.get("unit", "")).replace("\\u00B5", "\u00b5").lower())
    if unit is None:
        return {}, ""
    found = {"Z": (_number(told.get("spacing")) or 0.0) * unit}
    for axis in "XY":
        tag = tags.get(f"{axis}Resolution")
        above, below = tag.value if tag is not None else (0, 1)  # pixels per unit
        found[axis] = unit * below / above if above else 0.0
    return {axis: length for axis, length in found.items() if length > 1e-9}, ""


def _number(text: object) -> float | None:
    """A finite number above zero, else None."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None
