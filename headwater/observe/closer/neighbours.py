"""Which images does a network think alike, and do they share what they should, or what they should not?"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from headwater.observe.number import Number, absent, broken, flat
from headwater.streams import torch_stream

DRAWS = 200
CHANCE = "other images of other owners, drawn at random"


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest other images of every image. index (n, k): which, nearest first, -1 where there are too few others; cosine
    (n, k): of the features without their mean, nan there. why: empty, or what kept them from being found."""

    index: Integer[Tensor, "n k"]
    cosine: Float[Tensor, "n k"]
    why: str = ""


def neighbours(features: Float[Tensor, "n d"], k: int = 8, owners: Integer[Tensor, "n"] | None = None) -> Neighbours:
    """The k images with the largest cosine of centred features; images of one owner (patient) are not each other's neighbours.

    Unchanged by rotation, scale and shift of the features. Memory grows with n x n.
    """
    n = len(features)
    k = max(1, min(k, n - 1))
    none = torch.full((n, k), -1), torch.full((n, k), math.nan, dtype=torch.float64)
    x = features.detach().cpu().double()
    square = float(x.square().sum(1).mean()) if n else 0.0
    x = x - x.mean(0)
    why = broken(features) or ("" if n > 2 else f"{n} image(s): nothing to choose from")
    if not why and flat(float(x.square().sum(1).mean()), square, features.dtype):
        why = "every image has the same features"
    if why:
        return Neighbours(*none, why)
    x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-300)
    near, index = (x @ x.T).masked_fill(_own(n, owners), -math.inf).topk(k, dim=1)
    lost = near.isinf()
    return Neighbours(index.masked_fill(lost, -1), near.masked_fill(lost, math.nan))


def _own(n: int, owners: Tensor | None) -> Tensor:
    """Pairs of one owner, each image with itself among them."""
    owner = torch.arange(n) if owners is None else owners.cpu()
    return owner[:, None] == owner


def shared(found: Neighbours, labels: Integer[Tensor, "n"], owners: Integer[Tensor, "n"] | None = None, seed: int = 0) -> Number:
    """How often a neighbour has the image's own label, 0 to 1. For what should matter (diagnosis) and what should not (scanner).

    Null, exact: the share among all images that could have been neighbours. `why` says so where 5 of 100 dealings of the labels
    among owners share as much.

    Args: labels: below 0 is unknown, and left out; owners: as for `neighbours`.
    """
    if found.why:
        return absent(found.why, CHANCE)
    labels = labels.cpu()
    known, kinds = labels >= 0, labels[labels >= 0].unique()
    if len(kinds) < 2:
        return absent(f"{len(kinds)} label(s): nothing to tell apart", CHANCE)
    able = ~_own(len(labels), owners) & known & known[:, None]
    there = found.index.clamp(min=0)
    usable = (found.index >= 0) & known[:, None] & known[there]
    asked = usable.any(1)
    if not bool(asked.any()):
        return absent("no image has a labelled neighbour", CHANCE)

    chance = ((labels[:, None] == labels) & able).sum(1).double() / able.sum(1).clamp(min=1)
    generator = torch_stream(seed, "observe", "labels")
    owner = torch.arange(len(labels)) if owners is None else owners.cpu().unique(return_inverse=True)[1]
    tried = torch.stack([labels, *_dealt(labels, owner, known, generator)])
    hits = (tried[:, there] == tried[:, :, None]) & usable  # draws n k
    rates = (hits.sum(2).double() / usable.sum(1).clamp(min=1))[:, asked].mean(1)
    value, limit = float(rates[0]), float(rates[1:].quantile(0.95))
    why = "" if value > limit else f"no more than chance, which reaches {limit:.2f}"
    return Number(value, float(chance[asked].mean()), CHANCE, why)


def _dealt(labels: Tensor, owner: Tensor, known: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Every owner with the labels of another one, repeated or cut to the number of images, 200 times; unknown ones stay so."""
    groups = [(known & (owner == o)).nonzero().flatten() for o in owner[known].unique()]
    source = torch.zeros(len(groups), max(map(len, groups)), dtype=torch.long)
    for row, group in zip(source, groups, strict=True):
        row[:] = group.repeat(-(-len(row) // len(group)))[: len(row)]
    to = torch.cat(groups)
    whose = torch.cat([torch.full((len(group),), g) for g, group in enumerate(groups)])
    place = torch.cat([torch.arange(len(group)) for group in groups])
    given = []
    for _ in range(DRAWS):
        of = torch.randperm(len(groups), generator=generator)
        now = labels.clone()
        now[to] = labels[source[of[whose], place]]
        given.append(now)
    return given
