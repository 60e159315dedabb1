"""Fixed hard pairs of views of images: what a model is looked at through, always the same ones."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from headwater.errors import InputError
from headwater.observe.features import FEWEST
from headwater.observe.tokens import places
from headwater.streams import numpy_stream
from headwater.views.intensity import IntensityParameters, apply_intensity

IMAGES = 96  # of a watch: two or three seconds a look on two cores
SHIFT = 8  # voxels between the dense views, rounded up to whole tokens: the dial of difficulty


@dataclass(frozen=True)
class Probe:
    """Three fixed views of each of n images, each with its own change of intensity.

    views: (3, n, C, *S) float16: a crop; the same shifted by `shift` voxels, for the dense pair; and by `apart` voxels, for
    the pooled pair. shift: voxels per axis, whole tokens: token g of the shifted view lies where token g + shift / stride of
    the first does. apart: voxels per axis, half a crop where the scans are long enough (then an eighth of the volume is shared).
    scale: mean and standard deviation that images had before they were z-scored for their changes; None: they came z-scored.
    """

    views: Float[Tensor, "3 n C *S"]
    shift: tuple[int, ...]
    apart: tuple[int, ...]
    stride: tuple[int, ...]
    seed: int
    scale: Float[Tensor, "2 n"] | None = None

    def __len__(self) -> int:
        return self.views.shape[1]

    def part(self, view: int, start: int, stop: int) -> Float[Tensor, "b C *S"]:
        """Images start to stop as one view shows them, float32, on the scale they came in."""
        x = self.views[view, start:stop].float()
        if self.scale is None:
            return x
        mean, deviation = (s[start:stop].view(-1, *(1,) * (x.ndim - 1)) for s in self.scale)
        return x * deviation + mean


def of_images(images: Float[Tensor, "n C *S"], stride: Sequence[int], *, seed: int) -> Probe:
    """Hard views of images as large as they are, whatever their scale: shifted by reflection, contrast and noise changed.

    A stride of 0 along an axis (nothing is known of places there): not shifted.
    Raises: InputError for fewer than 8 images, NaN, infinity, or images that do not vary.
    """
    x = images.detach().to("cpu", torch.float32)
    flat = x.flatten(1)
    if not bool(flat.isfinite().all()):
        raise InputError(f"{int((~flat.isfinite().all(1)).sum())} of {len(x)} images hold NaN or infinity: leave them out")
    mean, deviation = flat.mean(1), flat.std(1)
    if not bool((deviation > 0).any()):
        raise InputError(f"none of the {len(x)} images varies from voxel to voxel: check how they were read")
    if len(x) > 1 and bool((flat == flat[0]).all()):
        raise InputError(f"all {len(x)} images are the same: give different ones")
    scale = torch.stack([mean, torch.where(deviation > 0, deviation, 1.0)])
    mean, deviation = (s.view(-1, *(1,) * (x.ndim - 1)) for s in scale)
    still = [s == 0 for s in stride]
    known = [s or n for s, n in zip(stride, x.shape[2:], strict=True)]
    probe = probe_views(list(((x - mean) / deviation).numpy()), x.shape[2:], known, seed=seed, still=still)
    return replace(probe, scale=scale)


def probe_views(
    arrays: Sequence[np.ndarray],
    crop: Sequence[int],
    stride: Sequence[int],
    *,
    seed: int,
    shift: int = SHIFT,
    still: Sequence[bool] = (),
) -> Probe:
    """The fixed hard views of these images: centred, a long way apart, with other contrast, brightness and noise in each.

    Images shorter than crop + shift are continued by reflection. On an axis where the wanted shift would leave less than half
    of the tokens in common, it is the largest number of whole tokens that does not.

    Args:    arrays: (C, *S_i), z-scored; crop, stride (voxels per token): per axis; shift: wanted voxels between dense views;
             still: axes along which nothing is shifted.
    Raises:  InputError for fewer than 8 images.
    """
    if len(arrays) < FEWEST:
        raise InputError(f"Agreement between views needs at least {FEWEST} scans, there are {len(arrays)}. Add scans to watch.")
    lengths = [statistics.median(a.shape[1 + k] for a in arrays) for k in range(len(crop))]
    free = [not fixed for fixed in still] or [True] * len(crop)
    shifts = tuple(f * s * min(math.ceil(shift / s), math.ceil(c / s) // 2) for c, s, f in zip(crop, stride, free, strict=True))
    apart = tuple(f * int(min(max(n - c, c // 4), c // 2)) for n, c, f in zip(lengths, crop, free, strict=True))
    parent = [c + max(s, a) for c, s, a in zip(crop, shifts, apart, strict=True)]
    views = torch.empty((3, len(arrays), arrays[0].shape[0], *crop), dtype=torch.float16)
    looks = [changes(numpy_stream(seed, "probe", view), len(arrays)) for view in range(3)]
    for i, array in enumerate(arrays):
        patch = middle(array, parent)
        for view, start in enumerate(((0,) * len(crop), shifts, apart)):
            part = patch[(slice(None), *(slice(b, b + c) for b, c in zip(start, crop, strict=True)))]
            one = replace(looks[view], **{k: values[i : i + 1] for k, values in vars(looks[view]).items()})
            views[view, i] = apply_intensity(torch.from_numpy(part.copy())[None], one)[0]
    return Probe(views, shifts, apart, tuple(stride), seed)


def middle(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The central patch (C, *size) of an image (C, *S), float32, its reflection outside. Reads no more than the patch."""
    starts = [(n - s) // 2 for n, s in zip(array.shape[1:], size, strict=True)]
    spans = [slice(max(b, 0), max(b, 0) + s) for b, s in zip(starts, size, strict=True)]
    patch = np.asarray(array[(slice(None), *spans)], np.float32)
    short = [(max(-b, 0), s - n - max(-b, 0)) for b, s, n in zip(starts, size, patch.shape[1:], strict=True)]
    return np.pad(patch, [(0, 0), *short], mode="reflect") if any(map(any, short)) else patch


def changes(rng: np.random.Generator, images: int) -> IntensityParameters:
    """Another look for every image, none left as it was.

    Gamma 0.7 to 1.5, brightness and contrast 0.75 to 1.25, noise of 0.05 to 0.2 s.d., no blur.
    """
    factors = {name: rng.uniform(0.75, 1.25, images) for name in ("brightness", "contrast")}
    gamma = np.exp(rng.uniform(np.log(0.7), np.log(1.5), images))
    off = {"blur": np.zeros(images), "inverted_gamma": np.ones(images)}
    seeds = rng.integers(0, 2**62, images)
    return IntensityParameters(noise=rng.uniform(0.05, 0.2, images), gamma=gamma, seed=seeds, **factors, **off)


def shared(grid: Sequence[int], probe: Probe, images: int) -> tuple[Tensor, Tensor]:
    """Flat indices, in the first and in the shifted view, of the tokens compared: the same physical places, in the same order."""
    steps = [s // t for s, t in zip(probe.shift, probe.stride, strict=True)]
    index = torch.arange(math.prod(grid)).view(*grid)
    there = index[tuple(slice(k, None) for k in steps)].flatten()
    back = index[tuple(slice(0, g - k) for g, k in zip(grid, steps, strict=True))].flatten()
    chosen = places(images, len(there), probe.seed)
    return there[chosen], back[chosen]


class Pixels(nn.Module):
    """No network: the voxels of each token's cell as its features. What agreement the images give by themselves."""

    def __init__(self, stride: Sequence[int]):
        super().__init__()
        self.stride = tuple(stride)

    def forward(self, x: Float[Tensor, "B C *S"]) -> SimpleNamespace:
        """tokens (B, N, C * prod(stride)), pooled (B, C * at most 4 ** d): coarse averages."""
        size = x.shape[2:]
        coarse = F.interpolate(x, size=tuple(min(4, n) for n in size), mode="area").flatten(1)
        grid = tuple(-(-n // s) for n, s in zip(size, self.stride, strict=True))
        missing = [p for n, g, s in zip(size, grid, self.stride, strict=True) for p in (g * s - n, 0)][::-1]
        cells = F.pad(x, missing, mode="replicate") if any(missing) else x
        for axis, s in enumerate(self.stride):
            cells = cells.unfold(2 + axis, s, s)  # (B, C, *G, *stride)
        cells = cells.movedim(1, 1 + len(grid)).flatten(1 + len(grid)).flatten(1, len(grid))
        return SimpleNamespace(tokens=cells, grid=grid, pooled=coarse)


def chosen_from(scans: Sequence[int], seed: int) -> list[int]:
    """The scans a run is watched through: at most 96, the same for the same seed."""
    order = numpy_stream(seed, "probe").permutation(len(scans))[:IMAGES]
    return sorted(scans[i] for i in order)
