"""Which files belong together: scans, their masks, their subjects, and who is kept for testing."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from headwater.errors import InputError
from headwater.streams import numpy_stream

_MASK_WORDS = re.compile(r"[-_](seg|segmentation|mask|label|labels|gt|dseg|manual)$", re.IGNORECASE)


def stem_of(path: Path | str) -> str:
    """The file's name without .nii or .nii.gz; other dots belong to the name (1.2.840.113)."""
    return _without_ending(Path(path).name)


def _without_ending(name: str) -> str:
    """A name, folders kept, without .nii or .nii.gz."""
    return re.sub(r"(?<=[^/])\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)


def find(folder: Path | str) -> list[Path]:
    """All NIfTI files below a folder, sorted; hidden ones (a name that starts with a dot, "._" included) are left out.

    Raises InputError if the folder is missing, is a file, or has no NIfTI file in it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist; check the path.")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder that holds the scans.")
    seen: Counter[str] = Counter()
    found = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        seen[path.suffix.lower() or "no ending"] += 1
        if path.name.lower().endswith((".nii", ".nii.gz")):
            found.append(path)
    if not found:
        others = ", ".join(f"{n} x {suffix}" for suffix, n in seen.most_common(3))
        holds = f"has no NIfTI file (it has {others})" if others else "is empty"
        raise InputError(f"{folder} {holds}; put .nii or .nii.gz files there (for DICOM, dcm2niix makes them).")
    return found


def subject_of(path: Path | str) -> str:
    """Whose scan a file is, by its name alone: the BIDS part "sub-XX" of name or folders, else the stem less "_0000"."""
    path = Path(path)
    for text in (path.name, *reversed(path.parent.parts)):
        bids = re.match(r"(sub-[A-Za-z0-9]+)", text)
        if bids:
            return bids[1]
    return stem_of(path).removesuffix("_0000") or stem_of(path)


def subjects_of(paths: Sequence[Path]) -> dict[Path, str]:
    """Whose scan each file of one collection is; the collection settles what a single name leaves open.

    A last part _0000 to _0009 is a channel (nnU-Net) if every file has one and there are several cases, else a case number.
    A name that comes back in several folders makes the folder the subject if there are as many folders as names
    (patient1/t1, patient2/t1), else part of it (train/001, test/001).
    """
    stems = {path: stem_of(path) for path in paths}
    cut = {path: re.sub(r"_000\d$", "", stem) for path, stem in stems.items()}
    channels = all(cut[p] != stems[p] for p in paths) and len(set(cut.values())) > 1
    often = {stem for stem, n in Counter(stems.values()).items() if n > 1}
    patients = len({path.parent for path in paths}) >= len(set(stems.values()))
    subjects = {}
    for path in paths:
        if subject_of(path).startswith("sub-"):
            subjects[path] = subject_of(path)
        elif stems[path] in often:
            subjects[path] = path.parent.name if patients else f"{path.parent.name}/{stems[path]}"
        else:
            subjects[path] = cut[path] if channels else stems[path]
    return subjects


def _plain_name(path: Path) -> str:
    """A name that scan and mask share: without channel and without words for mask."""
    name, before = stem_of(path), ""
    while name != before:
        before, name = name, _MASK_WORDS.sub("", name)
    return name.removesuffix("_0000")


def pair(scans: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    """Mask of each scan that has one: same file name, else same name less "_seg", "_mask", "_0000", else same subject.

    Where several files share a name, those in folders of the same name belong together. Same subject counts only
    if the subject has one scan and one mask. What stays ambiguous stays unpaired.
    """
    whose_scan, whose_mask = subjects_of(scans), subjects_of(masks)
    pairs: dict[Path, Path] = {}
    for key in (stem_of, _plain_name, lambda path: whose_mask.get(path) or whose_scan[path]):
        by_key, rivals = defaultdict(list), Counter(key(scan) for scan in scans)
        for mask in masks:
            by_key[key(mask)].append(mask)
        for scan in scans:
            fits = by_key.get(key(scan), [])
            if rivals[key(scan)] > 1 or len(fits) > 1:
                fits = [mask for mask in fits if mask.parent.name == scan.parent.name]
            if scan not in pairs and len(fits) == 1:
                pairs[scan] = fits[0]
    taken = Counter(whose_scan.values())  # nnU-Net: one mask for all channels of a case
    by_name = {stem_of(mask): mask for mask in masks}
    for scan in scans:
        if scan not in pairs and taken[whose_scan[scan]] > 1 and whose_scan[scan] in by_name:
            pairs[scan] = by_name[whose_scan[scan]]
    return pairs


def look_for_masks(root: Path, labels_root: Path | None) -> tuple[list[Path], list[Path]]:
    """Scans and masks below their folders, which may be the same or lie in each other.

    In one common folder a mask is known by its name: that of another file and a word for mask ("t1_seg" beside "t1").
    """
    scans = find(root)
    if labels_root is None:
        return scans, []
    masks = find(labels_root)
    if root == labels_root:
        stems = {stem_of(path) for path in scans}
        starts = {path: [m.start() for m in re.finditer(r"[-_][^-_]*(seg|mask|label|gt)", stem_of(path))] for path in masks}
        masks = [path for path in masks if any(stem_of(path)[:start] in stems for start in starts[path])]
    elif labels_root in root.parents:
        masks = [path for path in masks if root not in path.parents]
    taken = set(masks)
    return [path for path in scans if path not in taken], masks


def read_held_out(file: Path | str) -> list[str]:
    """Names to keep for testing, one per line, folders kept, .nii.gz dropped; empty lines and lines after # are left out."""
    file = Path(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as a list of names; give a text file with one name per line.") from error
    names = [_without_ending(line.split("#")[0].strip()) for line in lines if line.split("#")[0].strip()]
    if not names:
        raise InputError(f"{file} has no name in it; write one subject or file name per line.")
    return list(dict.fromkeys(names))


def held_out_subjects(names: Sequence[str], subjects: dict[Path, str], root: Path) -> list[str]:
    """The subjects behind names kept for testing, sorted. subjects: of each scan (`subjects_of`), below the folder `root`.

    A name is a subject, else a path below `root` with or without .nii.gz, else its last part is a subject or the stem of
    a file, with or without "_0000". Raises InputError for a name nobody has, and for one that several subjects have.
    """
    tables = _name_tables(subjects, root)
    found = {str(name): _who(str(name), tables, root) for name in names}
    missing = [name for name, who in found.items() if not who]
    if missing:
        like = next(iter(subjects.values()))
        raise InputError(f"No scan has the name kept for testing: {_some(missing)}; the scans are named like {like}.")
    for name, who in found.items():
        if len(who) > 1:
            raise InputError(f"The name {name} kept for testing fits several subjects: {_some(sorted(who))}; write which.")
    return sorted(set().union(*found.values()))


def _name_tables(subjects: dict[Path, str], root: Path) -> list[dict[str, set[str]]]:
    """Name -> subjects who have it: by subject, by path below root, by stem, by stem less "_0000"."""
    tables: list[dict[str, set[str]]] = [defaultdict(set) for _ in range(4)]
    for path, subject in subjects.items():
        place = path.relative_to(root).as_posix()
        keys = ([subject], [place, _without_ending(place)], [stem_of(path)], [stem_of(path).removesuffix("_0000")])
        for table, known in zip(tables, keys, strict=True):
            for key in known:
                table[key].add(subject)
    return tables


def _who(name: str, tables: list[dict[str, set[str]]], root: Path) -> set[str]:
    """The subjects that a name may mean; the whole name counts before its last part."""
    whole = PurePosixPath(name.replace("\\", "/").removeprefix(f"{root.as_posix()}/"))
    by_subject, by_place, *by_stem = tables
    for text, places in ((whole.as_posix(), (by_subject, by_place)), (whole.name, (by_subject, *by_stem))):
        for table in places:
            for key in (text, _without_ending(text)):
                if key in table:
                    return table[key]
    return set()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def split(
    subjects: Iterable[str], held_out: Sequence[str] | None, seed: int, fraction: float = 0.2
) -> tuple[list[str], list[str]]:
    """Subjects to learn from and subjects to test on, both sorted; no subject is in both.

    held_out: the subjects to test on; without it a `fraction` is drawn, at least one and never all,
    which depends on the seed and the set of subjects only.
    """
    every = sorted(set(subjects))
    if held_out is not None:
        test = set(held_out)
    else:
        count = min(max(1, round(fraction * len(every))), len(every) - 1)
        order = numpy_stream(seed, "split").permutation(len(every))
        test = {every[i] for i in order[:count]}
    return [s for s in every if s not in test], [s for s in every if s in test]
