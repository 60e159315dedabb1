"""Leaks are planted one by one, and each is named; a clean set says nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headwater import runfolder
from headwater.scans.passport import look
from headwater.scans.prepare import prepare
from headwater.transfer import leakage


def changed(store, i, **what):
    return replace(store, records=tuple({**r, **what} if n == i else r for n, r in enumerate(store.records)))


def shares(store, i, of):
    """Scan i with the voxels of another."""
    return changed(store, i, image_at=store.records[of]["image_at"], shape=store.records[of]["shape"])


def test_a_clean_set_says_nothing(flat, solid):
    assert leakage.found(flat) == [] and leakage.found(solid) == []


def test_a_subject_on_both_sides(flat):
    test, train = flat.split("test")[0], flat.split("train")[0]
    said = leakage.found(changed(flat, test, subject=flat.subjects[train]))
    assert len(said) == 1 and f"Leakage: {flat.subjects[train]} (a subject) is both learned from and tested on" in said[0]


def test_the_same_voxels_under_another_name(flat):
    test, train = flat.split("test")[1], flat.split("train")[3]
    said = leakage.found(shares(flat, test, train))
    assert len(said) == 1 and said[0].startswith(f"Leakage: {flat.records[test]['name']} (a test scan) is also learned from")


def test_blank_scans_are_no_leak(flat):
    images = np.array(flat.images)
    for i in (flat.split("test")[0], flat.split("train")[0]):
        start = flat.records[i]["image_at"]
        images[start : start + int(np.prod(flat.image(i).shape))] = -1
    assert not [s for s in leakage.found(replace(flat, images=images)) if "another name" in s]


def test_a_near_copy_across_the_split(flat):
    """Searched for where there is no passport; where there is one, its word is taken."""
    test, train = flat.split("test")[0], flat.split("train")[2]
    images = np.array(flat.images)
    a, b, size = flat.records[test]["image_at"], flat.records[train]["image_at"], int(np.prod(flat.image(test).shape))
    images[a : a + size] = images[b : b + size] * np.float16(1.1) + np.float16(0.2)
    said = leakage.found(replace(flat, images=images))
    assert len(said) == 1 and "nearly a copy of a scan that is learned from" in said[0] and flat.records[test]["name"] in said[0]


def test_the_passport_knows_near_copies(flat, tmp_path):
    test, train = flat.split("test")[0], flat.split("train")[:2]
    names = [flat.records[i]["name"] for i in (train[0], test, train[1])]
    pairs = [[names[0], names[1], 0.99, ""], [names[0], names[2], 0.99, ""], ["gone", names[1], 0.99, ""]]
    runfolder.write_json(tmp_path / "passport.json", {"duplicates": {"pairs": pairs}})
    said = leakage.found(flat, tmp_path)
    assert len(said) == 1 and said[0].startswith(f"Leakage: {names[1]} (a test scan) is nearly a copy")
    assert leakage.found(flat, tmp_path / "none") == []


@pytest.fixture(scope="module")
def elsewhere(flat_phantoms, tmp_path_factory) -> Path:
    """A run on the same pictures, with other scans held out and other settings of preparation."""
    run = tmp_path_factory.mktemp("elsewhere")
    passport = look(*flat_phantoms, test=[p.name for p in sorted(flat_phantoms[0].iterdir())[:2]])
    passport.save(run / "passport.json")
    prepare(passport, run / "store", spacing=tuple(1.1 * s for s in passport.spacing))
    return run


def test_test_scans_that_another_run_was_pretrained_on(flat, flat_phantoms, elsewhere, tmp_path):
    look(*flat_phantoms).save(tmp_path / "passport.json")
    said = leakage.found(flat, tmp_path, elsewhere)
    names = {flat.records[i]["name"] for i in flat.split("test")}
    both = names - {p.name for p in sorted(flat_phantoms[0].iterdir())[:2]}
    assert both and len(said) == 1 and "in the set that the backbone was pretrained on" in said[0]
    assert all(name in said[0] for name in both) and "pretrain without them" in said[0]
    nearly = leakage.found(flat, None, elsewhere)  # without checksums, and resampled: by looks
    assert len(nearly) == 1 and all(name in nearly[0] for name in both)


def test_its_own_pretraining_set_is_clean(flat, elsewhere):
    from headwater.scans.store import Store

    assert leakage.found(Store.open(elsewhere / "store"), elsewhere, elsewhere) == []


def test_subjects_of_the_same_name_are_said(flat, solid, elsewhere, tmp_path):
    from headwater.scans.store import Store

    other = Store.open(elsewhere / "store")
    mine = replace(flat, images=np.random.default_rng(0).standard_normal(flat.images.shape).astype(np.float16))
    names = {r["name"] for r in other.records if r["split"] == "train"} & {flat.records[i]["name"] for i in flat.split("test")}
    said = leakage.found(mine, tmp_path, elsewhere)
    assert names and len(said) == 1 and "subject whose name is also in the pretraining set" in said[0]


def test_many_names_are_cut_short():
    assert leakage._named([f"s{i}" for i in range(8)]) == "s0, s1, s2, s3, s4 and 3 more"
