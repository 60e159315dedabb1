"""Paths from noise at t = 0 to data at t = 1 for flow matching: straight, variance-preserving, diffusion, geodesic on the sphere.

The flat ones are affine, x_t = a(t) x_1 + s(t) x_0 with x_0 ~ N(0, I); for them the score of the law of x_t and the velocity that
moves it are the same knowledge: with m_0 = E[x_0 | x_t], score = -m_0 / s and velocity = a' (x - s m_0) / a + s' m_0, so

    velocity = (a'/a) x + s (s a'/a - s') score,        score = (a velocity - a' x) / (s (s a' - a s')).

This holds for independent pairs (x_0, x_1); pairs from minibatch transport have another conditional law and no such score.
"""

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.flow.sphere import exponential, logarithm, uniform

Time = float | Tensor


class Affine(ABC):
    """x_t = a(t) x_1 + s(t) x_0 in flat space, from N(0, I). `end`: where sampling stops, short of 1 if s' is infinite there."""

    space = "flat"
    end = 1.0

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, s, a', s' at t."""

    def at(self, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, s, a', s' at t in [0, 1], a number or a tensor."""
        return self.coefficients(t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64))

    def between(
        self, t: Time, x0: Float[Tensor, "*S D"], x1: Float[Tensor, "*S D"]
    ) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*S D"]]:
        """The point of the path from x0 to x1 at t and its velocity, what a field is trained to return."""
        a, s, da, ds = self.at(t)
        return a * x1 + s * x0, da * x1 + ds * x0

    def base(self, n: int, d: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Float[Tensor, "1 n d"]:
        """n draws of N(0, I), on the generator's device."""
        return torch.randn(1, n, d, generator=generator, dtype=dtype, device=generator.device)

    def base_log_density(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
        """log N(x; 0, I)."""
        return -(x.square().sum(-1) + x.shape[-1] * math.log(2 * math.pi)) / 2


@final
class Straight(Affine):
    """a = t, s = 1 - (1 - sigma_min) t: the conditional transport path of Lipman 2210.02747; 0 is rectified flow."""

    def __init__(self, sigma_min: float = 0.0):
        if not 0 <= sigma_min < 1:
            raise ValueError(f"Straight: sigma_min={sigma_min}: the width left at t=1 is from 0 to below 1")
        self.sigma_min = sigma_min

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, s, a', s'."""
        one, slope = torch.ones_like(t), 1 - self.sigma_min
        return t, 1 - slope * t, one, -slope * one


@final
class VariancePreserving(Affine):
    """a = sin(pi t / 2), s = cos(pi t / 2): a^2 + s^2 = 1, smooth to both ends (Albergo & Vanden-Eijnden 2209.15571)."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, s, a', s'."""
        turn = math.pi / 2
        a, s = (turn * t).sin(), (turn * t).cos()
        return a, s, turn * s, -turn * a


@final
class Diffusion(Affine):
    """The probability flow of the variance-preserving diffusion: a = e^{-B/2}, s^2 = 1 - a^2, B the integral of a linear beta
    over what is left of time (Song 2011.13456, run from noise to data).

    a(0) = e^{-(low + high) / 4}, .007 by default: the base is N(0, I) to that. s' is infinite at 1, so it ends at 1 - 1e-3, where
    s = .01.
    """

    end = 1 - 1e-3

    def __init__(self, low: float = 0.1, high: float = 20.0):
        if not 0 < low <= high or low + high < 12:
            raise ValueError(
                f"Diffusion: beta from {low} to {high}: needs 0 < low <= high and a sum of 12, else noise is not reached"
            )
        self.low, self.high = low, high

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, s, a', s'."""
        left = 1 - t
        beta = self.low + (self.high - self.low) * left
        exponent = self.low * left + (self.high - self.low) * left**2 / 2
        a, s = (-exponent / 2).exp(), (-torch.expm1(-exponent)).sqrt()
        return a, s, a * beta / 2, -(a**2) * beta / (2 * s)


@final
class Geodesic:
    """x_t = exp_{x_0}(t log_{x_0} x_1) on the sphere, from the uniform law (Chen & Lipman 2302.03660)."""

    space = "sphere"
    end = 1.0

    def between(
        self, t: Time, x0: Float[Tensor, "*S D"], x1: Float[Tensor, "*S D"]
    ) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*S D"]]:
        """The point of the geodesic from x0 to x1 at t and its velocity, tangent there."""
        u = logarithm(x0, x1)
        turned = t * torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        return exponential(x0, t * u), turned.cos() * u - turned.sin() * torch.linalg.vector_norm(u, dim=-1, keepdim=True) * x0

    def base(self, n: int, d: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Float[Tensor, "1 n d"]:
        """n uniform points of S^{d-1}."""
        return uniform(n, d, generator, dtype=dtype)

    def base_log_density(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
        """-log of the area of S^{d-1}: densities are with respect to the surface measure."""
        half = x.shape[-1] / 2
        area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        return torch.full_like(x[..., 0], -area)


Path = Affine | Geodesic


@final
class Gaussian(nn.Module):
    """The exact velocity that moves N(0, I) to N(mean, covariance) along an affine path with independent pairs.

    x_t ~ N(a m, S), S = a^2 C + s^2 I, so v = a' m + (a a' C + s s' I) S^{-1} (x - a m): affine in x. Its flow is
    x -> a m + S^{1/2} x_0, for S commutes with its derivative, and the law at `path.end` is N(a m, S) there.
    """

    space = "flat"

    def __init__(self, path: Affine, mean: Float[Tensor, "D"], covariance: Float[Tensor, "D D"]):
        super().__init__()
        if not isinstance(path, Affine):
            raise ValueError(f"Gaussian: {type(path).__name__} is not affine: use a flat path")
        variance, axes = torch.linalg.eigh(covariance)
        if not bool(torch.isfinite(mean).all() and variance[0] > 0):
            raise ValueError(
                f"Gaussian: smallest variance {float(variance[0]):.2g}: mean must be finite, covariance positive definite"
            )
        self.path = path
        for name, value in (("mean", mean), ("variance", variance), ("axes", axes)):
            self.register_buffer(name, value.detach().clone())

    @classmethod
    def fit(cls, path: Affine, samples: Float[Tensor, "N D"]) -> "Gaussian":
        """With the mean and covariance of samples, of which there must be more than dimensions."""
        if len(samples) <= samples.shape[1]:
            raise ValueError(
                f"Gaussian: {len(samples)} samples have no covariance in {samples.shape[1]} dimensions: reduce them first"
            )
        return cls(path, samples.mean(0), torch.atleast_2d(samples.T.cov()))

    def standard(self, t: Time, x: Float[Tensor, "*S D"]) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*#S D"]]:
        """S^{-1/2} (x - a m) along the axes of C, of unit variance at every t, and the variances a^2 lambda + s^2."""
        a, s, _, _ = self.path.at(t)
        variance = a**2 * self.variance.to(x) + s**2
        return (x - a * self.mean.to(x)) @ self.axes.to(x) / variance.sqrt(), variance

    def forward(self, t: Time, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """The velocity."""
        a, s, da, ds = self.path.at(t)
        known, variance = self.standard(t, x)
        pulled = known * (a * da * self.variance.to(x) + s * ds) / variance.sqrt()
        return da * self.mean.to(x) + pulled @ self.axes.to(x).T

    def log_density(self, t: Time, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
        """log of the law of x_t, at t = path.end that of what the flow makes."""
        known, variance = self.standard(t, x)
        return -(known.square() + variance.log() + math.log(2 * math.pi)).sum(-1) / 2


def velocity_from_score(path: Affine, t: Time, x: Float[Tensor, "*S D"], score: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """The velocity of the law of x_t from its score. Raises ValueError where a = 0: the score of pure noise tells nothing."""
    a, s, da, ds = _known(path, t, "velocity_from_score", "a")
    return da / a * x + s * (s * da / a - ds) * score


def score_from_velocity(
    path: Affine, t: Time, x: Float[Tensor, "*S D"], velocity: Float[Tensor, "*S D"]
) -> Float[Tensor, "*S D"]:
    """The score of the law of x_t from its velocity. Raises ValueError where s = 0: there x_t is the data."""
    a, s, da, ds = _known(path, t, "score_from_velocity", "s")
    return (a * velocity - da * x) / (s * (s * da - a * ds))


def _known(path: Affine, t: Time, where: str, needed: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not isinstance(path, Affine):
        raise ValueError(f"{where}: {type(path).__name__} is not affine: only flat paths x_t = a x_1 + s x_0 have the conversion")
    found = path.at(t)
    value = found[0] if needed == "a" else found[1]
    if not bool((value > 1e-12).all()):
        raise ValueError(f"{where}: {needed} = 0 at t={t}: take t strictly between 0 and 1")
    return found
