"""Label-free numbers exactly as their papers define them, for comparison; `published` adds what chance gives.

Their limits: RankMe, alpha-ReQ and LiDAR read noise as full rank, uniformity and feature deviation miss features that live in
few directions. Judge by the agreement between views (`features.py`); read these beside their nulls.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.observe.number import Number, absent, broken, flat
from headwater.observe.spectra import (
    Moments,
    edge,
    entropy_rank,
    join,
    moments,
    noise,
    participation_ratio,
    singular_values,
    variances,
)

EPSILON = 1e-7  # added to the shares by RankMe and LiDAR
RIDGE = 1e-4  # added to the within-image covariance by LiDAR, whatever the scale of the features
BLOCK = 256  # rows whose pairs are held at once
FIRST, LAST = 10, 100  # ranks of the eigenvalues that alpha-ReQ is fitted on


@dataclass(frozen=True)
class Groups:
    """What LiDAR needs of n images in q views: within (d, d), sum of outer products of views less their image's mean;
    means: moments of the images' means."""

    within: Float[Tensor, "d d"]
    means: Moments
    views: int


def groups(z: Float[Tensor, "n q d"]) -> Groups:
    """The groups of one chunk; a row of q views wrongly put together reads higher in LiDAR and cannot be noticed."""
    z = z.detach().cpu().double()
    inside = (z - z.mean(1, keepdim=True)).flatten(0, 1)
    return Groups(inside.T @ inside, moments(z.mean(1)), z.shape[1])


def join_groups(a: Groups, b: Groups) -> Groups:
    """The groups of the images of both, of equally many views."""
    if a.views != b.views:
        raise ValueError(f"chunks of {a.views} and {b.views} views cannot be joined")
    return Groups(a.within + b.within, join(a.means, b.means), a.views)


def rankme(z: Float[Tensor, "n d"] | Moments) -> float:
    """RankMe (Garrido et al. 2023, eq. 1): exp entropy of the singular values over their sum, plus 1e-7, features not centred.

    Returns: 1 to min(n, d), biased down when n is of the order of d; nan if all features are zero.
    """
    return entropy_rank(singular_values(z if isinstance(z, Moments) else moments(z)), EPSILON)


def alpha_req(z: Float[Tensor, "n d"] | Moments) -> tuple[float, float]:
    """alpha-ReQ (Agrawal et al. 2022): a of eigenvalue ~ rank^-a of the covariance, and R2 of the fit in logarithms.

    Least squares over ranks 10 to 100 weighted by 1 / rank (Stringer et al. 2019, whose fit the authors' code uses; the paper
    does not give the range). Invalid under rank deficiency: nan if fewer than 12 eigenvalues above 1e-12 of the largest.
    """
    return _power_law(variances(z if isinstance(z, Moments) else moments(z)))


def _power_law(values: Tensor) -> tuple[float, float]:
    values = values[values > 1e-12 * values.max()].numpy()[:LAST]
    if len(values) < FIRST + 2:
        return math.nan, math.nan
    rank = np.arange(FIRST, len(values) + 1)
    x, y = np.log(rank), np.log(values[FIRST - 1 :])
    x, y = x - np.average(x, weights=1 / rank), y - np.average(y, weights=1 / rank)
    slope = (x * y / rank).sum() / (x * x / rank).sum()
    spread = (y * y / rank).sum()
    return float(-slope), float(1 - ((y - slope * x) ** 2 / rank).sum() / spread) if spread > 1e-20 else math.nan


def lidar(z: Float[Tensor, "n q d"] | Groups) -> float:
    """LiDAR (Thilak et al. 2024, eq. 1-4): entropy rank of Sw^-1/2 Sb Sw^-1/2, Sw + 1e-4 I, shares plus 1e-7.

    Sb: covariance of the images' means over q views; Sw: covariance of views around them. Not unchanged by scale (the ridge is
    absolute), and near min(n, d) on noise: see `lidar_corrected`.
    """
    found = z if isinstance(z, Groups) else groups(z)
    return entropy_rank(_discriminants(found, RIDGE), EPSILON)


def lidar_corrected(z: Float[Tensor, "n q d"] | Groups) -> float:
    """LiDAR of what exceeds noise: eigenvalues above the upper end of what q independent views give, less the mean of that.

    Ours. The end is Wachter's (1980) for a covariance whitened by an estimated one, over q, raised by 4 n^-2/3 for its
    fluctuation; Marchenko and Pastur's would be too low unless n (q - 1) >> d. Unchanged by scale, rotation and shift.

    Returns: 0 (views share nothing) to d; nan unless n (q - 1) > d, and if nothing varies.
    """
    found = z if isinstance(z, Groups) else groups(z)
    width, n, views = len(found.within), found.means.n, found.views
    freedom = n * (views - 1)
    level = float(found.within.trace() + views * found.means.scatter.trace()) / (freedom + n)  # mean variance, all channels
    if freedom <= width or n < 3 or not level > 0:
        return math.nan
    values = _discriminants(found, 1e-10 * level / width)
    y, w = width / (n - 1), width / freedom
    floor = edge(y, w) / views * (1 + 4 * n ** (-2 / 3))
    signal = values[values > floor] - 1 / (1 - w) / views
    return entropy_rank(signal) if len(signal) else 0.0


def _discriminants(found: Groups, ridge: float) -> Tensor:
    """Eigenvalues of the between-image covariance in units of the within-image one, largest first."""
    n, views, width = found.means.n, found.views, len(found.within)
    between = found.means.scatter / max(n - 1, 1)
    within = found.within / max(n * (views - 1), 1)
    ridge = max(ridge, 1e-13 * float(within.trace()))  # below that, rounding can make it indefinite
    within = within + ridge * torch.eye(width, dtype=torch.float64)
    root = torch.linalg.cholesky(within)  # L^-1 Sb L^-T has the eigenvalues of Sw^-1/2 Sb Sw^-1/2
    half = torch.linalg.solve_triangular(root, between, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.T, upper=False)
    return torch.linalg.eigvalsh((whitened + whitened.T) / 2).flip(0).clamp(min=0)


def on_sphere(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows divided by their norms, float64; a zero row stays zero."""
    z = z.detach().cpu().double()
    return z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)


def uniformity(z: Float[Tensor, "n d"]) -> float:
    """Uniformity (Wang and Isola 2020): log of the mean over pairs of exp(-2 |u - v|^2) of features on the sphere.

    0: one point; less is more uniform, -4 at best as d grows. nan for fewer than two rows.
    """
    u = on_sphere(z)
    if len(u) < 2:
        return math.nan
    square, total = 2 * u.square().sum(1), -float(len(u))  # a row's kernel with itself is 1
    for start in range(0, len(u), BLOCK):  # a block with itself, and twice with the rows after it
        stop = start + BLOCK
        kernel = 4 * u[start:stop] @ u[start:].T - square[start:] - square[start:stop, None]
        kernel = kernel.clamp_(max=0).exp_()
        total += float(2 * kernel.sum() - kernel[:, :BLOCK].sum())
    return math.log(total / (len(u) * (len(u) - 1)))


def alignment(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """Alignment (Wang and Isola 2020): mean squared distance between two views on the sphere, 0 to 4; collapse gives 0."""
    return float((on_sphere(a) - on_sphere(b)).square().sum(1).mean())


def feature_deviation(z: Float[Tensor, "n d"]) -> float:
    """Feature standard deviation (Chen and He 2021, SimSiam): of features on the sphere, n - 1, mean over channels.

    0: one point; 1 / sqrt(d): spread over the sphere. Blind to few directions and to noise; lowered by a common offset.
    """
    return float(on_sphere(z).std(0).mean()) if len(z) > 1 else math.nan


def published(views: Float[Tensor, "n q d"]) -> dict[str, Number]:
    """All published numbers of n images in q views with what noise of the same size gives; one view: those of features alone.

    RankMe, alpha-ReQ, participation ratio, uniformity and feature deviation are of the first view, alignment of the first two.
    """
    n, q, d = views.shape
    z = views.detach().cpu().double()
    why = broken(views) or ("" if n > 2 else f"{n} image(s)")
    names = "rankme alpha_req participation_ratio uniformity feature_deviation alignment lidar lidar_corrected".split()
    if why:
        return dict.fromkeys(names, absent(why))
    first = moments(z[:, 0])
    point = flat(float(first.scatter.trace()), float(z[:, 0].square().sum()), views.dtype)
    same = "every image has the same features" if point else ""
    how = f"independent Gaussian noise, {n} rows of {d}"
    chance = noise(min(n, d), d / n)
    values = variances(first)
    alpha, fit = (math.nan, math.nan) if point else _power_law(values)
    short = "" if fit == fit else same or f"fewer than {FIRST + 2} directions vary"
    found = {
        "rankme": Number(rankme(first), entropy_rank(chance.sqrt(), EPSILON), how, same),
        "alpha_req": Number(alpha, _power_law(chance)[0], how, short or f"R2 of the fit {fit:.2f}"),
        "participation_ratio": absent(same, how) if point else Number(participation_ratio(values), d / (1 + d / n), how),
        "uniformity": Number(uniformity(z[:, 0]), uniform_on_sphere(d), "uniform on the sphere", same),
        "feature_deviation": Number(feature_deviation(z[:, 0]), d**-0.5, "uniform on the sphere", same),
    }
    if q < 2:
        return found | dict.fromkeys(names[5:], absent("one view only"))
    return found | _of_views(z, same)


def _of_views(z: Tensor, same: str) -> dict[str, Number]:
    """Alignment and both LiDARs of n images in q views."""
    n, q, d = z.shape
    u, v = on_sphere(z[:, 0]), on_sphere(z[:, 1])
    others = (float(u.sum(0) @ v.sum(0)) - float((u * v).sum())) / (n * (n - 1))
    both = groups(z)
    how, freedom = f"independent views, {n} images of {q} views", n * (q - 1)
    few = f"needs more images than {d} / {q - 1}, there are {n}" if freedom <= d else ""
    level = math.nan if few else entropy_rank(noise(min(n - 1, d), d / (n - 1), d / freedom), EPSILON)
    return {
        "alignment": Number(alignment(z[:, 0], z[:, 1]), 2 - 2 * others, "views of different images", same),
        "lidar": absent(same, how) if same else Number(lidar(both), level, how, few),
        "lidar_corrected": absent(same or few, how) if same or few else Number(lidar_corrected(both), 0.0, how),
    }


def uniform_on_sphere(d: int) -> float:
    """Uniformity of points spread evenly over the sphere in d dimensions: log 0F1(d/2; 4) - 4."""
    from scipy.special import hyp0f1

    return math.log(float(hyp0f1(d / 2, 4.0))) - 4
