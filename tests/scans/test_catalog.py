"""Names: subjects, pairs, splits."""

from pathlib import Path

import pytest

from headwater.errors import InputError
from headwater.scans.catalog import (
    find,
    held_out_subjects,
    look_for_masks,
    pair,
    read_held_out,
    split,
    stem_of,
    subject_of,
    subjects_of,
)


def _paths(*names):
    return [Path("/data") / f"{name}.nii.gz" for name in names]


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_find(tmp_path):
    _touch(tmp_path, "b.nii", "a/c.nii.gz", "._b.nii", ".git/d.nii", "note.txt")
    assert find(tmp_path) == [tmp_path / "a/c.nii.gz", tmp_path / "b.nii"]
    (tmp_path / "none").mkdir()
    _touch(tmp_path, "png/a.png", "png/b.png")
    for folder, words in (("none", "is empty"), ("gone", "does not exist"), ("b.nii", "is a file"), ("png", r"2 x \.png")):
        with pytest.raises(InputError, match=words):
            find(tmp_path / folder)


def test_subjects():
    assert subject_of("x/sub-03/anat/T1w.nii.gz") == "sub-03" == subject_of("sub-03_ses-1_T1w.nii.gz")
    assert subject_of("liver_12_0000.nii.gz") == "liver_12" and subject_of("case_0007.nii.gz") == "case_0007"
    channels = subjects_of(_paths("a_0000", "a_0001", "b_0000", "b_0001"))
    assert set(channels.values()) == {"a", "b"}
    numbers = subjects_of(_paths(*[f"case_{i:04d}" for i in range(12)]))
    assert len(set(numbers.values())) == 12
    assert len(set(subjects_of(_paths(*[f"case_{i:04d}" for i in range(6)])).values())) == 6
    assert set(subjects_of(_paths("p1/t1", "p1/t2", "p2/t1", "p2/t2")).values()) == {"p1", "p2"}
    assert set(subjects_of(_paths("train/1", "train/2", "train/3", "test/1")).values()) == {"train/1", "2", "3", "test/1"}


@pytest.mark.parametrize(
    ("scans", "masks", "expected"),
    [(["a", "b"], ["m/b", "m/a"], {"a": "m/a", "b": "m/b"}),
     (["a_0000", "b_0000"], ["m/a", "m/b"], {"a_0000": "m/a", "b_0000": "m/b"}),
     (["a_0000", "a_0001", "b_0000", "b_0001"], ["m/a"], {"a_0000": "m/a", "a_0001": "m/a"}),
     (["a"], ["m/a_seg"], {"a": "m/a_seg"}), (["a"], ["m/a_seg", "m/a_mask"], {}),
     (["sub-1_T1w", "sub-2_T1w"], ["m/sub-2_dseg"], {"sub-2_T1w": "m/sub-2_dseg"}),
     (["sub-1_T1w", "sub-1_T2w"], ["m/sub-1_dseg"], {}),
     (["s/p1/t1", "s/p2/t1"], ["m/p2/t1"], {"s/p2/t1": "m/p2/t1"}), (["a"], ["m/b"], {})],
)  # fmt: skip
def test_pairs(scans, masks, expected):
    (scans, masks), names = (_paths(*scans), _paths(*masks)), expected.items()
    assert pair(scans, masks) == {_paths(s)[0]: _paths(m)[0] for s, m in names}


def test_masks_beside_or_below_scans(tmp_path):
    beside = _touch(tmp_path / "beside", "t1.nii", "t1_seg-manual.nii", "t2.nii")
    scans, masks = look_for_masks(beside, beside)
    assert [p.name for p in scans] == ["t1.nii", "t2.nii"] and [p.name for p in masks] == ["t1_seg-manual.nii"]
    below = _touch(tmp_path / "below", "t1.nii", "masks/t1.nii")
    scans, masks = look_for_masks(below, below / "masks")
    assert [p.parent.name for p in scans] == ["below"] and [p.parent.name for p in masks] == ["masks"]
    above = _touch(tmp_path / "above", "t1.nii", "scans/t1.nii")
    scans, masks = look_for_masks(above / "scans", above)
    assert [p.parent.name for p in scans] == ["scans"] and [p.parent.name for p in masks] == ["above"]


def test_split_is_by_subject_and_repeats():
    names = [f"s{i}" for i in range(20)]
    train, test = split(names * 2, None, 3)
    assert len(test) == 4 and not set(train) & set(test) and set(train) | set(test) == set(names)
    assert split(reversed(names), None, 3) == (train, test) != split(names, None, 4)
    assert split(names, ["s3", "s5"], 0)[1] == ["s3", "s5"]
    assert split(["a", "b"], None, 0, 0.9) in ((["a"], ["b"]), (["b"], ["a"])) and split(["a"], None, 0) == (["a"], [])


def test_held_out_list(tmp_path):
    (tmp_path / "t.txt").write_text("a.nii.gz\n\n# note\n b \na\n")
    assert read_held_out(tmp_path / "t.txt") == ["a", "b"]
    (tmp_path / "e.txt").write_text("\n")
    for name, words in (("e.txt", "no name"), ("gone.txt", "cannot be read")):
        with pytest.raises(InputError, match=words):
            read_held_out(tmp_path / name)


def test_names_kept_for_testing():
    root = Path("/data")
    subjects = subjects_of(_paths("train/001", "train/002", "train/003", "test/001", "1.2.840.113", "sub-04/anat/sub-04_T1w"))
    for name, subject in (("train/001", "train/001"), ("test/001.nii.gz", "test/001"), ("./test/001.NII", "test/001"),
                          ("test\\001", "test/001"), ("/data/train/001.nii.gz", "train/001"), ("train/002", "002"),
                          ("002", "002"), ("elsewhere/002.nii", "002"), ("1.2.840.113", "1.2.840.113"), ("sub-04", "sub-04"),
                          ("1.2.840.113.nii.gz", "1.2.840.113"), ("sub-04_T1w.nii.gz", "sub-04")):  # fmt: skip
        assert held_out_subjects([name], subjects, root) == [subject], name
    for name in ("001", "scans/001.nii.gz"):
        with pytest.raises(InputError, match=f"{name} .* several subjects: test/001, train/001; write which"):
            held_out_subjects([name], subjects, root)
    for name in ("009", "1.2.840", "1.2.840.114", ""):
        with pytest.raises(InputError, match="No scan has the name"):
            held_out_subjects(["002", name], subjects, root)
    channels = subjects_of(_paths("a_0000", "a_0001", "b_0000", "b_0001"))
    assert held_out_subjects(["a", "b_0001.nii.gz"], channels, root) == ["a", "b"]
    visits = subjects_of(_paths("p1/t1", "p1/t2", "p2/t1", "p2/t2"))
    assert held_out_subjects(["p1"], visits, root) == ["p1"] == held_out_subjects(["p1/t2"], visits, root)
    assert stem_of("x/1.2.840.113.nii") == "1.2.840.113" == stem_of("1.2.840.113")


def test_held_out_list_keeps_folders_and_dots(tmp_path):
    (tmp_path / "t.txt").write_text("train/001.nii.gz\ntest/001\n1.2.840.113\n")
    assert read_held_out(tmp_path / "t.txt") == ["train/001", "test/001", "1.2.840.113"]
