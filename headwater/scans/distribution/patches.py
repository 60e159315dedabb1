"""Patches of a folder of scans, drawn scan by scan so that memory does not grow with the size of a scan."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CAP = {2: 16, 3: 8}  # voxels per axis of a patch, at most
PER_SCAN = 96
FLAT = 0.05  # a patch whose spread is less than this part of its scan's is background
CHANNELS = 4  # more are thinned out evenly
_PLACES = 1 << 15  # voxels of a mask that are looked at
_VALUES = 16  # more values in a mask number objects, they do not name classes
_VOXELS = 1 << 20  # voxels of a scan from which its median and spread are taken


@dataclass(frozen=True, eq=False)
class Sample:
    """One scan as it is asked for: array (C, *S), spacing in mm per axis of S, mask (*S) whole numbers, group: its class.

    subject: whose scan it is (scans of one subject are one witness). spaced: False if the file states no spacing.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    mask: np.ndarray | None = None
    group: str | None = None
    subject: str | None = None
    spaced: bool = True


@dataclass(frozen=True, eq=False)
class Cut:
    """What stays of one scan. patches (n, C, *b) on a grid without overlap; centred (m, C, *b) around labelled voxels.

    values (m,): the label at each centre; inside (m,): whether all face neighbours share that label and it is not 0;
    by_value (m,): drawn for its value, else for being inside or not. tried, flat: places looked at, found constant.
    """

    patches: np.ndarray
    centred: np.ndarray
    values: np.ndarray
    inside: np.ndarray
    by_value: np.ndarray
    tried: int
    flat: int
    group: str | None
    subject: str

    @property
    def kind(self) -> tuple[int, int]:
        """Axes and channels."""
        return self.patches.ndim - 2, int(self.patches.shape[1])


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of several scans. array (n, C, *p) float32; unit (n,): whose, as 0..units-1."""

    array: np.ndarray
    unit: np.ndarray
    units: int

    @property
    def flat(self) -> np.ndarray:
        """(n, d) float64."""
        return self.array.reshape(len(self.array), int(np.prod(self.array.shape[1:]))).astype(np.float64)


def thinned(array: np.ndarray) -> np.ndarray:
    """(C, *S) to at most four channels, evenly spread."""
    if len(array) <= CHANNELS:
        return array
    return array[np.linspace(0, len(array) - 1, CHANNELS).round().astype(int)]


def level(array: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Median and robust spread per channel, each (C, 1...): standard deviation between the 0.5th and 99.5th percentile.

    Taken from at most a million voxels. Spread is 0 for a constant channel; where nearly all voxels are equal the rare
    ones are the picture, and nothing is clipped.
    """
    flat = array.reshape(len(array), -1)
    if flat.shape[1] > _VOXELS:
        flat = flat[:, rng.integers(0, flat.shape[1], _VOXELS)]
    flat = flat.astype(np.float64)
    low, centre, high = np.percentile(flat, [0.5, 50, 99.5], axis=1)
    scale = np.clip(flat, low[:, None], high[:, None]).std(axis=1)
    scale = np.where(high > low, scale, flat.std(axis=1))
    scale[scale <= 1e-9 * np.abs(flat).max(axis=1, initial=0)] = 0.0  # rounding of a constant
    shape = (-1, *[1] * (array.ndim - 1))
    return centre.reshape(shape), scale.reshape(shape)


def normal(block: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(C, *S) less the median, in units of the spread; a constant channel is 0. float32."""
    return np.where(scale > 0, (block - centre) / np.where(scale > 0, scale, 1), 0).astype(np.float32)


def lively(array: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The channels (C, *S) that have contrast, at most four, with their median and spread."""
    array = thinned(array)
    centre, scale = level(array, rng)
    some = scale.reshape(-1) > 0
    return array[some], centre[some], scale[some]


def patch_size(shape: Sequence[int]) -> tuple[int, ...]:
    """Per axis the largest power of two that fits twice, at most 16 in two dimensions and 8 in three."""
    cap = CAP[len(shape)]
    return tuple(1 << int(np.log2(min(cap, max(1, n // 2)))) for n in shape)


def cut(sample: Sample, rng: np.random.Generator, most: int = PER_SCAN) -> Cut | None:
    """Draws at most `most` patches of one scan.

    None if it has no contrast, no voxels, NaN or infinite ones, or neither 2 nor 3 axes.
    """
    array = thinned(np.asarray(sample.array))
    if array.ndim - 1 not in CAP or array.size == 0 or not np.isfinite(array.sum(dtype=np.float64)):
        return None
    centre, scale = level(array, rng)
    if not scale.any():
        return None
    block = patch_size(array.shape[1:])
    patches, tried, flat = _tiles(array, block, centre, scale, most, rng)
    centred, values, inside, by_value = _around_labels(array, sample.mask, block, centre, scale, rng)
    return Cut(patches, centred, values, inside, by_value, tried, flat, sample.group, sample.subject or "")


def _tiles(
    array: np.ndarray, block: tuple[int, ...], centre: np.ndarray, scale: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, int, int]:
    """Patches on a randomly shifted grid: (n, C, *b), places looked at, how many of them were nearly constant."""
    size = np.array(array.shape[1:])
    cells = size // np.array(block)
    shift = rng.integers(0, size - cells * np.array(block) + 1)
    order = rng.permutation(int(cells.prod()))[: 4 * most]
    starts = np.stack(np.unravel_index(order, cells), axis=1) * np.array(block) + shift
    kept: list[np.ndarray] = []
    tried = 0
    for start in starts:
        patch = _at(array, start, block, centre, scale)
        tried += 1
        if patch.std() >= FLAT:
            kept.append(patch)
        if len(kept) == most:
            break
    found = np.stack(kept) if kept else np.zeros((0, len(array), *block), np.float32)
    return found, tried, tried - len(kept)


def _at(array: np.ndarray, start: np.ndarray, block: tuple[int, ...], centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The patch (C, *b) that starts there."""
    where = tuple(slice(int(s), int(s) + b) for s, b in zip(start, block, strict=True))
    return normal(array[(slice(None), *where)], centre, scale)


def _around_labels(
    array: np.ndarray,
    mask: np.ndarray | None,
    block: tuple[int, ...],
    centre: np.ndarray,
    scale: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    """Patches centred on labelled voxels: as many of each value, and as many inside objects as not."""
    none = np.zeros(0, bool)
    if mask is None or mask.shape != array.shape[1:]:
        return np.zeros((0, len(array), *block), np.float32), np.zeros(0, np.int64), none, none
    half = np.array(block) // 2
    room = np.array(mask.shape) - np.array(block) + 1  # starts of patches that lie within
    total = int(room.prod())
    order = rng.permutation(total) if total <= _PLACES else rng.integers(0, total, _PLACES)
    places = np.stack(np.unravel_index(order, room), axis=1) + half  # (m, axes)
    values = mask[tuple(places.T)].astype(np.int64)
    inside = values > 0
    for axis in range(mask.ndim):
        for step in (-1, 1):
            near = places.copy()
            near[:, axis] = np.clip(near[:, axis] + step, 0, mask.shape[axis] - 1)
            inside &= mask[tuple(near.T)] == values
    chosen, why = _even(values, rng, _VALUES), _even(inside.astype(np.int64), rng, 2)
    picked = np.concatenate([chosen, why])
    by_value = np.arange(len(picked)) < len(chosen)
    found = np.stack([_at(array, places[i] - half, block, centre, scale) for i in picked])
    keep = found.reshape(len(found), -1).std(axis=1) >= FLAT
    return found[keep], values[picked][keep], inside[picked][keep], by_value[keep]


def _even(values: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    """Indices of at most PER_SCAN / 2 entries, as many of each value as there are; of `most` values at most."""
    present = np.unique(values)
    if len(present) > most:
        present = rng.permutation(present)[:most]
    each = max(1, PER_SCAN // 2 // len(present))
    return np.concatenate([np.flatnonzero(values == value)[:each] for value in present])


def usual(cuts: Sequence[Cut]) -> tuple[list[Cut], tuple[int, ...]]:
    """The scans with the usual number of axes and channels that hold the patch, and that patch.

    The patch is, per axis, what nine of ten scans can give (smaller ones are left out).
    """
    kinds = Counter(c.kind for c in cuts)
    most = max(kinds, key=lambda kind: (kinds[kind], kind))
    alike = [c for c in cuts if c.kind == most]
    sizes = np.array([c.patches.shape[2:] for c in alike])
    patch = tuple(int(n) for n in np.quantile(sizes, 0.1, axis=0, method="lower"))
    return [c for c in alike if all(s >= p for s, p in zip(c.patches.shape[2:], patch, strict=True))], patch


def gather(cuts: Sequence[Cut], patch: tuple[int, ...], limit: int, rng: np.random.Generator) -> Patches:
    """All patches of the scans, cropped around their centres to `patch`; at most `limit`, drawn at random."""
    unit, units = witnesses(cuts)
    parts = [around_centre(c.patches, patch) for c in cuts]
    array = np.concatenate(parts)
    whose = np.repeat(unit, [len(p) for p in parts])
    keep = array.reshape(len(array), -1).std(axis=1) >= FLAT  # a crop may be flat where its block was not
    keep = np.sort(rng.permutation(np.flatnonzero(keep))[:limit])
    return Patches(array[keep], whose[keep], units)


def around_centre(patches: np.ndarray, patch: tuple[int, ...]) -> np.ndarray:
    """(n, C, *b) to (n, C, *p): the voxel at index b/2 comes to lie at p/2."""
    where = tuple(slice(b // 2 - p // 2, b // 2 - p // 2 + p) for b, p in zip(patches.shape[2:], patch, strict=True))
    return patches[(slice(None), slice(None), *where)]


def witnesses(cuts: Sequence[Cut]) -> tuple[np.ndarray, int]:
    """(scans,) whose each scan is, as 0..units-1; a scan without a subject is its own."""
    names = [c.subject or f"\0{i}" for i, c in enumerate(cuts)]
    known = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], dtype=int), len(known)
