"""The store read: views into memory maps, and what it says of itself."""

import pickle
import shutil

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans import Store, look, read
from headwater.scans.prepare import prepare
from headwater.scans.resampling import back


def test_content(pairs, tmp_path):
    store = prepare(look(*pairs), tmp_path / "store")
    assert (len(store), store.classes, store.values, store.ndim, store.channels) == (10, 3, (0, 1, 4), 3, 1)
    assert store.names == ("background", "structure 1", "structure 4") and store.spacing == (1.0, 1.0, 1.0)
    assert sorted(store.split("train") + store.split("test")) == list(range(10)) == store.labelled
    assert store.ignore is None and (store.orientation, store.scheme) == ("RAS", "scan")
    raw = read(pairs[0] / "case_03.nii.gz")
    clipped = np.clip(raw.array, *np.percentile(raw.array, [0.5, 99.5]))
    np.testing.assert_allclose(store.image(3), (clipped - clipped.mean()) / clipped.std(), atol=2e-3)
    assert isinstance(store.image(3), np.memmap) and store.image(3).dtype == np.float16
    assert store.label(3).dtype == np.uint8 and np.bincount(store.label(3).ravel()).tolist() == [660, 36, 24]
    np.testing.assert_allclose(store.affine(3), raw.affine)
    np.testing.assert_allclose(store.physical(3), clipped, atol=2e-3 * clipped.std())
    assert 0 < store.rounding < 2**-9
    np.testing.assert_array_equal(back(np.array(store.label(3)), store.original(3)), store.label(3))


def test_is_opened_not_sent(pairs, tmp_path):
    passport = look(*pairs)
    store = prepare(passport, tmp_path / "store")
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).image(9), store.image(9))
    before = np.array(store.image(9))
    prepare(passport, tmp_path / "store", spacing=(2.0, 2.0, 2.0))
    np.testing.assert_array_equal(store.image(9), before)  # who has it open keeps it
    with pytest.raises(InputError, match="prepared otherwise since"):
        pickle.loads(sent)


def test_without_masks_and_partly(pairs, tmp_path):
    store = prepare(look(pairs[0]), tmp_path / "a")
    assert store.labelled == [] and store.label(0) is None and store.classes == 1
    (pairs[1] / "case_00.nii.gz").unlink()
    store = prepare(look(*pairs), tmp_path / "b")
    assert store.labelled == list(range(1, 10)) and store.label(0) is None and store.label(1).shape == (9, 10, 8)


@pytest.mark.parametrize("harm", ["images", "labels", "index", "text", "format", "nothing"])
def test_what_is_not_whole_is_not_opened(pairs, tmp_path, harm):
    passport = look(*pairs)
    store = prepare(passport, tmp_path / "store")
    index, place = tmp_path / "store/index.json", tmp_path / "store" / store.version
    if harm in ("images", "labels"):
        with open(place / harm, "rb+") as file:
            file.truncate(200)
    elif harm == "index":
        index.unlink()
    elif harm == "nothing":
        shutil.rmtree(tmp_path / "store")
    else:
        index.write_text("[{" if harm == "text" else index.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(InputError, match="prepare"):
        Store.open(tmp_path / "store")
    mended = prepare(passport, tmp_path / "store")
    assert mended.version == store.version and len(mended) == 10 and mended.image(9).shape == (1, 9, 10, 8)
