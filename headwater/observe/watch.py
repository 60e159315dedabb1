"""A fixed set of hard view pairs, and the looks at a training backbone through them."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from headwater import runfolder
from headwater.errors import InputError
from headwater.observe.features import FEWEST, agreement
from headwater.observe.tokens import dense_agreement, places
from headwater.observe.verdict import TRAINED, line, verdict
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.views.intensity import IntensityParameters, apply_intensity

IMAGES = 96  # of a run's watch: two or three seconds a look on two cores
SHIFT = 8  # voxels between the dense views, rounded up to whole tokens: the dial of difficulty


@dataclass(frozen=True)
class Probe:
    """Three fixed views of each of n images, each with its own change of intensity.

    views: (3, n, C, *S) float16: a crop; the same shifted by `shift` voxels, for the dense pair; and by `apart` voxels, for
    the pooled pair. shift: voxels per axis, whole tokens: token g of the shifted view lies where token g + shift / stride of
    the first does. apart: voxels per axis, half a crop where the scans are long enough (then an eighth of the volume is shared).
    """

    views: Float[Tensor, "3 n C *S"]
    shift: tuple[int, ...]
    apart: tuple[int, ...]
    stride: tuple[int, ...]
    seed: int


def probe_views(
    arrays: Sequence[np.ndarray], crop: Sequence[int], stride: Sequence[int], *, seed: int, shift: int = SHIFT
) -> Probe:
    """The fixed hard views of these images: centred, a long way apart, with other contrast, brightness and noise in each.

    Images shorter than crop + shift are continued by reflection. On an axis where the wanted shift would leave less than half
    of the tokens in common, it is the largest number of whole tokens that does not.

    Args:    arrays: (C, *S_i), z-scored; crop, stride (voxels per token): per axis; shift: wanted voxels between dense views.
    Raises:  InputError for fewer than 8 images.
    """
    if len(arrays) < FEWEST:
        raise InputError(f"Agreement between views needs at least {FEWEST} scans, there are {len(arrays)}. Add scans to watch.")
    lengths = [statistics.median(a.shape[1 + k] for a in arrays) for k in range(len(crop))]
    shifts = tuple(s * min(math.ceil(shift / s), math.ceil(c / s) // 2) for c, s in zip(crop, stride, strict=True))
    apart = tuple(int(min(max(n - c, c // 4), c // 2)) for n, c in zip(lengths, crop, strict=True))
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


@torch.no_grad()
def measure(backbone: nn.Module, probe: Probe, batch: int = 16, precision: str = "fp32") -> dict[str, dict[str, Any]]:
    """Agreement of the probe's pairs at both levels: {"pooled": ..., "dense": ...}, each `Agreement.numbers()`.

    In evaluation mode; every module gets its own mode back, and no random number is drawn. Only the compared tokens are kept.

    Args: backbone: Backbone, or whatever has one as `.backbone`; precision: "fp32" or "bf16" for the forward passes.
    """
    backbone = getattr(backbone, "backbone", backbone)
    modes = [(module, module.training) for module in backbone.modules()]
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    parts: list[list[Tensor]] = [[], [], [], []]  # pooled of views 0 and 2, tokens of views 0 and 1
    backbone.eval()
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for start in range(0, probe.views.shape[1], batch):
                here, shifted, apart = (backbone(view[start : start + batch].to(device).float()) for view in probe.views)
                there, back = _shared(here.grid, probe, len(probe.views[0]))
                found = (here.pooled, apart.pooled, here.tokens[:, there], shifted.tokens[:, back])
                for part, value in zip(parts, found, strict=True):
                    part.append(value.float().cpu())
    finally:
        for module, mode in modes:
            module.training = mode
    pooled, far, tokens, moved = (torch.cat(part) for part in parts)
    found = {"pooled": agreement(pooled, far, seed=probe.seed), "dense": dense_agreement(tokens, moved, probe.seed)}
    return {level: agreed.numbers() for level, agreed in found.items()}


def _shared(grid: Sequence[int], probe: Probe, images: int) -> tuple[Tensor, Tensor]:
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


class Watch:
    """Looks at a run's backbone through a fixed probe now and then, and notes in events.jsonl what it saw."""

    def __init__(self, store: Any, chosen: Sequence[int], settings: Settings, run: Path, steps: int):
        """store: scans.store.Store; chosen: the scans the run learns from. Goes on from the looks already in the run folder."""
        self.store, self.chosen = store, chosen_from(chosen, settings.seed)
        self.settings, self.run, self.steps = settings, Path(run), steps
        self.levels = TRAINED.get(settings.pretrain.objective, ("pooled", "dense"))
        self.looks = [e for e in runfolder.read_events(self.run) if e.get("event") == "watch"]
        self.probe: Probe | None = None

    def due(self, step: int) -> bool:
        """Whether to look after this step: `settings.pretrain.watch` times over the run at most, the last step among them."""
        times = self.settings.pretrain.watch
        return times > 0 and step * times // self.steps > (step - 1) * times // self.steps

    def look(self, backbone: nn.Module, step: int) -> str:
        """Measures, appends the event, and returns one line for the terminal. With fewer than 8 scans it says so and goes on."""
        if self.settings.pretrain.watch <= 0:
            return ""
        started = time.monotonic()
        if len(self.chosen) < FEWEST:
            return f"not watched: agreement needs at least {FEWEST} scans, there are {len(self.chosen)}"
        if self.probe is None:
            arrays = [self.store.image(i) for i in self.chosen]
            self.probe = probe_views(arrays, self.settings.views.crop, backbone.stride, seed=self.settings.seed)
        seen = measure(backbone, self.probe, precision=self.settings.precision)
        initial = self.looks[0] if self.looks else seen
        judged = verdict(initial, self.looks[1:], seen, self.levels)
        dial = {"shift_voxels": list(self.probe.shift), "apart_voxels": list(self.probe.apart)}
        event = {"event": "watch", "step": step, **seen, "state": judged.state, "sentence": judged.sentence, **dial}
        if not self.looks:
            event |= {"state": "start", "sentence": "Before training."}
        runfolder.append_event(self.run, {**event, "seconds": time.monotonic() - started})
        self.looks.append(event)
        return line(judged) if len(self.looks) > 1 else "before training"
