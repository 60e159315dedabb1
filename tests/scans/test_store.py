"""The store: values, geometry, reuse, and what a kill leaves behind."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans import Store, look, prepare, read
from headwater.scans.store import normalise, resample


def test_content(pairs, tmp_path):
    passport = look(*pairs)
    store = prepare(passport, tmp_path / "store")
    assert (len(store), store.classes, store.values, store.ndim) == (10, 3, (0, 1, 4), 3)
    assert store.names == ("background", "structure 1", "structure 4") and store.subjects[3] == "case_03"
    assert sorted(store.split("train") + store.split("test")) == list(range(10)) == store.labelled
    raw = read(pairs[0] / "case_03.nii.gz")
    clipped = np.clip(raw.array, *np.percentile(raw.array, [0.5, 99.5]))
    np.testing.assert_allclose(store.image(3), (clipped - clipped.mean()) / clipped.std(), atol=2e-3)
    assert isinstance(store.image(3), np.memmap) and store.image(3).dtype == np.float16
    assert store.label(3).dtype == np.uint8 and np.bincount(store.label(3).ravel()).tolist() == [660, 36, 24]
    np.testing.assert_allclose(store.affine(3), raw.affine)
    again = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000
    np.testing.assert_array_equal(again.image(9), store.image(9))


def test_without_masks_and_partly(pairs, tmp_path):
    store = prepare(look(pairs[0]), tmp_path / "a")
    assert store.labelled == [] and store.label(0) is None and store.classes == 1
    (pairs[1] / "case_00.nii.gz").unlink()
    store = prepare(look(*pairs), tmp_path / "b")
    assert store.labelled == list(range(1, 10)) and store.label(0) is None and store.label(1).shape == (9, 10, 8)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 8)])
def test_resampling_keeps_place(tmp_path, save, shape):
    axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    ramp = sum((i + 1) * a for i, a in enumerate(axes)).astype(np.float32)
    for i, spacing in enumerate([(1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 0.5, 1.0)]):
        save(tmp_path / "s" / f"{i}.nii.gz", ramp + i * np.sin(ramp), spacing=spacing)
        save(tmp_path / "m" / f"{i}.nii.gz", (ramp > 15).astype(np.uint8), spacing=spacing)
    store = prepare(look(tmp_path / "s", tmp_path / "m"), tmp_path / "store")
    assert store.shape(0) == shape and store.shape(2) == (24, 5, *shape[2:])
    assert store.spacing == (1.0,) * len(shape)
    corner = np.array([-0.5, -0.5, 0, 1]) if len(shape) == 2 else np.array([-0.5, -0.5, -0.5, 1])
    raw = read(tmp_path / "s/2.nii.gz")
    np.testing.assert_allclose(store.affine(2) @ corner, raw.affine @ corner, atol=1e-9)  # outer edges stay
    assert set(np.unique(store.label(2))) == {0, 1} and store.label(2).shape == store.shape(2)


def test_resampled_ramp_is_exact_inside():
    ramp = np.arange(20.0)[None, :, None].repeat(4, axis=2)
    fine = resample(ramp, (40, 4), order=1)
    np.testing.assert_allclose(fine[0, 1:-1, 0], (np.arange(40) + 0.5)[1:-1] / 2 - 0.5, atol=1e-6)
    assert resample(ramp, (20, 4), order=1) is ramp


def test_normalise_survives_sparse_and_flat_channels():
    sparse = np.zeros((2, 30, 30), np.float32)
    sparse[0, 3, 3] = 1e6
    out = normalise(sparse)
    assert np.isfinite(out).all() and out[0, 3, 3] > 1 and not out[1].any()


def test_reuse_and_change(pairs, tmp_path):
    passport = look(*pairs)
    prepare(passport, tmp_path / "store")
    stamp = (tmp_path / "store/images.npy").stat().st_mtime_ns
    prepare(look(*pairs), tmp_path / "store")
    assert (tmp_path / "store/images.npy").stat().st_mtime_ns == stamp
    prepare(passport, tmp_path / "store", spacing=(2.0, 2.0, 2.0))
    assert Store.open(tmp_path / "store").shape(0) == (4, 5, 4)
    fewer = replace(passport, entries=passport.entries[:4])
    assert len(prepare(fewer, tmp_path / "store")) == 4


def test_a_killed_prepare_starts_over(pairs, tmp_path):
    prepare(look(*pairs), tmp_path / "store", spacing=(2.0, 2.0, 2.0))  # an older store in the same place
    script = f"""
import os
from headwater.scans import look, prepare, store
ready, seen = store._ready, []
def dying(*given):
    seen.append(1)
    if len(seen) > 6: os._exit(9)
    return ready(*given)
store._ready = dying
prepare(look({str(pairs[0])!r}, {str(pairs[1])!r}), {str(tmp_path / "store")!r})
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    with pytest.raises(InputError, match="prepare them again"):
        Store.open(tmp_path / "store")
    store = prepare(look(*pairs), tmp_path / "store")
    assert len(store) == 10 and store.shape(0) == (9, 10, 8)
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == ["images.npy", "index.json", "labels.npy"]


def test_faults(pairs, save, tmp_path, monkeypatch):
    passport = look(*pairs)
    store = prepare(passport, tmp_path / "store")
    with open(tmp_path / "store/images.npy", "rb+") as file:
        file.truncate(200)
    with pytest.raises(InputError, match="prepare"):
        Store.open(tmp_path / "store")
    assert prepare(passport, tmp_path / "store").image(9).shape == store.image(9).shape  # a torn file is made again
    with pytest.raises(InputError, match="give 3 numbers"):
        prepare(passport, tmp_path / "other", spacing=(1.0, 1.0))
    save(pairs[0] / "case_04.nii.gz", np.random.default_rng(99).normal(size=(9, 10, 8)).astype(np.float32))
    with pytest.raises(InputError, match="case_04.nii.gz changed since"):
        prepare(passport, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="GiB free"):
        prepare(passport, tmp_path / "other")


def test_full_disk(pairs, tmp_path):
    passport = look(*pairs)

    class Full:
        def say(self, text=""):
            pass

        def track(self, label, total):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="disk of .* is full"):
        prepare(passport, tmp_path / "store", progress=Full())
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize("shape", [(2, 9, 10, 8), (1, 120, 110, 100)])
def test_normalise_in_pieces_is_normalise_at_once(shape):
    array = (np.random.default_rng(0).normal(size=shape) * 50 + 900).astype(np.float32)
    for channel, result in zip(array, normalise(array), strict=True):
        clipped = np.clip(channel, *np.percentile(channel, [0.5, 99.5])).astype(np.float64)
        np.testing.assert_allclose(result, (clipped - clipped.mean()) / clipped.std(), rtol=1e-3, atol=1e-4)
