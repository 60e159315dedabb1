"""NIfTI, Analyze and MGH against nibabel's own reading, and one sentence per fault."""

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from headwater.scans import scan as limits
from headwater.scans.formats import nifti
from headwater.scans.readers import read
from headwater.scans.scan import UnreadableError


def agrees(path: Path) -> None:
    """Values and affine are nibabel's."""
    ours, theirs = read(path), nibabel.load(path)
    expected = np.asarray(theirs.dataobj, dtype=np.float64)
    expected = expected.reshape((*expected.shape, 1, 1)[:3] + expected.shape[3:])
    expected = np.moveaxis(expected.reshape(*expected.shape[:3], -1), -1, 0)
    np.testing.assert_allclose(ours.array.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6 * np.nanmax(np.abs(expected)))
    np.testing.assert_allclose(ours.affine, theirs.affine, rtol=1e-6, atol=1e-5)


KINDS = ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "f4", ">f4", "f8", ">f8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_every_type_of_voxel(tmp_path, kind, name):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(kind)
    affine = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    header = nibabel.Nifti1Header(endianness=">" if kind[0] == ">" else "<")
    header.set_data_dtype(kind)
    single = nibabel.Nifti1Pair if name.endswith("hdr") else nibabel.Nifti1Image
    nibabel.save(single(array, affine, header), tmp_path / name)
    agrees(tmp_path / name)
    scan = read(tmp_path / name)
    assert (
        scan.stored == str(np.dtype(kind).newbyteorder("=")) and scan.spacing == (1.5, 2.0, 3.0) and scan.array.flags.c_contiguous
    )
    assert scan.array.dtype == np.float32 and scan.format == "NIfTI"


@pytest.mark.parametrize(("slope", "inter"), [(0.5, -1024.0), (2.0**-20, 1e4), (-3.0, 0.0), (1.0, 5.0), (np.nan, np.nan)])
def test_scaling_keeps_double_precision(tmp_path, slope, inter):
    array = np.random.default_rng(0).integers(-30000, 30000, (70, 70, 70)).astype(np.int16)
    image = nibabel.Nifti1Image(array, np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:120] = np.array([slope, inter], np.float32).tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    np.testing.assert_array_equal(
        read(tmp_path / "a.nii").array[0], nibabel.load(tmp_path / "a.nii").get_fdata().astype(np.float32)
    )


@pytest.mark.parametrize(
    "shape", [(5, 6), (5, 6, 1), (5, 6, 4), (5, 1, 4), (5, 6, 4, 3), (5, 6, 1, 3), (5, 6, 4, 1, 2), (5, 6, 4, 2, 1, 1)]
)
def test_axes(tmp_path, shape):
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4)), tmp_path / "a.nii"
    )
    agrees(tmp_path / "a.nii")


def test_too_many_axes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 4, 2, 2), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableError, match="has 5 axes"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("letters", ["RGB", "RGBA"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 4)])
def test_colours_are_channels(tmp_path, letters, shape):
    array = np.zeros(shape, [(letter, "u1") for letter in letters])
    rng = np.random.default_rng(0)
    for letter in letters:
        array[letter] = rng.integers(0, 255, shape)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    scan = read(tmp_path / "a.nii.gz")
    for channel, letter in zip(scan.array, "RGB", strict=True):
        np.testing.assert_array_equal(channel.reshape(shape), array[letter])
    assert scan.stored == "uint8" and scan.notes == (("alpha dropped",) if letters == "RGBA" else ())


def test_units(tmp_path):
    for unit, factor in (("micron", 1e-3), ("meter", 1e3), ("mm", 1.0)):
        image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.diag([4.5, 4.5, 2.0, 1]))
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / "a.nii")
        scan = read(tmp_path / "a.nii")
        np.testing.assert_allclose(scan.spacing, np.array([4.5, 4.5, 2.0]) * factor)
        np.testing.assert_allclose(np.diag(scan.affine)[:3], np.array([4.5, 4.5, 2.0]) * factor)
        assert bool(scan.notes) == (unit != "mm")


def coded(path: Path, sform: int, qform: int, pixdim: tuple = (1, 1, 1), affine: np.ndarray | None = None) -> Path:
    """A file with these codes."""
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), affine)
    image.header.set_zooms(pixdim)
    if affine is not None:
        image.header.set_sform(affine)
    image.header["sform_code"], image.header["qform_code"] = sform, qform
    nibabel.save(image, path)
    data = bytearray(path.read_bytes())
    data[252:256] = np.array([qform, sform], np.int16).tobytes()
    path.write_bytes(data)
    return path


def test_what_is_stated_of_the_place(tmp_path):
    nothing = read(coded(tmp_path / "a.nii", 0, 0))
    assert not nothing.spaced and nothing.orientation == "" and "orientation not stated" in nothing.notes[0]
    sized = read(coded(tmp_path / "b.nii", 0, 0, (1, 1, 2.5)))
    assert sized.spaced and sized.spacing == (1, 1, 2.5) and "orientation not stated" in sized.notes[0]
    agrees(tmp_path / "b.nii")
    full = read(coded(tmp_path / "c.nii", 1, 0, affine=np.eye(4)))
    assert full.spaced and full.notes == () and full.orientation == "RAS"


def test_forms_that_disagree(tmp_path):
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4))
    image.set_sform(np.diag([-1.0, 1, 1, 1]), 1)
    image.set_qform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "a.nii")
    scan = read(tmp_path / "a.nii")
    assert scan.affine[0, 0] == -1 and scan.notes == ("sform and qform differ, sform taken",)


def test_shear_and_spacing_that_disagrees(tmp_path):
    sheared = np.eye(4)
    sheared[1, 2] = 0.3
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), sheared), tmp_path / "a.nii")
    assert "sheared axes (gantry tilt)" in read(tmp_path / "a.nii").notes
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([2.0, 2, 2, 1]))
    nibabel.save(image, tmp_path / "b.nii")
    data = bytearray((tmp_path / "b.nii").read_bytes())
    data[80:84] = np.float32(1.0).tobytes()
    (tmp_path / "b.nii").write_bytes(data)
    scan = read(tmp_path / "b.nii")
    assert scan.spacing == (2, 2, 2) and "spacing differs" in scan.notes[0]
    flat = np.diag([1.0, 1, 1, 1])
    flat[:3, 2] = flat[:3, 1]
    image.header.set_sform(flat, 1)
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), None, image.header), tmp_path / "c.nii")
    with pytest.raises(UnreadableError, match="flattens"):
        read(tmp_path / "c.nii")


def test_pairs(tmp_path):
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Pair(array, np.eye(4)), tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        np.testing.assert_array_equal(read(tmp_path / name).array[0], array)
    (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
    (tmp_path / "a.img").unlink()
    np.testing.assert_array_equal(read(tmp_path / "a.hdr").array[0], array)
    (tmp_path / "a.img.gz").unlink()
    with pytest.raises(UnreadableError, match="no .img file beside it"):
        read(tmp_path / "a.hdr")


def test_analyze(tmp_path):
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    image = nibabel.AnalyzeImage(array, np.diag([-2.0, 2, 3, 1]))
    nibabel.save(image, tmp_path / "a.img")
    scan = read(tmp_path / "a.hdr")
    np.testing.assert_array_equal(scan.array[0], array)
    assert scan.spacing == (2, 2, 3) and "orientation not stated" in scan.notes[0]


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
@pytest.mark.parametrize("kind", ["u1", ">i2", ">i4", ">f4"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 2)])
def test_mgh(tmp_path, name, kind, shape):
    affine = np.array([[-1.0, 0, 0, 90], [0, 0, 1.5, -80], [0, -2.0, 0, 70], [0, 0, 0, 1]])
    nibabel.save(nibabel.MGHImage(np.arange(np.prod(shape)).reshape(shape).astype(kind), affine), tmp_path / name)
    agrees(tmp_path / name)
    scan = read(tmp_path / name)
    assert scan.format == "MGH" and scan.spacing == (1, 2, 1.5) and scan.stored == str(np.dtype(kind).newbyteorder("="))


def test_mgh_faults(tmp_path):
    nibabel.save(nibabel.MGHImage(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / "a.mgh")
    data = (tmp_path / "a.mgh").read_bytes()
    for content, words in ((data[:100], "inside its header"), (data[: 284 + 240], "cut off at"), (b"x" * 400, "no MGH header")):
        (tmp_path / "a.mgh").write_bytes(content)
        with pytest.raises(UnreadableError, match=words):
            read(tmp_path / "a.mgh")


def test_a_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    header = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)).header
    machine = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = machine.compress(header.binaryblock + bytes(4)) + b"".join(machine.compress(bytes(1 << 20)) for _ in range(50))
    (tmp_path / "a.nii.gz").write_bytes(bomb + machine.flush())
    with pytest.raises(UnreadableError, match="more than twice the bytes"):
        read(tmp_path / "a.nii.gz")
    header.set_data_shape((30000, 30000, 30000))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    with pytest.raises(UnreadableError, match="30000 x 30000 x 30000 values, more than the limit"):
        read(tmp_path / "b.nii.gz")
    monkeypatch.setattr(limits, "LIMIT", 4 * 63)
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(UnreadableError, match="larger than|more than the limit"):
        read(tmp_path / "c.nii")


def test_more_bytes_than_the_header_says_are_told(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    for extra, told in ((512, False), (9000, True)):
        (tmp_path / "a.nii").write_bytes(data + bytes(extra))
        assert bool(read(tmp_path / "a.nii").notes) == told


def test_nibabels_own_files():
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    names = [p for p in sorted(folder.iterdir()) if p.name.lower().endswith(nifti.SUFFIXES)] if folder.is_dir() else []
    if not names:
        pytest.skip("nibabel came without its test files")
    done = 0
    for path in names:
        try:
            agrees(path)
        except UnreadableError as error:
            assert error.fault and error.remedy
        else:
            done += 1
    assert done >= 5
