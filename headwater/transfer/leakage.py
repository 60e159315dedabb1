"""Leakage: scans that are tested on and were learned from, under their own name, another, or as a near copy."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headwater import runfolder
from headwater.scans.duplicates import find
from headwater.scans.fingerprint import fingerprint
from headwater.scans.store import Store

SHOWN = 5  # names in a sentence


def found(store: Store, run: Path | None = None, pretraining: Path | None = None, seed: int = 0) -> list[str]:
    """A sentence for each kind of leak into the test scans of a store; none where it is clean.

    Args: run: the folder the store belongs to, whose passport knows near copies; without it they are searched for here.
          pretraining: the run folder that a backbone comes from, where it is another one.
    """
    tests, learned = store.split("test"), store.split("train")
    said = _subjects(store, tests, learned) + _copies(store, tests, learned, run, seed)
    if pretraining is not None and (run is None or Path(pretraining).resolve() != Path(run).resolve()):
        said += _across(store, run, Path(pretraining), seed)
    return said


def _subjects(store: Store, tests: Sequence[int], learned: Sequence[int]) -> list[str]:
    """Patients on both sides."""
    both = {store.subjects[i] for i in learned} & {store.subjects[i] for i in tests}
    if not both:
        return []
    return [f"Leakage: {_named(sorted(both))} {_are(both, 'subject')} both learned from and tested on: keep each on one side."]


def _copies(store: Store, tests: Sequence[int], learned: Sequence[int], run: Path | None, seed: int) -> list[str]:
    """The same voxels, or nearly, on both sides of the split."""
    same = _same(store, tests, store, learned)
    near = {one for one, _ in _told(store, run) or _searched([(store, tests), (store, learned)], seed)} - set(same)
    names = [store.records[i]["name"] for i in sorted(same)]
    said = (
        [f"Leakage: {_named(names)} {_are(names, 'test scan')} also learned from under another name: leave out one side."]
        if names
        else []
    )
    names = [store.records[i]["name"] for i in sorted(near)]
    what = f"{_are(names, 'test scan')} nearly a copy of a scan that is learned from"
    return [*said, f"Leakage: {_named(names)} {what}: keep both on one side."] if names else said


def _told(store: Store, run: Path | None) -> list[tuple[int, int]] | None:
    """Near copies across the split, test scan first, from the run's passport; None without one."""
    try:
        pairs = runfolder.read_json(Path(run or "") / "passport.json")["duplicates"]["pairs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    place = {record["name"]: i for i, record in enumerate(store.records)}
    side = {i: record["split"] for i, record in enumerate(store.records)}
    known = [(place[a], place[b]) for a, b, *_ in pairs if a in place and b in place]
    return [(a, b) if side[a] == "test" else (b, a) for a, b in known if side[a] != side[b]]


def _across(store: Store, run: Path | None, pretraining: Path, seed: int) -> list[str]:
    """Test scans in the pretraining set of another run: by content, by near copies, then by the name of the subject."""
    other, tests = Store.open(pretraining / "store"), store.split("test")
    learned = other.split("train")
    ours, theirs = _sums(run), _sums(pretraining)
    seen = {theirs[other.records[j]["name"]] for j in learned if other.records[j]["name"] in theirs}
    same = {i for i in tests if ours.get(store.records[i]["name"]) in seen} | set(_same(store, tests, other, learned))
    left = [i for i in tests if i not in same]
    near = {one for one, _ in _searched([(store, left), (other, learned)], seed)}
    known = {other.subjects[j] for j in learned}
    alike = {i for i in left if store.subjects[i] in known} - near
    remedy = "their scores are too good; pretrain without them, or test on others"
    kinds = (
        (same, "in the set that the backbone was pretrained on"),
        (near, "nearly a copy of a scan that the backbone was pretrained on"),
        (alike, "of a subject whose name is also in the pretraining set, with other scans"),
    )
    return [
        f"Leakage: {_named(names)} {_are(names, 'test scan')} {what}: {remedy}."
        for which, what in kinds
        if (names := [store.records[i]["name"] for i in sorted(which)])
    ]


def _sums(run: Path | None) -> dict[str, str]:
    """Checksum of shape and voxels of each file by the scan's shown name; nothing without a passport."""
    try:
        entries: Sequence[Mapping[str, Any]] = runfolder.read_json(Path(run or "") / "passport.json")["entries"]
        return {entry["name"]: entry["facts"]["sha256"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _same(store: Store, tests: Sequence[int], other: Store, learned: Sequence[int]) -> list[int]:
    """Test scans whose prepared voxels are, to the last bit, those of a scan learned from."""
    seen = {_sum(other, j) for j in learned if np.ptp(other.image(j))}
    return [i for i in tests if np.ptp(store.image(i)) and _sum(store, i) in seen]  # blank ones are all alike


def _sum(store: Store, i: int) -> tuple[tuple[int, ...], int]:
    """Shape, and CRC-32 of the prepared voxels."""
    image = store.image(i)
    return image.shape, zlib.crc32(np.ascontiguousarray(image))


def _searched(sides: Sequence[tuple[Store, Sequence[int]]], seed: int) -> list[tuple[int, int]]:
    """Near copies across two sides, each a store and scans of it: pairs of a scan of the first and one of the second."""
    scans = [(place, store, i) for place, (store, chosen) in enumerate(sides) for i in chosen]
    if not all(chosen for _, chosen in sides):
        return []
    prints = [fingerprint(np.asarray(store.image(i), np.float32)) for _, store, i in scans]
    pairs = find(prints, lambda n: np.asarray(scans[n][1].image(scans[n][2]), np.float32), seed=seed).pairs
    ends = [sorted((scans[pair.first], scans[pair.second]), key=lambda scan: scan[0]) for pair in pairs]
    return [(one[2], two[2]) for one, two in ends if (one[0], two[0]) == (0, 1)]


def _named(names: Sequence[str]) -> str:
    """The first few."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _are(names: Any, what: str) -> str:
    """(a test scan) is | (3 test scans) are"""
    return f"(a {what}) is" if len(names) == 1 else f"({len(names)} {what}s) are"
