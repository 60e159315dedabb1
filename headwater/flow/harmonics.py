"""Attention on S^1, S^2 and S^3 in time of n: every token sees the others only through the Fourier moments of the cloud.

Kernel. k(t) = e^{beta t - |beta|} on [-1, 1] is cut to its Chebyshev series of degree L, whose coefficients are e^{-|beta|} I_l(|beta|),
twice for l > 0. What is cut off is largest at an end, where it is the plain sum E = 2 e^{-|beta|} sum_{l>L} I_l: the same in every d.
Moments. Sums of all waves (see fourier) up to degree L+1 fix weights on a small grid of nodes that integrates every such polynomial
as the cloud does. Hence sum_j k_L(<x, x_j>) [1, x_j] follows from moments of weight 1. <x, y> depends on the two phases only through
their differences, so the kernel mixes nothing but frequencies of the polar angle. Two passes over the tokens, in blocks.
Error. |sum_j (k - k_L)| <= n E, so the pull N/Z is off by at most 2 n E / Z_i |V|: N/Z - N'/Z' = (N - N')/Z' + (N/Z)(Z' - Z)/Z'.
As Z_i >= 1 for beta >= 0 this is the a priori n * tol; `attend` looks at the Z_i it finds and raises L where they ask for it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.chebyshev import chebval
from scipy.special import ive
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from headwater.flow import fourier
from headwater.flow.onset import log_uniform_sum
from headwater.flow.sphere import check_on_sphere

LARGEST = {2: 4096, 3: 120, 4: 32}  # degree of the largest plan by d: its tables stay below 200 MiB
ROUNDING = 2e-15  # of sums relative to n, times 2 n / Z: more than any measured
ELEMENTS = 2**18  # numbers in the largest array of a block of tokens: it stays in the cache


class ToleranceError(ValueError):
    """Harmonics cannot meet the tolerance at this d, beta and cloud."""


def tail(beta: float, degree: int) -> float:
    """E = 2 e^{-|beta|} sum_{l > degree} I_l(|beta|), the largest error of k_L, as an upper bound tight to its last digits.

    The first 16 terms are summed; the rest is geometric by Amos' bound I_{v+1}/I_v <= b / (v+1/2 + hypot(v+1/2, b)).
    """
    b, last = abs(beta), degree + 17
    if b == 0:
        return 0.0
    ratio = b / (last + 0.5 + np.hypot(last + 0.5, b))
    return float(2 * (ive(np.arange(degree + 1, last), b).sum() + ive(last, b) / (1 - ratio)))


def degree(beta: float, error: float) -> int:
    """Smallest L >= 1 with tail(beta, L) <= error > 0; about sqrt(2 |beta| log(1/error)) for large beta."""
    low, high = 0, 1
    while tail(beta, high) > error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tail(beta, middle) > error else (low, middle)
    return high


@dataclass(frozen=True)
class Plan:
    """What turns moments into fields for one d, beta and degree L; a tuple has one entry per class of parity.

    spread: moments of degree L+1 to weights at nodes, three matrices (rows, nodes). gather: weighted nodes to moments of degree L,
    three matrices (nodes, rows). kernel (Q, P, H, H): k_L between waves of h. points (d, H, Q, P): the nodes. error: E of `tail`.
    """

    d: int
    degree: int
    error: float
    spread: tuple[tuple[Tensor, Tensor, Tensor], ...]
    gather: tuple[tuple[Tensor, Tensor, Tensor], ...]
    kernel: tuple[Tensor, ...]
    points: Tensor


@lru_cache(maxsize=8)
def plan(d: int, beta: float, degree: int, device: torch.device) -> Plan:
    """Tables for tokens of width d = 2, 3 or 4. Raises ToleranceError beyond the degree up to which they are small."""
    if d not in LARGEST or degree > LARGEST[d]:
        raise ToleranceError(f"harmonics: beta={beta:g} asks for degree {degree} on S^{d - 1}; the largest by d is {LARGEST}")
    circle = 2 * np.pi * np.arange(2 * degree + 4) / (2 * degree + 4)
    nodes = [circle if used else np.zeros(1) for used in (d > 2, d != 3, d > 2)]
    apart = [n[: len(n) // 2 + 1] for n in nodes[1:]]  # the kernel is even in the differences of phases
    l = np.arange(degree + 1)
    series = np.where(l > 0, 2.0, 1.0) * ive(l, abs(beta)) * (-1.0 if beta < 0 else 1.0) ** l
    h, g, b, a = np.ix_(nodes[0], nodes[0], *apart)
    zero = np.zeros((1, 1, 1, 1))
    here, there = fourier.points(d, *np.broadcast_arrays(h, b, a)), fourier.points(d, *np.broadcast_arrays(g, zero, zero))
    sampled = chebval((here * there).sum(0), series)

    def put(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float64, device=device)

    def each(of: tuple[fourier.Rows, ...], dual: bool) -> tuple[Tensor, ...]:
        return tuple(put(r.dual(n) if dual else r.at(n).T) for r, n in zip(of, nodes, strict=True))

    few, more = fourier.rows(d, degree), fourier.rows(d, degree + 1)
    spread, gather = tuple(each(r, True) for r in more), tuple(each(r, False) for r in few)
    kernel = tuple(put(_between(sampled, r, nodes[0], apart)) for r in few)
    grid = fourier.points(d, *np.meshgrid(*nodes, indexing="ij"))
    return Plan(d, degree, tail(beta, degree), spread, gather, kernel, put(grid))


def _between(sampled: np.ndarray, of: tuple[fourier.Rows, ...], h: np.ndarray, apart: list[np.ndarray]) -> np.ndarray:
    """Coefficients (Q, P, H, H) of a kernel sampled at (h, h', b - b', a - a'): cos f(a - a') is cos cos + sin sin, alike for both."""
    mixed = np.tensordot(np.tensordot(of[0].dual(h), sampled, (1, 0)), of[0].dual(h), (1, 1))  # H b a H
    for rows, half in zip(of[1:], apart, strict=True):
        times = np.full(len(half), 2.0)  # nodes that share a value
        times[[0, -1]] = 1.0
        even = np.cos(np.multiply.outer(rows.frequency, half)) * np.where(rows.frequency > 0, 2.0, 1.0)[:, None] * times
        mixed = np.tensordot(mixed, even / times.sum(), (1, 1))  # the phase goes last: H a H Q, then H H Q P
    return mixed.transpose(2, 3, 0, 1)


def _apply(array: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A matrix on each of the three last axes (h, b, a)."""
    h, b, a = matrices
    array = b.T @ (array @ a)
    return (h.T @ array.flatten(-2)).unflatten(-1, array.shape[-2:])


def fields(made: Plan, moments: list[Float[Tensor, "H Q P"]]) -> list[Float[Tensor, "Q P H C"]]:
    """Coefficients of sum_j k_L(<x, x_j>) [1, x_j] as functions of x, C = 1 + d, from the moments of degree L+1."""
    weight = sum(_apply(moment, rows) for moment, rows in zip(moments, made.spread, strict=True))
    loaded = torch.cat((weight.unsqueeze(0), weight * made.points))
    seen = (_apply(loaded, rows).permute(2, 3, 1, 0) for rows in made.gather)
    return [kernel @ part for kernel, part in zip(made.kernel, seen, strict=True)]


def moments(x: Float[Tensor, "D N"], top: int) -> tuple[Float[Tensor, "HQ P"], ...]:
    """Sums over tokens of all waves of degree `top`, by class of parity."""
    return tuple(left @ right.T for right, lefts in fourier.tables(x, top) for left in lefts)


def evaluate(x: Float[Tensor, "D N"], matrices: list[Float[Tensor, "CP HQ"]], top: int) -> Float[Tensor, "C N"]:
    """The fields at tokens: sums over h and b by matrix product, over a by rows."""
    total, matrices = 0, iter(matrices)
    for right, lefts in fourier.tables(x, top):
        part = next(matrices) @ lefts[0]
        for left in lefts[1:]:
            part = torch.addmm(part, next(matrices), left)
        total = total + (part.unflatten(0, (-1, len(right))) * right).sum(1)
    return total


@dataclass(frozen=True)
class Pulled:
    """pull (B, N, D): sum_j A_ij V x_j. error: proven bound of |pull - exact| in units of the spectral norm of V. degree: L used."""

    pull: Float[Tensor, "B N D"]
    error: float
    degree: int


def attend(
    x: Float[Tensor, "B N D"],
    beta: float,
    V: Float[Tensor, "D D"] | None = None,
    tol: float = 1e-6,
    *,
    tangential: bool = False,
) -> Pulled:
    """Softmax attention among tokens on the sphere of width D = 2, 3 or 4 in time of N, |error| <= tol * |V| per token, proven.

    Starts from the degree that is enough for tokens spread evenly and repeats with a higher one if the smallest Z_i found asks for it.
    Works in float64 and returns the type of x. Tokens count as directions: lengths off 1 by rounding are set right. Differentiable
    along the sphere (the radial part of a gradient is dropped), at any order; the backward pass computes blocks again.
    tangential: subtract the part along x_i.
    Raises: ToleranceError if tol is below rounding or the degree above LARGEST; ValueError for NaN and tokens off the sphere.
    """
    check_on_sphere(x, "harmonics")
    d, n = x.shape[-1], x.shape[-2]
    if d not in LARGEST:
        raise ToleranceError(f"harmonics: tokens of width {d}; made for 2, 3 and 4")
    least = np.exp(-abs(beta) * (2 if beta < 0 else 0)) / (n if beta >= 0 else 1)  # of Z / n, whatever the cloud
    mass = max(float(np.exp(log_uniform_sum(d, abs(beta)) - abs(beta))) / 2, least)
    highest = 0
    while True:
        wanted = tol * mass / 2 - ROUNDING
        if not wanted > 0:
            raise ToleranceError(f"harmonics: tol={tol:g} is below rounding: the smallest Z / n is {mass:.2g}; use {4 * ROUNDING / mass:.1g}")
        highest = max(highest + 1, degree(beta, wanted))
        made = plan(d, float(beta), highest, x.device)
        found = [_cloud(made, one, V, tangential) for one in x]
        lowest = min(float(z) / n for _, z in found)
        error = 2 * (made.error + ROUNDING) / lowest if lowest > 0 else np.inf
        if error <= tol:
            return Pulled(torch.stack([pull for pull, _ in found]), error, highest)
        mass = max(lowest - made.error - ROUNDING, least)


def _cloud(made: Plan, x: Float[Tensor, "N D"], V: Tensor | None, tangential: bool) -> tuple[Float[Tensor, "N D"], Tensor]:
    """Pulls on the tokens of one cloud, and its smallest Z."""
    back = torch.is_grad_enabled() and (x.requires_grad or (V is not None and V.requires_grad))
    turn = _away_from_poles(x) if back else None
    mix = turn if V is None else V.to(x.device, torch.float64) if turn is None else V.to(x.device, torch.float64) @ turn
    widths = [[r.frequency.size for r in c] for c in fourier.rows(made.d, made.degree + 1)]
    blocks = x.split(max(256, ELEMENTS // max(h * q * p // max(min(h * q, p), 1) for h, q, p in widths)))
    columns = ((b.double() if turn is None else b.double() @ turn).T.contiguous() for b in blocks)

    def run(function, *given):  # noqa: ANN001
        return checkpoint(function, *given, use_reentrant=False) if back and len(blocks) > 1 else function(*given)

    sums = None
    for one in columns:
        part = run(moments, one, made.degree + 1)
        sums = part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]
    return sums
