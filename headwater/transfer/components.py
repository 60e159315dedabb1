"""Largest connected components: single organs have one piece, so smaller ones are mistakes, where validation says so."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Integer


def largest(mask: Integer[np.ndarray, "*S"], classes: Iterable[int]) -> Integer[np.ndarray, "*S"]:
    """The mask with only the largest piece of each of these classes; the others become background (0).

    Voxels that touch by a corner belong together. Of pieces equally large the first in the order of the voxels stays.
    """
    from scipy import ndimage

    kept, touching = mask.copy(), np.ones((3,) * mask.ndim, bool)
    for c, box in _boxes(mask, classes):
        pieces, count = ndimage.label(mask[box] == c, touching)
        if count > 1:
            sizes = np.bincount(pieces.ravel())[1:]
            kept[box][(pieces > 0) & (pieces != 1 + sizes.argmax())] = 0
    return kept


def chosen(
    predictions: Sequence[Integer[np.ndarray, "..."]], truths: Sequence[Integer[np.ndarray, "..."]], classes: Iterable[int]
) -> tuple[int, ...]:
    """The classes whose largest component alone is better on these validation scans.

    A class is chosen where its mean Dice does not fall and that of some scan rises (what nnU-Net asks of a class). Scans whose
    truth lacks the class do not count, nor voxels whose truth holds the largest number of its type.
    """
    found = []
    for c in classes:
        gains = []
        for prediction, truth in zip(predictions, truths, strict=True):
            true, counts = truth == c, truth != np.iinfo(truth.dtype).max
            if true.any():
                before, after = prediction == c, largest(prediction, [c]) == c
                gains.append(_dice(after & counts, true) - _dice(before & counts, true))
        if gains and np.mean(gains) >= 0 and max(gains) > 0:
            found.append(int(c))
    return tuple(found)


def _boxes(mask: np.ndarray, classes: Iterable[int]) -> Iterable[tuple[int, tuple[slice, ...]]]:
    """The smallest box about each class that is there."""
    from scipy import ndimage

    boxes = ndimage.find_objects(mask)
    for c in classes:
        if 0 < c <= len(boxes) and boxes[c - 1] is not None:
            yield c, boxes[c - 1]


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
