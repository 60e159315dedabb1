"""Eigenvalues of features, gathered chunk by chunk, and the eigenvalues that mere noise of the same size has."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

GRID = 4096  # points at which the law of the noise is integrated; quantiles are right to about 1e-4


@dataclass(frozen=True)
class Moments:
    """What the first two moments of n rows need: n; mean (d,); scatter (d, d), the sum of centred outer products. float64."""

    n: int
    mean: Float[Tensor, "d"]
    scatter: Float[Tensor, "d d"]


def moments(rows: Float[Tensor, "n d"]) -> Moments:
    """The moments of the rows, in float64 on the CPU."""
    rows = rows.detach().cpu().double()
    mean = rows.mean(0)
    centred = rows - mean
    return Moments(len(rows), mean, centred.T @ centred)


def join(a: Moments, b: Moments) -> Moments:
    """The moments of the rows of both, without the rows (Chan, Golub and LeVeque 1983): any number of images in d x d memory."""
    n, gap = a.n + b.n, b.mean - a.mean
    return Moments(n, a.mean + gap * (b.n / n), a.scatter + b.scatter + torch.outer(gap, gap) * (a.n * b.n / n))


def variances(found: Moments) -> Float[Tensor, "d"]:
    """Eigenvalues of the covariance (n - 1 below the bar), largest first, none negative."""
    return torch.linalg.eigvalsh(found.scatter).flip(0).clamp(min=0) / max(found.n - 1, 1)


def singular_values(found: Moments) -> Float[Tensor, "m"]:
    """The min(n, d) singular values of the rows, uncentred, largest first; those below 1e-8 of the largest are rounding."""
    second = found.scatter + found.n * torch.outer(found.mean, found.mean)
    return torch.linalg.eigvalsh(second).flip(0).clamp(min=0).sqrt()[: min(found.n, len(found.mean))]


def participation_ratio(values: Float[Tensor, "m"]) -> float:
    """Number of directions (sum v)^2 / sum v^2 of a spectrum: 1 to m, nan if it is all zero. Noise: d / (1 + d/n)."""
    square = float(values.square().sum())
    return float(values.sum()) ** 2 / square if square > 0 else math.nan


def entropy_rank(values: Float[Tensor, "m"], epsilon: float = 0.0) -> float:
    """exp of the entropy of the values divided by their sum; epsilon is added after that, as some papers do. nan if all zero."""
    total = float(values.sum())
    if not total > 0:
        return math.nan
    share = values / total + epsilon
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def edge(y: float, w: float = 0.0) -> float:
    """Upper end of the law of `noise`: (1 + sqrt(y + w - y w))^2 / (1 - w)^2."""
    return ((1 + math.sqrt(y + w - y * w)) / (1 - w)) ** 2


def noise(m: int, y: float, w: float = 0.0) -> Float[Tensor, "m"]:
    """The m nonzero eigenvalues that independent Gaussian noise has on average, largest first.

    w = 0: of the covariance of n rows of d = y n numbers (Marchenko and Pastur 1967). w > 0: of that covariance whitened by
    an independent one from d / w rows (Wachter 1980); w must be below 1.
    """
    root = math.sqrt(y + w - y * w)
    low, high = ((1 - root) / (1 - w)) ** 2, edge(y, w)
    turn = (np.arange(GRID) + 0.5) * math.pi / GRID  # x = middle - half cos(turn): no singular ends
    x = (high + low) / 2 - (high - low) / 2 * np.cos(turn)
    mass = np.cumsum(np.sin(turn) ** 2 / (x * (y + x * w)))
    quantiles = np.interp((np.arange(m) + 0.5) / m, (mass - mass[0] / 2) / mass[-1], x)
    return torch.from_numpy(quantiles[::-1].copy())
