"""Which patches the clone gap compares: of the values in masks, of the insides of numbered objects, or of groups of scans."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.scans.distribution.patches import FLAT, Cut, around_centre, witnesses

CLASSES = 8  # the most frequent
_VALUES = 16  # more values in all masks number objects
_FEWEST = 20  # patches of a class
_SCANS = 4  # subjects a class needs: two on either side


@dataclass(frozen=True, eq=False)
class Labelled:
    """Patches (n, d) with their class (n,) as 0..len(names)-1, scan (n,) and subject (n,) as 0..units-1. of: what classes are."""

    flat: np.ndarray
    label: np.ndarray
    scan: np.ndarray
    unit: np.ndarray
    units: int
    names: tuple[str, ...]
    of: str


def labelled(cuts: Sequence[Cut], patch: tuple[int, ...], limit: int, rng: np.random.Generator) -> Labelled | str:
    """At most `limit` patches, as even over classes and scans as they come; or why there are none, as a clause."""
    if not cuts or not (any(len(c.values) for c in cuts) or any(c.group for c in cuts)):
        return "there are no masks and no classes"
    if any(len(c.values) for c in cuts):
        arrays, names, of = _of_masks(cuts)
    else:
        arrays, of = [(c.patches, np.full(len(c.patches), c.group or "")) for c in cuts], "groups of scans"
        names = [name for name, _ in Counter(c.group for c in cuts if c.group).most_common(CLASSES)]
    unit, units = witnesses(cuts)
    width = cuts[0].kind[1] * int(np.prod(patch))
    flat = np.concatenate([around_centre(a, patch).reshape(len(a), width) for a, _ in arrays]).astype(np.float64)
    label = np.concatenate([values for _, values in arrays])
    scan = np.repeat(np.arange(len(cuts)), [len(a) for a, _ in arrays])
    known = [n for n in names if (label == n).sum() >= _FEWEST and len(set(unit[scan[label == n]])) >= _SCANS]
    if len(known) < 2:
        return f"{len(known) or 'no'} class has {_FEWEST} patches with contrast from {_SCANS} subjects, two classes are needed"
    keep = np.isin(label, known) & (flat.std(axis=1) >= FLAT)
    keep = _even(np.flatnonzero(keep), label, scan, limit, rng)
    at = {name: k for k, name in enumerate(sorted(known, key=str))}
    index = np.array([at[name] for name in label[keep].tolist()])
    return Labelled(flat[keep], index, scan[keep], unit[scan[keep]], units, tuple(str(n) for n in at), of)


def _of_masks(cuts: Sequence[Cut]) -> tuple[list[tuple[np.ndarray, np.ndarray]], list, str]:
    """Patches and labels of each scan, the labels to use, and what they are."""
    often = Counter(v for c in cuts for v in set(c.values.tolist()))
    if len(often) <= _VALUES:
        names = [value for value, _ in often.most_common(CLASSES)]
        return [(c.centred[c.by_value], c.values[c.by_value]) for c in cuts], names, "values in the masks"
    words = np.array(["edge or outside", "inside"])
    arrays = [(c.centred[~c.by_value], words[c.inside[~c.by_value].astype(int)]) for c in cuts]
    return arrays, words.tolist(), "inside of numbered objects against their edges and what lies outside"


def _even(some: np.ndarray, label: np.ndarray, scan: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most `limit` of the indices: first one of each class and scan, then a second, and so on; at random within."""
    some = rng.permutation(some)
    turn: Counter = Counter()
    rank = np.empty(len(some), dtype=int)
    for i, k in enumerate(some.tolist()):
        cell = (label[k], scan[k])
        rank[i] = turn[cell]
        turn[cell] += 1
    return np.sort(some[np.argsort(rank, kind="stable")[:limit]])
