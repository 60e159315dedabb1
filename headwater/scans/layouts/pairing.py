"""Which mask belongs to which scan, by their names alone."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath

from headwater.scans.catalog import stem_of, subjects_of

_MASK = (
    r"([a-z0-9]*seg|segmentations?|segmented|[a-z]*masks?|labels?|labell?ed|labelmaps?|gt|annotations?|rois?|contours?|manual)"
)
_MASK_WORD = re.compile(rf"{_MASK}$", re.I)
_LAST_WORD = re.compile(rf"[-_. ]({_MASK}|image|img|im|scan|volume|vol)$", re.I)
_MASK_FOLDER = r"(labels?(tr|ts)?|masks?|seg|segmentations?|annotations?|gt|ground[-_ ]?truths?)"
_MASKS = re.compile(rf"{_MASK_FOLDER}$", re.I)
_ROLE_FOLDER = re.compile(rf"({_MASK_FOLDER}|images?(tr|ts)?|imgs?|scans?|volumes?)$", re.I)


def _plain_name(path: PurePath) -> str:
    """A name that scan and mask share: without channel and without last words for mask or image."""
    name, before = stem_of(path), ""
    while name != before:
        before, name = name, _LAST_WORD.sub("", name)
    return name.removesuffix("_0000")


def pair(scans: Sequence[PurePath], masks: Sequence[PurePath]) -> dict[PurePath, PurePath]:
    """Mask of each scan that has one: same file name, else same name less "_seg", "_mask", "_image", "_0000", else same subject.

    Where several files share a name, those in folders of the same name belong together (words such as images and masks
    left out). Of several masks in one folder the one with the shortest name counts. Same subject counts only if the
    subject has one scan. What stays ambiguous stays unpaired.
    """
    whose_scan, whose_mask = subjects_of(scans), subjects_of(masks)
    pairs: dict[PurePath, PurePath] = {}
    for key in (stem_of, _plain_name, lambda path: whose_mask.get(path) or whose_scan[path]):
        _pair_by(key, scans, masks, pairs)
    taken = Counter(whose_scan.values())  # nnU-Net: one mask for all channels of a case
    by_name = {stem_of(mask): mask for mask in masks}
    for scan in scans:
        if scan not in pairs and taken[whose_scan[scan]] > 1 and whose_scan[scan] in by_name:
            pairs[scan] = by_name[whose_scan[scan]]
    return pairs


def _pair_by(key: Callable, scans: Sequence[PurePath], masks: Sequence[PurePath], pairs: dict[PurePath, PurePath]) -> None:
    """Adds the pairs whose two keys are equal."""
    by_key, rivals = defaultdict(list), Counter(key(scan) for scan in scans)
    for mask in masks:
        by_key[key(mask)].append(mask)
    for scan in scans:
        fits = by_key.get(key(scan), [])
        if scan in pairs or not fits:
            continue
        if rivals[key(scan)] > 1 or len(fits) > 1:
            near = [_shared_folders(scan, mask) for mask in fits]
            if max(near) > 0:
                fits = [mask for mask, n in zip(fits, near, strict=True) if n == max(near)]
            elif rivals[key(scan)] > 1:
                continue
        if len({mask.parent for mask in fits}) == 1:
            pairs[scan] = shortest(fits)


def _shared_folders(one: PurePath, other: PurePath) -> int:
    """How many of the last folders of two files have the same names; images, labels and the like left out."""
    parts = [[part for part in reversed(path.parent.parts) if not _ROLE_FOLDER.match(part)] for path in (one, other)]
    count = 0
    for a, b in zip(*parts, strict=False):
        if a != b:
            break
        count += 1
    return count


def shortest(paths: Iterable[PurePath]) -> PurePath:
    """The path with the shortest file name; of equal lengths the first by the alphabet."""
    return min(paths, key=lambda path: (len(path.name), str(path)))


def is_mask_word(word: str) -> bool:
    """Whether a word says that a file is a mask: seg, dseg, mask, labels, manual."""
    return bool(_MASK_WORD.match(word))


def in_mask_folder(path: PurePath) -> bool:
    """Whether a folder on the way to a file is named like one of masks (labels, masks, labelsTr)."""
    return any(_MASKS.match(part) for part in path.parts[:-1])


def for_a_role(folder: str) -> bool:
    """Whether a folder is named for what its files are (images, labels), not for whose or which they are."""
    return bool(_ROLE_FOLDER.match(folder))


def beside(paths: Sequence[PurePath]) -> dict[PurePath, list[PurePath]]:
    """Masks that lie beside their scans, known by name, each with the scans that it may belong to, closest kin first.

    Their name is that of another file and more words, one of them for mask (t1_seg-manual beside t1); or it ends on such
    a word and begins as others do (a_seg beside a_t1 and a_t2); or it is such a word (mask beside scan, in a folder of at
    most eight scans).
    """
    by_folder: dict[PurePath, dict[str, PurePath]] = defaultdict(dict)
    for path in paths:
        by_folder[path.parent][stem_of(path)] = path
    found: dict[PurePath, list[PurePath]] = {}
    for stems in by_folder.values():
        starts = {stem: _starts(stem) for stem in sorted(stems, key=lambda stem: (len(stem), stem))}
        plain = [stem for stem in stems if not starts[stem][0]]
        families: dict[str, list[str]] = defaultdict(list)
        for stem in plain:
            for cut in re.finditer(r"[-_. ]", stem):
                families[stem[: cut.start()]].append(stem)
        masks: dict[str, list[str]] = {}
        for stem, (bases, family) in starts.items():
            own = [base for base in bases if base in stems and base not in masks][:1]
            kin = families.get(family, []) if family else []
            alone = _MASK_WORD.fullmatch(stem) and plain
            if own or kin or alone:
                masks[stem] = own or kin or (plain if len(plain) <= 8 else [])
        found |= {stems[mask]: [stems[scan] for scan in scans] for mask, scans in masks.items()}
    return found


def _starts(stem: str) -> tuple[list[str], str]:
    """What the scan of a mask may be called, longest first, and what the names of its kin begin with; ([], "") for a scan.

    A mask has a word for mask in its name; its scan's name is what stands before any word up to the last such one. It has
    kin if its name ends on words for mask.
    """
    cuts = [0] + [m.start() for m in re.finditer(r"[-_. ]", stem)]
    words = [stem[a:b].lstrip("-_. ") for a, b in zip(cuts, [*cuts[1:], len(stem)], strict=True)]
    known = [bool(_MASK_WORD.fullmatch(word)) for word in words]
    if not any(known):
        return [], ""
    last = run = max(i for i, is_mask in enumerate(known) if is_mask)
    while run > 0 and known[run - 1]:
        run -= 1
    return [stem[:cut] for cut in reversed(cuts[: last + 1])], stem[: cuts[run]] if last == len(words) - 1 else ""
