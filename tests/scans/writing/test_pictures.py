"""Masks of pictures: the same size, the values themselves, read back by our own readers."""

import numpy as np
import pytest
from PIL import Image

from headwater.errors import InputError
from headwater.scans import writing
from headwater.scans.readers import read, read_labels

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("name", "values"), [("scan.png", (0, 1, 7)), ("scan.jpg", (0, 300, 65535)), ("scan.bmp", (0, 2))])
def test_png_for_pictures(tmp_path, name, values):
    Image.fromarray(RNG.integers(0, 255, (20, 31, 3)).astype(np.uint8)).save(tmp_path / name)
    scan = read(tmp_path / name)
    mask = RNG.choice(values, scan.shape).astype(writing.number_type(values))
    assert writing.kind_of(scan) == "png"
    place = writing.write(mask, scan, tmp_path / "m.png", {})
    np.testing.assert_array_equal(read_labels(place).array[0], mask)
    np.testing.assert_array_equal(np.asarray(Image.open(place)), mask)


@pytest.mark.parametrize("pages", [1, 3, 4, 9])
@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("largest", [3, 1000])
def test_a_page_for_each_page(tmp_path, pages, spaced, largest):
    import tifffile

    array = RNG.integers(0, 255, (pages, 20, 31) if pages > 1 else (20, 31)).astype(np.uint8)
    how = {"photometric": "minisblack", "metadata": None}
    if spaced:
        axes = {"axes": "ZYX", "spacing": 2.0, "unit": "mm"} if pages > 1 else {"axes": "YX", "unit": "mm"}
        how = {"imagej": True, "resolution": (4.0, 2.0), "metadata": axes}
    tifffile.imwrite(tmp_path / "scan.tif", array, **how)
    scan = read(tmp_path / "scan.tif")
    assert scan.spaced == spaced and scan.shape == array.shape and writing.kind_of(scan) == "tiff"
    mask = RNG.integers(0, largest + 1, scan.shape).astype(writing.number_type((0, largest)))
    found = read_labels(writing.write(mask, scan, tmp_path / "m.tif", {}))
    np.testing.assert_array_equal(found.array[0], mask)
    assert found.spaced == spaced and found.spacing == pytest.approx(scan.spacing)


def test_what_a_png_cannot_hold_is_said(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (6, 5)).astype(np.uint8)).save(tmp_path / "scan.png")
    with pytest.raises(InputError, match="values up to 65535"):
        writing.write(np.full((6, 5), 70000, np.int32), read(tmp_path / "scan.png"), tmp_path / "m.png", {})


def test_kinds_that_do_not_fit_are_said(tmp_path):
    np.save(tmp_path / "scan.npy", RNG.standard_normal((9, 10, 11)))
    scan = read(tmp_path / "scan.npy")
    assert writing.kind_of(scan) == "nifti" and writing.kind_of(scan, "tiff") == "tiff"
    with pytest.raises(InputError, match="cannot be written as png; ask for nifti"):
        writing.kind_of(scan, "png")
    with pytest.raises(InputError, match="scan in NumPy cannot be written as dicom"):
        writing.kind_of(scan, "dicom")
    with pytest.raises(InputError, match="one of nifti, dicom, png, tiff"):
        writing.kind_of(scan, "mha")
