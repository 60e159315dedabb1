"""Headwater's own states and run folders: they say themselves what network they hold."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from headwater.backbones.families import build
from headwater.backbones.matching import Loaded, Part, fill
from headwater.errors import InputError

STATE = Path("state") / "pretrain.safetensors"  # of a run folder
KEPT = "teacher.backbone."  # what a run ends with; the student and the heads are for going on
EXPORTED = "model.safetensors"  # of a folder that was exported


def state_of(path: Path) -> Path | None:
    """The state that a path means: a run folder's, an exported folder's, or the file itself; None if it is not ours."""
    for file in (path / STATE, path / EXPORTED) if path.is_dir() else (path,):
        if file.is_file() and file.suffix == ".safetensors" and words(file) is not None:
            return file
    return None


def words(file: Path) -> dict[str, Any] | None:
    """What a state says of itself; None if it is not ours. Raises: InputError for a damaged file."""
    try:
        with safe_open(file, framework="pt") as opened:
            said = (opened.metadata() or {}).get("headwater")
            return None if said is None else json.loads(said)
    except (SafetensorError, OSError, ValueError) as fault:
        raise InputError(f"{file} cannot be read ({fault}): give a whole file of weights") from fault


def load_own(file: Path, ndim: int | None = None, channels: int | None = None, patch: int | None = None) -> Loaded:
    """The backbone of a state, of an export or of a segmenter; the student, the heads and the optimiser are listed and left.

    Raises: InputError for a state that does not say what it holds (written before it did), and for other images than its own.
    """
    said = words(file) or {}
    told, kept = said.get("backbone"), "backbone." if said.get("kind") == "segmenter" else said.get("kept", KEPT)
    if told is None:
        raise InputError(f"{file} does not say what network it holds: go on with its run (headwater pretrain) to write it anew")
    for name, wanted in (("ndim", ndim), ("channels", channels), ("patch", patch)):
        if wanted not in (None, told[name]):
            raise InputError(f"{file} was trained with {name} {told[name]}, not {wanted}: use images and settings like its own")
    backbone = build(**told, seed=0)
    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
        parts = {name.removeprefix(kept): Part(opened.get_tensor(name), (name,)) for name in names if name.startswith(kept)}
    return fill(backbone, parts, tuple(name for name in names if not name.startswith(kept)), "Headwater")
