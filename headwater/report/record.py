"""What a run folder holds, read once. Every stage may be missing; what cannot be read is named, not guessed."""

import csv
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import InputError
from headwater.runfolder import read_events, read_json

Arrays = dict[str, np.ndarray]
LOOKED = {"passport.json", "distribution.json", "preview.npz", "verdicts.json"}  # what looking at the scans leaves behind


@dataclass(frozen=True)
class Record:
    """A run folder in memory. An absent file is empty; `faults` holds (file, reason) of what is damaged.

    waiting: share of pretraining's time spent waiting for views, 0 to 1; nan before its end.
    begun: whether there is more than a look at the scans.
    """

    run: Path
    settings: dict[str, Any]
    provenance: dict[str, Any]
    plan: list[dict[str, Any]]
    passport: dict[str, Any]
    distribution: dict[str, Any]
    preview: Arrays
    steps: list[dict[str, Any]]
    watches: list[dict[str, Any]]
    waiting: float
    observed: dict[str, Any]
    tokens: Arrays
    scores: list[dict[str, Any]]
    summary: dict[str, Any]
    examples: Arrays
    notes: list[dict[str, Any]]
    compared: dict[str, Any]
    verdicts: list[dict[str, Any]]
    faults: list[tuple[str, str]]
    begun: bool


def number(value: Any) -> float:
    """The value as a float; nan for null, text and everything else that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return result if math.isfinite(result) else math.nan


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in a list; anything else is an empty list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def numbers(value: Any) -> list[float]:
    """The finite numbers in a list; anything else is an empty list."""
    return [number(item) for item in value if not math.isnan(number(item))] if isinstance(value, list) else []


def read(run: Path) -> Record:
    """Reads a run folder.

    Raises: InputError if the folder does not exist or holds nothing a run writes.
    """
    run = Path(run)
    if not run.is_dir():
        raise InputError(
            f"No run at {run}: the folder does not exist. Give the folder that a run wrote, such as runs/scans-2026-11-23."
        )
    faults: list[tuple[str, str]] = []
    there: list[str] = []

    def load(name: str, how: Callable[[Path], Any]) -> Any:
        path = run / name
        if not path.is_file():
            return None
        there.append(name)
        try:
            return how(path)
        except (OSError, ValueError, KeyError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error) as fault:
            faults.append((name, " ".join(str(fault).split())[:200] or type(fault).__name__))
            return None

    events = rows(load("events.jsonl", lambda path: read_events(path.parent)) or [])
    plan, verdicts = mapping(load("plan.json", read_json)), mapping(load("verdicts.json", read_json))
    record = Record(
        run=run,
        settings=mapping(load("settings.json", read_json)),
        provenance=mapping(load("provenance.json", read_json)),
        plan=rows(plan.get("lines")),
        passport=mapping(load("passport.json", read_json)),
        distribution=mapping(load("distribution.json", read_json)),
        preview=load("preview.npz", _previews) or {},
        steps=[event for event in events if event.get("event") == "step"],
        watches=[event for event in events if event.get("event") == "watch"],
        waiting=next((number(e.get("waiting")) for e in reversed(events) if e.get("event") == "pretrained"), math.nan),
        observed=mapping(load("observations/observe.json", read_json)),
        tokens=load("observations/tokens.npz", _token_pictures) or {},
        scores=load("adapt/scores.csv", _table) or [],
        summary=mapping(load("adapt/summary.json", read_json)),
        examples=load("adapt/examples.npz", _example_pictures) or {},
        notes=rows(load("adapt/examples.json", read_json) or []),
        compared=mapping(load("compare/summary.json", read_json)),
        verdicts=rows(verdicts.get("sentences")),
        faults=faults,
        begun=bool(set(there) - LOOKED),
    )
    if not there:
        raise InputError(
            f"{run} is not a run: it holds no settings.json, passport.json or events.jsonl. Give the folder that a run wrote."
        )
    return record


def _table(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _arrays(path: Path, shapes: dict[str, int]) -> Arrays:
    """Named arrays with their numbers of axes; image first, the others of its (n, H, W)."""
    with np.load(path, allow_pickle=False) as stored:
        found = {name: stored[name] for name in shapes if name in stored.files}
    image = found.get("image")
    if image is None or image.ndim != 3 or 0 in image.shape:
        raise ValueError("no `image` of shape (n, H, W) in it")
    for name, array in found.items():
        if array.ndim != shapes[name] or array.shape[:3] != image.shape or (array.ndim == 4 and array.shape[3] != 3):
            raise ValueError(f"`{name}` has shape {array.shape}, `image` has {image.shape}")
    return found


def _previews(path: Path) -> Arrays:
    return _arrays(path, {"image": 3, "mask": 3})


def _token_pictures(path: Path) -> Arrays:
    return _arrays(path, {"image": 3, "final": 4, "initial": 4, "pixels": 4})


def _example_pictures(path: Path) -> Arrays:
    return _arrays(path, {"image": 3, "truth": 3, "prediction": 3})
