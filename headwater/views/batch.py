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
from headwater.views.geometry import Geometry, cut, draw_geometry
from headwater.views.intensity import FURTHER, IntensityParameters, apply_intensity_, draw_intensity
from headwater.views.masks import draw_masks
from headwater.views.spatial import Placement, draw_placements, place


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


@dataclass(frozen=True, eq=False)
class Sample:
    """All that is drawn for the views of one scan: `show` makes them from it, as often as wanted.

    looks: intensity of the views, then of the local crops. partners: the crops of another scan that views, then local crops, are
    mixed with; none where nothing is mixed. keep: cells the student sees of each view.
    """

    geometry: Geometry
    looks: tuple[IntensityParameters, ...]
    partners: tuple[Placement, ...]
    keep: Bool[Tensor, "V *G"] | None


def draw_sample(
    shape: tuple[int, ...],
    how: settings.Views,
    *,
    seed: int,
    step: int,
    sample: int,
    stride: tuple[int, ...] | None = None,
    spacing: tuple[float, ...] | None = None,
    partner: tuple[int, ...] | None = None,
) -> Sample:
    """What make_views does to a scan of `shape` voxels, and to its partner's of `partner` voxels, if there is one.

    Raises:  InputError for whatever does not fit.
    """
    stream = partial(numpy_stream, int(seed), int(step), int(sample))  # stream(purpose)
    geometry = draw_geometry(stream, shape, how, spacing)
    changes = dict.fromkeys(FURTHER, how.further)
    if partner is None:
        changes["fourier"] = 0.0
    groups, names = geometry.groups, ("intensity", "local intensity")
    looks = tuple(draw_intensity(stream(n), len(g), how.intensity, changes) for n, g in zip(names, groups, strict=False))
    partners, keep = (), None
    if partner is not None and any(look.mixes for look in looks):
        partners = tuple(draw_placements(stream("partner"), [partner], g[0].size, probability=0.0)[0] for g in groups)
    if stride is not None and how.mask_ratio > 0:
        grid = tuple(ceil(c / s) for c, s in zip(how.crop, stride, strict=True))
        keep = draw_masks(stream("masks"), len(geometry.views), grid, how.mask_ratio, how.mask_block)
    return Sample(geometry, looks, partners, keep)


def show(
    array: np.ndarray | Tensor,
    sample: Sample,
    partner: np.ndarray | Tensor | None = None,
    into: Sequence[Float[Tensor, "_ C ..."]] = (),
) -> tuple[Float[Tensor, "_ C ..."], ...]:
    """The views (V, C, *S) of a scan, then its local crops (L, C, *s) if there are any: cut and changed, not masked.

    into: where they are written, if they have a place already.
    """
    pieces = cut(array, sample.geometry)
    if not into:
        into = [pieces[0].new_empty((len(group), len(array), *group[0].size)) for group in sample.geometry.groups]
    left = iter(pieces)
    for i, (x, look) in enumerate(zip(into, sample.looks, strict=True)):
        for crop in x:
            _copy(crop, next(left))
        other = place(partner, sample.partners[i]).expand(x.shape) if sample.partners else None
        apply_intensity_(x, look, other)
    return tuple(into)


def make_views(
    arrays: Sequence[np.ndarray | Tensor],
    how: settings.Views,
    *,
    seed: int,
    step: int,
    stride: tuple[int, ...] | None = None,
    samples: Sequence[int] | None = None,
    spacing: tuple[float, ...] | None = None,
    partners: Sequence[np.ndarray | Tensor] | None = None,
) -> Views:
    """Two overlapping views of each scan, with local crops if wanted: resample, cut, change intensities, mask.

    Sample i is a function of (seed, step, samples[i]), the settings, its own scan and partner, never of the rest of the batch.

    Args:    arrays: scans (C, *S_i), z-scored, numpy, memory map or tensor, any sizes. how: `parent` and `crop` must be given.
             stride: voxels per token and axis; None or mask_ratio 0: no masks. samples: a number per scan, unique in this
             step (None: 0, 1, ...; a rank passes its places in the whole batch). spacing: mm per axis, None if all are equal.
             partners: another scan for each, whose histogram and amplitudes are mixed in where how.further asks for it; without
             them histograms follow a random map and amplitudes stay.
    Returns: Views with V = 2 on the CPU, float32; keep has the grid ceil(crop / stride).
    Raises:  InputError for an empty batch, scans with different channels, and whatever does not fit.
    """
    if not len(arrays):
        raise InputError("No scans to make views of: give a batch of at least one.")
    others = [None] * len(arrays) if partners is None else partners
    if len(channels := {a.shape[0] for a in (*arrays, *(partners or ()))}) > 1:
        raise InputError(f"Scans of one batch have {sorted(channels)} channels: give all of them the same.")
    given = {"seed": seed, "step": step, "stride": stride, "spacing": spacing}
    drawn = [
        draw_sample(tuple(array.shape[1:]), how, sample=n, partner=None if other is None else tuple(other.shape[1:]), **given)
        for array, other, n in zip(arrays, others, range(len(arrays)) if samples is None else samples, strict=True)
    ]
    like = arrays[0] if isinstance(arrays[0], Tensor) else torch.empty(0)
    made = [
        like.new_empty((len(group), len(arrays), len(arrays[0]), *group[0].size), dtype=torch.float32)
        for group in drawn[0].geometry.groups
    ]
    for i, (array, other, sample) in enumerate(zip(arrays, others, drawn, strict=True)):
        show(array, sample, other, [x[:, i] for x in made])
    first, places = drawn[0], [sample.geometry for sample in drawn]
    points = valid = None
    if first.geometry.points is not None:
        points = torch.from_numpy(np.stack([g.points for g in places], 1))
        valid = torch.from_numpy(np.stack([g.valid for g in places]))
    return Views(
        x=made[0],
        boxes=torch.from_numpy(np.stack([g.boxes for g in places], 1)),
        keep=None if first.keep is None else torch.stack([sample.keep for sample in drawn], 1),
        points=points,
        valid=valid,
        local=made[1] if len(made) > 1 else None,
    )


def _copy(into: Tensor, piece: Tensor) -> None:
    if into.device.type == "cpu":
        np.copyto(into.numpy(), piece.numpy())  # in this thread alone
    else:
        into.copy_(piece)
