"""The passport in plain words."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headwater.scans.concerns import intensity_scales, turned
from headwater.scans.examine import voxels

if TYPE_CHECKING:
    from headwater.scans.passport import Passport

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_KINDS = {  # kind of fault -> one, several
    "copy": ("duplicate", "duplicates"),
    "unreadable": ("unreadable", "unreadable"),
    "blank": ("blank", "blank"),
    "nan": ("with NaN or infinite voxels", "with NaN or infinite voxels"),
    "dimension": ("of another kind than the rest", "of another kind than the rest"),
    "mask": ("mask unusable", "masks unusable"),
    "unpaired": ("mask without a scan", "masks without a scan"),
    "missing": ("named but not there", "named but not there"),
    "escape": ("outside the folder: not read", "outside the folder: not read"),
    "unsupported": ("of a format that is not read", "of formats that are not read"),
    "localiser": ("localiser", "localisers"),
}


def sentences(passport: "Passport") -> list[str]:
    """Short lines: what is there, what it was taken for, what was set aside, spacing, intensity, axes, masks, the split."""
    lines = [_what(passport), _rule(passport), _set_aside(passport), _near(passport), _spacing(passport), _intensity(passport)]
    lines += [_grey(passport), _axes(passport), _masks(passport), _classes(passport), _split(passport)]
    lines += [_concern(concern) for concern in passport.concerns] + list(passport.notes)
    return [line for line in lines if line]


def counted(number: int) -> str:
    """Small numbers as words."""
    return _COUNTS[number] if number < len(_COUNTS) else f"{number:,}"


def millimetres(spacing: Sequence[float]) -> str:
    """A spacing in words: 1.0 x 1.0 x 2.5 mm."""
    return " x ".join(f"{s:.1f}" if abs(s - round(s, 1)) < 0.005 else f"{s:.3g}" for s in spacing) + " mm"


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _what(p: "Passport") -> str:
    kind = "volume" if p.ndim == 3 else "image"
    modalities = Counter(e.modality or "" for e in p.entries).most_common()
    if len(modalities) == 1 and modalities[0][0]:
        kind = f"{modalities[0][0]} {kind}"
    channels = f" of {p.channels} channels" if p.channels > 1 else ""
    if p.channels > 1 and p.channel_names:
        channels = f" of {p.channels} channels ({', '.join(p.channel_names[:6])})"
    kinds = Counter(e.facts.format for e in p.entries).most_common()
    formats = kinds[0][0] if len(kinds) == 1 else ", ".join(f"{n:,} {name}" for name, n in kinds)
    about = "" if len({e.shape for e in p.entries}) == 1 else "about "
    step = f"{millimetres(p.spacing)}, " if all(e.facts.spaced for e in p.entries) else ""
    what = f"{_plural(len(p.entries), kind)}{channels} ({formats}), {_plural(len(p.subjects), 'subject')}"
    known = [f"{n:,} {name}" for name, n in modalities if name]
    mixed = f"; {', '.join(known[:6])}" if len(modalities) > 1 else ""
    return f"{what}, {step}{about}{voxels(p.shape)} {'voxels' if p.ndim == 3 else 'pixels'}{mixed}"


def _rule(p: "Passport") -> str:
    return f"read as {p.rule}" if p.rule else ""


def _near(p: "Passport") -> str:
    pairs = p.duplicates.get("pairs", [])
    if not pairs:
        return ""
    one, other, likeness, how = pairs[0]
    return (
        f"{_plural(len(pairs), 'near duplicate')} kept: {one} and {other} are alike to {likeness:.3f}{f' ({how})' if how else ''}"
    )


def _concern(concern: dict) -> str:
    some = f" ({concern['files'][0]}{' ...' if len(concern['files']) > 1 else ''})" if concern["files"] else ""
    return f"look at this: {concern['text']}{some}"


def _classes(p: "Passport") -> str:
    groups = Counter(e.group for e in p.entries if e.group)
    if not groups:
        return ""
    said = ", ".join(f"{name} {n:,}" for name, n in groups.most_common(8))
    return f"{counted(len(groups))} classes: {said}{' ...' if len(groups) > 8 else ''}"


def _set_aside(p: "Passport") -> str:
    if not p.quarantine:
        return "every file could be read, none set aside"
    parts = []
    kinds = _KINDS | {f["kind"]: (f["kind"], f["kind"]) for f in p.quarantine if f["kind"] not in _KINDS}
    for kind, (one, several) in kinds.items():
        faults = [f for f in p.quarantine if f["kind"] == kind]
        if not faults:
            continue
        text = f"{len(faults):,} {one if len(faults) == 1 else several}"
        example = f"{'' if len(faults) == 1 else 'one is '}{faults[0]['file']}: it {faults[0]['fault']}"
        if kind == "unpaired":
            parts.append(f"{text} ({', '.join(f['file'] for f in faults[:3])}{' ...' if len(faults) > 3 else ''})")
        elif kind == "copy":
            parts.append(f"{text} (kept one of each)")
        elif kind == "mask":
            parts.append(f"{text} (scans kept without; {example})")
        else:
            parts.append(f"{text} (set aside; {example})")
    return " · ".join(parts)


def _spacing(p: "Passport") -> str:
    every = np.array([turned(e, p.orientation)[1] for e in p.entries])
    off = int((np.abs(every / np.array(p.spacing) - 1) > 0.01).any(axis=1).sum())
    if not off:
        return ""
    low, high = every.min(axis=0), every.max(axis=0)
    span = f"voxels run from {millimetres(low.tolist())} to {millimetres(high.tolist())}"
    return f"{span}: {off:,} of {len(p.entries):,} scans will be resampled to {millimetres(p.spacing)}"


def _intensity(p: "Passport") -> str:
    scales = intensity_scales([e.range for e in p.entries])
    if len(scales) > 1:
        many = ", ".join(f"{n:,}" for n in scales)
        return f"intensity comes in {counted(len(scales))} scales ({many} scans): normalised per scan"
    return "intensity normalised per scan"


def _grey(p: "Passport") -> str:
    """Grey pictures among coloured ones."""
    grey = sum(e.channels == 1 for e in p.entries)
    return f"{grey:,} of {len(p.entries):,} are grey: read as colour, with equal channels" if 0 < grey and p.channels == 3 else ""


def _axes(p: "Passport") -> str:
    ways = Counter(e.orientation for e in p.entries if e.orientation).most_common()
    if len(ways) < 2:
        return ""
    return f"scans are stored in {counted(len(ways))} orientations ({ways[0][0]}, {ways[1][0]} ...): turned to {p.orientation}"


def _masks(p: "Passport") -> str:
    labelled = [e for e in p.entries if e.mask is not None]
    if not labelled:
        return "" if p.masked or any(e.group for e in p.entries) else "no masks: pretraining only"
    subjects = len({e.subject for e in labelled})
    if p.instances:
        most = max(max(e.labels or {0: 0}) for e in labelled)
        whose = f"{subjects:,} of {_plural(len(p.subjects), 'subject')}"
        return f"masks for {whose} number single objects (up to {most:,}): taken as one structure"
    names = list(p.label_names.items())
    said = ", ".join(name for _, name in names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")
    short = [(name, sum(value not in e.labels for e in labelled)) for value, name in names]
    missing = "".join(f"; {name} missing in {n:,}" for name, n in short[:6] if n)
    whose = "every subject" if subjects == len(p.subjects) else f"{subjects:,} of {_plural(len(p.subjects), 'subject')}"
    return f"masks for {whose}: {said}{missing}"


def _split(p: "Passport") -> str:
    groups = {kind: {e.subject for e in p.entries if e.split == kind} for kind in ("train", "test")}
    if not groups["test"]:
        return ""
    chosen = {"named": "your list", "layout": "as the data set says"}.get(p.held_out, "drawn by subject")
    return f"{_plural(len(groups['train']), 'subject')} to learn from, {len(groups['test']):,} kept for testing ({chosen})"
