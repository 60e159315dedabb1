"""Masks of pictures and of stacks of pages: one grey channel that holds the value of the structure."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from headwater.errors import InputError
from headwater.runfolder import write_whole
from headwater.scans.scan import Scan


def png(mask: Integer[np.ndarray, "*S"], scan: Scan, place: Path) -> Path:
    """A PNG of 8 or 16 bits, as the mask's type says, with the size of the picture. Raises InputError above 65535."""
    from PIL import Image

    if mask.ndim != 2:
        raise InputError("A mask of a volume cannot be written as png; ask for nifti or tiff.")
    if mask.dtype.itemsize > 2:
        raise InputError("PNG holds values up to 65535 and this mask has larger ones; ask for nifti or tiff.")
    image = Image.fromarray(np.ascontiguousarray(mask.astype(mask.dtype.newbyteorder("="))))  # L, or I;16

    def save(beside: Path) -> None:
        image.save(beside, format="PNG")

    return write_whole(place, save)


def tiff(mask: Integer[np.ndarray, "*S"], scan: Scan, place: Path) -> Path:
    """A TIFF of one page, or a page per slice; spacing is written as ImageJ does where the scan states it."""
    import tifffile

    spacing, how = scan.spacing, {"photometric": "minisblack"}
    if scan.spaced and mask.dtype.itemsize <= 2:
        told = {"unit": "mm", "axes": "ZYX"[-mask.ndim :]} | ({"spacing": spacing[0]} if mask.ndim == 3 else {})
        how |= {"imagej": True, "metadata": told, "resolution": (1 / spacing[-1], 1 / spacing[-2])}
    else:
        how |= {"compression": "zlib", "metadata": None}

    def save(beside: Path) -> None:
        with open(beside, "wb") as file:
            tifffile.imwrite(file, np.ascontiguousarray(mask), **how)

    return write_whole(place, save)
