"""Waves on the angles of S^1, S^2 and S^3, in which every polynomial on the sphere is a short Fourier series.

Points of S^3 are (cos(h) e^{ia}, sin(h) e^{ib}), of S^2 (sin(h) e^{ia}, cos(h)), of S^1 e^{ib}. A polynomial of degree L has degree L
in each angle, and is even or odd in h as its frequencies of a and b say: the double Fourier sphere (Merilees 1973) one step further.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Angle = tuple[Tensor, Tensor]  # cos and sin of it, (N,) each


@dataclass(frozen=True)
class Rows:
    """Functions of one angle: cos(f theta), or sin(f theta) where odd. One row of frequency 0 stands for an angle that is absent."""

    frequency: np.ndarray
    odd: np.ndarray

    def at(self, theta: np.ndarray) -> np.ndarray:
        """Values (rows, angles)."""
        phase = np.multiply.outer(self.frequency, theta)
        return np.where(self.odd[:, None], np.sin(phase), np.cos(phase))

    def dual(self, theta: np.ndarray) -> np.ndarray:
        """Rows whose sum over equispaced nodes theta, more than twice the frequency, is the coefficient of each wave."""
        return self.at(theta) * np.where(self.frequency > 0, 2.0, 1.0)[:, None] / len(theta)


def rows(d: int, top: int) -> list[tuple[Rows, Rows, Rows]]:
    """Rows on (h, b, a) for each class of parity; their products up to degree `top` hold the polynomials of that degree on S^{d-1}.

    The order of classes and rows is that of `tables`.
    """

    def phase(first: int, step: int = 2) -> Rows:
        f = np.arange(first, top + 1, step)
        return Rows(np.tile(f, 2), np.repeat([False, True], len(f)))

    def polar(first: int, step: int, odd: int) -> Rows:
        f = np.arange(first, top + 1, step)
        return Rows(f, np.full(len(f), bool(odd)))

    absent = Rows(np.zeros(1, int), np.zeros(1, bool))
    if d == 2:
        return [(absent, phase(0, 1), absent)]
    if d == 3:
        return [(polar(0, 1, s), absent, phase(s)) for s in (0, 1)]
    return [(polar((s + r) % 2, 2, r), phase(r), phase(s)) for s in (0, 1) for r in (0, 1)]


def points(d: int, h: np.ndarray, b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The points (d, ...) of S^{d-1} at these angles."""
    if d == 2:
        return np.stack((np.cos(b), np.sin(b)))
    if d == 3:
        return np.stack((np.sin(h) * np.cos(a), np.sin(h) * np.sin(a), np.cos(h)))
    return np.stack((np.cos(h) * np.cos(a), np.cos(h) * np.sin(a), np.sin(h) * np.cos(b), np.sin(h) * np.sin(b)))


def _power(angle: Angle, k: int) -> Angle:
    """k times the angle, by squaring."""
    c, s = angle
    result = torch.ones_like(c), torch.zeros_like(s)
    while k:
        if k & 1:
            result = result[0] * c - result[1] * s, result[0] * s + result[1] * c
        c, s, k = c * c - s * s, 2 * c * s, k >> 1
    return result


def _ladder(turn: Angle, start: Angle, count: int) -> Angle:
    """cos and sin (count, N) of start, start + turn, start + 2 turn, ..."""
    steps = [start]
    for _ in range(count - 1):
        (c, s), (dc, ds) = steps[-1], turn
        steps.append((c * dc - s * ds, s * dc + c * ds))
    return torch.stack([c for c, _ in steps]), torch.stack([s for _, s in steps])


def waves(angle: Angle, first: int, step: int, top: int) -> Float[Tensor, "2 F N"]:
    """cos and sin of f theta for f = first, first + step, ... up to `top`.

    f = first + step (j + J k): two ladders of about sqrt(F) turns and one product, contiguous over tokens.
    """
    count = max(0, (top - first) // step + 1)
    fine = max(1, round(count**0.5))
    one = torch.ones_like(angle[0]), torch.zeros_like(angle[0])
    ca, sa = _ladder(_power(angle, step), _power(angle, first), fine)
    cb, sb = (part.unsqueeze(1) for part in _ladder(_power(angle, step * fine), one, max(1, -(-count // fine))))
    cosines = torch.addcmul(cb * ca, sb, sa, value=-1)  # coarse, fine, N
    return torch.stack((cosines, torch.addcmul(cb * sa, sb, ca))).flatten(1, 2)[:, :count]


def _phase(re: Tensor, im: Tensor) -> tuple[Angle, Tensor]:
    """The phase of re + i im (0 at zero) and the length."""
    length = torch.sqrt(re * re + im * im)
    none = length == 0
    safe = torch.where(none, torch.ones_like(length), length)
    return (torch.where(none, torch.ones_like(re), re / safe), im / safe), length


def tables(x: Float[Tensor, "D N"], top: int) -> list[tuple[Float[Tensor, "P N"], list[Float[Tensor, "HQ N"]]]]:
    """Waves of a cloud: for each parity of a its rows, and with them the products of rows of h and b, class by class."""
    if len(x) == 2:
        return [(torch.ones_like(x[:1]), [waves(_phase(x[0], x[1])[0], 0, 1, top).flatten(0, 1)])]
    a, length = _phase(x[0], x[1])
    right = [waves(a, s, 2, top).flatten(0, 1) for s in (0, 1)]
    if len(x) == 3:
        h, _ = _phase(x[2], length)
        return [(part, [table]) for part, table in zip(right, waves(h, 0, 1, top), strict=True)]
    b, other = _phase(x[2], x[3])
    h, _ = _phase(length, other)
    polar = [waves(h, parity, 2, top) for parity in (0, 1)]
    left = [waves(b, r, 2, top).flatten(0, 1) for r in (0, 1)]
    return [(right[s], [(polar[(s + r) % 2][r].unsqueeze(1) * left[r]).flatten(0, 1) for r in (0, 1)]) for s in (0, 1)]
