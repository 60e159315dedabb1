"""Reading whatever a file is: the right format, channels from several files, masks, and one clear sentence per fault."""

import gzip
import io
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from headwater.errors import InputError
from headwater.scans import readers
from headwater.scans.readers import COMPANIONS, SUFFIXES, UnreadableError, looks_like, read, read_labels
from headwater.scans.scan import Source, same_place

BESIDE = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)


def test_values_spacing_and_affine_are_kept(tmp_path, save):
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    affine = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    scan = read(save(tmp_path / "sub-07_T1w.nii.gz", array, affine=affine))
    assert scan.array.dtype == np.float32 and scan.array.flags.c_contiguous and scan.stored == "int16"
    np.testing.assert_array_equal(scan.array[0], array)
    assert scan.spacing == (1.5, 2.0, 3.0) and scan.ndim == 3 and scan.source == Source.of(tmp_path / "sub-07_T1w.nii.gz")
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((5, 6), (1, 5, 6)), ((5, 6, 1), (1, 5, 6)), ((5, 6, 4), (1, 5, 6, 4)), ((5, 6, 4, 3), (3, 5, 6, 4)),
     ((5, 6, 1, 3), (3, 5, 6)), ((5, 6, 4, 1), (1, 5, 6, 4)), ((5, 6, 4, 1, 2), (2, 5, 6, 4))],
)  # fmt: skip
def test_axes(tmp_path, save, stored, expected):
    array = RNG.normal(size=stored).astype(np.float32)
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


def one_of_each(folder: Path) -> dict[str, np.ndarray]:
    """Small files in every format that needs no extra, by name, with what they hold."""
    volume, picture = RNG.integers(0, 200, (4, 5, 6)).astype(np.uint8), RNG.integers(0, 200, (9, 11)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "a.nii.gz")
    nibabel.save(nibabel.MGHImage(volume, np.eye(4)), folder / "b.mgz")
    nibabel.save(nibabel.Nifti1Pair(volume, np.eye(4)), folder / "c.hdr")
    Image.fromarray(picture).save(folder / "d.png")
    Image.fromarray(picture).save(folder / "e.bmp")
    tifffile.imwrite(folder / "f.tif", volume, photometric="minisblack")
    np.save(folder / "g.npy", volume)
    np.savez_compressed(folder / "h.npz", volume)
    return {"a.nii.gz": volume, "b.mgz": volume, "c.hdr": volume, "c.img": volume, "d.png": picture, "e.bmp": picture,
            "f.tif": volume, "g.npy": volume, "h.npz": volume}  # fmt: skip


def test_formats_are_told_by_suffix_in_either_case_or_by_first_bytes(tmp_path):
    for number, (name, array) in enumerate(one_of_each(tmp_path).items()):
        data = (tmp_path / name).read_bytes()
        places = [name]
        if not name.startswith("c."):
            places += [name.upper(), f"1.2.840.{number}", f"scan{number}"]
        for place in places:
            (tmp_path / place).write_bytes(data)
            if name == "b.mgz" and place[0] != "b" and place[0] != "B":
                continue  # inside gzip, only NIfTI is looked for
            np.testing.assert_array_equal(read(tmp_path / place).array[0], array)
            assert looks_like(tmp_path / place) == (place != "c.img")


def test_what_is_looked_at(tmp_path):
    for name in ("notes", "._a.nii.gz", ".hidden", "a.txt", "dataset.json", "a.raw"):
        (tmp_path / name).write_bytes(b"nothing to see here, and long enough for any header " * 10)
        assert not looks_like(tmp_path / name)
    assert not looks_like(tmp_path) and looks_like("a.DCM") and looks_like("a.nii.gz")
    assert not set(SUFFIXES) & set(COMPANIONS) and all(suffix == suffix.lower() for suffix in SUFFIXES)


def test_several_files_are_channels(tmp_path, save):
    first, second = RNG.normal(size=(2, 4, 5, 6)).astype(np.float32)
    places = (save(tmp_path / "a.nii", first), save(tmp_path / "b.nii.gz", second.astype(np.float64)))
    scan = read(Source(places))
    np.testing.assert_array_equal(scan.array, [first, second])
    assert scan.stored == "float32/float64" and scan.format == "NIfTI" and scan.source.files == places
    np.testing.assert_array_equal(read(Source(places[::-1])).array, [second, first])
    with pytest.raises(UnreadableError, match=r"b.nii has \(4, 5, 7\) voxels where a.nii has \(4, 5, 6\); bring all"):
        read(Source((places[0], save(tmp_path / "b.nii", np.ones((4, 5, 7), np.float32)))))
    with pytest.raises(UnreadableError, match="b.nii lies at another place than a.nii"):
        read(Source((places[0], save(tmp_path / "b.nii", first, spacing=(1, 1, 2)))))


def test_parts_only_where_there_are_some(tmp_path, save):
    with pytest.raises(UnreadableError, match="not made of parts"):
        read(Source((save(tmp_path / "a.nii", np.ones((4, 5, 6), np.uint8)),), "0"))


def cut(path: Path, share: float) -> Path:
    """The first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_cut_off_files_say_where(tmp_path, save):
    noise = RNG.integers(0, 255, (40, 40, 40)).astype(np.uint8)
    for name, share, low, high in (("a.nii.gz", 0.63, 55, 70), ("b.nii", 0.5, 49, 51)):
        path = cut(save(tmp_path / name, noise), share)
        with pytest.raises(InputError, match=rf"{name} is cut off at \d+ %; copy it again") as caught:
            read(path)
        assert low <= int(str(caught.value).split(" at ")[1].split(" ")[0]) <= high


def test_flipped_byte_is_noticed(tmp_path, save):
    path = save(tmp_path / "a.nii.gz", RNG.integers(0, 255, (30, 30, 30)).astype(np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.nii.gz", b"", "is empty"), ("a.nii", b"", "is empty"), ("a.nii", b"x" * 400, "no NIfTI header"),
     ("a.nii.gz", gzip.compress(b"hello", mtime=0), "no NIfTI header"), ("a.nii.gz", gzip.compress(b"h" * 9, mtime=0)[:9],
     "cut off"),
     ("a.nii", (348).to_bytes(4, "little"), "inside its header"), ("a.nii", (348).to_bytes(4, "little") + bytes(600), "header"),
     ("a.xyz", b"x", "of no known format"), ("a.png", b"x", "no PNG"), ("a.tif", b"x", "no readable TIFF|decoded"),
     ("a.npy", b"x", "no readable NumPy"), ("a.npz", b"x", "no .npz"), ("a.mha", b"x", "no MetaImage")],
)  # fmt: skip
def test_what_is_no_scan(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) and "; " in str(caught.value)


def test_missing_pipes_complex_and_nan(tmp_path, save):
    for suffix in (".nii.gz", ".png", ".npz", "", ".dcm"):
        with pytest.raises(UnreadableError, match="cannot be opened"):
            read(tmp_path / f"none{suffix}")
    with pytest.raises(UnreadableError, match="not a file"):
        read(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.nii")
        with pytest.raises(UnreadableError, match="not a file"):
            read(tmp_path / "pipe.nii")
    for name, array, words in (("c", np.ones((4, 4, 4), np.complex64), "complex"),
                               ("n", np.full((4, 4, 4), np.nan, np.float32), "no finite value")):  # fmt: skip
        with pytest.raises(UnreadableError, match=words):
            read(save(tmp_path / f"{name}.nii.gz", array))
    half = np.full((4, 4, 4), np.nan, np.float32)
    half[-1] = 1
    assert np.isnan(read(save(tmp_path / "h.nii", half)).array).sum() == 48


@pytest.mark.parametrize("error", [MemoryError, OverflowError, EOFError, SyntaxError, KeyError, RecursionError, AssertionError])
def test_whatever_a_library_raises_becomes_a_sentence(tmp_path, save, monkeypatch, error):
    def broken(source):
        raise error("Jane Doe")

    monkeypatch.setattr(readers.nifti, "read", broken)
    with pytest.raises(UnreadableError, match=rf"cannot be decoded \({error.__name__}\); copy it") as caught:
        read(save(tmp_path / "a.nii", np.ones((4, 4, 4), np.uint8)))
    assert "Jane" not in str(caught.value) and caught.value.__cause__ is None


def test_masks(tmp_path, save):
    whole = np.zeros((4, 4, 4), np.float64)
    whole[1] = 3
    labels = read_labels(save(tmp_path / "a.nii.gz", whole))
    assert labels.array.dtype == np.int32 and labels.array.shape == (1, 4, 4, 4) and labels.array.max() == 3
    assert labels.stored == "float64"
    for array, words in ((whole / 2, "not whole numbers"), (-whole, "from -3"), (np.ones((4, 4, 4, 2)), "2 channels"),
                         (whole * np.nan, "no finite|not whole"), (whole * 2**24, "to 5")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            read_labels(save(tmp_path / "b.nii.gz", array))


def test_masks_in_every_format(tmp_path):
    for name, array in one_of_each(tmp_path).items():
        labels = read_labels(tmp_path / name)
        np.testing.assert_array_equal(labels.array[0], array)
        assert labels.array.dtype == np.int32


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
     (108, np.float32(-500)), (108, np.float32(np.nan)), (108, np.float32(np.inf)), (108, np.float32(1e30)), (70, np.int16(0)),
     (70, np.int16(1)), (80, np.float32(1e-20)), (80, np.float32(1e20)), (280, np.float32(np.nan)), (280, np.float32(0)),
     (80, np.float32(0)), (80, np.float32(np.nan))],
)  # fmt: skip
def test_damaged_headers(tmp_path, save, place, value):
    path = save(tmp_path / "a.nii", np.ones((4, 4, 4), np.float32))
    data = bytearray(path.read_bytes())
    data[place : place + value.nbytes] = value.tobytes()
    path.write_bytes(bytes(data))
    with pytest.raises(UnreadableError, match="a.nii (has|is|states|declares)"):
        read(path)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, taken out or put in, most near the start, where headers are."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, min(len(out), 600 if rng.random() < 0.7 else len(out))))
        piece = [rng.bytes(4), b"\xff" * 4, bytes(4), b"\x7f\xff", b"\x80", rng.bytes(1)][rng.integers(6)]
        kind = rng.random()
        if kind < 0.8:
            out[at : at + len(piece)] = piece
        elif kind < 0.9:
            out[at : at + int(rng.integers(1, 50))] = b""
        else:
            out[at:at] = piece
    return bytes(out[: int(len(out) * rng.random())] if rng.random() < 0.1 else out)


def fuzz(folder: Path, name: str, data: bytes, times: int) -> int:
    """Reads so many damaged copies; how many were still readable. Nothing but UnreadableError may come out."""
    rng, readable = np.random.default_rng(len(name) + data[-1]), 0
    for _ in range(times):
        (folder / name).write_bytes(mutated(data, rng))
        for how in (read, read_labels):
            try:
                scan = how(folder / name)
            except UnreadableError as error:
                assert error.fault and error.remedy and len(str(error)) < 400
            else:
                readable += 1
                assert scan.array.ndim == 1 + len(scan.spacing) and min(scan.spacing) > 0 and np.isfinite(scan.affine).all()
    return readable


@pytest.mark.parametrize("name", ["a.nii.gz", "b.mgz", "c.hdr", "c.img", "d.png", "e.bmp", "f.tif", "g.npy", "h.npz", "z.nii"])
def test_no_damage_escapes_as_another_error(tmp_path, name):
    one_of_each(tmp_path)
    if name == "z.nii":
        (tmp_path / name).write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    fuzz(tmp_path, name, (tmp_path / name).read_bytes(), 100)


ODD = {"bvals.txt": "no known format", "bvecs.txt": "no known format", "complex.nii.gz": "complex"}


def test_every_odd_file_reads_or_says_why_not():
    if not (BESIDE / "odd").is_dir():
        pytest.skip("no odd files beside the checkout")
    pytest.importorskip("SimpleITK")
    count = 0
    for path in sorted(path for path in (BESIDE / "odd").rglob("*") if path.is_file()):
        if "dicom" in path.parts[-2] or path.parent.name == "orders" and path.name not in ("RAS.nii.gz", "PIL.nii.gz"):
            continue
        count += 1
        if path.name in ODD:
            with pytest.raises(UnreadableError, match=ODD[path.name]):
                read(path)
        else:
            scan = read(path)
            assert np.isfinite(scan.array).all() and scan.spaced, path.name
    assert count >= 15


def test_all_axis_orders_are_one_head():
    folder = BESIDE / "odd" / "orders"
    if not folder.is_dir():
        pytest.skip("no odd files beside the checkout")
    heads = []
    for path in sorted(folder.iterdir())[::6]:
        scan = read(path)
        assert scan.orientation == path.name[:3]
        turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(scan.array[0], scan.affine))
        heads.append((np.asarray(turned.dataobj), turned.affine))
    for array, affine in heads[1:]:
        np.testing.assert_array_equal(array, heads[0][0])
        np.testing.assert_allclose(affine, heads[0][1], atol=1e-3)


@pytest.mark.slow
def test_far_more_damage(tmp_path):
    names, files = one_of_each(tmp_path), {}
    for name in names:
        files[name] = (tmp_path / name).read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (40, 40, 3)).astype(np.uint8)).save(buffer, "JPEG")
    files["j.jpg"] = buffer.getvalue()
    for name, data in files.items():
        fuzz(tmp_path, name, data, 1000)
