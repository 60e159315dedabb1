"""Images from folders and arrays: how many, which are left out, and what is said."""

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans.gather import gather


def pictures(n=10, shape=(12, 14), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def saved(tmp_path, array, name="images.npy"):
    np.save(tmp_path / name, array) if name.endswith(".npy") else np.savez(tmp_path / name, **array)
    return tmp_path / name


@pytest.mark.parametrize(
    ("shape", "ndim", "one"),
    [
        ((10, 12, 14), 2, (1, 12, 14)),
        ((10, 3, 12, 14), 2, (3, 12, 14)),
        ((10, 12, 14, 3), 2, (3, 12, 14)),
        ((10, 1, 12, 14), 2, (1, 12, 14)),
        ((10, 6, 7, 8), 3, (1, 6, 7, 8)),
        ((10, 2, 6, 7, 8), 3, (2, 6, 7, 8)),
        ((10, 1, 6, 7, 8), 2, (1, 6, 7, 8)),
    ],
)
def test_the_axes_of_an_array_are_told_by_the_model(tmp_path, shape, ndim, one):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = gather(saved(tmp_path, array), ndim)
    assert {a.shape for a in found.arrays} == {one} and found.found == 10 and found.words == () and found.spacing == ()
    assert sorted(float(a.sum()) for a in found.arrays) == pytest.approx(sorted(array.reshape(10, -1).sum(1).tolist()), rel=1e-4)


def test_a_drawn_choice_is_the_same_each_time(tmp_path):
    path = saved(tmp_path, pictures(40))
    one, again, other = (gather(path, 2, most=9, seed=seed).arrays for seed in (0, 0, 1))
    assert len(one) == 9 and all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_folder_of_scans_with_their_spacing(phantoms):
    found = gather(phantoms[0], 3)
    assert len(found.arrays) == 12 and found.arrays[0].shape == (1, 24, 24, 24) and len(found.spacing) == 3


def test_medmnist(tmp_path):
    parts = {
        "train_images": pictures(9, (28, 28)) > 0,
        "val_images": pictures(2, (28, 28), 1) > 0,
        "train_labels": np.zeros((9, 1)),
    }
    parts = {name: (part * 255).astype(np.uint8) for name, part in parts.items()}
    found = gather(saved(tmp_path, parts, "pneumonia.npz"), 2)
    assert len(found.arrays) == 11 and found.arrays[0].shape == (1, 28, 28)


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    array = pictures(13)
    array[0, 3, 3], array[1], array[3] = np.nan, 7.0, array[2]
    found = gather(saved(tmp_path, array), 2)
    assert len(found.arrays) == 10
    for part in ("1 hold NaN or infinite voxels", "1 hold one value only", "1 are copies of others"):
        assert part in found.words[0]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (pictures(7), "has 7 usable images of 7; agreement between views needs at least 8"),
        (np.full((20, 12, 14), np.nan), "20 hold NaN or infinite voxels"),
        (np.repeat(pictures(1), 20, 0), "1 usable image of 20 (19 are copies of others)"),
        (np.zeros((20, 12, 14)), "20 hold one value only"),
        (np.zeros(30), "no array of images of 2 axes"),
        (np.zeros((9, 1, 2, 3, 4, 5)), "has 6 axes"),
    ],
)
def test_too_few_and_none(tmp_path, array, said):
    with pytest.raises(InputError) as error:
        gather(saved(tmp_path, array), 2)
    assert said in str(error.value)


def test_pickles_and_absent_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        gather(tmp_path / "nowhere", 2)
    with pytest.raises(InputError, match="pickle|no array of images"):
        gather(saved(tmp_path, np.array([{"a": 1}] * 9 + [None])[:, None, None], "x.npy"), 2)
    with pytest.raises(InputError, match="several arrays that could be images"):
        gather(saved(tmp_path, {"a": pictures(9), "b": pictures(9)}, "two.npz"), 2)


def test_a_damaged_file_among_good_ones(phantoms, tmp_path):
    import shutil

    folder = shutil.copytree(phantoms[0], tmp_path / "scans")
    first = sorted(folder.glob("*.nii.gz"))[0]
    first.write_bytes(first.read_bytes()[:500])
    found = gather(folder, 3)
    assert len(found.arrays) == 11 and "cannot be read" in found.words[0]


def test_classes_of_folders_follow_their_images(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, bright in (("dark", 0), ("light", 128)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(9):
            picture = (rng.integers(0, 100, (12, 14)) + bright).astype(np.uint8)
            Image.fromarray(picture if i else picture * 0).save(tmp_path / "set" / name / f"{name}{i}.png")
    found, plain = gather(tmp_path / "set", 2, classes=True), gather(tmp_path / "set", 2)
    assert found.labels == tuple("light" if array.mean() > 100 else "dark" for array in found.arrays)
    assert sorted(found.labels) == ["dark"] * 8 + ["light"] * 8 and len(set(found.owners)) == 16
    assert plain.labels == plain.owners == ()
    assert all(np.array_equal(a, b) for a, b in zip(found.arrays, plain.arrays, strict=True)), "the same images are drawn"


@pytest.mark.parametrize("key", ["labels", "y"])
def test_classes_in_an_npz_follow_the_images_that_are_kept(tmp_path, key):
    array, kinds = pictures(14), np.arange(14) % 3
    array += 10 * kinds[:, None, None]
    array[4] = 1.0
    found = gather(saved(tmp_path, {"images": array, key: kinds, "about": np.arange(3)}, "a.npz"), 2, classes=True)
    assert [int(label) for label in found.labels] == [round(float(a.mean()) / 10) for a in found.arrays]
    assert len(found.labels) == 13 == len(set(found.owners))


def test_classes_of_medmnist(tmp_path):
    kinds = np.arange(12)[:, None] % 2
    array = (np.random.default_rng(0).integers(0, 90, (12, 28, 28)) + 120 * kinds[:, :, None]).astype(np.uint8)
    found = gather(saved(tmp_path, {"train_images": array, "train_labels": kinds}, "m.npz"), 2, classes=True)
    assert found.labels == tuple("1" if a.mean() > 100 else "0" for a in found.arrays)


def test_no_classes_where_they_are_asked_for(tmp_path, phantoms):
    for place, ndim, said in (
        (saved(tmp_path, pictures(9)), 2, "does not say which class an image has"),
        (saved(tmp_path, {"images": pictures(9), "labels": np.arange(7)}, "b.npz"), 2, "does not say which class"),
        (phantoms[0], 3, "says which class a scan has"),
    ):
        with pytest.raises(InputError, match=said):
            gather(place, ndim, classes=True)
