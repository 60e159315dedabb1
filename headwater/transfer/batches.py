"""The batches of a segmenter: patches of labelled scans, turned, bent in grey values, every so often about a structure."""

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwater.scans.store import Store, class_type
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.train.loop import members
from headwater.views.intensity import apply_intensity, draw_intensity
from headwater.views.spatial import Placement, draw_placements, place, reach

MOST = 10_000  # voxels of a class that are kept to choose from, as in nnU-Net


def unknown(classes: int) -> int:
    """What stands in masks of a batch where nothing is known: as the store has it, 255, or 65535 from 256 classes on."""
    return int(np.iinfo(class_type(classes)).max)


def batch_at(
    step: int, store: Store, labelled: list[int], settings: Settings, seed: int
) -> tuple[Float[Tensor, "B C *S"], Int[Tensor, "B *S"]]:
    """Images and masks of a step: a function of settings, seed and step alone, so the same for every arm.

    Every labelled scan comes once per epoch. A share `adapt.foreground` of the patches lies about a voxel of some structure,
    each structure of the scan equally likely; the others lie anywhere. What a patch shows from outside its scan is
    the scan reflected, and does not count in the mask (`unknown`): nothing is known there.
    """
    adapt, images, masks = settings.adapt, [], []
    phase = numpy_stream(seed, step, "foreground").random()
    for k, member in enumerate(members(step, adapt.batch, len(labelled), seed)):
        scan, stream = labelled[member], partial(numpy_stream, seed, step, k)
        placement = draw_placements(
            stream("placement"),
            [store.shape(scan)],
            adapt.patch,
            rotation=adapt.rotation,
            scale=adapt.scale,
            probability=adapt.geometry,
            mirror=adapt.mirror,
            spacing=store.spacing,
        )[0]
        if about_structure(k, adapt.foreground, phase):
            placement = replace(placement, centre=centred(store, scan, placement, stream("centre")))
        image = place(store.image(scan), placement)
        images.append(apply_intensity(image[None], draw_intensity(stream("intensity"), 1, adapt.intensity))[0])
        mask = place(store.label(scan)[None], placement, mode="nearest")[0].long()
        masks.append(mask.masked_fill(outside(placement, store.shape(scan)), unknown(store.classes)))
    return torch.stack(images), torch.stack(masks)


def about_structure(place_in_batch: int, share: float, phase: float) -> bool:
    """Whether this patch of a batch lies about a structure: evenly spread, so each batch has its share but for rounding.

    phase: uniform in [0, 1) for each batch, which makes the share right on average too.
    """
    return int((place_in_batch + 1) * share + phase) > int(place_in_batch * share + phase)


def centred(store: Store, scan: int, placement: Placement, rng: np.random.Generator) -> tuple[float, ...]:
    """The centre of a patch about a random voxel of a random structure, within the scan; as it was where there is none.

    Along an axis on which the scan is no longer than the patch, the centre stays.
    """
    there = places(store, scan)
    if not there:
        return placement.centre
    voxels = there[rng.choice(sorted(there))]
    voxel, size = voxels[rng.integers(len(voxels))], placement.size
    first = [min(max(int(v) - p // 2, 0), s - p) for v, p, s in zip(voxel, size, store.shape(scan), strict=True)]
    found = [f + (p - 1) / 2 for f, p in zip(first, size, strict=True)]  # the patch starts at a whole voxel
    return tuple(c if s <= p else f for c, f, p, s in zip(placement.centre, found, size, store.shape(scan), strict=True))


@lru_cache(maxsize=512)
def places(store: Store, scan: int) -> dict[int, np.ndarray]:
    """Voxels (n, d) of each structure in a scan, at most MOST of each, those that do not count left out."""
    mask, found = np.asarray(store.label(scan)), {}
    for c in range(1, store.classes):
        where = np.flatnonzero(mask == c)
        if len(where) > MOST:
            where = np.sort(numpy_stream(scan, "places", c).choice(where, MOST, replace=False))
        if len(where):
            found[c] = np.stack(np.unravel_index(where, mask.shape), 1).astype(np.int32)
    return found


def outside(placement: Placement, shape: tuple[int, ...]) -> Bool[Tensor, "*S"]:
    """Which voxels of a patch lie outside the scan, half a voxel beyond its last ones' centres."""
    size, d = placement.size, len(shape)
    found = torch.zeros(size, dtype=torch.bool)
    offsets = [torch.arange(s) - (s - 1) / 2 for s in size]
    for axis, ((low, high), length) in enumerate(zip(reach(placement), shape, strict=True)):
        if low < -0.5 or high > length - 0.5:
            at = torch.full((1,) * d, placement.centre[axis])
            for other, offset in enumerate(offsets):
                at = at + placement.matrix[axis][other] * offset.view([-1 if other == o else 1 for o in range(d)])
            found |= (at < -0.5) | (at > length - 0.5)
    return found
