"""Near-duplicates among scans: the same picture again, in another size, direction, intensity or file."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from headwater.scans.alignment import Match, glance, match
from headwater.scans.fingerprint import GRID, finer, neighbours
from headwater.streams import numpy_stream

SAME, ALIKE = 3e-4, 0.028  # unexplained share below which every pair is a copy, above which none is
_GAP = 1.8  # copies and other pairs of scans are to be so far apart
_NEIGHBOURS = 6  # looked at for each scan
_GLANCE, _FOLLOWED = 0.1, 2  # unexplained at a glance and still worth following; pairs followed for each scan
_WORTH = 2 * ALIKE  # thumbnails that differ more are not compared voxel by voxel


@dataclass(frozen=True)
class Pair:
    """Two scans that show the same. first: the one to keep. how: what was done to the second ("flipped along axis 1")."""

    first: int
    second: int
    similarity: float  # share of the second one's variance that the first explains, 0 to 1
    how: str


@dataclass(frozen=True)
class Duplicates:
    """What a search found. Every copy is the `second` of one pair; its `first` may be a copy of another.

    limit:    similarity from which a pair counts. closest: the most alike pair that does not; nan if none came near.
    null:     99.9 % of random pairs are less alike than this; nan with fewer than two scans.
    compared: pairs looked at. alike: at least so many more would count, did the set not hold a whole range of likeness.
    """

    pairs: tuple[Pair, ...]
    limit: float
    closest: float
    null: float
    compared: int
    alike: int = 0

    def groups(self) -> list[list[int]]:
        """Scans that show the same, each group sorted, the one to keep first."""
        return _groups([(pair.first, pair.second) for pair in self.pairs])

    def sentence(self) -> str:
        """What was found, in plain words, with the level of chance."""
        count = len(self.pairs)
        said = f"{count:,} near-duplicate{'' if count == 1 else 's'}" if count else "No near-duplicates"
        near = "" if np.isnan(self.closest) else f", the closest other pair {_percent(self.closest)}"
        chance = "" if np.isnan(self.null) else f", 99.9 % of random pairs below {_percent(self.null)}"
        late = f"; at least {self.alike:,} more are as alike as neighbouring slices" if self.alike else ""
        return f"{said} (one explains at least {_percent(self.limit)} of the other{near}{chance}){late}."


def _percent(share: float) -> str:
    """Two digits of what is missing to all: 99.97 %."""
    digits = int(np.clip(np.ceil(-np.log10(max(1 - share, 1e-6))) - 1, 0, 4))
    return f"{100 * share:.{digits}f} %"


def find(prints: Sequence[np.ndarray], load: Callable[[int], np.ndarray] | None = None, *, seed: int = 0) -> Duplicates:
    """Near-duplicates among fingerprints, in time about linear in their number; pictures and volumes apart.

    load: gives scan i as (C, *S); with it pairs that look alike as thumbnails are settled by their voxels, at most fifty
    pairs and one for every twenty scans. Two equal fingerprints are a pair without a look, blank scans among them.

    A pair counts if one explains all but 2.8 % of the other (`ALIKE`), set between planted copies (up to 2.6 %) and the
    closest true pairs among 200 crops of one organ (8 %) and 538 pictures of nuclei (5 %); where a set holds a whole range
    of likeness, as slices of the same patient do, the limit moves down to the emptiest place of that range (`_limit`).
    """
    parts = [np.array([i for i, p in enumerate(prints) if p.ndim == d], dtype=int) for d in GRID]
    found = [_search(indices, prints, load, seed) for indices in parts if len(indices)]
    if not found:
        return Duplicates((), 1 - ALIKE, float("nan"), float("nan"), 0)
    return Duplicates(
        tuple(sorted((pair for one in found for pair in one.pairs), key=lambda pair: (pair.first, pair.second))),
        max(one.limit for one in found),
        float(np.fmax.reduce([one.closest for one in found])),
        float(np.fmax.reduce([one.null for one in found])),
        sum(one.compared for one in found),
        sum(one.alike for one in found),
    )


def _search(indices: np.ndarray, prints: Sequence[np.ndarray], load: Callable | None, seed: int) -> Duplicates:
    """The search among fingerprints of one shape."""
    first_of: dict[bytes, int] = {}
    equal = [(first_of.setdefault(prints[i].tobytes(), int(i)), int(i)) for i in indices]
    equal = [pair for pair in equal if pair[0] != pair[1]]
    single = np.array([i for i in first_of.values() if prints[i].any()], dtype=int)
    looks, others = _rounds(single, prints, seed)
    looks = looks if load is None else _settled(looks, load, len(indices))
    limit = _limit(looks, others, prints)
    same = {pair: look for pair, look in looks.items() if look.residual <= limit}
    said = {i: "in place" if prints[i].any() else "blank like the other" for i in first_of.values()}
    pairs = _forest(same, prints) + [Pair(i, j, 1.0, said[i]) for i, j in equal]
    closest = min([1.0, *others, *(look.residual for pair, look in looks.items() if pair not in same)])
    return Duplicates(
        tuple(pairs), 1 - limit, 1 - closest if closest < 1 else float("nan"), _null(single, prints, set(same), seed),
        len(looks) + len(others) + len(equal), sum(limit < look.residual <= ALIKE for look in looks.values()),
    )  # fmt: skip


def _rounds(single: np.ndarray, prints: Sequence[np.ndarray], seed: int) -> tuple[dict[tuple[int, int], Match], list[float]]:
    """Neighbours compared: the likely ones closely, and the residuals at a glance of all others.

    Groups larger than a neighbourhood are joined by further rounds among their firsts.
    """
    looks: dict[tuple[int, int], Match] = {}
    others: dict[tuple[int, int], float] = {}
    left = single
    for turn in range(4):
        near = left[neighbours([prints[i] for i in left], seed, turn, _NEIGHBOURS)]
        residuals = glance(prints, near[:, 0], near[:, 1])
        others |= {pair: r for pair, r in zip(map(tuple, near.tolist()), residuals.tolist(), strict=True) if pair not in looks}
        worth = [pair for pair in map(tuple, _worth(near, residuals).tolist()) if pair not in looks]
        several = 200 + len(single) // 20
        for start in range(0, len(worth), several):
            new = {(i, j): match(prints[i], prints[j], len(prints[i])) for i, j in worth[start : start + several]}
            looks |= new
            others = {pair: residual for pair, residual in others.items() if pair not in new}
            limit = _valley(looks, others.values())
            if all(look.residual > limit for look in new.values()):
                break  # so many in a row are none, and the rest are less alike
        limit = _valley(looks, others.values())
        groups = _groups([pair for pair, look in looks.items() if look.residual <= limit])
        if max(map(len, groups), default=0) <= _NEIGHBOURS // 2:
            break
        copies = {i for group in groups for i in group[1:]}
        left = np.array([i for i in left.tolist() if i not in copies], dtype=int)
    return looks, list(others.values())


def _worth(near: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Of the pairs (m, 2) those alike at a glance and among the two most alike of either scan; the most alike first."""
    ends, both = near.ravel("F"), np.tile(residuals, 2)
    order = np.lexsort((both, ends))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order)) - np.searchsorted(ends[order], ends[order])  # 0 for the most alike of each scan
    kept = np.flatnonzero((residuals <= _GLANCE) & (rank.reshape(2, -1).min(0) < _FOLLOWED))
    return near[kept[np.argsort(residuals[kept], kind="stable")]]


def _settled(looks: dict[tuple[int, int], Match], load: Callable[[int], np.ndarray], count: int) -> dict[tuple[int, int], Match]:
    """Likely pairs compared again by their voxels, the most alike first, as many as `find` says."""
    likely = sorted((pair for pair, look in looks.items() if look.residual <= _WORTH), key=lambda p: (looks[p].residual, p))

    @lru_cache(64)
    def voxels(i: int) -> np.ndarray:
        return finer(load(i))

    found = dict(looks)
    for i, j in likely[: 50 + count // 20]:
        one = voxels(i)
        found[i, j] = match(one, voxels(j), 2 * GRID[one.ndim])
    return found


def _limit(looks: dict[tuple[int, int], Match], others: Iterable[float], prints: Sequence[np.ndarray]) -> float:
    """The valley, lowered while a group is a chain: its ends differ more than two copies of one picture can."""
    limit = _valley(looks, others)
    while limit > 2 * SAME:
        groups = _groups([pair for pair, look in looks.items() if look.residual <= limit])
        ends = [(group[0], i) for group in groups if len(group) > 3 for i in group[3 :: 1 + len(group) // 8]]
        # shares are squared distances: two steps of at most the limit make four of it
        if all(match(prints[i], prints[j], len(prints[i])).residual <= 4 * limit for i, j in ends):
            break
        limit = _valley(looks, others, limit / 2)
    return limit


def _valley(looks: dict[tuple[int, int], Match], others: Iterable[float], most: float = ALIKE) -> float:
    """The limit between SAME and `most` with the fewest pairs right above it, within a factor _GAP; of several the largest."""
    residuals = np.sort([*(look.residual for look in looks.values()), *others])
    limits = np.geomspace(most, SAME, 60)
    counts = np.searchsorted(residuals, limits * _GAP, "right") - np.searchsorted(residuals, limits, "right")
    return float(limits[int(np.argmin(counts))])


def _forest(same: dict[tuple[int, int], Match], prints: Sequence[np.ndarray]) -> list[Pair]:
    """One pair for each copy: with the first of its group where it is seen to be one of it, else with another copy."""
    beside: dict[int, list[tuple[float, int]]] = {}
    for (i, j), look in same.items():
        beside.setdefault(i, []).append((look.residual, j))
        beside.setdefault(j, []).append((look.residual, i))
    pairs = []
    for group in _groups(list(same)):
        root, *copies = group
        for copy in copies:
            look = same.get((root, copy)) or match(prints[root], prints[copy], len(prints[root]))
            other = root
            if look.residual > ALIKE:
                other = min(beside[copy])[1]
                look = same.get((other, copy)) or same[copy, other]
            pairs.append(Pair(other, copy, 1 - look.residual, look.words()))
    return pairs


def _groups(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Connected groups of scans, each sorted, in the order of their firsts (union-find with path halving)."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        parent.setdefault(i, i)
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for i in sorted(parent):
        groups.setdefault(root(i), []).append(i)
    return [group for _, group in sorted(groups.items())]


def _null(single: np.ndarray, prints: Sequence[np.ndarray], same: set[tuple[int, int]], seed: int) -> float:
    """Similarity that 99.9 % of a thousand random pairs stay below, copies left out."""
    if len(single) < 2:
        return float("nan")
    rng = numpy_stream(seed, "duplicates", "null")
    firsts, steps = np.repeat(rng.integers(len(single), size=50), 20), rng.integers(1, len(single), size=1000)
    firsts, seconds = single[firsts], single[(firsts + steps) % len(single)]
    group_of = {i: which for which, group in enumerate(_groups(list(same))) for i in group}
    kept = np.array([group_of.get(i, -1) < 0 or group_of[i] != group_of.get(j) for i, j in zip(firsts, seconds, strict=True)])
    if not kept.any():
        return float("nan")
    firsts, seconds = firsts[kept], seconds[kept]
    residuals = glance(prints, firsts, seconds)
    for k in np.argsort(residuals)[:10]:  # only the most alike decide
        found = match(prints[firsts[k]], prints[seconds[k]], len(prints[firsts[k]])).residual
        residuals[k] = min(residuals[k], found)
    return float(np.quantile(1 - residuals, 0.999))
