"""The data passport: what is in a folder of scans, what is broken in it, and what it needs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.runfolder import read_json, write_json
from headwater.scans import concerns, identifiers, triage, words
from headwater.scans.catalog import held_out_subjects, read_held_out
from headwater.scans.duplicates import Duplicates, find
from headwater.scans.entry import Entry
from headwater.scans.examine import Seen, upright
from headwater.scans.layouts import understand
from headwater.scans.layouts.item import Catalog
from headwater.scans.readers import read
from headwater.scans.scan import Fault, Source
from headwater.scans.survey import Memory, survey

PRIVATE = "private"  # folder beside a passport: the only place where real names and paths are kept


@dataclass(frozen=True)
class Passport:
    """A folder of scans, understood. `entries` are the scans that will be used, in the order of their names.

    root: the folder, as it may be shown. layout, rule: what the folder was taken for, and why. ndim, channels: of every scan.
    orientation: which way the axes of most scans run ("" unknown); spacing, shape: the median in those axes, mm and voxels.
    quarantine: what was set aside, each {"file", "fault", "remedy", "kind"}; first come first.
    concerns: what is odd but kept, each {"kind", "text", "files"}. notes: what else the folder holds, in words.
    duplicates: {"pairs": [[one, other, similarity, how]], "sentence", "null", "closest", "linked": groups of subjects that share
    a scan, nearly or exactly: each is on one side of the split}.
    label_names: value in the masks -> name, background (0) left out; ignore: the value that does not count.
    instances: the masks number single objects; they count as one structure, 1.
    held_out: "named", "layout" or "drawn": who chose the test set. sources: where each entry lies, by name; kept apart.
    """

    root: str
    layout: str
    rule: str
    ndim: int
    channels: int
    entries: tuple[Entry, ...]
    quarantine: tuple[dict[str, str], ...]
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    orientation: str
    label_names: dict[int, str]
    masked: bool = False
    instances: bool = False
    ignore: int | None = None
    held_out: str = "drawn"
    channel_names: tuple[str, ...] = ()
    concerns: tuple[dict, ...] = ()
    notes: tuple[str, ...] = ()
    duplicates: dict = field(default_factory=dict)
    sources: dict[str, tuple[Source, Source | None]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def subjects(self) -> list[str]:
        """Every subject once, sorted."""
        return sorted({entry.subject for entry in self.entries})

    def scan_source(self, entry: Entry) -> Source:
        """Where a scan lies."""
        return self.sources[entry.name][0]

    def mask_source(self, entry: Entry) -> Source | None:
        """Where its mask lies."""
        return self.sources[entry.name][1]

    def sentences(self) -> list[str]:
        """What was understood, line by line, in plain words."""
        return words.sentences(self)

    def plain(self) -> dict:
        """For JSON: everything that may be shown, and the sentences."""
        value = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("sources", "entries")}
        return {**value, "entries": [entry.plain() for entry in self.entries], "sentences": self.sentences()}

    def save(self, path: Path | str) -> Path:
        """Writes passport.json, which may be shown, and private/sources.json beside it, which holds the real names."""
        path = Path(path)
        kept = {name: [None if s is None else asdict(s) for s in both] for name, both in self.sources.items()}
        write_json(path.parent / PRIVATE / "sources.json", kept)
        return write_json(path, self.plain())

    @classmethod
    def load(cls, path: Path | str) -> "Passport":
        """The passport as it was saved. Raises InputError if the file is not one."""
        path = Path(path)
        try:
            value, kept = read_json(path), read_json(path.parent / PRIVATE / "sources.json")
            told = {f.name: value[f.name] for f in fields(cls) if f.name not in ("sources", "entries", "label_names")}
            for key in ("quarantine", "spacing", "shape", "channel_names", "concerns", "notes"):
                told[key] = tuple(told[key])
            sources = {name: tuple(_source(s) for s in both) for name, both in kept.items()}
            names = {int(v): name for v, name in value["label_names"].items()}
            return cls(**told, entries=tuple(Entry.of(e) for e in value["entries"]), label_names=names, sources=sources)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a data passport; run `headwater look` again.") from error


def _source(value: dict | None) -> Source | None:
    return None if value is None else Source(tuple(Path(f) for f in value["files"]), value["part"])


def look(
    scans: Path | str,
    labels: Path | str | None = None,
    *,
    test: Path | str | Sequence[str] | None = None,
    seed: int = 0,
    classes: bool = False,
    show_identifiers: bool = False,
    progress: Progress = Silent(),
) -> Passport:
    """Reads every scan and mask once, whole, and says what is there. What did not change since the last look is not read again.

    labels: folder of masks, where they do not lie where the layout has them. test: names to keep for testing, or a text file of
    them (subjects or file names; all scans of a subject go with it); without it the layout's own test part, else a fifth of the
    subjects, drawn from `seed` among those with a mask if there are masks. classes: take folders, or a file's labels, as classes.
    Set aside: what cannot be read, has NaN or infinite voxels or only one value, is an exact copy, or has another number
    of axes or channels than most; a mask that does not fit its scan (the scan stays, without it).
    Raises InputError if nothing usable is left, no mask fits, fewer than two subjects have one, or a name in `test` is
    unknown or fits several subjects.
    """
    root, labels_root = Path(scans).resolve(), None if labels is None else Path(labels).resolve()
    shown = identifiers.known(show_identifiers)
    catalog = understand(root, labels_root, classes=classes)
    pairs = [(item.source, item.mask) for item in catalog.items]
    named = None
    if test is not None:
        names = read_held_out(test) if isinstance(test, (str, Path)) else test
        whose = {catalog.root / item.name: item.subject for item in catalog.items}
        named = held_out_subjects(names, whose, catalog.root, shown.name)
    seen = survey(pairs, Memory(root, labels_root), label="Looking", progress=progress)
    entries, faults = _entries(catalog, seen, labels_root or root)
    if not entries:
        said = _shown_faults([*faults, *catalog.faults][:1], shown, catalog)
        why = f": {said[0]}; {said[0].remedy}" if said else ""
        raise InputError(f"No scan in {shown.folder(root)} can be used{why}.")
    prints = {item.name: one.fingerprint for item, one in zip(catalog.items, seen, strict=True)}
    return _stamped(catalog, root, entries, [*faults, *catalog.faults], prints, named, seed, labels is not None, shown)


def _entries(catalog: Catalog, seen: list[Seen], labels_root: Path) -> tuple[list[Entry], list[Fault]]:
    """Under their real names, in order; and what is wrong with the others."""
    entries, faults = [], []
    for item, one in zip(catalog.items, seen, strict=True):
        mask = None if item.mask is None else mask_name(item.mask, labels_root)
        faults += [Fault((mask or "") if which == "mask" else item.name, *rest) for which, *rest in one.faults]
        if one.facts is None:
            continue
        facts = replace(one.facts, modality=one.facts.modality or item.modality)
        masked = one.labels is not None
        entries.append(Entry(
            item.name, item.subject, facts, item.session, mask if masked else None, one.mask_sha256 if masked else None,
            one.labels, item.group, item.split,
        ))  # fmt: skip
    return entries, faults


def mask_name(mask: Source, root: Path) -> str:
    """A mask's name: its path below the folder of masks."""
    place = mask.path.relative_to(root) if mask.path.is_relative_to(root) else Path(mask.path.name)
    return place.as_posix() + (f"#{mask.part}" if mask.part else "")


def _stamped(
    catalog: Catalog,
    root: Path,
    entries: list[Entry],
    faults: list[Fault],
    prints: dict[str, np.ndarray | None],
    named: list[str] | None,
    seed: int,
    asked: bool,
    shown: identifiers.Names,
) -> Passport:
    """The passport of what was read: sorted out, split, and under names that may be shown."""
    usual, odd = triage.without_minority(entries)
    kept, copies = triage.without_copies(usual, named or [])
    said = _shown_faults([*faults, *odd, *copies], shown, catalog)
    from threadpoolctl import threadpool_limits

    sources = {item.name: item.source for item in catalog.items}
    with threadpool_limits(1):  # its arrays are small: threads would only wait for each other
        near = find([prints[e.name] for e in kept], lambda i: upright(read(sources[kept[i].name])), seed=seed)
    whose = {e.name: e.subject for e in usual}
    same = {e.sha256: e.subject for e in kept}
    ties = [(whose[e.name], same[e.sha256]) for e in usual if same[e.sha256] != whose[e.name]]
    groups = triage.linked(kept, [(pair.first, pair.second) for pair in near.pairs], ties)
    paired = any(item.mask is not None for item in catalog.items)
    kept, chosen = triage.with_split(kept, named, seed, asked, groups, said)
    orientation = concerns.orientation(kept)
    turned = [concerns.turned(e, orientation) for e in kept]
    values = sorted({v for e in kept for v in e.labels or {}} - {0})
    known = {int(v): name for v, name in catalog.label_names.items()}
    single = concerns.instances(kept, known)
    ignore = next((v for v, name in known.items() if name.lower() == "ignore"), None)
    passport = Passport(
        root=shown.folder(root), layout=catalog.layout, rule=catalog.rule, ndim=len(kept[0].shape),
        channels=max(e.channels for e in kept), entries=tuple(kept), quarantine=tuple(asdict(f) for f in said),
        spacing=tuple(round(float(s), 4) for s in np.median([s for _, s in turned], axis=0)),
        shape=tuple(int(n) for n in np.median([n for n, _ in turned], axis=0)), orientation=orientation,
        label_names={1: "object"} if single else {v: known.get(v, f"structure {v}") for v in values if v != ignore},
        masked=paired, instances=single, ignore=ignore,
        held_out=chosen, channel_names=catalog.channel_names, notes=catalog.notes,
    )  # fmt: skip
    return _under_shown_names(passport, catalog, near, groups, known, shown)


def _under_shown_names(
    passport: Passport,
    catalog: Catalog,
    near: Duplicates,
    groups: list[list[str]],
    known: dict[int, str],
    shown: identifiers.Names,
) -> Passport:
    """The same passport with every name replaced by the one that may be shown."""
    by_name = {item.name: item for item in catalog.items}
    names = shown.names(by_name)
    subjects = shown.subjects({item.subject for item in catalog.items})
    entries = tuple(
        replace(
            e, name=names[e.name], subject=subjects[e.subject], session=shown.name(e.session) if e.session else "",
            mask=None if e.mask is None else shown.name(e.mask),
        )
        for e in passport.entries
    )  # fmt: skip
    sources = {names[e.name]: (by_name[e.name].source, by_name[e.name].mask if e.mask else None) for e in passport.entries}
    pairs = [[entries[p.first].name, entries[p.second].name, float(p.similarity), p.how] for p in near.pairs]
    groups_of = [[subjects[name] for name in group] for group in groups]
    doubles = {
        "pairs": pairs,
        "sentence": near.sentence(),
        "null": _known(near.null),
        "closest": _known(near.closest),
        "linked": groups_of,
    }
    whole = replace(passport, entries=entries, sources=sources, duplicates=doubles)
    return replace(whole, concerns=concerns.all_of(whole, known))


def _known(value: float) -> float | None:
    """The number; None for NaN, which JSON does not have and which equals nothing."""
    return None if value != value else value


def _shown_faults(faults: Sequence[Fault], shown: identifiers.Names, catalog: Catalog) -> list[Fault]:
    """What was set aside, under names that may be shown; the name of the scan within the sentence as well."""
    names = shown.names(item.name for item in catalog.items)
    rows = []
    for fault in faults:
        text = fault.fault
        if fault.kind == "copy":
            other = text.removeprefix("is an exact copy of ")
            text = f"is an exact copy of {names.get(other, shown.name(other))}"
        rows.append(replace(fault, file=names.get(fault.file) or shown.name(fault.file), fault=text))
    return rows
