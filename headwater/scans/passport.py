"""The data passport: what is in a folder of scans, what is broken in it, and what it needs."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.runfolder import read_json, write_json
from headwater.scans import words
from headwater.scans.catalog import held_out_subjects, look_for_masks, pair, read_held_out, split, subjects_of
from headwater.scans.examine import Entry, Fault, examine


@dataclass(frozen=True)
class Passport:
    """A folder of scans, understood. `entries` are the scans that will be used, in the order of their paths.

    root, labels_root: the folders given (absolute). spacing: median, mm. shape: median, voxels.
    quarantine: what was set aside, each {"file", "fault", "remedy", "kind"}; the reader's words, first come first.
    label_names: value in the masks -> name, background (0) left out. held_out: "named" or "drawn", who chose the test set.
    """

    root: str
    labels_root: str | None
    ndim: int
    channels: int
    entries: tuple[Entry, ...]
    quarantine: tuple[dict[str, str], ...]
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    label_names: dict[int, str]
    held_out: str = "drawn"

    @property
    def subjects(self) -> list[str]:
        """Every subject once, sorted."""
        return sorted({entry.subject for entry in self.entries})

    def sentences(self) -> list[str]:
        """What was understood, line by line, in plain words."""
        return words.sentences(self)

    def save(self, path: Path | str) -> Path:
        """Writes passport.json (with the sentences, for people), whole or not at all."""
        return write_json(Path(path), {**asdict(self), "sentences": self.sentences()})

    @classmethod
    def load(cls, path: Path | str) -> "Passport":
        """The passport as it was saved. Raises InputError if the file is not one."""
        try:
            value = read_json(Path(path))
            entries = tuple(_entry(e) for e in value["entries"])
            names = {int(v): name for v, name in value["label_names"].items()}
            kept = {f.name: value[f.name] for f in fields(cls)}
            kept |= {key: tuple(kept[key]) for key in ("quarantine", "spacing", "shape")}
            return cls(**kept | {"entries": entries, "label_names": names})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a data passport; run `headwater look` again.") from error


def _entry(value: dict) -> Entry:
    """JSON to Entry."""
    labels = value["labels"]
    labels = None if labels is None else {int(v): n for v, n in labels.items()}
    return Entry(**{**value, "labels": labels, "shape": tuple(value["shape"]), "spacing": tuple(value["spacing"])})


def look(
    scans: Path | str,
    labels: Path | str | None = None,
    *,
    test: Path | str | Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress = Silent(),
) -> Passport:
    """Reads every scan and mask once, whole, and says what is there.

    labels: folder of masks, paired by name (`catalog.pair`). test: names to keep for testing, or a text file of them
    (subjects or file names; all scans of a subject go with it); without it a fifth of the subjects is drawn from `seed`,
    among those with a mask if there are masks.
    Set aside: what cannot be read, has NaN or infinite voxels or only one value, is an exact copy, or has another number
    of axes or channels than most; a mask that does not fit its scan (the scan stays, without it).
    Raises InputError if nothing usable is left, no mask fits, fewer than two subjects have one, or a name in `test` is
    unknown or fits several subjects.
    """
    root, labels_root = Path(scans).resolve(), None if labels is None else Path(labels).resolve()
    paths, masks = look_for_masks(root, labels_root)
    pairs = pair(paths, masks)
    if labels is not None and not pairs:
        raise InputError(_unpaired(scans, labels, paths, masks))
    subjects = subjects_of(paths)
    named = None
    if test is not None:
        names = read_held_out(test) if isinstance(test, (str, Path)) else test
        named = held_out_subjects(names, subjects, root)
    entries, faults = _examine_all(paths, subjects, pairs, root, labels_root or root, progress)
    if not entries:
        raise InputError(f"No scan in {scans} can be used: {faults[0]}; {faults[0].remedy}.")
    entries, more = _without_copies(*_without_minority(entries, faults), named or [])
    unpaired = sorted(set(masks) - set(pairs.values()))
    remedy = "name it as its scan is named"
    more += [Fault(m.relative_to(labels_root or root).as_posix(), "has no scan", remedy, "unpaired") for m in unpaired]
    entries = _with_split(entries, named, seed, bool(pairs), more)
    size = np.median(np.array([e.shape for e in entries]), axis=0)
    spacing = np.median(np.array([e.spacing for e in entries]), axis=0)
    values = sorted({v for e in entries if e.labels for v in e.labels} - {0})
    known = words.label_names([root, root.parent] + ([labels_root, labels_root.parent] if labels_root else []))
    return Passport(
        root=str(root), labels_root=None if labels_root is None else str(labels_root),
        ndim=len(entries[0].shape), channels=entries[0].channels, entries=tuple(entries),
        quarantine=tuple(asdict(f) for f in more), spacing=tuple(round(float(s), 4) for s in spacing),
        shape=tuple(int(n) for n in size), label_names={v: known.get(v, f"structure {v}") for v in values},
        held_out="drawn" if named is None else "named",
    )  # fmt: skip


def _unpaired(scans: Path | str, labels: Path | str, paths: list[Path], masks: list[Path]) -> str:
    """Why no scan has a mask, in one sentence."""
    if not paths:
        return f"All scans in {scans} lie in {labels}, the folder of masks; give the masks a folder without the scans."
    if masks:
        like = f"masks like {masks[0].name}, scans like {paths[0].name}"
        return f"No mask in {labels} has the name of a scan in {scans} ({like}); give each mask the file name of its scan."
    if Path(scans).resolve() == Path(labels).resolve():
        return f"No file in {labels} is named like a mask of another (t1_seg beside t1); name masks so, or give their own folder."
    return f"Every file in {labels} lies in {scans}, the folder of scans; give the folder that holds the masks."


def _examine_all(
    paths: list[Path], subjects: dict[Path, str], pairs: dict[Path, Path], root: Path, labels_root: Path, progress: Progress
) -> tuple[list[Entry], list[Fault]]:
    """Every file, on several threads; results in the order of the paths."""
    found: dict[Path, tuple[Entry | None, list[Fault]]] = {}
    workers = min(8, max(2, os.cpu_count() or 2))
    with progress.track(f"Looking at {root.name}/", total=len(paths)) as advance, ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(examine, p, subjects[p], pairs.get(p), root, labels_root): p for p in paths}
        try:
            for future in as_completed(waiting):
                found[waiting[future]] = future.result()
                advance(1)
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
    entries = [found[p][0] for p in paths if found[p][0] is not None]
    return entries, [fault for p in paths for fault in found[p][1]]


def _without_minority(entries: list[Entry], faults: list[Fault]) -> tuple[list[Entry], list[Fault]]:
    """Only scans with the number of axes and channels that most have (of equal counts, the more axes)."""
    kinds = Counter((len(e.shape), e.channels) for e in entries)
    most = max(kinds, key=lambda kind: (kinds[kind], kind))
    odd = [e for e in entries if (len(e.shape), e.channels) != most]
    usual = f"most have {most[0]} and {_channels(most[1])}"
    said = {e.path: f"has {len(e.shape)} axes and {_channels(e.channels)}, {usual}" for e in odd}
    faults = faults + [Fault(path, text, "put it in a folder of its own", "dimension") for path, text in said.items()]
    return [e for e in entries if e.path not in said], faults


def _channels(count: int) -> str:
    return f"{count} channel{'s' if count > 1 else ''}"


def _without_copies(entries: list[Entry], faults: list[Fault], named: list[str]) -> tuple[list[Entry], list[Fault]]:
    """One of each set of exact copies: the one named for testing, else the one with a mask, else the first."""
    keep: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda e: (e.subject not in named, e.mask is None, e.path)):
        keep.setdefault(entry.sha256, entry)
    copies = [e for e in entries if keep[e.sha256] is not e]
    said = [Fault(e.path, f"is an exact copy of {keep[e.sha256].path}", "nothing to do", "copy") for e in copies]
    return [e for e in entries if keep[e.sha256] is e], faults + said


def _with_split(entries: list[Entry], named: list[str] | None, seed: int, paired: bool, faults: list[Fault]) -> list[Entry]:
    """Each entry marked "train" or "test", by subject."""
    labelled = sorted({e.subject for e in entries if e.mask is not None})
    if paired and not labelled:
        fault = next((f for f in faults if f.kind == "mask"), faults[0])
        what = "Masks do not fit the scans" if fault.kind == "mask" else "No scan with a mask can be used"
        raise InputError(f"{what}: {fault}; {fault.remedy}.")
    if paired and not any(value > 0 for e in entries for value in e.labels or {}):
        raise InputError("All masks are empty (every voxel is 0); give masks with structures numbered 1, 2, 3.")
    if paired and len(labelled) < 2:
        raise InputError(
            f"Only one subject has a usable mask ({labelled[0]}); give at least two, one to learn from and one to test on."
        )
    every = {e.subject for e in entries}
    test = set(split(labelled if paired else every, named, seed)[1])
    where = "have a usable mask" if paired else "are usable"
    if named is not None and not test:
        raise InputError(f"None of the {len(named)} subjects kept for testing {where}; keep others for testing.")
    if named is not None and test >= set(labelled if paired else every):
        raise InputError(f"All subjects that {where} are kept for testing; leave at least one to learn from.")
    test |= set(named or [])
    return [replace(e, split="test" if e.subject in test else "train") for e in entries]
