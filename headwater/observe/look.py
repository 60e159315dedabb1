"""One look at a model: agreement of its features, the panel of numbers with their nulls, and what happens along its depth."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe import depth, shortcuts, weights
from headwater.observe.explain import explain
from headwater.observe.features import FEWEST, agreement, reliability
from headwater.observe.heads import grid_places
from headwater.observe.number import Number, absent, attempt
from headwater.observe.pairs import Probe, shared
from headwater.observe.probe import each_tensor, first_images, placed, plain, size_of, undisturbed
from headwater.observe.published import published
from headwater.observe.reading import Reading, read_all, reader
from headwater.observe.reuse import prototype_use, uniform_gap
from headwater.observe.tokens import dense_agreement
from headwater.observe.variance import high_norm, locality, token_variance

BATCH = 16  # images at once
HELD = 2**22  # numbers of whole token grids kept for variance and locality: 16 MiB, half as much again in float64
FEW = 8  # images traced along depth
KEPT = 2**18  # numbers of tokens that a start remembers
ALIKE = 0.1  # growth of the tokens' mean cosine since the first look that is explained
EXPLAINED = 4  # images behind an explanation
FIRST = "the same network at the first look"


@dataclass(frozen=True, eq=False)
class Start:
    """What later looks are compared with: features, a sample of the weights and the heads as they were at the first look."""

    pooled: Float[Tensor, "n E"]
    tokens: Float[Tensor, "b D"]
    weights: Float[Tensor, "w"]
    panel: Mapping[str, Number]
    layers: Mapping[str, list[float]]


@dataclass(frozen=True, eq=False)
class Look:
    """What a model shows at one moment.

    levels: agreement between two views of the same images, by level: "pooled", "dense" (tokens at the same place) and "output"
    (what a projection head or classifier gives). panel: numbers by name, each with its null. layers: lists along depth.
    words: what was found and what is missing, one sentence each.
    """

    step: int
    levels: Mapping[str, Mapping[str, Any]]
    panel: Mapping[str, Number]
    layers: Mapping[str, list[float]] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON holds it: step, one entry per level, panel, layers, words."""
        panel = {name: number.plain() for name, number in self.panel.items()}
        levels = {name: dict(level) for name, level in self.levels.items()}
        return {"step": self.step, **levels, "panel": panel, "layers": dict(self.layers), "words": list(self.words)}


@dataclass(frozen=True, eq=False)
class Shown:
    """What the probe brought out: pooled features and outputs of the two views far apart, tokens at the same places of the two
    close ones, and whole grids of tokens of the first images."""

    pooled: tuple[Tensor, Tensor | None]
    output: tuple[Tensor | None, Tensor | None]
    dense: tuple[Tensor, Tensor] | None
    tokens: Float[Tensor, "m N D"]
    grid: tuple[int, ...]


@torch.autocast("cpu", enabled=False)  # whatever the caller's: forward passes have a precision of their own
def look(
    model: nn.Module,
    probe: Probe | Any,
    *,
    step: int = 0,
    start: Start | None = None,
    features: Callable[[nn.Module, Any], Any] | None = None,
    blocks: Sequence[str] | None = None,
    teacher: nn.Module | None = None,
    groups: Integer[Tensor, "n"] | None = None,
    loss: float | None = None,
    prototypes: int | None = None,
    spacing: Sequence[float] | None = None,
    precision: str = "fp32",
    seed: int = 0,
) -> tuple[Look, Start]:
    """Looks at a model through a probe, and leaves model and random streams as they were.

    probe: fixed views of images (`pairs`); or any batch the model takes, such as a dict of ids, where no views can be made and no
    agreement can be measured. start: of the first look (None: this is it). features, blocks: see `reading` and `trace`.
    teacher: whose weights are compared. groups: scanner or site of each image. loss, prototypes: of a prototype objective, to see
    a loss stuck at ln K. spacing: mm per voxel, for distances.
    Raises: InputError for a model in which nothing is found.
    """
    network = plain(model)
    with undisturbed(network):
        few = placed(first_images(next(_parts(probe))[0], FEW), network)
        device = next((p.device.type for p in network.parameters()), "cpu")
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            read, words = reader(network, few, features=features, blocks=blocks)
            shown = _shown(lambda x: read(placed(x, network)), probe)
            pitch = (
                [s * mm for s, mm in zip(probe.stride, spacing, strict=True)] if spacing and isinstance(probe, Probe) else None
            )
            below = depth.along(_inner(network), few, shown.grid, blocks, seed, pitch)
    levels = _levels(shown, seed)
    panel = {**_of_tokens(shown, seed), **_published(shown), **below.panel, "loss": _loss(loss)}
    sampled = weights.sample(network)
    panel["weights"] = weights.change(sampled, None if start is None else start.weights)
    panel["teacher"] = absent("no teacher was given") if teacher is None else weights.apart(network, plain(teacher))
    panel |= _prototypes(shown, loss, prototypes, seed) if prototypes else {}
    panel |= shortcuts.of(shown.pooled, probe.views[0] if isinstance(probe, Probe) else None, groups, seed)
    held = shown.tokens[:FEW].flatten(0, 1)[: max(1, KEPT // shown.tokens.shape[2])]
    panel["change"] = _change(shown.pooled[0], held, start)
    panel = _beside(panel, start)
    found = Look(step, levels, panel, below.layers, (words, *below.words))
    return found, start or Start(shown.pooled[0], held.clone(), sampled, panel, below.layers)


def measure(model: nn.Module, probe: Probe, precision: str = "fp32") -> dict[str, dict[str, Any]]:
    """The levels of a look alone: {"pooled": ..., "dense": ...}, and "output" where there is one; each `Agreement.numbers()`."""
    network = plain(model)
    with undisturbed(network):
        device = next((p.device.type for p in network.parameters()), "cpu")
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            read, _ = reader(network, placed(probe.part(0, 0, FEW), network))
            return _levels(_shown(lambda x: read(placed(x, network)), probe), probe.seed)


def reason(model: nn.Module, probe: Probe | Any, looks: Sequence[Mapping[str, Any]]) -> str:
    """Which layers and heads made tokens alike, in a sentence; empty where they are not more alike than at the first look, or
    where it cannot be told. looks: `plain`, the first first."""
    then, now = ((seen.get("panel", {}).get("similarity") or {}).get("value") for seen in (looks[0], looks[-1]))
    if then is None or now is None or now < then + ALIKE:
        return ""
    batch = probe.part(0, 0, EXPLAINED) if isinstance(probe, Probe) else first_images(probe, EXPLAINED)
    try:
        said = explain(_inner(plain(model)), batch).sentence
        return "" if "cannot be explained" in said else said
    except (InputError, RuntimeError, NotImplementedError):  # some kernels have no forward derivative
        return ""


def _inner(network: nn.Module) -> nn.Module:
    """What is traced: the backbone of a network of ours, else all."""
    inner = getattr(network, "backbone", None)
    return inner if isinstance(inner, nn.Module) and hasattr(inner, "segments") else network


def _parts(probe: Probe | Any) -> Iterator[tuple[Any, ...]]:
    """16 images at a time as every view shows them; what is no probe is its own only view."""
    if isinstance(probe, Probe):
        for start in range(0, len(probe), BATCH):
            yield tuple(probe.part(view, start, start + BATCH) for view in range(len(probe.views)))
        return
    images = size_of(probe)
    for start in range(0, images, BATCH):
        yield (each_tensor(probe, lambda x, s=start: x[s : s + BATCH] if x.ndim and x.shape[0] == images else x),)


def _shown(read: Callable[[Any], Reading], probe: Probe | Any) -> Shown:
    if not isinstance(probe, Probe):
        here = read_all(read, (part for (part,) in _parts(probe)))
        return Shown((here.pooled, None), (here.output, None), None, here.tokens, here.grid)
    there = back = slice(None)
    tokens: list[list[Tensor]] = [[], [], []]
    rest: dict[str, list[list[Tensor]]] = {"pooled": [[], []], "output": [[], []]}
    left = HELD
    for views in _parts(probe):
        a, b, c = (read_all(read, [x]) for x in views)
        if not tokens[0] and len(a.grid) == len(probe.shift):
            there, back = shared(a.grid, probe, len(probe))
        tokens[0].append(a.tokens[:, there])
        tokens[1].append(b.tokens[:, back])
        most = min(len(a.tokens), max(left // a.tokens[0].numel(), 0 if tokens[2] else 2))
        tokens[2].append(a.tokens[:most])
        left -= a.tokens[:most].numel()
        for name, kept in rest.items():
            for side, one in zip(kept, (a, c), strict=True):
                side += [] if getattr(one, name) is None else [getattr(one, name)]
    joined = {name: tuple(torch.cat(side) if side else None for side in kept) for name, kept in rest.items()}
    return Shown(joined["pooled"], joined["output"], (torch.cat(tokens[0]), torch.cat(tokens[1])), torch.cat(tokens[2]), a.grid)


def _levels(shown: Shown, seed: int) -> dict[str, dict[str, Any]]:
    found = {}
    if shown.pooled[1] is None or len(shown.pooled[0]) < FEWEST:
        return found
    found["pooled"] = agreement(*shown.pooled, seed=seed).numbers()
    if math.prod(shown.grid) > 1:
        found["dense"] = dense_agreement(*shown.dense, seed).numbers()
    if shown.output[0] is not None:
        found["output"] = agreement(*shown.output, seed=seed).numbers()
    return found


def _of_tokens(shown: Shown, seed: int) -> dict[str, Number]:
    parts = attempt(lambda: token_variance(shown.tokens))
    shares = dict.fromkeys(("image", "position", "content"), parts) if isinstance(parts, Number) else vars(parts)
    return {
        **{f"variance.{name}": share for name, share in shares.items()},
        "locality": attempt(lambda: locality(shown.tokens, grid_places(shown.grid), seed)),
        "high_norm": attempt(lambda: high_norm(shown.tokens, seed)),
    }


def _published(shown: Shown) -> dict[str, Number]:
    here, far = shown.pooled
    views = here[:, None] if far is None else torch.stack([here, far], 1)
    found = attempt(lambda: published(views))
    return {} if isinstance(found, Number) else found


def _prototypes(shown: Shown, loss: float | None, prototypes: int, seed: int) -> dict[str, Number]:
    """Prototypes are counted as used where an image's output is largest: that needs no temperature."""
    gap = absent("no finite loss was told") if loss is None or not math.isfinite(loss) else uniform_gap(loss, prototypes)
    if shown.output[0] is None or shown.output[0].shape[1] != prototypes:
        return {"loss.gap": gap, "prototypes.use": absent(f"the model gives no {prototypes} numbers per image")}
    rows = torch.cat([side for side in shown.output if side is not None])
    chosen = torch.nn.functional.one_hot(rows.nan_to_num().argmax(1), prototypes).float()
    return {"loss.gap": gap, "prototypes.use": attempt(lambda: prototype_use(chosen, seed))}


def _loss(loss: float | None) -> Number:
    if loss is None:
        return absent("no loss was told")
    return Number(loss, math.nan, "not sought") if math.isfinite(loss) else absent("the loss is not finite")


def _change(pooled: Tensor, tokens: Tensor, start: Start | None) -> Number:
    """How far features are from those at the start: 1 - reliability, the larger of pooled and token features."""
    if start is None:
        return Number(0.0, 0.0, FIRST)
    pairs = [(pooled, start.pooled), (tokens, start.tokens)]
    found = [1 - reliability(a, b) for a, b in pairs if a.shape == b.shape and len(a) >= FEWEST]
    if not found or not np.isfinite(found).any():
        return absent("features of now and of the start cannot be compared", FIRST)
    return Number(float(np.nanmax(found)), 0.0, FIRST)


OWN = ("heads.effective", "similarity", "entropy.low", "entropy.high", "distance", "shortcut.intensity")


def _beside(panel: dict[str, Number], start: Start | None) -> dict[str, Number]:
    """Numbers whose null is the network's own start."""
    then = panel if start is None else start.panel
    for name in OWN:
        if name in panel and name in then:
            now = panel[name]
            panel[name] = Number(now.value, then[name].value, FIRST, now.why, now.low, now.high)
    return panel
