"""Terms beside attention: perceptrons, learned fields, noise, the PDE layers of Ruthotto and Haber, and how terms combine."""

import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.flow.sphere import check_finite, check_on_sphere, exponential, tangent
from headwater.flow.velocity import InTime, Weight


@final
class Learned(nn.Module):
    """Any module or function field(t, x) as a velocity; on the sphere its tangent part.

    Raises: ValueError if it does not return the shape of x, and for tokens off the sphere or not finite.
    """

    def __init__(self, field: Callable[[float | Tensor, Tensor], Tensor], *, space: str = "flat"):
        super().__init__()
        if space not in ("sphere", "flat"):
            raise ValueError(f"Learned: space {space!r}: use 'sphere' or 'flat'")
        self.field, self.space, self.breaks = field, space, getattr(field, "breaks", ())

    def ambient(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """What the field says, before projection."""
        check_on_sphere(x, "Learned") if self.space == "sphere" else check_finite(x, "Learned")
        out = self.field(t, x)
        if out.shape != x.shape:
            raise ValueError(f"Learned: the field maps {tuple(x.shape)} to {tuple(out.shape)}; a velocity keeps the shape")
        return out

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The velocity of every token."""
        out = self.ambient(t, x)
        return tangent(x, out) if self.space == "sphere" else out


def perceptron(layer: Callable[[Tensor], Tensor], *, space: str = "sphere") -> Learned:
    """The MLP term: layer(x) token by token, the same at all times, projected on the sphere."""
    return Learned(_Timeless(layer), space=space)


@final
class _Timeless(nn.Module):
    """f(t, x) = layer(x)."""

    def __init__(self, layer: Callable[[Tensor], Tensor]):
        super().__init__()
        self.layer = layer

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        return self.layer(x)


@final
class Sum(nn.Module):
    """Sum of velocities that live in the same space. Source of a whole block: Sum(Attention(...), perceptron(...))."""

    def __init__(self, *terms: Callable):
        super().__init__()
        spaces = {getattr(term, "space", "flat") for term in terms}
        if len(spaces) != 1:
            raise ValueError(f"Sum: needs one or more terms of one space, has spaces {sorted(spaces)}")
        self.terms, self.space = terms, spaces.pop()
        self.held = nn.ModuleList(term for term in terms if isinstance(term, nn.Module))
        self.breaks = tuple(sorted({b for term in terms for b in getattr(term, "breaks", ())}))

    def ambient(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Sum of what the terms say before projection."""
        return sum(term.ambient(t, x) for term in self.terms)

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Sum of the velocities."""
        return sum(term(t, x) for term in self.terms)


@final
class Scaled(nn.Module):
    """A velocity times a number or a function of t: -1 reverses it, 1 / sqrt(L) is the residual scale of depth L,
    t -> 1 / sqrt(1 + t) that of layer-norm scaling."""

    def __init__(self, term: Callable, factor: float | Callable[[float | Tensor], float | Tensor]):
        super().__init__()
        self.term, self.factor = term, factor
        self.space, self.breaks = getattr(term, "space", "flat"), getattr(term, "breaks", ())

    def _now(self, t: float | Tensor) -> float | Tensor:
        return self.factor(t) if callable(self.factor) else self.factor

    def ambient(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The scaled term before projection."""
        return self._now(t) * self.term.ambient(t, x)

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The scaled velocity."""
        return self._now(t) * self.term(t, x)


@final
class Noise:
    """Brownian motion of strength sqrt(2 / kappa) per token: generator Laplacian / kappa, so a harmonic of degree l on S^{d-1}
    decays at l (l + d - 2) / kappa. Handed to `integrate.solve(..., noise=)`, which kicks after each step of the velocity.

    A kick of length h is a geodesic step with tangent Gaussian of variance 2 h / kappa per direction: weak order 1.
    """

    def __init__(self, kappa: float, *, space: str = "sphere"):
        if not (math.isfinite(kappa) and kappa > 0) or space not in ("sphere", "flat"):
            raise ValueError(f"Noise: kappa={kappa}, space={space!r}: needs positive kappa and 'sphere' or 'flat'")
        self.kappa, self.space = float(kappa), space

    def kick(self, x: Float[Tensor, "B N D"], h: float, generator: torch.Generator) -> Float[Tensor, "B N D"]:
        """x after noise over a time h >= 0."""
        if h < 0:
            raise ValueError(f"Noise: step {h}: noise cannot be run backward")
        drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) * math.sqrt(2 * h / self.kappa)
        return exponential(x, tangent(x, drawn)) if self.space == "sphere" else x + drawn


@final
class Parabolic(nn.Module):
    """F(t, y) = -K' sigma(K y + b), token by token: the gradient descent of a convex potential, like heat flow.

    Args:   K (p, D), b (p,) or None: constant, per layer, or functions of t. sigma: rising; slope: the largest sigma'.
    Source: Ruthotto & Haber 1804.04272, parabolic CNN with N the identity.
    """

    space = "flat"

    def __init__(
        self,
        K: Weight,
        b: Weight = None,
        *,
        sigma: Callable[[Tensor], Tensor] = torch.tanh,
        slope: float = 1.0,
        duration: float = 1.0,
    ):
        super().__init__()
        self.K, self.b = InTime(K, duration), InTime(b, duration)
        self.sigma, self.slope = sigma, slope
        self.breaks = tuple(sorted({*self.K.breaks, *self.b.breaks}))

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The velocity of every token."""
        check_finite(x, "Parabolic")
        K, b = self.K(t, x), self.b(t, x)
        inner = x @ K.T if b is None else x @ K.T + b
        return -self.sigma(inner) @ K

    def largest_step(self, t: float = 0.0) -> float:
        """The longest stable Euler step 2 / (slope |K|^2), sharp for linear sigma; contracts below."""
        K = self.K(t, torch.zeros(1, 1, 1, dtype=torch.float64))
        return 2 / (self.slope * float(torch.linalg.matrix_norm(K.detach(), 2)) ** 2)


def pair(y: Float[Tensor, "B N D"], z: Float[Tensor, "B N D"]) -> Float[Tensor, "B N two_D"]:
    """The state (y, z) of the pair layers in one tensor."""
    return torch.cat((y, z), -1)


def parts(x: Float[Tensor, "*S two_D"]) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*S D"]]:
    """y and z of a pair state."""
    if x.shape[-1] % 2:
        raise ValueError(f"pair: width {x.shape[-1]} does not split into y and z: build the state with terms.pair(y, z)")
    y, z = x.chunk(2, -1)
    return y, z


@final
class Hamiltonian(nn.Module):
    """Y' = -F_1(Z), Z' = F_2(Y) on the state (Y, Z): keeps H = Phi_1(Z) + Phi_2(Y) where F_i = -grad Phi_i; for method "verlet".

    Source: Ruthotto & Haber 1804.04272, Hamiltonian CNN.
    """

    space = "flat"

    def __init__(self, first: Parabolic, second: Parabolic):
        super().__init__()
        self.first, self.second = first, second
        self.breaks = tuple(sorted({*first.breaks, *second.breaks}))

    def drift(self, t: float | Tensor, z: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Y', a function of z only."""
        return -self.first(t, z)

    def force(self, t: float | Tensor, y: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Z', a function of y only."""
        return self.second(t, y)

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N two_D"]) -> Float[Tensor, "B N two_D"]:
        """Velocity of the pair."""
        y, z = parts(x)
        return pair(self.drift(t, z), self.force(t, y))

    def largest_step(self, t: float = 0.0) -> float:
        """Longest stable Verlet step 2 / (sqrt(slope_1 slope_2) |K_1| |K_2|): linear modes turn at most that fast."""
        return math.sqrt(self.first.largest_step(t) * self.second.largest_step(t))


@final
class SecondOrder(nn.Module):
    """Y'' = F(Y) as Y' = Z, Z' = F(Y), like waves; for method "verlet", which is leapfrog here. Source: 1804.04272."""

    space = "flat"

    def __init__(self, field: Parabolic):
        super().__init__()
        self.field, self.breaks = field, field.breaks

    def drift(self, t: float | Tensor, z: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Y' = Z."""
        return z

    def force(self, t: float | Tensor, y: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Z' = F(Y)."""
        return self.field(t, y)

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N two_D"]) -> Float[Tensor, "B N two_D"]:
        """Velocity of the pair."""
        y, z = parts(x)
        return pair(self.drift(t, z), self.force(t, y))

    def largest_step(self, t: float = 0.0) -> float:
        """Longest stable leapfrog step: h^2 slope |K|^2 <= 4."""
        return math.sqrt(2 * self.field.largest_step(t))
