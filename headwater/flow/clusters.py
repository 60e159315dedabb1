"""Clusters of tokens on the sphere: which tokens belong together, how tight they are, and how alike all tokens are."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

TREE_WIDTH = 8  # above this width a k-d tree no longer helps
FINE = 1e-3  # tokens closer than this share of the threshold are one point
BLOCK = 2**22  # distances held at once
FEW_PARTS = 300  # up to so many parts are compared whole


@dataclass(frozen=True)
class Clusters:
    """Connected components of the tokens of one cloud, largest first.

    labels (N): component of each token. sizes (C). centres (C, D): unit mean direction (nan where a component has none).
    count: components large enough to count. tight: share of tokens that lie in those, within the threshold of the centre. A
    component may be a chain: `count` is the number of clusters only where tight is near 1 (evenly spread tokens: one component,
    tight 0).
    """

    labels: Integer[Tensor, "N"]
    sizes: Integer[Tensor, "C"]
    centres: Float[Tensor, "C D"]
    tight: float
    count: int


def _unit(x: Tensor) -> Tensor:
    x = x.detach().to("cpu", torch.float64)
    size = x.norm(dim=-1, keepdim=True)
    if x.shape[-1] < 2 or not bool(torch.isfinite(size).all()) or bool((size == 0).any()):
        raise ValueError(f"Tokens {tuple(x.shape)} must be finite, not zero and at least two numbers wide.")
    return x / size


def dissimilarity(x: Float[Tensor, "*B N D"]) -> Float[Tensor, "*B"]:
    """1 - similarity(x), with full relative accuracy near consensus: sum_i |x_i - mean|^2 / (N-1) of the unit tokens.

    O(N D). 0: all agree; 1: no agreement; N/(N-1) at most. Raises ValueError for N < 2, zero or non-finite tokens.
    """
    if x.shape[-2] < 2:
        raise ValueError("Similarity compares at least two tokens.")
    unit = _unit(x)
    return (unit - unit.mean(-2, keepdim=True)).square().sum((-2, -1)) / (x.shape[-2] - 1)


def similarity(x: Float[Tensor, "*B N D"]) -> Float[Tensor, "*B"]:
    """Mean cosine over all pairs of different tokens, -1/(N-1) to 1. Near 1 use dissimilarity, which keeps its digits."""
    return 1 - dissimilarity(x)


def _near_pairs(points: np.ndarray, reach: float, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges from the given rows to their k nearest within reach, and those rows that may have further neighbours."""
    tree, starts, ends, more = cKDTree(points), [], [], []
    k = min(k, len(points))
    for block in np.array_split(rows, max(1, len(rows) * k // BLOCK)):
        gaps, found = tree.query(points[block], k=k, distance_upper_bound=reach)
        gaps, found = gaps.reshape(len(block), k), found.reshape(len(block), k)
        inside = np.isfinite(gaps)
        starts.append(np.repeat(block, k)[inside.ravel()])
        ends.append(found.ravel()[inside.ravel()])
        more.append(block[inside.all(1)])
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(more)


def _by_tree(points: np.ndarray, reach: float) -> np.ndarray:
    """Components in few dimensions: nearest neighbours first, then what is left open, whole part against whole part."""
    n = len(points)
    rows, k, start, end = np.arange(n), 8, np.zeros(0, int), np.zeros(0, int)
    while True:
        begin, stop, rows = _near_pairs(points, reach, rows, k)
        start, end = np.concatenate([start, begin]), np.concatenate([end, stop])
        labels = connected_components(coo_array((np.ones(len(start)), (start, end)), (n, n)), directed=False)[1]
        unsure = np.unique(labels[rows])  # parts that may touch others through neighbours not looked at
        if len(unsure) <= FEW_PARTS or k >= 256:
            return _joined(points, labels, unsure, reach)
        k *= 2


def _joined(points: np.ndarray, labels: np.ndarray, unsure: np.ndarray, reach: float) -> np.ndarray:
    """Labels after linking those unsure parts of which two points lie within reach, found by a k-d tree of each larger part."""
    parts = sorted((np.flatnonzero(labels == part) for part in unsure), key=len, reverse=True)
    if len(parts) < 2:
        return labels
    middle = np.array([points[part].mean(0) for part in parts])
    radius = np.array([np.linalg.norm(points[part] - centre, axis=1).max() for part, centre in zip(parts, middle, strict=True)])
    trees: dict[int, cKDTree] = {}
    group, labels = np.arange(len(parts)), labels.copy()
    for i in range(1, len(parts)):
        gap = np.linalg.norm(middle[:i] - middle[i], axis=1) - radius[:i] - radius[i]
        for j in np.flatnonzero(gap <= reach):
            if group[i] != group[j]:
                if j not in trees:
                    trees[j] = cKDTree(points[parts[j]])
                if np.isfinite(trees[j].query(points[parts[i]], distance_upper_bound=reach)[0]).any():
                    group[group == group[i]] = group[j]
    for part, target in zip(parts, group, strict=True):
        labels[part] = unsure[target]  # names of the unsure parts, shuffled: one for each group
    return labels


def _by_blocks(points: np.ndarray, reach: float) -> np.ndarray:
    """Components in many dimensions by growing each from a token: N^2 D operations, bounded memory."""
    labels, left, label = np.full(len(points), -1), np.arange(len(points)), 0
    squares = np.einsum("ij,ij->i", points, points)
    while len(left):
        front, left = left[:1], left[1:]
        labels[front] = label
        while len(front) and len(left):
            joined = np.zeros(len(left), bool)
            step = max(1, BLOCK // len(left))
            for k in range(0, len(front), step):
                part = front[k : k + step]
                gaps = squares[part][:, None] + squares[left][None] - 2 * points[part] @ points[left].T
                joined |= (gaps <= reach**2).any(0)
            front, left = left[joined], left[~joined]
            labels[front] = label
        label += 1
    return labels


def _components(unit: np.ndarray, reach: float) -> np.ndarray:
    cell = FINE * reach / np.sqrt(unit.shape[1])
    _, first, back = np.unique(np.round(unit / cell).astype(np.int64), axis=0, return_index=True, return_inverse=True)
    points = unit[first]
    found = _by_tree(points, reach) if unit.shape[1] <= TREE_WIDTH else _by_blocks(points, reach)
    return found[back.ravel()]


def clusters(x: Float[Tensor, "N D"], cosine: float = 0.99, smallest: int = 1) -> Clusters:
    """Clusters of tokens x on the sphere (other lengths are normalised): tokens of cosine >= `cosine` are linked, links chain.

    Components of fewer than `smallest` tokens (stragglers on their way) are labelled but not counted.
    About N log N time up to width 8 (k-d tree), N^2 D above, memory O(N D). Chords are compared up to 0.1 % of the threshold.
    Raises ValueError for cosine outside (-1, 1), no tokens, zero or non-finite tokens.
    """
    if not -1 < cosine < 1 or len(x) < 1:
        raise ValueError(f"Clusters need tokens and a cosine between -1 and 1, not {tuple(x.shape)} and {cosine}.")
    unit, reach = _unit(x).numpy(), float(np.sqrt(2 * (1 - cosine)))
    raw = _components(unit, reach)
    _, first, labels, sizes = np.unique(raw, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))  # largest first, then by first token
    rank = np.argsort(order)
    labels, sizes = rank[labels.ravel()], sizes[order]
    sums = np.stack([np.bincount(labels, unit[:, k], len(sizes)) for k in range(unit.shape[1])], 1)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        centres = np.where(length > 1e-9 * sizes[:, None], sums / length, np.nan)
    near = (np.linalg.norm(unit - centres[labels], axis=1) <= reach) & (sizes[labels] >= smallest)
    count = int((sizes >= smallest).sum())
    return Clusters(*(torch.from_numpy(a) for a in (labels, sizes, centres)), float(near.mean()), count)
