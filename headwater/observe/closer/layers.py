"""Every attention layer of a model: where its heads look, how alike they are, and what is lost without each of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.ablate import Ablation, ablations
from headwater.observe.closer.maps import HeadMaps, head_maps, scale
from headwater.observe.heads import redundancy
from headwater.observe.number import absent
from headwater.observe.reading import PREFIX, laid
from headwater.observe.recording import Attention
from headwater.observe.trace import trace
from headwater.streams import torch_stream

TRACED = 48  # images whose heads are compared and switched off, at most
RUNS = 1200  # images times heads that are run to switch heads off, about: minutes for a ViT-B on two cores
FEWEST = 6  # images that heads are switched off on, at least
MAPS = 2**26  # numbers of attention held at most: a quarter of a GiB
Found = tuple[dict[str, np.ndarray], dict[str, Any]]


def layers(
    model: nn.Module,
    images: Float[Tensor, "n C *S"],
    *,
    untrained: nn.Module | None = None,
    features: Callable[[nn.Module, Any], Any] | None = None,
    blocks: Sequence[str] | None = None,
    query: str | int = "centre",
    shown: int = 4,
    seed: int = 0,
) -> Found:
    """Arrays "heads.i" (s, H, *G), "redundancy.i" and "redundancy.untrained.i" (H, H) by layer i, and numbers: "heads", a list of
    {layer, heads, array, effective, similarity, entropy [H], ablation [H]}; "scale"; "query"; "ablated", on how many images heads
    were switched off; "words". See `closer`.

    Raises: InputError for a model without blocks.
    """
    seen, said = _traced(model, images, blocks)
    before, cut, null = (), None, None
    heads = sum(a.heads.shape[1] for a in seen if a.heads is not None)
    few = images[: max(FEWEST, min(TRACED, RUNS // max(1, heads)))]
    if untrained is not None:
        before, null = _traced(untrained, images, blocks)[0], _ablated(untrained, few, features, None)[0]
    if seen:
        cut, more = _ablated(model, few, features, null)
        said += more
    before = before if len(before) == len(seen) else (None,) * len(seen)
    grid, arrays, rows, drawn = _grid(seen, images), {}, [], []
    for i, (layer, start) in enumerate(zip(seen, before, strict=True)):
        row = _alike(arrays, i, layer, start, seed)
        effects = None if cut is None else cut.effects.get(row["layer"])
        row["ablation"] = [number.plain() for number in effects or ()]
        rows.append(row)
        some = _first(layer, shown, images)
        maps = head_maps(some, grid, query, over=layer, untrained=start, ablation=cut) if grid and some else None
        if isinstance(maps, HeadMaps):
            drawn.append(maps)
            arrays[f"heads.{i}"] = maps.maps.numpy()
            row |= {"array": f"heads.{i}", "entropy": [number.plain() for number in maps.entropy]}
        elif maps:
            said.append(maps)
    lost = len(seen) - len(drawn)
    if lost:
        said.append(
            f"{lost} of {len(seen)} attention layers are not drawn: their tokens do not lie on one grid of the whole image"
        )
    return arrays, {
        "heads": rows,
        "scale": list(scale(drawn)),
        "query": query,
        "ablated": len(few),
        "words": list(dict.fromkeys(said)),
    }


def _traced(network: nn.Module, images: Tensor, blocks: Sequence[str] | None) -> tuple[tuple[Attention, ...], list[str]]:
    """Attention of as many images as fit, and what is missing."""
    first = trace(network, images[:1], blocks=blocks, attend=1, reduce=_one)
    size = sum(a.weights.numel() for a in first.attention if a.weights is not None)
    count = int(min(len(images), TRACED, max(4, MAPS // max(size, 1))))
    found = trace(network, images[:count], blocks=blocks, attend=count, reduce=_one)
    return found.attention, list(found.words[1:])


def _one(x: Tensor) -> Tensor:
    """Only attention is wanted; of the tokens themselves one is kept."""
    return x[:, :1]


def _ablated(network: nn.Module, images: Tensor, features: Any, null: Ablation | None) -> tuple[Ablation | None, list[str]]:
    try:
        found = ablations(network, images, features=features, untrained=null)
    except (InputError, RuntimeError) as error:
        return None, [f"no head was switched off: {str(error).splitlines()[0]}"]
    return found, list(found.words)


def _alike(arrays: dict[str, np.ndarray], i: int, layer: Attention, start: Attention | None, seed: int) -> dict[str, Any]:
    """Redundancy of the heads of a layer, from one random token of each image."""
    name = layer.name.rsplit(":", 1)[-1]
    if layer.heads is None:
        why = absent("its heads were not seen").plain()
        return {"layer": name, "heads": None, "effective": why, "similarity": why}
    base = (
        None if start is None or start.heads is None or start.heads.shape[1] != layer.heads.shape[1] else _one_each(start, seed)
    )
    got = redundancy(_one_each(layer, seed), base)
    arrays[f"redundancy.{i}"] = got.matrix.float().numpy()
    if base is not None:
        arrays[f"redundancy.untrained.{i}"] = redundancy(base).matrix.float().numpy()
    count = layer.heads.shape[1]
    return {"layer": name, "heads": count, "effective": got.effective.plain(), "similarity": got.similarity.plain()}


def _one_each(layer: Attention, seed: int) -> Float[Tensor, "H R E"]:
    """One random token of every row (image or window) by head: tokens of one image are not independent."""
    rows, _, count, _ = layer.heads.shape
    chosen = torch.randint(count, (rows,), generator=torch_stream(seed, "observe", "tokens"))
    return layer.heads[torch.arange(rows), :, chosen].transpose(0, 1)


def _first(layer: Attention, shown: int, images: Tensor) -> Attention | None:
    """The attention of the first images; None where rows are windows."""
    if layer.weights is None or len(layer.weights) > min(len(images), TRACED):
        return None
    return Attention(layer.name, layer.weights[:shown], None)


def _grid(seen: Sequence[Attention], images: Tensor) -> tuple[int, ...]:
    """Grid of the tokens that attend to each other, by the size of the images; () where there is none."""
    count = next((a.weights.shape[2] for a in seen if a.weights is not None), 0)
    size = tuple(images.shape[2:])
    grid = laid(count, size)[1] if count else ()
    return grid if len(grid) == len(size) and 0 <= count - math.prod(grid) <= PREFIX else ()
