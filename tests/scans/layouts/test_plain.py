"""Any folder: what the corpus does not show."""

from collections import Counter

import pytest
from corpus import mask, volume

from headwater.scans.layouts import understand


def test_masks_in_a_folder_are_no_scans_even_if_unpaired(tmp_path):
    for name in ("images/a", "labels/b", "labels/c"):
        volume(tmp_path / f"{name}.nii.gz")
    found = understand(tmp_path)
    assert [item.name for item in found.items] == ["images/a.nii.gz"] and [fault.kind for fault in found.faults] == [
        "unpaired"
    ] * 2


def test_a_folder_of_masks_only_is_taken_as_it_is(tmp_path):
    for name in ("labels/a", "labels/b"):
        volume(tmp_path / f"{name}.nii.gz")
    assert len(understand(tmp_path).items) == 2 == len(understand(tmp_path / "labels").items)


def test_second_masks_are_faults(tmp_path):
    volume(tmp_path / "images/a.nii.gz")
    mask(tmp_path / "masks/a.nii.gz")
    mask(tmp_path / "images/a_seg.nii.gz")
    found = understand(tmp_path)
    assert found.items[0].mask.path.parent.name == "masks"
    assert [(fault.file, fault.fault) for fault in found.faults] == [
        ("images/a_seg.nii.gz", "is one more mask of a scan that has one"),
    ]  # fmt: skip


def test_free_words_of_names_are_not_said(tmp_path):
    for name, end in (("a", "_seg_Secretname"), ("b", "_seg")):
        volume(tmp_path / f"{name}.nii.gz")
        mask(tmp_path / f"{name}{end}.nii.gz")
    found = understand(tmp_path)
    assert found.notes == ("masks end differently: _seg (1), _seg_* (1); their values may not mean the same",)


def test_session_from_the_name(tmp_path):
    volume(tmp_path / "x/sub-1_ses-02_T1w.nii.gz")
    assert understand(tmp_path).items[0].session == "02" and understand(tmp_path).items[0].subject == "sub-1"


def test_ten_thousand_files_take_few_questions(tmp_path, monkeypatch):
    """A folder is listed, not asked file by file: no file whose ending speaks is opened or resolved."""
    import builtins
    import os

    for i in range(300):
        (tmp_path / f"{i:05d}.nii.gz").write_bytes(b"x")
        (tmp_path / f"{i:05d}.json").write_bytes(b"{}")
    asked = Counter()
    for module, name in ((builtins, "open"), (os, "stat"), (os.path, "realpath")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _real=real, _name=name, **k: asked.update([_name]) or _real(*a, **k))
    found = understand(tmp_path)
    assert len(found.items) == 300 and asked["open"] <= 60 and asked["stat"] <= 80 and asked["realpath"] <= 20, asked


EXPECTED = {  # folder -> layout, scans, masks
    "fibsem": ("plain folder", 2, 1), "hippocampus": ("plain folder", 200, 200), "mednist": ("image folders", 6000, 0),
    "nuclei": ("plain folder", 538, 538), "spine": ("plain folder", 5, 5), "hippocampus/images": ("plain folder", 200, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_real_folders(shared, name):
    found = understand(shared / name)
    assert (found.layout, len(found.items), sum(item.mask is not None for item in found.items)) == EXPECTED[name]
    if name == "spine":
        pairs = {
            item.source.path.name.removesuffix(".nii.gz"): item.mask.path.name.removesuffix(".nii.gz") for item in found.items
        }
        assert pairs == {"t1w": "t1w_seg-manual", "t2": "t2_seg-manual", "t2_fake_lesion": "t2_fake_lesion_sc_seg",
                         "t2s": "t2s_seg", "t2s_uncropped": "t2s_uncropped_gmseg_manual"}  # fmt: skip
