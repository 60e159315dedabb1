"""Masks on disk in the geometry of the scan they belong to: NIfTI, pictures and TIFF stacks, DICOM segmentations."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from headwater.errors import InputError
from headwater.scans.scan import Scan

__all__ = ["ENDINGS", "KINDS", "kind_of", "number_type", "write"]

KINDS = ("nifti", "dicom", "png", "tiff")
ENDINGS = {"nifti": ".nii.gz", "dicom": ".dcm", "png": ".png", "tiff": ".tif"}
_AS_INPUT = {"DICOM": "dicom", "TIFF": "tiff", "PNG": "png", "JPEG": "png", "BMP": "png", "WebP": "png"}


def kind_of(scan: Scan, wanted: str = "") -> str:
    """The kind of mask for a scan: that of its own file, or the one asked for.

    Pictures in arrays become PNG, all else (MetaImage, NRRD, MGH, arrays) NIfTI. Raises InputError for a kind that does not fit.
    """
    if wanted and wanted not in KINDS:
        raise InputError(
            f"Masks cannot be written as {wanted}; ask for one of {', '.join(KINDS)}, or nothing for that of the scan."
        )
    if wanted == "png" and scan.ndim == 3:
        raise InputError("A mask of a volume cannot be written as png; ask for nifti or tiff.")
    if wanted == "dicom" and scan.format != "DICOM":
        raise InputError(f"A mask of a scan in {scan.format} cannot be written as dicom; ask for nifti.")
    usual = "png" if scan.ndim == 2 and not scan.spaced else "nifti"
    return wanted or _AS_INPUT.get(scan.format.split("/")[0], usual)


def number_type(values: tuple[int, ...]) -> type[np.integer]:
    """The smallest type for these values of a mask: uint8, uint16 or int32."""
    return np.uint8 if max(values) < 1 << 8 else np.uint16 if max(values) < 1 << 16 else np.int32


def write(mask: Integer[np.ndarray, "*S"], scan: Scan, place: Path, names: Mapping[int, str], kind: str = "") -> Path:
    """Writes one mask for one scan, whole or not at all.

    mask: the values that are to stand in the file, on the scan's own grid. scan: says where it lies; its voxels are not looked
    at. names: of each value above 0. kind: as `kind_of` gives it.
    Raises InputError where the format cannot hold the mask, or a library for it is missing.
    """
    kind = kind or kind_of(scan)
    if mask.shape != scan.shape:
        raise ValueError(f"a mask of {mask.shape} for a scan of {scan.shape}")
    if kind == "nifti":
        from headwater.scans.writing import nifti

        return nifti.write(mask, scan, place)
    if kind == "dicom":
        from headwater.scans.writing import dicom_seg

        return dicom_seg.write(mask, scan, place, names)
    from headwater.scans.writing import pictures

    return (pictures.png if kind == "png" else pictures.tiff)(mask, scan, place)
