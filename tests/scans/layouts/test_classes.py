"""Folders like classes, and folders that are none."""

import pytest
from corpus import picture, volume

from headwater.scans.layouts import understand
from headwater.scans.layouts.classes import class_of, split_of


def test_class_and_part():
    assert class_of("train/cat/a.png") == "cat" == class_of("cat/x/a.png") and class_of("a.png") == "" == class_of("test/a.png")
    assert (
        split_of("val/cat/a.png") == "train"
        and split_of("test/cat/a.png") == "test"
        and split_of("cat/a.png") == "" == split_of("a.png")
    )


@pytest.mark.parametrize(
    ("names", "layout", "subjects"),
    [([f"{c}/{c}{i}" for c in "ab" for i in range(3)], "image folders", 6),
     ([f"{c}/{i:03d}" for c in ("benign", "malignant") for i in range(3)], "image folders", 6),
     ([f"patient{p}/slice{i}" for p in (1, 2) for i in range(3)], "plain folder", 2),
     ([f"LIDC-{p:04d}/{i:03d}" for p in (1, 2) for i in range(3)], "plain folder", 2),
     ([f"{c}/s{i}" for c in ("t1", "flair") for i in range(3)], "plain folder", 3),
     ([f"images/{i}" for i in range(3)] + [f"more/{i}" for i in range(3)], "plain folder", 6),
     ([f"a/{i}" for i in range(3)] + ["alone"], "plain folder", 4)],
)  # fmt: skip
def test_recognised(tmp_path, names, layout, subjects):
    for name in names:
        picture(tmp_path / f"{name}.png")
    found = understand(tmp_path)
    assert found.layout == layout and len(found.subjects) == subjects and not any(item.group for item in found.items)


def test_asked_for_any_folder_is_a_class(tmp_path):
    for name in ("p1/t1", "p2/t1"):
        volume(tmp_path / f"{name}.nii.gz")
    assert [item.group for item in understand(tmp_path, classes=True).items] == ["p1", "p2"]
