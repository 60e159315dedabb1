"""Attention on S^1, S^2 and S^3 in time of n: every token sees the others only through the Fourier moments of the cloud.

Kernel. k(t) = e^{beta t - |beta|} on [-1, 1] is cut to its Chebyshev series of degree L, of coefficients e^{-|beta|} I_l(|beta|)
(twice for l > 0). What is cut off is largest at an end, where it is the plain sum E = 2 e^{-|beta|} sum_{l>L} I_l, whatever d.
Moments. Sums of all waves (see fourier) up to degree L+1 fix weights on a small grid of nodes, which integrates every such
polynomial as the cloud does. Hence sum_j k_L(<x, x_j>) [1, x_j] follows from moments of weight 1. <x, y> depends on phases only
through their differences, so the kernel mixes nothing but frequencies of the polar angle. Two passes over the tokens, in blocks.
Error. |sum_j (k - k_L)| <= n E, so the pull N/Z is off by at most 2 n E / Z_i |V|: N/Z - N'/Z' = (N - N')/Z' + (N/Z)(Z' - Z)/Z'.
As Z_i >= 1 for beta >= 0 this is the a priori n * tol; `attend` looks at the Z_i it finds and raises L where they ask for it.
"""

from collections.abc import Callable, Sequence
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

LARGEST = {2: 4096, 3: 120, 4: 32}  # degree of the largest plan by d: 7 million samples of the kernel, once
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


@lru_cache(maxsize=64)
def degree(beta: float, error: float) -> int:
    """Smallest L >= 1 with tail(beta, L) <= error > 0; about sqrt(2 |beta| log(1/error)) for large beta."""
    low, high = 0, 1
    while tail(beta, high) > error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tail(beta, middle) > error else (low, middle)
    return high


def rounding(beta: float, degree: int) -> float:
    """Rounding errors of sums relative to n, in float64: two to twenty times what was measured for degrees 8 to 2500."""
    return 3e-15 * (degree + 2) + 1e-15 * abs(beta)


@dataclass(frozen=True)
class Plan:
    """What turns moments into fields for one d, beta and degree L; a tuple has one entry per class of parity.

    spread: moments of degree L+1 to weights at nodes, three matrices (rows, nodes). gather: weighted nodes to moments of degree
    L, three matrices (nodes, rows). kernel (Q, P, H, H): k_L between waves of h. points (d, H, Q, P): nodes. error: E of `tail`.
    """

    d: int
    degree: int
    error: float
    spread: tuple[tuple[Tensor, Tensor, Tensor], ...]
    gather: tuple[tuple[Tensor, Tensor, Tensor], ...]
    kernel: tuple[Tensor, ...]
    points: Tensor


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # the cache serves calls with gradients too
def plan(d: int, beta: float, degree: int, device: torch.device) -> Plan:
    """Tables for tokens of width d = 2, 3 or 4. Raises ToleranceError beyond the degree up to which they are small."""
    if d not in LARGEST or degree > LARGEST[d]:
        raise ToleranceError(f"harmonics: beta={beta:g} asks for degree {degree} on S^{d - 1}; the largest by d is {LARGEST}")
    circle = 2 * torch.pi * torch.arange(2 * degree + 4, dtype=torch.float64) / (2 * degree + 4)
    nodes = [circle if used else circle[:1] for used in (d > 2, d != 3, d > 2)]
    apart = [n[: len(n) // 2 + 1] for n in nodes[1:]]  # the kernel is even in the differences of phases
    l = np.arange(degree + 1)
    series = np.where(l > 0, 2.0, 1.0) * ive(l, abs(beta)) * (-1.0 if beta < 0 else 1.0) ** l
    h, g, b, a = torch.meshgrid(nodes[0], nodes[0], *apart, indexing="ij")
    cosine = (fourier.points(d, h, b, a) * fourier.points(d, g, 0 * b, 0 * a)).sum(0)
    sampled = torch.from_numpy(chebval(cosine.numpy(), series))
    few, more = (
        [(*left, p.a) for p in fourier.basis(d, top, torch.device("cpu")) for left in p.left] for top in (degree, degree + 1)
    )
    spread = tuple(tuple(r.dual(n).to(device) for r, n in zip(rows, nodes, strict=True)) for rows in more)
    gather = tuple(tuple(r.at(n).T.to(device) for r, n in zip(rows, nodes, strict=True)) for rows in few)
    kernel = tuple(_between(sampled, rows, nodes[0], apart).to(device) for rows in few)
    grid = fourier.points(d, *torch.meshgrid(*nodes, indexing="ij")).to(device)
    return Plan(d, degree, tail(beta, degree), spread, gather, kernel, grid)


def _between(sampled: Tensor, rows: tuple[fourier.Rows, ...], h: Tensor, apart: list[Tensor]) -> Tensor:
    """Coefficients (Q, P, H, H) of a kernel sampled at (h, h', b - b', a - a'), alike for cosines and sines of a and of b."""
    polar, mixed = rows[0].dual(h), sampled
    for wave, half in zip(rows[1:], apart, strict=True):
        times = torch.full_like(half, 2.0)  # nodes that share a value
        times[0] = times[-1] = 1.0
        even = torch.cos(wave.frequency * half) * torch.where(wave.frequency > 0, 2.0, 1.0) * times / times.sum()
        mixed = torch.tensordot(mixed, even, ([2], [1]))  # h h' a Q, then h h' Q P
    mixed = torch.tensordot(torch.tensordot(mixed, polar, ([0], [1])), polar, ([0], [1]))  # Q P H H
    return mixed.transpose(2, 3).contiguous()


def _apply(array: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A matrix on each of the three last axes (h, b, a)."""
    h, b, a = matrices
    array = array @ a if b.numel() == 1 else b.T @ (array @ a)
    return (h.T @ array.flatten(-2)).unflatten(-1, array.shape[-2:])


def fields(made: Plan, moments: list[Tensor]) -> list[Tensor]:
    """Coefficients (Q, P, H, 1 + d) of sum_j k_L(<x, x_j>) [1, x_j] as functions of x, from the moments of degree L+1."""
    weight = sum(_apply(moment, rows) for moment, rows in zip(moments, made.spread, strict=True))
    loaded = torch.cat((weight.unsqueeze(0), weight * made.points))
    seen = (_apply(loaded, rows).permute(2, 3, 1, 0) for rows in made.gather)
    return [kernel @ part for kernel, part in zip(made.kernel, seen, strict=True)]


def moments(x: Float[Tensor, "D N"], top: int) -> list[Tensor]:
    """Sums (H, Q, P) over tokens of all waves up to degree `top`, class by class of parity."""
    h, b, a = fourier.angles(x)
    found = []
    for parity in fourier.basis(len(x), top, x.device):
        right = torch.ones_like(x[:1]) if a is None else parity.a.at(a)
        for left in parity.left:
            found.append((fourier.product(left, h, b) @ right.T).unflatten(0, (len(left[0]), len(left[1]))))
    return found


def evaluate(x: Float[Tensor, "D N"], matrices: list[Tensor], top: int) -> Float[Tensor, "C N"]:
    """The fields at tokens, matrices (C P, H Q): sums over h and b by matrix product, over a by rows."""
    h, b, a = fourier.angles(x)
    total, matrices = 0, iter(matrices)
    for parity in fourier.basis(len(x), top, x.device):
        part = next(matrices) @ fourier.product(parity.left[0], h, b)
        for left in parity.left[1:]:
            part = torch.addmm(part, next(matrices), fourier.product(left, h, b))
        if a is None:
            return part
        total = total + (part.unflatten(0, (-1, len(parity.a))) * parity.a.at(a)).sum(1)
    return total


@dataclass(frozen=True)
class Pulled:
    """pull (B, N, D): sum_j A_ij V x_j. error: proven bound of |pull - exact| in units of the spectral norm of V. degree: L."""

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

    Starts from the degree that is enough for tokens spread evenly; repeats with a higher one if the smallest Z_i found asks so.
    Works in float64 and returns the type of x. Tokens count as directions: lengths off 1 by rounding are set right.
    Differentiable along the sphere (the radial part of a gradient is dropped); the backward pass computes blocks of tokens again.
    tangential: subtract the part along x_i.
    Raises: ToleranceError if tol is below rounding or the degree above LARGEST; ValueError for NaN and tokens off the sphere.
    """
    check_on_sphere(x, "harmonics")
    d, n, beta = x.shape[-1], x.shape[-2], float(beta)
    if d not in LARGEST:
        raise ToleranceError(f"harmonics: tokens of width {d}; made for 2, 3 and 4")
    least = 1 / n if beta >= 0 else float(np.exp(2 * beta))  # Z / n is at least that, whatever the cloud
    mass, highest = max(even_mass(d, beta) / 2, least), 0
    while True:
        highest = max(highest + 1, needed(beta, tol, mass))
        made = plan(d, beta, highest, x.device)
        found = [_cloud(made, one, V, tangential) for one in x]
        lowest = min(float(z) for _, z in found) / n
        noise = made.error + rounding(beta, highest)
        error = 2 * noise / lowest if lowest > 0 else float("inf")
        if error <= tol:
            return Pulled(
                torch.stack([pull for pull, _ in found]) if len(found) > 1 else found[0][0].unsqueeze(0), error, highest
            )
        mass = max(lowest - noise, least)


def needed(beta: float, tol: float, mass: float) -> int:
    """Degree for an error of `tol` where the smallest Z / n is `mass`. Raises ToleranceError if rounding is larger than that."""
    wanted = tol * mass / 2
    if not wanted > 0:
        raise ToleranceError(f"harmonics: tol={tol:g} at Z / n = {mass:.2g} is below every number")
    enough = degree(beta, wanted)
    spare = wanted - rounding(beta, enough + 2)
    if spare <= 0:
        least = 2 * rounding(beta, enough + 2) / mass
        raise ToleranceError(
            f"harmonics: tol={tol:g} is below rounding, which is {least:.1g} at beta={beta:g} and Z / n = {mass:.2g}"
        )
    return degree(beta, spare)


@lru_cache(maxsize=64)
def even_mass(d: int, beta: float) -> float:
    """Z / n where tokens are spread evenly."""
    return float(np.exp(log_uniform_sum(d, abs(beta)) - abs(beta)))


def _cloud(made: Plan, x: Float[Tensor, "N D"], V: Tensor | None, tangential: bool) -> tuple[Float[Tensor, "N D"], Tensor]:
    """Pulls on the tokens of one cloud, and its smallest Z."""
    back = torch.is_grad_enabled() and (x.requires_grad or (V is not None and V.requires_grad))
    turn = _away_from_poles(x) if back else None
    basis = fourier.basis(made.d, made.degree, x.device)
    widths = [(len(h) * len(b), (1 + made.d) * len(parity.a)) for parity in basis for h, b in parity.left]
    blocks = x.split(max(256, ELEMENTS // max(map(max, widths))))

    def run(step: Callable, *given: Tensor) -> Sequence[Tensor]:
        return checkpoint(step, *given, use_reentrant=False) if back and len(blocks) > 1 else step(*given)

    def columns(block: Tensor) -> Tensor:
        return block.double().T.contiguous() if turn is None else turn.T @ block.double().T

    def gathered(block: Tensor) -> list[Tensor]:
        return moments(columns(block), made.degree + 1)

    def pulled(block: Tensor, *matrices: Tensor) -> tuple[Tensor, Tensor]:
        total = evaluate(columns(block), list(matrices), made.degree)
        pull = total[1:] / total[0]
        if tangential:
            column = block.double().T.contiguous()
            pull = pull - (pull * column).sum(0) * column
        return pull.T.to(x.dtype, memory_format=torch.contiguous_format), total[0].detach().min()

    sums = run(gathered, blocks[0])
    for block in blocks[1:]:
        sums = [a + b for a, b in zip(sums, run(gathered, block), strict=True)]
    coefficients = fields(made, sums)
    mix = turn if V is None else V.to(x.device, torch.float64) if turn is None else V.to(x.device, torch.float64) @ turn
    if mix is not None:  # fields are in turned coordinates, pulls are not
        coefficients = [torch.cat((part[..., :1], part[..., 1:] @ mix.T), -1) for part in coefficients]
    matrices = [part.permute(3, 1, 2, 0).reshape(-1, part.shape[2] * part.shape[0]) for part in coefficients]  # CP HQ
    pulls = [run(pulled, block, *matrices) for block in blocks]
    return torch.cat([pull for pull, _ in pulls]), torch.stack([lowest for _, lowest in pulls]).min()


def _away_from_poles(x: Tensor) -> Tensor:
    """The best of a few fixed rotations: no token near where an angle is undefined, as derivatives divide by that distance."""
    drawn = torch.randn(6, x.shape[-1], x.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turns = torch.linalg.qr(drawn)[0].to(x.device)

    def nearest(turn: Tensor) -> float:
        y = x.detach().double() @ turn
        near = torch.hypot(y[:, 0], y[:, 1])
        return float((torch.minimum(near, torch.hypot(y[:, 2], y[:, 3])) if x.shape[-1] == 4 else near).min())

    return max(turns, key=nearest)
