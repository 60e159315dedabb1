"""Names: subjects, lists of names, splits."""

from pathlib import Path

import pytest

from headwater.errors import InputError
from headwater.scans.catalog import (
    held_out_subjects,
    of_a_patient,
    read_held_out,
    split,
    stem_of,
    subject_of,
    subjects_of,
    without_ending,
)
from headwater.scans.readers import COMPANIONS, SUFFIXES


def _paths(*names):
    return [Path("/data") / f"{name}.nii.gz" for name in names]


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
    ("names", "expected"),
    [(["BraTS_001/BraTS_001_t1", "BraTS_001/BraTS_001_flair"], {"BraTS_001"}), (["a_t1", "a_FLAIR", "b_t1"], {"a", "b_t1"}),
     (["t1/a", "flair/a", "t1/b", "flair/b"], {"a", "b"}),
     (["patient_7/x/1", "patient_7/y/2", "patient_8/x/3"], {"patient_7", "patient_8"}),
     (["LIDC-0001/1", "LIDC-0001/2", "LIDC-0002/1"], {"LIDC-0001", "LIDC-0002"}), (["2022/a", "2023/b"], {"a", "b"}),
     (["sub-1/patient2/a", "x/sub-1_T1w"], {"sub-1"}), (["cat/1", "cat/2", "cat/3", "dog/1"], {"cat/1", "2", "3", "dog/1"})],
)  # fmt: skip
def test_subjects_by_folders_and_sequences(names, expected):
    assert set(subjects_of([Path(f"{name}.png") for name in names]).values()) == expected


def test_every_ending_that_is_read_is_known():
    for suffix in (*SUFFIXES, *COMPANIONS):
        assert stem_of(f"x/1.2.840.113{suffix}") == "1.2.840.113" == stem_of(f"1.2.840.113{suffix.upper()}"), suffix
    assert stem_of("a.b.c") == "a.b.c" and without_ending("x.nii/a.png") == "x.nii/a" and stem_of(".nii") == ".nii"


def test_split_is_by_subject_and_repeats():
    names = [f"s{i}" for i in range(20)]
    train, test = split(names * 2, None, 3)
    assert len(test) == 4 and not set(train) & set(test) and set(train) | set(test) == set(names)
    assert split(reversed(names), None, 3) == (train, test) != split(names, None, 4)
    assert split(names, ["s3", "s5"], 0)[1] == ["s3", "s5"]
    assert split(["a", "b"], None, 0, 0.9) in ((["a"], ["b"]), (["b"], ["a"])) and split(["a"], None, 0) == (["a"], [])


def test_linked_subjects_land_on_one_side():
    names = [f"s{i:02d}" for i in range(40)]
    links = [["s00", "s01"], ["s01", "s02"], ["s10", "s11"], ["s30", "gone"], ["s39"]]
    for seed in range(20):
        train, test = split(names, None, seed, linked=links)
        assert sorted(train + test) == names and 1 <= len(test) <= 8
        for group in ({"s00", "s01", "s02"}, {"s10", "s11"}):
            assert group <= set(train) or group <= set(test)
    assert split(names, None, 3, linked=links) == split(reversed(names), None, 3, linked=[link[::-1] for link in links[::-1]])
    assert split(names, ["s01"], 0, linked=links)[1] == ["s00", "s01", "s02"]
    assert split(names, None, 5, linked=[]) == split(names, None, 5) == split(names, None, 5, linked=[["s03"]])
    assert len(split(names, None, 0, linked=[names[:38]])[1]) == 2  # the large group does not fit
    pairs = [["a", "b"], ["c", "d"]]
    assert set(split("abcd", None, 0, 0.25, pairs)[1]) in ({"a", "b"}, {"c", "d"})  # one pair, though only one was asked for
    assert split("abcd", None, 0, linked=["abcd"]) == (["a", "b", "c", "d"], [])


def test_folders_of_patients():
    for name in ("patient_7", "Case01", "P003", "LIDC-IDRI-0001", "pat-12b", "12345"):
        assert of_a_patient(name), name
    for name in ("benign", "2023", "t1", "class1", "CXR", "train", "stage2"):
        assert not of_a_patient(name), name


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


def test_pieces_of_a_file_can_be_named(tmp_path):
    (tmp_path / "t.txt").write_text("\ufeffx.npz#test_images/3\nb.nii.gz # a note\n", encoding="utf-8")
    names = read_held_out(tmp_path / "t.txt")
    assert names == ["x.npz#test_images/3", "b"]
    subjects = {Path("/d/x.npz#test_images/3"): "test/3", Path("/d/x.npz#train_images/3"): "train/3", Path("/d/b.nii.gz"): "b"}
    assert held_out_subjects(names, subjects, Path("/d")) == ["b", "test/3"]
