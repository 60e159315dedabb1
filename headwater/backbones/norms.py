"""Norms, and where they sit: how a block adds what its parts say to the running tokens.

pre   x + f(norm x): the default (Xiong 2002.04745)
post  norm(x + f(x)): the first transformer
peri  x + norm(f(norm x)) (Kim 2502.02732)
ngpt  unit(x + a (unit f(x) - x)), a one learned step per channel: tokens stay on the sphere (Loshchilov 2410.01131)
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-6  # of every norm unless told otherwise
HEAD_EPSILON = 1e-8  # of a head's output, which may be small: weights of a relu head sum to a few hundredths
NORMS = ("rms", "layer")
PLACES = ("pre", "post", "peri", "ngpt")


def norm_of(name: str, width: int, epsilon: float = EPSILON) -> nn.Module:
    """rms: projection to the sphere of radius sqrt(width), then a learned gain; layer: mean removed first, with a bias."""
    return nn.LayerNorm(width, epsilon) if name == "layer" else nn.RMSNorm(width, epsilon)


def unit(x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """On the unit sphere: x / sqrt(|x|^2 + EPSILON), in float32 at least.

    Zero (a patch of nothing but zeros) stays, and hands back a gradient no larger than EPSILON^-1/2 times its own.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    return (exact * (exact.square().sum(-1, keepdim=True) + EPSILON).rsqrt()).to(x.dtype)


class HeadNorm(nn.Module):
    """Root mean square of every head's output set to one, then a learned gain per channel: scales of heads do not compete.

    A factor common to a head's row of weights is lost here: what divides them only matters through `HEAD_EPSILON`.
    """

    def __init__(self, heads: int, head: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads, 1, head))

    def forward(self, y: Float[Tensor, "B H N E"]) -> Float[Tensor, "B H N E"]:
        """The mean of squares is taken in float32 at least."""
        exact = torch.promote_types(y.dtype, torch.float32)
        return F.rms_norm(y.to(exact), y.shape[-1:], eps=HEAD_EPSILON) * self.gain


def drop_path(change: Float[Tensor, "B *R"], share: float) -> Float[Tensor, "B *R"]:
    """Zero for about this share of the images, larger for the others so that the mean stays (Huang 1603.09382)."""
    if not share:
        return change
    stays = torch.rand(change.shape[0], *[1] * (change.ndim - 1), device=change.device) >= share
    return torch.where(stays, change / (1 - share), torch.zeros((), dtype=change.dtype, device=change.device))


def add(
    x: Float[Tensor, "B N D"],
    part: Callable[[Tensor], Tensor],
    norm: nn.Module,
    *,
    place: str = "pre",
    after: nn.Module | None = None,
    scale: Float[Tensor, "D"] | None = None,
    drop: float = 0.0,
) -> Float[Tensor, "B N D"]:
    """One residual step: running tokens and what `part`, a map of tokens to tokens, says of them.

    norm   before the part (pre, peri) or after the sum (post); ngpt has none. after: the second norm of peri
    scale  one factor per channel: LayerScale (Touvron 2103.17239), or the step sizes a of ngpt
    drop   share of the images whose step is left out
    The sum keeps the precision of x under autocast. Departures from nGPT: weights are not put back on the sphere after a step
    of the optimiser (the unit vectors around a part leave their lengths little to do), the part gets sqrt(D) x, whose entries
    are of order one, in place of learned factors within it, and a is learned as it is, not rescaled for Adam.
    """
    if place == "ngpt":
        target = unit(part(x * math.sqrt(x.shape[-1])).to(x.dtype))
        return unit(x + drop_path(scale.abs() * (target - x), drop))
    change = part(x if place == "post" else norm(x))
    change = change if after is None else after(change.to(x.dtype))
    change = change if scale is None else change * scale
    x = x + drop_path(change, drop)
    return norm(x) if place == "post" else x
