"""Are the heads of a layer the same head? How wide and how far do they look, and does anything change without them?

All take what was recorded; none knows a module. Reference: Kornblith et al. 2019 (CKA), Song et al. 2012 (unbiased HSIC).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.observe.number import Number, absent, broken, flat

FEWEST = 4  # rows that unbiased HSIC needs
UNTRAINED = "the same network before training"
UNKNOWN = "no untrained network was given"


@dataclass(frozen=True)
class Redundancy:
    """matrix (H, H): debiased CKA of every pair, nan where a head gives every row the same output; similarity: its mean over
    pairs; effective: number of different heads, participation ratio of its eigenvalues, 1 (all the same) to about H."""

    matrix: Float[Tensor, "H H"]
    similarity: Number
    effective: Number


def debiased_cka(outputs: Float[Tensor, "H n E"]) -> Float[Tensor, "H H"]:
    """Linear CKA between the outputs of H heads, each pair by the unbiased estimate of HSIC.

    Unchanged by rotation, scale and shift of each head; 1 for the same head, about 0 for independent ones (the plain estimate
    grows with E / n). With the columns centred and a_i, b_i the squared row norms of X and Y, n (n - 3) HSIC is
    |X'Y|^2 + sum a sum b / ((n-1)(n-2)) - n/(n-2) sum a b, so that no n x n matrix is needed.

    Args:    outputs: row i of every head from the same token. Rows should be independent: tokens of one image are not.
    Returns: float64, about -1/n to 1; nan in the row and column of a head that gives all rows, or all but one, the same output.
    """
    heads, n, _ = outputs.shape
    x = outputs.detach().cpu().double()
    level = x.square().mean((1, 2))
    x = x - x.mean(1, keepdim=True)
    dead = torch.tensor([flat(float(s), float(m), outputs.dtype) for s, m in zip(x.square().mean((1, 2)), level, strict=True)])
    if n < FEWEST:
        return torch.full((heads, heads), math.nan, dtype=torch.float64)
    x = x / x.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-300)
    wide = x.transpose(0, 1).flatten(1)  # (n, H E)
    cross = (wide.T @ wide).square().unflatten(0, (heads, -1)).unflatten(2, (heads, -1)).sum((1, 3))
    norms = x.square().sum(-1)  # (H, n)
    total = norms.sum(1)
    shared = cross + torch.outer(total, total) / ((n - 1) * (n - 2)) - norms @ norms.T * (n / (n - 2))
    size = shared.diagonal().clamp(min=0).sqrt()
    dead |= size <= 1e-6 * total  # all but one row alike: what is left is rounding
    size = torch.where(dead, torch.nan, size)
    return shared / size / size[:, None]


def redundancy(outputs: Float[Tensor, "H n E"], untrained: Float[Tensor, "H m E"] | None = None) -> Redundancy:
    """How many different heads a layer has. A head without any variation counts as none and is named in `why`.

    Args: outputs: what each head adds or hands on, row i of every head from the same token (best one token per image);
          untrained: the same of the same network before training: the null. It is not zero: heads that are random projections
          of one input agree by 0.33 and more.
    """
    matrix = debiased_cka(outputs)
    how = UNKNOWN if untrained is None else UNTRAINED
    before = (math.nan, math.nan) if untrained is None else _summary(debiased_cka(untrained))
    why = broken(outputs, "heads") or ("" if outputs.shape[1] >= FEWEST else f"{outputs.shape[1]} rows; at least {FEWEST} needed")
    if why:
        return Redundancy(matrix, absent(why, how), absent(why, how))
    dead = matrix.diagonal().isnan()
    if dead.any():
        names = ", ".join(str(i) for i in dead.nonzero().flatten().tolist())
        why = f"head {names} (from 0) gives all tokens (but one at most) the same output and counts as none"
    similarity, effective = _summary(matrix)
    if int((~dead).sum()) < 2:
        return Redundancy(matrix, absent(why or "there is one head only", how), Number(effective, before[1], how, why))
    return Redundancy(matrix, Number(similarity, before[0], how, why), Number(effective, before[1], how, why))


def _summary(matrix: Tensor) -> tuple[float, float]:
    """Mean over pairs, and participation ratio of the eigenvalues (trace^2 over squared norm), of the heads that vary."""
    alive = ~matrix.diagonal().isnan()
    kept = matrix[alive][:, alive]
    count = len(kept)
    pairs = float(kept.sum() - kept.trace()) / (count * (count - 1)) if count > 1 else math.nan
    return pairs, float(kept.trace() ** 2 / kept.square().sum()) if count else 0.0


def attention_entropy(
    attention: Float[Tensor, "B H N M"],
    untrained: Float[Tensor, "C H N M"] | None = None,
    allowed: Bool[Tensor, "N M"] | None = None,
) -> tuple[Number, ...]:
    """Per head, the entropy of its attention divided by the largest possible: 0 (one token) to 1 (all tokens alike).

    Args: attention: weights, rows divided by their sum here (sigmoid attention has none to keep); untrained: of the same
          network before training, the null (else 1: attention that knows nothing); allowed: what a mask leaves to see;
          queries that see one token only say nothing and are left out.
    """
    null = [1.0] * attention.shape[1] if untrained is None else [n.value for n in attention_entropy(untrained, None, allowed)]
    how = "equal attention to all tokens" if untrained is None else UNTRAINED
    seen = torch.full(attention.shape[2:3], attention.shape[3]) if allowed is None else allowed.cpu().sum(-1)
    if not (seen > 1).any():
        return tuple(absent("every token sees one token only", how) for _ in null)
    return tuple(_entropy(weights, seen, base, how) for weights, base in zip(attention.unbind(1), null, strict=True))


def _entropy(weights: Tensor, seen: Tensor, null: float, how: str) -> Number:
    share, why = _shares(weights[:, (seen > 1).to(weights.device)])
    if why:
        return absent(why, how)
    entropy = -torch.special.xlogy(share, share).sum(-1) / seen[seen > 1].double().log()
    return Number(float(entropy.mean()), null, how)


def _shares(weights: Tensor) -> tuple[Tensor, str]:
    """Rows of attention divided by their sums; or why that cannot be done."""
    weights = weights.detach().cpu().double()
    total = weights.sum(-1, keepdim=True)
    if not weights.isfinite().all():
        return weights, "attention is not finite"
    if (weights < 0).any():
        return weights, "attention is negative in places: it has neither entropy nor mean distance"
    if (total <= 0).any():
        return weights, "a token attends to nothing"
    return weights / total, ""


def grid_places(grid: Sequence[int], spacing: Sequence[float] | None = None) -> Float[Tensor, "P k"]:
    """Where the tokens of a grid lie, last axis fastest; spacing: mm from one token to the next along each axis (else 1)."""
    axes = [torch.arange(n, dtype=torch.float64) * step for n, step in zip(grid, spacing or [1.0] * len(grid), strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def attention_distance(
    attention: Float[Tensor, "B H N N"], places: Float[Tensor, "P k"], untrained: Float[Tensor, "C H N N"] | None = None
) -> tuple[Number, ...]:
    """Per head, the mean distance between a token and what it attends to, in the unit of the places (tokens or mm).

    Args: places: of the last P tokens; the tokens before them (class token, registers) have none and are left out, and the
          attention among the others is divided by its sum; untrained: as in attention_entropy (else equal attention).
    """
    apart = torch.cdist(places.double().cpu(), places.double().cpu())
    skip = attention.shape[2] - len(places)
    if skip < 0:
        return tuple(absent(f"{len(places)} places for {attention.shape[2]} tokens") for _ in range(attention.shape[1]))
    null = [float(apart.mean())] * attention.shape[1]
    if untrained is not None:
        null = [number.value for number in attention_distance(untrained, places)]
    how = "equal attention to every place" if untrained is None else UNTRAINED
    found = []
    for weights, base in zip(attention[:, :, skip:, skip:].unbind(1), null, strict=True):
        share, why = _shares(weights)
        found.append(absent(why, how) if why else Number(float((share * apart).sum(-1).mean()), base, how))
    return tuple(found)


def ablation_effect(
    features: Float[Tensor, "n d"], without: Float[Tensor, "H n d"], untrained: Sequence[Number] | None = None
) -> tuple[Number, ...]:
    """Per head, how much the features change when it is switched off: mean squared change over the features' variance.

    0: nothing, 1: as much as the images differ. Similar heads can each matter, and different ones not: measure both.

    Args: features: of n images; without: the same with one head's output replaced (by zero or by its mean) at a time;
          untrained: what this function found for the same network before training: the null.
    """
    how = UNKNOWN if untrained is None else UNTRAINED
    null = [math.nan] * len(without) if untrained is None else [number.value for number in untrained]
    kept = features.detach().cpu().double()
    scatter = float((kept - kept.mean(0)).square().sum(1).mean())
    why = broken(features) or ("every image has the same features" if _same(features, scatter) else "")
    found = []
    for rows, base in zip(without.detach().cpu().double(), null, strict=True):
        reason = why or broken(rows)
        change = float((rows - kept).square().sum(1).mean())
        found.append(absent(reason, how) if reason else Number(change / scatter, base, how))
    return tuple(found)


def _same(features: Tensor, scatter: float) -> bool:
    return flat(scatter, float(features.detach().double().square().sum(1).mean()), features.dtype)
