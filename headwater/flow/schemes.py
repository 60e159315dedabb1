"""Where the norm sits in a layer, as the speed of the same flow: x = r theta, theta' = P A / s, with s set by the scheme.

    scheme   s                r'                a layer
    post     1                0                 norm(x + A(x))
    pre      r                <theta, A>        x + A(norm x)
    peri     r |A|            <theta, A> / |A|  x + norm(A(norm x))
    ngpt     |A| / alpha      0                 norm(x + alpha norm(A(x)))
    mix      post before `switch`, pre after

A is the pull of attention (any velocity with `ambient`) at theta. Derived from a layer with a small residual branch:
x' = A(norm x) has the radial part r' = <theta, A> and the tangential part r theta' = P A; for peri A is divided by |A|. Post-norm
takes the radius back at each layer, so r' = 0 and theta' = P A; ngpt is that with alpha A / |A|. Table: Karagodin, Polyanskiy and
Rigollet 2025.
"""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.flow.sphere import inner, project, tangent

SCHEMES = ("post", "pre", "peri", "ngpt", "mix")


def speed(
    scheme: str, pull: Float[Tensor, "B N D"], radius: Float[Tensor, "B N 1"], *, alpha: float = 1.0
) -> Float[Tensor, "B N 1"]:
    """s_i of the table: token i turns at P A_i / s_i. For mix ask for "post" or "pre"."""
    size = torch.linalg.vector_norm(pull, dim=-1, keepdim=True)
    if scheme in ("peri", "ngpt") and bool((size.detach() == 0).any()):
        raise ValueError(f"schemes: {scheme} divides by the pull of attention, which is zero at a token")
    if scheme == "post":
        return torch.ones_like(radius)
    if scheme == "pre":
        return radius
    if scheme == "peri":
        return radius * size
    if scheme == "ngpt":
        return size / alpha
    raise ValueError(f"schemes: no speed for scheme {scheme!r}: use 'post', 'pre', 'peri' or 'ngpt'")


@final
class Normed(nn.Module):
    """The velocity x' of tokens x = r theta under a scheme, any r > 0. Read theta with sphere.project, r with the norm.

    Args: field: a velocity on the sphere with `ambient(t, theta)`, as Attention. alpha: of ngpt. switch: depth-time where mix
          turns from post to pre. Space: the unit sphere for post and ngpt, flat for the others.
    """

    def __init__(self, field: nn.Module, scheme: str, *, alpha: float = 1.0, switch: float = math.inf):
        super().__init__()
        if scheme not in SCHEMES or not alpha > 0:
            raise ValueError(f"Normed: scheme {scheme!r}, alpha {alpha}: use one of {SCHEMES} and alpha > 0")
        if scheme == "mix" and not math.isfinite(switch):
            raise ValueError("Normed: mix needs switch, the depth-time at which post-norm ends")
        if getattr(field, "space", None) != "sphere" or not hasattr(field, "ambient"):
            raise ValueError(f"Normed: {type(field).__name__} is no velocity on the sphere with `ambient`")
        self.field, self.scheme, self.alpha, self.switch = field, scheme, alpha, switch
        self.space = "sphere" if scheme in ("post", "ngpt") else "flat"
        self.breaks = (*getattr(field, "breaks", ()), *((switch,) if scheme == "mix" else ()))

    def acting(self, t: float | Tensor) -> str:
        """The scheme at time t: resolves mix."""
        if self.scheme != "mix":
            return self.scheme
        return "post" if float(t) < self.switch else "pre"

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """r theta' + r' theta."""
        theta, radius = project(x), torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        pull, now = self.field.ambient(t, theta), self.acting(t)
        turning = radius * tangent(theta, pull) / speed(now, pull, radius, alpha=self.alpha)
        if now in ("post", "ngpt"):
            return turning
        growth = inner(theta, pull)
        if now == "peri":
            growth = growth / torch.linalg.vector_norm(pull, dim=-1, keepdim=True)
        return turning + growth * theta
