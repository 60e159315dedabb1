"""ViT: a plain vision transformer for 2D and 3D scans, after Primus (2503.01835)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headwater.backbones.attention import EPSILON, Block, initialise
from headwater.backbones.features import Backbone, Features, kept_indices
from headwater.backbones.patches import patchify
from headwater.backbones.positions import angles, coordinates
from headwater.errors import InputError


class ViT(Backbone):
    """One linear map from patch voxels to tokens, pre-norm blocks, a last norm.

    `keep` drops the hidden tokens before the first map: their voxels are never read. Positions enter by rotation alone.
    Departures from Primus: no learned absolute positions (any size works), RMSNorm instead of layer norm, no LayerScale,
    no norm after attention, no DropPath, small initial residual branches instead; head widths that are multiples of 8.
    """

    def __init__(self, ndim: int, channels: int, width: int, depth: int, heads: int, patch: int = 4):
        if patch < 1 or patch & (patch - 1):
            raise InputError(f"patch {patch} is no power of two: use {min((2, 4, 8, 16), key=lambda p: abs(p - patch))}")
        super().__init__(ndim, channels, width, patch, [width], [patch])
        self.heads = heads
        self.embed = nn.Linear(channels * patch**ndim, width)
        self.stack = Stack(ndim, width, depth, heads)
        self.norm = nn.RMSNorm(width, EPSILON)

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of images of any size from one patch up; `keep` must keep equally many cells of every image."""
        size = self.admit(x, keep)
        grid, kept, rows = self.grid(size), None, patchify(x, self.stride[0])
        if keep is not None:
            kept = kept_indices(keep)
            rows = select(rows, kept)
        tokens = self.embed(rows).to(self.embed.weight.dtype)  # the residual sum is not rounded to bf16
        tokens = self.norm(self.stack(tokens, grid, kept))
        pyramid = [tokens.transpose(1, 2).unflatten(2, grid)] if kept is None else []
        return Features(tokens, grid, lambda: tokens.mean(1), pyramid, kept, size)


class Stack(nn.Module):
    """Blocks that share the places of their tokens."""

    def __init__(self, ndim: int, width: int, depth: int, heads: int):
        super().__init__()
        if width // heads < 2 * ndim:
            fewer = max(1, width // (8 * ndim))
            raise InputError(f"heads of {width // heads} channels are too narrow for {ndim}D positions: use {fewer} heads")
        self.head = width // heads
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        initialise(self, depth)

    def forward(
        self, x: Float[Tensor, "B N D"], grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Tokens of a whole grid, or of the kept places of it."""
        places = coordinates(grid, x.device)
        turn = angles(places[None] if kept is None else places[kept], self.head)[:, None]  # b 1 N P
        cos, sin = turn.cos(), turn.sin()
        for block in self.blocks:
            x = block(x, cos, sin)
        return x


def select(x: Float[Tensor, "B N D"], places: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """Rows at these places."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
