"""Masks from a folder of their own (--labels), for scans of any layout."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from headwater.errors import InputError
from headwater.scans.layouts import dicoms
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.pairing import pair
from headwater.scans.layouts.dialects import label_names
from headwater.scans.layouts.tree import Tree, load_json, walk
from headwater.scans.scan import Fault, Source


def given(catalog: Catalog, labels_root: Path) -> Catalog:
    """The catalog with masks from `labels_root`, paired by name; those of its own are left alone unless they lie there.

    The two folders may be the same (masks beside their scans) or lie in each other.
    Raises InputError if the folder is missing or none of its files fits.
    """
    if not labels_root.is_dir():
        problem = "is a file; give the folder that holds the masks" if labels_root.exists() else "does not exist; check the path"
        raise InputError(f"{labels_root} {problem}.")
    tree = walk(labels_root)
    own = [item.mask for item in catalog.items if item.mask]
    if own and all(mask.path.is_relative_to(tree.root) for mask in own):
        return catalog
    items = catalog.items
    if catalog.root != tree.root and tree.root.is_relative_to(catalog.root):
        items = tuple(item for item in items if not item.source.path.is_relative_to(tree.root))
    if not items:
        raise InputError(
            f"All scans in {catalog.root} lie in {labels_root}, the folder of masks; give the masks a folder without the scans."
        )
    scans = {item.source.path for item in items}
    names = [name for name in tree.images if tree.path(name) not in scans and not _among_scans(tree.path(name), catalog, tree)]
    masks, faults = _paired(catalog, items, tree, names)
    if not masks:
        raise InputError(_why_none(catalog, labels_root, items, tree, names))
    kept = [fault for fault in catalog.faults if fault.kind != "unpaired" and not _below(catalog, fault, tree)]
    notes = list(catalog.notes)
    if own:
        notes.append(f"{len(own):,} masks that the folder of scans brings are left alone: --labels says where they are")
    items = tuple(replace(item, mask=masks.get(item.name)) for item in items)
    return replace(catalog, items=items, faults=(*kept, *tree.faults, *faults), label_names={}, notes=tuple(notes))


def _among_scans(path: Path, catalog: Catalog, tree: Tree) -> bool:
    """Whether a file below the folder of masks lies in the folder of scans inside it."""
    return catalog.root != tree.root and catalog.root.is_relative_to(tree.root) and path.is_relative_to(catalog.root)


def _below(catalog: Catalog, fault: Fault, tree: Tree) -> bool:
    return catalog.root != tree.root and (catalog.root / fault.file).is_relative_to(tree.root)


def _paired(catalog: Catalog, items: Sequence[Item], tree: Tree, names: Sequence[str]) -> tuple[dict[str, Source], list[Fault]]:
    """Name of a scan -> its mask; masks without a scan are faults. DICOM segmentations go by what they refer to."""
    by_path = {PurePosixPath(item.name.partition("#")[0]): item for item in items if not item.source.part}
    series = set(dicoms.files(tree))
    files = [PurePosixPath(name) for name in names if name not in series]
    pairs = pair(list(by_path), files)
    masks = {by_path[scan].name: tree.one(str(mask)) for scan, mask in pairs.items()}
    if series:
        masks |= dicoms.segmentations([tree.path(name) for name in sorted(series)], items)
    left = sorted(set(files) - set(pairs.values()))
    return masks, [Fault(str(mask), "has no scan", "name it as its scan is named", "unpaired") for mask in left]


def _why_none(catalog: Catalog, labels_root: Path, items: Sequence[Item], tree: Tree, names: Sequence[str]) -> str:
    """Why no scan has a mask, in one sentence; it names no file, as that may be called after a patient."""
    if names:
        counts = f"{len(names):,} masks, {len(items):,} scans"
        return f"No mask in {labels_root} has the name of a scan ({counts}); give each mask the file name of its scan."
    if catalog.root == tree.root:
        fault = "is named like a mask of another (t1_seg beside t1)"
        return f"No file in {labels_root} {fault}; name masks so, or give their own folder."
    if tree.images:
        return f"Every file in {labels_root} is one of the scans; give the folder that holds the masks."
    return f"{labels_root} holds no image; give the folder that holds the masks."


def named(catalog: Catalog, folders: Sequence[Path]) -> Catalog:
    """The catalog with names of structures from the first dataset.json in the folders, if it has masks and no names yet."""
    if not catalog.masked or catalog.label_names:
        return catalog
    for folder in folders:
        told = load_json(folder / "dataset.json")[0]
        names = label_names(told)[0] if isinstance(told, dict) else {}
        if names:
            return replace(catalog, label_names=names)
    return catalog
