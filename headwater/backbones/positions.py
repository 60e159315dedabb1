"""Where a token is: nothing, added to tokens (sinusoidal, learned), turned queries and keys (rotary), or a bias of scores."""

import math
from abc import ABC
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwater.backbones.features import by
from headwater.errors import InputError

WAVELENGTHS = 100.0  # longest over shortest: grids here are 10 to 40 tokens wide, not the thousands of a text
SMOOTH = {2: "bicubic", 3: "trilinear"}  # how a learned table is resampled; 2D as timm, DINOv2 and Hugging Face do


def coordinates(grid: tuple[int, ...], device: torch.device | None = None) -> Int[Tensor, "N d"]:
    """Place of every token of a grid, in tokens, in the order of the flattened grid."""
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in grid)).view(-1, len(grid))


def angles(places: Int[Tensor, "*B N d"] | Float[Tensor, "*B N d"], head: int) -> Float[Tensor, "*B N P"]:
    """Rotation angles in radians of the P pairs of a head: head // (2 d) pairs per axis, from 1 radian per token down.

    The frequencies of an axis fall geometrically by WAVELENGTHS. What is left of the head is not rotated.
    Source: RoFormer (2104.09864), axial as in EVA-02 (2303.11331) and Primus (2503.01835), which use other wavelengths.
    """
    pairs = head // (2 * places.shape[-1])
    frequencies = WAVELENGTHS ** (-torch.arange(pairs, device=places.device) / pairs)
    return (places[..., None].to(frequencies.dtype) * frequencies).flatten(-2)  # axis by axis


def rotate(x: Float[Tensor, "B H N E"], cos: Float[Tensor, "b 1 N P"], sin: Float[Tensor, "b 1 N P"]) -> Float[Tensor, "B H N E"]:
    """Turns pair k, made of entries k and P + k, by its angle; entries from 2 P on stay.

    The product of a rotated query and key depends on the difference of their places alone.
    """
    pairs, cos, sin = cos.shape[-1], cos.to(x.dtype), sin.to(x.dtype)
    a, b, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class Positions(nn.Module, ABC):
    """What tokens and heads are told of the grid. `extra` tokens (registers) come first and have no place.

    spacing  size of a token of these images over that of training, per axis: 2 where voxels are twice as thick as those the
             network learned from. Rotary and sinusoidal positions follow it; learned tables only know counts of tokens.
    reach    tokens per axis of the tables of learned and relative positions; one number: the same on every axis
    antialias  whether learned tables are resampled as torch's antialiased bicubic does, 2D only
    """

    antialias = False

    def __init__(self, ndim: int, width: int, heads: int, reach: int | tuple[int, ...] = 16):
        super().__init__()
        self.ndim, self.width, self.heads, self.spacing = ndim, width, heads, (1.0,) * ndim
        self.reach = (reach,) * ndim if isinstance(reach, int) else tuple(reach)
        if len(self.reach) != ndim or min(self.reach) < 1:
            raise InputError(f"reach {by(self.reach)}: give {ndim} numbers of tokens, 1 or more, or one for all axes")

    def places(self, grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None, device: torch.device) -> Float[Tensor, "b N d"]:
        """Coordinates in tokens of training."""
        places = coordinates(grid, device) * torch.tensor(self.spacing, device=device)
        return places[None] if kept is None else places[kept]

    def add(self, x: Float[Tensor, "B N D"], grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        """Tokens as they enter the first block."""
        return x

    def relate(
        self, grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None, extra: int, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """cos and sin (b, 1, extra + N, P) of the angles, and bias (b, H, extra + N, extra + N) of the scores; None for none."""
        return None, None, None


@final
class Unplaced(Positions):
    """No positions: the encoder cannot tell one order of its tokens from another."""


@final
class Sinusoidal(Positions):
    """Sines and cosines of the coordinates added to the tokens, width // (2 d) of each per axis (Vaswani 2017, axis by axis)."""

    def __init__(self, ndim: int, width: int, heads: int, reach: int | tuple[int, ...] = 16):
        super().__init__(ndim, width, heads, reach)
        if width < 2 * ndim:
            raise InputError(f"width {width} is too narrow for {ndim}D sinusoidal positions: use {2 * ndim} or more")

    def add(self, x: Float[Tensor, "B N D"], grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        """Channels beyond a multiple of 2 d get nothing."""
        turn = angles(self.places(grid, kept, x.device), self.width)
        waves = torch.cat([turn.sin(), turn.cos()], -1)
        return x + F.pad(waves, (0, self.width - waves.shape[-1])).to(x.dtype)


@final
class Learned(Positions):
    """A learned vector per token of a grid of `reach`; other grids resample it (SMOOTH), as one picture of another size.

    It reaches every grid. A small grid is taken for a coarse view of the whole field, never for a corner of it.
    """

    def __init__(self, ndim: int, width: int, heads: int, reach: int | tuple[int, ...] = 16):
        super().__init__(ndim, width, heads, reach)
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(math.prod(self.reach), width), std=0.02))

    def add(self, x: Float[Tensor, "B N D"], grid: tuple[int, ...], kept: Int[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        """The table itself on its own grid."""
        table = self.table
        if tuple(grid) != self.reach:
            own = table.T.unflatten(1, self.reach)[None]
            how = {"mode": SMOOTH[self.ndim], "antialias": self.antialias and self.ndim == 2}
            table = F.interpolate(own, size=tuple(grid), align_corners=False, **how)[0].flatten(1).T
        return x + (table[None] if kept is None else table[kept]).to(x.dtype)


@final
class Rotary(Positions):
    """Queries and keys turned by their coordinates, axis by axis: works at any grid and spacing. Registers are not turned."""

    def __init__(self, ndim: int, width: int, heads: int, reach: int | tuple[int, ...] = 16):
        super().__init__(ndim, width, heads, reach)
        if width // heads < 2 * ndim:
            fits = [h for h in range(1, heads) if width % h == 0 and width // h >= 2 * ndim]
            use = f"{fits[-1]} heads" if fits else f"width {2 * ndim * heads}"
            raise InputError(f"heads of {width // heads} channels are too narrow for {ndim}D rotary positions: use {use}")

    def relate(self, grid, kept, extra, device):
        """cos and sin."""
        turn = angles(self.places(grid, kept, device), self.width // self.heads)[:, None]  # b 1 N P
        return F.pad(turn.cos(), (0, 0, extra, 0), value=1.0), F.pad(turn.sin(), (0, 0, extra, 0)), None


@final
class Relative(Positions):
    """A learned bias of the scores per head and difference of places, one table for all layers (T5 1910.10683, dense as Swin).

    Differences beyond `reach` - 1 have none: larger grids are refused. Registers get no bias.
    """

    def __init__(self, ndim: int, width: int, heads: int, reach: int | tuple[int, ...] = 16):
        super().__init__(ndim, width, heads, reach)
        self.sides = tuple(2 * r - 1 for r in self.reach)
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(math.prod(self.sides), heads), std=0.02))

    def relate(self, grid, kept, extra, device):
        """bias. Raises InputError for a grid it cannot reach."""
        if any(n > reach for n, reach in zip(grid, self.reach, strict=True)):
            raise InputError(
                f"relative positions reach {by(self.reach)} tokens, these images have {by(grid)}: use smaller images, "
                f"or build the network with Style(reach={max(*grid, *self.reach)})"
            )
        steps = torch.tensor([math.prod(self.sides[axis + 1 :]) for axis in range(self.ndim)], device=device)
        place = (coordinates(grid, device) * steps).sum(-1)  # differences of this number are differences of places
        place = place[None] if kept is None else place[kept]
        index = place[:, :, None] - place[:, None] + math.prod(self.sides) // 2  # no difference: the middle of the table
        return None, None, F.pad(self.table[index].permute(0, 3, 1, 2), (extra, 0, extra, 0))


POSITIONS: dict[str, type[Positions]] = {
    "rotary": Rotary,
    "none": Unplaced,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "relative": Relative,
}


def checked_spacing(ratio: tuple[float, ...], ndim: int) -> tuple[float, ...]:
    """Ratios of spacing, one per axis. Raises InputError for anything else."""
    ratio = tuple(float(r) for r in ratio)
    if len(ratio) != ndim or not all(math.isfinite(r) and r > 0 for r in ratio):
        raise InputError(f"spacing {ratio}: give {ndim} positive ratios, these images' spacing in mm over that of training")
    return ratio
