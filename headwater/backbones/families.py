"""All backbones by name: family and size."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from headwater.backbones.attention import Style
from headwater.backbones.continuous import ContinuousViT
from headwater.backbones.features import Backbone
from headwater.backbones.hybrid import Hybrid
from headwater.backbones.pde import PDENet
from headwater.backbones.resenc import ResEnc
from headwater.backbones.swin import Swin
from headwater.backbones.unet import UNet
from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.streams import seeded


@dataclass(frozen=True)
class Family:
    """Backbones that differ in size alone.

    sizes: what `kind` takes after the dimension and the channels, by name. options: what it takes by name, for all sizes.
    """

    kind: type[Backbone]
    sizes: dict[str, tuple]
    options: dict[str, Any] = field(default_factory=dict)


WIDTHS = {  # of the stages; from base on those of nnU-Net's ResEnc for patches of 64 to 127 and of 128 to 255 voxels
    "nano": (16, 32, 64, 128),
    "small": (32, 64, 128, 256),
    "base": (32, 64, 128, 256, 320),
    "large": (32, 64, 128, 256, 320, 320),
}
VITS = {  # width, depth, heads; Primus' sizes with the width a multiple of 8 heads
    "nano": (192, 6, 6),
    "small": (384, 12, 12),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def staged(nano: tuple[int, ...], small: tuple[int, ...], base: tuple[int, ...], large: tuple[int, ...]) -> dict[str, tuple]:
    """Sizes of a network of stages: the widths, and how many blocks each stage has."""
    return {name: (widths, n) for (name, widths), n in zip(WIDTHS.items(), (nano, small, base, large), strict=True)}


def flows(times: int) -> dict[str, tuple]:
    """Steps of the PDE networks: about as many parameters as ResEnc, whose blocks hold more than one step does."""
    steps = (0, 3, 3, 1), (1, 5, 8, 7), (1, 5, 8, 11, 11), (1, 5, 8, 11, 11, 11)
    return staged(*(tuple(times * n for n in size) for size in steps))


FAMILIES = {
    # for two cores, nano has no block at full resolution: it costs most there and gains least
    "resenc": Family(ResEnc, staged((0, 1, 1, 1), (1, 3, 4, 4), (1, 3, 4, 6, 6), (1, 3, 4, 6, 6, 6))),
    "unet": Family(UNet, staged((1, 1, 1, 1), (2, 2, 2, 2), (2,) * 5, (2,) * 6)),
    "vit": Family(ViT, VITS),
    "mixed": Family(ViT, VITS, {"style": Style(kernels="mixed")}),
    "continuous": Family(ContinuousViT, VITS),
    "swin": Family(
        Swin,
        {  # width of the first stage, depths, heads; small and base are SwinUNETR's of feature size 24 and 48
            "nano": (24, (2, 2, 2), (3, 6, 12)),
            "small": (24, (2, 2, 2, 2), (3, 6, 12, 24)),
            "base": (48, (2, 2, 2, 2), (3, 6, 12, 24)),
            "large": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
        },
    ),
    "hybrid": Family(
        Hybrid,
        {  # ResEnc's, then blocks and heads of the transformer at its end
            "nano": (WIDTHS["nano"], (0, 1, 1, 1), 2, 4),
            "small": (WIDTHS["small"], (1, 3, 4, 4), 4, 4),
            "base": (WIDTHS["base"], (1, 3, 4, 6, 6), 6, 5),
            "large": (WIDTHS["large"], (1, 3, 4, 6, 6, 6), 8, 5),
        },
    ),
    "parabolic": Family(PDENet, flows(1), {"kind": "parabolic"}),
    "hamiltonian": Family(PDENet, flows(2), {"kind": "hamiltonian"}),
    "second_order": Family(PDENet, flows(4), {"kind": "second_order"}),
}


def build(
    family: str,
    size: str = "nano",
    channels: int = 1,
    ndim: int = 3,
    patch: int = 4,
    seed: int | None = None,
    **options: Any,
) -> Backbone:
    """A backbone by family and size, with `patch` voxels per token and axis; further options are those of its class.

    With a seed the weights are a function of it and torch's generator is left alone; without one they come from there.
    Raises: InputError for a name, patch or dimension that does not exist.
    """
    if family not in FAMILIES:
        raise InputError(f"There is no backbone family {family!r}: use one of {', '.join(FAMILIES)}.")
    chosen = FAMILIES[family]
    if size not in chosen.sizes:
        raise InputError(f"There is no size {size!r} of {family}: use one of {', '.join(chosen.sizes)}.")
    with nullcontext() if seed is None else seeded(seed, "weights", family, size):
        return chosen.kind(ndim, channels, *chosen.sizes[size], patch=patch, **(chosen.options | options))
