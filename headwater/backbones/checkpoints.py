"""Other people's files of weights, read without running anything that is in them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headwater.errors import InputError

PICKLED = (".pth", ".pt", ".ckpt", ".bin")
NAMES = ("model.safetensors", "pytorch_model.bin", "checkpoint_final.pth", "checkpoint_best.pth")  # of a folder, in this order
REFUSED = torch.serialization.pickle.UnpicklingError  # what torch's restricted reader raises
FAULTS = (  # what torch.load raises for files that are damaged or no checkpoints
    *(RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, RecursionError, UnicodeError),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by dotted name, all else it says (`words`), and the settings beside it (config.json).

    others  entries of the file that are no weights of a network, such as the state of an optimizer
    """

    path: Path
    tensors: dict[str, Tensor]
    words: dict[str, Any]
    config: dict[str, Any] | None
    others: tuple[str, ...]


def read(path: Path | str) -> Checkpoint:
    """A file (.safetensors, .pth, .pt, .ckpt, .bin), or a folder with one of `NAMES` and perhaps a config.json.

    Pickles are read by torch's restricted reader: tensors and plain values alone. Scalars of numpy become Python numbers
    by a reader of our own. Raises: InputError for files that are absent, damaged, or hold other classes.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: give a file of weights, or the folder it lies in")
    file = _within(path) if path.is_dir() else path
    if file.suffix == ".safetensors":
        content: Any = _safetensors(file)
    elif file.suffix in PICKLED:
        content = _pickled(file)
    else:
        raise InputError(f"{file} is no file of weights that can be read: give .safetensors or one of {', '.join(PICKLED)}")
    tensors, others = _flat(content)
    if not tensors:
        raise InputError(f"{file} holds no weights: give a checkpoint that holds a network's state")
    config = _config(file.parent / "config.json") if path.is_dir() or file.name in NAMES[:2] else None
    words = {str(k): v for k, v in content.items() if not isinstance(v, Tensor)}
    return Checkpoint(file, tensors, words, config, tuple(others))


def _within(folder: Path) -> Path:
    """The file of weights in a folder."""
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if found:
        return found[0]
    if list(folder.glob("*.index.json")):
        raise InputError(f"the weights in {folder} are split over several files: save them as one model.safetensors")
    alone = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", *PICKLED)) if folder.is_dir() else []
    if len(alone) == 1:
        return alone[0]
    what = f"{len(alone)} files of weights" if alone else "no weights"
    raise InputError(f"{folder} holds {what}: give the file itself, or a folder with {NAMES[0]} or {NAMES[2]}")


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as fault:
        raise InputError(f"{file} is no whole safetensors file ({_short(fault)}): fetch it again") from fault


def _pickled(file: Path) -> Mapping[str, Any]:
    """What torch.load gives. Nothing of the file is called or imported beyond torch's own short list and our two stand-ins."""
    named = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [(_Kind, "numpy.dtype")]
    try:
        with torch.serialization.safe_globals(named):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except REFUSED as fault:
        refused = re.search(r"GLOBAL (\S+)", str(fault))
        if refused is None:
            raise InputError(f"{file} is damaged or no checkpoint of torch ({_short(fault)}): fetch it again") from fault
        raise InputError(
            f"{file} holds a {refused[1]}, which could run code when read, so it is not read: "
            f"save the weights alone, as safetensors or with torch.save(network.state_dict(), ..)"
        ) from fault
    except FAULTS as fault:
        raise InputError(f"{file} is damaged or no checkpoint of torch ({_short(fault)}): fetch it again") from fault
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__}, not weights by name: save network.state_dict()")
    return content


class _Kind:
    """Stands in for numpy.dtype: remembers the kind of number and the order of its bytes, runs nothing of numpy."""

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


def _scalar(kind: _Kind, data: bytes) -> float | int | bool:
    """Stands in for numpy's own: a plain number from its bytes."""
    if not isinstance(kind, _Kind) or not re.fullmatch(r"[fiu][248]|[iub]1", kind.code) or not isinstance(data, bytes):
        raise ValueError("a numpy scalar that is no plain number")
    return np.frombuffer(data, np.dtype(kind.order + kind.code), count=1)[0].item()


def _flat(content: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of nested mappings by dotted name; names of what holds none, and of optimizers."""
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping) and not {"state", "param_groups"} <= value.keys() and prefix.count(".") < 8:
            inner, _ = _flat(value, f"{name}.")
            tensors |= inner
            others += [] if inner else [name]
        else:
            others.append(name)
    return tensors, others


def _config(file: Path) -> dict[str, Any] | None:
    """The settings beside the weights, or None where there are none."""
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as fault:
        raise InputError(f"{file} is no JSON ({_short(fault)}): fetch it again") from fault
    if not isinstance(config, dict):
        raise InputError(f"{file} holds a {type(config).__name__}, not settings by name: fetch it again")
    return config


def _short(fault: Exception) -> str:
    """The first line of an error, not the whole story."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0][:120]
