"""A clean way out: what a run trained, as files that others read, each with a model card."""

import os
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from headwater.errors import InputError
from headwater.runfolder import private_folder, write_text

TARGETS = ("safetensors", "onnx", "nnunet", "huggingface")
PLACES = {"safetensors": "weights", "onnx": "graph", "nnunet": "nnunet", "huggingface": "hugging"}
FILES = {
    "model.safetensors": "weights; says itself what network they are of",
    "model.onnx": "the network as ONNX",
    "model.onnx.data": "weights of a network that is too large for one file",
    "config.json": "what the network is",
    "preprocessor_config.json": "how images are made ready",
    "checkpoint_final.pth": "weights under nnU-Net's names with nnssl's adaptation plan: plain tensors and values, no code",
    "adaptation_plan.json": "the adaptation plan once more, to read",
    "Dataset999_Headwater": "nnU-Net plans with this network, to be moved to a data set",
}


@dataclass(frozen=True)
class Exported:
    """folder: where the files are. files: name and bytes. words: what whoever uses them must know, a sentence each."""

    folder: Path
    files: tuple[tuple[str, int], ...]
    words: tuple[str, ...]


def export(run: Path | str, to: str, out: Path | str | None = None, *, what: str = "", replace: bool = False) -> Exported:
    """The network of a run folder in a folder of its own, with README.md, its model card.

    to       safetensors, onnx, nnunet or huggingface
    out      the folder; by default RUN/export/TO
    what     "backbone" or "segmenter"; by default the segmenter where there is one, but the backbone for nnunet and huggingface
    replace  whether a folder that has files in it may be replaced
    The folder is whole or absent. Raises: InputError for an unknown target, no run, no such network in it, a network that the
    target does not have, a folder in the way, or a library that is not installed.
    """
    if to not in TARGETS:
        raise InputError(f"There is no export to {to!r}: use one of {', '.join(TARGETS)}.")
    from headwater.transfer.export.card import card
    from headwater.transfer.export.source import source

    found = source(run, what or ("backbone" if to in ("nnunet", "huggingface") and _pretrained(Path(run)) else ""))
    folder = Path(out) if out is not None else Path(run) / "export" / to
    _refuse(folder, replace)
    room = import_module(f"headwater.transfer.export.{PLACES[to]}")
    private_folder(folder.absolute().parent)
    beside = folder.absolute().with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        beside.mkdir(mode=0o700)
        words = room.write(beside, found)
        names = sorted(path.name for path in beside.iterdir())
        commands = room.commands(found) if hasattr(room, "commands") else ""
        files = [(name, FILES[name]) for name in names]
        write_text(beside / "README.md", card(found, files, room.loading(found), words, commands))
        _put(beside, folder.absolute())
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sizes = ((str(path.relative_to(folder)), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file())
    return Exported(folder, tuple(sizes), words)


def _pretrained(run: Path) -> bool:
    """Whether there is a backbone of pretraining."""
    return (run / "state" / "pretrain.safetensors").is_file()


def _refuse(folder: Path, replace: bool) -> None:
    """Raises InputError where something is in the way."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder for the export (--out).")
    if folder.is_dir() and any(folder.iterdir()):
        if not replace:
            raise InputError(f"{folder} has files in it already: give another folder (--out), or say --replace.")
        if foreign := sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, "README.md")):
            raise InputError(f"{folder} holds {foreign[0]}, which is no export and would be lost: give another folder (--out).")


def _put(beside: Path, folder: Path) -> None:
    """Moves a finished folder to its place; what was there goes last."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(beside, folder)
    shutil.rmtree(old, ignore_errors=True)
