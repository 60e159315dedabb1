"""Files on disk to scans. NIfTI for now (.nii, .nii.gz); every fault is one sentence with its remedy."""

import io
import logging
import zlib
from pathlib import Path

import numpy as np

from headwater.errors import InputError
from headwater.scans.catalog import subject_of
from headwater.scans.scan import Scan

SUFFIXES = (".nii", ".nii.gz")
_AGAIN = "copy it again from its source, or leave it out"
_CHUNK = 1 << 16
_QUIET = logging.Logger("headwater.scans.readers")  # nibabel's small repairs are not the user's business
_QUIET.addHandler(logging.NullHandler())


class UnreadableError(InputError):
    """One file that cannot be used; `fault` and `remedy` are the two halves of the sentence."""

    def __init__(self, path: Path, fault: str, remedy: str):
        super().__init__(f"{path} {fault}; {remedy}.")
        self.fault, self.remedy = fault, remedy


def read(path: Path | str) -> Scan:
    """The scan in a NIfTI file: array (C, *S) float32 with the file's own scaling applied, spacing and affine in mm.

    Two or three axes are one channel; the fourth (or, after a fourth of length 1, the fifth) axis counts channels.
    A third axis of length 1 makes a picture: *S has two axes. Axes are neither turned nor flipped.
    Raises InputError for a file that is missing, empty, cut off, damaged, not NIfTI, complex or coloured,
    and for one without a single finite value.
    """
    return read_typed(path)[0]


def read_typed(path: Path | str) -> tuple[Scan, str]:
    """`read`, and the voxel type the file stores, such as "int16"."""
    path = Path(path)
    values, header, dtype = _decode(path)
    if dtype.kind == "c":
        raise UnreadableError(path, "has complex voxels, which are not supported", "save the magnitude instead")
    array = values.astype(np.float32)
    slope, inter = header.get_slope_inter()
    if slope not in (None, 1.0) or inter not in (None, 0.0):
        array = (values.astype(np.float64) * (1.0 if slope is None else slope) + (inter or 0.0)).astype(np.float32)
    if not np.isfinite(array).any():
        raise UnreadableError(path, "has no finite value (all NaN or infinite)", "export it again, or leave it out")
    return _scan(path, array, header), str(dtype.newbyteorder("="))


def read_labels(path: Path | str) -> Scan:
    """The mask in a NIfTI file: array (1, *S) of whole numbers (int32), one per voxel; geometry as in `read`.

    Masks stored as floats pass if every value is a whole number to 1e-3.
    Raises InputError as `read` does, and for fractions, NaN, negative numbers and more than one channel.
    """
    scan = read(path)
    if scan.channels != 1:
        remedy = "write one whole number per voxel instead of one channel per structure"
        raise UnreadableError(scan.source, f"is a mask with {scan.channels} channels", remedy)
    whole = np.rint(scan.array)
    wrong = ~(np.abs(scan.array - whole) <= 1e-3)  # NaN counts as wrong
    if wrong.any():
        fault = f"is a mask with values that are not whole numbers ({scan.array[wrong].flat[0]:g} for one)"
        raise UnreadableError(scan.source, fault, "save it with nearest-neighbour resampling and an integer type")
    if whole.min() < 0 or whole.max() >= 2**24:  # float32 counts no further
        fault = f"is a mask with values from {whole.min():g} to {whole.max():g}"
        raise UnreadableError(scan.source, fault, "number structures 1, 2, 3 and leave the rest 0")
    return Scan(whole.astype(np.int32), scan.spacing, scan.affine, scan.subject, scan.source)


def _decode(path: Path) -> tuple[np.ndarray, object, np.dtype]:
    """Raw voxels in the file's axes (I, J, K, ...), the header and the stored type; every byte is read and checked."""
    if not path.name.lower().endswith(SUFFIXES):
        raise UnreadableError(path, "is not a NIfTI file (.nii or .nii.gz)", "convert it to NIfTI, for DICOM with dcm2niix")
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UnreadableError(path, f"cannot be opened ({error.strerror})", "check its name and its permissions") from error
    raw, damage = _unpack(packed)
    if not raw:
        raise UnreadableError(path, "is empty" if not packed else f"is {damage or 'empty'} at its first byte", _AGAIN)
    header = _header(path, raw, damage)
    shape, dtype, start = tuple(header.get_data_shape()), header.get_data_dtype(), int(header.get_data_offset())
    if not shape or min(shape) < 1:
        many = " x ".join(str(n) for n in shape) or "no"
        raise UnreadableError(path, f"has no voxels (its header says {many})", "export it again, or leave it out")
    if start < 0:
        raise UnreadableError(path, f"has an unreadable header (voxels start at byte {start})", _AGAIN)
    whole = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(raw) < whole:
        fault = f"is {damage or 'cut off'} at {100 * len(raw) // whole} %"
        raise UnreadableError(path, fault, _AGAIN)
    if damage == "damaged":
        raise UnreadableError(path, "is damaged (its gzip checksum does not fit)", _AGAIN)
    if dtype.fields is not None:
        raise UnreadableError(path, "has colour (RGB) voxels, which are not supported for now", "save it as grey values")
    return np.ndarray(shape, dtype, buffer=raw, offset=start, order="F"), header, dtype


def _unpack(packed: bytes) -> tuple[bytes, str]:
    """The bytes inside (gzip or not, whatever the name says), as many as could be had, and "", "cut off" or "damaged"."""
    parts: list[bytes] = []
    while packed[:2] == b"\x1f\x8b":
        inflate = zlib.decompressobj(31)
        try:
            parts.append(inflate.decompress(packed))
        except zlib.error:
            return b"".join(parts) + _salvage(packed), "damaged"
        if not inflate.eof:
            return b"".join(parts), "cut off"
        packed = inflate.unused_data
        if packed[:2] != b"\x1f\x8b":  # padding after the last member
            return b"".join(parts), ""
    return packed, ""


def _salvage(packed: bytes) -> bytes:
    """What a damaged gzip stream gives before its fault."""
    inflate, parts = zlib.decompressobj(31), []
    for start in range(0, len(packed), _CHUNK):
        try:
            parts.append(inflate.decompress(packed[start : start + _CHUNK]))
        except zlib.error:
            break
    return b"".join(parts)


def _header(path: Path, raw: bytes, damage: str) -> object:
    """A checked NIfTI-1 or NIfTI-2 header, either byte order."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    size = {int.from_bytes(raw[:4], order) for order in ("little", "big")}
    kind = Nifti2Header if 540 in size else Nifti1Header
    if not size & {348, 540}:
        raise UnreadableError(path, "has no NIfTI header", "check that it is a NIfTI file, or export it again")
    if len(raw) < max(size & {348, 540}):
        raise UnreadableError(path, f"is {damage or 'cut off'} inside its header", _AGAIN)
    try:
        header = kind.from_fileobj(io.BytesIO(raw), check=False)
        sized = np.isfinite(header["pixdim"][1:4]) & (header["pixdim"][1:4] != 0)  # nibabel would make it 1 mm
        header.check_fix(logger=_QUIET)
        header.get_best_affine(), header.get_slope_inter(), header.get_data_dtype()
        header.get_data_shape(), int(header.get_data_offset())
    except (HeaderDataError, ValueError, KeyError, OverflowError, np.linalg.LinAlgError) as error:
        raise UnreadableError(path, f"has an unreadable header ({error})", "export it again, or leave it out") from error
    if not sized[header["dim"][1:4] > 1].all():
        raise UnreadableError(path, "states no voxel size (spacing 0)", "write the spacing in mm into its header")
    if not bytes(header["magic"]).startswith(b"n+"):
        raise UnreadableError(path, "keeps its voxels in a second file", "save it as one .nii or .nii.gz file")
    return header


def _scan(path: Path, array: np.ndarray, header: object) -> Scan:
    """(I, J, K, ...) as the file has it to (C, *S) and mm."""
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    while array.ndim > 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim < 2 or array.ndim > 4:
        raise UnreadableError(path, f"has {array.ndim} axes", "save it with two or three axes, and one more for channels")
    channels = array.reshape(*(*array.shape, 1, 1)[:3], -1)  # (I, J, K, C)
    axes = 2 if channels.shape[2] == 1 else 3
    array = np.ascontiguousarray(np.moveaxis(channels[:, :, 0] if axes == 2 else channels, -1, 0))
    unit = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)  # metres, micrometres
    affine = np.array(header.get_best_affine(), dtype=float)
    affine[:3] *= unit
    zooms = np.abs(np.asarray(header["pixdim"][1 : 1 + axes], dtype=float)) * unit
    if not np.isfinite(affine).all():
        raise UnreadableError(path, "has NaN in its affine", "write its place in the body again, or leave it out")
    spacing = tuple(round(float(z), 6) for z in zooms)
    if not min(spacing) > 0:
        raise UnreadableError(path, "states a voxel size below a nanometre", "write the spacing in mm into its header")
    return Scan(array, spacing, affine, subject_of(path), path)
