"""Whose scans they are and who is kept for testing: subjects by name, lists of names, the split."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath

from headwater.errors import InputError
from headwater.streams import numpy_stream

_ENDING = re.compile(
    r"(?<=[^/])\.(nii|nii\.gz|hdr|hdr\.gz|img|img\.gz|mgz|mgh|mgh\.gz|png|jpe?g|bmp|webp|tiff?|np[yz]|mh[ad]|z?raw|raw\.gz"
    r"|nrrd|nhdr|dcm|dicom|ima)$",
    re.I,
)
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+)")
_PATIENT = re.compile(r"(patient|subject|subj|sub|pat|pt|person|case|mouse|rat|animal|volunteer|donor|p)[-_ ]?\d\w*$", re.I)
_KINDS = "t1w?|t1c|t1ce|t1gd|t1n|t2w?|t2f|t2s|t2star|flair|pdw?|dwi|adc|swi|asl|tof|mra|ct|cta|pet"
_SEQUENCE = re.compile(rf"[-_]({_KINDS})$", re.I)


def stem_of(path: PurePath | str) -> str:
    """The file's name without the ending of its format; other dots belong to the name (1.2.840.113)."""
    return without_ending(path.replace("\\", "/").rpartition("/")[2] if isinstance(path, str) else path.name)


def without_ending(name: str) -> str:
    """A name, folders kept, without the ending of an image format (.nii.gz, .png)."""
    return _ENDING.sub("", name)


def subject_of(path: PurePath | str) -> str:
    """Whose scan a file is, by its name alone: the BIDS part "sub-XX" of name or folders, else the stem less "_0000"."""
    path = PurePath(path)
    for text in (path.name, *reversed(path.parent.parts)):
        bids = _BIDS.match(text)
        if bids:
            return bids[1]
    return stem_of(path).removesuffix("_0000") or stem_of(path)


def subjects_of(paths: Sequence[PurePath]) -> dict[PurePath, str]:
    """Whose scan each file of one collection is; the collection settles what a single name leaves open.

    "sub-XX" in name or folder; else the nearest folder that is a patient's by its name (patient_07, LIDC-0012) or whose
    name its files begin with; else the name. A name that comes back in several folders makes the folder the subject if
    there are as many folders as names (patient1/t1, patient2/t1), else part of it (train/001, test/001).
    Names that differ only in a last word for the sequence, or in a folder named so, are one subject (a_t1, a_flair;
    t1/a, flair/a). A last part _0000 to _0009 is a channel (nnU-Net) if every file has one and there are several cases,
    else a case number.
    """
    stems = {path: stem_of(path) for path in paths}
    parents = {path: path.parent for path in paths}
    folders = set(parents.values())
    cut = {stem: re.sub(r"_000\d$", "", stem) for stem in stems.values()}
    channels = all(cut[stem] != stem for stem in stems.values()) and len(set(cut.values())) > 1
    often = {stem for stem, n in Counter(stems.values()).items() if n > 1}
    patients = len(folders) >= len(cut)
    numbered = len({folder for folder in folders if _numbered(folder.name)}) > 1
    cases = Counter((parents[path], _SEQUENCE.sub("", stem)) for path, stem in stems.items())
    owners = {folder: _owner(folder, numbered) for folder in folders}
    subjects = {}
    for path, stem in stems.items():
        parent, folder, case = parents[path], parents[path].name, _SEQUENCE.sub("", stem)
        bids = _BIDS.match(stem)
        if bids or owners[parent]:
            subjects[path] = bids[1] if bids else owners[parent]
        elif folder and stem.startswith(folder) and stem[len(folder) : len(folder) + 1] in ("-", "_", "."):
            subjects[path] = folder
        elif stem in often and re.fullmatch(_KINDS, folder, re.I):
            subjects[path] = stem
        elif stem in often:
            subjects[path] = folder if patients else f"{folder}/{stem}"
        elif cases[parent, case] > 1:
            subjects[path] = case
        else:
            subjects[path] = cut[stem] if channels else stem
    return subjects


def _owner(folder: PurePath, numbered: bool) -> str:
    """Whose everything in a folder is, by its name or those above it: sub-XX, else a patient's; "" if none says so."""
    bids = (_BIDS.match(part) for part in reversed(folder.parts))
    named = (part for part in reversed(folder.parts) if _PATIENT.match(part))
    own = next((match[1] for match in bids if match), "") or next(named, "")
    return own or (folder.name if numbered and _numbered(folder.name) else "")


def of_a_patient(folder: str) -> bool:
    """Whether a folder is named like a patient: patient_07, LIDC-0012."""
    return bool(_PATIENT.match(folder)) or _numbered(folder)


def _numbered(folder: str) -> bool:
    """Whether a folder's name holds a number like a patient's: three digits or more, not a year alone."""
    return bool(re.search(r"\d{3}", folder)) and not re.fullmatch(r"(19|20)\d\d", folder)


def read_held_out(file: Path | str) -> list[str]:
    """Names to keep for testing, one per line, folders kept, .nii.gz dropped; empty lines and what follows a # are left out.

    The # of a piece of a file has no space before it and stays (chest.npz#train_images/17).
    """
    file = Path(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as a list of names; give a text file with one name per line.") from error
    stated = (re.split(r"(?:^|\s)#", line)[0].strip() for line in lines)
    names = [without_ending(name) for name in stated if name]
    if not names:
        raise InputError(f"{file} has no name in it; write one subject or file name per line.")
    return list(dict.fromkeys(names))


def held_out_subjects(names: Sequence[str], subjects: dict[Path, str], root: Path, show: Callable[[str], str] = str) -> list[str]:
    """The subjects behind names kept for testing, sorted. subjects: of each scan (`subjects_of`), below the folder `root`.

    A name is a subject, else a path below `root` with or without .nii.gz, else its last part is a subject or the stem of
    a file, with or without "_0000". show: how a name may be written in an error.
    Raises InputError for a name nobody has, and for one that several subjects have.
    """
    tables = _name_tables(subjects, root)
    found = {str(name): _who(str(name), tables, root) for name in names}
    missing = [f"{show(name)} (no. {i})" for i, (name, who) in enumerate(found.items(), 1) if not who]
    if missing:
        like = show(next(iter(subjects.values())))
        raise InputError(f"No scan has the name kept for testing: {_some(missing)}; the scans are named like {like}.")
    for i, (name, who) in enumerate(found.items(), 1):
        if len(who) > 1:
            several = _some([show(one) for one in sorted(who)])
            raise InputError(f"The name {show(name)} (no. {i}) kept for testing fits several subjects: {several}; write which.")
    return sorted(set().union(*found.values()))


def _name_tables(subjects: dict[Path, str], root: Path) -> list[dict[str, set[str]]]:
    """Name -> subjects who have it: by subject, by path below root, by stem, by stem less "_0000"."""
    tables: list[dict[str, set[str]]] = [defaultdict(set) for _ in range(4)]
    for path, subject in subjects.items():
        place = path.relative_to(root).as_posix()
        keys = ([subject], [place, without_ending(place)], [stem_of(path)], [stem_of(path).removesuffix("_0000")])
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
            for key in (text, without_ending(text)):
                if key in table:
                    return table[key]
    return set()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def split(
    subjects: Iterable[str],
    held_out: Sequence[str] | None,
    seed: int,
    fraction: float = 0.2,
    linked: Sequence[Sequence[str]] = (),
) -> tuple[list[str], list[str]]:
    """Subjects to learn from and subjects to test on, both sorted; no subject is in both.

    held_out: the subjects to test on; without it a `fraction` is drawn, at least one and never all,
    which depends on the seed, the set of subjects and their links only.
    linked: groups of subjects that share scans (near-duplicates): each lands on one side, whole; groups that share a
    subject are one. A group with a named subject is tested on. If all subjects are one group nobody is drawn.
    """
    every = sorted(set(subjects))
    groups = _groups(every, linked)
    if held_out is not None:
        named = set(held_out)
        test = {s for group in groups if named & set(group) for s in group}
    else:
        order = numpy_stream(seed, "split").permutation(len(groups))
        test = _drawn([groups[i] for i in order], min(max(1, round(fraction * len(every))), len(every) - 1))
    return [s for s in every if s not in test], [s for s in every if s in test]


def _drawn(groups: list[list[str]], count: int) -> set[str]:
    """The first groups that fit into `count` subjects; a group too large is passed over, unless none fits."""
    test: set[str] = set()
    for group in groups:
        test |= set(group) if len(test) + len(group) <= count else set()
    return test or set(min(groups, key=len) if len(groups) > 1 else [])


def _groups(every: Sequence[str], linked: Sequence[Sequence[str]]) -> list[list[str]]:
    """Subjects joined by their links, in the order of each group's first subject."""
    group_of = {s: [s] for s in every}
    for link in linked:
        joined = sorted({s for member in link if member in group_of for s in group_of[member]})
        group_of |= dict.fromkeys(joined, joined)
    return [group_of[s] for s in every if group_of[s][0] == s]
