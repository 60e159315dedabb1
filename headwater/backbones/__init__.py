"""Backbones: views in, Features out. One contract for all of them (features.py)."""

from contextlib import nullcontext

from headwater.backbones.decoder import Decoder, LightHead, Reconstruction, Refill, refill
from headwater.backbones.features import Backbone, Features
from headwater.backbones.resenc import ResEnc
from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.streams import seeded

__all__ = [
    "FAMILIES",
    "Backbone",
    "Decoder",
    "Features",
    "LightHead",
    "Reconstruction",
    "Refill",
    "ResEnc",
    "ViT",
    "build",
    "refill",
]

FAMILIES = {
    "resenc": (
        ResEnc,
        {  # widths and blocks of the stages; from base on as nnU-Net's ResEnc M and L
            "nano": ((16, 32, 64, 128), (0, 1, 1, 1)),  # for two cores: full-resolution blocks cost most and gain least
            "small": ((32, 64, 128, 256), (1, 3, 4, 4)),
            "base": ((32, 64, 128, 256, 320), (1, 3, 4, 6, 6)),
            "large": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
        },
    ),
    "vit": (
        ViT,
        {  # width, depth, heads; Primus' sizes with the width a multiple of 8 heads
            "nano": (192, 6, 6),
            "small": (384, 12, 12),
            "base": (768, 12, 12),
            "large": (1024, 24, 16),
        },
    ),
}


def build(family: str, size: str = "nano", channels: int = 1, ndim: int = 3, patch: int = 4, seed: int | None = None) -> Backbone:
    """A backbone by family and size, with `patch` voxels per token and axis.

    With a seed the weights are a function of it and torch's generator is left alone; without one they come from there.
    Raises: InputError for a name, patch or dimension that does not exist.
    """
    if family not in FAMILIES:
        raise InputError(f"There is no backbone family {family!r}: use one of {', '.join(FAMILIES)}.")
    kind, sizes = FAMILIES[family]
    if size not in sizes:
        raise InputError(f"There is no size {size!r} of {family}: use one of {', '.join(sizes)}.")
    with nullcontext() if seed is None else seeded(seed, "weights", family, size):
        return kind(ndim, channels, *sizes[size], patch=patch)
