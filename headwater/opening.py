"""Anybody's checkpoint as a model to look at, and beside it the same network with fresh weights."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.errors import InputError
from headwater.scans.fit import Wants
from headwater.scans.gather import FEWEST, MOST
from headwater.streams import seeded

if TYPE_CHECKING:
    from torch import nn

    from headwater.backbones import Backbone

OURS = ("vit", "dinov2", "dinov2_with_registers", "headwater")  # model types that our backbones compute; the last is our own
WEIGHTS = ("*.safetensors", "*.bin")
LONGEST = 128  # tokens of a text


@dataclass(frozen=True, eq=False)
class Opened:
    """model, untrained: the network as it is in the file, and the same with fresh weights; float32, in evaluation mode.

    reads: "images" or "text". folder: where a tokenizer may lie. words: what a reader must know, a sentence each.
    """

    name: str
    model: "nn.Module"
    untrained: "nn.Module"
    wants: Wants
    words: tuple[str, ...]
    reads: str = "images"
    folder: Path | None = None


def open_model(path: Path | str, seed: int = 0) -> Opened:
    """The network in a run folder or state of ours, a .safetensors, .pt, .pth, .ckpt or .bin file, or a folder of Hugging Face.

    Nothing in the file is run: pickles are read by torch's restricted reader, no code beside the weights is loaded.
    Raises: InputError for what is absent, damaged, holds code or no network that is known here.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist (given as the model). Check the path.")
    told = _config(path)
    if told is not None and told.get("model_type") not in (*OURS, None):
        return _hugging(path, told, seed)
    from headwater.backbones import load

    loaded = load(path)
    backbone = loaded.backbone.float().eval()
    words = [f"{loaded.source}: {len(loaded.matched)} parameters of {len(loaded.matched) + len(loaded.missing)} are in the file"]
    if loaded.missing:
        words.append(f"{len(loaded.missing)} parameters are not in the file and keep a random start, {loaded.missing[0]} first")
    wants = Wants(backbone.ndim, backbone.channels, _size(told, backbone.ndim), backbone.stride, *_scale(path, backbone.channels))
    return Opened(path.name or str(path), backbone, fresh_backbone(backbone, path, seed), wants, tuple(words))


def _config(path: Path) -> dict[str, Any] | None:
    """config.json of a folder of Hugging Face, or of the folder its file of weights lies in; None where there is none."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file() or (path.is_file() and path.name != "model.safetensors"):
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as fault:
        raise InputError(f"{file} is no JSON: fetch it again.") from fault
    return found if isinstance(found, dict) else None


def _size(told: dict[str, Any] | None, ndim: int) -> tuple[int, ...]:
    """Size of the images it was trained on, where the settings say so."""
    size = (told or {}).get("image_size")
    size = [size] * ndim if isinstance(size, int) else size
    if isinstance(size, (list, tuple)) and len(size) == ndim and all(isinstance(n, int) and 0 < n <= 384 for n in size):
        return tuple(size)
    return ()


def _scale(path: Path, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation its images were normalised by, where a preprocessor_config.json says so."""
    try:
        found = json.loads(((path if path.is_dir() else path.parent) / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, deviation = (tuple(float(v) for v in found[key]) for key in ("image_mean", "image_std"))
    except (ValueError, OSError, KeyError, TypeError, RecursionError):
        return (), ()
    return (mean, deviation) if len(mean) == len(deviation) == channels and min(deviation) > 0 else ((), ())


def fresh_backbone(backbone: "Backbone", path: Path, seed: int) -> "Backbone":
    """The same network with the weights it would have been given before training."""
    from headwater.backbones import ViT, build
    from headwater.backbones.own import state_of, words

    told = (words(own) or {}).get("backbone") if (own := state_of(path)) is not None else None
    if told is not None:
        return build(**told, seed=seed).eval()
    if type(backbone) is ViT:
        depth, sizes = len(backbone.stack.blocks), (backbone.ndim, backbone.channels, backbone.dim)
        with seeded(seed, "weights", "vit"):
            return ViT(*sizes, depth, backbone.heads, backbone.stride[0], backbone.style).eval()
    return fresh(backbone, seed)


def fresh(model: "nn.Module", seed: int) -> "nn.Module":
    """A copy in which every module that can is reset as torch would make it; what no module resets is drawn with deviation 0.02,
    but for single vectors, which stay."""
    import torch

    copied = copy.deepcopy(model)
    reset: set[int] = set()
    with seeded(seed, "fresh"), torch.no_grad():
        for module in copied.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()
                reset |= {id(p) for p in module.parameters(recurse=False)}
        for parameter in copied.parameters():
            if id(parameter) not in reset and parameter.ndim > 1:
                parameter.normal_(0, 0.02)
    return copied.eval()


def _hugging(path: Path, told: dict[str, Any], seed: int) -> Opened:
    """A model of any family that transformers knows, from a folder and nothing else."""
    folder = path if path.is_dir() else path.parent
    kind = str(told.get("model_type"))
    if not any(list(folder.glob(pattern)) for pattern in WEIGHTS):
        raise InputError(f"{folder} holds a config.json and no weights: put its model.safetensors beside it.")
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging as said
    except ImportError as fault:
        raise InputError(f"{folder} holds a model of the family {kind}: pip install headwater[huggingface].") from fault
    import torch
    from safetensors import SafetensorError

    quiet, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, found = AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
        with seeded(seed, "weights", kind):
            untrained = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as fault:
        short = (str(fault).strip().splitlines() or [type(fault).__name__])[0][:160].rstrip(".")
        raise InputError(
            f"{folder} cannot be read as a {kind} of transformers ({short}): fetch it again as safetensors."
        ) from fault
    finally:
        said.set_verbosity(quiet)
        said.enable_progress_bar() if bars else None
    return _described(folder, model.float().eval(), untrained.float().eval(), told, sorted(found.get("missing_keys") or []))


def _described(folder: Path, model: "nn.Module", untrained: "nn.Module", told: dict[str, Any], missing: list[str]) -> Opened:
    """What a model of transformers takes and gives."""
    whole = len(model.state_dict())
    if 2 * len(missing) > whole:
        raise InputError(
            f"{folder} lacks {len(missing)} of {whole} parameters: give a checkpoint of the network that its config says."
        )
    words = [f"{type(model).__name__} of transformers: {whole - len(missing)} parameters of {whole} are in the file"]
    if missing:
        words.append(f"{len(missing)} parameters are not in the file and keep a random start, {missing[0]} first")
    name, reads = folder.resolve().name, getattr(model, "main_input_name", "")
    if reads == "input_ids":
        return Opened(name, model, untrained, Wants(1), tuple(words), reads="text", folder=folder)
    if reads != "pixel_values":
        raise InputError(
            f"{folder} holds a {type(model).__name__}, which reads {reads or 'nothing known'}: give a model of images or text."
        )
    channels = told.get("num_channels")
    channels = channels if isinstance(channels, int) and channels > 0 else 3
    wants = Wants(2, channels, _size(told, 2) or (224, 224), (), *_scale(folder, channels))
    return Opened(name, model, untrained, wants, tuple(words))


def texts(opened: Opened, place: Path | str) -> dict[str, Any]:
    """A batch of ids for a model of text, at most 96 rows of 128 tokens.

    place: a .txt file, a sentence a line, read by the tokenizer in the model's folder; or whole numbers (n, N) in an .npy.
    Raises: InputError for fewer than 8, and for ids that the model does not have.
    """
    import torch

    place = Path(place)
    if not place.exists():
        raise InputError(f"{place} does not exist (given as images). Check the path.")
    if place.suffix.lower() == ".npy":
        batch = {"input_ids": torch.from_numpy(_ids(place))}
    else:
        batch = _tokenized(opened, place)
    batch = {name: rows[:MOST, :LONGEST] for name, rows in batch.items()}
    if len(batch["input_ids"]) < FEWEST:
        raise InputError(f"{place} has {len(batch['input_ids'])} lines: give at least {FEWEST}.")
    known = opened.model.get_input_embeddings().num_embeddings
    if int(batch["input_ids"].max()) >= known or int(batch["input_ids"].min()) < 0:
        raise InputError(f"{place} has ids outside of the {known:,} that the model knows: use its own tokenizer.")
    return batch


def _ids(place: Path) -> Any:
    from headwater.scans.formats import arrays

    found = arrays.load(place)
    if found.ndim != 2 or found.dtype.kind not in "iu":
        raise InputError(
            f"{place} is no table of ids: save whole numbers (n, tokens), or give a .txt file with a sentence a line."
        )
    return found.astype("int64")


def _tokenized(opened: Opened, place: Path) -> dict[str, Any]:
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()][:MOST]
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{opened.name} reads text, and {place} is none: give a .txt file with a sentence a line.") from fault
    if len(lines) < FEWEST:
        raise InputError(f"{place} has {len(lines)} lines: give at least {FEWEST}.")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(opened.folder, local_files_only=True, trust_remote_code=False)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        found = tokenizer(lines, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as fault:
        raise InputError(f"{opened.folder} holds no tokenizer that can be read: give ids as an .npy (n, tokens).") from fault
    return {name: found[name] for name in ("input_ids", "attention_mask") if name in found}
