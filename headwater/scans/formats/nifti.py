"""NIfTI-1 and -2 (.nii, .nii.gz, .hdr with .img), Analyze 7.5 and FreeSurfer's MGH (.mgh, .mgz)."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater.scans.formats import AGAIN, EXPORT, content, millimetres, sized, within_limit
from headwater.scans.formats.gunzip import inflate
from headwater.scans.scan import Scan, Source, UnreadableError, same_place

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".mgh", ".mgz", ".mgh.gz")
COMPANIONS = (".img", ".img.gz")  # voxels whose header is the file beside them
_BLOCK = 1 << 18  # voxels scaled at a time
_SHEAR = 0.005  # cosine between two axes from which they are no longer called orthogonal
_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}
_QUIET = logging.Logger("headwater.scans.formats.nifti")  # nibabel's small repairs are not the user's business
_QUIET.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class _Form:
    """What a header says: where the voxels are, how to scale them and where they lie (in mm)."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    affine: np.ndarray
    zooms: tuple[float, ...]
    slope: float = 1.0
    inter: float = 0.0
    spaced: bool = True
    paired: bool = False
    notes: tuple[str, ...] = ()


def read(source: Source) -> Scan:
    """The scan in a file: (C, *S) float32 with the file's own scaling applied, spacing and affine in mm.

    Two or three axes are one channel; the fourth (or, after a fourth of length 1, the fifth) axis counts channels,
    and so do the bytes of RGB voxels. A third axis of length 1 makes a picture: *S has two axes.
    The affine is the header's sform, else its qform, else nibabel's guess, which a note tells.
    Raises UnreadableError for a file that is missing, empty, cut off, damaged, of another format or complex.
    """
    path = _beside(source.path, {".img": ".hdr"})
    packed = content(path)
    head, damage, _ = inflate(packed, 540, to_end=False)
    if not head:
        raise UnreadableError(path, f"is {damage or 'empty'} at its first byte", AGAIN)
    form = (_mgh if path.name.lower().endswith((".mgh", ".mgz", ".mgh.gz")) else _nifti)(path, head, damage)
    voxels = within_limit(path, form.shape, form.dtype)
    if form.dtype.kind == "c":
        raise UnreadableError(path, "has complex voxels, which are not supported", "save the magnitude instead")
    if form.start < 0:
        raise UnreadableError(path, f"has an unreadable header (voxels start at byte {form.start})", AGAIN)
    if form.paired:
        path = _beside(path, {".hdr": ".img"})
        packed = content(path)
    end = form.start + voxels * form.dtype.itemsize
    within_limit(path, (max(1, end // 4),), np.float32)
    raw, damage, more = inflate(packed, end)
    if len(raw) < end:
        raise UnreadableError(path, f"is {damage or 'cut off'} at {100 * len(raw) // end} %", AGAIN)
    if damage:
        raise UnreadableError(path, f"is {damage} (its gzip checksum does not fit)", AGAIN)
    if more > end + (1 << 20):
        raise UnreadableError(path, "holds more than twice the bytes that its header says", EXPORT)
    notes = list(form.notes)
    if more > 4096 and form.name != "MGH":  # MGH ends with text, others with padding at most
        notes.append(f"{more} bytes more than its header says")
    if form.dtype.fields and len(form.dtype.fields) == 4:
        notes.append("alpha dropped")
    return _placed(source, _channels_first(path, raw, form), form, notes)


def _beside(path: Path, partner: dict[str, str]) -> Path:
    """The file itself, or of a pair in two files the other one. partner: of which ending, with which."""
    name = path.name
    bare = name[:-3] if name.lower().endswith(".gz") else name
    other = partner.get(bare[-4:].lower())
    if other is None:
        return path
    for ending in (other, other.upper()):
        for packed in ("", ".gz"):
            found = path.with_name(bare[:-4] + ending + packed)
            if found.is_file():
                return _within(path, found)
    raise UnreadableError(path, f"has no {other} file beside it", "put header (.hdr) and voxels (.img) into one folder")


def _within(path: Path, other: Path) -> Path:
    """The second file of a pair, if no link leads from it into another folder."""
    if other.resolve().parent not in (path.parent.resolve(), path.resolve().parent):
        raise UnreadableError(path, "keeps its voxels outside its own folder", "put both files into one folder")
    return other


def _nifti(path: Path, head: bytes, damage: str) -> _Form:
    """The checked header of NIfTI-1, NIfTI-2 or Analyze, either byte order."""
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    size = {int.from_bytes(head[:4], order) for order in ("little", "big")} & {348, 540}
    if not size:
        raise UnreadableError(path, "has no NIfTI header", "check that it is a NIfTI file, or export it again")
    if len(head) < max(size):
        raise UnreadableError(path, f"is {damage or 'cut off'} inside its header", AGAIN)
    two = 540 in size
    magic = head[4:7] if two else head[344:347]
    paired = path.name.lower().endswith((".hdr", ".hdr.gz")) and magic[:2] != b"n+"
    kind = Nifti2Header if two else AnalyzeHeader if paired and magic[:2] != b"ni" else Nifti1Header
    try:
        header = kind(head[: max(size)], check=False)
        stated = header["pixdim"].tolist()[1:4]  # before nibabel makes 1 mm of what is 0
        header.check_fix(logger=_QUIET)
        shape, start, dtype = header.get_data_shape(), int(header.get_data_offset()), header.get_data_dtype()
        slope, inter = (1.0, 0.0) if kind is AnalyzeHeader else header.get_slope_inter()
        affine = np.array(header.get_best_affine(), dtype=float)
        notes = ("Analyze 7.5: orientation not stated",) if kind is AnalyzeHeader else _stated(header, affine, shape)
    except (HeaderDataError, ValueError, KeyError, OverflowError, np.linalg.LinAlgError) as error:
        raise UnreadableError(path, f"has an unreadable header ({type(error).__name__})", EXPORT) from None
    if not all(math.isfinite(step) and step != 0 for n, step in zip(shape, stated, strict=False) if n > 1):
        raise UnreadableError(path, "states no voxel size (spacing 0)", "write the spacing in mm into its header")
    if not paired and magic[:2] != b"n+":
        raise UnreadableError(path, "keeps its voxels in a second file", "save it as one .nii or .nii.gz file")
    word, unit = _UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0)) if kind is not AnalyzeHeader else ("", 1.0)
    affine[:3] *= unit
    zooms = tuple(abs(step) * unit for step in header["pixdim"].tolist()[1:4])
    placed = kind is AnalyzeHeader or int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    return _Form(
        "Analyze" if kind is AnalyzeHeader else "NIfTI", tuple(int(n) for n in shape), dtype, start, affine, zooms,
        1.0 if slope is None else float(slope), float(inter or 0.0), placed or zooms != (1.0, 1.0, 1.0), paired,
        (*notes, f"spacing stated in {word}") if word else notes,
    )  # fmt: skip


def _stated(header: object, affine: np.ndarray, shape: tuple[int, ...]) -> tuple[str, ...]:
    """What there is to say about the place a NIfTI header gives: nothing, or that it gives none or two."""
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not (sform or qform):
        return ("orientation not stated (qform and sform codes 0)",)
    if sform and qform:
        other = header.get_qform()
        if not (np.abs(affine - other).max() < 1e-4 or same_place(shape[:3], affine, other)):
            return ("sform and qform differ, sform taken",)
    return ()


def _mgh(path: Path, head: bytes, damage: str) -> _Form:
    """The checked header of an MGH file, which is big-endian and always in mm."""
    from nibabel.freesurfer.mghformat import MGHError, MGHHeader
    from nibabel.spatialimages import HeaderDataError

    if len(head) < 284:
        raise UnreadableError(path, f"is {damage or 'cut off'} inside its header", AGAIN)
    if int.from_bytes(head[:4], "big") != 1:
        raise UnreadableError(path, "has no MGH header", "check that it is a FreeSurfer volume, or export it again")
    try:
        header = MGHHeader(head[:284], check=False)
        shape = tuple(int(n) for n in header["dims"])
        dtype, affine = header.get_data_dtype().newbyteorder(">"), np.array(header.get_affine(), dtype=float)
    except (MGHError, HeaderDataError, ValueError, KeyError, OverflowError) as error:
        raise UnreadableError(path, f"has an unreadable header ({type(error).__name__})", EXPORT) from None
    stated = int.from_bytes(head[28:30], "big") == 1  # goodRASFlag
    zooms = tuple(abs(step) for step in header["delta"].tolist())
    return _Form("MGH", shape, dtype, 284, affine, zooms, spaced=stated, notes=() if stated else ("orientation not stated",))


def _channels_first(path: Path, raw: bytes, form: _Form) -> np.ndarray:
    """(C, I, J, K), scaled, a view where possible, from the voxels as they lie in the file, first axis fastest."""
    shape = form.shape
    if form.dtype.fields:  # the colours of a voxel lie together: they become the last axis
        shape = (*shape, *(1, 1, 1)[len(shape) :])
        values = np.ndarray((len(form.dtype.fields), *shape), np.uint8, raw, form.start, order="F")
        values = np.moveaxis(values[:3], 0, -1)
    else:
        values = np.ndarray(int(np.prod(shape)), form.dtype, raw, form.start)
        if (form.slope, form.inter) != (1.0, 0.0):
            values = _scaled(values, form.slope, form.inter)
        values = values.reshape(shape, order="F")
    if values.ndim == 5 and shape[3] == 1:
        values = values[:, :, :, 0]
    while values.ndim > 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim < 2 or values.ndim > 4:
        fault = f"has {values.ndim} axes ({sized(shape)})"
        raise UnreadableError(path, fault, "save it with two or three axes, and one more for channels")
    missing = 4 - values.ndim
    return np.moveaxis(values[(..., *[None] * missing)], -1, 0)


def _scaled(flat: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """slope * values + inter in double precision, kept as float32, a block at a time."""
    scaled = np.empty(flat.size, np.float32)
    for start in range(0, flat.size, _BLOCK):
        scaled[start : start + _BLOCK] = flat[start : start + _BLOCK].astype(np.float64) * slope + inter
    return scaled


def _placed(source: Source, values: np.ndarray, form: _Form, notes: list[str]) -> Scan:
    """(C, I, J, K) to a scan with two or three axes, its geometry checked."""
    axes = 2 if values.shape[3] == 1 else 3
    values = values[..., 0] if axes == 2 else values
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is counted so
        array = np.array(values, dtype=np.float32, order="C")
    affine = form.affine
    if not np.isfinite(affine).all():
        raise UnreadableError(source, "has NaN in its affine", "write its place in the body again, or leave it out")
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))  # mm per voxel
    if axes == 2 and lengths[2] == 0:  # a slice without thickness
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / (np.linalg.norm(normal) or 1.0)
    zooms, lengths = np.array(form.zooms[:axes]), lengths[:axes]
    if not ((zooms >= 1e-6) & (zooms < 1e6) & (lengths < 1e6)).all():
        fault = "states a voxel size below a nanometre or above a kilometre"
        raise UnreadableError(source, fault, "write the spacing in mm into its header")
    unit = affine[:3, :axes] / np.maximum(lengths, 1e-6)
    cosines = unit.T @ unit  # between axes; on the diagonal 1, 0 for an axis without length
    if np.abs(cosines - np.eye(axes)).max() > _SHEAR:
        if not np.linalg.det(cosines) > 1e-6:
            remedy = "write its place in the body again, or leave it out"
            raise UnreadableError(source, "has an affine that flattens it", remedy)
        notes.append("sheared axes (gantry tilt)")
    if np.abs(zooms / lengths - 1).max() > 0.01:
        notes.append("spacing differs between affine and header, affine taken")
        zooms = lengths
    return Scan(
        array, millimetres(zooms), affine, source, str(np.dtype("u1") if form.dtype.fields else form.dtype.newbyteorder("=")),
        "MGH" if form.name == "MGH" else "NIfTI", "", form.spaced, tuple(notes),
    )  # fmt: skip
