"""nnU-Net: its plans as our networks, its parameter names as ours, both ways.

Names follow ResidualEncoderUNet and PlainConvUNet of dynamic-network-architectures (0.4), the networks of nnU-Net v2.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from headwater.backbones.convolutions import CONV, CONV_TRANSPOSED, SLOPE, Residual
from headwater.backbones.decoder import Decoder
from headwater.backbones.features import Backbone
from headwater.backbones.resenc import ResEnc
from headwater.backbones.unet import UNet
from headwater.errors import InputError

KINDS = {"ResidualEncoderUNet": (ResEnc, "n_blocks_per_stage"), "PlainConvUNet": (UNet, "n_conv_per_stage")}
FIXED = {"dropout_op": (None,), "nonlin": ("torch.nn.LeakyReLU", "LeakyReLU"), "nonlin_first": (False, None)}
TWICE = [(r"^(module\.|_orig_mod\.)+", ""), (r"^decoder\.encoder\.", "encoder.")]  # the same tensors under a second name
PARTS = {"0": "conv", "1": "norm"}


@dataclass(frozen=True)
class Copied:
    """What became of a state dict: names copied, names of theirs left over, names of ours that nothing was copied to."""

    copied: list[str]
    left_over: list[str]
    missing: list[str]


def from_plan(
    architecture: Mapping[str, Any], channels: int, classes: int, patch: int = 4, deep: bool = True
) -> tuple[ResEnc | UNet, Decoder]:
    """Encoder and decoder of a plan's `architecture` (configurations -> 3d_fullres -> architecture), initialised as nnU-Net's.

    deep: with the heads of deep supervision, which nnU-Net always has.
    Raises: InputError for another network, or a norm or activation that ours do not have.
    """
    name, given = str(architecture.get("network_class_name")).rsplit(".", 1)[-1], architecture.get("arch_kwargs", {})
    if name not in KINDS:
        raise InputError(f"there is no network {name} here: use a plan of {' or '.join(KINDS)}")
    kind, blocks = KINDS[name]
    needed = ("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", blocks, "n_conv_per_stage_decoder")
    if absent := [key for key in needed if key not in given]:
        raise InputError(f"the plan lacks {', '.join(absent)}: give the whole arch_kwargs")
    refuse_departures(given)
    count, ndim = given["n_stages"], 2 if str(given["conv_op"]).rstrip("'>").endswith("2d") else 3
    spread = {key: [given[key]] * count if isinstance(given[key], int) else given[key] for key in ("features_per_stage", blocks)}
    options = {"kernels": given["kernel_sizes"], "strides": given["strides"], "bias": given.get("conv_bias", False)}
    if kind is ResEnc:
        options["stem"] = given.get("stem_channels")
    backbone = kind(ndim, channels, tuple(spread["features_per_stage"]), tuple(spread[blocks]), patch, **options)
    decoder = Decoder(backbone, classes, given["n_conv_per_stage_decoder"], deep=deep)
    for module in [*backbone.modules(), *decoder.modules()]:
        initialise(module)
    return backbone, decoder


def arch_kwargs(ndim: int, widths: list[int], kernels: list, strides: list) -> dict[str, Any]:
    """What nnU-Net gives every network it plans."""
    return {
        "n_stages": len(widths),
        "features_per_stage": widths,
        "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
        "kernel_sizes": kernels,
        "strides": strides,
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def refuse_departures(given: Mapping[str, Any]) -> None:
    """Raises InputError if the plan asks for what our blocks do not do."""
    for key, allowed in FIXED.items():
        value = given.get(key, allowed[0])
        value = value if value is None or isinstance(value, bool) else str(getattr(value, "__name__", value))
        if value not in allowed:
            raise InputError(f"{key} {value} of the plan is not what ours do: use {allowed[0]}")
    norm, options = str(given.get("norm_op", "InstanceNorm")), given.get("norm_op_kwargs") or {}
    if "InstanceNorm" not in norm or not options.get("affine", False) or options.get("eps", 1e-5) != 1e-5:
        raise InputError(f"norm {norm} with {dict(options)}: use InstanceNorm with affine true and eps 1e-5")
    if (slope := (given.get("nonlin_kwargs") or {}).get("negative_slope", SLOPE)) != SLOPE:
        raise InputError(f"a LeakyReLU of slope {slope} is not what ours do: use {SLOPE}")
    if "Bottleneck" in str(given.get("block", "")) or given.get("bottleneck_channels"):
        raise InputError("blocks with a bottleneck are not built here: use a plan of BasicBlockD")


def initialise(module: nn.Module) -> None:
    """nnU-Net's start: He normal for every convolution, biases 0, and the last gain of a residual block 0."""
    if isinstance(module, (*CONV.values(), *CONV_TRANSPOSED.values())):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Residual):
        nn.init.zeros_(module.second.norm.weight)


def to_nnunet(backbone: ResEnc | UNet, decoder: Decoder | None = None) -> dict[str, Tensor]:
    """Our parameters under nnU-Net's names, every second name included: what its network's load_state_dict takes."""
    found = {}
    for name, tensor in backbone.state_dict().items():
        found[f"encoder.{encoder_name(name, backbone)}"] = tensor
    for name, tensor in decoder.state_dict().items() if decoder else ():
        found[f"decoder.{decoder_name(name, len(decoder.steps))}"] = tensor
    for name, tensor in list(found.items()):
        for number, part in PARTS.items():
            if f"convs.{part}." in name or re.search(rf"\.(\d+|conv1|conv2)\.{part}\.", name):
                found[re.sub(rf"\.{part}\.(?=\w+$)", f".all_modules.{number}.", name)] = tensor
    if decoder:
        found |= {f"decoder.{name}": tensor for name, tensor in found.items() if name.startswith("encoder.")}
    return found


def encoder_name(name: str, backbone: ResEnc | UNet) -> str:
    """Their name, below `encoder`, of one of our encoder's parameters."""
    if name.startswith("stem."):
        return name.replace("stem.", "stem.convs.0.", 1)
    _, stage, block, rest = name.split(".", 3)
    if isinstance(backbone, UNet):
        return f"stages.{stage}.0.convs.{block}.{rest}"
    strides = max(backbone.steps[int(stage)]) > 1
    rest = rest.replace("first.", "conv1.").replace("second.", "conv2.").replace("shortcut.", f"skip.{int(strides)}.")
    return f"stages.{stage}.blocks.{block}.{rest}"


def decoder_name(name: str, steps: int) -> str:
    """Their name, below `decoder`, of one of our decoder's parameters."""
    kind, *rest = name.split(".")
    if kind == "head":
        return f"seg_layers.{steps - 1}.{rest[0]}"
    if kind == "coarse_heads":
        return f"seg_layers.{steps - 2 - int(rest[0])}.{rest[1]}"
    return f"transpconvs.{rest[0]}.{rest[2]}" if rest[1] == "up" else f"stages.{rest[0]}.convs.{'.'.join(rest[2:])}"


def from_nnunet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """(encoder's, decoder's) parameters under our names, and the names that are not of such a network."""
    encoder, decoder, unknown = {}, {}, []
    heads = {int(m[1]) for name in state if (m := re.search(r"decoder\.seg_layers\.(\d+)\.", name))}
    for name, tensor in state.items():
        plain = name
        for pattern, new in TWICE:
            plain = re.sub(pattern, new, plain)
        plain = re.sub(r"\.all_modules\.([01])\.", lambda m: f".{PARTS[m[1]]}.", plain)
        part, _, rest = plain.partition(".")
        ours = (
            encoder_ours(rest) if part == "encoder" else decoder_ours(rest, max(heads, default=0)) if part == "decoder" else None
        )
        if ours is None:
            unknown.append(name)
        else:
            (encoder if part == "encoder" else decoder)[ours] = tensor
    return encoder, decoder, unknown


PARAMETER = r"((?:conv|norm)\.(?:weight|bias))$"


def encoder_ours(name: str) -> str | None:
    """Our name of an encoder's parameter, None if it is none."""
    if m := re.match(rf"stem\.convs\.0\.{PARAMETER}", name):
        return f"stem.{m[1]}"
    if m := re.match(rf"stages\.(\d+)\.0\.convs\.(\d+)\.{PARAMETER}", name):
        return f"stages.{m[1]}.{m[2]}.{m[3]}"
    if m := re.match(rf"stages\.(\d+)\.blocks\.(\d+)\.(conv1|conv2|skip\.[01])\.{PARAMETER}", name):
        part = {"conv1": "first", "conv2": "second"}.get(m[3], "shortcut")
        return f"stages.{m[1]}.{m[2]}.{part}.{m[4]}"
    return None


def decoder_ours(name: str, last: int) -> str | None:
    """Our name of a decoder's parameter, None if it is none; `last` is the number of the finest head."""
    if m := re.match(r"seg_layers\.(\d+)\.(weight|bias)$", name):
        return f"head.{m[2]}" if int(m[1]) == last else f"coarse_heads.{last - 1 - int(m[1])}.{m[2]}"
    if m := re.match(r"transpconvs\.(\d+)\.(weight|bias)$", name):
        return f"steps.{m[1]}.up.{m[2]}"
    if m := re.match(rf"stages\.(\d+)\.convs\.(\d+)\.{PARAMETER}", name):
        return f"steps.{m[1]}.mix.{m[2]}.{m[3]}"
    return None


def copy_nnunet(state: Mapping[str, Tensor], backbone: Backbone, decoder: Decoder | None = None) -> Copied:
    """Copies what has a place of the same shape; everything else is listed, none of it an error."""
    encoder, rest, left_over = from_nnunet(state)
    copied, missing = [], []
    for part, module, given in (("encoder", backbone, encoder), ("decoder", decoder, rest)):
        own = module.state_dict() if module is not None else {}
        fits = {name: t for name, t in given.items() if name in own and own[name].shape == t.shape}
        if module is not None:
            module.load_state_dict(own | fits)
        copied += [f"{part}.{name}" for name in fits]
        missing += [f"{part}.{name}" for name in own if name not in fits]
        left_over += [f"{part}.{name} {tuple(t.shape)}" for name, t in given.items() if name not in fits]
    return Copied(sorted(copied), sorted(left_over), sorted(missing))
