"""From scans in memory to the views one training step sees."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater import settings
from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.geometry import cut, draw_geometry
from headwater.views.intensity import apply_intensity_, draw_intensity
from headwater.views.masks import draw_masks


@dataclass(frozen=True)
class Views:
    """V views of B scans.

    x: crops, z-scored. boxes: the part each view shares with the other, (start, stop) per axis in array order, relative to the
    crop, voxel edges in [0, 1]. keep: cells the student sees (None: all). points: where the views' geometry differs, the same
    physical points in every view, on the boxes' scale; valid: those that lie in every view; the boxes then hold the valid ones.
    local: further small crops of each scan.
    """

    x: Float[Tensor, "V B C *S"]
    boxes: Float[Tensor, "V B d 2"]
    keep: Bool[Tensor, "V B *G"] | None = None
    points: Float[Tensor, "V B *O d"] | None = None
    valid: Bool[Tensor, "B *O"] | None = None
    local: Float[Tensor, "L B C *s"] | None = None

    def to(self, device: torch.device | str) -> "Views":
        """The same views on another device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return Views(**{n: None if v is None else v.to(device=device, non_blocking=True) for n, v in held.items()})


def make_views(
    arrays: Sequence[np.ndarray | Tensor],
    how: settings.Views,
    *,
    seed: int,
    step: int,
    stride: tuple[int, ...] | None = None,
    samples: Sequence[int] | None = None,
    spacing: tuple[float, ...] | None = None,
) -> Views:
    """Two overlapping views of each scan, with local crops if wanted: resample, cut, change intensities, mask.

    Sample i is a function of (seed, step, samples[i]), the settings and its own scan, never of the rest of the batch.

    Args:    arrays: scans (C, *S_i), z-scored, numpy, memory map or tensor, any sizes. how: `parent` and `crop` must be given.
             stride: voxels per token and axis; None or mask_ratio 0: no masks. samples: a number per scan, unique in this
             step (None: 0, 1, ...; a rank passes its places in the whole batch). spacing: mm per axis, None if all are equal.
    Returns: Views with V = 2 on the CPU, float32; keep has the grid ceil(crop / stride).
    Raises:  InputError for an empty batch, scans with different channels, and whatever does not fit.
    """
    if not len(arrays):
        raise InputError("No scans to make views of: give a batch of at least one.")
    if len({a.shape[0] for a in arrays}) > 1:
        raise InputError(f"Scans of one batch have {sorted({a.shape[0] for a in arrays})} channels: give all of them the same.")
    numbers = list(range(len(arrays)) if samples is None else samples)
    rest, x, local = [], None, None
    for i, (array, sample) in enumerate(zip(arrays, numbers, strict=True)):
        stream = partial(numpy_stream, int(seed), int(step), int(sample))  # stream(purpose)
        geometry = draw_geometry(stream, tuple(array.shape[1:]), how, spacing)
        pieces, count = cut(array, geometry), len(geometry.views)
        x = _held(x, pieces[:count], i, len(arrays))
        apply_intensity_(x[:, i], draw_intensity(stream("intensity"), count, how.intensity))
        if geometry.local:
            local = _held(local, pieces[count:], i, len(arrays))
            apply_intensity_(local[:, i], draw_intensity(stream("local intensity"), how.locals, how.intensity))
        one = {"boxes": torch.from_numpy(geometry.boxes)}
        if geometry.points is not None:
            one |= {"points": torch.from_numpy(geometry.points), "valid": torch.from_numpy(geometry.valid)}
        if stride is not None and how.mask_ratio > 0:
            grid = tuple(ceil(c / s) for c, s in zip(how.crop, stride, strict=True))
            one["keep"] = draw_masks(stream("masks"), count, grid, how.mask_ratio, how.mask_block)
        rest.append(one)
    return Views(x=x, local=local, **{n: torch.stack([one[n] for one in rest], int(n != "valid")) for n in rest[0]})


def _held(held: Tensor | None, pieces: list[Tensor], i: int, batch: int) -> Tensor:
    """(V, B, C, *S) with the pieces of sample i written where they stay."""
    if held is None:
        held = pieces[0].new_empty((len(pieces), batch, *pieces[0].shape))
    for place, piece in zip(held[:, i], pieces, strict=True):
        if piece.device.type == "cpu":
            np.copyto(place.numpy(), piece.numpy())  # in this thread alone
        else:
            place.copy_(piece)
    return held
