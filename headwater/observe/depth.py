"""What a look takes from along the depth of a model: similarity and speed of tokens by layer, and what its attention does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.heads import attention_distance, attention_entropy, grid_places, redundancy
from headwater.observe.number import Number, absent, attempt
from headwater.observe.order import of_patches, order, patches
from headwater.observe.probe import first_images, size_of
from headwater.observe.recording import Attention
from headwater.observe.trace import Trace, trace
from headwater.observe.why import similarity
from headwater.streams import torch_stream

ROWS = 1024  # tokens that heads are compared on
MAPS = 2**27  # numbers of attention maps held at most: half a GiB, reached at 1024 tokens
LAYERS, HEADS = 12, 8  # what is reckoned with before they are known
LOW, HIGH = 0.05, 0.99  # entropy of a head, share of the largest possible: one token, or all alike
START = "none: see the first look"


@dataclass(frozen=True, eq=False)
class Along:
    """panel, layers and words of a look, as far as they come from depth."""

    panel: dict[str, Number]
    layers: dict[str, list[float]]
    words: tuple[str, ...]


def along(
    network: nn.Module,
    few: Any,
    grid: Sequence[int],
    blocks: Sequence[str] | None,
    seed: int,
    pitch: Sequence[float] | None = None,
) -> Along:
    """Traces a few images; where nothing can be traced, numbers are absent and words say why.

    grid: of the last tokens; pitch: mm from one to the next along each axis (None: distance of attention is in tokens).
    """
    names = ("similarity", "heads.effective", "entropy.low", "entropy.high", "distance", "order")
    try:
        found = trace(network, few, blocks=blocks, attend=min(size_of(few), _affordable(grid)))
    except (InputError, RuntimeError) as error:
        why = str(error).split("\n")[0]
        return Along(dict.fromkeys(names, absent(why)), {}, (f"not traced: {why}",))
    panel, layers = dict.fromkeys(names, absent("the model shows no attention")), _motion(found)
    alike = layers["similarity"][-1] if layers["similarity"] else float("nan")
    panel["similarity"] = Number(alike, float("nan"), START)
    shown = [a for a in found.attention if a.weights is not None]
    if shown:
        heads, lists = _attention(found.attention, grid, seed, pitch)
        panel |= heads
        layers |= lists
    if shown and isinstance(few, Tensor):
        panel["order"] = attempt(lambda: _order(network, few, grid, blocks, seed))
    return Along(panel, layers, found.words)


def _affordable(grid: Sequence[int]) -> int:
    """Images whose attention maps fit the memory set aside for them."""
    tokens = int(np.prod(grid))
    return min(8, MAPS // (LAYERS * HEADS * tokens * tokens))


def _motion(found: Trace) -> dict[str, list[float]]:
    """Mean cosine of tokens in every state, relative length of every step, and angle between steps, along each stretch."""
    alike, speed, turn = [], [], []
    for stream in found.streams:
        path = stream.path
        alike += [attempt(lambda state=state: similarity(state)) for state in path]
        steps = path.diff(dim=0)
        speed += (steps.norm(dim=-1) / path[:-1].norm(dim=-1).clamp(min=1e-12)).mean((1, 2)).tolist()
        if len(steps) > 1:
            cosine = torch.nn.functional.cosine_similarity(steps[1:], steps[:-1], dim=-1).clamp(-1, 1)
            turn += cosine.arccos().mean((1, 2)).tolist()
    alike = [float("nan") if isinstance(value, Number) else value for value in alike]
    return {"similarity": alike, "speed": speed, "turn": turn}


def _attention(
    layers: Sequence[Attention], grid: Sequence[int], seed: int, pitch: Sequence[float] | None
) -> tuple[dict[str, Number], dict[str, list[float]]]:
    """Of all layers: how many heads differ, how sharp they are, how far they look."""
    effective, entropies, low, high, far = [], [], [], [], []
    for layer in layers:
        if layer.heads is not None and layer.heads.shape[1] > 1:
            rows = layer.heads.transpose(0, 1).flatten(1, 2)  # H, R Q, E
            chosen = torch.randperm(rows.shape[1], generator=torch_stream(seed, "observe", "rows"))[:ROWS]
            number = attempt(lambda rows=rows[:, chosen]: redundancy(rows).effective)
            effective.append(number.value / rows.shape[0])
        if layer.weights is None:
            continue
        sharp = np.array([number.value for number in attention_entropy(layer.weights)])
        entropies.append(float(np.nanmean(sharp)) if np.isfinite(sharp).any() else float("nan"))
        low.append(float(np.mean(sharp < LOW)))
        high.append(float(np.mean(sharp > HIGH)))
        far.append(_distance(layer, grid, pitch))
    panel = {
        "heads.effective": Number(min(effective), float("nan"), START)
        if effective and np.isfinite(effective).all()
        else absent(
            "one head a layer, or heads that give every token the same" if effective else "heads could not be told apart"
        ),
        "entropy.low": Number(float(np.mean(low)), float("nan"), START) if low else absent("no attention weights were seen"),
        "entropy.high": Number(float(np.mean(high)), float("nan"), START) if low else absent("no attention weights were seen"),
        "distance": Number(float(np.nanmean(far)), float("nan"), START)
        if np.isfinite(far).any()
        else absent("queries and keys do not stand on one grid"),
    }
    lists = {"effective": effective, "entropy": entropies, "entropy_low": low, "entropy_high": high, "distance": far}
    return panel, lists


def _distance(layer: Attention, grid: Sequence[int], pitch: Sequence[float] | None) -> float:
    """Mean over heads of how far attention looks, in mm or tokens; nan where queries and keys are no grid (windows)."""
    count = layer.weights.shape[3]
    if layer.weights.shape[2] != count or not 0 <= count - int(np.prod(grid)) <= 17:
        return float("nan")
    found = attempt(lambda: attention_distance(layer.weights, grid_places(grid, pitch)))
    return float("nan") if isinstance(found, Number) else float(np.mean([number.value for number in found]))


def _order(network: nn.Module, few: Tensor, grid: Sequence[int], blocks: Sequence[str] | None, seed: int) -> Number:
    """How much the last layer's tokens change when patches change places; 0: positions play no part."""
    size = few.shape[2:]
    if len(grid) != len(size) or any(n % g for n, g in zip(size, grid, strict=True)):
        return absent(f"images of {tuple(size)} do not divide into {tuple(grid)} tokens")
    patch = tuple(n // g for n, g in zip(size, grid, strict=True))
    content, _ = patches(first_images(few, 4), patch)
    run = of_patches(network, grid, patch, blocks=blocks)
    found = order(run, content, kinds=("content",), draws=2, seed=seed)
    return Number(float(found.tokens["content"][-1]), float(found.floor[-1]), "rounding alone")
