"""Readers: values, geometry, and one clear sentence per fault."""

import gzip

import nibabel
import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans.examine import examine
from headwater.scans.readers import UnreadableError, read, read_labels
from headwater.scans.scan import same_place


def test_values_spacing_and_affine_are_kept(tmp_path, save):
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    affine = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    scan = read(save(tmp_path / "sub-07_T1w.nii.gz", array, affine=affine))
    assert scan.array.dtype == np.float32 and scan.array.flags.c_contiguous
    np.testing.assert_array_equal(scan.array[0], array)
    assert scan.spacing == (1.5, 2.0, 3.0) and scan.subject == "sub-07" and scan.ndim == 3
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)


def test_scaling_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.full((3, 3, 3), 10, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, tmp_path / "a.nii")
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    np.testing.assert_allclose(read(tmp_path / "a.nii").array[0], stored, rtol=1e-6)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((5, 6), (1, 5, 6)), ((5, 6, 1), (1, 5, 6)), ((5, 6, 4), (1, 5, 6, 4)), ((5, 6, 4, 3), (3, 5, 6, 4)),
     ((5, 6, 1, 3), (3, 5, 6)), ((5, 6, 4, 1), (1, 5, 6, 4)), ((5, 6, 4, 1, 2), (2, 5, 6, 4))],
)  # fmt: skip
def test_axes(tmp_path, save, stored, expected):
    array = np.random.default_rng(0).normal(size=stored).astype(np.float32)
    scan = read(save(tmp_path / "a.nii.gz", array))
    assert scan.array.shape == expected and len(scan.spacing) == len(expected) - 1
    np.testing.assert_array_equal(scan.array[-1].reshape(-1), array.reshape(*(*array.shape, 1, 1)[:3], -1)[..., -1].reshape(-1))


def test_big_endian_nifti2_and_misnamed(tmp_path):
    array = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), nibabel.Nifti1Header(endianness=">")), tmp_path / "big.nii")
    nibabel.save(nibabel.Nifti2Image(array.astype(np.int16), np.eye(4)), tmp_path / "two.nii.gz")
    (tmp_path / "plain.nii.gz").write_bytes((tmp_path / "big.nii").read_bytes())
    for name in ("big.nii", "two.nii.gz", "plain.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / name).array[0], array)


def test_units_become_millimetres(tmp_path):
    image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.diag([5.0, 5.0, 5.0, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    scan = read(tmp_path / "a.nii")
    assert scan.spacing == (0.005, 0.005, 0.005) and scan.affine[0, 0] == pytest.approx(0.005)


def test_broken_geometry_is_named(tmp_path):
    for field, words in (("pixdim", "no voxel size"), ("srow_x", "NaN in its affine")):
        image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4))
        nibabel.save(image, tmp_path / "a.nii")
        data = bytearray((tmp_path / "a.nii").read_bytes())
        place = 80 if field == "pixdim" else 280
        data[place : place + 4] = np.float32(0 if field == "pixdim" else np.nan).tobytes()
        (tmp_path / "a.nii").write_bytes(bytes(data))
        with pytest.raises(InputError, match=words):
            read(tmp_path / "a.nii")


def _cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_cut_off_files_say_where(tmp_path, save):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    for name, share, low, high in (("a.nii.gz", 0.63, 55, 70), ("b.nii", 0.5, 49, 51)):
        path = _cut(save(tmp_path / name, noise), share)
        with pytest.raises(InputError, match=rf"{name} is cut off at \d+ %; copy it again") as caught:
            read(path)
        assert low <= int(str(caught.value).split(" at ")[1].split(" ")[0]) <= high


def test_flipped_byte_is_noticed(tmp_path, save):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 255, (30, 30, 30)).astype(np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.nii.gz", b"", "is empty"), ("a.nii", b"", "is empty"), ("a.nii", b"x" * 400, "no NIfTI header"),
     ("a.nii.gz", gzip.compress(b"hello"), "no NIfTI header"), ("a.nii.gz", gzip.compress(b"h" * 9)[:9], "cut off"),
     ("a.nii", (348).to_bytes(4, "little"), "inside its header"), ("a.nii", (348).to_bytes(4, "little") + bytes(600), "header"),
     ("a.mha", b"x", "not a NIfTI file")],
)  # fmt: skip
def test_what_is_no_scan(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) and "; " in str(caught.value)


def test_missing_complex_colour_and_nan(tmp_path, save):
    with pytest.raises(InputError, match="cannot be opened"):
        read(tmp_path / "none.nii.gz")
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, array, words in (("c", np.ones((4, 4, 4), np.complex64), "complex"), ("r", colour, "colour"),
                               ("n", np.full((4, 4, 4), np.nan, np.float32), "no finite value")):  # fmt: skip
        with pytest.raises(UnreadableError, match=words):
            read(save(tmp_path / f"{name}.nii.gz", array))


def test_masks(tmp_path, save):
    whole = np.zeros((4, 4, 4), np.float64)
    whole[1] = 3
    labels = read_labels(save(tmp_path / "a.nii.gz", whole))
    assert labels.array.dtype == np.int32 and labels.array.shape == (1, 4, 4, 4) and labels.array.max() == 3
    for array, words in ((whole / 2, "not whole numbers"), (-whole, "from -3"), (np.ones((4, 4, 4, 2)), "2 channels")):
        with pytest.raises(InputError, match=words):
            read_labels(save(tmp_path / "b.nii.gz", array))


def test_same_place_tolerates_rounding_only():
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    assert same_place((30, 30, 20), affine, affine + 3e-6) and same_place((30, 30), affine, affine + 3e-6)
    shifted, flipped = affine.copy(), affine.copy()
    shifted[0, 3] += 1.0
    flipped[0, 0], flipped[0, 3] = -1.0, 29.0
    for other in (shifted, flipped, np.diag([1.01, 1.0, 2.0, 1.0]), affine * np.nan):
        assert not same_place((30, 30, 20), affine, other)


@pytest.mark.parametrize(
    ("place", "value"),
    [(42, np.int16(-4)), (44, np.int16(0)), (46, np.int16(-32768)), (40, np.int16(0)), (40, np.int16(-1)), (40, np.int16(9)),
     (108, np.float32(-500)), (108, np.float32(np.nan)), (108, np.float32(np.inf)), (70, np.int16(0)), (70, np.int16(1)),
     (80, np.float32(1e-20))],
)  # fmt: skip
def test_damaged_headers(tmp_path, save, place, value):
    path = save(tmp_path / "a.nii", np.ones((4, 4, 4), np.float32))
    data = bytearray(path.read_bytes())
    data[place : place + value.nbytes] = value.tobytes()
    path.write_bytes(bytes(data))
    with pytest.raises(UnreadableError, match="a.nii (has|is|states)"):
        read(path)


def test_no_damage_to_a_header_escapes_as_another_error(tmp_path, save):
    path = save(tmp_path / "a.nii", np.arange(64, dtype=np.int16).reshape(4, 4, 4))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(400):
        data, start = bytearray(whole), rng.integers(4, 346)
        data[start : start + 4] = rng.choice([rng.bytes(4), b"\xff" * 4, bytes(4), b"\x00\x80" * 2])
        path.write_bytes(bytes(data))
        examine(path, "a", path, tmp_path, tmp_path)
