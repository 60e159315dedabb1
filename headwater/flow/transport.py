"""Optimal transport between clouds of tokens, and what it says of a trajectory: cost per layer, action, straightness.

Plans come from POT: exact by the network simplex, entropic by Sinkhorn in log space, sliced by sorting on lines and circles.
"""

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.sphere import check_finite, check_on_sphere

MOST = 2000  # points of a cloud that enter an exact plan: 2000 x 2000 costs take 32 MB and about a second
MARGINAL = 1e-3  # largest relative error of a marginal of an entropic plan


@dataclass(frozen=True)
class Cost:
    """What it costs to move one cloud onto another.

    power: W_p^p (entropic: of the regularised problem; sliced: mean over projections), differentiable. p: its exponent.
    error: how far `distance` may be off beside rounding. 0: all points were used. From a subsample: a bound in the mean, the
    distances between two subsamples of the same cloud added up. Sliced: one standard error over the projections.
    points: used of each cloud.
    """

    power: Float[Tensor, ""]
    p: float
    error: float = 0.0
    points: tuple[int, int] = (0, 0)

    @property
    def distance(self) -> Float[Tensor, ""]:
        """W_p = power^(1/p); 0, with gradient 0, where power is not positive."""
        moved = self.power > 0
        return torch.where(moved, torch.where(moved, self.power, 1.0) ** (1 / self.p), 0.0)


def costs(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"], *, space: str = "flat", p: float = 2.0) -> Float[Tensor, "N M"]:
    """|x_i - y_j|^p, or the p-th power of the angle between them in space "sphere". Raises ValueError for what is not a cloud."""
    _check(x, y, space, p)
    chord = _chords(x, y)
    return (chord if space == "flat" else 2 * torch.atan2(chord, _chords(x, -y))) ** p


def wasserstein(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    *,
    space: str = "flat",
    p: float = 2.0,
    most: int = MOST,
    generator: torch.Generator | None = None,
) -> Cost:
    """The exact W_p between two clouds of equal masses, differentiable in both, in memory of most^2.

    A cloud of more than `most` points enters with a random subsample, drawn from `generator`. Its error follows from
    |W(x_m, y) - W(x, y)| <= W(x_m, x) and E W(x_m, x)^p <= E W(x_m, x'_m)^p, x'_m a second subsample (W^p is convex).
    Raises: ValueError for clouds that are not finite or differ in width, and for large ones without a generator.
    """
    _check(x, y, space, p)
    few, error = [], 0.0
    for cloud in (x, y):
        if len(cloud) > most:
            first, second = _subsample(cloud, most, generator), _subsample(cloud, most, generator)
            error += max(float(_exact(costs(first.detach(), second.detach(), space=space, p=p))), 0.0) ** (1 / p)
            cloud = first
        few.append(cloud)
    return Cost(_exact(costs(*few, space=space, p=p)), p, error, (len(few[0]), len(few[1])))


def pairing(x: Float[Tensor, "N D"], y: Float[Tensor, "N D"], *, space: str = "flat", p: float = 2.0) -> Tensor:
    """The permutation (N,) of the rows of y that makes pairs (x_i, y_perm[i]) of least mean cost, exact."""
    import ot

    if len(x) != len(y):
        raise ValueError(f"pairing: {len(x)} and {len(y)} points: clouds of equal size are needed")
    matrix = costs(x.detach(), y.detach(), space=space, p=p).double().cpu()
    plan, said = ot.emd([], [], matrix, numItermax=10_000_000, log=True)
    _check_solved(said)
    return plan.argmax(1).to(x.device)


def sinkhorn(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    eps: float,
    *,
    space: str = "flat",
    p: float = 2.0,
    sweeps: int = 2000,
) -> Cost:
    """min <P, C> + eps KL(P | uniform) over plans P, differentiable by the envelope theorem. Not 0 for equal clouds.

    Args:   eps: in units of |x - y|^p. sweeps: the most; far more are needed as eps falls below about 1e-3 of the largest cost.
    Raises: ValueError if the plan's marginals are off by more than 1e-3 after them; it says by how much.
    """
    _check(x, y, space, p)
    _check_plan(x, y, eps)
    return Cost(_entropic(costs(x, y, space=space, p=p), eps, sweeps), p, 0.0, (len(x), len(y)))


def sinkhorn_divergence(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    eps: float,
    *,
    space: str = "flat",
    p: float = 2.0,
    sweeps: int = 2000,
) -> Cost:
    """OT_eps(x, y) - OT_eps(x, x) / 2 - OT_eps(y, y) / 2: zero for equal clouds; W_p^p as eps -> 0. Source: Feydy 1810.08278."""
    _check(x, y, space, p)
    _check_plan(x, y, eps)
    across = _entropic(costs(x, y, space=space, p=p), eps, sweeps)
    own_x, own_y = (_entropic_own(costs(a, a, space=space, p=p), eps, sweeps) for a in (x, y))
    return Cost(across - (own_x + own_y) / 2, p, 0.0, (len(x), len(y)))


def sliced(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    generator: torch.Generator,
    *,
    space: str = "flat",
    p: float = 2.0,
    projections: int = 100,
) -> Cost:
    """Sliced W_p: W_p of the projections on random lines, or on random great circles (Bonet 2206.08780), in n log n.

    `error` is one standard error of the distance over the projections drawn (delta method).
    """
    import ot

    _check(x, y, space, p)
    if projections < 2:
        raise ValueError(f"sliced: {projections} projections: two or more are needed for a standard error")
    d = x.shape[1]
    shape = (d, projections) if space == "flat" else (projections, d, 2)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device).to(x)
    if space == "flat":
        lines = drawn / torch.linalg.vector_norm(drawn, dim=0)
        each = ot.sliced_wasserstein_distance(x, y, projections=lines, p=p, log=True)[1]["projected_emds"]
    else:
        planes = torch.linalg.qr(drawn).Q
        each = ot.sliced_wasserstein_sphere(x, y, n_projections=projections, projections=planes, p=p, log=True)[1][
            "projected_emds"
        ]
        each = each * (2 * math.pi) ** p  # POT measures angles in turns
    power = each.mean()
    error = float(each.detach().std()) / math.sqrt(projections)
    size = float(power.detach())
    error = error * size ** (1 / p - 1) / p if size > 0 else 0.0
    return Cost(power, p, error, (len(x), len(y)))


def softmax_drift(x: Float[Tensor, "B N D"], eps: float) -> Float[Tensor, "B N D"]:
    """(sum_j P_ij x_j - x_i) / eps, P_ij ~ e^{-|x_i - x_j|^2 / 2 eps} with rows of sum 1: tends to grad log density."""
    return _drift(x, eps, doubly=False)


def sinkhorn_drift(x: Float[Tensor, "B N D"], eps: float) -> Float[Tensor, "B N D"]:
    """The same with rows and columns of sum 1: tends to half of grad log density, the drift of heat flow.

    On N(0, 1): P is Gaussian with unit marginals and covariance c = 1 / (eps a), a (a - 1) = 1 / eps^2, so the drift is
    -x (1 - c) / eps = -.4975 x at eps = .02; softmax gives -x / (1 + eps) = -.9804 x. Source: Sander 2110.11773.
    """
    return _drift(x, eps, doubly=True)


def _drift(x: Tensor, eps: float, *, doubly: bool) -> Tensor:
    check_finite(x, "drift")
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"drift: eps={eps}: the bandwidth must be positive")
    score = -_chords(x, x).square() / (2 * eps)
    if doubly:
        score = score + _balanced(score.detach())
    return (score.softmax(-1) @ x - x) / eps


def _balanced(score: Tensor, *, sweeps: int = 2000, least: float = 1e-10) -> Tensor:
    """f_i + f_j that give the symmetric e^score rows and columns of sum 1; averaged sweeps, which converge fast (Knight 2014)."""
    f = torch.zeros_like(score[..., 0])
    for _ in range(sweeps):
        wanted = -(score + f[..., None, :]).logsumexp(-1)
        change, f = float((wanted - f).abs().max()), (wanted + f) / 2
        if change < max(least, 8 * torch.finfo(score.dtype).eps):
            return f[..., None] + f[..., None, :]
    raise ValueError(f"balanced plan: rows and columns still change by {change:.1g} after {sweeps} sweeps: raise eps")


def _chords(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|, keeping its digits for near points; gradient 0 where they agree."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _exact(matrix: Tensor) -> Tensor:
    import ot

    value, said = ot.emd2([], [], matrix, numItermax=10_000_000, log=True)
    _check_solved(said)
    return value


def _check_solved(said: dict) -> None:
    if said.get("warning"):
        raise ValueError(f"transport: the network simplex gave up ({said['warning']}): use fewer points or sinkhorn")


def _entropic(matrix: Tensor, eps: float, sweeps: int) -> Tensor:
    """The dual value, whose error is of second order in that of the marginals; its gradient in the costs is the plan."""
    import ot

    fixed, (n, m) = matrix.detach(), matrix.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # judged below, by the marginals
        tol = MARGINAL / 3 / max(n, m)
        found = ot.solve(fixed, reg=eps, reg_type="KL", method="sinkhorn_log", max_iter=sweeps, tol=tol, grad="detach")
    plan, (u, v) = found.plan, found.potentials  # log P = u + v - C / eps
    off = float(torch.maximum((plan.sum(1) * n - 1).abs().max(), (plan.sum(0) * m - 1).abs().max()))
    if not off <= MARGINAL:
        raise ValueError(
            f"sinkhorn: marginals are off by {off:.1g} after {sweeps} sweeps at eps={eps:g}, costs to {float(fixed.max()):.3g}:"
            " raise eps or sweeps, or use wasserstein"
        )
    dual = eps * (u.mean() + v.mean() + math.log(n * m) - plan.sum() + 1)
    return dual + (plan * (matrix - fixed)).sum()


def _entropic_own(matrix: Tensor, eps: float, sweeps: int) -> Tensor:
    """The same for a cloud and itself, where symmetry makes sweeps converge fast."""
    score = -matrix.detach() / eps
    pairs = _balanced(score, sweeps=sweeps, least=1e-8)  # f_i + f_j, log of n P less the score
    plan = (score + pairs).exp() / len(matrix)
    return eps * (pairs.mean() + math.log(len(matrix))) + (plan * (matrix - matrix.detach())).sum()


def _subsample(x: Tensor, most: int, generator: torch.Generator | None) -> Tensor:
    if generator is None or most < 2:
        raise ValueError(f"wasserstein: {len(x)} points are more than most={most}: pass a generator to subsample, or raise most")
    return x[torch.randperm(len(x), generator=generator, device=generator.device)[:most].to(x.device)]


def _check_plan(x: Tensor, y: Tensor, eps: float) -> None:
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"sinkhorn: eps={eps}: must be positive; wasserstein is the limit eps -> 0")
    if len(x) * len(y) > 5000**2:
        raise ValueError(f"sinkhorn: a plan of {len(x)} x {len(y)} does not fit in bounded memory: pass at most 5000 points each")


def _check(x: Tensor, y: Tensor, space: str, p: float) -> None:
    if space not in ("sphere", "flat") or not p >= 1:
        raise ValueError(f"transport: space {space!r}, p={p}: use 'sphere' or 'flat' and p >= 1")
    if x.shape[-1] != y.shape[-1] or not x.numel() or not y.numel():
        raise ValueError(f"transport: clouds of shapes {tuple(x.shape)} and {tuple(y.shape)}: needs points of the same width")
    for cloud in (x, y):
        check_on_sphere(cloud, "transport") if space == "sphere" else check_finite(cloud, "transport")
