"""Clusters in the course of time: how long each number of clusters lasts, and which cluster merges with which."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from headwater.flow.clusters import Clusters, clusters


@dataclass(frozen=True)
class Plateau:
    """A stretch of saved times with one number of tight clusters; width is log(stop/start), from the first positive time on."""

    count: int
    start: float
    stop: float
    width: float


@dataclass(frozen=True)
class Merger:
    """Clusters that became one between two saved times.

    tokens: one token of each (its first). cosine: of the closest two of their centres just before. closest: the closest pair of
    centres among all clusters then (first tokens), so that "closest first" can be checked.
    """

    after: float
    before: float
    tokens: tuple[int, ...]
    cosine: float
    closest: tuple[int, int]


@dataclass(frozen=True)
class Metastability:
    """Cluster counts along a trajectory.

    formed (T1), broken (T2): ends of the longest plateau in log time, of two or more clusters if any, else of the single one.
    Both nan if tokens never gather; broken is inf if the plateau reaches the last saved time. No finer than the saved times.
    """

    times: tuple[float, ...]
    counts: Integer[Tensor, "T"]
    tight: Float[Tensor, "T"]
    plateaus: tuple[Plateau, ...]
    mergers: tuple[Merger, ...]
    formed: float
    broken: float


def _merged(old: Clusters, new: Clusters, after: float, before: float) -> list[Merger]:
    """Every new cluster that holds most tokens of two or more old ones."""
    table = np.zeros((len(old.sizes), len(new.sizes)), int)
    np.add.at(table, (old.labels.numpy(), new.labels.numpy()), 1)
    home = table.argmax(1)
    heads = np.unique(old.labels.numpy(), return_index=True)[1]
    cosines = (old.centres @ old.centres.T).numpy().copy()
    np.fill_diagonal(cosines, -np.inf)
    closest = (0, 0)
    if old.count > 1:
        cosines[old.count :], cosines[:, old.count :] = -np.inf, -np.inf  # stragglers come last and are no clusters
        i, j = np.unravel_index(np.nanargmax(cosines), cosines.shape)
        closest = tuple(sorted((int(heads[i]), int(heads[j]))))
    found = []
    for target in np.unique(home):
        parts = np.flatnonzero(home[: old.count] == target)
        if len(parts) > 1:
            tokens = tuple(sorted(int(heads[part]) for part in parts))
            found.append(Merger(after, before, tokens, float(cosines[np.ix_(parts, parts)].max()), closest))
    return found


def metastability(
    times: Float[Tensor, "T"], trajectory: Float[Tensor, "T N D"], cosine: float = 0.99, share: float = 0.9, smallest: int = 1
) -> Metastability:
    """Count clusters at every saved time and find plateaus of the count in log time and mergers between saved times.

    times increase from >= 0; save them geometrically, since mergers are spaced exponentially. A time counts only where at least
    `share` of the tokens lie within the threshold of the centre of a cluster of `smallest` tokens or more (before, they have
    not gathered).
    """
    when = [float(t) for t in times]
    if len(when) != len(trajectory) or len(when) < 2 or when[0] < 0 or any(b <= a for a, b in zip(when, when[1:], strict=False)):
        raise ValueError("Give one increasing time >= 0 for each of at least two saved states.")
    seen = [clusters(x, cosine, smallest) for x in trajectory]
    good = [c.tight >= share for c in seen]
    plateaus, k = [], 0
    while k < len(when):
        last = k
        while good[k] and last + 1 < len(when) and good[last + 1] and seen[last + 1].count == seen[k].count:
            last += 1
        if good[k]:
            width = np.log(when[last] / (when[k] or when[1])) if last > k else 0.0
            plateaus.append(Plateau(seen[k].count, when[k], when[last], float(width)))
        k = last + 1
    mergers = [
        event
        for k in range(len(when) - 1)
        if good[k] and good[k + 1]
        for event in _merged(seen[k], seen[k + 1], when[k], when[k + 1])
    ]
    longest = max(plateaus, key=lambda p: (p.count > 1, p.width), default=None)
    ends = longest is not None and longest.stop == when[-1]
    return Metastability(
        times=tuple(when),
        counts=torch.tensor([c.count for c in seen]),
        tight=torch.tensor([c.tight for c in seen], dtype=torch.float64),
        plateaus=tuple(plateaus),
        mergers=tuple(mergers),
        formed=longest.start if longest else float("nan"),
        broken=float("inf") if ends else longest.stop if longest else float("nan"),
    )
