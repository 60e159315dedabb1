"""Folders whose names are classes: CLASS/picture.png, with train and test above them or not."""

from collections import defaultdict
from dataclasses import replace
from pathlib import PurePosixPath

from headwater.scans.catalog import of_a_patient, stem_of
from headwater.scans.layouts import dicoms, plain
from headwater.scans.layouts.item import Catalog
from headwater.scans.layouts.pairing import beside, for_a_role, in_mask_folder
from headwater.scans.layouts.tree import Tree

NAME = "image folders"
_SPLITS = {"train": "train", "training": "train", "val": "train", "valid": "train", "validation": "train",
           "test": "test", "testing": "test"}  # fmt: skip


def recognise(tree: Tree) -> list[str]:
    """The folder itself, if its images lie in two folders or more, two or more in each, not named for patients or roles."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in tree.images:
        groups[class_of(name)].append(stem_of(name))
    if not 2 <= len(groups) <= 1000 or min(map(len, groups.values())) < 2 or dicoms.files(tree):
        return []
    if any(not group or for_a_role(group) or of_a_patient(group) for group in groups):
        return []
    paths = [PurePosixPath(name) for name in tree.images]
    if any(map(in_mask_folder, paths)) or beside(paths):
        return []
    stems = {stem for some in groups.values() for stem in some}
    counted = all(stem.isdecimal() for stem in stems)  # names that only count do not tell that folders hold the same patients
    alike = len({frozenset(some) for some in groups.values()}) == 1 and not counted
    return [] if alike or len(groups) >= len(stems) else [""]


def class_of(name: str) -> str:
    """The first folder on the way to a file that is not a part of the split; "" if there is none."""
    return next((folder for folder in name.split("/")[:-1] if folder.lower() not in _SPLITS), "")


def split_of(name: str) -> str:
    """Which part of the split the first folder names, train or test (val is train); "" for none."""
    return _SPLITS.get(name.partition("/")[0].lower(), "") if "/" in name else ""


def read(tree: Tree, folder: str = "", *, classes: bool = False) -> Catalog:
    """Every image; its folder is its class where that is asked for."""
    found = plain.read(tree, folder)
    items = [replace(i, group=class_of(i.name) if classes else "", split=split_of(i.name)) for i in found.items]
    groups = sorted({class_of(item.name) for item in items})
    said = "used as classes" if classes else "not used unless --classes"
    rule = f"image folders: {len(groups)} folders of images look like classes; {said}"
    notes = list(found.notes)
    if any(item.name.lower().startswith("val") and item.split for item in items):
        notes.append("the part val counts as pictures to learn from")
    return replace(found, layout=NAME, rule=rule, items=tuple(items), notes=tuple(notes))
