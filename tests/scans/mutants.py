"""Small good files of every format, and files damaged in every way: one number names one case, the same on every machine."""

import gzip
import io
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

INTS = (
    0,
    -1,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    17,
    127,
    128,
    255,
    256,
    32767,
    -32768,
    65535,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**62,
    -(2**63),
)
FLOATS = (0.0, -0.0, -1.0, 1.0, float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 1e-30, 1e38, 1e300, 5e-324, 3.5)


@dataclass(frozen=True)
class Mutant:
    """Files by name, which of them to read, and what reading may give.

    whole: what the good file holds, which is all that may come out (the damage is of a kind that must be noticed); None
    where damage cannot be told from another scan. packed: how many values a byte of the file may stand for at most.
    """

    files: dict[str, bytes]
    name: str
    how: str
    whole: np.ndarray | None = None
    packed: float = 1.0
    all: bool = False  # the files are those of one DICOM series


@dataclass(frozen=True)
class Kind:
    """One sort of file: its good bytes, what knows its fields, what protects it."""

    files: dict[str, bytes]
    name: str
    fields: Callable[[bytes, np.random.Generator], bytes]
    checked: bool = False  # every byte stands under a checksum
    packed: float = 1.0
    all: bool = False
    cut: bool = True  # a file cut off can be told from a whole one
    extra: dict = field(default_factory=dict)


def noise(shape: tuple[int, ...], kind: type = np.int16, seed: int = 0) -> np.ndarray:
    """Values of 0 to 249, none of them telling."""
    return np.random.default_rng(seed).integers(0, 250, shape).astype(kind)


# damage that knows no format


def bytes_changed(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Bits flipped, pieces moved, put in, taken out, overwritten with telling numbers; mostly near the start."""
    if not data:
        return b"\0", "byte put in"
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        near = min(len(changed), 400) if rng.random() < 0.6 else len(changed)
        at, how = int(rng.integers(0, max(1, near))), int(rng.integers(0, 8))
        size = int(rng.integers(1, 40))
        if how <= 1:
            changed[min(at, len(changed) - 1)] ^= 1 << int(rng.integers(0, 8))
        elif how == 2:
            changed[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif how == 3:
            start = int(rng.integers(0, len(changed)))
            changed[at : at + size] = changed[start : start + size]
        elif how == 4:
            changed[at:at] = rng.bytes(size)
        elif how == 5:
            del changed[at : at + size]
        elif how == 6:
            number = int(rng.choice(np.array(INTS, dtype=object)))
            width = int(rng.choice([2, 4, 8]))
            changed[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little" if rng.random() < 0.7 else "big")
        else:
            changed[at : at + size] = bytes(size)
        if not changed:
            changed = bytearray(b"\0")
    return bytes(changed), "bytes changed"


def cut_off(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """The start of a file: nothing, a header, or all but a few bytes."""
    ends = (0, 1, 4, 100, 348, 352, len(data) - 1, len(data) - 2, len(data) - 8, int(rng.integers(0, len(data))))
    return data[: max(0, min(len(data) - 1, ends[int(rng.integers(0, len(ends)))]))], "cut off"


def numbers_in_text(data: bytes, rng: np.random.Generator) -> bytes:
    """A number in the text of a header replaced, or a word."""
    text = data[:2000].decode("latin-1")
    found = list(re.finditer(r"-?\d+(\.\d+)?|[A-Za-z_]{3,}", text))
    if not found:
        return data
    match = found[int(rng.integers(0, len(found)))]
    words = (
        "",
        "nan",
        "inf",
        "-1",
        "0",
        "1e999",
        "99999999999999999999",
        "x" * 300,
        "../../canary.raw",
        "\0",
        "None",
        "[]",
        "(1,)",
        "%s%n",
    )
    number = str(int(rng.choice(np.array(INTS, dtype=object))))
    with_ = number if rng.random() < 0.6 else words[int(rng.integers(0, len(words)))]
    return (text[: match.start()] + with_ + text[match.end() :]).encode("latin-1") + data[2000:]


def _table(fields: tuple[tuple[int, str], ...]) -> Callable[[bytes, np.random.Generator], bytes]:
    """Damage to one to three of the numbers at these places, each by its type."""

    def change(data: bytes, rng: np.random.Generator) -> bytes:
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at, code = fields[int(rng.integers(0, len(fields)))]
            width = struct.calcsize(code)
            if code[-1] in "fd":
                with np.errstate(over="ignore"):
                    value = float(np.float32(FLOATS[int(rng.integers(0, len(FLOATS)))]))
                changed[at : at + width] = struct.pack(code, value)
            else:
                number = int(rng.choice(np.array(INTS, dtype=object))) % (1 << 8 * width)
                changed[at : at + width] = number.to_bytes(width, "big" if code[0] == ">" else "little")
        return bytes(changed)

    return change


# NIfTI and MGH

_NIFTI = tuple((40 + 2 * i, "<h") for i in range(8)) + (
    (70, "<h"),
    (72, "<h"),
    (108, "<f"),
    (112, "<f"),
    (116, "<f"),
    (123, "<b"),
)
_NIFTI += tuple((76 + 4 * i, "<f") for i in range(8)) + ((252, "<h"), (254, "<h"), (0, "<i"), (344, "<i"))
_NIFTI += tuple((256 + 4 * i, "<f") for i in range(6)) + tuple((280 + 4 * i, "<f") for i in range(12))
_NIFTI2 = tuple((16 + 8 * i, "<q") for i in range(8)) + ((12, "<h"), (14, "<h"), (168, "<q"), (176, "<d"), (184, "<d"))
_NIFTI2 += (
    tuple((104 + 8 * i, "<d") for i in range(8)) + ((344, "<i"), (348, "<i")) + tuple((400 + 8 * i, "<d") for i in range(12))
)
_MGH = tuple((4 * i, ">i") for i in range(7)) + ((28, ">h"),) + tuple((30 + 4 * i, ">f") for i in range(15))


def _packed(change: Callable, level: int = 1) -> Callable:
    """Damage within gzip, packed again: the checksum fits."""

    def within(data: bytes, rng: np.random.Generator) -> bytes:
        return gzip.compress(change(gzip.decompress(data), rng), level, mtime=0)

    return within


def _saved(image: object, *names: str) -> dict[str, bytes]:
    import nibabel

    with tempfile.TemporaryDirectory() as place:
        nibabel.save(image, Path(place, names[0]))
        return {name: Path(place, name).read_bytes() for name in names}


def nifti() -> list[Kind]:
    """NIfTI-1 and -2, packed, paired and in colour; Analyze."""
    import nibabel

    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    one = nibabel.Nifti1Image(noise((5, 6, 4)), affine)
    two = nibabel.Nifti2Image(noise((5, 6, 4), np.float32), affine)
    colour = np.zeros((5, 6, 4), [(c, "u1") for c in "RGB"])
    for i, c in enumerate("RGB"):
        colour[c] = noise((5, 6, 4), np.uint8, i)
    scaled = nibabel.Nifti1Image(noise((5, 6, 4), np.uint8), affine)
    scaled.header.set_slope_inter(2.0, -5.0)
    rgb, pair = nibabel.Nifti1Image(colour, affine), nibabel.Nifti1Pair(noise((5, 6, 4)), affine)
    own, old = _table(_NIFTI), nibabel.AnalyzeImage(noise((5, 6, 4)), affine)
    inner = Kind(_saved(one, "a.nii"), "a.nii", own).files["a.nii"]
    return [
        Kind({"a.nii": inner}, "a.nii", own),
        Kind({"a.nii.gz": gzip.compress(inner, 1, mtime=0)}, "a.nii.gz", _packed(own), checked=True, packed=1032),
        Kind(_saved(two, "a.nii"), "a.nii", _table(_NIFTI2)),
        Kind(_saved(rgb, "a.nii"), "a.nii", own, packed=3),
        Kind(_saved(scaled, "a.nii"), "a.nii", own),
        Kind(_saved(pair, "a.hdr", "a.img"), "a.hdr", own),
        Kind(_saved(old, "a.hdr", "a.img"), "a.hdr", own),
    ]


def mgh() -> list[Kind]:
    """FreeSurfer's volumes."""
    import nibabel

    image = nibabel.MGHImage(noise((5, 6, 4), np.int32), np.diag([1.0, 1.5, 2.0, 1.0]))
    inner = _saved(image, "a.mgh")["a.mgh"]
    own = _table(_MGH)
    return [
        Kind({"a.mgh": inner}, "a.mgh", own),
        Kind({"a.mgz": gzip.compress(inner, 1, mtime=0)}, "a.mgz", _packed(own), checked=True, packed=1032),
    ]


# DICOM


def _set(**telling: tuple) -> Callable[[bytes, np.random.Generator], bytes]:
    """Damage to the elements of a DICOM file: odd values, elements gone, pixels of another length."""

    def change(data: bytes, rng: np.random.Generator) -> bytes:
        import pydicom
        from pydicom.config import disable_value_validation

        ds = pydicom.dcmread(io.BytesIO(data))
        for _ in range(int(rng.integers(1, 3))):
            name = list(telling)[int(rng.integers(0, len(telling)))]
            values = telling[name]
            value = values[int(rng.integers(0, len(values)))] if rng.random() < 0.85 else None
            place = ds.file_meta if name == "TransferSyntaxUID" else ds
            if value is None:
                place.pop(name, None)
            elif name == "PixelData":
                ds.PixelData = value + ds.PixelData[: int(rng.integers(0, len(ds.PixelData)))] if "PixelData" in ds else value
            else:
                try:
                    with disable_value_validation():
                        setattr(place, name, value)
                except (TypeError, ValueError, OverflowError):
                    return _raw_text(data, name, value)
        out = io.BytesIO()
        try:
            with disable_value_validation():
                ds.save_as(out, implicit_vr=False, little_endian=True, enforce_file_format=False)
        except (TypeError, ValueError, AttributeError, OverflowError, struct.error, KeyError, NotImplementedError):
            return bytes_changed(data, rng)[0]
        return out.getvalue()

    return change


def _raw_text(data: bytes, name: str, value: object) -> bytes:
    """An explicit element of numbers in text overwritten by what pydicom does not write."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(name) or 0
    at = data.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
    if at < 0:
        return data[:200] + data[201:]
    size = int.from_bytes(data[at + 6 : at + 8], "little")
    text = "\\".join(value) if isinstance(value, list) else str(value)
    text = text.encode("latin-1").ljust(2 * ((len(text) + 1) // 2), b" ")
    return data[: at + 6] + len(text).to_bytes(2, "little") + text + data[at + 8 + size :]


_SMALL = (0, 1, 3, 7, 8, 12, 16, 17, 32, 64, 255, 65535)
_ELEMENTS = {
    "Rows": _SMALL, "Columns": _SMALL, "BitsAllocated": _SMALL, "BitsStored": _SMALL, "HighBit": _SMALL,
    "PixelRepresentation": (0, 1, 2, 65535), "SamplesPerPixel": (0, 1, 2, 3, 4, 65535), "PlanarConfiguration": (0, 1, 2),
    "NumberOfFrames": ("0", "-1", "2", "1000000", "2147483648", "1e9", "x"), "RescaleSlope": ("0", "-1", "nan", "inf",
    "1e300", "x"),
    "RescaleIntercept": ("nan", "inf", "-1e300", "x"), "PixelSpacing": (["0", "0"], ["-1", "1"], ["nan", "1"], ["1e300",
    "1"], ["1"]),
    "ImagePositionPatient": (["nan", "0", "0"], ["1e300", "0", "0"], ["0", "0"]), "SliceThickness": ("nan", "-1", "0", "1e300"),
    "ImageOrientationPatient": (["0"] * 6, ["nan"] * 6, ["1", "0", "0", "1", "0", "0"], ["1"]),
    "PhotometricInterpretation": ("", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME1", "ARGB", "x" * 60),
    "TransferSyntaxUID": ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.3",
                          "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90",
                          "1.2.840.10008.1.2.4.70", ""),
    "PixelData": (b"", b"\0", bytes(64), b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xff" * 32), "Modality": ("", "SEG", "SR",
    "RTDOSE", "x"),
    "ImageType": (["DERIVED", "PRIMARY", "MOSAIC"], [], ["x" * 40], ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "SeriesInstanceUID": ("", "x"), "SOPClassUID": ("", "1.2", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.1.3.10"),
    "SegmentationType": ("", "BINARY", "FRACTIONAL", "LABELMAP"), "MaximumFractionalValue": (0, 255),
    "PerFrameFunctionalGroupsSequence": ([],), "SharedFunctionalGroupsSequence": ([],), "SegmentSequence": ([],),
}  # fmt: skip


def _slice(z: int, **changes: object) -> object:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    ds, array = Dataset(), noise((8, 9), np.uint16, z)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.4.{z + 1}"
    ds.SOPClassUID, ds.Modality, ds.PatientID = CTImageStorage, "CT", "P1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = "1.2.9", "1.2.3", z + 1
    ds.ImageType, ds.ImagePositionPatient, ds.ImageOrientationPatient = (
        ["ORIGINAL", "PRIMARY", "AXIAL"],
        [0, 0, 2 * z],
        [1, 0, 0, 0, 1, 0],
    )
    ds.PixelSpacing, ds.SliceThickness, ds.Rows, ds.Columns = [1, 1], 2, 8, 9
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = array.tobytes()
    ds["PixelData"].VR = "OW"
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


def _written(ds: object) -> bytes:
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _frames(ds: object, count: int, segment: bool) -> object:
    """An enhanced file: every frame says where it lies."""
    from pydicom.dataset import Dataset

    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness, plane.ImageOrientationPatient = [1, 1], 2, [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    ds.SharedFunctionalGroupsSequence, groups = [shared], []
    for z in range(count):
        frame, place, which = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, frame.PlanePositionSequence = [0, 0, 2 * z], [place]
        if segment:
            which.ReferencedSegmentNumber, frame.SegmentIdentificationSequence = 1, [which]
        groups.append(frame)
    ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = groups, count
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del ds[name]
    return ds


def dicom() -> list[Kind]:
    """A slice, a series, many frames, RLE, deflated, a segmentation."""
    from pydicom.dataset import Dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless, SegmentationStorage

    single, own = _written(_slice(0)), _set(**_ELEMENTS)
    many = _written(_frames(_slice(0, PixelData=noise((3, 8, 9), np.uint16).tobytes()), 3, False))
    rle = _slice(0)
    rle.compress(RLELossless)
    deflated = _slice(0)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bits = np.packbits(np.ones((3, 8, 9), np.uint8).reshape(-1), bitorder="little").tobytes() + b"\0"
    seg = _slice(0, SOPClassUID=SegmentationStorage, Modality="SEG", SegmentationType="BINARY", BitsAllocated=1, BitsStored=1,
                 HighBit=0, PixelData=bits)  # fmt: skip
    seg.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 1, "organ"
    seg.SegmentSequence = [segment]
    return [
        Kind({"a.dcm": single}, "a.dcm", own, packed=8),
        Kind({f"{z}.dcm": _written(_slice(z)) for z in range(4)}, "2.dcm", own, packed=8, all=True),
        Kind({"a.dcm": many}, "a.dcm", own, packed=8),
        Kind({"a.dcm": _written(rle)}, "a.dcm", own, packed=64),
        Kind({"a.dcm": _written(deflated)}, "a.dcm", own, packed=1032),
        Kind({"seg.dcm": _written(_frames(seg, 3, True))}, "seg.dcm", own, packed=8),
    ]


# pictures

_IHDR = tuple((16 + i, ">B") for i in (3, 7, 8, 9, 10, 11, 12)) + ((16, ">I"), (20, ">I"))


def png_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """Size and kind of a PNG changed, or its chunks taken out, doubled, swapped; every checksum made to fit again."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    how = int(rng.integers(0, 4))
    if how <= 1:
        header = _table(tuple((place - 16, code) for place, code in _IHDR))(chunks[0][1], rng)
        chunks[0] = (b"IHDR", header[:13])
    else:
        i = int(rng.integers(0, len(chunks)))
        kind, body = chunks[i]
        if how == 2:
            chunks[i : i + 1] = [(kind, body)] * int(rng.integers(0, 3))
        else:
            chunks[i] = (kind, bytes_changed(body, rng)[0])
    return data[:8] + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )


def jpeg_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """Size and number of components in the header of a JPEG."""
    at = data.index(b"\xff\xc0") + 4
    return _table(((at, ">B"), (at + 1, ">H"), (at + 3, ">H"), (at + 5, ">B"), (at + 7, ">B"), (at - 2, ">H")))(data, rng)


def _picture(array: np.ndarray, form: str, **options: object) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(array).save(out, form, **options)
    return out.getvalue()


def _png16(array: np.ndarray) -> bytes:
    """RGB with 16 bits, which Pillow cannot write: rows (R, C, 3) uint16."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )


def pictures() -> list[Kind]:
    """PNG grey, deep, with palette and in colour; JPEG; BMP; WebP."""
    from PIL import Image

    grey, colour = noise((9, 11), np.uint8), noise((9, 11, 3), np.uint8)
    palette = io.BytesIO()
    Image.fromarray(colour).quantize(16).save(palette, "PNG")
    webp = {"a.webp": _picture(colour, "WEBP", lossless=True)}
    plain = _table(tuple((i, "<I") for i in (2, 10, 14, 18, 22, 30, 34)) + ((26, "<H"), (28, "<H")))
    return [
        Kind({"a.png": _picture(grey, "PNG")}, "a.png", png_fields, checked=True, packed=1032),
        Kind({"a.png": _picture(noise((9, 11), np.uint16) * 200, "PNG")}, "a.png", png_fields, checked=True, packed=1032),
        Kind({"a.png": palette.getvalue()}, "a.png", png_fields, checked=True, packed=3096),
        Kind({"a.png": _png16(colour.astype(np.uint16) * 250)}, "a.png", png_fields, checked=True, packed=1032),
        Kind({"a.jpg": _picture(grey, "JPEG")}, "a.jpg", jpeg_fields, packed=1e5),
        Kind({"a.jpg": _picture(noise((40, 50, 3), np.uint8), "JPEG", progressive=True)}, "a.jpg", numbers_in_text, packed=1e5),
        Kind({"a.bmp": _picture(colour, "BMP")}, "a.bmp", plain, packed=255),
        Kind(webp, "a.webp", _table(((4, "<I"), (16, "<I"), (20, "<I"), (21, "<I"))), packed=1e5),
    ]


# TIFF


def tiff_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """Tag, type, count or value of an entry of the first page."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(f"{order}I", data[4:8])[0]
    count = struct.unpack(f"{order}H", data[at : at + 2])[0]
    entry = at + 2 + 12 * int(rng.integers(0, max(1, count)))
    places = (
        (entry, f"{order}H"),
        (entry + 2, f"{order}H"),
        (entry + 4, f"{order}I"),
        (entry + 8, f"{order}I"),
        (entry + 8, f"{order}H"),
    )
    if rng.random() < 0.15:
        places = ((at, f"{order}H"), (4, f"{order}I"), (2, f"{order}H"), (at + 2 + 12 * count, f"{order}I"))
    return _table(places)(data, rng)


def tiff() -> list[Kind]:
    """Plain, packed, stacks, ImageJ's and OME's, big-endian, Pillow's LZW."""
    import tifffile
    from PIL import Image

    def written(array: np.ndarray, **options: object) -> bytes:
        out = io.BytesIO()
        tifffile.imwrite(out, array, **options)
        return out.getvalue()

    lzw = io.BytesIO()
    Image.fromarray(noise((9, 11), np.uint8)).save(lzw, "TIFF", compression="tiff_lzw")
    stack = noise((4, 9, 11), np.uint16)
    plain = dict(photometric="minisblack", metadata=None)
    ome = {
        "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0},
        "photometric": "minisblack",
    }
    made = [
        (written(stack[0], **plain), 1), (written(stack, **plain), 1), (written(stack, byteorder=">", **plain), 1),
        (written(stack, compression="deflate", **plain), 1032), (written(stack, imagej=True, metadata={"axes": "ZYX",
        "unit": "um", "spacing": 2.0}), 1),
        (written(stack, ome=True, **ome), 1), (written(noise((9, 11, 3), np.uint8), photometric="rgb", metadata=None), 3),
        (lzw.getvalue(), 4096),
    ]  # fmt: skip
    return [Kind({"a.tif": data}, "a.tif", tiff_fields, packed=8 * packed) for data, packed in made]


# NumPy


def npy_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """Another header: shape, type, order, version, length."""
    size = int.from_bytes(data[8:10], "little")
    head, body = data[10 : 10 + size].decode("latin-1"), data[10 + size :]
    how = int(rng.integers(0, 6))
    if how == 0:
        shapes = (
            "(0,)",
            "()",
            "(-1, 5)",
            "(5, 6, 4, 1, 1, 1)",
            "(4294967296, 4294967296)",
            f"({10**30},)",
            "(120,)",
            "[5, 6, 4]",
            "(True, 6)",
            "(2, 2.5)",
        )
        head = re.sub(r"\([^)]*\)", shapes[int(rng.integers(0, len(shapes)))], head)
    elif how == 1:
        kinds = ("|O", "|V2", "<U2", "|S2", "<M8[s]", "<c8", "<f2", "<i1", ">i2", "<f16", "x", "[('a', '<i2')]", "|b1", "<i4")
        head = re.sub(r"'descr': '[^']*'", f"'descr': '{kinds[int(rng.integers(0, len(kinds)))]}'", head)
    elif how == 2:
        head = head.replace("False", ("True", "7", "None", "x")[int(rng.integers(0, 4))])
    elif how == 3:
        head = ("__import__('os').system('true')", "{" * 500, "{}", "\n", "(" * 5000, "{'descr': 1}")[
            int(rng.integers(0, 6))
        ] + "\n"
    elif how == 4:
        size_ = int(rng.choice([0, 1, 9, 65535]))
        return data[:8] + size_.to_bytes(2, "little") + data[10:]
    else:
        return data[:6] + bytes([int(rng.integers(0, 5)), int(rng.integers(0, 2))]) + data[8:]
    head = head.rstrip("\n")
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return data[:8] + len(head).to_bytes(2, "little") + head.encode("latin-1") + body


def _zip(members: dict[str, bytes], packed: bool) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(
                zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            )
    return out.getvalue()


def npz_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """A member with another header, or fields of the zip file's own directory."""
    if rng.random() < 0.5:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        name = next(iter(members))
        members[name] = npy_fields(members[name], rng)
        if rng.random() < 0.2:
            members[("../../canary.npy", "/abs.npy", "", "a\\b.npy", "x" * 300 + ".npy")[int(rng.integers(0, 5))]] = members[name]
        return _zip(members, rng.random() < 0.5)
    end, start = data.rindex(b"PK\5\6"), data.rindex(b"PK\1\2")
    wide = tuple((start + i, "<I") for i in (16, 20, 24, 38, 42)) + tuple((start + i, "<H") for i in (6, 8, 10, 28, 30, 32, 34))
    wide += tuple((end + i, "<H") for i in (4, 6, 8, 10, 20)) + ((end + 12, "<I"), (end + 16, "<I"))
    wide += tuple((i, "<I") for i in (14, 18, 22)) + tuple((i, "<H") for i in (4, 6, 8, 26, 28))
    return _table(wide)(data, rng)


def arrays() -> list[Kind]:
    """One array, and archives of one."""
    out, fortran = io.BytesIO(), io.BytesIO()
    np.save(out, noise((5, 6, 4)))
    np.save(fortran, np.asfortranarray(noise((5, 6, 4), np.float64)))
    return [
        Kind({"a.npy": out.getvalue()}, "a.npy", npy_fields, packed=2),
        Kind({"a.npy": fortran.getvalue()}, "a.npy", npy_fields, packed=2),
        Kind({"a.npz": _zip({"image.npy": out.getvalue()}, True)}, "a.npz", npz_fields, checked=True, packed=1032),
        Kind({"a.npz": _zip({"image.npy": out.getvalue()}, False)}, "a.npz", npz_fields, checked=True, packed=2),
    ]


# MetaImage and NRRD


def meta_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """A line of a header taken out, doubled, moved or made long; numbers added or taken away; else a number replaced."""
    end = re.search(rb"ElementDataFile[^\n]*\n|\n\n", data)
    if end is None or rng.random() < 0.4:
        return numbers_in_text(data, rng)
    lines, rest = data[: end.start()].split(b"\n"), data[end.start() :]
    i, how = int(rng.integers(0, len(lines))), int(rng.integers(0, 6))
    if how == 0:
        del lines[i]
    elif how == 1:
        lines.insert(int(rng.integers(0, len(lines) + 1)), lines[i])
    elif how == 2:
        lines[i] = lines[i] + b" 1" * int(rng.choice([1, 2, 20, 300, 5000]))
    elif how == 3:
        lines[i] = lines[i].rpartition(b" ")[0]
    elif how == 4:
        lines.insert(
            i,
            b"k" * int(rng.choice([10, 100, 600, 5000]))
            + (b" = ", b": ", b"")[int(rng.integers(0, 3))]
            + b"v" * int(rng.choice([1, 300, 9000])),
        )
    else:
        order = rng.permutation(len(lines))
        lines = [lines[k] for k in order]
    return b"\n".join(lines) + rest


def itk() -> list[Kind]:
    """With voxels inside or beside, plain or packed."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(noise((4, 6, 5)))
    image.SetSpacing((1.0, 1.5, 2.0))
    made = []
    for names, packed in (("a.mha",), False), (("a.mha",), True), (("a.nrrd",), False), (("a.nrrd",), True), (("a.mhd",
        "a.raw"), False), (("a.nhdr", "a.raw"), False):  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            sitk.WriteImage(image, str(Path(place, names[0])), packed)
            made.append(
                Kind({n: Path(place, n).read_bytes() for n in names}, names[0], meta_fields, packed=1032 if packed else 1)
            )
    return made


FAMILIES: dict[str, Callable[[], list[Kind]]] = {
    "nifti": nifti, "mgh": mgh, "dicom": dicom, "pictures": pictures, "tiff": tiff, "arrays": arrays, "itk": itk,
}  # fmt: skip


@cache
def kinds(family: str) -> list[Kind]:
    """The good files of a family, made once."""
    return FAMILIES[family]()


def mutant(family: str, number: int, good: dict[int, np.ndarray]) -> Mutant:
    """Case `number` of a family. good: what each of its kinds holds."""
    from zlib import crc32

    rng = np.random.default_rng([crc32(family.encode()), number])
    which = number % len(kinds(family))
    kind = kinds(family)[which]
    files = dict(kind.files)
    hit = kind.name if kind.all or rng.random() < 0.7 else list(files)[int(rng.integers(0, len(files)))]
    draw = rng.random()
    if draw < 0.4:
        files[hit], how = kind.fields(files[hit], rng) if hit == kind.name else bytes_changed(files[hit], rng)[0], "fields"
    elif draw < 0.75:
        files[hit], how = bytes_changed(files[hit], rng)
    elif draw < 0.95:
        files[hit], how = cut_off(files[hit], rng)
    else:
        others = [k for f in FAMILIES if f != family and f != "itk" for k in kinds(f)]
        other = others[int(rng.integers(0, len(others)))]
        files[hit], how = other.files[other.name], "swapped"
    told = (kind.checked and how == "bytes changed") or how == "cut off"
    return Mutant(files, kind.name, how, good[which] if told else None, 1e5 if how == "swapped" else kind.packed, kind.all)


# lists


def list_changed(value: object, rng: np.random.Generator, outside: str) -> object:
    """A JSON value with one of its nodes replaced, taken out or doubled."""
    odd = (
        None, True, -1, 0, 1e308, 10**30, "", " ", "..", "../", f"../{Path(outside).name}", outside, f"/etc/../{outside}",
            "~", ".", "/",
        "a\0b", "\ud800", "x" * 5000, [], {}, [[]], {"image": outside}, [outside], "file://x", "C:\\x", "..\\..\\x", "imagesTr",
    )  # fmt: skip
    nodes: list[tuple] = []

    def visit(node: object) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            nodes.append((node, key))
            visit(node[key])

    value = json.loads(json.dumps(value))
    visit(value)
    for _ in range(int(rng.integers(1, 4))):
        node, key = nodes[int(rng.integers(0, len(nodes)))] if nodes else (None, None)
        how = rng.random()
        try:
            if how < 0.7:
                node[key] = odd[int(rng.integers(0, len(odd)))]
            elif how < 0.85:
                del node[key]
            elif isinstance(node, list):
                node.append(node[key])
            else:
                node[str(rng.integers(0, 99))] = node[key]
        except (KeyError, IndexError, TypeError):
            continue
    return value
