"""Pictures against Pillow and against arrays we wrote; sixteen bits stay sixteen."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from headwater.scans import scan as limits
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import UnreadableError

RNG = np.random.default_rng(0)
PARTS = {0: 1, 2: 3, 4: 2, 6: 4}


def png(array: np.ndarray, colour: int, passes: int = 0) -> bytes:
    """A 16-bit PNG of (rows, columns, values) by the specification, a different filter in each row."""
    rows, columns, parts = array.shape
    raw = array.astype(">u2").reshape(rows, -1).view(np.uint8).astype(int)
    step, before, lines = 2 * parts, np.zeros(raw.shape[1], int), b""
    for y, row in enumerate(raw):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), before[:-step]])
        guess = left + before - corner
        a, b, c = abs(guess - left), abs(guess - before), abs(guess - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, before, corner))
        predicted = (np.zeros_like(row), left, before, (left + before) // 2, paeth)[y % 5]
        lines += bytes([y % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        before = row
    head = struct.pack(">IIBBBBB", columns, rows, 16, colour, 0, 0, passes)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk with its checksum."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_sixteen_bits_stay_sixteen(tmp_path, colour):
    array = RNG.integers(0, 65536, (13, 17, PARTS[colour]))
    (tmp_path / "a.png").write_bytes(png(array, colour))
    scan = read(tmp_path / "a.png")
    kept = 3 if colour in (2, 6) else 1
    np.testing.assert_array_equal(scan.array, np.moveaxis(array[..., :kept], -1, 0))
    assert scan.stored == "uint16" and scan.notes == (("alpha dropped",) if colour >= 4 else ())


def test_sixteen_bits_against_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    array = RNG.integers(0, 65536, (40, 30, 3)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "a.png"))
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp"])
@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3)])
def test_eight_bits(tmp_path, name, shape):
    array = RNG.integers(0, 256, shape).astype(np.uint8)
    array = np.repeat(array[..., None], 3, -1) if name == "a.webp" and array.ndim == 2 else array
    Image.fromarray(array).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    scan = read(tmp_path / name)
    np.testing.assert_array_equal(scan.array, array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0))
    assert scan.stored == "uint8" and scan.spacing == (1, 1) and not scan.spaced and scan.ndim == 2
    np.testing.assert_array_equal(scan.affine, np.eye(4))


def test_jpeg_is_what_pillow_decodes(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (32, 24, 3)).astype(np.uint8)).save(tmp_path / "a.jpg", dpi=(300, 300))
    scan = read(tmp_path / "a.jpg")
    np.testing.assert_array_equal(scan.array, np.moveaxis(np.asarray(Image.open(tmp_path / "a.jpg")), -1, 0))
    assert scan.format == "JPEG" and not scan.spaced


def test_one_bit_and_alpha(tmp_path):
    bits = RNG.integers(0, 2, (9, 11)).astype(bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").array[0], bits)
    for mode in ("LA", "RGBA"):
        array = RNG.integers(0, 256, (9, 11, len(mode))).astype(np.uint8)
        Image.fromarray(array, mode).save(tmp_path / "b.png")
        scan = read(tmp_path / "b.png")
        np.testing.assert_array_equal(scan.array, np.moveaxis(array[..., :-1], -1, 0))
        assert scan.notes == ("alpha dropped",)


def test_palettes_are_colours_for_scans_and_numbers_for_masks(tmp_path):
    index = RNG.integers(0, 3, (9, 11)).astype(np.uint8)
    table = np.array([[0, 0, 0], [200, 10, 20], [30, 220, 40]], np.uint8)
    for palette, channels in ((table, 3), (np.repeat(table[:, :1], 3, 1), 1)):
        image = Image.fromarray(index, "P")
        image.putpalette(palette.tobytes())
        image.save(tmp_path / "a.png")
        scan = read(tmp_path / "a.png")
        np.testing.assert_array_equal(scan.array, np.moveaxis(palette[index][..., :channels], -1, 0))
        np.testing.assert_array_equal(read_labels(tmp_path / "a.png").array[0], index)


def test_labels_in_sixteen_bits_and_in_colour(tmp_path):
    array = RNG.integers(0, 65536, (9, 11)).astype(np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "a.png")
    np.testing.assert_array_equal(labels.array[0], array)
    assert labels.stored == "uint16" and labels.array.dtype == np.int32
    Image.fromarray(RNG.integers(0, 256, (9, 11, 3)).astype(np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(UnreadableError, match="is a mask in colour; save one grey channel"):
        read_labels(tmp_path / "b.png")
    Image.fromarray(RNG.integers(0, 256, (32, 32)).astype(np.uint8)).save(tmp_path / "c.jpg")
    with pytest.raises(UnreadableError, match="saved as JPEG"):
        read_labels(tmp_path / "c.jpg")


def written(path, size=(64, 64), **how):
    """A picture of noise, its bytes."""
    Image.fromarray(RNG.integers(0, 256, size).astype(np.uint8)).save(path, **how)
    return path.read_bytes()


def test_cut_off_and_damaged(tmp_path):
    whole = written(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError, match=r"is cut off at (4\d|5\d) %; copy it again"):
        read(tmp_path / "a.png")
    for end in (10, 20, 40, len(whole) - 5):
        (tmp_path / "a.png").write_bytes(whole[:end])
        with pytest.raises(UnreadableError, match="cut off"):
            read(tmp_path / "a.png")
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(broken)
    with pytest.raises(UnreadableError, match="damaged at"):
        read(tmp_path / "a.png")
    for name in ("b.jpg", "b.bmp", "b.webp"):
        whole = written(tmp_path / name)
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UnreadableError, match="cut off|damaged"):
            read(tmp_path / name)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnreadableError, match="100000 x 100000 x 3 values, more than the limit"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own limit is not ours
    written(tmp_path / "b.png", (600, 600))
    assert read(tmp_path / "b.png").shape == (600, 600)
    monkeypatch.setattr(limits, "LIMIT", 1 << 20)
    with pytest.raises(UnreadableError, match="more than the limit"):
        read(tmp_path / "b.png")


def test_pixels_missing_from_a_whole_file(tmp_path):
    head = struct.pack(">IIBBBBB", 40, 40, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(41 * 20))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnreadableError, match="cut off|damaged"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"x", b"GIF89a" + bytes(30), b"\xff\xd8\xff", b"RIFF", b"BM", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableError):
        read(tmp_path / "a.png")


def test_cmyk_is_refused(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (8, 8, 4)).astype(np.uint8), "CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(UnreadableError, match="CMYK colours; save it in grey or RGB"):
        read(tmp_path / "a.jpg")


def test_a_jpeg_by_another_name(tmp_path):
    written(tmp_path / "a.jpg")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert read(tmp_path / "a.png").format == "JPEG"


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.fromarray(RNG.integers(0, 256, (8, 8)).astype(np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    scan = read(tmp_path / "a.png")
    np.testing.assert_array_equal(scan.array[0], np.asarray(frames[0]))
    assert scan.notes == ("first of 3 frames",)


def test_interlaced(tmp_path):
    """Pixels in seven passes, put there by the specification."""
    array = RNG.integers(0, 65536, (13, 10, 3))
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = b""
    for top, left, down, right in passes:
        for row in array[top::down, left::right]:
            lines += b"\0" + row.astype(">u2").tobytes() if len(row) else b""
    head = struct.pack(">IIBBBBB", 10, 13, 16, 2, 0, 0, 1)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, np.moveaxis(array, -1, 0))
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines[:-1])), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))
    with pytest.raises(UnreadableError, match="cut off at 99 %"):
        read(tmp_path / "a.png")
