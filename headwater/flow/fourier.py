"""Waves on the angles of S^1, S^2 and S^3, in which every polynomial on the sphere is a short Fourier series.

Points of S^3 are (cos(h) e^{ia}, sin(h) e^{ib}), of S^2 (sin(h) e^{ia}, cos(h)), of S^1 e^{ib}. A polynomial of degree L has
degree L in each angle, and is even or odd in h as its frequencies of a and b say: the double Fourier sphere (Merilees 1973), and
the same one dimension up.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

Angles = tuple[Tensor | None, Tensor | None, Tensor | None]  # h, b, a; None where the sphere has no such angle


@dataclass(frozen=True)
class Rows:
    """Functions cos(f theta - shift) of one angle: cosines with shift 0, sines with shift pi/2. Both (R, 1)."""

    frequency: Tensor
    shift: Tensor

    def __len__(self) -> int:
        return len(self.frequency)

    def at(self, theta: Float[Tensor, "N"] | None) -> Float[Tensor, "R N"]:
        """Values. One cosine each is cheaper than any recurrence of as many array operations."""
        return torch.addcmul(-self.shift, self.frequency, theta).cos()

    def dual(self, theta: Float[Tensor, "N"]) -> Float[Tensor, "R N"]:
        """Rows whose sum over equispaced nodes theta, more than twice the frequency, is the coefficient of each wave."""
        return self.at(theta) * torch.where(self.frequency > 0, 2.0, 1.0) / len(theta)


@dataclass(frozen=True)
class Parity:
    """Waves on a of one parity, and with each of these choices of waves on (h, b) they may be multiplied."""

    a: Rows
    left: tuple[tuple[Rows, Rows], ...]


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # the cache serves calls with gradients too
def basis(d: int, top: int, device: torch.device) -> tuple[Parity, ...]:
    """Waves up to degree `top` whose products, parity by parity, span the polynomials of that degree on S^{d-1}, d = 2, 3, 4."""

    def waves(first: int, step: int, shifts: tuple[int, ...]) -> Rows:
        f = torch.arange(first, top + 1, step, dtype=torch.float64, device=device).repeat(len(shifts))
        shift = torch.tensor(shifts, dtype=torch.float64, device=device).repeat_interleave(len(f) // len(shifts))
        return Rows(f.unsqueeze(1), shift.unsqueeze(1) * torch.pi / 2)

    absent = waves(0, top + 1, (0,))
    if d == 2:
        return (Parity(absent, ((absent, waves(0, 1, (0, 1))),)),)
    if d == 3:
        return tuple(Parity(waves(s, 2, (0, 1)), ((waves(0, 1, (s,)), absent),)) for s in (0, 1))
    phases = [waves(s, 2, (0, 1)) for s in (0, 1)]
    return tuple(Parity(phases[s], tuple((waves((s + r) % 2, 2, (r,)), phases[r]) for r in (0, 1))) for s in (0, 1))


def points(d: int, h: Tensor, b: Tensor, a: Tensor) -> Float[Tensor, "D *S"]:
    """The points of S^{d-1} at these angles."""
    if d == 2:
        return torch.stack((b.cos(), b.sin()))
    if d == 3:
        return torch.stack((h.sin() * a.cos(), h.sin() * a.sin(), h.cos()))
    return torch.stack((h.cos() * a.cos(), h.cos() * a.sin(), h.sin() * b.cos(), h.sin() * b.sin()))


def angles(x: Float[Tensor, "D N"]) -> Angles:
    """Angles (h, b, a) of a cloud. Only directions count; an angle that is undefined at a point is 0 there."""
    phase = torch.atan2(x[1], x[0])
    if len(x) == 2:
        return None, phase, None
    if len(x) == 3:
        return torch.atan2(torch.hypot(x[0], x[1]), x[2]), None, phase
    return torch.atan2(torch.hypot(x[2], x[3]), torch.hypot(x[0], x[1])), torch.atan2(x[3], x[2]), phase


def product(left: tuple[Rows, Rows], h: Tensor | None, b: Tensor | None) -> Float[Tensor, "HQ N"]:
    """All products of waves on h and on b."""
    if h is None or b is None:
        return left[1].at(b) if h is None else left[0].at(h)
    return (left[0].at(h).unsqueeze(1) * left[1].at(b)).flatten(0, 1)
