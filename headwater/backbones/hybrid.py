"""Hybrid: a residual encoder whose deepest map passes transformer blocks before a decoder reads it."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones.attention import Style, initialise
from headwater.backbones.pyramid import Staged
from headwater.backbones.resenc import ResEnc
from headwater.backbones.vit import Stack


@final
class Hybrid(Staged):
    """ResEnc, and `depth` plain transformer blocks on the cells of its last map, with rotary positions.

    With the blocks taken away it is the ResEnc of the same widths, to the last weight: what they add is what global attention
    adds. What a network of stages promises is in pyramid.py.

    Args:   widths, blocks, patch: of the ResEnc. depth, heads: of the transformer.
    Source: the pattern of TransUNet (2102.04306) and CoTr (2103.03024), on nnU-Net's residual encoder; blocks as in vit.py.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        depth: int,
        heads: int,
        patch: int = 4,
        style: Style = Style(),
    ):
        encoder = ResEnc(ndim, channels, widths, blocks, patch)
        super().__init__(ndim, channels, widths, blocks, patch, encoder.kernels, encoder.steps, encoder.bias)
        self.stem, self.stages = encoder.stem, encoder.stages
        turns = nn.ModuleList(Turn(ndim, widths[-1], heads, style) for _ in range(depth))
        initialise(turns, depth, style.initial)
        self.stages[-1].extend(turns)


@final
class Turn(nn.Module):
    """One transformer block on the cells of a map."""

    def __init__(self, ndim: int, width: int, heads: int, style: Style):
        super().__init__()
        self.stack = Stack(ndim, width, 1, heads, style)

    def forward(self, x: Float[Tensor, "B C *S"], seen: Bool[Tensor, "B 1 *S"] | None = None) -> Float[Tensor, "B C *S"]:
        """Same shape, in the precision of the weights; where `seen` is False the result is 0 and nobody looks there."""
        grid, block = tuple(x.shape[2:]), self.stack.blocks[0]
        rows = x.flatten(2).transpose(1, 2).to(block.attention.out.weight.dtype)
        rows, (cos, sin, bias) = self.stack.enter(rows, grid)
        if seen is not None:
            hidden = torch.zeros_like(seen, dtype=rows.dtype).masked_fill(~seen, -torch.inf).flatten(2)[:, :, None]  # B 1 1 N
            hidden = hidden.expand(-1, block.attention.heads, rows.shape[1], -1)
            bias = hidden if bias is None else bias + hidden
            cos, sin = (None if a is None else a.expand(len(rows), -1, -1, -1) for a in (cos, sin))  # one per image, as the bias
        y = block(rows, cos, sin, bias).transpose(1, 2).unflatten(2, grid)
        return y if seen is None else y.masked_fill(~seen, 0)
