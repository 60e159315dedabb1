"""Who is kept, who is set aside, and who is tested on."""

import pytest

from headwater.errors import InputError
from headwater.scans import triage
from headwater.scans.scan import Fault


def split_of(entries):
    return {side: {e.subject for e in entries if e.split == side} for side in ("train", "test")}


def test_the_minority_is_set_aside_and_grey_among_colour_is_not(entry):
    kept, faults = triage.without_minority([entry("a"), entry("b"), entry("flat", shape=(5, 6)), entry("two", channels=2)])
    assert [e.name for e in kept] == ["a", "b"] and {f.file for f in faults} == {"flat", "two"}
    assert "2 axes and 1 channel, most have 3 and 1 channel" in faults[0].fault
    mixed = [entry("a", shape=(5, 6)), entry("b", shape=(5, 6), channels=3), entry("c", shape=(5, 6))]
    assert triage.without_minority(mixed) == (mixed, [])


def test_of_copies_the_one_for_testing_then_the_one_with_a_mask_stays(entry):
    twins = [entry("a", sha256="x"), entry("b", sha256="x", labels={1: 1}), entry("c", sha256="x"), entry("d", sha256="y")]
    assert [e.name for e in triage.without_copies(twins, [])[0]] == ["b", "d"]
    kept, faults = triage.without_copies(twins, ["c"])
    assert [e.name for e in kept] == ["c", "d"] and [f.file for f in faults] == ["a", "b"] and faults[0].kind == "copy"


def test_subjects_that_share_a_scan_are_one_group(entry):
    five = [entry(name) for name in "abcde"]
    assert triage.linked(five, [(0, 1), (1, 2)], [("d", "e"), ("d", "d")]) == [["a", "b", "c"], ["d", "e"]]
    assert triage.linked(five, [], []) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_split_keeps_a_group_on_one_side(entry, seed):
    ten = [entry(f"s{i}") for i in range(10)]
    sides, chosen = triage.with_split(ten, None, seed, False, [["s0", "s1", "s2"]], [])
    test = split_of(sides)["test"]
    assert chosen == "drawn" and 0 < len(test) < 10 and len(test & {"s0", "s1", "s2"}) in (0, 3)


def test_a_group_holds_over_scans_without_a_mask(entry):
    labelled = [entry(f"l{i}", labels={1: 9}) for i in range(5)]
    bare = [entry(f"u{i}") for i in range(5)]
    for seed in range(10):
        sides, _ = triage.with_split(labelled + bare, None, seed, True, [[f"l{i}", f"u{i}"] for i in range(5)], [])
        test = split_of(sides)["test"]
        assert test & {e.subject for e in labelled} and {name[1:] for name in test if name[0] == "l"} == {
            n[1:] for n in test if n[0] == "u"
        }


def test_the_layouts_own_test_part_is_used_where_it_can_be(entry):
    told = [
        entry("a", split="train", labels={1: 1}),
        entry("b", split="test", labels={1: 1}),
        entry("c", split="train", labels={1: 1}),
    ]
    sides, chosen = triage.with_split(told, None, 0, True, [], [])
    assert chosen == "layout" and split_of(sides) == {"train": {"a", "c"}, "test": {"b"}}
    bare = [entry(f"t{i}", split="train", labels={1: 1}) for i in range(5)] + [entry("x", split="test")]
    sides, chosen = triage.with_split(bare, None, 0, False, [], [])
    assert chosen == "drawn" and "x" in split_of(sides)["test"], "a test scan without a mask is never learned from"


def test_named_subjects_are_tested_on(entry):
    four = [entry(n, labels={1: 1}) for n in "abcd"]
    sides, chosen = triage.with_split(four, ["b", "d"], 0, True, [], [])
    assert chosen == "named" and split_of(sides)["test"] == {"b", "d"}
    with pytest.raises(InputError, match="leave at least one"):
        triage.with_split(four, list("abcd"), 0, True, [], [])
    with pytest.raises(InputError, match="None of the 1 subjects"):
        triage.with_split([*four, entry("e")], ["e"], 0, True, [], [])


def test_masks_that_are_of_no_use_are_one_sentence(entry):
    fault = Fault("m.nii", "is 3 x 3 voxels, its scan is 4 x 4", "resample the mask onto the scan", "mask")
    for entries, faults, words in (
        ([entry("a"), entry("b")], [fault], "Masks do not fit the scans: m.nii is 3 x 3"),
        ([entry("a", labels={0: 9}), entry("b", labels={0: 9})], [], "All masks are empty"),
        ([entry("a", labels={1: 9}), entry("b")], [], "Only one subject"),
    ):
        with pytest.raises(InputError, match=words):
            triage.with_split(entries, None, 0, True, [], faults)
