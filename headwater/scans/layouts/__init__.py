"""Layouts: how people arrange scans in folders. `understand` finds out which one a folder has, and reads it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headwater.errors import InputError
from headwater.scans.layouts import (
    bids,
    classes as folders,
    decathlon,
    dicoms,
    labels,
    medmnist,
    nnssl,
    nnunet,
    others,
    plain,
    table,
)
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.tree import Tree, endings, load_json, walk
from headwater.scans.readers import looks_like
from headwater.scans.scan import Fault, Source

__all__ = ["Catalog", "Item", "one_or_more", "understand"]

LAYOUTS = (nnssl, nnunet, decathlon, bids, table, medmnist, dicoms, folders, plain)  # the first that fits is taken
_UNLISTED = (dicoms, folders, plain)  # these take every image they find


def understand(root: Path | str, labels_root: Path | str | None = None, *, classes: bool = False) -> Catalog:
    """What a folder holds, and which rule decided. A file is taken too: a table, a list in JSON, a MedMNIST .npz.

    labels_root: the folder of masks, where the layout does not say it or says it wrongly. classes: folders, a column or the
    labels of a file are classes, and every scan gets its `group`.
    Raises InputError if nothing can be used, no mask fits, or no classes are there where they are asked for.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"{root} does not exist; check the path.")
    catalog = _folder(root, classes) if root.is_dir() else _file(root, classes)
    if not catalog.items:
        raise InputError(_why_empty(root, catalog))
    if labels_root is not None:
        catalog = labels.given(catalog, Path(labels_root))
    near = [Path(place).resolve() for place in (labels_root, root) if place is not None]
    catalog = labels.named(catalog, [folder for place in near for folder in (place, place.parent)])
    if classes and not any(item.group for item in catalog.items):
        why = next((f" (the array of labels {fault.fault})" for fault in catalog.faults if fault.kind == "classes"), "")
        remedy = "put the scans of each class into a folder of its name, or give a table with a column class"
        raise InputError(f"Nothing in {root} says which class a scan has{why}; {remedy}.")
    faults = tuple({(fault.file, fault.kind): fault for fault in catalog.faults}.values())
    return replace(catalog, faults=faults, notes=tuple(dict.fromkeys(catalog.notes)))


def one_or_more(scans: Path) -> Catalog:
    """As `understand`; a file that is one scan is a catalog of one."""
    if scans.is_file() and not scans.name.lower().endswith(".npz") and looks_like(scans):
        scans = scans.resolve()
        return Catalog("one scan", "one file", scans.parent, (Item(scans.name, Source((scans,)), scans.name),))
    return understand(scans)


def _folder(root: Path, classes: bool) -> Catalog:
    """The catalog of a folder."""
    part = _part_of(root)
    if part is not None:
        return part
    tree = walk(root)
    if not tree.images:
        raise InputError(_why_no_image(root, tree))
    if classes and not any(layout.recognise(tree) for layout in LAYOUTS[:-2]) and any(map(folders.class_of, tree.images)):
        return _finished(folders.read(tree, classes=True), tree, folders)
    layout, places = next((layout, places) for layout in LAYOUTS if (places := layout.recognise(tree)))
    found = [layout.read(tree, place, classes=classes) for place in places]
    return _finished(_joined(root, places, found), tree, layout)


def _finished(catalog: Catalog, tree: Tree, layout: object) -> Catalog:
    """With what the folder holds beside its scans."""
    notes = [*catalog.notes, *tree.notes, *others.counted(tree)]
    if layout not in _UNLISTED:
        sources = [source for item in catalog.items for source in (item.source, item.mask) if source]
        used = {path for source in sources for path in source.files} | {tree.path(fault.file) for fault in catalog.faults}
        left = sum(tree.path(name) not in used for name in tree.images)
        if left:
            notes.append(f"{left:,} images in the folder are no part of this layout: not read")
    return replace(catalog, faults=(*tree.faults, *catalog.faults), notes=tuple(notes))


def _joined(root: Path, places: Sequence[str], found: Sequence[Catalog]) -> Catalog:
    """Several data sets of one layout as one. Subjects keep the folder of their data set.

    Raises InputError if they differ in their number of channels.
    """
    whole = [catalog for catalog in found if catalog.items]
    if len(whole) < 2:
        return next(iter(whole or found))
    counts = Counter(len(catalog.channel_names) or 1 for catalog in whole)
    if len(counts) > 1:
        said = ", ".join(f"{n} of {channels} channel{'s' if channels > 1 else ''}" for channels, n in sorted(counts.items()))
        raise InputError(
            f"{root} holds {len(whole)} data sets that do not fit together ({said}); give the folder of one of them."
        )
    items, notes = [], [f"{len(whole)} data sets read as one: subjects are named by data set"]
    known, channels = whole[0].label_names, whole[0].channel_names
    alike = all(catalog.label_names == known for catalog in whole if catalog.masked)
    if not alike:
        notes.append("their masks mean different things: left out; give the folder of one data set to use its masks")
    for place, catalog in zip(places, found, strict=True):
        where = place.rpartition("/")[0] if place.lower().endswith((".json", ".csv", ".tsv")) else place
        items += [replace(item, subject=f"{where}/{item.subject}", mask=item.mask if alike else None) for item in catalog.items]
        notes += catalog.notes
    return replace(
        whole[0], rule=f"{whole[0].rule} (and so in {len(whole) - 1} more)", items=tuple(items),
        faults=tuple(fault for catalog in found for fault in catalog.faults), label_names=known if alike else {},
        channel_names=channels if all(catalog.channel_names == channels for catalog in whole) else (), notes=tuple(notes),
    )  # fmt: skip


def _part_of(root: Path) -> Catalog | None:
    """The catalog of imagesTr or imagesTs, if the folder is one and belongs to a data set; None for other folders."""
    folder = root.resolve()
    if folder.name not in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
        return None
    tree = walk(folder.parent)
    layout, place = next(((way, places[0]) for way in (nnunet, decathlon) if (places := way.recognise(tree))), (None, ""))
    if layout is None or "/" in place or (place and layout is nnunet):
        return None
    if folder.name.startswith("labels"):
        raise InputError(f"{root} holds masks; give {folder.name.replace('labels', 'images')} or the folder above.")
    whole = layout.read(tree, place)
    start = f"{folder.name}/"
    items = [replace(item, name=item.name.removeprefix(start)) for item in whole.items if item.name.startswith(start)]
    faults = [
        replace(fault, file=fault.file.removeprefix(start))
        for fault in (*tree.faults, *whole.faults)
        if fault.file.startswith((start, start.replace("images", "labels"))) or fault.kind == "layout"
    ]
    rule = f"{whole.rule} ({folder.name} was given)"
    return replace(whole, root=folder, rule=rule, items=tuple(items), faults=tuple(faults))


def _file(file: Path, classes: bool) -> Catalog:
    """The catalog that one file holds or lists. Raises InputError for a file that is neither."""
    file = file.resolve()
    tree, low = Tree(file.parent, (file.name,)), file.name.lower()
    if low.endswith(table.ENDINGS):
        if table.names_images(tree, file.name):
            return table.read(tree, file.name, classes=classes)
        raise InputError(
            f"{file} has no column image with paths to scans; name that column image, or give the folder of the scans."
        )
    if low.endswith(".json"):
        return _listing(file, tree, classes)
    if low.endswith(".npz"):
        way = next(layout for layout in (medmnist, plain) if layout.recognise(tree))
        return way.read(tree, "", classes=classes)
    if tree.images:
        raise InputError(f"{file} is a single scan; give the folder that holds the scans.")
    raise InputError(f"{file} is a file that lists no scans; give a folder, a table (.csv), a list (.json) or an .npz file.")


def _listing(file: Path, tree: Tree, classes: bool) -> Catalog:
    """The catalog of a JSON file."""
    told, wrong = load_json(file)
    if nnssl.is_collection(told):
        return nnssl.read(tree, file.name)
    if not wrong and file.name == "dataset.json" and "" in nnunet.recognise(whole := walk(file.parent)):
        return _finished(nnunet.read(whole, ""), whole, nnunet)
    if decathlon.is_list(told):
        return decathlon.read(tree, file.name, classes=classes)
    raise InputError(f"{file} {wrong or 'lists no scans'}; give a list with training, each entry with an image, or a folder.")


def _why_no_image(root: Path, tree: Tree) -> str:
    """What a folder without images holds, and what to do."""
    strange: list[Fault] = others.foreign(tree)
    if strange:
        return f"{root} has no image that can be read: {len(strange):,} x {strange[0].fault}; {strange[0].remedy}."
    if tree.faults and not tree.files:
        return f"{root} has no image that can be read: {len(tree.faults):,} x {tree.faults[0].fault}; {tree.faults[0].remedy}."
    if not tree.files:
        return f"{root} is empty; give the folder that holds the scans."
    return f"{root} has no image in it (it has {endings(tree.files)}); give the folder that holds the scans."


def _why_empty(root: Path, catalog: Catalog) -> str:
    """Why a layout that was recognised gave no scan, without the names of files: they may be those of patients."""
    if not catalog.faults:
        return f"{root} holds no scan, though {catalog.rule}; give the folder that holds the scans."
    kinds = Counter(fault.kind for fault in catalog.faults)
    first = next(fault for fault in catalog.faults if fault.kind == kinds.most_common(1)[0][0])
    return f"No scan in {root} can be used ({catalog.rule}): {kinds[first.kind]:,} x {first.fault}; {first.remedy}."
