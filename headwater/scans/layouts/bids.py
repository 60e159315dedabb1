"""BIDS: sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz, masks below derivatives."""

import csv
import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from headwater.scans.catalog import stem_of
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.tree import Tree
from headwater.scans.scan import Fault

NAME = "BIDS"
_KINDS = "anat|func|dwi|perf|pet|ct|mr|us|micr"
_RAW = re.compile(rf"sub-([A-Za-z0-9]+)/(?:ses-([A-Za-z0-9]+)/)?({_KINDS})/(sub-[^/]+)$")
_MASK = re.compile(r"(dseg|mask|seg|roi|lesion|label|labels|gt)$|(seg|mask|label|lesion)-[^_]+$")
_SUFFIXES = frozenset(  # of the standard; another one might be somebody's name and is not shown
    "T1w T2w FLAIR PDw PDT2 T2starw T2star T1rho T1map T2map T2starmap R1map R2map PDmap inplaneT1 inplaneT2 angio SWI UNIT1"
    " MP2RAGE MPRAGE MEGRE MESE VFA IRT1 MTS MTR MTRmap MTsat Chimap bold cbv phase sbref dwi ADC FA trace asl m0scan"
    " pet ct CT mr us SPIM BF DF PC DIC FLUO CONF PLI CARS 2PE MPE SR NLO OCT TEM SEM uCT XPCT".split()
)
_DESCRIBED = frozenset("manual auto automatic brain lesion tumor tumour tissue aseg aparcaseg preproc raw corrected".split())
_OWN_GRID = ("orig", "individual", "native", "scanner", "T1w", "T2w", "FLAIR", "")
_ORDER = ("T1w", "T2w", "FLAIR", "T2starw", "PDw", "T1map", "bold", "dwi")  # whose masks are meant where a name does not say


@dataclass(frozen=True)
class _Name:
    """A file name taken apart: key-value pairs, and the words that have no key, the last of them the suffix."""

    name: str
    pairs: dict[str, str]
    words: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> "_Name":
        """sub-01_run-2_T1w.nii.gz -> {sub: 01, run: 2}, (T1w,)"""
        parts = stem_of(name).split("_")
        return cls(name, dict(p.split("-", 1) for p in parts if "-" in p), tuple(p for p in parts if "-" not in p))


def recognise(tree: Tree) -> list[str]:
    """Folders with sub-XX/anat (or func, dwi, ...), a session between them or not, that hold files sub-XX_..."""
    found = set()
    for name in tree.images:
        match = re.match(rf"((?:[^/]+/){{0,2}}?)(?={_RAW.pattern})", name)
        if match and not re.search(r"(^|/)(derivatives|sourcedata|rawdata_old|sub-[^/]+)/", match[1]):
            found.add(match[1].rstrip("/"))
    return sorted(found)


def read(tree: Tree, folder: str, *, classes: bool = False) -> Catalog:
    """Every raw image as a scan of its subject, with its mask from derivatives or beside it."""
    items: list[Item] = []
    masks: list[_Name] = []
    left = 0
    start = len(folder) + 1 if folder else 0
    for name in tree.below(folder, tree.images):
        place, parsed = name[start:], _Name.of(name)
        derived = not (match := _RAW.match(place))
        if _MASK.search(stem_of(name)) and "sub" in parsed.pairs and not place.startswith("sourcedata/"):
            masks.append(parsed)
        elif derived or not parsed.words:
            left += 1
        else:
            items.append(Item(name, tree.one(name), f"sub-{match[1]}", match[2] or "", modality=_suffix(parsed)))
    pairs, notes, faults = _pair(items, masks)
    items = [replace(item, mask=tree.one(pairs[item.name]) if item.name in pairs else None) for item in items]
    if left:
        notes.append(f"{left:,} images are neither raw scans nor masks (derivatives, source data, field maps): not read")
    notes += _participants(tree, folder, {item.subject for item in items})
    labels = _label_names(tree, folder) if pairs else {}
    several = sorted({item.modality for item in items})
    rule = f"BIDS: folders sub-* hold {', '.join(name or 'other images' for name in several[:6])}"
    return Catalog(NAME, rule, tree.root, tuple(items), tuple(faults), labels, (), tuple(notes))


def _suffix(name: _Name) -> str:
    """The last word of a name, if the standard has it."""
    return name.words[-1] if name.words[-1] in _SUFFIXES else ""


def _shown(variant: str) -> str:
    """A kind of mask as it may be said: what desc- holds is free text."""
    return re.sub(r"desc-([^_]+)", lambda found: found[0] if found[1] in _DESCRIBED else "desc-*", variant)


def _pair(items: list[Item], masks: list[_Name]) -> tuple[dict[str, str], list[str], list[Fault]]:
    """Scan -> mask. For all scans of a modality one kind of mask (desc-manual_dseg) is taken, so that values mean the same."""
    notes = []
    own = [mask for mask in masks if mask.pairs.get("space", "") in _OWN_GRID]
    if len(own) < len(masks):
        notes.append(f"{len(masks) - len(own):,} masks lie in the space of a template: not used")
    by_visit: dict[tuple[str, str], list[tuple[Item, _Name]]] = defaultdict(list)
    for item in items:
        by_visit[item.subject, item.session].append((item, _Name.of(item.name)))
    fits: dict[str, dict[str, dict[str, list[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    faults = []
    for mask in own:
        scans = _scans_of(mask, by_visit[f"sub-{mask.pairs['sub']}", mask.pairs.get("ses", "")])
        for item in scans:
            fits[item.modality][_variant(mask, item.modality)][item.name].append(mask.name)
        if not scans:
            faults.append(Fault(mask.name, "has no scan", "name it as its scan is named", "unpaired"))
    pairs: dict[str, str] = {}
    for modality, variants in fits.items():
        best = min(variants, key=lambda v: (_rank(v), -len(variants[v]), len(v), v))
        pairs |= {scan: min(names, key=lambda n: (len(n), n)) for scan, names in variants[best].items()}
        others = sorted(v for v in variants if v != best)
        if others:
            left = ", ".join(dict.fromkeys(map(_shown, others[:4]))) + (" and others" if len(others) > 4 else "")
            taken = f"{_shown(best)} is taken ({len(variants[best]):,} scans)"
            notes.append(f"{modality or 'images'}: of several kinds of mask {taken}; left are {left}")
    return pairs, notes, faults


def _scans_of(mask: _Name, visit: list[tuple[Item, _Name]]) -> list[Item]:
    """Scans of the same visit that a mask fits: every key both have is equal, the modality too if the mask names one."""
    keys = ("task", "acq", "run", "ce", "rec", "dir", "echo", "sample")
    named = [word for word in (*mask.words, mask.pairs.get("space", "")) if word in _SUFFIXES]
    near = []
    for item, scan in visit:
        same = all(mask.pairs[key] == scan.pairs.get(key) for key in keys if key in mask.pairs)
        if same and item.modality == (named or [item.modality])[0]:
            lacks = sum(key not in mask.pairs for key in keys if key in scan.pairs)
            order = _ORDER.index(item.modality) if item.modality in _ORDER else len(_ORDER)
            near.append(((order, lacks), item))
    best = min((rank for rank, _ in near), default=None)
    return [item for rank, item in near if rank == best]


def _variant(mask: _Name, modality: str) -> str:
    """What kind of mask a name tells: all but whose it is and of which scan."""
    kept = [
        f"{key}-{value}"
        for key, value in mask.pairs.items()
        if key in ("space", "res", "den", "desc", "label", "seg", "atlas", "lesion", "mask")
    ]
    return "_".join([*kept, *(word for word in mask.words if word != modality)])


def _rank(variant: str) -> tuple[int, int]:
    """By hand before others, several structures (dseg) before one (mask)."""
    return ("manual" not in variant, not variant.endswith(("dseg", "seg")))


def _participants(tree: Tree, folder: str, subjects: set[str]) -> list[str]:
    """How many participants have no scan. Of participants.tsv only the column participant_id is looked at."""
    name = posixpath.join(folder, "participants.tsv")
    if name not in tree:
        return []
    try:
        with open(tree.path(name), encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t")
            column = next(rows, []).index("participant_id")
            listed = {row[column].strip() for row in rows if len(row) > column and row[column].strip()}
    except (OSError, ValueError, csv.Error):
        return ["participants.tsv cannot be read as a table with a column participant_id: subjects come from the folders"]
    listed = {name if name.startswith("sub-") else f"sub-{name}" for name in listed}
    notes = [f"participants.tsv lists {len(listed - subjects):,} without a scan"] if listed - subjects else []
    return notes + ([f"{len(subjects - listed):,} subjects are not in participants.tsv"] if subjects - listed else [])


def _label_names(tree: Tree, folder: str) -> dict[int, str]:
    """Value -> name from the first *dseg.tsv (columns index and name)."""
    tables = [name for name in tree.below(folder) if PurePosixPath(name).name.endswith("dseg.tsv")]
    for name in tables[:1]:
        try:
            with open(tree.path(name), encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))[:1000]
            return {int(row["index"]): str(row["name"]) for row in rows if row["index"].isdecimal() and int(row["index"]) > 0}
        except (OSError, ValueError, KeyError, AttributeError, csv.Error):
            return {}
    return {}
