"""Preparing: geometry, what is used again, what a kill leaves, what is refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import nibabel
import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans import Store, look, read
from headwater.scans.prepare import prepare
from headwater.scans.ready import Rule, ready

WRITING = import_module("headwater.scans.prepare")  # the package has a function of that name


def files(folder):
    """Every file under a folder and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def changed(entry, **facts):
    """The entry with other facts."""
    return replace(entry, facts=replace(entry.facts, **facts))


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that preparing reads."""
    seen, real = [], WRITING.read
    monkeypatch.setattr(WRITING, "read", lambda source: (seen.append(source.path.name), real(source))[1])
    return seen


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 8)])
def test_resampling_keeps_place(tmp_path, save, shape):
    axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    ramp = sum((i + 1) * a for i, a in enumerate(axes)).astype(np.float32)
    for i, spacing in enumerate([(1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 0.5, 1.0)]):
        noise = np.random.default_rng(i).normal(size=shape).astype(np.float32)
        save(tmp_path / "s" / f"{i}.nii.gz", ramp + 30 * noise, spacing=spacing)
        save(tmp_path / "m" / f"{i}.nii.gz", (ramp > 15).astype(np.uint8), spacing=spacing)
    store = prepare(look(tmp_path / "s", tmp_path / "m"), tmp_path / "store")
    assert store.unit == "mm" == Store.open(tmp_path / "store").unit
    assert store.shape(0) == shape and store.shape(2) == (24, 5, *shape[2:])
    assert store.spacing == (1.0,) * len(shape)
    corner = np.array([-0.5, -0.5, 0, 1]) if len(shape) == 2 else np.array([-0.5, -0.5, -0.5, 1])
    raw = read(tmp_path / "s/2.nii.gz")
    np.testing.assert_allclose(store.affine(2) @ corner, raw.affine @ corner, atol=1e-9)  # 24 and 10 mm fit exactly
    assert set(np.unique(store.label(2))) == {0, 1} and store.label(2).shape == store.shape(2)


def test_scans_of_other_orientations_lie_alike(tmp_path, save):
    shape, affine, images, masks = (10, 12, 14), np.diag([1.0, 2.0, 3.0, 1.0]), [], []
    upright = nibabel.orientations.axcodes2ornt("RAS")
    for i, code in enumerate(["RAS", "RAS", "RAS", "PIR", "LAS"]):
        rng = np.random.default_rng(i)
        images.append(rng.normal(size=shape).astype(np.float32))
        masks.append((rng.random(shape) < 0.3).astype(np.uint8))
        for name, array in (("s", images[-1]), ("m", masks[-1])):
            change = nibabel.orientations.ornt_transform(upright, nibabel.orientations.axcodes2ornt(code))
            turned = nibabel.Nifti1Image(array, affine).as_reoriented(change)
            save(tmp_path / name / f"subject{i}.nii.gz", np.asarray(turned.dataobj), affine=turned.affine)
    store = prepare(look(tmp_path / "s", tmp_path / "m"), tmp_path / "store")
    assert store.orientation == "RAS" and store.spacing == (1.0, 2.0, 3.0)
    for i in range(5):
        clipped = np.clip(images[i], *np.percentile(images[i], [0.5, 99.5]))
        np.testing.assert_allclose(store.physical(i), clipped[None], atol=3e-3)
        np.testing.assert_array_equal(store.label(i), masks[i])
        np.testing.assert_allclose(store.affine(i), affine)


def test_grey_among_colour(tmp_path):
    from PIL import Image

    scans = tmp_path / "scans"
    scans.mkdir()
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 255, size=(20, 24, 3)).astype(np.uint8)
        Image.fromarray(noise if i < 2 else noise[..., 0]).save(scans / f"{i}.png")
    store = prepare(look(scans), tmp_path / "store")
    assert store.channels == 3 and store.orientation == "" and store.image(4).shape == (3, 20, 24)
    assert (store.image(4) == store.image(4)[:1]).all() and not (store.image(1) == store.image(1)[:1]).all()
    assert store.unit == "pixels" and store.spacing == (1.0, 1.0)  # a picture states no spacing
    assert len(store.windows(4)) == 3 and np.ptp(store.physical(4), axis=0).max() == 0
    assert len(set(prepare(look(scans), tmp_path / "set", scheme="set").windows(i) for i in range(5))) == 1


def test_used_again_or_made_beside_and_swapped(pairs, tmp_path, reads):
    passport = look(*pairs)
    first = prepare(passport, tmp_path / "store")
    before = files(tmp_path / "store")
    assert len(reads) == 10
    prepare(look(*pairs), tmp_path / "store")
    assert len(reads) == 10 and files(tmp_path / "store") == before
    other = prepare(passport, tmp_path / "store", spacing=(2.0, 2.0, 2.0))
    assert other.version != first.version and Store.open(tmp_path / "store").shape(0) == (4, 5, 4)
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == sorted([other.version, "index.json"])
    fewer = replace(passport, entries=passport.entries[:4])
    assert len(prepare(fewer, tmp_path / "store")) == 4
    assert prepare(passport, tmp_path / "store", scheme="set").scheme == "set"


def test_another_part_or_name_needs_no_voxel_read(pairs, tmp_path, reads):
    passport = look(*pairs)
    store = prepare(passport, tmp_path / "store")
    turned = tuple(replace(e, split="train" if e.split == "test" else "test", group="g") for e in passport.entries)
    again = prepare(replace(passport, entries=turned), tmp_path / "store")
    assert len(reads) == 10 and again.version == store.version
    assert again.split("train") == store.split("test") and again.records[0]["group"] == "g"


def test_goes_on_after_sigkill(pairs, tmp_path, reads):
    whole = prepare(look(*pairs), tmp_path / "whole")
    prepare(look(*pairs), tmp_path / "store", spacing=(2.0, 2.0, 2.0))  # an older store in the same place
    script = f"""
import sys, time, importlib
from headwater.scans import look
from headwater.scans.prepare import prepare
module = importlib.import_module("headwater.scans.prepare")
real, seen = module.ready, []
def slow(*given):
    seen.append(1)
    if len(seen) > 6: time.sleep(600)
    return real(*given)
module.ready = slow
prepare(look({str(pairs[0])!r}, {str(pairs[1])!r}), {str(tmp_path / "store")!r})
"""
    place = tmp_path / "store" / whole.version
    child = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    try:
        while child.poll() is None and (not (place / "scans.jsonl").exists() or _lines(place) < 4):
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert Store.open(tmp_path / "store").shape(0) == (4, 5, 4)  # the older one still stands
    kept = _lines(place)
    assert 4 <= kept <= 6
    reads.clear()
    store = prepare(look(*pairs), tmp_path / "store")
    assert sorted(reads) == [f"case_{i:02d}.nii.gz" for i in range(kept, 10)]  # and no scan twice
    assert files(tmp_path / "store") == files(tmp_path / "whole") and len(store) == 10


def _lines(place):
    return len((place / "scans.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("name", ["images", "labels", "scans.jsonl"])
def test_a_torn_store_is_mended(pairs, tmp_path, reads, name):
    passport = look(*pairs)
    store = prepare(passport, tmp_path / "store")
    before, torn = files(tmp_path / "store"), tmp_path / "store" / store.version / name
    (tmp_path / "store/index.json").unlink()
    with open(torn, "rb+") as file:
        file.truncate(int(0.65 * torn.stat().st_size))
    reads.clear()
    prepare(passport, tmp_path / "store")
    assert 4 <= len(reads) <= 5 and files(tmp_path / "store") == before


def test_for_their_owner_only(pairs, tmp_path):
    before = os.umask(0o022)
    try:
        prepare(look(*pairs), tmp_path / "run" / "store", scheme="set")
    finally:
        os.umask(before)
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        assert oct(path.stat().st_mode)[-3:] == ("700" if path.is_dir() else "600"), path.name


def test_a_changed_or_lost_file_is_named_as_it_may_be_shown(pairs, save, tmp_path):
    passport = look(*pairs)
    shown = replace(
        passport,
        entries=tuple(replace(e, name=f"scan {i}", mask=f"mask {i}") for i, e in enumerate(passport.entries)),
        sources={f"scan {i}": passport.sources[e.name] for i, e in enumerate(passport.entries)},
    )
    save(pairs[0] / "case_04.nii.gz", np.random.default_rng(99).normal(size=(9, 10, 8)).astype(np.float32))
    with pytest.raises(InputError, match="^scan 4 changed since it was looked at; look at the folder again") as error:
        prepare(shown, tmp_path / "store")
    assert "case_04" not in str(error.value) and str(tmp_path) not in str(error.value)
    (pairs[0] / "case_02.nii.gz").unlink()
    with pytest.raises(InputError, match="^scan 2 ") as error:
        prepare(shown, tmp_path / "other")
    assert "case_02" not in str(error.value)
    save(pairs[1] / "case_01.nii.gz", np.ones((9, 10, 8), np.uint8))
    with pytest.raises(InputError, match="^mask 1 changed since"):
        prepare(shown, tmp_path / "third")


def test_what_cannot_be_is_refused_before_a_scan_is_read(pairs, tmp_path, reads, monkeypatch):
    passport = look(*pairs)
    for spacing in [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, float("nan"), 1.0)]:
        with pytest.raises(InputError, match="give 3 numbers"):
            prepare(passport, tmp_path / "store", spacing=spacing)
    with pytest.raises(InputError, match="give scan or set"):
        prepare(passport, tmp_path / "store", scheme="patch")
    thick = replace(passport, entries=(*passport.entries, changed(passport.entries[0], spacing=(5.0, 500.0, 5.0))))
    with pytest.raises(InputError, match="case_.* would become 4500 x 500000 x 4000 voxels at 0.01 x 0.01 x 0.01 mm"):
        prepare(thick, tmp_path / "store", spacing=(0.01, 0.01, 0.01))
    assert not reads and not (tmp_path / "store").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="GiB free"):
        prepare(passport, tmp_path / "store")


def test_full_disk_keeps_what_was_done(pairs, tmp_path, reads, monkeypatch):
    passport, journal = look(*pairs), import_module("headwater.scans.journal")
    real, written = journal._write, []

    def full(file, piece):
        written.append(1)
        if len(written) > 3 * 6:
            file.write(piece[: len(piece) // 2])
            raise OSError(28, "No space left on device")
        real(file, piece)

    monkeypatch.setattr(journal, "_write", full)
    with pytest.raises(InputError, match="disk of .* is full; free some space and start again, .* are kept"):
        prepare(passport, tmp_path / "store")
    monkeypatch.setattr(journal, "_write", real)
    reads.clear()
    store = prepare(passport, tmp_path / "store")
    assert len(reads) == 4 and len(store) == 10
    assert files(prepare(passport, tmp_path / "fresh").folder) == files(tmp_path / "store")


def test_one_window_for_a_set_of_ct(pairs, tmp_path, reads):
    passport = look(*pairs)
    assert prepare(passport, tmp_path / "scan").scheme == "scan"
    ct = replace(passport, entries=tuple(changed(e, modality="CT") for e in passport.entries))
    store = prepare(ct, tmp_path / "set")
    windows = {store.windows(i) for i in range(10)}
    one = store.windows(0)[0]
    assert store.scheme == "set" and len(windows) == 1
    assert (one.low, one.high) == (np.median([e.low for e in ct.entries]), np.median([e.high for e in ct.entries]))
    every = np.stack([np.clip(read(p).array, one.low, one.high) for p in sorted(pairs[0].iterdir())])
    assert (one.mean, one.spread) == (pytest.approx(every.mean(), abs=1e-3), pytest.approx(every.std(), rel=1e-5))
    np.testing.assert_allclose(store.physical(4), every[4], atol=2e-3 * one.spread)
    assert prepare(ct, tmp_path / "each", scheme="scan").scheme == "scan"
    again = ready(read(pairs[0] / "case_04.nii.gz"), None, Rule.of(store))  # a scan from outside, made ready alike
    np.testing.assert_array_equal(again.image, store.image(4))


def test_voxels_that_do_not_count(pairs, tmp_path):
    passport = look(*pairs)
    names = {v: name for v, name in passport.label_names.items() if v != 4}
    store = prepare(replace(passport, ignore=4, label_names=names), tmp_path / "store")
    assert (store.classes, store.values, store.names, store.ignore) == (2, (0, 1), ("background", "structure 1"), 255)
    assert {int(v): int(n) for v, n in zip(*np.unique(store.label(3), return_counts=True), strict=True)} == {
        0: 660, 1: 36, 255: 24
    }  # fmt: skip


def test_crop_is_told_and_undone(tmp_path, save):
    for i in range(3):
        image = np.zeros((40, 30, 30), np.float32)
        image[10:30, 8:20, 5:18] = np.random.default_rng(i).normal(5, 1, size=(20, 12, 13))
        save(tmp_path / "s" / f"{i}.nii.gz", image, spacing=(1.0, 1.0, 2.0))
    store = prepare(look(tmp_path / "s"), tmp_path / "store")
    assert store.shape(0) == (28, 20, 21) and store.original(0).box == ((6, 34), (4, 24), (1, 22))
    np.testing.assert_allclose(store.affine(0) @ [0, 0, 0, 1], [6, 4, 2, 1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_scans(tmp_path, save):
    def peak(count):
        for i in range(count):
            array = np.random.default_rng(i).normal(size=(64, 64, 64)).astype(np.float32)
            save(tmp_path / str(count) / f"{i:03d}.nii.gz", array)
        script = f"""
import resource
from headwater.scans import look
from headwater.scans.prepare import prepare
prepare(look({str(tmp_path / str(count))!r}), {str(tmp_path / f"store{count}")!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=Path(__file__).parents[2])
        return int(done.stdout.split()[-1])

    assert peak(40) - peak(8) < 20_000  # KiB; the 32 more scans are 32 MiB as they are read
