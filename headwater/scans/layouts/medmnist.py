"""MedMNIST's files: one .npz with train_images, val_images and test_images, each picture or volume a scan."""

import math
from pathlib import Path

import numpy as np

from headwater.scans.catalog import stem_of
from headwater.scans.formats import arrays
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.tree import Tree
from headwater.scans.scan import Fault, Source, UnreadableError

NAME = "MedMNIST"
_DENSEST = 1032  # deflate packs no better
_PARTS = {"train": "train", "val": "train", "test": "test"}


def recognise(tree: Tree) -> list[str]:
    """The folder itself, if all images in it are .npz files and one of them holds train_images or test_images."""
    files = _files(tree)
    return [""] if len(files) == len(tree.images) and any(_images(tree.path(name)) for name in files) else []


def _files(tree: Tree) -> list[str]:
    return [name for name in tree.images if name.lower().endswith(".npz")]


def _images(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Which of train, val and test a file holds, with shape and type; nothing if it is another kind of file."""
    try:
        held = arrays.parts(path)
    except UnreadableError:
        return {}
    return {part: held[f"{part}_images"] for part in _PARTS if f"{part}_images" in held}


def _wrong(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> str:
    """What keeps an array from being pictures; nothing is counted that the file cannot hold."""
    if dtype.hasobject:
        return "holds Python objects (a pickle), which are not opened"
    if len(shape) < 3 or min(shape) < 1:
        return f"is {' x '.join(map(str, shape))} values, no pictures"
    if math.prod(shape) * dtype.itemsize > _DENSEST * path.stat().st_size:
        return "declares more pictures than the file can hold"
    return ""


def read(tree: Tree, folder: str, *, classes: bool = False) -> Catalog:
    """Every picture of every such file. The file's val counts as train; labels are classes only where asked for."""
    items: list[Item] = []
    faults: list[Fault] = []
    notes = [] if classes else ["the file's labels are classes: not used unless --classes"]
    held = {name: _images(tree.path(name)) for name in _files(tree)}
    several = sum(map(bool, held.values())) > 1
    for name, parts in held.items():
        path, owner = tree.path(name), f"{stem_of(name)}/" if several else ""
        if not parts:
            faults.append(Fault(name, "holds no train_images", "put it in a folder of its own", "parts"))
        for part, (shape, dtype) in parts.items():
            key = f"{part}_images"
            wrong = _wrong(path, shape, dtype)
            if wrong:
                faults.append(Fault(f"{name}#{key}", wrong, "save it again as plain numbers, pictures first", "parts"))
                continue
            groups = _groups(path, name, part, shape[0], faults) if classes else []
            items += [
                Item(f"{name}#{key}/{i}", Source((path,), f"{key}/{i}"), f"{owner}{part}/{i}",
                     group=groups[i] if groups else "", split=_PARTS[part])
                for i in range(shape[0])
            ]  # fmt: skip
        if "val" in parts:
            notes.append("the part val counts as pictures to learn from")
    notes.append("the files name no patients: each picture counts as a subject of its own")
    rule = "MedMNIST: an .npz file holds train_images, val_images or test_images"
    return Catalog(NAME, rule, tree.root, tuple(items), tuple(faults), notes=tuple(dict.fromkeys(notes)))


def _groups(path: Path, name: str, part: str, count: int, faults: list[Fault]) -> list[str]:
    """The class of each picture; none and a fault if there is not exactly one for each."""
    try:
        labels = arrays.load(path, f"{part}_labels")
    except UnreadableError as error:
        faults.append(Fault(f"{name}#{part}_labels", error.fault, error.remedy, "classes"))
        return []
    if labels.size != count or labels.ndim < 1 or len(labels) != count or labels.dtype.kind not in "biu":
        fault = "does not hold one whole number per picture"
        faults.append(Fault(f"{name}#{part}_labels", fault, "classes need exactly one", "classes"))
        return []
    return [str(value) for value in np.asarray(labels).reshape(-1).tolist()]
