"""Lists of scans in JSON: the dataset.json of the Medical Segmentation Decathlon, and MONAI's datalist."""

import posixpath
from collections.abc import Mapping
from dataclasses import replace

from headwater.scans.catalog import subjects_of
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.dialects import channel_names, label_names
from headwater.scans.layouts.tree import Tree, load_json
from headwater.scans.scan import Fault, Source

NAME = "datalist"
_LISTS = {"training": "train", "validation": "train", "testing": "test", "test": "test"}
_MOST = 50  # JSON files that are opened to see whether they are lists


def recognise(tree: Tree) -> list[str]:
    """JSON files with a list "training" whose entries name an image; per folder one, dataset.json before others."""
    listings = [name for name in tree.files if name.lower().endswith(".json") and name.count("/") <= 2]
    listings.sort(key=lambda name: (name.count("/"), posixpath.basename(name) != "dataset.json", name))
    found: dict[str, str] = {}
    for name in listings[:_MOST]:
        folder = posixpath.dirname(name)
        if folder not in found and is_list(load_json(tree.path(name))[0]):
            found[folder] = name
    outer = [
        folder for folder in found if not any(folder.startswith(f"{other}/") or not other for other in found if other != folder)
    ]
    return [found[folder] for folder in sorted(outer)]


def is_list(told: object) -> bool:
    """Whether a JSON value is a list of scans in this dialect."""
    if not isinstance(told, dict):
        return False
    entries = [entry for key in _LISTS if isinstance(told.get(key), list) for entry in told[key][:5]]
    return any(isinstance(entry, dict) and "image" in entry for entry in entries)


def read(tree: Tree, listing: str, *, classes: bool = False) -> Catalog:
    """All scans that a JSON file lists, with masks, classes (a whole number as label) and the test part."""
    told, wrong = load_json(tree.path(listing))
    told = told if isinstance(told, dict) else {}
    folder = posixpath.dirname(listing)
    faults = [Fault(listing, wrong, "correct it", "layout")] if wrong else []
    items: list[Item] = []
    for key, split in _LISTS.items():
        for i, entry in enumerate(told[key] if isinstance(told.get(key), list) else ()):
            said = f"{listing}, {key} {i + 1}"
            item = _item(tree, folder, said, entry if isinstance(entry, dict) else {"image": entry}, faults)
            items += [replace(item, split=split, group=item.group if classes else "")] if item else []
    items, twice = _once(items)
    faults += twice
    subjects = subjects_of([item.source.path.relative_to(tree.root) for item in items])
    named = [item.subject or who for item, who in zip(items, subjects.values(), strict=True)]
    channels = channel_names(told)
    modality = {"MRI": "MR"}.get(channels[0], channels[0]) if len(channels) == 1 else ""
    items = [replace(item, subject=who, modality=modality) for item, who in zip(items, named, strict=True)]
    labels, notes = label_names(told)
    decathlon = "modality" in told or "numTraining" in told
    dialect = "Medical Segmentation Decathlon" if decathlon else "MONAI datalist"
    keys = [key for key in _LISTS if isinstance(told.get(key), list)]
    rule = f"{dialect}: {posixpath.basename(listing) if decathlon else 'a JSON file'} lists images under {' and '.join(keys)}"
    notes += _said(tree, listing, told)
    return Catalog(NAME, rule, tree.root, tuple(items), tuple(faults), labels, channels, tuple(notes))


def _item(tree: Tree, folder: str, said: str, entry: Mapping, faults: list[Fault]) -> Item | None:
    """One entry as a scan; None and a fault if it cannot be one. A mask that cannot be used leaves a scan without."""
    images = entry.get("image")
    found = [tree.find(image, folder, said) for image in (images if isinstance(images, list) and images else [images])]
    wrong = [one for one in found if isinstance(one, Fault)]
    faults += wrong
    if wrong:
        return None
    source = Source(tuple(file for one in found for file in one.files))
    label, mask, group = entry.get("label", entry.get("mask")), None, ""
    label = label[0] if isinstance(label, list) and len(label) == 1 else label
    if isinstance(label, int) or (isinstance(label, str) and label.isdecimal()):
        group = str(int(label))
    elif label:
        mask = tree.find(label, folder, said)
        faults += [mask] if isinstance(mask, Fault) else []
    subject = next(
        (str(entry[key]) for key in ("subject", "subject_id", "patient_id") if isinstance(entry.get(key), (str, int))), ""
    )
    return Item(tree.name(source.path), source, subject, mask=mask if isinstance(mask, Source) else None, group=group)


def _once(items: list[Item]) -> tuple[list[Item], list[Fault]]:
    """Each scan once, as it was listed first."""
    kept: dict[str, Item] = {}
    faults = []
    for item in items:
        if item.name in kept:
            faults.append(Fault(item.name, "is listed twice", "take it off the list once", "row"))
        kept.setdefault(item.name, item)
    return list(kept.values()), faults


def _said(tree: Tree, listing: str, told: Mapping) -> list[str]:
    """What else the list says, and other lists beside it."""
    listed = told.get("training")
    entries = [entry for entry in (listed if isinstance(listed, list) else ()) if isinstance(entry, dict)]
    folds = {str(entry["fold"]) for entry in entries if "fold" in entry}
    notes = [f"{len(folds)} folds are named and left alone: the split is by subject"] if folds else []
    if isinstance(told.get("validation"), list) and told["validation"]:
        notes.append("scans listed under validation count as scans to learn from")
    near = [name for name in tree.files if name.endswith(".json") and posixpath.dirname(name) == posixpath.dirname(listing)]
    others = sum(is_list(load_json(tree.path(name))[0]) for name in near[:_MOST] if name != listing)
    if others:
        notes.append(f"{others} other list{'s' if others > 1 else ''} of scans beside it: give such a file itself to use it")
    return notes
