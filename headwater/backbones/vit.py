"""ViT: a plain vision transformer for 2D and 3D scans, after Primus (2503.01835), and its relatives by `Style`."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwater.backbones.attention import Block, Style, initialise
from headwater.backbones.features import Backbone, Features, Segment, kept_indices
from headwater.backbones.norms import norm_of, unit
from headwater.backbones.patches import patchify
from headwater.backbones.positions import POSITIONS, checked_spacing
from headwater.errors import InputError


class ViT(Backbone):
    """One linear map from patch voxels to tokens, residual blocks, a last norm (none after post-norm blocks).

    `keep` drops the hidden tokens before the first map: their voxels are never read, their places never worked out.
    Departures from Primus, unless the style says otherwise: no learned absolute positions (any size works), RMSNorm instead
    of layer norm, no LayerScale, no norm after attention, no DropPath, small initial residual branches instead; head widths
    that are multiples of 8.

    Args:   patch: voxels per token and axis, a power of two, or 14. style: what kind of transformer (attention.py).
    Raises: InputError for a patch, heads or kernels of heads that do not fit, with the nearest that do.
    """

    def __init__(self, ndim: int, channels: int, width: int, depth: int, heads: int, patch: int = 4, style: Style = Style()):
        if (patch < 1 or patch & (patch - 1)) and patch != 14:  # 14 for the weights of DINOv2
            raise InputError(f"patch {patch} is no power of two: use {min((2, 4, 8, 16), key=lambda p: abs(p - patch))}")
        super().__init__(ndim, channels, width, patch, [width], [patch])
        self.heads, self.style = heads, style
        self.embed = nn.Linear(channels * patch**ndim, width)
        self.stack = Stack(ndim, width, depth, heads, style)
        self.norm = nn.Identity() if style.place == "post" else norm_of(style.norm, width, style.epsilon)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Spacing in mm of the images at hand over that of training, per axis: how far rotary and sinusoidal positions step.

        Settable; one everywhere unless set. Raises InputError for ratios that are not positive or not one per axis.
        """
        return self.stack.positions.spacing

    @spacing.setter
    def spacing(self, ratio: Sequence[float]) -> None:
        self.stack.positions.spacing = checked_spacing(ratio, self.ndim)

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of images of any size from one patch up; `keep` must keep equally many cells of every image."""
        size = self.admit(x, keep)
        grid, kept = self.grid(size), None if keep is None else kept_indices(keep)
        whole = self.norm(self.stack.run(self.embedded(x, kept), grid, kept, self.checkpointed))
        tokens = whole[:, self.style.registers :]
        pyramid = [tokens.transpose(1, 2).unflatten(2, grid)] if kept is None else []
        pooled = tokens.mean(1) if self.style.pooled == "mean" else whole[:, 0]
        return Features(tokens, grid, pooled, pyramid, kept, size)

    def embedded(self, x: Float[Tensor, "B C *S"], kept: Int[Tensor, "B N"] | None = None) -> Float[Tensor, "B N D"]:
        """Patches as tokens, in the precision of the weights: the residual sum is not rounded to bf16."""
        rows = patchify(x, self.stride[0])
        return self.embed(rows if kept is None else select(rows, kept)).to(self.embed.weight.dtype)

    def segments(self, x: Float[Tensor, "B C *S"]) -> list[Segment]:
        """One segment: all blocks, block(tokens) - tokens each, up to the last norm. Registers, if any, are its first tokens."""
        grid = self.grid(self.admit(x, None))
        start, places = self.stack.enter(self.embedded(x), grid)

        def velocity(block: Block):
            return lambda t, tokens: block(tokens, *places) - tokens

        return [Segment(start, tuple(velocity(block) for block in self.stack.blocks), grid)]


class Stack(nn.Module):
    """Blocks that share the places of their tokens, and registers."""

    def __init__(self, ndim: int, width: int, depth: int, heads: int, style: Style = Style()):
        super().__init__()
        self.place, last = style.place, max(depth - 1, 1)
        self.blocks = nn.ModuleList(Block(width, heads, style, style.drop_path * i / last) for i in range(depth))
        self.positions = POSITIONS[style.positions](ndim, width, heads, style.reach)
        self.positions.antialias = style.antialias
        self.registers = nn.Parameter(torch.empty(style.registers, width)) if style.registers else None
        initialise(self, depth, style.initial)
        if style.registers:
            nn.init.trunc_normal_(self.registers, std=0.02)

    def enter(
        self, x: Float[Tensor, "B N D"], grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Tokens as the first block gets them (B, registers + N, D), and what each block is told of places: cos, sin, bias."""
        x, extra = self.positions.add(x, grid, kept), 0
        if self.registers is not None:
            extra = len(self.registers)
            x = torch.cat([self.registers.expand(x.shape[0], -1, -1), x], 1)
        return unit(x) if self.place == "ngpt" else x, self.positions.relate(grid, kept, extra, x.device)

    def run(
        self,
        x: Float[Tensor, "B N D"],
        grid: tuple[int, ...],
        kept: Int[Tensor, "B N"] | None = None,
        checkpointed: bool = False,
    ) -> Float[Tensor, "B M D"]:
        """Registers, then tokens of a whole grid or of the kept places of it; checkpointed: blocks run again on the way back."""
        x, places = self.enter(x, grid, kept)
        for block in self.blocks:
            x = checkpoint(block, x, *places, use_reentrant=False) if checkpointed and self.training else block(x, *places)
        return x

    def forward(
        self, x: Float[Tensor, "B N D"], grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """The tokens without the registers."""
        return self.run(x, grid, kept)[:, 0 if self.registers is None else len(self.registers) :]


def select(x: Float[Tensor, "B N D"], places: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """Rows at these places."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
