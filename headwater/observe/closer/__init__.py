"""Everything that there is to look at in a finished model, as arrays for an npz and numbers for JSON; for a page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe import components
from headwater.observe.closer import dictionary, eigenimages
from headwater.observe.closer.layers import layers
from headwater.observe.closer.neighbours import neighbours, shared
from headwater.observe.order import order_of
from headwater.observe.probe import placed, plain, undisturbed
from headwater.observe.reading import Reading, read_all, reader

BATCH = 16  # images at once
GRIDS = 2**24  # numbers of tokens held at most
PIXELS = 2**24  # numbers of pixels behind the eigen-images at most
THUMB, MANY = 64, 512  # voxels of a small picture's longer side, and how many there are at most
ORDERED = 8  # images whose patches change places
Features = Callable[[nn.Module, Any], Any] | None


@dataclass(frozen=True, eq=False)
class Close:
    """arrays: for an npz. numbers: for JSON (nan is None). words (within numbers): what could not be had, one sentence each."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=lambda: {"words": []})

    def attempt(self, name: str, part: Callable[[], None]) -> None:
        """Runs a part; what it cannot do is said, and the others go on."""
        try:
            part()
        except (InputError, ValueError, RuntimeError, ArithmeticError) as error:
            self.numbers["words"].append(f"{name}: {str(error).splitlines()[0]}")


def closer(
    model: nn.Module,
    images: Float[Tensor, "n C *S"],
    *,
    untrained: nn.Module | None = None,
    labels: Integer[Tensor, "n"] | None = None,
    groups: Integer[Tensor, "n"] | None = None,
    owners: Integer[Tensor, "n"] | None = None,
    features: Features = None,
    blocks: Sequence[str] | None = None,
    query: str = "centre",
    words: int = 8,
    shown: int = 4,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Head maps, redundancy, ablation, neighbours, dictionary, eigen-images, colours of tokens and order, of images of one size.

    Args: untrained: the same network before training: the null of heads, words and ablation; labels, groups, owners: diagnosis,
          scanner and patient of each image, if known; features, blocks: as in `look`; query: whose attention is drawn, "centre"
          or "class"; words: of the dictionary; shown: images drawn. In 3D, pictures are the middle plane of the last axis.
    Returns: arrays, float32 unless said: "image" (s, H, W), "thumbs" (n, H', W'), small; by layer i "heads.i" (s, H, h, w), on
          one scale, and "redundancy.i" (H, H), also "redundancy.untrained.i"; "neighbours" (n, k) int, -1 none, with
          "neighbours.cosine"; "words" (s, h, w) int8, -1 none, "words.share" (n, K); "eigen" (k, H, W), "eigen.mean", and
          curves "eigen.error", ".null", ".unseen", ".unseen_null"; "tokens" and "tokens.untrained" (s, h, w, 3) in [0, 1].
          numbers: "heads": list of {layer, array, effective, similarity, entropy [H], ablation [H]} and "scale" (low, high);
          "neighbours", "dictionary", "eigen", "tokens", "order"; each number is {value, null, how, why, low, high}. "words":
          what could not be had, one sentence each. Whatever fails is left out and said; this never raises.
    """
    found = Close()
    found.arrays["image"] = _plane(images[:shown].float().mean(1).numpy(), images.ndim - 2)
    step = -(-max(found.arrays["image"].shape[1:]) // THUMB)
    thumbs = _plane(images[:MANY].float().mean(1).numpy(), images.ndim - 2)
    found.arrays["thumbs"] = thumbs[(slice(None), *[slice(None, None, step)] * (thumbs.ndim - 1))]
    sides = [("", model)] + ([(".untrained", untrained)] if untrained is not None else [])
    read = {side: _read(found, network, images, features, blocks) for side, network in sides}
    told = {"untrained": untrained, "features": features, "blocks": blocks, "query": query, "shown": shown, "seed": seed}
    found.attempt("heads", lambda: _heads(found, model, images, told))
    if read[""] is not None:
        found.attempt("neighbours", lambda: _near(found, read[""].pooled, labels, groups, owners, seed))
        found.attempt("dictionary", lambda: _words(found, read, words, shown, seed))
        found.attempt("tokens", lambda: _colours(found, read, shown))
    found.attempt("eigen-images", lambda: _eigen(found, images, owners))
    found.attempt("order", lambda: _order(found, model, images, blocks, seed))
    return found.arrays, _plain(found.numbers)


def _read(found: Close, model: nn.Module, images: Tensor, features: Features, blocks: Sequence[str] | None) -> Reading | None:
    """Pooled features of all images and tokens of as many as fit, or None and words."""
    whole: list[Reading] = []

    def part() -> None:
        network = plain(model)
        with undisturbed(network):
            read, _ = reader(network, placed(images[:2], network), features=features, blocks=blocks)
            kept, left, grid = [], GRIDS, ()
            for batch in images.split(BATCH):
                got = read_all(read, [placed(batch, network)])
                most = max(0, left // got.tokens[0].numel())
                kept.append((got.tokens[:most], got.pooled))
                left, grid = left - got.tokens[:most].numel(), got.grid
        tokens, pooled = (torch.cat(parts) for parts in zip(*kept, strict=True))
        whole.append(Reading(tokens, grid, pooled, None))

    found.attempt("features", part)
    return whole[0] if whole else None


def _heads(found: Close, model: nn.Module, images: Tensor, told: dict[str, Any]) -> None:
    arrays, numbers = layers(model, images, **told)
    axes = images.ndim - 2
    found.arrays.update({name: _plane(x, axes) if name.startswith("heads.") else x for name, x in arrays.items()})
    found.numbers["words"] += numbers.pop("words")
    found.numbers.update(numbers)


def _near(found: Close, pooled: Tensor, labels: Tensor | None, groups: Tensor | None, owners: Tensor | None, seed: int) -> None:
    near = neighbours(pooled, owners=owners)
    found.arrays.update({"neighbours": near.index.numpy(), "neighbours.cosine": near.cosine.float().numpy()})
    given = {"labels": labels, "groups": groups}
    found.numbers["neighbours"] = {n: shared(near, x, owners, seed).plain() for n, x in given.items() if x is not None}
    found.numbers["words"] += [f"neighbours: {near.why}"] if near.why else []


def _words(found: Close, read: dict[str, Reading | None], count: int, shown: int, seed: int) -> None:
    before = read.get(".untrained")
    start = None if before is None else dictionary.fit(before.tokens, count, seed=seed)
    made = dictionary.fit(read[""].tokens, count, untrained=start, seed=seed)
    grid = read[""].grid
    told = dictionary.words(made, read[""].tokens, grid, seed)
    numbers = {"explained": made.explained, "together": told.together, "image": told.image}
    found.numbers["dictionary"] = {name: number.plain() for name, number in numbers.items()}
    laid = told.labels[:shown].unflatten(1, grid).to(torch.int8).numpy()
    found.arrays.update({"words": _plane(laid, len(grid)), "words.share": told.share.float().numpy()})


def _colours(found: Close, read: dict[str, Reading | None], shown: int) -> None:
    """Tokens by their first three principal components; an untrained network's in the order and signs of the trained one's."""
    fitted, spots = {}, {}
    for side, one in read.items():
        if one is not None:
            rows = one.tokens.flatten(0, 1)
            fitted[side] = components.fit(rows)
            spots[side] = components.coordinates(fitted[side], rows)
            if side and len(spots[side]) == len(spots[""]):
                rows = torch.cat([spots[side], spots[""]], 1)
                both = torch.corrcoef(rows[rows.isfinite().all(1)].T)[:3, 3:]
                fitted[side] = components.aligned(fitted[side], fitted[""], both)
            painted = components.rgb(fitted[side], one.tokens[:shown].unflatten(1, one.grid)).movedim(-1, 1).numpy()
            found.arrays[f"tokens{side}"] = np.moveaxis(_plane(painted, len(one.grid)), 1, -1)
    found.numbers["tokens"] = {side.lstrip(".") or "trained": one.explained.tolist() for side, one in fitted.items()}


def _eigen(found: Close, images: Tensor, owners: Tensor | None) -> None:
    few = images[: max(2, PIXELS // images[0].numel())]
    got = eigenimages.eigen_images(few.float(), owners=None if owners is None else owners[: len(few)])
    axes = images.ndim - 2
    curves = {"error": got.error, "null": got.null, "unseen": got.unseen, "unseen_null": got.unseen_null}
    found.arrays.update(
        {"eigen": _plane(got.pictures.mean(1).numpy(), axes), "eigen.mean": _plane(got.mean.mean(0).numpy(), axes)}
    )
    found.arrays.update({f"eigen.{name}": curve.numpy() for name, curve in curves.items()})
    needed, chance = got.needed()
    found.numbers["eigen"] = {"explained": got.explained.tolist(), "images": len(few), "needed": needed, "needed_null": chance}
    found.numbers["words"] += [f"eigen-images: {got.why}"] if got.why else []


def _order(found: Close, model: nn.Module, images: Tensor, blocks: Sequence[str] | None, seed: int) -> None:
    got = order_of(model, images[:ORDERED], blocks=blocks, draws=2, seed=seed)
    lists = {"pooled": got.pooled["content"], "tokens": got.tokens["content"], "floor": got.floor}
    found.numbers["order"] = {name: values.tolist() for name, values in lists.items()}


def _plane(x: np.ndarray, axes: int) -> np.ndarray:
    """The middle plane of the last of three axes; fewer axes as they are."""
    return x[..., x.shape[-1] // 2] if axes == 3 else x


def _plain(value: Any) -> Any:
    """As JSON holds it: None for what is not finite."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
