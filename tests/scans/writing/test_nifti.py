"""Masks in NIfTI lie where their scans lie, to the last bit of the header."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from headwater.scans import writing
from headwater.scans.readers import read, read_labels
from headwater.scans.writing import nifti

RNG = np.random.default_rng(0)


def header_of(path):
    return nibabel.load(path).header


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_place_and_codes_are_those_of_the_input(tmp_path, kind):
    tilted = np.eye(4)
    tilted[:3, :3] = np.linalg.qr(RNG.standard_normal((3, 3)))[0] * [0.7, 3.0, 1.1]
    tilted[:3, 3] = 12.25, -80.5, 7
    image = kind(RNG.standard_normal((5, 6, 7, 2)).astype(np.float32), tilted)
    image.header.set_qform(np.diag([0.7, 3.0, 1.1, 1]), 2)
    image.header.set_sform(tilted, 4)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "scan.nii.gz")
    scan = read(tmp_path / "scan.nii.gz")
    mask = RNG.integers(0, 4, scan.shape).astype(np.uint8)
    one, other = (writing.write(mask, scan, tmp_path / name, {}) for name in ("mask.nii.gz", "mask.nii"))
    for place in (one, other):
        made, told = nibabel.load(place), header_of(tmp_path / "scan.nii.gz")
        np.testing.assert_array_equal(np.asarray(made.dataobj), mask)
        assert made.get_data_dtype() == np.uint8 and type(made) is kind
        for name in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
            np.testing.assert_array_equal(made.header[name], told[name])
        np.testing.assert_array_equal(made.header["pixdim"][:4], told["pixdim"][:4])
        assert made.header.get_xyzt_units()[0] == "mm" and made.header.get_slope_inter() == (None, None)
    again = writing.write(mask, scan, tmp_path / "again.nii.gz", {})
    assert again.read_bytes() == one.read_bytes()


def test_a_file_that_says_no_place_gets_none(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    nibabel.save(image, tmp_path / "scan.nii")
    made = header_of(writing.write(np.ones((4, 5, 6), np.uint8), read(tmp_path / "scan.nii"), tmp_path / "m.nii.gz", {}))
    assert int(made["sform_code"]) == int(made["qform_code"]) == 0


def test_a_slice_keeps_its_third_axis(tmp_path):
    nibabel.save(nibabel.Nifti1Image(RNG.standard_normal((8, 9, 1)), np.diag([1, 2, 5, 1.0])), tmp_path / "scan.nii.gz")
    scan = read(tmp_path / "scan.nii.gz")
    assert scan.shape == (8, 9)
    made = nibabel.load(writing.write(np.ones((8, 9), np.uint8), scan, tmp_path / "m.nii.gz", {}))
    assert made.shape == (8, 9, 1) and made.header.get_zooms() == (1.0, 2.0, 5.0)


@pytest.mark.parametrize(("values", "kind"), [((0, 255), np.uint8), ((0, 256), np.uint16), ((0, 70000), np.int32)])
def test_numbers_are_as_large_as_the_values_need(tmp_path, values, kind):
    nibabel.save(nibabel.Nifti1Image(RNG.standard_normal((3, 4, 5)), np.eye(4)), tmp_path / "scan.nii")
    mask = RNG.choice(values, (3, 4, 5)).astype(writing.number_type(values))
    place = writing.write(mask, read(tmp_path / "scan.nii"), tmp_path / "m.nii.gz", {})
    assert header_of(place).get_data_dtype() == kind
    np.testing.assert_array_equal(read_labels(place).array[0], mask)


@pytest.mark.parametrize("name", ["mha.mha", "shear.nii.gz", "ras.hdr", "low_res.nii.gz"])
def test_other_formats_become_nifti_on_the_same_grid(odd, tmp_path, name):
    scan = read(odd / name)
    mask = np.zeros(scan.shape, np.uint8)
    mask[tuple(slice(n // 3, n) for n in scan.shape)] = 7
    found = read_labels(writing.write(mask, scan, tmp_path / "m.nii.gz", {}))
    np.testing.assert_array_equal(found.array[0], mask)
    assert found.orientation == scan.orientation and found.spaced == scan.spaced
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-4)


def test_mgh_becomes_nifti_on_the_same_grid(tmp_path):
    affine = np.array([[-1.0, 0, 0, 9], [0, 0, 2, -4], [0, -3, 0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.MGHImage(RNG.standard_normal((4, 5, 6)).astype(np.float32), affine), tmp_path / "scan.mgz")
    scan = read(tmp_path / "scan.mgz")
    mask = RNG.integers(0, 4, scan.shape).astype(np.uint8)
    found = read_labels(writing.write(mask, scan, tmp_path / "m.nii.gz", {}))
    np.testing.assert_array_equal(found.array[0], mask)
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)


def test_orders_of_axes(odd, tmp_path):
    files = sorted((odd / "orders").glob("*.nii.gz"))
    assert len(files) == 48
    for file in files[::3]:
        scan = read(file)
        mask = (scan.array[0] > scan.array.mean()).astype(np.uint8)
        found = read_labels(writing.write(mask, scan, tmp_path / file.name, {}))
        np.testing.assert_array_equal(found.array[0], mask)
        np.testing.assert_array_equal(found.affine, scan.affine)


def test_floats_are_written_as_floats(tmp_path):
    nibabel.save(nibabel.Nifti1Image(RNG.standard_normal((3, 4, 5)), np.eye(4)), tmp_path / "scan.nii")
    values = RNG.random((3, 4, 5)).astype(np.float16)
    place = nifti.write(values, read(tmp_path / "scan.nii"), tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(place).dataobj), values.astype(np.float32))


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(RNG.standard_normal((3, 4, 5)), np.eye(4)), tmp_path / "scan.nii")
    scan = read(tmp_path / "scan.nii")

    def full(image, beside, packed):
        beside.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(nifti, "_save", full)
    with pytest.raises(OSError, match="no space"):
        writing.write(np.ones((3, 4, 5), np.uint8), scan, tmp_path / "out" / "m.nii.gz", {})
    assert not list((tmp_path / "out").iterdir())


def test_a_mask_of_another_size_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(RNG.standard_normal((3, 4, 5)), np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises(ValueError, match="mask of"):
        writing.write(np.ones((3, 4, 4), np.uint8), read(tmp_path / "scan.nii"), tmp_path / "m.nii.gz", {})


def test_voxels_of_the_scan_are_not_needed(tmp_path):
    nibabel.save(nibabel.Nifti1Image(RNG.standard_normal((3, 4, 5)), np.eye(4)), tmp_path / "scan.nii")
    scan = read(tmp_path / "scan.nii")
    light = replace(scan, array=np.broadcast_to(np.float32(0), scan.array.shape))
    one, other = (
        writing.write(np.ones((3, 4, 5), np.uint8), s, tmp_path / n, {}) for s, n in ((scan, "a.nii"), (light, "b.nii"))
    )
    assert one.read_bytes() == other.read_bytes()
