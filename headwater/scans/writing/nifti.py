"""NIfTI in the geometry of the scan: of a NIfTI its own header's place, of any other file its affine."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from headwater.runfolder import write_whole
from headwater.scans.scan import Scan

_PLACE = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_ORTHOGONAL = 1e-4  # cosine between axes up to which a quaternion can say where they point


def write(array: Shaped[np.ndarray, "*S"], scan: Scan, place: Path) -> Path:
    """One value per voxel (whole numbers, or floats such as float16, written as float32) to .nii or .nii.gz.

    The place in the body is that of the input bit for bit where it is a NIfTI: sform, qform, their codes, units and spacing.
    Else both forms hold the scan's affine with code 1 (scanner), or none where the file does not say where it lies.
    """
    import nibabel

    array = array.astype(np.float32) if array.dtype == np.float16 else array
    theirs = _header(scan)
    shape = array.shape + (1,) * (3 - array.ndim)
    if theirs is not None:
        shape = tuple(int(n) for n in theirs.get_data_shape()[:3])
    big = max(shape) > np.iinfo(np.int16).max
    header = nibabel.Nifti2Header() if big or isinstance(theirs, nibabel.Nifti2Header) else nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(shape)
    if theirs is not None:
        for name in _PLACE:
            header[name] = theirs[name]
        header["pixdim"][:4] = theirs["pixdim"][:4]
        header["xyzt_units"] = int(theirs["xyzt_units"]) & 7  # of time there is none
    else:
        _placed(header, scan)
    image = nibabel.Nifti1Image if not isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti2Image
    made = image(array.reshape(shape), None, header)
    return write_whole(place, lambda beside: _save(made, beside, packed=Path(place).name.lower().endswith(".gz")))


def _save(image: Any, beside: Path, packed: bool) -> None:
    """Header and voxels, packed as it goes and always to the same bytes."""
    with open(beside, "wb") as file:
        if not packed:
            image.to_stream(file)
            return
        with gzip.GzipFile("", "wb", 3, file, mtime=0) as stream:
            image.to_stream(stream)


def _header(scan: Scan) -> Any:
    """The header of a scan that is a NIfTI, if nibabel takes it and it says what was read; else None."""
    import nibabel

    if scan.format != "NIfTI":
        return None
    try:
        header = nibabel.load(scan.source.path).header
        shape = tuple(int(n) for n in header.get_data_shape()[:3])
        right = isinstance(header, nibabel.Nifti1Header) and np.isfinite(header["pixdim"][:4]).all()  # Nifti2 is one too
        one = int(np.prod(shape)) == int(np.prod(scan.shape)) and np.allclose(
            _unit(header) @ header.get_best_affine(), scan.affine
        )
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, ValueError, OSError, EOFError):
        return None
    return header if right and one else None


def _unit(header: Any) -> np.ndarray:
    """From the unit of a header to mm, (4, 4)."""
    unit = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)
    return np.diag([unit, unit, unit, 1.0])


def _placed(header: Any, scan: Scan) -> None:
    """The scan's affine in both forms; in the sform alone where axes are sheared."""
    if not scan.spaced:
        header["pixdim"][1:4] = 1
        return
    affine = np.asarray(scan.affine, float)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_xyzt_units("mm")
    header["pixdim"][1:4] = steps
    unit = affine[:3, :3] / np.where(steps > 0, steps, 1)
    if np.abs(unit.T @ unit - np.eye(3)).max() < _ORTHOGONAL:
        header.set_qform(affine, 1)
    header.set_sform(affine, 1)
