"""From scans in memory to the views one training step sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater import settings
from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.crops import draw_pairs, take
from headwater.views.intensity import apply_intensity, draw_intensity
from headwater.views.masks import draw_masks
from headwater.views.spatial import draw_placements, place


@dataclass(frozen=True)
class Views:
    """V views of B scans.

    x: crops, z-scored. boxes: the part each view shares with the other, (start, stop) per axis in array order, relative to the
    crop, voxel edges in [0, 1]. keep: cells the student sees (None: all).
    """

    x: Float[Tensor, "V B C *S"]
    boxes: Float[Tensor, "V B d 2"]
    keep: Bool[Tensor, "V B *G"] | None = None

    def to(self, device: torch.device | str) -> "Views":
        """The same views on another device."""
        move = {"device": device, "non_blocking": True}
        return Views(self.x.to(**move), self.boxes.to(**move), None if self.keep is None else self.keep.to(**move))


def make_views(
    arrays: Sequence[np.ndarray | Tensor],
    how: settings.Views,
    *,
    seed: int,
    step: int,
    stride: tuple[int, ...] | None = None,
    samples: Sequence[int] | None = None,
    spacing: tuple[float, ...] | None = None,
    padding: str = "reflect",
) -> Views:
    """Two overlapping views of each scan: place in a parent, cut two crops, change their intensities, mask.

    Sample i is a function of (seed, step, samples[i]), the settings and its own scan, never of the rest of the batch.

    Args:    arrays: scans (C, *S_i), z-scored, numpy, memory map or tensor, any sizes. how: `parent` and `crop` must be given.
             stride: voxels per token and axis; None or mask_ratio 0: no masks. samples: a number per scan, unique in this
             step (None: 0, 1, ...; a rank passes its places in the whole batch). spacing: mm per axis, None if all are equal.
             padding: of scans smaller than the parent, "reflect" or "zero".
    Returns: Views with V = 2 on the CPU, float32; keep has the grid ceil(crop / stride).
    Raises:  InputError for an empty batch, scans with different channels, and whatever does not fit.
    """
    if not len(arrays):
        raise InputError("No scans to make views of: give a batch of at least one.")
    if len({a.shape[0] for a in arrays}) > 1:
        raise InputError(f"Scans of one batch have {sorted({a.shape[0] for a in arrays})} channels: give all of them the same.")
    made = []
    for array, sample in zip(arrays, range(len(arrays)) if samples is None else samples, strict=True):
        stream = partial(numpy_stream, int(seed), int(step), int(sample))  # stream(purpose)
        placement = draw_placements(
            stream("placement"),
            [tuple(array.shape[1:])],
            how.parent,
            rotation=how.rotation,
            scale=how.scale,
            probability=how.geometry,
            mirror=how.mirror,
            spacing=spacing,
        )[0]
        pair = draw_pairs(stream("crops"), 1, how.parent, how.crop, how.overlap)
        crops = take(place(array, placement, padding=padding)[None], pair.starts, how.crop)[:, 0]  # (V, C, *S)
        crops = apply_intensity(crops, draw_intensity(stream("intensity"), len(crops), how.intensity))
        keep = None
        if stride is not None and how.mask_ratio > 0:
            grid = tuple(ceil(c / s) for c, s in zip(how.crop, stride, strict=True))
            keep = draw_masks(stream("masks"), len(crops), grid, how.mask_ratio, how.mask_block)
        made.append((crops, pair.boxes[:, 0], keep))
    x, boxes, keeps = zip(*made, strict=True)
    return Views(torch.stack(x, 1), torch.stack(boxes, 1), None if keeps[0] is None else torch.stack(keeps, 1))
