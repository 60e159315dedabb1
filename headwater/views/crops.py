"""Two crops of one parent and the box they share, exact to the voxel."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwater.errors import InputError


@dataclass(frozen=True)
class Pairs:
    """Where two crops of each parent lie and which part of each they share.

    starts: first voxel of the crop in the parent. boxes: (start, stop) per axis in ARRAY order, relative to the crop,
    voxel edges in [0, 1] (0 is the outer edge of voxel 0, 1 the outer edge of the last voxel).
    """

    starts: Int[Tensor, "V B d"]
    boxes: Float[Tensor, "V B d 2"]


def draw_pairs(
    rng: np.random.Generator,
    batch: int,
    parent: tuple[int, ...],
    crop: tuple[int, ...],
    overlap: tuple[float, float] = (0.4, 0.8),
) -> Pairs:
    """Places of two overlapping crops in each of `batch` parents.

    Overlap volume v ~ U(overlap), shares w ~ Dirichlet(1, ..., 1), overlap per axis f_k = v^(w_k), rounded to whole voxels
    (at least 1). View 0 takes the low corner of the union, view 1 the high corner; the union lies anywhere in the parent.
    On an axis where the parent is too short for that f_k, the overlap is raised to the least that fits, 2 crop - parent.

    Args:    parent, crop: voxels per axis; overlap: fractions of the crop's volume, 0 < low <= high <= 1.
    Raises:  InputError if a crop does not fit its parent or overlap is out of range.
    Source:  Vaish et al. 2025 (arXiv 2509.13846), sampling of the two views; rounding before the boxes is ours.
    """
    _check(parent, crop, overlap)
    size = np.asarray(crop, dtype=np.int64)
    room = np.asarray(parent, dtype=np.int64) - size
    volume = rng.uniform(*overlap, size=(batch, 1))
    fraction = volume ** rng.dirichlet(np.ones(len(crop)), size=batch)
    shift = np.minimum(size - np.maximum(np.rint(fraction * size), 1).astype(np.int64), room)  # (B, d) voxels
    low = rng.integers(0, room - shift, endpoint=True)
    boxes = np.stack([np.stack([shift / size, np.ones_like(fraction)], -1), np.stack([0 * fraction, 1 - shift / size], -1)])
    return Pairs(torch.from_numpy(np.stack([low, low + shift])), torch.from_numpy(boxes.astype(np.float32)))


def take(parents: Float[Tensor, "B C *P"], starts: Int[Tensor, "V B d"], crop: tuple[int, ...]) -> Float[Tensor, "V B C *S"]:
    """Copies of the crops that begin at `starts`, each `crop` voxels large.

    Raises:  InputError if a crop reaches outside its parent.
    """
    size = torch.tensor(crop)
    if (starts < 0).any() or (starts + size > torch.tensor(parents.shape[2:])).any():
        held = _words(parents.shape[2:])
        raise InputError(f"A crop of {_words(crop)} voxels reaches outside its parent of {held}: move its start.")
    views, batch = starts.shape[:2]
    out = parents.new_empty((views, batch, parents.shape[1], *crop))
    for v, corners in enumerate(starts.tolist()):
        for b, corner in enumerate(corners):
            window = tuple(slice(first, first + length) for first, length in zip(corner, crop, strict=True))
            out[v, b] = parents[(b, slice(None), *window)]
    return out


def _check(parent: tuple[int, ...], crop: tuple[int, ...], overlap: tuple[float, float]) -> None:
    if len(parent) != len(crop) or min(*parent, *crop) < 1:
        raise InputError(f"Crop {_words(crop)} and parent {_words(parent)} need the same number of axes, each at least 1 voxel.")
    if any(c > p for c, p in zip(crop, parent, strict=True)):
        fits = tuple(min(c, p) for c, p in zip(crop, parent, strict=True))
        raise InputError(
            f"A crop of {_words(crop)} voxels is larger than its parent of {_words(parent)}: set views.crop to at most "
            f"{','.join(map(str, fits))} (at most {_words(fits)} voxels), or enlarge views.parent."
        )
    if not 0 < overlap[0] <= overlap[1] <= 1:
        raise InputError(
            f"views.overlap cannot be {overlap[0]:g},{overlap[1]:g}: two views must share something, so give two shares of a "
            "crop's volume above 0, the smaller first, such as 0.4,0.8."
        )


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(str(int(s)) for s in shape)
