"""Which scans are kept, which are set aside, and who is kept for testing."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from headwater.errors import InputError
from headwater.scans.catalog import split
from headwater.scans.entry import Entry
from headwater.scans.scan import Fault


def channels(count: int) -> str:
    """In words."""
    return f"{count} channel{'s' if count > 1 else ''}"


def mixes_grey_and_colour(entries: Sequence[Entry]) -> bool:
    """Whether these are pictures of which some are grey and some coloured: grey ones are read as colour then."""
    return {e.channels for e in entries} == {1, 3} and all(len(e.shape) == 2 for e in entries)


def without_minority(entries: list[Entry]) -> tuple[list[Entry], list[Fault]]:
    """Only scans with the number of axes and channels that most have (of equal counts, the more axes)."""
    if mixes_grey_and_colour(entries):
        return entries, []
    kinds = Counter((len(e.shape), e.channels) for e in entries)
    most = max(kinds, key=lambda kind: (kinds[kind], kind))
    odd = [e for e in entries if (len(e.shape), e.channels) != most]
    usual = f"most have {most[0]} and {channels(most[1])}"
    said = {e.name: f"has {len(e.shape)} axes and {channels(e.channels)}, {usual}" for e in odd}
    faults = [Fault(name, text, "put it in a folder of its own", "dimension") for name, text in said.items()]
    return [e for e in entries if e.name not in said], faults


def without_copies(entries: list[Entry], named: Sequence[str]) -> tuple[list[Entry], list[Fault]]:
    """One of each set of exact copies: the one named for testing, else the one with a mask, else the first."""
    keep: dict[str, Entry] = {}
    wanted = set(named)
    for entry in sorted(entries, key=lambda e: (e.subject not in wanted, e.mask is None, e.name)):
        keep.setdefault(entry.sha256, entry)
    copies = [e for e in entries if keep[e.sha256] is not e]
    said = [Fault(e.name, f"is an exact copy of {keep[e.sha256].name}", "nothing to do", "copy") for e in copies]
    return [e for e in entries if keep[e.sha256] is e], said


def linked(entries: Sequence[Entry], pairs: Sequence[tuple[int, int]], copies: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Groups of subjects that share a scan, exactly (copies: pairs of subjects) or nearly (pairs: of entries)."""
    ties: dict[str, set[str]] = defaultdict(set)
    for one, other in [(entries[i].subject, entries[j].subject) for i, j in pairs] + list(copies):
        if one != other:
            ties[one].add(other)
            ties[other].add(one)
    groups, seen = [], set()
    for start in sorted(ties):
        if start in seen:
            continue
        group, waiting = set(), [start]
        while waiting:
            subject = waiting.pop()
            if subject not in group:
                group.add(subject)
                waiting += ties[subject]
        seen |= group
        groups.append(sorted(group))
    return groups


def with_split(
    entries: list[Entry], named: list[str] | None, seed: int, asked: bool, ties: list[list[str]], faults: Sequence[Fault]
) -> tuple[list[Entry], str]:
    """Each entry marked "train" or "test", by subject, and who chose: "named" (the user), "layout" or "drawn".

    asked: the user named the masks; then it is an error if none can be used, or those of one subject only.
    Raises InputError for that, and where there are too few subjects, or none to test on.
    """
    labelled = sorted({e.subject for e in entries if e.mask is not None})
    if asked:
        _require_masks(entries, labelled, faults)
    paired = len(labelled) > 1
    every = {e.subject for e in entries}
    told = {e.subject for e in entries if e.split == "test"}
    learned = {e.subject for e in entries if e.split == "train"}
    wanted = set(labelled) if paired else every
    if named is None and told & wanted and learned & wanted - told:
        return [replace(e, split="test" if e.subject in told else "train") for e in entries], "layout"
    test = set(split(sorted(wanted), named, seed, linked=ties)[1])
    where = "have a usable mask" if paired else "are usable"
    if named is not None and not test:
        raise InputError(f"None of the {len(named)} subjects kept for testing {where}; keep others for testing.")
    if named is not None and test >= wanted:
        raise InputError(f"All subjects that {where} are kept for testing; leave at least one to learn from.")
    test |= set(named or []) | (told - wanted if paired else set())
    test |= {other for group in ties if named is None and test & set(group) for other in group if other not in wanted}
    return [replace(e, split="test" if e.subject in test else "train") for e in entries], "drawn" if named is None else "named"


def _require_masks(entries: list[Entry], labelled: list[str], faults: Sequence[Fault]) -> None:
    if not labelled:
        fault = next((f for f in faults if f.kind == "mask"), faults[0])
        what = "Masks do not fit the scans" if fault.kind == "mask" else "No scan with a mask can be used"
        raise InputError(f"{what}: {fault}; {fault.remedy}.")
    if not any(value > 0 for e in entries for value in e.labels or {}):
        raise InputError("All masks are empty (every voxel is 0); give masks with structures numbered 1, 2, 3.")
    if len(labelled) < 2:
        raise InputError("Only one subject has a usable mask; give at least two, one to learn from and one to test on.")
