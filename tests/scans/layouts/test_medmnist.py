"""MedMNIST: what the corpus does not show."""

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans.layouts import understand
from headwater.scans.readers import read


def test_every_picture_is_where_its_name_says(tmp_path):
    pictures = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    np.savez(tmp_path / "x.npz", test_images=pictures, test_labels=np.array([[3], [1], [2], [0]]))
    found = understand(tmp_path / "x.npz", classes=True)
    assert found.root == tmp_path.resolve() and [item.group for item in found.items] == ["3", "1", "2", "0"]
    for i, item in enumerate(found.items):
        assert item.name == f"x.npz#test_images/{i}" and np.array_equal(read(item.source).array[0], pictures[i])


def test_labels_are_not_even_opened_unless_asked_for(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.ones((2, 4, 4), np.uint8), train_labels=np.array([{}, {}]))
    assert [item.group for item in understand(tmp_path).items] == ["", ""]
    with pytest.raises(InputError, match="which class .*pickle"):
        understand(tmp_path, classes=True)


def test_pickled_or_flat_pictures_are_faults(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.ones((2, 4, 4)), test_images=np.array([{}, {}]), val_images=np.ones((2, 4)))
    found = understand(tmp_path)
    assert len(found.items) == 2 and [fault.file for fault in found.faults] == ["x.npz#val_images", "x.npz#test_images"]


def test_another_npz_given_is_told_so(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(3), b=np.ones(3))
    with pytest.raises(InputError, match="2 arrays"):
        understand(tmp_path / "w.npz")


def test_the_real_file(pneumonia):
    found = understand(pneumonia, classes=True)
    assert len(found.items) == 3882 + 524 + 624 and sum(item.split == "test" for item in found.items) == 624
    train = [item.group for item in found.items if item.name.startswith("pneumoniamnist.npz#train")]
    assert (train.count("0"), train.count("1")) == (388, 3494)
