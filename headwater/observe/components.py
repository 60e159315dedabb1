"""The directions in which tokens vary most, and tokens as colours."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

OUTLYING = 3.0  # times the 90th percentile of the norms; a few such tokens would take the first component for themselves


@dataclass(frozen=True)
class Components:
    """Principal components of a fixed set of tokens, fitted once and then kept.

    mean (D,); axes (k, D), orthonormal rows, each with its largest loading positive; explained (k,), share of the variance,
    0 to 1; low, high (k,), 1st and 99th percentile of the fitted tokens' coordinates: black and full colour.
    """

    mean: Float[Tensor, "D"]
    axes: Float[Tensor, "k D"]
    explained: Float[Tensor, "k"]
    low: Float[Tensor, "k"]
    high: Float[Tensor, "k"]


def fit(tokens: Float[Tensor, "n D"], k: int = 3) -> Components:
    """The k leading principal components of the tokens, with fixed signs.

    Tokens whose distance from the mean exceeds three times the 90th percentile are left out of the fit, and so are
    tokens that are not finite. Directions the tokens do not have (k > D, or too few tokens) are zero rows that explain 0.
    """
    rows = tokens.detach().cpu().double()
    width = rows.shape[1]
    rows = rows[rows.isfinite().all(1)]
    if not len(rows):
        blank = torch.zeros(k)
        return Components(torch.zeros(width), torch.zeros(k, width), blank, blank, blank)
    norms = (rows - rows.mean(0)).norm(dim=1)
    rows = rows[norms <= OUTLYING * norms.quantile(0.9)] if norms.quantile(0.9) > 0 else rows
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    found = min(k, width, max(1, len(rows) - 1))
    axes = torch.zeros(k, width, dtype=rows.dtype)
    axes[:found] = vectors.T.flip(0)[:found]
    axes = axes * torch.where(axes.gather(1, axes.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)
    explained = torch.zeros(k, dtype=rows.dtype)
    explained[:found] = values.flip(0)[:found].clamp(min=0) / values.clamp(min=0).sum().clamp(min=1e-300)
    spots = (rows - mean) @ axes.T  # (n, k)
    ends = [torch.stack([s.kthvalue(max(1, min(len(s), round(q * len(s))))).values for s in spots.T]) for q in (0.01, 0.99)]
    return Components(*(part.float() for part in (mean, axes, explained, *ends)))


def aligned(found: Components, reference: Components, agreement: Float[Tensor, "k r"] | None = None) -> Components:
    """The same components in the order and with the signs that come nearest to a reference: colours stay from epoch to epoch.

    Procrustes among reorderings and changes of sign, not among all rotations: the axes remain principal, and what they explain
    remains true. Components that the reference does not have keep their order after the others.

    Args: agreement: of each component with each of the reference; default: the cosine of their axes, which needs tokens of one
          width. Between networks take the correlation of the coordinates of the same tokens.
    """
    from scipy.optimize import linear_sum_assignment

    table = found.axes @ reference.axes.T if agreement is None else agreement.detach().cpu().float()
    mine, theirs = linear_sum_assignment(-table.abs().nan_to_num().numpy())
    order = torch.from_numpy(mine[theirs.argsort()])
    rest = torch.tensor([i for i in range(len(found.axes)) if i not in set(mine.tolist())], dtype=torch.long)
    chosen = table[order, torch.from_numpy(np.sort(theirs))]
    sign = torch.cat([torch.where(chosen < 0, -1.0, 1.0), torch.ones(len(rest))])
    order = torch.cat([order, rest])
    ends = torch.stack([found.low[order] * sign, found.high[order] * sign]).sort(0).values
    return replace(found, axes=found.axes[order] * sign[:, None], explained=found.explained[order], low=ends[0], high=ends[1])


def coordinates(components: Components, tokens: Float[Tensor, "*any D"]) -> Float[Tensor, "*any k"]:
    """Where the tokens lie along the components' axes."""
    return (tokens.detach().cpu().float() - components.mean) @ components.axes.T


def rgb(components: Components, tokens: Float[Tensor, "*any D"]) -> Float[Tensor, "*any k"]:
    """Tokens as colours in [0, 1], one channel per component; a direction without extent is mid-grey, what is not finite black.

    The scale is that of the fitted tokens, so that colours of different images can be compared.
    """
    extent = components.high - components.low
    scaled = (coordinates(components, tokens) - components.low) / torch.where(extent > 0, extent, 1.0)
    scaled = torch.where(extent > 0, scaled, torch.full_like(scaled, 0.5))
    return scaled.nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
