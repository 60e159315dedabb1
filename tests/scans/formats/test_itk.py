"""MetaImage and NRRD against SimpleITK's own geometry, point by point."""

import builtins
from pathlib import Path

import numpy as np
import pytest

from headwater.scans import scan as limits
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import UnreadableError

sitk = pytest.importorskip("SimpleITK")
RNG = np.random.default_rng(0)
TURN = np.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, -0.6]])


def image(shape: tuple = (4, 5, 6), kind: str = "i2", vector: bool = False) -> object:
    """Noise with spacing, origin and a turn."""
    made = sitk.GetImageFromArray((RNG.random(shape) * 100).astype(kind), isVector=vector)
    axes = made.GetDimension()
    made.SetSpacing((0.5, 1.5, 3.0)[:axes])
    made.SetOrigin((-10.0, 20.0, 30.0)[:axes])
    if axes == 3:
        made.SetDirection(TURN.ravel())
    return made


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_values_and_place(tmp_path, name, packed, kind):
    made = image(kind=kind)
    sitk.WriteImage(made, str(tmp_path / name), packed)
    scan = read(tmp_path / name)
    np.testing.assert_array_equal(scan.array[0], sitk.GetArrayFromImage(made).astype(np.float32))
    assert scan.spacing == (3.0, 1.5, 0.5) and scan.spaced and scan.notes == () and scan.stored == str(np.dtype(kind))
    for index in ((0, 0, 0), (3, 4, 5), (1, 0, 2)):
        left, back, up = made.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(scan.affine @ (*index, 1), (-left, -back, up, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (5, 6, 2)])
def test_vectors_are_channels(tmp_path, name, shape):
    made = image(shape, vector=True)
    sitk.WriteImage(made, str(tmp_path / name))
    scan = read(tmp_path / name)
    np.testing.assert_array_equal(scan.array, np.moveaxis(sitk.GetArrayFromImage(made), -1, 0))
    with pytest.raises(UnreadableError, match="channels"):
        read_labels(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_pictures_and_times(tmp_path, name):
    sitk.WriteImage(image((5, 6)), str(tmp_path / name))
    scan = read(tmp_path / name)
    assert scan.array.shape == (1, 5, 6) and scan.spacing == (1.5, 0.5)
    np.testing.assert_allclose(scan.affine, [[0, -0.5, 0, 10], [-1.5, 0, 0, -20], [0, 0, 1, 0], [0, 0, 0, 1]])
    slices = [image() for _ in range(3)]
    sitk.WriteImage(sitk.JoinSeries(slices), str(tmp_path / name))
    scan = read(tmp_path / name)
    np.testing.assert_array_equal(scan.array, [sitk.GetArrayFromImage(one) for one in slices])
    assert scan.spacing == (3.0, 1.5, 0.5)


def test_one_slice_is_a_picture(tmp_path):
    made = image((1, 5, 6))
    sitk.WriteImage(made, str(tmp_path / "a.nrrd"))
    scan = read(tmp_path / "a.nrrd")
    assert scan.array.shape == (1, 5, 6) and scan.spacing == (1.5, 0.5)
    left, back, up = made.TransformIndexToPhysicalPoint((2, 3, 0))
    np.testing.assert_allclose(scan.affine @ (3, 2, 0, 1), (-left, -back, up, 1), atol=1e-5)


def test_what_is_not_stated(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n\n" + bytes(range(24)))
    scan = read(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(scan.array.ravel(), range(24))
    assert not scan.spaced and scan.spacing == (1, 1, 1)
    text = b'NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nspacings: 5 5 7\nspace units: "um" "um" "um"\nencoding: raw\n\n'
    (tmp_path / "b.nrrd").write_bytes(text.replace(b"dimension: 3\n", b"dimension: 3\nspace dimension: 3\n") + bytes(24))
    text = b"ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "c.mha").write_bytes(text + bytes(24))
    assert not read(tmp_path / "c.mha").spaced
    (tmp_path / "d.mha").write_bytes(text.replace(b"ElementType", b"ElementSpacing = 1 2 3\nElementType") + bytes(24))
    scan = read(tmp_path / "d.mha")
    assert scan.spaced and scan.spacing == (3, 2, 1) and scan.notes == ("orientation not stated",)


def test_units(tmp_path):
    made = image()
    sitk.WriteImage(made, str(tmp_path / "a.nrrd"))
    data = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(data.replace(b"encoding: raw", b'space units: "um" "um" "um"\nencoding: raw'))
    scan = read(tmp_path / "a.nrrd")
    assert scan.spacing == (0.003, 0.0015, 0.0005)
    np.testing.assert_allclose(scan.affine[:3, 3], (0.01, -0.02, 0.03))


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("packed", [False, True])
def test_cut_off(tmp_path, name, packed, capfd):
    sitk.WriteImage(image((20, 20, 20)), str(tmp_path / name), packed)
    largest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(UnreadableError, match=r"is cut off at (4|5)\d %"):
        read(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_bombs(tmp_path, monkeypatch):
    text = b"ObjectType = Image\nNDims = 3\nDimSize = 9999 9999 9999\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(text + bytes(24))
    with pytest.raises(UnreadableError, match="9999 x 9999 x 9999.* values, more than the limit"):
        read(tmp_path / "a.mha")
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 9999 9999 9999\nencoding: gzip\n\n" + bytes(24)
    )
    with pytest.raises(UnreadableError, match="more than the limit"):
        read(tmp_path / "a.nrrd")
    sitk.WriteImage(image(), str(tmp_path / "b.mha"))
    monkeypatch.setattr(limits, "LIMIT", 479)
    with pytest.raises(UnreadableError, match="more than the limit|larger than"):
        read(tmp_path / "b.mha")


@pytest.mark.parametrize("place", ["../a.raw", "/etc/hostname", "sub/../../a.raw", "LIST\n../a.raw", "a%02d.raw 1 3 1"])
@pytest.mark.parametrize("name", ["h.mhd", "h.nhdr", "h.mha", "h.nrrd"])
def test_voxels_outside_the_folder_are_not_opened(tmp_path, place, name):
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image(), str(tmp_path / "in" / "a.mhd"))
    sitk.WriteImage(image(), str(tmp_path / "in" / "b.nhdr"))
    header = "a.mhd" if name.startswith("h.m") else "b.nhdr"
    text = (tmp_path / "in" / header).read_text().replace("a.raw", place).replace("b.raw", place)
    (tmp_path / "in" / name).write_text(text)
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(UnreadableError, match="outside its own folder|numbered files"):
        read(tmp_path / "in" / name)
    (tmp_path / "in" / "link.raw").symlink_to(tmp_path / "a.raw")
    (tmp_path / "in" / name).write_text(text.replace(place, "link.raw"))
    with pytest.raises(UnreadableError, match="outside its own folder"):
        read(tmp_path / "in" / name)


def test_missing_voxels_and_headers(tmp_path):
    sitk.WriteImage(image(), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink()
    with pytest.raises(UnreadableError, match="lacks the file of its voxels"):
        read(tmp_path / "a.mhd")
    for content in (b"", b"x" * 100, b"NRRD0004\n", b"NRRD0004\nsizes: a b\n\n", b"ElementDataFile = LOCAL\n"):
        for name in ("b.mha", "b.nrrd"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UnreadableError):
                read(tmp_path / name)


def test_without_simpleitk(tmp_path, monkeypatch):
    sitk.WriteImage(image(), str(tmp_path / "a.mha"))
    real = builtins.__import__

    def missing(name, *rest):
        if name == "SimpleITK":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UnreadableError, match=r"SimpleITK is missing; pip install 'headwater\[itk\]'"):
        read(tmp_path / "a.mha")


def test_real_files():
    folder = Path(__file__).parents[4] / "shared" / "data" / "odd"
    if not folder.is_dir():
        pytest.skip("no odd files beside the checkout")
    for name in ("mha.mha", "breast1_image.nrrd", "breast1_label.nrrd"):
        scan, made = read(folder / name), sitk.ReadImage(str(folder / name))
        np.testing.assert_array_equal(scan.array[0], sitk.GetArrayFromImage(made))
        last = made.TransformIndexToPhysicalPoint([n - 1 for n in made.GetSize()])
        expected = np.array([*last, 1]) * (-1, -1, 1, 1)
        np.testing.assert_allclose(scan.affine @ (*(n - 1 for n in scan.shape), 1), expected, atol=1e-4)
