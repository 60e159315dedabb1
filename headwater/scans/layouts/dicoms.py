"""Folders of DICOM files, whatever their names: series by their headers, segmentations as masks."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from posixpath import splitext

from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.tree import Tree
from headwater.scans.scan import Fault, Source

NAME = "DICOM"
_SUFFIXES = (".dcm", ".dicom", ".ima")


def recognise(tree: Tree) -> list[str]:
    """The folder itself, if all images in it are DICOM files."""
    return [""] if tree.images and len(files(tree)) == len(tree.images) else []


def files(tree: Tree) -> list[str]:
    """DICOM files: those that end in .dcm or .ima, and those without an ending that hold DICOM."""
    from headwater.scans.formats import dicom

    return [n for n in tree.images if n.lower().endswith(_SUFFIXES) or (not _ends(n) and dicom.sniff(tree.path(n)))]


def _ends(name: str) -> bool:
    suffix = splitext(name)[1][1:]
    return bool(suffix) and not suffix.isdigit()


def read(tree: Tree, folder: str, *, classes: bool = False) -> Catalog:
    """Every series as a scan. Scout views and what is no picture are faults; segmentations go to the series they refer to."""
    items, faults, notes = scans(tree, files(tree))
    rule = "DICOM: all images are DICOM files, put together by SeriesInstanceUID"
    return Catalog(NAME, rule, tree.root, tuple(items), tuple(faults), notes=tuple(notes))


def scans(tree: Tree, names: Sequence[str]) -> tuple[list[Item], list[Fault], list[str]]:
    """Items, faults and notes from DICOM files."""
    from headwater.scans.formats import series

    found, faults = series.group([tree.path(name) for name in names])
    faults = [Fault(_below(tree, fault.file), fault.fault, fault.remedy, fault.kind) for fault in faults]
    images = [one for one in found if not one.localiser and not one.segmentation]
    known = {one.uid for one in images}
    masks: dict[str, Source] = {}
    for one in sorted((one for one in found if one.segmentation), key=lambda one: (len(Path(one.name).name), one.name)):
        if one.referenced in known and one.referenced not in masks:
            masks[one.referenced] = one.source
            continue
        second = one.referenced in known
        fault = (
            "is one more segmentation of a series that has one" if second else "is a segmentation of a series that is not here"
        )
        remedy = "keep the one that counts" if second else "put the series into the folder"
        faults.append(Fault(tree.name(one.source.path), fault, remedy, "unpaired"))
    items = []
    for one in images:
        name = tree.name(one.source.path) + (f"#{one.source.part}" if one.source.part else "")
        items.append(Item(name, one.source, one.subject or name, one.session, masks.get(one.uid), modality=one.modality))
    return _apart(items), faults, _said(images)


def segmentations(paths: Sequence[Path], items: Sequence[Item]) -> dict[str, Source]:
    """Name of an item -> the DICOM segmentation among `paths` that refers to its series."""
    from headwater.scans.formats import series

    drawn = {one.referenced: one.source for one in series.group(paths)[0] if one.segmentation and one.referenced}
    if not drawn:
        return {}
    owner = {path: item.name for item in items for path in item.source.files}
    uids = {one.uid: owner[one.source.path] for one in series.group(owner)[0] if one.source.path in owner}
    return {uids[uid]: source for uid, source in drawn.items() if uid in uids}


def _below(tree: Tree, file: str) -> str:
    path = Path(file)
    return tree.name(path) if path.is_relative_to(tree.root) else path.name


def _apart(items: list[Item]) -> list[Item]:
    """Items sorted by name, each name once."""
    counts: Counter[str] = Counter()
    done = []
    for item in sorted(items, key=lambda item: item.name):
        counts[item.name] += 1
        name = item.name if counts[item.name] == 1 else f"{item.name}#{counts[item.name]}"
        done.append(Item(**{**vars(item), "name": name}))
    return done


def _said(images: Sequence) -> list[str]:
    """What series say of themselves, counted."""
    counts = Counter(note for one in images for note in one.notes)
    return [f"{note} ({n:,} series)" for note, n in counts.most_common(6)]
