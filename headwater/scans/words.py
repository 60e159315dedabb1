"""The passport in plain words, and the names of the structures."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
}


def sentences(passport: "Passport") -> list[str]:
    """Short lines: what is there, what was set aside, spacing, intensity, axes, masks, who is tested on."""
    lines = [_what(passport), _set_aside(passport), _spacing(passport), _intensity(passport), _axes(passport)]
    lines += [_masks(passport), _split(passport)]
    return [line for line in lines if line]


def label_names(folders: Sequence[Path]) -> dict[int, str]:
    """Names of the structures from the first dataset.json in the folders ({"1": "liver"} or {"liver": 1}), else nothing."""
    for folder in folders:
        try:
            labels = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(labels, dict):
            pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in labels.items()]
            return {int(value): str(name) for value, name in pairs if str(value).isdigit()}
    return {}


def intensity_scales(ranges: Sequence[float]) -> int:
    """Number of intensity scales: 1 unless the ranges differ by more than 100 times, else groups more than 3 times apart."""
    ordered = np.sort(np.array([r for r in ranges if r > 0]))
    if ordered.size < 2 or ordered[-1] <= 100 * ordered[0]:
        return 1
    return 1 + int((ordered[1:] > 3 * ordered[:-1]).sum())


def counted(number: int) -> str:
    """Small numbers as words."""
    return _COUNTS[number] if number < len(_COUNTS) else f"{number:,}"


def millimetres(spacing: Sequence[float]) -> str:
    """A spacing in words: 1.0 x 1.0 x 2.5 mm."""
    return " x ".join(f"{s:.1f}" if abs(s - round(s, 1)) < 0.005 else f"{s:.3g}" for s in spacing) + " mm"


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _what(p: "Passport") -> str:
    kind = _plural(len(p.entries), "volume" if p.ndim == 3 else "image")
    channels = f" of {p.channels} channels" if p.channels > 1 else ""
    about = "" if len({e.shape for e in p.entries}) == 1 else "about "
    where = f"{millimetres(p.spacing)}, {about}{voxels(p.shape)} voxels"
    return f"{kind}{channels} (NIfTI), {_plural(len(p.subjects), 'subject')}, {where}"


def _set_aside(p: "Passport") -> str:
    if not p.quarantine:
        return "every file could be read, none set aside"
    parts = []
    for kind, (one, several) in _KINDS.items():
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
    every = np.array([e.spacing for e in p.entries])
    off = int((np.abs(every / np.array(p.spacing) - 1) > 0.01).any(axis=1).sum())
    if not off:
        return ""
    low, high = every.min(axis=0), every.max(axis=0)
    span = f"voxels run from {millimetres(low.tolist())} to {millimetres(high.tolist())}"
    return f"{span}: {off:,} of {len(p.entries):,} scans resampled to {millimetres(p.spacing)}"


def _intensity(p: "Passport") -> str:
    scales = intensity_scales([e.range for e in p.entries])
    return f"intensity comes in {counted(scales)} scales: normalised per scan" if scales > 1 else "intensity normalised per scan"


def _axes(p: "Passport") -> str:
    ways = Counter(e.orientation for e in p.entries).most_common()
    if len(ways) < 2:
        return ""
    return f"scans are stored in {counted(len(ways))} directions (mostly {ways[0][0]}, also {ways[1][0]}): not turned"


def _masks(p: "Passport") -> str:
    labelled = [e for e in p.entries if e.mask is not None]
    if not labelled:
        return "no masks: pretraining only" if p.labels_root is None else ""
    subjects = len({e.subject for e in labelled})
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
    chosen = "your list" if p.held_out == "named" else "drawn by subject"
    return f"{_plural(len(groups['train']), 'subject')} to learn from, {len(groups['test']):,} kept for testing ({chosen})"
