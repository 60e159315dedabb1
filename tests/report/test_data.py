"""The section on the scans: counts that add up, structures in their units, what is odd beside its chance."""

from dataclasses import replace

import pytest

from headwater.report import data, read


@pytest.fixture
def looked(fabricate, tmp_path):
    return read(fabricate.looked(tmp_path / "run"))


def with_passport(record, **more):
    return replace(record, passport=record.passport | more)


def test_nothing_looked_at_says_nothing(looked):
    assert data.section(replace(looked, passport={})) is None


def test_counts_add_up(looked):
    found = data.section(looked)
    assert {group: sum(count for _, count, _ in values) for group, values in found["kinds"]} == {
        "format": 60, "modality": 60, "orientation": 60, "stored as": 60, "spacing, mm": 60, "size, voxels": 60,
    }  # fmt: skip
    kinds = dict(found["kinds"])
    assert kinds["modality"] == [("not stated", 30, 50.0), ("MR", 30, 50.0)] and kinds["spacing, mm"] == [
        ("1 × 1 × 1", 60, 100.0)
    ]
    assert kinds["size, voxels"][0][0].endswith(" different")
    table = dict(found["table"])
    assert table["scans"] == "60" and table["sessions"] == "9" and table["with a mask"] == "30" and table["set aside"] == "6"
    assert table["size, middle"] == "36 × 50 × 35 voxels"
    assert table["near duplicates, kept"] == "1" and table["to look at"] == "2"
    assert found["sides"] == [("to learn from", "50", "50", "20"), ("kept for testing", "10", "10", "10")]
    assert found["chosen"] == "drawn by subject"


def test_many_kinds_are_told_as_others():
    values = ["a"] * 50 + ["b"] * 20 + [f"c{i}" for i in range(10)]
    told = data._counted(values)
    assert told[:2] == [("a", 50, 62.5), ("b", 20, 25.0)] and told[-1] == ("7 others", 7, 8.75)
    assert sum(count for _, count, _ in told) == 80


def test_what_it_was_taken_for_and_why(looked):
    found = data.section(looked)
    assert found["taken"] == ("plain folder", "no marker of another layout is here")
    assert found["notes"] == ["a folder of notes is not read"]
    assert len(found["sentences"]) == 4 and not any(text.startswith(("read as", "look at this")) for text in found["sentences"])


def test_structures_have_volumes_and_marks(looked):
    found = data.structures(looked.passport)
    assert found["head"] == ["structure", "value", "masks, of 30", "voxels, middle", "ml, middle", "ml", "note"]
    first, second = found["rows"]
    assert (
        first[:3] == ("anterior", "1", "30") and second[-1] == "stray: a speck of under 10 voxels in 1 scan" and first[-1] == ""
    )
    assert float(first[4]) == pytest.approx(int(first[3].replace(",", "")) / 1000, abs=0.01)


def test_a_structure_nobody_drew_and_a_value_to_ignore(looked):
    names = looked.passport["label_names"] | {"7": "lesion"}
    found = data.structures(looked.passport | {"label_names": names, "ignore": 2})
    assert found["rows"][-1][:4] == ("lesion", "7", "0", "0") and found["ignore"] == "2"
    held = {row[0]: row[2] for row in found["rows"]}
    assert held["posterior"] == "0"  # not counted, being ignored


def test_many_structures_are_cut_to_the_most_held(looked):
    entries = [
        entry | {"labels": {str(v): 5 for v in range(1, 2 + i)}, "mask": "m"}
        for i, entry in enumerate(looked.passport["entries"])
    ]
    found = data.structures(looked.passport | {"entries": entries, "label_names": {}, "concerns": []})
    assert [row[0] for row in found["rows"]] == [f"structure {v}" for v in range(1, 1 + data.FEW)]
    assert found["more"] == 60 - data.FEW and "value" not in found["head"] and "note" not in found["head"]


def test_numbered_objects_are_counted(looked):
    entries = [entry | {"labels": {"0": 9, "1": 4, "2": 6, "3": 8}, "mask": "m"} for entry in looked.passport["entries"]]
    entries[0] |= {"labels": {"0": 9}}
    found = data.structures(looked.passport | {"entries": entries, "label_names": {"1": "object"}, "instances": True})
    assert found["rows"] == [("object", "59", "177", "3", "0 to 3", "6", "4 to 8")]
    assert data.structures(looked.passport | {"entries": [], "instances": True})["rows"] == []


def test_classes_are_counted_on_both_sides(looked):
    entries = [entry | {"group": "ab"[i % 3 == 0]} for i, entry in enumerate(looked.passport["entries"])]
    found = data.section(with_passport(looked, entries=entries))["classes"]
    assert [(row[0], row[1]) for row in found] == [("a", 40), ("b", 20)] and sum(row[2] for row in found) == pytest.approx(100)
    assert all(row[1] == row[3] + row[4] for row in found)


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "100 %"), (0.9997, "99.970 %"), (0.97, "97.0 %"), (0.71, "71 %"), (None, "–"), ("x", "–")]
)
def test_a_likeness_has_the_digits_that_count(value, text):
    assert data.share(value) == text


def test_duplicates_stand_beside_chance(looked):
    found = data.section(looked)["doubles"]
    assert found["chance"] == "71 %" and found["linked"] == ["s010, s011"] and found["more"] == 0
    ((one, other, alike, how, whose),) = found["rows"]
    assert (one[0], other[0], alike, how, whose) == ("s010.nii.gz", "s011.nii.gz", "99.910 %", "flipped along axis 1", "another")


def test_long_names_are_short_with_their_whole_name_kept():
    long = "a" * 60 + ".nii.gz"
    shown, whole = data.name(long)
    assert len(shown) == data.LONG and shown.endswith(".nii.gz") and "…" in shown and whole == long
    assert data.name("s1.nii") == ("s1.nii", "s1.nii")


@pytest.mark.parametrize("value", [None, [], {}, "text", 3, [None], [[1, 2, 3, 4]], [{"kind": None, "files": 3, "labels": []}]])
def test_no_value_breaks_the_section(looked, value):
    for key in looked.passport:
        data.section(with_passport(looked, **{key: value}))
    facts = looked.passport["entries"][0]["facts"]
    for key in facts:
        broken = [looked.passport["entries"][0] | {"facts": facts | {key: value}}, looked.passport["entries"][1]]
        data.section(with_passport(looked, entries=broken))
    data.section(with_passport(looked, duplicates={"pairs": value, "linked": value, "null": value}))
