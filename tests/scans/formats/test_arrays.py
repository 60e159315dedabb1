"""NumPy files: axes, parts read in turn, and what is not opened."""

import io
import os
import time
import zipfile

import numpy as np
import pytest

from headwater.scans import scan as limits
from headwater.scans.formats import arrays
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import Source, UnreadableError

RNG = np.random.default_rng(0)


def noise(shape: tuple, kind: str = "u1") -> np.ndarray:
    """Values of one type."""
    return (RNG.random(shape) * 200).astype(kind)


@pytest.mark.parametrize("kind", ["?", "u1", "i2", ">i2", "u2", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((9, 11), 2), ((5, 9, 11), 3), ((2, 5, 9, 11), 3), ((9, 11, 3), 2), ((5, 9, 11, 3), 3), ((5, 6, 2), 3)]
)
def test_axes(tmp_path, kind, order, shape, axes):
    array = np.asarray(noise(shape, kind), order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "b.npz", only=array)
    expected = np.moveaxis(array, -1, 0) if shape[-1] == 3 else array if len(shape) == 4 else array[None]
    for name in ("a.npy", "b.npz"):
        scan = read(tmp_path / name)
        np.testing.assert_array_equal(scan.array, expected.astype(np.float32))
        assert scan.ndim == axes and not scan.spaced and scan.spacing == (1,) * axes and scan.format == "NumPy"
        assert scan.stored == ("uint8" if kind == "?" else str(np.dtype(kind).newbyteorder("=")))
        assert bool(scan.notes) == (shape[-1] == 3)


@pytest.mark.parametrize(("shape", "words"), [((4,), "1 axes"), ((), "0 axes|no voxels"), ((17, 4, 5, 6), "four axes"),
                                              ((2, 2, 2, 2, 2), "5 axes"), ((0, 4), "no voxels")])  # fmt: skip
def test_axes_that_are_no_scan(tmp_path, shape, words):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    np.savez(tmp_path / "a.npz", np.zeros(shape, np.float32))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UnreadableError, match=words):
            read(tmp_path / name)


def test_parts(tmp_path):
    pictures, colours, labels = noise((6, 9, 11)), noise((6, 9, 11, 3)), noise((6, 9, 11), "i4")
    np.savez_compressed(tmp_path / "a.npz", train_images=pictures, test_images=colours, masks=labels)
    np.save(tmp_path / "b.npy", pictures)
    here = (tmp_path / "a.npz",)
    for i in (0, 5):
        np.testing.assert_array_equal(read(Source(here, f"train_images/{i}")).array[0], pictures[i])
        np.testing.assert_array_equal(read(Source(here, f"test_images/{i}")).array, np.moveaxis(colours[i], -1, 0))
        np.testing.assert_array_equal(read_labels(Source(here, f"masks/{i}")).array[0], labels[i])
        np.testing.assert_array_equal(read(Source((tmp_path / "b.npy",), str(i))).array[0], pictures[i])
    np.testing.assert_array_equal(read(Source(here, "train_images")).array[0], pictures)
    for part in ("train_images/6", "nothing/0", "nothing", "train_images/-1", "train_images/x", "../train_images/0"):
        with pytest.raises(UnreadableError, match="no entry|does not hold"):
            read(Source(here, part))
    with pytest.raises(UnreadableError, match="holds 3 arrays; name one"):
        read(here[0])


def test_what_is_inside_is_told_without_reading_it(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=noise((6, 9, 11), "u2"), labels=np.zeros((6, 1), np.int64))
    np.save(tmp_path / "b.npy", noise((6, 9), ">f4"))
    assert arrays.parts(tmp_path / "a.npz") == {"images": ((6, 9, 11), np.dtype("u2")), "labels": ((6, 1), np.dtype("i8"))}
    assert arrays.parts(tmp_path / "b.npy") == {"": ((6, 9), np.dtype(">f4"))}
    np.testing.assert_array_equal(arrays.load(tmp_path / "a.npz", "labels"), np.zeros((6, 1)))
    with pytest.raises(ValueError, match="read-only"):
        arrays.load(tmp_path / "a.npz", "labels")[0] = 1


def test_an_array_is_unpacked_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    calls, real = [], arrays._unpacked
    monkeypatch.setattr(arrays, "_unpacked", lambda path, key: calls.append(key) or real(path, key))
    path, first = tmp_path / "a.npz", noise((50, 8, 8))
    np.savez_compressed(path, x=first, y=first)
    for i in range(50):
        read(Source((path,), f"x/{i}")), read(Source((path,), f"y/{i}"))
    assert calls == ["x", "y"]
    np.savez_compressed(path, x=first + 1, y=first)
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))
    np.testing.assert_array_equal(read(Source((path,), "x/3")).array[0], first[3] + 1)
    monkeypatch.setattr(limits, "LIMIT", 3 * first.nbytes + 10**5)
    for key in "xyxy":
        arrays.load(path, key)
    assert sum(one.nbytes for one in arrays._kept.values()) <= limits.LIMIT


def test_pickles_are_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.save(tmp_path / "a.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([[Trap()]], dtype=object))
    (tmp_path / "c.npy").write_bytes(b"\x80\x04cos\nsystem\n.")
    for name, words in (("a.npy", "Python objects"), ("b.npz", "Python objects"), ("c.npy", "no readable NumPy header")):
        with pytest.raises(UnreadableError, match=words):
            read(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["c8", "M8[s]", "U4", "V8"])
def test_values_that_are_no_numbers(tmp_path, kind):
    np.save(tmp_path / "a.npy", np.zeros((4, 5), kind))
    with pytest.raises(UnreadableError, match="not numbers of one kind"):
        read(tmp_path / "a.npy")


def test_cut_off(tmp_path):
    np.save(tmp_path / "a.npy", noise((40, 50)))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-1000])
    with pytest.raises(UnreadableError, match="cut off at 53 %"):
        read(tmp_path / "a.npy")
    for share in (0.01, 0.5, 0.99):
        np.savez_compressed(tmp_path / "b.npz", x=noise((40, 50)), y=noise((40, 50)))
        data = (tmp_path / "b.npz").read_bytes()
        (tmp_path / "b.npz").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UnreadableError, match="cut off or no .npz"):
            read(tmp_path / "b.npz")


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_a_damaged_byte_is_noticed(tmp_path, saver):
    saver(tmp_path / "b.npz", x=noise((90, 90)))
    data = bytearray((tmp_path / "b.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(UnreadableError, match="damaged at"):
        read(tmp_path / "b.npz")


def header(shape: tuple, kind: str = "|u1") -> bytes:
    """The start of a .npy that declares this."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_bombs(tmp_path):
    for shape, words in (((10**6, 10**6), "more than the limit|cut off"), ((4, 5), "bytes longer"), ((-4, 5), "no voxels")):
        (tmp_path / "a.npy").write_bytes(header(shape) + bytes(21))
        with pytest.raises(UnreadableError, match=words):
            read(tmp_path / "a.npy")
    for shape, words in (((10**6, 10**6), "more than the limit"), ((30_000, 30_000), "another size"), ((4, 5), "another size")):
        with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", header(shape) + bytes(1 << 20))
        with pytest.raises(UnreadableError, match=words):
            read(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", header((1024, 1024)) + bytes(1 << 20))
    with pytest.raises(UnreadableError, match="a way that NumPy does not use"):
        read(tmp_path / "c.npz")


def test_real_pictures_of_an_npz(tmp_path):
    from pathlib import Path

    path = Path(__file__).parents[4] / "shared" / "data" / "pneumoniamnist.npz"
    if not path.is_file():
        pytest.skip("no MedMNIST file beside the checkout")
    whole = np.load(path)["test_images"]
    assert arrays.parts(path)["test_images"] == (whole.shape, whole.dtype)
    for i in (0, 300, 623):
        np.testing.assert_array_equal(read(Source((path,), f"test_images/{i}")).array[0], whole[i])
