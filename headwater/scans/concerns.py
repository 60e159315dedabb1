"""What is odd about scans that are kept: geometry, intensity, labels, and who might be twice among them."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headwater.scans.entry import Entry

if TYPE_CHECKING:
    from headwater.scans.passport import Passport

_FAR = 6.0  # robust standard deviations from the middle, of the logarithm
_TWICE = 1.5  # and at least so many times larger or smaller
_CLIPPED = 0.05  # share of voxels at one end of the range
_SOME = 5  # names that are given


def orientation(entries: Sequence[Entry]) -> str:
    """The orientation most scans with a known one have; "" if none has."""
    known = Counter(e.orientation for e in entries if e.orientation and "?" not in e.orientation)
    return min(known, key=lambda way: (-known[way], way)) if known else ""


def turned(entry: Entry, way: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing of a scan along the axes of another orientation; its own where one of them is unknown."""
    if not way or len(way) != len(entry.orientation) or "?" in entry.orientation or entry.orientation == way:
        return entry.shape, entry.spacing
    kind = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
    own = [kind[axis] for axis in entry.orientation]
    if sorted(own) != sorted(kind[axis] for axis in way):
        return entry.shape, entry.spacing
    order = [own.index(kind[axis]) for axis in way]
    return tuple(entry.shape[i] for i in order), tuple(entry.spacing[i] for i in order)


def intensity_scales(ranges: Sequence[float]) -> list[int]:
    """Number of scans in each scale of intensity: one group unless the ranges differ by more than 100 times, else groups
    more than 3 times apart, rising. A group of less than a hundredth of the scans (or of one in many) is none of its own."""
    ordered = np.sort(np.array([r for r in ranges if r > 0]))
    if ordered.size < 2 or ordered[-1] <= 100 * ordered[0]:
        return [int(ordered.size)]
    starts = np.flatnonzero(ordered[1:] > 3 * ordered[:-1]) + 1
    counts = [len(part) for part in np.split(ordered, starts)]
    least = 1 if ordered.size < 20 else max(2, ordered.size // 100)
    return [n for n in counts if n >= least] or [int(ordered.size)]


def all_of(passport: "Passport", told: dict[int, str]) -> tuple[dict, ...]:
    """Every concern: kind, text, and the first few files it is about. told: label names that the layout states."""
    entries = passport.entries
    found = [
        *_outliers(entries, "size", [np.prod([n * s for n, s in zip(e.shape, e.spacing, strict=True)]) for e in entries]),
        *(_outliers(entries, "spacing", [max(e.spacing) for e in entries])
          or _outliers(entries, "spacing", [min(e.spacing) for e in entries])),
        *_unspaced(entries), *_notes(entries), *_blank(entries), *_clipped(entries), *_labels(passport, told),
        *_alone(passport), *_leaks(passport),
    ]  # fmt: skip
    unique = {(c["kind"], tuple(c["files"])): c for c in reversed(found)}
    return tuple(reversed(unique.values()))


def _concern(kind: str, text: str, entries: Sequence[Entry]) -> dict:
    return {"kind": kind, "text": text, "files": [e.name for e in entries[:_SOME]]}


def _scans(number: int) -> str:
    return f"{number:,} scan{'' if number == 1 else 's'}"


def _outliers(entries: Sequence[Entry], what: str, values: Sequence[float]) -> list[dict]:
    """Scans much larger or smaller than the middle one, by the median absolute deviation of the logarithm."""
    if len(entries) < 5:
        return []
    logs = np.log(np.maximum(np.array(values, dtype=float), 1e-9))
    middle = float(np.median(logs))
    spread = max(1.4826 * float(np.median(np.abs(logs - middle))), np.log(_TWICE) / _FAR)
    far = [e for e, away in zip(entries, np.abs(logs - middle), strict=True) if away > _FAR * spread]
    if not far or len(far) > max(1, len(entries) // 10):  # a tenth of the scans are a kind of their own
        return []
    ratio = float(np.exp(max(np.abs(logs - middle))))
    unit = "field of view" if what == "size" else "voxel size"
    return [_concern(what, f"{_scans(len(far))} with a {unit} far from the rest (up to {ratio:.3g} times)", far)]


def _unspaced(entries: Sequence[Entry]) -> list[dict]:
    bare = [e for e in entries if not e.facts.spaced]  # pictures hardly ever do
    if not bare or len(entries[0].shape) == 2:
        return []
    return [_concern("unspaced", f"{_scans(len(bare))} state no voxel size: taken as 1 mm", bare)]


def _notes(entries: Sequence[Entry]) -> list[dict]:
    """What the readers noticed, the same words together."""
    said: dict[str, list[Entry]] = {}
    for entry in entries:
        for note in entry.facts.notes:
            said.setdefault(note.split(" (")[0] if len(entries) > 20 else note, []).append(entry)
    return [_concern("reading", f"{_scans(len(who))}: {note}", who) for note, who in said.items()]


def _blank(entries: Sequence[Entry]) -> list[dict]:
    """Volumes with slices that hold one value, unless most have them (air around a head)."""
    some = [e for e in entries if e.facts.blank]
    if not some or len(some) > len(entries) // 2:
        return []
    return [_concern("blank slices", f"{_scans(len(some))} with blank slices (up to {max(e.facts.blank for e in some)})", some)]


def _clipped(entries: Sequence[Entry]) -> list[dict]:
    cut = [e for e in entries if e.facts.clipped > _CLIPPED and len(set(e.high) | set(e.low)) > 1 and e.facts.dtype != "bool"]
    if not cut:
        return []
    most = max(e.facts.clipped for e in cut)
    return [
        _concern(
            "clipped", f"{_scans(len(cut))} with a clipped range (up to {most:.0%} of the voxels have the highest value)", cut
        )
    ]


def _labels(passport: "Passport", told: dict[int, str]) -> list[dict]:
    """Values that hardly occur, that have no name where names are given, or that are a speck where they are large elsewhere."""
    masked = [e for e in passport.entries if e.labels is not None]
    if passport.instances:
        return []
    found = []
    for value in sorted({v for e in masked for v in e.labels or {}} - {0}):
        who = [e for e in masked if value in (e.labels or {})]
        voxels = [(e.labels or {})[value] for e in who]
        name = f"label {value}"
        if told and value not in told:
            found.append(_concern("stray label", f"{name} has no name in the data set's own list ({_scans(len(who))})", who))
        elif len(masked) >= 20 and len(who) < 0.05 * len(masked):
            found.append(_concern("rare label", f"{name} is in {_scans(len(who))} of {len(masked):,} with masks", who))
        middle = float(np.median(voxels))
        specks = [e for e, n in zip(who, voxels, strict=True) if n < 10 and 100 * n < middle]
        if specks:
            found.append(_concern("stray label", f"{name} is a speck of under 10 voxels in {_scans(len(specks))}", specks))
    empty = [e for e in masked if set(e.labels or {}) <= {0}]
    if empty:
        found.append(_concern("empty mask", f"{_scans(len(empty))} with an empty mask", empty))
    absent = [v for v in told if v and masked and not any(v in (e.labels or {}) for e in masked)]
    absent = [v for v in absent if v != passport.ignore]
    if absent:
        names = ", ".join(f"{v} ({told[v]})" for v in absent[:_SOME])
        found.append(_concern("absent label", f"no mask holds label {names}, which the data set names", []))
    return (
        found if len(found) <= 12 else [*found[:11], _concern("labels", f"and {len(found) - 11} more concerns about labels", [])]
    )


def instances(entries: Sequence[Entry], told: dict[int, str]) -> bool:
    """Whether the masks number single objects, not kinds of tissue: no names are given, most masks count from 1 without a gap,
    far, and to another number each."""
    numbers = [sorted(set(e.labels) - {0}) for e in entries if e.labels is not None and set(e.labels) - {0}]
    if told or not numbers or max(n[-1] for n in numbers) < 20:
        return False
    gapless = sum(n == list(range(1, len(n) + 1)) for n in numbers)
    return gapless > 0.9 * len(numbers) and (len(numbers) == 1 or len({len(n) for n in numbers}) > 1)


def _alone(passport: "Passport") -> list[dict]:
    """Masks that nobody can be tested on."""
    labelled = {e.subject for e in passport.entries if e.labels is not None}
    if len(labelled) != 1:
        return []
    text = "only one subject has a mask: there is nobody to test on, so adapting is left out"
    return [_concern("masks", text, [e for e in passport.entries if e.labels is not None])]


def _leaks(passport: "Passport") -> list[dict]:
    """Near duplicates under different subjects."""
    whose = {e.name: e for e in passport.entries}
    pairs = [(whose[one], whose[other]) for one, other, *_ in passport.duplicates.get("pairs", [])]
    across = [pair for pair in pairs if pair[0].subject != pair[1].subject]
    if not across:
        return []
    text = (
        f"{len(across):,} pair{'' if len(across) == 1 else 's'} of nearly equal scans under different subjects: kept on one side"
    )
    return [_concern("leakage", text, list({e.name: e for pair in across for e in pair}.values()))]
