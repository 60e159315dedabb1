"""Where a token is: axial rotary positions in any number of dimensions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

WAVELENGTHS = 100.0  # longest over shortest: grids here are 10 to 40 tokens wide, not the thousands of a text


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
    pairs = cos.shape[-1]
    a, b, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)
