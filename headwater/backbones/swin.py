"""Swin: window attention at every scale of a pyramid, in 2D and 3D (Liu et al. 2103.14030; in 3D as SwinUNETR, 2201.01266)."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwater.backbones.features import Backbone, Features, Segment, by
from headwater.backbones.norms import drop_path
from headwater.backbones.patches import patchify
from headwater.backbones.pyramid import gathered, spread
from headwater.backbones.windows import attend, padding, spread_bias
from headwater.errors import InputError

EPSILON = 1e-5  # of the layer norms, as in Swin
HOTTEST = math.log(100)  # log of the largest factor of a cosine (Swin v2)


class Swin(Backbone):
    """Cells of `cell` voxels as tokens, then stages of blocks; between two stages 2^d tokens merge and the width doubles.

    Pyramid: every stage, after a layer norm of its own. Tokens: every stage averaged or linearly enlarged to the token grid
    and concatenated, so D is the sum of the widths; pooled: every stage's mean over space, in float32. Grids need not
    divide: windows and merging pad at the high end as Swin does. `keep` puts a learned token in the place of the hidden
    cells (SimMIM, 2111.09886); their voxels are never read.
    Initial weights: linear maps, bias tables and the hidden token truncated normal 0.02, biases 0; the embedding as torch
    does. Version 1 is Swin; version 2 has cosine attention with a learned temperature, norms after each part and a small
    network of the log-spaced offset for the bias (2111.09883), here with gains of 1 where its authors start from 0.
    In 2D the 2^d merging tokens are in row-major order as in 3D; Swin's and MONAI's 2D weights have them the other way.

    Args:   width: of the first stage. depths, heads: per stage. patch: token stride, a stride of a stage or twice the last.
            cell: voxels per first token and axis. window: cells per axis. drop_path: share of images whose step is left
            out in training, rising from 0 at the first block to this at the last.
    Raises: InputError for sizes that do not fit each other.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        patch: int = 4,
        *,
        window: int = 7,
        version: int = 1,
        drop_path: float = 0.0,
        cell: int = 2,
    ):
        check(width, depths, heads, window, version, drop_path, cell)
        strides = [cell * 2**i for i in range(len(depths))]
        if patch not in (options := [*strides, 2 * strides[-1]]):
            raise InputError(f"patch {patch} is no stride of this network: use {min(options, key=lambda s: abs(s - patch))}")
        widths = [width * 2**i for i in range(len(depths))]
        super().__init__(ndim, channels, sum(widths), patch, widths, strides)
        self.cell, self.window = cell, window
        self.stages = nn.ModuleList(nn.ModuleList() for _ in depths)
        self.merges = nn.ModuleList(Merge(ndim, w, version) for w in widths[:-1])
        drops = iter(drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        for stage, w, depth, h in zip(self.stages, widths, depths, heads, strict=True):
            stage.extend(Block(ndim, w, h, window, i % 2 * (window // 2), version, next(drops)) for i in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(w, EPSILON) for w in widths)
        self.apply(initialise)
        self.embed = nn.Linear(channels * cell**ndim, width)
        self.hidden = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of images of any size from one token up."""
        size = self.admit(x, keep)
        x, pyramid = self.embedded(x, keep), []
        for i, stage in enumerate(self.stages):
            x = self.merges[i - 1](x) if i else x
            for block in stage:
                x = checkpoint(block, x, use_reentrant=False) if self.checkpointed and self.training else block(x)
            pyramid.append(self.norms[i](x).movedim(-1, 1))
        grid = self.grid(size)
        return gathered(pyramid, self.strides, self.stride[0], grid, size)

    def embedded(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None) -> Float[Tensor, "B *Z D"]:
        """First tokens on their grid, width last; the residual sum is not rounded to bf16."""
        grid = tuple(-(-n // self.cell) for n in x.shape[2:])
        rows, seen = patchify(x, self.cell), None
        if keep is not None:
            seen = spread(keep, [s // self.cell for s in self.stride], grid).flatten(2).transpose(1, 2)  # B N 1
            rows = rows.masked_fill(~seen, 0)
        rows = self.embed(rows).to(self.embed.weight.dtype)
        return (rows if seen is None else torch.where(seen, rows, self.hidden)).unflatten(1, grid)

    def segments(self, x: Float[Tensor, "B C *S"]) -> list[Segment]:
        """One per stage; its first tokens are what the merging before it made. Windows are cut inside the velocities."""
        self.admit(x, None)
        x, found = self.embedded(x, None), []
        for i, stage in enumerate(self.stages):
            x = self.merges[i - 1](x) if i else x
            grid, start = tuple(x.shape[1:-1]), x.flatten(1, -2)
            found.append(Segment(start, tuple(flat(block, grid) for block in stage), grid))
            for block in stage:
                x = block(x)
        return found


def flat(block: "Block", grid: tuple[int, ...]) -> Callable[[float, Tensor], Tensor]:
    """The block's velocity on tokens in a row."""
    return lambda t, tokens: block.velocity(tokens.unflatten(1, grid)).flatten(1, -2)


class Block(nn.Module):
    """x + velocity(x): attention in windows, then a feed-forward of four times the width."""

    def __init__(self, ndim: int, width: int, heads: int, window: int, shift: int, version: int, drop: float):
        super().__init__()
        self.version, self.drop = version, drop
        self.norm_attention, self.norm_mix = (nn.LayerNorm(width, EPSILON) for _ in range(2))
        self.attention = WindowAttention(ndim, width, heads, window, shift, version)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "B *G D"]) -> Float[Tensor, "B *G D"]:
        """Same shape."""
        return x + self.velocity(x)

    def velocity(self, x: Float[Tensor, "B *G D"]) -> Float[Tensor, "B *G D"]:
        """What the block adds to its input."""
        first = self.part(self.norm_attention, self.attention, x)
        return first + self.part(self.norm_mix, self.mix, x + first)

    def part(self, norm: nn.Module, change: nn.Module, x: Float[Tensor, "B *G D"]) -> Float[Tensor, "B *G D"]:
        """One residual step; the norm comes before in version 1, after in version 2."""
        y = (change(norm(x)) if self.version == 1 else norm(change(x))).to(x.dtype)
        return drop_path(y, self.drop) if self.training else y


class WindowAttention(nn.Module):
    """Self-attention within windows, with a bias for every offset between two cells; shift as in windows.cuts."""

    def __init__(self, ndim: int, width: int, heads: int, window: int, shift: int, version: int = 1):
        super().__init__()
        self.heads, self.window, self.shift, self.version = heads, window, shift, version
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        if version == 1:
            self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** ndim, heads), std=0.02))
        else:
            self.temperature = nn.Parameter(torch.full((heads, 1), math.log(10)))
            self.bias = nn.Sequential(nn.Linear(ndim, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))

    def forward(self, x: Float[Tensor, "B *G D"]) -> Float[Tensor, "B *G D"]:
        """Same shape."""
        grid = tuple(x.shape[1:-1])
        if any(extra := padding(grid, self.window, self.shift)):
            x = F.pad(x, (0, 0, *(k for n in reversed(extra) for k in (0, n))))
        qkv, scale = self.qkv(x).unflatten(-1, (3, self.heads, -1)), (x.shape[-1] // self.heads) ** -0.5
        table = self.table if self.version == 1 else self.offsets(len(grid), x)
        if self.version == 2:
            q, k, v = qkv.unbind(-3)
            q = F.normalize(q, dim=-1) * self.temperature.clamp(max=HOTTEST).exp()
            qkv, scale = torch.stack([q.to(v.dtype), F.normalize(k, dim=-1), v], -3), 1.0
        return self.out(attend(qkv, spread_bias(table, self.window, grid), grid, self.window, self.shift, scale))

    def offsets(self, ndim: int, x: Tensor) -> Float[Tensor, "R H"]:
        """Bias of every offset: 16 sigmoid of a network of sign(o) log2(1 + 8 |o| / (window - 1)) / 3, at most 1 in size."""
        reach = torch.arange(1 - self.window, self.window, device=x.device, dtype=self.temperature.dtype)
        reach = reach.sign() * torch.log2(1 + 8 * reach.abs() / max(1, self.window - 1)) / math.log2(8)
        places = torch.cartesian_prod(*[reach] * ndim).view(-1, ndim)
        return 16 * torch.sigmoid(self.bias(places))


class Merge(nn.Module):
    """2^d neighbours become one token of twice the width; an odd axis is padded with zeros."""

    def __init__(self, ndim: int, width: int, version: int = 1):
        super().__init__()
        self.version = version
        self.norm = nn.LayerNorm(2**ndim * width if version == 1 else 2 * width, EPSILON)
        self.reduce = nn.Linear(2**ndim * width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "B *G D"]) -> Float[Tensor, "B *R K"]:
        """Maps n to ceil(n / 2) along every axis; norm before in version 1, after in version 2."""
        d, grid = x.ndim - 2, x.shape[1:-1]
        if any(n % 2 for n in grid):
            x = F.pad(x, (0, 0, *(k for n in reversed(grid) for k in (0, n % 2))))
        for axis in range(d):
            x = x.unflatten(2 * axis + 1, (-1, 2))
        x = x.permute(0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), -1).flatten(d + 1)
        x = self.reduce(self.norm(x)) if self.version == 1 else self.norm(self.reduce(x))
        return x.to(self.norm.weight.dtype)


def initialise(module: nn.Module) -> None:
    """Truncated normal 0.02 for a linear map, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check(
    width: int, depths: Sequence[int], heads: Sequence[int], window: int, version: int, drop_path: float, cell: int
) -> None:
    """Raises InputError with the nearest setting that works."""
    if len(depths) != len(heads) or not depths:
        raise InputError(f"{len(depths)} depths and {len(heads)} head counts: give one of each per stage")
    if min(*depths, *heads) < 1:
        raise InputError(f"depths {by(depths)} and heads {by(heads)}: every stage needs at least one block and one head")
    for i, h in enumerate(heads):
        if width * 2**i % h:
            fits = min((k for k in range(1, width * 2**i + 1) if width * 2**i % k == 0), key=lambda k: abs(k - h))
            raise InputError(f"width {width * 2**i} of stage {i + 1} does not split into {h} heads: use {fits} heads there")
    if window < 2:
        raise InputError(f"a window of {window} cells has no neighbours: use 2 or more")
    if version not in (1, 2):
        raise InputError(f"there is no version {version} of Swin: use 1 or 2")
    if not 0 <= drop_path < 1:
        raise InputError(f"drop_path {drop_path} is no share of the images: use 0 to 0.9")
    if cell < 1:
        raise InputError(f"cells of {cell} voxels do not exist: use 2")
