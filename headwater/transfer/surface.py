"""How well a structure is found: Dice, surface Dice, Hausdorff distance in mm, and how many of its pieces are found."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from headwater.scans.store import Store
from headwater.transfer import scores

MEASURES = ("dice", "nsd", "hd95", "missed", "invented", "there", "found", "false")
SEVERAL = 3  # pieces of a structure in half of the scans, from which pieces are counted one by one
TOUCH = 0.1  # intersection over union from which a piece is found


def measure(
    prediction: Integer[np.ndarray, "*S"],
    truth: Integer[np.ndarray, "*S"],
    structures: Sequence[tuple[int, ...]],
    spacing: tuple[float, ...],
    counted: Sequence[int] = (),
) -> dict[str, Float[np.ndarray, " K"]]:
    """All MEASURES of one scan, a value for each structure.

    Args:    structures: the classes that each unites; what is in none of them (0, voxels that do not count) has to be the
             same in both. spacing: mm per axis. counted: places in `structures` of those whose pieces are counted.
    Returns: dice, nsd in 0..1 and hd95 in mm, nan where the truth has no such structure. missed: 1 where the truth has it and the
             prediction does not; then dice and nsd are 0 and hd95 is the diagonal of the scan, the worst there can be.
             invented: 1 the other way about; no distance exists then, so nothing else is said. there, found, false:
             `pieces`, nan where they are not counted.
    """
    made = {name: np.full(len(structures), np.nan) for name in MEASURES}
    for k, classes in enumerate(structures):
        ours, theirs = np.isin(prediction, classes), np.isin(truth, classes)
        pair = [torch.from_numpy(mask).long() for mask in (ours, theirs)]
        made["dice"][k] = scores.dice(*pair, 2)[0]
        made["missed"][k] = theirs.any() and not ours.any()
        made["invented"][k] = ours.any() and not theirs.any()
        made["nsd"][k], made["hd95"][k] = distances(ours, theirs, spacing)
        if k in counted:
            made["there"][k], made["found"][k], made["false"][k] = pieces(ours, theirs)
    return made


def tolerance(spacing: tuple[float, ...]) -> float:
    """mm by which a surface may be off and still counts as found: one voxel, of the middle one of its edges' lengths."""
    return float(np.median(spacing))


def distances(
    prediction: Bool[np.ndarray, "*S"], truth: Bool[np.ndarray, "*S"], spacing: tuple[float, ...]
) -> tuple[float, float]:
    """Normalised surface Dice at `tolerance`, and the 95th percentile of the distance in mm (the worse direction).

    nan without a truth; 0 and the diagonal of the scan where nothing was predicted.
    Source: monai.metrics.compute_surface_dice and compute_hausdorff_distance, on the box of both masks: what lies outside
            it changes neither.
    """
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if not truth.any():
        return float("nan"), float("nan")
    if not prediction.any():
        return 0.0, float(np.linalg.norm(np.multiply(truth.shape, spacing)))
    box = around(prediction | truth)
    pair = [torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (prediction, truth)]
    given = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():  # MONAI warns of what it calls itself
        warnings.simplefilter("ignore", FutureWarning)
        nsd = compute_surface_dice(*pair, class_thresholds=[tolerance(spacing)], **given).item()
        return nsd, compute_hausdorff_distance(*pair, percentile=95, **given).item()


def around(mask: Bool[np.ndarray, "*S"]) -> tuple[slice, ...]:
    """The box of what is true, with one voxel more at each side where the scan has it."""
    spans = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        spans.append(slice(max(0, there[0] - 1), there[-1] + 2))
    return tuple(spans)


def pieces(prediction: Bool[np.ndarray, "*S"], truth: Bool[np.ndarray, "*S"]) -> tuple[int, int, int]:
    """Connected pieces (corners touch) in the truth, of those found, and pieces predicted where there is none.

    Pieces are matched one to one where they overlap by more than TOUCH (IoU), so that as many are found as can be. Objects that
    touch in the mask are one piece: prepared masks do not number them.
    """
    from scipy.optimize import linear_sum_assignment

    (ours, predicted), (theirs, there) = _labelled(prediction), _labelled(truth)
    if not predicted or not there:
        return there, 0, predicted
    pairs = theirs.ravel().astype(np.int64) * (predicted + 1) + ours.ravel()
    both = np.bincount(pairs, minlength=(there + 1) * (predicted + 1)).reshape(there + 1, predicted + 1)
    shared = both[1:, 1:]
    union = both[1:].sum(1, keepdims=True) + both[:, 1:].sum(0, keepdims=True) - shared
    touching = shared > TOUCH * union
    found = int(touching[linear_sum_assignment(touching, maximize=True)].sum())
    return there, found, predicted - found


@dataclass(frozen=True)
class Found:
    """Pieces over many scans. sensitivity: found of those there; false: pieces predicted where there is none, per scan; f1."""

    sensitivity: float
    false: float
    f1: float


def pooled(there: np.ndarray, found: np.ndarray, false: np.ndarray) -> Found | None:
    """All pieces of all scans (..., scans, K) together; None where none are counted, nan where there are none."""
    known = np.isfinite(there)
    if not known.any():
        return None
    wanted, hits, wrong = (float(values[known].sum()) for values in (there, found, false))
    scans = float(known.any(axis=-1).sum())
    divided = [float("nan") if not under else over / under for over, under in ((hits, wanted), (2 * hits, wanted + hits + wrong))]
    return Found(divided[0], wrong / scans, divided[1])


@lru_cache(maxsize=8)
def several(store: Store, scans: tuple[int, ...], structures: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Places of the structures of which half of the scans that have any show SEVERAL pieces or more: lesions, cells."""
    chosen = []
    for k, classes in enumerate(structures):
        counts = [_labelled(np.isin(np.asarray(store.label(i)), classes))[1] for i in scans]
        counts = [count for count in counts if count]
        chosen += [k] if counts and np.median(counts) >= SEVERAL else []
    return tuple(chosen)


def _labelled(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of the piece at each voxel, and how many there are."""
    from scipy.ndimage import label

    return label(mask, np.ones((3,) * mask.ndim))
