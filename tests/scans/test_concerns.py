"""What is odd is found, and what is not is left alone."""

from dataclasses import dataclass, field

import nibabel
import numpy as np
import pytest

from headwater.scans import concerns


@dataclass
class Few:
    """As much of a passport as concerns ask for."""

    entries: list
    duplicates: dict = field(default_factory=dict)
    ignore: int | None = None
    instances: bool = False


def kinds(entries, told=None, **more):
    return {c["kind"]: c for c in concerns.all_of(Few(entries, **more), told or {})}


def test_a_healthy_set_raises_none(entry):
    rng = np.random.default_rng(0)
    plain = [entry(f"e{i}", shape=tuple(map(int, rng.integers(30, 42, 3))), labels={0: 900, 1: 80, 2: 90}) for i in range(40)]
    assert kinds(plain, {1: "one", 2: "two"}) == {}


def test_geometry_far_from_the_rest(entry):
    usual = [entry(f"e{i}", shape=(40, 40, 30 + i % 3)) for i in range(20)]
    found = kinds([*usual, entry("huge", shape=(400, 400, 300)), entry("thick", spacing=(1.0, 1.0, 20.0))])
    assert found["size"]["files"] == ["huge", "thick"] and found["spacing"]["files"] == ["thick"]
    assert "968 times" in found["size"]["text"]  # of 40 x 40 x 31
    halves = [entry(f"a{i}", spacing=(1.0, 1.0, 1.0)) for i in range(10)] + [
        entry(f"b{i}", spacing=(1.0, 1.0, 5.0)) for i in range(9)
    ]
    assert "spacing" not in kinds(halves), "two kinds of scan are no outliers"


def test_units_notes_blank_slices_and_clipping(entry):
    usual = [entry(f"e{i}") for i in range(20)]
    odd = [
        entry("bare", spaced=False), entry("blank", blank=3), entry("cut", clipped=0.3), entry("said",
            notes=("gantry tilt (12 degrees)",)),
    ]  # fmt: skip
    found = kinds(usual + odd)
    for kind, name in (("unspaced", "bare"), ("blank slices", "blank"), ("clipped", "cut"), ("reading", "said")):
        assert found[kind]["files"] == [name]
    assert "30%" in found["clipped"]["text"] and found["reading"]["text"].startswith("1 scan: gantry tilt")


def test_labels_that_are_rare_stray_absent_or_empty(entry):
    usual = [entry(f"e{i}", labels={0: 9000, 1: 2000}) for i in range(38)]
    odd = [
        entry("rare", labels={0: 9000, 1: 2000, 2: 500}),
        entry("speck", labels={0: 9000, 1: 3}),
        entry("empty", labels={0: 9000}),
    ]
    found = kinds(usual + odd, {1: "liver", 2: "tumour", 3: "cyst"})
    assert found["rare label"]["files"] == ["rare"] and found["stray label"]["files"] == ["speck"]
    assert found["empty mask"]["files"] == ["empty"] and "3 (cyst)" in found["absent label"]["text"]
    assert "absent label" not in kinds(usual, {1: "liver", 9: "ignore"}, ignore=9)
    unnamed = kinds([*usual, entry("odd", labels={1: 2000, 77: 40})], {1: "liver"})
    assert unnamed["stray label"]["files"] == ["odd"] and "77 has no name" in unnamed["stray label"]["text"]


def test_near_copies_under_two_subjects_are_a_leak(entry):
    pair = [entry("a", subject="one"), entry("b", subject="two"), entry("c", subject="two")]
    found = kinds(pair, duplicates={"pairs": [["a", "b", 0.999, "flipped"], ["b", "c", 0.99, ""]]})
    assert found["leakage"]["files"] == ["a", "b"] and "1 pair " in found["leakage"]["text"]


@pytest.mark.parametrize("way", ["LAS", "PIR", "SRA", "RAS"])
def test_turned_is_as_nibabel_turns(entry, way):
    shape, spacing = (10, 12, 8), (1.0, 2.0, 3.0)
    made = entry("a", shape=shape, spacing=spacing, orientation=way)
    codes = nibabel.orientations.axcodes2ornt(way)
    turned = nibabel.orientations.apply_orientation(
        np.zeros(shape), nibabel.orientations.ornt_transform(codes, nibabel.orientations.axcodes2ornt("RAS"))
    )
    assert concerns.turned(made, "RAS")[0] == turned.shape
    order = np.argsort(codes[:, 0])
    assert concerns.turned(made, "RAS")[1] == tuple(np.array(spacing)[order])
    assert concerns.turned(entry("b", orientation=""), "RAS")[0] == (10, 12, 8)


def test_most_have_one_orientation(entry):
    some = [
        entry("a", orientation="LAS"),
        entry("b", orientation="RAS"),
        entry("c", orientation="LAS"),
        entry("d", orientation=""),
    ]
    assert concerns.orientation(some) == "LAS" and concerns.orientation([entry("a", orientation="")]) == ""


def test_intensity_scales():
    assert concerns.intensity_scales([90, 120, 650, 1300, 297_000, 500_000]) == [2, 2, 2]
    assert concerns.intensity_scales([1, 2, 50]) == [3] and concerns.intensity_scales([1, 2, 300]) == [2, 1]
    assert concerns.intensity_scales([]) == [0]


def test_masks_that_number_single_objects(entry):
    cells = [entry(f"c{i}", labels={0: 900} | {v: 9 for v in range(1, 15 + i)}) for i in range(20)]
    assert concerns.instances(cells, {})
    assert not concerns.instances(cells, {1: "liver"}), "the data set names them"
    organs = [entry(f"o{i}", labels={v: 9 for v in range(0, 25)}) for i in range(20)]
    assert not concerns.instances(organs, {}), "the same numbers in every mask are structures"
    assert not concerns.instances([entry("a", labels={0: 5, 1: 9, 2: 9})], {})
    assert kinds(cells, instances=True) == {}


def test_one_subject_with_a_mask_cannot_be_tested_on(entry):
    assert kinds([entry("a", labels={0: 9, 1: 9}), entry("b")])["masks"]["files"] == ["a"]
