"""Any folder of images, nested or flat: masks by their folders and names, subjects by folders and names."""

import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath

from headwater.scans.catalog import stem_of, subjects_of
from headwater.scans.formats import arrays
from headwater.scans.layouts import dicoms, others
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.pairing import beside, in_mask_folder, is_mask_word, pair, shortest
from headwater.scans.layouts.tree import Tree
from headwater.scans.scan import Fault, Source, UnreadableError

NAME = "plain folder"
_IMAGE_KEY = re.compile(r"(image|img|scan|volume|vol|data|x|arr_0)s?$", re.I)
_MASK_KEY = re.compile(r"(label|mask|seg|segmentation|gt|y)s?$", re.I)
_SECOND = ("is one more mask of a scan that has one", "keep the one that counts, or say with --labels where it is")
_ALONE = ("has no scan", "name it as its scan is named")


def recognise(tree: Tree) -> list[str]:
    """Every folder."""
    return [""]


def read(tree: Tree, folder: str = "", *, classes: bool = False) -> Catalog:
    """Every image that is no mask, with its mask where names leave no doubt."""
    series = set(dicoms.files(tree))
    paths = [PurePosixPath(name) for name in tree.images if name not in series]
    scans, masks, pairs, how = divide(paths)
    items, faults = [], []
    for path, subject in subjects_of(scans).items():
        mask = tree.one(str(pairs[path])) if path in pairs else None
        made = _archive(tree, str(path), subject, faults) if path.suffix.lower() == ".npz" else None
        items += made if made is not None else [Item(str(path), tree.one(str(path)), subject, _session(path), mask)]
    faults += [Fault(str(mask), *(_SECOND if owned else _ALONE), "unpaired") for mask, owned in masks.items()]
    notes = _kinds_of_mask(pairs)
    if series:
        more, wrong, said = dicoms.scans(tree, sorted(series))
        items, faults, notes = items + more, faults + wrong, notes + said
    rule = f"plain folder: no marker of another layout is here; {how if pairs or masks else 'no file is named like a mask'}"
    if series:
        rule += "; DICOM files are put together by series"
    items.sort(key=lambda item: item.name)
    return Catalog(NAME, rule, tree.root, tuple(items), tuple(faults + others.foreign(tree)), notes=tuple(notes))


def divide(
    paths: list[PurePosixPath],
) -> tuple[list[PurePosixPath], dict[PurePosixPath, bool], dict[PurePosixPath, PurePosixPath], str]:
    """Scans; masks that are not used (True: its scan has another one); scan -> mask; and how masks were known."""
    apart = [path for path in paths if in_mask_folder(path)]
    if len(apart) == len(paths):
        apart = []
    rest = sorted(set(paths) - set(apart))
    near = beside(rest)
    scans = [path for path in rest if path not in near]
    pairs = pair(scans, apart) if apart else {}
    own_masks = defaultdict(list)
    for mask, kin in near.items():
        for scan in kin:
            own_masks[scan].append(mask)
    for scan, own in own_masks.items():
        closest = min(len(near[mask]) for mask in own)  # named after this scan before named after its kin
        if scan not in pairs:
            pairs[scan] = shortest(mask for mask in own if len(near[mask]) == closest)
    used, taken = set(pairs.values()), set(pairs)
    rivals = pair(scans, [mask for mask in apart if mask not in used]) if apart else {}
    second = {mask for mask, kin in near.items() if taken & set(kin)} | set(rivals.values())
    ways = [
        text for some, text in ((apart, "folders named for masks hold the masks"), (near, "masks lie beside their scans")) if some
    ]
    left = {mask: mask in second for mask in sorted({*apart, *near} - used)}
    return scans, left, pairs, " and ".join(ways) + ", paired by name"


def _session(path: PurePosixPath) -> str:
    found = re.search(r"(?:^|[/_])ses-([A-Za-z0-9]+)", str(path))
    return found[1] if found else ""


def _kinds_of_mask(pairs: dict[PurePosixPath, PurePosixPath]) -> list[str]:
    """A note where masks beside their scans have unlike last words, and so may mean different things.

    Only words for mask are said: others might be names of people.
    """
    ends = [stem_of(mask)[len(stem_of(scan)) :] for scan, mask in pairs.items() if stem_of(mask).startswith(stem_of(scan))]
    if len(set(ends) - {""}) < 2:
        return []
    kinds = Counter(re.sub(r"[^-_. ]+", lambda word: word[0] if is_mask_word(word[0]) else "*", end) for end in ends if end)
    said = ", ".join(f"{kind} ({n:,})" for kind, n in sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))[:5])
    return [f"masks end differently: {said}; their values may not mean the same"]


def _archive(tree: Tree, name: str, subject: str, faults: list[Fault]) -> list[Item] | None:
    """An .npz file as one scan with its mask; None where it is one array and nothing needs saying."""
    try:
        held = arrays.parts(tree.path(name))
    except UnreadableError:
        return None  # reading it will say why
    if len(held) == 1:
        return None
    images, masks = ([key for key in held if known.match(key)] for known in (_IMAGE_KEY, _MASK_KEY))
    if len(images) != 1 or len(masks) > 1:
        if "train_images" in held:
            faults.append(Fault(name, "is a MedMNIST file among other images", "give the file itself to use it", "parts"))
            return []
        fault = f"holds {len(held)} arrays, {'none of them' if not images else 'not just one'} called image"
        faults.append(Fault(name, fault, "save one scan per file, as image and mask", "parts"))
        return []
    path = tree.path(name)
    mask = Source((path,), masks[0]) if masks else None
    return [Item(f"{name}#{images[0]}", Source((path,), images[0]), subject, _session(PurePosixPath(name)), mask)]
