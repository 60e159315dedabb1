"""How much what a model says depends on the order of its tokens: what stands where, where it stands, and who comes first.

A token has a content and a position, and the sequence has slots. Three exchanges tell three things apart:
content    contents change places, positions stay: "the dog bit the man" becomes "the man bit the dog"
positions  positions are dealt anew, contents stay in their slots; differs from the first only for models that look at slots
both       content and position move together to another slot: only masks, convolutions and recurrence can tell
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.reading import laid
from headwater.observe.trace import trace
from headwater.streams import torch_stream

KINDS = ("content", "positions", "both")
Run = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Order:
    """Dependence on order after each of L layers, by kind of exchange; a kind that the model does not allow is absent.

    pooled[kind] (L): root mean square change of the mean token of an input when its tokens are permuted, over the same between
    different inputs: 0: no dependence, 1: as if it were another input. tokens[kind] (L): the same token by token, each compared
    with itself at its new place, over the distance between different tokens of one input. floor (L): pooled change from rounding
    alone. words: what is missing and why, one sentence each.
    """

    pooled: dict[str, Float[Tensor, "L"]]
    tokens: dict[str, Float[Tensor, "L"]]
    floor: Float[Tensor, "L"]
    words: tuple[str, ...]


def order(
    run: Run, content: Tensor, *, kinds: Sequence[str] = KINDS, fixed: Sequence[int] = (), draws: int = 8, seed: int = 0
) -> Order:
    """Permutes the tokens of each input `draws` times and measures how much every layer changes.

    run(content (B, N, ...), positions (B, N)) -> (L, B, N, D), tokens by slot: `of_parts` or `of_ids` make it. content: ids or
    patches, axis 1 the sequence, without padding. fixed: places whose tokens stay, such as (0, -1) for a first and a last mark.
    Raises: InputError for fewer than two inputs (nothing to compare with) or fewer than two tokens to permute.
    """
    images, count = content.shape[:2]
    free = torch.tensor([place for place in range(count) if place not in {f % count for f in fixed}], dtype=torch.long)
    if images < 2 or len(free) < 2:
        raise InputError(f"order compares 2 inputs of 2 tokens or more, got {images} of {len(free)} that may move")
    places = torch.arange(count, device=content.device).expand(images, -1)
    plain = _ran(run, content, places)
    width = plain.shape[-1]
    across = _spread(plain.mean(2), 1)  # L: between inputs
    within = _spread(plain, 2)
    generator = torch_stream(seed, "observe", "order")
    moves = [_permutation(images, count, free, generator).to(content.device) for _ in range(draws)]
    again = _ran(run, content, places)
    floor = torch.maximum(_rms((again - plain).mean(2)), plain.abs().amax((1, 2, 3)) * torch.finfo(torch.float32).eps) / across
    pooled, tokens = {}, {}
    for kind in kinds:
        mean, single = torch.zeros(len(plain), dtype=torch.float64), torch.zeros(len(plain), dtype=torch.float64)
        for move in moves:
            mixed = torch.stack([x[m] for x, m in zip(content, move, strict=True)])
            moved = _ran(run, content if kind == "positions" else mixed, places if kind == "content" else move)
            back = move if kind != "positions" else places  # slot s now holds content number back[s]
            same = plain.gather(2, back.cpu()[None, :, :, None].expand(len(plain), -1, -1, width))
            mean += _rms(moved.mean(2) - plain.mean(2)).square() / draws
            single += _rms(moved - same).square() / draws
        pooled[kind], tokens[kind] = mean.sqrt() / across, single.sqrt() / within
    words = tuple(f"{kind} cannot be permuted in this model" for kind in KINDS if kind not in kinds)
    flat = [i for i, size in enumerate(across.tolist()) if not size > 0]
    words += (f"layer {flat[0]} gives the same mean token for all inputs: its dependence is nan",) if flat else ()
    return Order(pooled, tokens, floor, words)


def _ran(run: Run, content: Tensor, places: Tensor) -> Float[Tensor, "L B N D"]:
    found = run(content, places).detach().to("cpu", torch.float64)
    if found.ndim != 4 or tuple(found.shape[1:3]) != tuple(content.shape[:2]):
        raise InputError(f"run gave {tuple(found.shape)} for {tuple(content.shape[:2])} tokens: it must give (L, B, N, D)")
    if not bool(found.isfinite().all()):
        raise InputError("the model gives NaN or infinity for these inputs: dependence on order cannot be measured")
    return found


def _permutation(images: int, count: int, free: Integer[Tensor, "F"], generator: torch.Generator) -> Integer[Tensor, "B N"]:
    """One for each input, none of them the identity; only the free places take part."""
    rows = torch.arange(count).repeat(images, 1)
    for row in rows:
        move = free[torch.randperm(len(free), generator=generator)]
        row[free] = move.roll(1) if bool((move == free).all()) else move
    return rows


def _rms(x: Float[Tensor, "L *S D"]) -> Float[Tensor, "L"]:
    return x.square().sum(-1).flatten(1).mean(1).sqrt()


def _spread(x: Tensor, axis: int) -> Float[Tensor, "L"]:
    """Root mean square distance between two different members along the axis; nan where there is none to speak of."""
    n = x.shape[axis]
    size = _rms(x - x.mean(axis, keepdim=True)) * (2 * n / (n - 1)) ** 0.5
    return torch.where(size > 1e-6 * _rms(x), size, torch.nan)


def of_parts(embed: Callable[[Tensor, Tensor], Tensor], encode: Callable[[Tensor], Tensor]) -> Run:
    """A run from embed(content, positions) -> (B, N, D) and encode(tokens) -> (L, B, N, D), or (B, N, D) for one layer."""

    def run(content: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            found = encode(embed(content, positions))
        return found if found.ndim == 4 else found[None]

    return run


def of_ids(model: nn.Module, blocks: Sequence[str] | None = None) -> tuple[Run, tuple[str, ...]]:
    """A run of a model that takes input_ids, and the exchanges it allows: all if it takes position_ids too, else content."""
    from inspect import signature

    from headwater.observe.probe import plain

    free = "position_ids" in signature(plain(model).forward).parameters

    def run(content: Tensor, positions: Tensor) -> Tensor:
        batch = {"input_ids": content} | ({"position_ids": positions} if free else {})
        return trace(model, batch, blocks=blocks, attend=0).tokens

    return run, KINDS if free else ("content",)


def order_of(
    model: nn.Module,
    batch: Tensor,
    *,
    patch: Sequence[int] | int | None = None,
    fixed: Sequence[int] = (),
    blocks: Sequence[str] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> Order:
    """`order` of any model of images (B, C, *S) or of ids (B, N), found out by the batch.

    Images are cut in patches, whose places are then exchanged. patch: how large; default: as large as a token, told by the
    model's own `stride` or by the number of its tokens. fixed: places that stay, (0, -1) for the marks around a sentence.
    Raises: InputError where the patch cannot be told.
    """
    if not batch.is_floating_point():
        run, kinds = of_ids(model, blocks)
        return order(run, batch, kinds=kinds, fixed=fixed, draws=draws, seed=seed)
    size = patch_of(model, batch, blocks) if patch is None else (patch,) * (batch.ndim - 2) if isinstance(patch, int) else patch
    content, grid = patches(batch, size)
    return order(of_patches(model, grid, size, blocks=blocks), content, kinds=("content",), fixed=fixed, draws=draws, seed=seed)


def patch_of(model: nn.Module, images: Float[Tensor, "B C *S"], blocks: Sequence[str] | None = None) -> tuple[int, ...]:
    """Voxels per token and axis: what the model's `stride` says, else by counting the tokens of the longest stretch."""
    told = getattr(model, "stride", None)
    if isinstance(told, Sequence) and len(told) == images.ndim - 2:
        return tuple(int(n) for n in told)
    count = trace(model, images[:1], blocks=blocks, attend=0).tokens.shape[2]
    size = tuple(images.shape[2:])
    grid = laid(count, size)[1]
    if len(grid) != len(size) or any(n % g for n, g in zip(size, grid, strict=True)):
        raise InputError(f"{count} tokens do not tile images of {size}: say patch=, the voxels of a token along each axis")
    return tuple(n // g for n, g in zip(size, grid, strict=True))


def of_patches(model: nn.Module, grid: Sequence[int], patch: Sequence[int], **options: object) -> Run:
    """A run of a model of images, whose content is patches (B, N, C, *patch) on this grid; only content can be permuted.

    Class tokens and registers, whatever stands before the last N tokens of each layer, are left out. options: of `trace`.
    """
    return partial(_patched, model, tuple(grid), tuple(patch), options)


def _patched(model: nn.Module, grid: tuple, patch: tuple, options: dict, content: Tensor, positions: Tensor) -> Tensor:
    found = trace(model, joined(content, grid), attend=0, **options).tokens
    if found.shape[2] < content.shape[1]:
        raise InputError(f"{content.shape[1]} patches became {found.shape[2]} tokens: cut patches as large as a token ({patch})")
    return found[:, :, -content.shape[1] :]


def patches(images: Float[Tensor, "B C *S"], patch: Sequence[int]) -> tuple[Float[Tensor, "B N C *P"], tuple[int, ...]]:
    """Images cut in patches, and their grid. Raises InputError where they do not fit."""
    if any(n % p for n, p in zip(images.shape[2:], patch, strict=True)):
        raise InputError(f"images of {tuple(images.shape[2:])} do not divide into patches of {tuple(patch)}")
    d, grid = len(patch), tuple(n // p for n, p in zip(images.shape[2:], patch, strict=True))
    for axis in range(d):
        images = images.unflatten(2 + 2 * axis, (grid[axis], patch[axis]))
    order = (0, *range(2, 2 + 2 * d, 2), 1, *range(3, 3 + 2 * d, 2))
    return images.permute(order).flatten(1, d), grid


def joined(content: Float[Tensor, "B N C *P"], grid: Sequence[int]) -> Float[Tensor, "B C *S"]:
    """Patches on a grid as images; the inverse of `patches`."""
    d, images = len(grid), content.unflatten(1, tuple(grid))
    images = images.permute(0, d + 1, *(k for a in range(d) for k in (1 + a, d + 2 + a)))
    for axis in range(d):
        images = images.flatten(2 + axis, 3 + axis)
    return images


@dataclass(frozen=True, eq=False)
class Reordered:
    """Two inputs of the same tokens in another order, beside unrelated ones, after each of L layers.

    cosine (L): of the mean tokens of the two. null (L): the same between the first and the other inputs, mean. A model blind to
    order has cosine 1 exactly; one that reads it well brings the cosine towards the null.
    """

    cosine: Float[Tensor, "L"]
    null: Float[Tensor, "L"]


def reordered(run: Run, first: Tensor, second: Tensor, others: Tensor) -> Reordered:
    """Compares one input (N, ...) with another order of it, and with unrelated inputs (M, N, ...) of the same length.

    For "the dog bit the man", "the man bit the dog" and some other sentences of five words.
    Raises: InputError if the two do not hold the same tokens.
    """
    bags = [sorted(map(tuple, x.flatten(1).tolist() if x.ndim > 1 else x[:, None].tolist())) for x in (first, second)]
    if bags[0] != bags[1]:
        raise InputError("the two inputs hold different tokens: give the same tokens in two orders")
    content = torch.cat([first[None], second[None], others])
    found = _ran(run, content, torch.arange(content.shape[1], device=content.device).expand(len(content), -1)).mean(2)
    cosine = torch.nn.functional.cosine_similarity(found[:, :1], found[:, 1:], dim=-1)  # L, 1 + M
    return Reordered(cosine[:, 0], cosine[:, 1:].mean(1))
