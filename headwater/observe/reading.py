"""What any model says of images: tokens on their grid, one vector per image, and what its last head gives."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.observe.finding import find, tokens_of
from headwater.observe.probe import first_images, run, size_of
from headwater.observe.recording import Recorder

PREFIX = 17  # class token and registers before the tokens of a grid, at most


@dataclass(frozen=True, eq=False)
class Reading:
    """tokens (B, N, D) on `grid`, class token and registers left out; pooled (B, E); output (B, K): what a projection head or
    classifier makes of them, None where there is none."""

    tokens: Float[Tensor, "B N D"]
    grid: tuple[int, ...]
    pooled: Float[Tensor, "B E"]
    output: Float[Tensor, "B K"] | None


Read = Callable[[Any], Reading]


def reader(
    network: nn.Module,
    few: Any,
    *,
    features: Callable[[nn.Module, Any], Any] | None = None,
    blocks: Sequence[str] | None = None,
) -> tuple[Read, str]:
    """A function from a batch to what the network says of it, and in words where that is read.

    features: what the user says should be read instead: features(network, x) -> (B, E), (B, N, D), (B, C, *G), or something with
    tokens, grid, pooled and output, as attributes or keys. Else: whoever gives tokens, grid and pooled (our backbones, and a
    network around one) is taken at its word; else the last block, or the output where it has as many tokens as that.
    Call within `probe.undisturbed`. Raises: InputError where no block can be found.
    """
    size = tuple(few.shape[2:]) if isinstance(few, Tensor) and few.ndim > 2 else ()
    if features is not None:
        return (lambda x: _told(features(network, x), size)), "features as told"
    if isinstance(few, Tensor):
        inner = getattr(network, "backbone", None)
        if isinstance(inner, nn.Module) and hasattr(network, "heads") and _speaks(inner(first_images(few, 1))):
            return (lambda x: _own(network, x)), f"the backbone of {type(network).__name__}, and its projection head"
        if _speaks(run(network, first_images(few, 1))):
            return (lambda x: _told(network(x), size)), f"{type(network).__name__}'s own tokens"
    with Recorder(network).attached() as recorder:
        run(network, few)
    found = find(network, recorder.calls, [a.name for a in recorder.attention], blocks)
    shapes = {call.name: call.left or () for call in recorder.calls}
    spread = [name for name in found.names if len(shapes[name]) > 2 and min(shapes[name][1:]) > 1]  # tokens, not logits
    last = (spread or found.names)[-1]
    return (lambda x: _hooked(network, x, last, size)), f"tokens after {last} ({found.words})"


def _speaks(out: Any) -> bool:
    return all(hasattr(out, name) for name in ("tokens", "grid", "pooled"))


def _own(network: nn.Module, x: Tensor) -> Reading:
    seen = network.backbone(x)
    output = network.embed(seen.pooled) if hasattr(network, "embed") else None
    return Reading(seen.tokens, tuple(seen.grid), seen.pooled, output)


def _told(given: Any, size: tuple[int, ...]) -> Reading:
    if isinstance(given, Tensor):
        given = {"tokens": given[:, None]} if given.ndim == 2 else {"tokens": given}
    get = given.get if isinstance(given, Mapping) else lambda name: getattr(given, name, None)
    tokens, grid, pooled, output = (get(name) for name in ("tokens", "grid", "pooled", "output"))
    tokens = pooled[:, None] if tokens is None else tokens
    if tokens.ndim > 3:  # a map (B, C, *G)
        grid, tokens = tuple(tokens.shape[2:]), tokens.flatten(2).mT
    skip, grid = (0, tuple(grid)) if grid is not None else laid(tokens.shape[1], size)
    tokens = tokens[:, skip:]
    return Reading(tokens, grid, tokens.mean(1) if pooled is None else pooled, output)


def _hooked(network: nn.Module, x: Any, last: str, size: tuple[int, ...]) -> Reading:
    """Tokens after the last block, or the output itself if it is those tokens after a last norm."""
    seen: list[Any] = []
    handle = network.get_submodule(last).register_forward_hook(lambda module, args, out: seen.append(out))
    try:
        out = run(network, x)
    finally:
        handle.remove()
    given = list(_tensors(out))
    images, block = size_of(x), network.get_submodule(last)
    tokens, grid = tokens_of(next(iter(_tensors(seen[-1]))), block, images)
    normed = next((o for o in given if o.shape == tokens.shape and o.ndim == 3), None)
    tokens = tokens if normed is None else normed
    skip = 0
    if len(grid) == 1:
        skip, grid = laid(tokens.shape[1], size)
    whole, tokens = tokens, tokens[:, skip:]
    output = next((o for o in given if o.ndim == 2 and len(o) == images), None)
    if skip and (output is None or output.shape[1] == tokens.shape[2]):
        output = whole[:, 0]  # the class token itself, rather than what an untrained pooler makes of it
    if output is not None and output.shape == (images, tokens.shape[2]) and tokens.shape[1] == 1:
        output = None  # the features themselves
    return Reading(tokens, grid, tokens.mean(1), output)


def _tensors(value: Any) -> Any:
    """All floating tensors in an output, depth first."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module):
        parts = list(vars(value).values())
    else:
        return
    for part in parts:
        yield from _tensors(part)


def laid(count: int, size: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """How many of `count` tokens stand before those of the grid (class token, registers), and the grid, for images of this size.

    The grid is that of square patches that divide the image, with as few tokens before it as possible, 5 at most; else any
    patches that divide it, the squarest, with one token before it at most; else square ones with 16 at most; else a row.
    """
    if not size or count < 2:
        return 0, (count,)
    square = {tuple(n // p for n in size) for p in range(1, min(size) + 1) if all(n % p == 0 for n in size)}
    other = set(product(*([n // p for p in range(1, n + 1) if n % p == 0] for n in size)))
    for grids, skips in ((square, range(6)), (other, range(2)), (square, range(6, PREFIX))):
        for skip in skips:
            fits = [grid for grid in grids if math.prod(grid) == count - skip > 1]
            if fits:
                return skip, min(fits, key=lambda grid: _skew(grid, size))
    return 0, (count,)


def _skew(grid: Sequence[int], size: Sequence[int]) -> float:
    patch = [n / g for n, g in zip(size, grid, strict=True)]
    return max(patch) / min(patch)


def strides(reading: Reading, size: Sequence[int]) -> tuple[int, ...]:
    """Voxels per token and axis; 0 where tokens do not stand on the image's axes in whole steps."""
    if len(reading.grid) != len(size):
        return (0,) * len(size)
    steps = tuple(math.ceil(n / g) for n, g in zip(size, reading.grid, strict=True))
    exact = all(math.ceil(n / s) == g for n, g, s in zip(size, reading.grid, steps, strict=True))
    return steps if exact else (0,) * len(size)


@torch.no_grad()
def read_all(read: Read, parts: Iterable[Any]) -> Reading:
    """Readings of a batch in parts, joined, float32 on the CPU."""
    found = [read(part) for part in parts]
    tokens, pooled = (torch.cat([getattr(f, name).detach().float().cpu() for f in found]) for name in ("tokens", "pooled"))
    output = None if found[0].output is None else torch.cat([f.output.detach().float().cpu() for f in found])
    return Reading(tokens, found[0].grid, pooled, output)
