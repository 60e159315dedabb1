"""Checkpoints of nnU-Net and of nnssl (OpenMind): which encoder they are of, and its weights in ours."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from headwater.backbones.checkpoints import Checkpoint
from headwater.backbones.matching import Loaded, Part, fill
from headwater.backbones.nnunet import KINDS, arch_kwargs, from_nnunet, from_plan
from headwater.backbones.pyramid import per_stage
from headwater.backbones.resenc import ResEnc
from headwater.backbones.unet import UNet
from headwater.errors import InputError
from headwater.streams import seeded

WEIGHTS = "network_weights."
RESIDUAL = "ResidualEncoderUNet"
PRESETS = ("ResEncL", "NoSkipResEncL")  # nnssl's names for residual encoders whose settings it does not write down
WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")


@dataclass(frozen=True)
class Described:
    """An architecture as nnU-Net's plans put it, where its encoder's names begin, and whose it is."""

    architecture: dict[str, Any]
    prefix: str
    source: str


def described(checkpoint: Checkpoint) -> Described | None:
    """What a checkpoint says of its network; None where it is neither nnU-Net's nor nnssl's.

    Raises: InputError for architectures that Headwater does not have and for plans that are not whole.
    """
    if not any(name.startswith(WEIGHTS) for name in checkpoint.tensors):
        return None
    if (plan := _mapping(checkpoint, checkpoint.words.get("nnssl_adaptation_plan"), "nnssl_adaptation_plan")) is not None:
        return _nnssl(checkpoint, plan)
    if (told := _mapping(checkpoint, checkpoint.words.get("init_args"), "init_args")) is not None:
        return _nnunet(checkpoint, told)
    raise InputError(
        f"{checkpoint.path} has network_weights but neither init_args (nnU-Net) nor nnssl_adaptation_plan (nnssl): "
        "use the checkpoint_final.pth that the training wrote"
    )


def _mapping(checkpoint: Checkpoint, value: Any, name: str) -> Mapping[str, Any] | None:
    """A mapping, perhaps written as JSON; None where there is nothing."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as fault:
            raise InputError(f"{name} of {checkpoint.path} is no JSON: use the checkpoint that the training wrote") from fault
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{name} of {checkpoint.path} is no mapping of settings: use the checkpoint that the training wrote")
    return value


def _nnunet(checkpoint: Checkpoint, told: Mapping[str, Any]) -> Described:
    """From the plans a trainer was given; those before nnU-Net 2.4 say it in other words."""
    try:
        every, name = told["plans"]["configurations"], told["configuration"]
        plan, seen = dict(every[name]), {name}
        while (parent := plan.pop("inherits_from", None)) is not None and parent not in seen:
            seen.add(parent)
            plan = {**every[parent], **plan}
        architecture = dict(plan["architecture"]) if "architecture" in plan else _older(plan)
        kind = str(architecture["network_class_name"]).rpartition(".")[2]
        architecture = {"network_class_name": kind, "arch_kwargs": dict(architecture["arch_kwargs"])}
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise InputError(
            f"the plans in {checkpoint.path} do not say what the network is ({fault!r}): train with nnU-Net 2"
        ) from fault
    _known(checkpoint, kind)
    return Described(architecture, "encoder.", f"nnU-Net {kind} ({name}) of {checkpoint.path.name}")


def _older(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture from plans before nnU-Net 2.4."""
    kind, strides = plan["UNet_class_name"], plan["pool_op_kernel_sizes"]
    widths = [min(plan["UNet_base_num_features"] * 2**i, plan["unet_max_num_features"]) for i in range(len(strides))]
    depth = "n_blocks_per_stage" if kind == RESIDUAL else "n_conv_per_stage"
    return {
        "network_class_name": kind,
        "arch_kwargs": arch_kwargs(len(strides[0]), widths, plan["conv_kernel_sizes"], strides)
        | {depth: plan["n_conv_per_stage_encoder"], "n_conv_per_stage_decoder": plan["n_conv_per_stage_decoder"]},
    }


def _nnssl(checkpoint: Checkpoint, plan: Mapping[str, Any]) -> Described:
    """From an adaptation plan: the architecture by name, its settings where it has any, the places of encoder and stem."""
    try:
        kind, told = plan["architecture_plans"]["arch_class_name"], plan["architecture_plans"].get("arch_kwargs")
        prefix = plan.get("key_to_encoder", "encoder.stages").removesuffix("stages")
    except (KeyError, TypeError, AttributeError) as fault:
        raise InputError(
            f"the nnssl_adaptation_plan of {checkpoint.path} names no architecture: write it with nnssl again"
        ) from fault
    source = f"nnssl {kind} of {checkpoint.path.name}"
    if kind in PRESETS and not told:
        told, kind = _preset(checkpoint, prefix), RESIDUAL
    _known(checkpoint, kind)
    if not told:
        raise InputError(
            f"the nnssl_adaptation_plan of {checkpoint.path} has no arch_kwargs for its {kind}: write it with nnssl again"
        )
    return Described({"network_class_name": kind, "arch_kwargs": dict(told)}, prefix, source)


def _preset(checkpoint: Checkpoint, prefix: str) -> dict[str, Any]:
    """Settings of nnssl's residual encoder, read off its weights: widths, blocks, kernels; strides are 2 but the first."""
    stages = _stages(_parts(checkpoint, prefix)[0], "second.conv.weight")
    if not stages or len(stages[0][2]) not in (2, 3):
        raise InputError(f"{checkpoint.path} has no residual encoder under {prefix!r}: use a checkpoint that nnssl wrote")
    widths, blocks, kernels = zip(*stages, strict=True)
    ndim = len(kernels[0])
    settings = arch_kwargs(ndim, list(widths), list(kernels), [[1] * ndim] + [[2] * ndim] * (len(stages) - 1))
    return settings | {"n_blocks_per_stage": list(blocks), "n_conv_per_stage_decoder": [1] * (len(stages) - 1)}


def _known(checkpoint: Checkpoint, kind: str) -> None:
    """Raises InputError for another architecture than the two."""
    if kind not in KINDS:
        raise InputError(f"{checkpoint.path} is of a {kind}, which Headwater does not have: use a {' or '.join(KINDS)}")


def load_nnunet(checkpoint: Checkpoint, told: Described, ndim: int | None, channels: int | None, patch: int | None) -> Loaded:
    """The encoder of this network: the maps of its pyramid are the original's skips. The decoder's names are listed, not used.

    Channels other than the file's: the first convolution gets its sum over channels, shared, as for ViTs.
    Raises: InputError for settings and parts that our encoders do not have, and for another ndim than the file's.
    """
    parts, unexpected = _parts(checkpoint, told.prefix)
    entry = "stem.conv.weight" if "stem.conv.weight" in parts else "stages.0.0.conv.weight"
    if entry not in parts or parts[entry].tensor.ndim not in (4, 5):
        raise InputError(f"{checkpoint.path} has no convolution under {told.prefix!r}: use a checkpoint of nnU-Net or nnssl")
    first = parts[entry].tensor
    native, old = first.ndim - 2, first.shape[1]
    if ndim not in (None, native):
        raise InputError(f"the network in {checkpoint.path} is {native}D: use ndim={native}")
    channels = channels or old
    if channels != old:
        shared = first.sum(1, keepdim=True).expand(-1, channels, *[-1] * native) / channels
        parts[entry] = Part(shared, parts[entry].names, f"{old} channels summed, shared by {channels}")
    with seeded(0, "weights", "nnunet"):
        backbone = _built(checkpoint, told, parts, channels, patch or 4)
    return fill(backbone, parts, unexpected, told.source)


def _parts(checkpoint: Checkpoint, prefix: str) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Our names -> parts, and names without use. One layer has several names in these files: all that agree are told.

    Raises: InputError for parts of the encoder that ours does not have.
    """
    parts: dict[str, Part] = {}
    foreign: list[str] = []
    unexpected = [name for name in (*checkpoint.others, *checkpoint.tensors) if not f"{name}.".startswith(WEIGHTS)]
    again = f"decoder.{prefix}"  # the decoder keeps its encoder
    held = [name for name in checkpoint.tensors if name.startswith(WEIGHTS)]
    for name in sorted(held, key=lambda name: again in name):
        short, tensor = WRAPPED.sub("", name.removeprefix(WEIGHTS)), checkpoint.tensors[name]
        start = next((start for start in (again, prefix) if short.startswith(start)), None)
        ours = None if start is None else next(iter(from_nnunet({f"encoder.{short.removeprefix(start)}": tensor})[0]), None)
        if ours is not None and ours not in parts:
            parts[ours] = Part(tensor, (name,))
        elif ours is not None and torch.equal(parts[ours].tensor, tensor):
            parts[ours] = replace(parts[ours], names=(*parts[ours].names, name))
        else:
            (foreign if start is not None and ours is None else unexpected).append(name)
    if foreign:
        some = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise InputError(
            f"{checkpoint.path} has parts that our encoders do not have ({some}): use one of nnU-Net's default plans"
        )
    return parts, tuple(unexpected)


def _built(checkpoint: Checkpoint, told: Described, parts: dict[str, Part], channels: int, patch: int) -> ResEnc | UNet:
    """Our encoder for their settings. Raises InputError for settings it does not have, and where the weights say otherwise."""
    kind, blocks = KINDS[told.architecture["network_class_name"]]
    try:
        kwargs = {**told.architecture["arch_kwargs"]}
        kwargs["nonlin"] = str(kwargs["nonlin"]).rpartition(".")[2]
        stages = _stages(parts, "second.conv.weight" if kind is ResEnc else "conv.weight")
        named = [[v] * len(stages) if isinstance(v, int) else list(v) for v in (kwargs["features_per_stage"], kwargs[blocks])]
        kernels = per_stage(kwargs["kernel_sizes"], len(stages), len(stages[0][2]), "kernels")
        if stages != list(zip(*named, kernels, strict=True)) or kwargs["n_stages"] != len(stages):
            wide = f"stages of widths {named[0]}, {named[1]} blocks and kernels {list(kernels)}"
            raise InputError(f"the plans have {wide}, the weights do not; use files that belong together")
        if (stem := kwargs.get("stem_channels")) and stem != len(parts["stem.conv.weight"].tensor):
            raise InputError(f"the plans have a stem {stem} wide, the weights do not; use files that belong together")
        kwargs["n_conv_per_stage_decoder"] = [1] * (len(stages) - 1)  # the decoder is not kept
        return from_plan({**told.architecture, "arch_kwargs": kwargs}, channels, 1, patch, deep=False)[0]
    except InputError as fault:
        raise InputError(f"{checkpoint.path}: {fault}") from fault
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as fault:
        raise InputError(
            f"the arch_kwargs in {checkpoint.path} are not whole ({fault!r}): use the file the training wrote"
        ) from fault


def _stages(parts: dict[str, Part], layer: str) -> list[tuple[int, int, tuple[int, ...]]]:
    """Width, blocks and kernel of every stage, from the shapes of this layer's weights."""
    found: dict[int, list[torch.Tensor]] = {}
    for name, part in parts.items():
        if told := re.fullmatch(rf"stages\.(\d+)\.\d+\.{re.escape(layer)}", name):
            found.setdefault(int(told[1]), []).append(part.tensor)
    return [(len(blocks[0]), len(blocks), tuple(blocks[0].shape[2:])) for _, blocks in sorted(found.items())]
