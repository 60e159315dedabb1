"""Networks that make maps at several scales: stages of blocks, and one row per token from all of them."""

import math
from abc import ABC
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwater.backbones.convolutions import average_pool, crop, enlarge, per_axis
from headwater.backbones.features import Backbone, Features, Segment, by
from headwater.errors import InputError

PerStage = int | Sequence[int | Sequence[int]]  # one number, or one per stage, or one per stage and axis


class Staged(Backbone, ABC):
    """A convolutional encoder: a stem, then stages of blocks whose first may stride; the pyramid is every stage's map.

    Tokens: every map averaged or linearly enlarged to the token grid and concatenated, so D is the sum of the widths;
    pooled: every map's mean over space, in float32. `keep` zeroes the voxels of the hidden cells. Sizes need not divide: a
    step of s maps n to ceil(n / s).

    sparse           with `keep`, after every convolution too the hidden cells of a map are 0, and norms and means look at the
                     visible ones alone: nothing grows into the hidden part, and how much is hidden does not tell in the
                     statistics. A cell is visible if any voxel of it is. Source: SparK (Tian et al. 2301.03580)
    kernels, steps   odd kernel and stride (a power of two) of every stage and axis; the default steps are 1, 2, 2 ...
    bias             whether the convolutions have the bias that the norms remove (nnU-Net's do)
    """

    stem: nn.Module
    stages: nn.ModuleList
    sparse = False

    def __init__(
        self,
        ndim: int,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        patch: int,
        kernels: PerStage,
        steps: PerStage | None,
        bias: bool,
    ):
        count = len(widths)
        if count != len(blocks):
            raise InputError(f"{count} widths and {len(blocks)} block counts: give one of each per stage")
        steps = [1] + [2] * (count - 1) if steps is None else steps
        kernels, steps = per_stage(kernels, count, ndim, "kernels"), per_stage(steps, count, ndim, "strides")
        if any(k % 2 == 0 or k < 1 for kernel in kernels for k in kernel):
            raise InputError(f"kernels {kernels} move the map by half a voxel: use odd ones, such as 1 or 3")
        if any(s < 1 or s & (s - 1) for step in steps for s in step):
            raise InputError(f"strides {steps} are not all powers of two: use 1 or 2 per stage and axis")
        strides = tuple(accumulate(steps, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True))))
        largest = [max(s) for s in strides]
        options = [2**i for i in range((2 * max(largest[-1], 1)).bit_length())]
        if patch not in options:
            raise InputError(f"patch {patch} is no stride of this network: use {min(options, key=lambda s: abs(s - patch))}")
        super().__init__(ndim, channels, sum(widths), patch, widths, largest)
        self.strides, self.kernels, self.steps, self.bias = strides, kernels, steps, bias

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of images of any size whose coarsest map has more than one voxel."""
        size = self.checked(x, keep)
        seen, masks = None, []
        if keep is not None:
            visible = spread(keep, self.stride, size)
            x = x.masked_fill(~visible, 0)
            seen = visible if self.sparse else None
        again = self.checkpointed and self.training
        x, pyramid = self.stem(x, seen), []
        for stage, step in zip(self.stages, self.steps, strict=True):
            if seen is not None:
                seen = coarser(seen, step)
                masks.append(seen)
            for block in stage:
                x = checkpoint(block, x, seen, use_reentrant=False) if again else block(x, seen)
            pyramid.append(x)
        return gathered(pyramid, self.strides, self.stride[0], self.grid(size), size, masks)

    def checked(self, x: Tensor, keep: Tensor | None) -> tuple[int, ...]:
        """Size of the images. Raises InputError if the network cannot take them."""
        size, coarsest = self.admit(x, keep), self.strides[-1]
        # a list: no compiler reads a generator
        if math.prod([-(-n // s) for n, s in zip(size, coarsest, strict=True)]) < 2:
            least = min(coarsest) + 1
            raise InputError(f"images of {by(size)} shrink to a single voxel: use at least {least} voxels along one axis")
        return size

    def segments(self, x: Float[Tensor, "B C *S"]) -> list[Segment]:
        """One per stage: its blocks of equal width, block(x) - x each; a first block that strides or widens comes before."""
        self.checked(x, None)
        x, found = self.stem(x), []
        for stage in self.stages:
            blocks = list(stage)
            if blocks and (y := blocks[0](x)).shape != x.shape:
                x, blocks = y, blocks[1:]
            grid = tuple(x.shape[2:])
            if blocks:
                found.append(Segment(x.flatten(2).transpose(1, 2), tuple(flat(block, grid) for block in blocks), grid))
            for block in blocks:
                x = block(x)
        return found


def flat(block: nn.Module, grid: tuple[int, ...]) -> Callable[[float, Tensor], Tensor]:
    """What the block adds to a map, on its voxels in a row."""

    def velocity(t: float, tokens: Tensor) -> Tensor:
        return block(tokens.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2) - tokens

    return velocity


def per_stage(value: PerStage, count: int, ndim: int, what: str) -> tuple[tuple[int, ...], ...]:
    """One number per stage and axis. Raises InputError if their number fits neither."""
    rows = [value] * count if isinstance(value, int) else list(value)
    if len(rows) != count:
        raise InputError(f"{len(rows)} {what} for {count} stages: give one per stage")
    rows = tuple(per_axis(row, ndim) for row in rows)
    if any(len(row) != ndim for row in rows):
        raise InputError(f"{what} {rows} for images of {ndim} dimensions: give one per stage and axis")
    return rows


def gathered(
    pyramid: Sequence[Tensor],
    strides: Sequence[tuple[int, ...]],
    patch: int,
    grid: tuple[int, ...],
    size: tuple[int, ...],
    masks: Sequence[Tensor] = (),
) -> Features:
    """Features of maps (B, D_i, *S_i): tokens and pooled are worked out when first asked for.

    Tokens: every map averaged or linearly enlarged to the token grid and concatenated, so D is the sum of the widths; pooled:
    every map's mean over space, or over the cells that `masks` (B, 1, *S_i) say are visible: the maps are 0 elsewhere.
    """
    return Features(lambda: tokens(pyramid, strides, patch, grid), grid, lambda: means(pyramid, masks), pyramid, size=size)


def tokens(
    pyramid: Sequence[Tensor], strides: Sequence[tuple[int, ...]], patch: int, grid: tuple[int, ...]
) -> Float[Tensor, "B N D"]:
    """Every map brought to the token grid, concatenated along the width; strides and patch are powers of two."""
    maps = []
    for m, stride in zip(pyramid, strides, strict=True):
        pooled = average_pool(m, [max(1, patch // s) for s in stride])
        wide = tuple(g if s > patch else n for g, s, n in zip(grid, stride, pooled.shape[2:], strict=True))
        maps.append(crop(enlarge(pooled, [max(1, s // patch) for s in stride], wide), grid))
    return torch.cat(maps, 1).flatten(2).transpose(1, 2)


def means(pyramid: Sequence[Tensor], masks: Sequence[Tensor] = ()) -> Float[Tensor, "B D"]:
    """Mean over space of every map, in float32 at least; with masks over the cells they let through, the others being 0."""
    exact = torch.promote_types(pyramid[0].dtype, torch.float32)
    found = [m.flatten(2).mean(2, dtype=exact) for m in pyramid]
    if masks:
        shares = [s.flatten(2).mean(2, dtype=exact).clamp(min=1 / s[0].numel()) for s in masks]
        found = [m / share for m, share in zip(found, shares, strict=True)]
    return torch.cat(found, 1)


def coarser(seen: Bool[Tensor, "B 1 *S"], step: Sequence[int]) -> Bool[Tensor, "B 1 *R"]:
    """Which cells of `step` voxels hold one that is seen, R = ceil(S / step)."""
    if max(step) == 1:
        return seen
    pool = F.max_pool3d if seen.ndim == 5 else F.max_pool2d
    return pool(seen.float(), tuple(step), ceil_mode=True) > 0


def spread(keep: Bool[Tensor, "B *G"], stride: Sequence[int], size: tuple[int, ...]) -> Bool[Tensor, "B 1 *S"]:
    """A mask of cells as a mask of voxels."""
    mask = keep.unsqueeze(1)
    for axis, s in enumerate(stride, start=2):
        mask = mask.repeat_interleave(s, axis)
    return crop(mask, size)
