"""Nothing that could be a person's is shown, and what is shown can be told apart."""

import re
import stat

import pytest

from headwater.scans import identifiers
from headwater.scans.identifiers import Names

SALTED = Names(b"a" * 32)
PEOPLE = ["Doe", "JOHN", "19540302", "MRN12345", "4711", "Müller", "CC110033", "St_Mary", "0012345", "p07"]
PEOPLE += ["1.2.840.113619.2.55"]


@pytest.mark.parametrize("person", PEOPLE)
@pytest.mark.parametrize(
    "like", ["{}.nii.gz", "{}/T1w.nii.gz", "scan_{}_0000.nii.gz", "sub-{0}/anat/sub-{0}_T1w.nii", "chest {} ct.png"]
)
def test_no_part_of_a_name_that_could_be_a_person_is_shown(person, like):
    shown = SALTED.name(like.format(person)).lower()
    assert not any(part.lower() in re.split(r"[^a-z0-9.ü]|~[0-9a-f]{6}", shown) for part in person.split("_"))
    assert person.lower() not in shown


def test_words_of_the_trade_and_counters_stay():
    for name in (
        "imagesTr/hippocampus.nii.gz",
        "t2/t2_seg-manual.nii.gz",
        "ses-01/run-2_T1w.nii.gz",
        "train_images.npz",
        "orders/RAS.nii.gz",
    ):
        assert SALTED.name(name) == name
    assert SALTED.name("pneumoniamnist.npz#train_images/17") == "pneumoniamnist.npz#train_images/17"
    assert SALTED.name("case_12_0001.nii.gz").endswith("_0001.nii.gz")


def test_the_same_name_is_shown_the_same_way_and_others_otherwise():
    assert SALTED.name("a/doe_1.nii") == SALTED.name("a/doe_1.nii") != SALTED.name("a/doe_2.nii")
    assert Names(b"b" * 32).name("doe.nii") != SALTED.name("doe.nii") and Names(b"b" * 32, open=True).name("doe.nii") == "doe.nii"
    many = SALTED.names(f"doe_{i}.nii" for i in range(5000))
    assert len(set(many.values())) == 5000
    people = SALTED.subjects(f"doe_{i}" for i in range(5000))
    assert len(set(people.values())) == 5000 and not any("doe" in alias for alias in people.values())


def test_names_that_would_look_alike_are_told_apart():
    assert len(set(SALTED.names(["doe@1.nii", "doe%1.nii"]).values())) == 2


def test_the_salt_is_drawn_once_and_is_the_owners(tmp_path, monkeypatch):
    monkeypatch.setattr(identifiers, "cache_folder", lambda: tmp_path / "kept")
    first, second = identifiers.known(), identifiers.known(open=True)
    assert first.salt == second.salt and len(first.salt) == 32 and second.open and not first.open
    assert stat.S_IMODE((tmp_path / "kept" / "salt").stat().st_mode) == 0o600
    (tmp_path / "kept" / "salt").write_text("torn")
    assert len(identifiers.known().salt) == 32
    monkeypatch.setattr(identifiers, "cache_folder", lambda: tmp_path / "kept" / "salt" / "below a file")
    assert len(identifiers.known().salt) == 32
