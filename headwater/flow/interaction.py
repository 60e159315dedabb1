"""Which way to attention among n tokens of the sphere: exact, by harmonics in time of n, or to a random subset. And why."""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.flow import fourier, harmonics, subsample
from headwater.flow.sphere import check_on_sphere, tangent
from headwater.flow.velocity import InTime, Weight

Method = Literal["exact", "harmonics", "subsample"]
METHODS = ("auto", "exact", "harmonics", "subsample")
SCORES = 2**24  # numbers in the scores of a block of queries, where no fused kernel keeps them away


@dataclass(frozen=True)
class Choice:
    """A way to attention and why it was taken.

    cost: predicted seconds on one core of an EPYC Zen 4 in float64. memory: bytes beside tokens and pulls, at most. error: per
    token, in units of the spectral norm of V; a bound for harmonics, rounding alone for exact, root mean square for subsample.
    """

    method: Method
    cost: float
    memory: int
    error: float
    because: str


def choose(n: int, d: int, beta: float, tol: float, *, random: bool = False) -> Choice:
    """The cheapest way to attention of n tokens on S^{d-1} with errors of at most tol * |V|_2 per token.

    random: may it be right on average only (subsample)? Costs are of tokens spread evenly; a cloud with tokens far from all
    others asks harmonics for a higher degree, at most about twice. Raises ValueError for sizes and tolerances that make no sense.
    """
    if n < 1 or d < 2 or not math.isfinite(beta) or not (math.isfinite(tol) and tol > 0):
        raise ValueError(f"choose: n={n}, d={d}, beta={beta}, tol={tol}: needs n >= 1, d >= 2, finite beta, positive finite tol")
    exact = _exact(n, d, beta, tol)
    ways, reasons = [exact], []
    try:
        ways.append(_harmonic(n, d, float(beta), tol))
    except harmonics.ToleranceError as error:
        reasons.append(str(error))
    if random:
        ways.append(_random(n, d, beta, tol))
    best = min(ways, key=lambda way: way.cost)
    beaten = [f"{way.method} would take {_seconds(way.cost)}, not {_seconds(best.cost)}" for way in ways if way is not best]
    return replace(best, because="; ".join(filter(None, [best.because, *beaten, *reasons])))


def _seconds(cost: float) -> str:
    return f"{cost:.2g} s" if cost < 120 else f"{cost / 60:.0f} min" if cost < 7200 else f"{cost / 3600:.0f} h"


def _per_pair(d: int) -> float:
    """Seconds per query and key of the fused kernel in float64."""
    return 1.9e-9 + 5e-11 * d


def _exact(n: int, d: int, beta: float, tol: float) -> Choice:
    rounding = 2**-52 * (8 + 2 * abs(beta))  # of beta <x, y>, hence of the weights
    because = "" if rounding <= tol else f"tol={tol:g} is below the rounding of float64 at beta={beta:g}, nothing comes closer"
    return Choice("exact", n * n * _per_pair(d) + 5e-5, 8 * min(n, _queries(n)) * n, rounding, because)


def _harmonic(n: int, d: int, beta: float, tol: float) -> Choice:
    """Raises ToleranceError where harmonics are out of the question. Costs as measured: 1.5 ns a wave, 22 multiply-adds a ns."""
    if d not in harmonics.LARGEST:
        raise harmonics.ToleranceError(f"harmonics are made for d = 2, 3 and 4, not {d}")
    mass = max(harmonics.even_mass(d, beta) / 2, 1 / n if beta >= 0 else 0.0)
    top = harmonics.needed(beta, tol, mass)
    if top > harmonics.LARGEST[d]:
        raise harmonics.ToleranceError(
            f"harmonics: beta={beta:g} asks for degree {top}, above the {harmonics.LARGEST[d]} for d={d}"
        )
    basis = fourier.basis(d, top, torch.device("cpu"))
    waves = sum(len(p.a) + sum(len(h) + len(b) for h, b in p.left) for p in basis)
    left = sum(len(h) * len(b) for p in basis for h, b in p.left) if d == 4 else 0
    pairs = sum(len(h) * len(b) * len(p.a) for p in basis for h, b in p.left)
    sums = (1 + d) * sum(len(p.a) for p in basis) if d > 2 else 0
    per_token = 1e-9 * (40 + 2 * 1.5 * waves + 2 * 0.5 * left + (2 + d) * pairs / 22 + 1.2 * sums)
    nodes = (2 * top + 4) ** (d - 1) * 8
    kernel = 2 * nodes * {2: 1, 3: top, 4: top // 4 + 1}[d]
    because = f"harmonics up to degree {top} meet tol={tol:g} in time of n"
    return Choice(
        "harmonics", n * per_token + 6e-4 + nodes * 1e-9, 10 * 8 * harmonics.ELEMENTS + kernel + 6 * nodes, tol, because
    )


def _random(n: int, d: int, beta: float, tol: float) -> Choice:
    p = subsample.keys_for(n, d, beta, tol)
    because = f"{p} random keys of {n} are enough for an error of {tol:g} on average"
    cost = n * p * _per_pair(d) + 2e-8 * n + 5e-5
    return Choice("subsample", cost, 8 * (n + p * d), subsample.expected_error(n, d, beta, p), because)


def _queries(n: int) -> int:
    return max(64, SCORES // n)


def attend(
    x: Float[Tensor, "B N D"],
    beta: float,
    V: Float[Tensor, "D D"] | None = None,
    tol: float = 1e-6,
    method: str = "auto",
    *,
    tangential: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B N D"], Choice]:
    """Softmax attention sum_j A_ij V x_j among tokens on the sphere, and how it was done.

    "auto" takes what `choose` says, and subsample only if there is a generator; where harmonics turn out not to meet `tol` on
    this cloud, it says so in the choice and goes the exact way, in blocks of queries. tangential: subtract the part along x_i.
    Raises: ValueError if a method is asked for by name that cannot meet `tol` (harmonics) or lacks a generator (subsample).
    """
    check_on_sphere(x, "attend")
    if method not in METHODS:
        raise ValueError(f"attend: method {method!r}; use one of {METHODS}")
    n, d = x.shape[1:]
    choice = choose(n, d, beta, tol, random=generator is not None) if method == "auto" else _asked(method, n, d, beta, tol)
    if choice.method == "subsample":
        if generator is None:
            raise ValueError("attend: subsample draws keys: pass a generator")
        keys = subsample.draw(n, subsample.keys_for(n, d, beta, tol), generator)
        pull = subsample.attend(x, x[:, keys.to(x.device)], beta, V)
        return tangent(x, pull) if tangential else pull, choice
    if choice.method == "harmonics":
        try:
            found = harmonics.attend(x, beta, V, tol, tangential=tangential)
            return found.pull, replace(choice, error=found.error)
        except harmonics.ToleranceError as error:
            if method == "harmonics":
                raise
            choice = replace(_exact(n, d, beta, tol), because=f"exact, as this cloud is too uneven: {error}")
    pull = torch.cat([subsample.attend(part, x, beta, V) for part in x.split(_queries(n), 1)], 1)
    return tangent(x, pull) if tangential else pull, choice


def _asked(method: str, n: int, d: int, beta: float, tol: float) -> Choice:
    """The choice of one who has chosen."""
    choose(n, d, beta, tol)  # complains
    way = {"exact": _exact, "harmonics": _harmonic, "subsample": _random}[method](n, d, beta, tol)
    return replace(way, because="; ".join(filter(None, ["asked for", way.because])))


@final
class FastAttention(nn.Module):
    """Velocity of softmax self-attention on the sphere, x_i' = P sum_j A_ij V x_j, within tol * |V|, by the cheapest way.

    Args:   V: (D, D), constant, a list of layers that hold for `duration` each, or a function of t; None is the identity.
            method: "auto", "exact" or "harmonics"; for random subsets see subsample.Subsampled. Q and K other than the identity,
            heads and masks: velocity.Attention.
    Raises: ValueError for tokens off the sphere, NaN, and a tolerance that the method cannot meet.
    """

    space = "sphere"

    def __init__(self, beta: float, V: Weight = None, tol: float = 1e-6, method: str = "auto", *, duration: float = 1.0):
        super().__init__()
        choose(1, 2, beta, tol)  # complains
        if method not in ("auto", "exact", "harmonics"):
            raise ValueError(f"FastAttention: method {method!r}; use auto, exact or harmonics")
        self.beta, self.tol, self.method, self.V = float(beta), float(tol), method, InTime(V, duration)
        self.breaks = self.V.breaks

    def ambient(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The pull before projection."""
        return attend(x, self.beta, self.V(t, x), self.tol, self.method)[0]

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Tangent velocity of every token."""
        return attend(x, self.beta, self.V(t, x), self.tol, self.method, tangential=True)[0]


def lipschitz_bound(n: int, beta: float, V: Float[Tensor, "D D"] | None = None, radius: float = 1.0) -> float:
    """Largest factor by which softmax attention of n tokens in a ball can stretch a change of them (Frobenius; no projection).

    sqrt(3) |V| (beta^2 R^4 (4 n + 1) + n)^{1/2} for Q'K = I. Source: Castin, Ablin and Peyre 2024, theorem 3.3; recalled; loose.
    """
    norm = 1.0 if V is None else float(torch.linalg.matrix_norm(V, 2))
    return math.sqrt(3) * norm * math.sqrt(beta**2 * radius**4 * (4 * n + 1) + n)


def mean_field_lipschitz_bound(beta: float, V: Float[Tensor, "D D"] | None = None, radius: float = 1.0) -> float:
    """The same for any number of tokens: |V| (1 + 3 |beta| R^2) e^{2 |beta| R^2}; infinite where float64 ends. Source: ditto."""
    norm = 1.0 if V is None else float(torch.linalg.matrix_norm(V, 2))
    exponent = 2 * abs(beta) * radius**2
    return norm * (1 + 1.5 * exponent) * math.exp(exponent) if exponent < 700 else math.inf
