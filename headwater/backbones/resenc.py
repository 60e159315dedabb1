"""ResEnc: the residual-encoder CNN of nnU-Net (Isensee et al. 2404.09556)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones.convolutions import ConvNorm, Residual, average_pool, crop, enlarge
from headwater.backbones.features import Backbone, Features, by
from headwater.errors import InputError


class ResEnc(Backbone):
    """Stem, then stages of residual blocks; every stage after the first halves the map.

    Sizes need not divide: a stage maps n to ceil(n / 2). Pyramid: every stage. Tokens: every stage averaged or linearly
    enlarged to the token grid and concatenated, so D is the sum of the widths; pooled: every stage's mean over space, in
    float32. `keep` zeroes the voxels of the hidden cells.

    Args:   widths, blocks: per stage (the first may have none: the stem alone, for speed). patch: token stride, a power of two
            up to twice the coarsest map's stride.
    Source: topology of nnU-Net's ResEnc; token map and pooled vector of CVA (2509.13846), which pools to 16^3 instead.
    """

    def __init__(self, ndim: int, channels: int, widths: Sequence[int], blocks: Sequence[int], patch: int = 4):
        if len(widths) != len(blocks):
            raise InputError(f"{len(widths)} widths and {len(blocks)} block counts: give one of each per stage")
        if min(blocks[1:], default=1) < 1 or blocks[0] < 0:
            raise InputError(f"block counts {tuple(blocks)}: every stage after the first needs at least one")
        strides = [2**i for i in range(len(widths))]
        if patch not in (options := [*strides, 2 * strides[-1]]):
            raise InputError(f"patch {patch} is no stride of this network: use {min(options, key=lambda s: abs(s - patch))}")
        super().__init__(ndim, channels, sum(widths), patch, widths, strides)
        self.stem = ConvNorm(ndim, channels, widths[0])
        entries = zip([widths[0], *widths], widths, blocks, strides, strict=False)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Residual(ndim, width if i else before, width, 1 if i else min(stride, 2)) for i in range(n)))
            for before, width, n, stride in entries
        )

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of images of any size whose coarsest map has more than one voxel."""
        size = self.admit(x, keep)
        coarsest = self.strides[-1][0]
        if math.prod(-(-n // coarsest) for n in size) < 2:
            raise InputError(f"images of {by(size)} shrink to a single voxel: use at least {coarsest + 1} voxels along one axis")
        if keep is not None:
            x = x.masked_fill(~spread(keep, self.stride, size), 0)
        x = self.stem(x)
        pyramid = []
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        grid = self.grid(size)
        return Features(lambda: self.tokens(pyramid, grid), grid, lambda: means(pyramid), pyramid, size=size)

    def tokens(self, pyramid: Sequence[Tensor], grid: tuple[int, ...]) -> Float[Tensor, "B N D"]:
        """Every map brought to the token grid, concatenated along the width."""
        patch = self.stride[0]
        maps = [
            average_pool(m, patch // s) if s <= patch else enlarge(m, s // patch, grid)
            for m, (s, *_) in zip(pyramid, self.strides, strict=True)
        ]
        return torch.cat([crop(m, grid) for m in maps], 1).flatten(2).transpose(1, 2)


def means(pyramid: Sequence[Tensor]) -> Float[Tensor, "B D"]:
    """Mean over space of every map, in float32 at least."""
    exact = torch.promote_types(pyramid[0].dtype, torch.float32)
    return torch.cat([m.flatten(2).mean(2, dtype=exact) for m in pyramid], 1)


def spread(keep: Bool[Tensor, "B *G"], stride: Sequence[int], size: tuple[int, ...]) -> Bool[Tensor, "B 1 *S"]:
    """A mask of cells as a mask of voxels."""
    mask = keep.unsqueeze(1)
    for axis, s in enumerate(stride, start=2):
        mask = mask.repeat_interleave(s, axis)
    return crop(mask, size)
