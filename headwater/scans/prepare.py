"""Scans of a passport turned, cropped, resampled and normalised once, and written as training reads them."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.runfolder import plain, private_folder, read_json, write_json
from headwater.scans import journal, resampling
from headwater.scans.entry import Entry
from headwater.scans.examine import checksum, voxels
from headwater.scans.normalise import Window, pooled, window
from headwater.scans.passport import Passport
from headwater.scans.readers import read, read_labels
from headwater.scans.ready import Ready, Rule, ready
from headwater.scans.scan import LIMIT, Scan, Source, UnreadableError
from headwater.scans.store import FORMAT, INDEX, Store, class_type
from headwater.scans.survey import room

_SAMPLE = 16  # scans that tell mean and spread of a whole set
_CERTAIN = 20  # scans after which the room that is needed is known
_UNPACKED = 20  # bytes in memory for one value, all copies counted


def prepare(
    passport: Passport,
    folder: Path | str,
    *,
    spacing: tuple[float, ...] | None = None,
    scheme: str = "",
    progress: Progress = Silent(),
) -> Store:
    """Writes all scans of the passport into `folder` as training reads them, and opens the result. See `ready`.

    spacing: mm, of the turned axes; the passport's median by default. scheme: "scan" or "set"; by default "set" if all
    scans are CT, whose values mean the same everywhere.
    What is there already is used again; after a kill it goes on where it was. A store of other scans or another rule is
    made beside the old one and takes its place when it is whole.
    Raises InputError if a file changed since it was looked at, a scan would become too large, or the disk is too small.
    """
    folder, rule = Path(folder), _rule(passport, spacing, scheme)
    _refuse_huge(passport, rule)
    version = _version(passport, rule)
    records = _complete(folder, version)
    try:
        if records is None:
            records = _write(passport, rule, private_folder(folder / version), progress)
        index = json.loads(json.dumps(plain(_index(passport, rule, version, records))))
        if _told(folder) != index:
            write_json(folder / INDEX, index)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"The disk of {folder} is full; free some space and start again, the scans prepared so far are kept."
        ) from error
    for other in folder.iterdir():
        if other.name != version and re.fullmatch("[0-9a-f]{16}", other.name) and (other / journal.LINES).exists():
            shutil.rmtree(other, ignore_errors=True)
    return Store.open(folder)


def _rule(passport: Passport, spacing: tuple[float, ...] | None, scheme: str) -> Rule:
    """What was asked for, and defaults. Raises InputError if it does not fit the scans."""
    target = tuple(float(s) for s in (spacing or passport.spacing))
    if len(target) != passport.ndim or not all(0 < s < math.inf for s in target):
        raise InputError(f"The target spacing {target} does not fit these scans; give {passport.ndim} numbers in mm.")
    if scheme not in ("", "scan", "set"):
        raise InputError(f"Intensities cannot be normalised by {scheme!r}; give scan or set.")
    scheme = scheme or ("set" if all(entry.modality == "CT" for entry in passport.entries) else "scan")
    if passport.instances:
        return Rule(target, passport.orientation, scheme, passport.channels, (0, 1), instances=True)
    values = (0, *sorted({v for entry in passport.entries for v in entry.labels or {}} - {0, passport.ignore}))
    if len(values) > 65_535:
        raise InputError(f"The masks number {len(values) - 1:,} structures, at most 65,534 can be told apart; join some.")
    return Rule(target, passport.orientation, scheme, passport.channels, values, passport.ignore)


def _version(passport: Passport, rule: Rule) -> str:
    """Hash of what the voxels of a store depend on."""
    scans = [(entry.sha256, entry.mask_sha256, entry.spacing, entry.orientation) for entry in passport.entries]
    spans = [(entry.low, entry.high) for entry in passport.entries] if rule.scheme == "set" else []
    crop = (resampling.MARGIN, resampling.WORTH, resampling.SAME)
    return hashlib.sha256(json.dumps([FORMAT, scans, spans, crop, asdict(rule)]).encode()).hexdigest()[:16]


def _sizes(entry: Entry, rule: Rule) -> tuple[int, ...]:
    """Voxels of a prepared scan along each axis, if nothing is cropped."""
    axes, _ = resampling.direction(entry.orientation, rule.orientation) or (range(len(entry.shape)), ())
    step = resampling.steps(tuple(entry.spacing[axis] for axis in axes), rule.spacing)
    unknown = rule.orientation and not entry.orientation
    return entry.shape if unknown else resampling.sizes(tuple(entry.shape[axis] for axis in axes), step)


def _bytes(entry: Entry, rule: Rule) -> int:
    """What a prepared scan needs on the disk, if nothing is cropped."""
    width = 2 * rule.channels + (np.dtype(class_type(len(rule.values))).itemsize if entry.mask else 0)
    return width * math.prod(_sizes(entry, rule))


def _refuse_huge(passport: Passport, rule: Rule) -> None:
    """Raises InputError, before anything is read, if resampling would make more of a scan than a file may hold."""
    for entry in passport.entries:
        size = _sizes(entry, rule)
        if math.prod(size) * rule.channels * 4 > LIMIT and math.prod(size) > math.prod(entry.shape):
            fine = " x ".join(f"{s:g}" for s in rule.spacing)
            raise InputError(
                f"{entry.name} would become {voxels(size)} voxels at {fine} mm; give a coarser target spacing, or leave it out."
            )


def _complete(folder: Path, version: str) -> list[dict[str, Any]] | None:
    """Records of the store in a folder if it is of this version and whole."""
    try:
        return list(Store.open(folder, version).records)
    except InputError:
        return None


def _told(folder: Path) -> Any:
    """The index as it is on the disk; None if it cannot be read."""
    try:
        return read_json(folder / INDEX)
    except (OSError, ValueError):
        return None


def _index(passport: Passport, rule: Rule, version: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a store says of itself. Names, subjects and parts are the passport's of today; voxels do not depend on them."""
    told = [
        {"name": e.name, "subject": e.subject, "split": e.split, "group": e.group, "labelled": e.mask is not None}
        for e in passport.entries
    ]
    names = [passport.label_names.get(value, f"structure {value}") for value in rule.values[1:]]
    unit = "mm" if any(e.facts.spaced for e in passport.entries) else "pixels" if len(rule.spacing) == 2 else "voxels"
    image, label = (sum(record["bytes"][k] for record in records) for k in (0, 1))
    return {
        "format": FORMAT, "version": version, "spacing": rule.spacing, "unit": unit, "orientation": rule.orientation,
        "scheme": rule.scheme, "channels": passport.channels, "values": rule.values, "names": ["background", *names],
        "ignores": rule.ignore is not None, "images": image // 2,
        "labels": label // np.dtype(class_type(len(rule.values))).itemsize,
        "scans": [{**record, **mine} for record, mine in zip(records, told, strict=True)],
    }  # fmt: skip


def _write(passport: Passport, rule: Rule, place: Path, progress: Progress) -> list[dict[str, Any]]:
    """Appends the scans that are not in the files yet; returns all records."""
    if rule.scheme == "set":
        rule = replace(rule, fixed=_fixed(passport, place / "windows.json"))
    records, entries = journal.whole(place), passport.entries
    most = [_bytes(entry, rule) for entry in entries]
    with progress.track("Preparing", total=len(entries)) as advance, journal.Writer(place) as writer:
        if records:
            advance(len(records))
        for made in _in_order(passport, entries[len(records) :], rule):
            done = len(records)
            written = sum(sum(record["bytes"]) for record in records)
            cropped = written / sum(most[:done]) if done >= _CERTAIN else 0.1  # what is left of a scan; rarely less
            _require_room(place, cropped * sum(most[done:]))
            records.append(writer.add(made.record(), made.image, made.label))
            advance(1)
    return records


def _require_room(place: Path, needed: float) -> None:
    """Raises InputError if the disk has not that much room."""
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            f"Preparing needs {needed / 2**30:.1f} GiB more, the disk of {place.parent} has {free / 2**30:.1f} GiB free; "
            f"free some space and start again, the scans prepared so far are kept."
        )


def _in_order(passport: Passport, entries: Sequence[Entry], rule: Rule) -> Iterator[Ready]:
    """Scans made ready on a few threads, handed out in order, few in memory at a time."""
    workers = min(4, max(2, os.cpu_count() or 2))
    waiting, held = deque(), 0
    pool = ThreadPoolExecutor(workers)
    try:
        for entry in entries:
            needed = _UNPACKED * rule.channels * max(math.prod(entry.shape), math.prod(_sizes(entry, rule)))
            while waiting and (len(waiting) > workers or held + needed > room()):
                future, given = waiting.popleft()
                yield future.result()
                held -= given
            waiting.append((pool.submit(_one, passport, entry, rule), needed))
            held += needed
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest


def _one(passport: Passport, entry: Entry, rule: Rule) -> Ready:
    """One scan of the passport with its mask, as training reads it."""
    scan, mask = _scan(passport, entry), None
    source = passport.mask_source(entry)
    if entry.mask is not None and source is not None:
        mask = _unchanged(read_labels, source, entry.mask, entry.mask_sha256 or "").array[0]
    return ready(scan, mask, rule)


def _scan(passport: Passport, entry: Entry) -> Scan:
    return _unchanged(read, passport.scan_source(entry), entry.name, entry.sha256)


def _unchanged(reader: Any, source: Source, name: str, sha256: str) -> Scan:
    """What a file holds. Raises InputError, by the name that may be shown, if it cannot be read or is not as it was."""
    try:
        scan = reader(source)
    except UnreadableError as error:
        raise InputError(f"{name} {error.fault}; {error.remedy}.") from None
    if checksum(scan.array) != sha256:
        raise InputError(f"{name} changed since it was looked at; look at the folder again, then prepare.")
    return scan


def _fixed(passport: Passport, kept: Path) -> tuple[Window, ...]:
    """One window per channel for all scans: the median of their percentiles; mean and spread from up to 16 of them."""
    if kept.exists():
        return tuple(Window(*numbers) for numbers in read_json(kept))
    both = [np.broadcast_to([entry.low, entry.high], (2, passport.channels)) for entry in passport.entries]
    spans = np.median(both, axis=0).T  # (C, 2)
    places = np.unique(np.linspace(0, len(passport.entries) - 1, _SAMPLE).round().astype(int))
    found, sizes = [], []
    for place in places:
        scan = _scan(passport, passport.entries[place])
        channels = np.broadcast_to(scan.array, (len(spans), *scan.shape))
        found.append([window(channel, (float(a), float(b))) for channel, (a, b) in zip(channels, spans, strict=True)])
        sizes.append(math.prod(scan.shape))
    windows = tuple(pooled(channel, sizes) for channel in zip(*found, strict=True))
    write_json(kept, [w.plain() for w in windows])
    return windows
