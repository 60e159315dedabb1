"""TIFF against tifffile.imread and Pillow; axes, spacing and faults."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from headwater.scans import scan as limits
from headwater.scans.formats import tiff
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import UnreadableError

RNG = np.random.default_rng(0)


def noise(shape: tuple, kind: str = "u2") -> np.ndarray:
    """Values of one type."""
    return (RNG.random(shape) * 200).astype(kind)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", "?"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type(tmp_path, kind, order):
    array = noise((9, 11), kind)
    tifffile.imwrite(tmp_path / "a.tif", array, byteorder=order)
    scan = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.array[0], tifffile.imread(tmp_path / "a.tif").astype(np.float32))
    assert scan.array.shape == (1, 9, 11) and scan.stored == ("uint8" if kind == "?" else str(np.dtype(kind))) and not scan.spaced


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_stacks_are_volumes(tmp_path, compression, tile):
    array = noise((5, 33, 17))
    tifffile.imwrite(tmp_path / "a.tiff", array, compression=compression, tile=tile, photometric="minisblack")
    scan = read(tmp_path / "a.tiff")
    np.testing.assert_array_equal(scan.array, array[None])
    assert scan.ndim == 3 and scan.spacing == (1, 1, 1)


def test_pages_written_one_by_one_are_a_volume(tmp_path):
    pages = noise((4, 9, 11))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, metadata=None, contiguous=False)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[0], pages)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour(tmp_path, planar):
    array = noise((9, 11, 3))
    stored = array if planar == "contig" else np.moveaxis(array, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    scan = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.array, np.moveaxis(array, -1, 0))
    assert scan.stored == "uint16"
    stack = noise((5, 9, 11, 4), "u1")
    tifffile.imwrite(tmp_path / "b.tif", stack, photometric="rgb", extrasamples=["unassalpha"])
    scan = read(tmp_path / "b.tif")
    np.testing.assert_array_equal(scan.array, np.moveaxis(stack[..., :3], -1, 0))
    assert "alpha dropped" in scan.notes
    with pytest.raises(UnreadableError, match="mask in colour"):
        read_labels(tmp_path / "a.tif")


def test_imagej_axes_and_spacing(tmp_path):
    array = noise((5, 2, 9, 11))  # z, c, y, x
    how = {"axes": "ZCYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, resolution=(4.0, 2.0), metadata=how)
    scan = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.array, array.transpose(1, 0, 2, 3))
    np.testing.assert_allclose(scan.spacing, (0.002, 0.0005, 0.00025))
    assert scan.spaced
    np.testing.assert_allclose(np.diag(scan.affine), (0.002, 0.0005, 0.00025, 1))
    tifffile.imwrite(tmp_path / "b.tif", array[:, 0], imagej=True, resolution=(4, 4), metadata={"axes": "ZYX", "unit": "mm"})
    scan = read(tmp_path / "b.tif")
    assert not scan.spaced and scan.notes == ("distance of slices not stated",)
    tifffile.imwrite(tmp_path / "c.tif", array[:, 0], imagej=True, resolution=(72, 72), metadata={"axes": "TYX", "unit": "pixel"})
    scan = read(tmp_path / "c.tif")
    assert not scan.spaced and scan.notes == ("time points as slices",)


def test_ome_axes_and_spacing(tmp_path):
    array = noise((2, 5, 9, 11))  # c, z, y, x
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 3.0, "PhysicalSizeZUnit": "mm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata={"axes": "CZYX", **sizes})
    scan = read(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(scan.array, array)
    np.testing.assert_allclose(scan.spacing, (3.0, 0.0005, 0.0005))
    tifffile.imwrite(tmp_path / "b.ome.tif", noise((2, 3, 2, 9, 11)), metadata={"axes": "TCZYX"})
    scan = read(tmp_path / "b.ome.tif")
    assert scan.array.shape == (6, 2, 9, 11) and scan.notes == ("time points as channels",)


def test_dots_per_inch_are_no_spacing(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise((9, 11)), resolution=(300, 300), resolutionunit="INCH")
    assert not read(tmp_path / "a.tif").spaced


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("kind", ["L", "I;16", "F", "RGB"])
def test_what_pillow_packs(tmp_path, compression, kind):
    array = noise((33, 17, 3) if kind == "RGB" else (33, 17), {"L": "u1", "I;16": "u2", "F": "f4", "RGB": "u1"}[kind])
    Image.fromarray(array).save(tmp_path / "a.tif", compression=compression)
    scan = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.array, np.moveaxis(array, -1, 0) if kind == "RGB" else array[None])
    assert scan.stored == str(array.dtype)


def test_lzw_stacks_and_what_needs_a_library(tmp_path):
    pages = noise((3, 20, 20))
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[0], pages)
    data = (tmp_path / "a.tif").read_bytes()
    tifffile.imwrite(tmp_path / "b.tif", pages, photometric="minisblack", compression="zlib")
    data = bytearray((tmp_path / "b.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        places = [page.tags["Compression"].valueoffset for page in file.pages]
    for at in places:
        data[at : at + 2] = (50002).to_bytes(2, "little")  # JPEG XL
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(UnreadableError, match="a library is missing; pip install imagecodecs"):
        read(tmp_path / "b.tif")


def test_palettes(tmp_path):
    index = RNG.integers(0, 5, (9, 11)).astype(np.uint8)
    table = RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(table.tobytes())
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, np.moveaxis(table[index], -1, 0))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif").array[0], index)


def test_pages_that_differ(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise((9, 11)), metadata=None)
        file.write(noise((7, 20)), metadata=None)
    with pytest.raises(UnreadableError, match="pages that differ in size .7 x 20 and 9 x 11.; save one file"):
        read(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(noise((32, 32)), metadata=None)
        file.write(noise((16, 16)), metadata=None)
    assert read(tmp_path / "b.tif").shape == (32, 32) and read(tmp_path / "b.tif").notes == ("largest of 2 resolutions",)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("imagej", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_cut_off(tmp_path, compression, imagej, share):
    if imagej and compression:
        pytest.skip("ImageJ does not pack")
    tifffile.imwrite(tmp_path / "a.tif", noise((9, 64, 64)), compression=compression, imagej=imagej, photometric="minisblack")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableError, match="cut off|damaged|no readable TIFF|no pages"):
        read(tmp_path / "a.tif")


def test_bombs(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise((64, 64)))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        width = file.pages[0].tags["ImageWidth"].valueoffset
    data = bytearray((tmp_path / "a.tif").read_bytes())
    for value in (b"\xff\xff\xff\x7f", b"\x00\x00\x00\x04"):
        data[width : width + 4] = value
        (tmp_path / "b.tif").write_bytes(data)
        with pytest.raises(UnreadableError, match="more than the limit|cut off|differ|damaged"):
            read(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((512, 512), np.uint8), compression="zlib", rowsperstrip=512)
    data = bytearray((tmp_path / "c.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "c.tif") as file:
        length = file.pages[0].tags["ImageLength"].valueoffset
    data[length : length + 2] = (1).to_bytes(2, "little")  # one row declared, all 512 packed
    (tmp_path / "c.tif").write_bytes(data)
    monkeypatch.setattr(limits, "LIMIT", 1 << 17)
    monkeypatch.setattr(tiff, "_SPARE", 1 << 10)
    with pytest.raises(UnreadableError, match="unpacks to more"):
        read(tmp_path / "c.tif")


def test_white_is_zero_is_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise((9, 11), "u1"), photometric="miniswhite")
    assert "white is zero" in read(tmp_path / "a.tif").notes


def test_a_file_that_names_another_does_not_open_it(tmp_path):
    (tmp_path / "in").mkdir()
    own, secret, texts = noise((3, 9, 11)), noise((3, 9, 11)), []
    for path, array in ((tmp_path / "in" / "a.ome.tif", own), (tmp_path / "b.ome.tif", secret)):
        tifffile.imwrite(path, array, metadata={"axes": "ZYX"})
        with tifffile.TiffFile(path) as file:
            texts.append(file.ome_metadata)
    mark = texts[1].split('UUID="')[1].split('"')[0]
    data = '<TiffData IFD="0" PlaneCount="3"'
    text = texts[0].replace(f"{data}/>", f'{data}><UUID FileName="../b.ome.tif">{mark}</UUID></TiffData>')
    tifffile.imwrite(tmp_path / "in" / "c.ome.tif", own, description=text.encode(), metadata=None, photometric="minisblack")
    assert not np.array_equal(tifffile.imread(tmp_path / "in" / "c.ome.tif"), own)  # tifffile by itself follows the name
    scan = read(tmp_path / "in" / "c.ome.tif")
    np.testing.assert_array_equal(scan.array[0], own)
    assert scan.notes == ("one of several files: its own pages only",)
