"""nnssl's pretrain_data.json: a collection of data sets of subjects of sessions of images."""

import posixpath
from collections.abc import Iterator, Mapping

from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.tree import Tree, load_json
from headwater.scans.scan import Fault, Source

NAME = "nnssl"
_FILE = "pretrain_data.json"


def recognise(tree: Tree) -> list[str]:
    """Files called pretrain_data.json."""
    return [posixpath.join(folder, _FILE) for folder in tree.places(_FILE)]


def is_collection(told: object) -> bool:
    """Whether a JSON value is such a collection."""
    return isinstance(told, dict) and isinstance(told.get("datasets"), dict)


def read(tree: Tree, listing: str, *, classes: bool = False) -> Catalog:
    """All images of the collection. An anatomy mask is the mask; masks of anonymised regions are only counted.

    A path's first part such as $nnssl_raw stands for the folder of the JSON file or the one above; nothing is looked up in
    the environment.
    """
    told, wrong = load_json(tree.path(listing))
    faults: list[Fault] = []
    items: dict[str, Item] = {}
    hidden = 0
    if not is_collection(told):
        faults.append(Fault(listing, wrong or "names no datasets", "write it again with nnssl", "layout"))
        told = {"datasets": {}}
    several = len(told["datasets"]) > 1
    for i, (names, image) in enumerate(_images(told["datasets"])):
        said = f"{listing}, image {i + 1}"
        source = _place(tree, listing, said, image.get("image_path"))
        if isinstance(source, Fault):
            faults.append(source)
            continue
        dataset, subject, session = names
        name = tree.name(source.path)
        if name in items:
            faults.append(Fault(name, "is listed twice", "take it off the list once", "row"))
            continue
        masks = image.get("associated_masks")
        masks = masks if isinstance(masks, dict) else {}
        hidden += bool(masks.get("anonymization_mask"))
        mask = _place(tree, listing, said, masks["anatomy_mask"]) if masks.get("anatomy_mask") else None
        faults += [mask] if isinstance(mask, Fault) else []
        items[name] = Item(
            name, source, f"{dataset}/{subject}" if several else subject, "" if session == "ses-DEFAULT" else session,
            mask if isinstance(mask, Source) else None, modality=str(image.get("modality") or ""),
        )  # fmt: skip
    notes = [f"{hidden:,} scans come with masks of anonymised regions: they are no labels"] if hidden else []
    labels = {1: "anatomy"} if any(item.mask for item in items.values()) else {}
    rule = f"nnssl: {_FILE} lists {len(told['datasets']):,} data set{'s' if several else ''} by subject and session"
    return Catalog(NAME, rule, tree.root, tuple(items.values()), tuple(faults), labels, (), tuple(notes))


def _images(datasets: Mapping) -> Iterator[tuple[tuple[str, str, str], Mapping]]:
    """Every image with the names of its data set, subject and session."""
    for dataset, content in datasets.items():
        for subject, sessions in _each(content, "subjects"):
            for session, images in _each(sessions, "sessions"):
                listed = images.get("images") if isinstance(images, dict) else None
                for image in listed if isinstance(listed, list) else ():
                    yield (str(dataset), str(subject), str(session)), image if isinstance(image, dict) else {}


def _each(content: object, key: str) -> Iterator[tuple[str, object]]:
    value = content.get(key) if isinstance(content, dict) else None
    yield from value.items() if isinstance(value, dict) else ()


def _place(tree: Tree, listing: str, said: str, text: object) -> Source | Fault:
    """The file behind a path; of several readings of its first part the first that leads to a file."""
    folder = posixpath.dirname(listing)
    if not isinstance(text, str) or not text.startswith("$"):
        return tree.find(text, folder, said)
    rest = text.replace("\\", "/").partition("/")[2]
    inner = rest.partition("/")[2] if folder == "" else ""  # $nnssl_raw/Dataset001_X/... with Dataset001_X given
    found = [tree.find(way, place, said) for way in (rest, inner) if way for place in (folder, posixpath.dirname(folder))]
    return next((one for one in found if isinstance(one, Source)), (found or [tree.find("", folder, said)])[0])
