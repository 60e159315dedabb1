"""Anybody's block as named parts, told from what its norms and linear maps read and give while it runs, not from its class.

A norm that reads what the block was given stands in front of the attention, and what the next norm reads is the stream behind
it; a block whose output is a norm's has its norms after the sums. The map that reads all heads side by side joins them; the map
that gives the same where all tokens are equal makes the values, since rows of attention sum to one. Each guess is checked on
the tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.parts import Head, Layer, Step, block_layer, encoder_layer, layer_of, norm_step, read_through, run
from headwater.observe.probe import first_tensor
from headwater.observe.recording import Recorder

OWN = ("place", "attention", "mix", "norm_attention", "after_attention", "scale_attention")  # of a block of ours
Move = Callable[[Tensor], Tensor]
WHOLE = "its parts cannot be told apart, so the block counts as one"


@dataclass(frozen=True, eq=False)
class Event:
    """A norm or a linear map that ran: what it read and gave, in order."""

    module: nn.Module
    entered: Tensor
    left: Tensor


class _Enough(Exception):
    """The tensor that was waited for is there; the rest of the block need not run."""


def apart(network: nn.Module, move: Move, tokens: Float[Tensor, "B N D"]) -> tuple[Layer, str]:
    """The block `move` (of replay.steps) as a layer of parts, and in words what could not be told apart (empty: nothing).

    Blocks of ours and torch's encoder layers are known; any other is watched: heads, bias, mlp and norm, or attention, mlp and
    norm where heads mix in a way unknown, or the block as one part. Whatever is returned rebuilds the block on these tokens. In
    eval mode and without gradients; two to six runs of the block.
    """
    with torch.no_grad():
        after = move(tokens)
        for tried in (_known, _watched):
            try:
                layer, words = tried(network, move, tokens, after)
                if _close(run(layer, tokens), after):
                    return layer, words
            except InputError:
                continue
    return layer_of({"block": lambda x: move(x) - x}), WHOLE


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of their precision."""
    eps = torch.finfo(b.dtype).eps
    return a.shape == b.shape and bool((a - b).norm() <= (50 if eps < 1e-4 else 4) * eps * b.norm())


def _known(network: nn.Module, move: Move, tokens: Tensor, after: Tensor) -> tuple[Layer, str]:
    """A block of ours or of torch, by its attributes, with the places or mask it was given."""
    for module, args, kwargs in ran(network, move, tokens):
        if all(hasattr(module, name) for name in OWN):
            return block_layer(module, *args[1:], *kwargs.values()), ""
        if isinstance(module, nn.TransformerEncoderLayer):
            return encoder_layer(module, _mask(module, args, kwargs, tokens)), ""
    raise InputError("no block of a known kind")


def ran(network: nn.Module, move: Move, tokens: Float[Tensor, "B N D"]) -> list[tuple[nn.Module, tuple, dict]]:
    """Modules that run, in the order they begin, and what they are given."""
    found: list[tuple[nn.Module, tuple, dict]] = []
    hooks = [m.register_forward_pre_hook(lambda *a: found.append(a), with_kwargs=True) for m in network.modules()]
    with _gone(hooks), Recorder(network, attention=False):  # torch's fused encoder would pass by
        move(tokens)
    return found


@contextmanager
def _gone(hooks: list) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mask(module: nn.TransformerEncoderLayer, args: tuple, kwargs: dict, tokens: Tensor) -> Tensor | None:
    """What is added to the scores, broadcast over (B, H, N, N)."""
    given = dict(zip(("src", "src_mask", "src_key_padding_mask"), args, strict=False)) | kwargs
    mask, padded = given.get("src_mask"), given.get("src_key_padding_mask")

    def added(x: Tensor) -> Tensor:
        return (
            torch.zeros(x.shape, dtype=tokens.dtype, device=x.device).masked_fill(x, -torch.inf) if x.dtype == torch.bool else x
        )

    found = None if mask is None else added(mask)
    if found is not None and found.ndim == 3:
        found = found.unflatten(0, (-1, module.self_attn.num_heads))
    if padded is None:
        return found
    padded = added(padded)[:, None, None]
    return padded if found is None else found + padded


def _watched(network: nn.Module, move: Move, tokens: Tensor, after: Tensor) -> tuple[Layer, str]:
    """By its norms and maps."""
    events = _events(network, move, tokens)
    norms = [e for e in events if "norm" in type(e.module).__name__.lower() and e.entered.shape == tokens.shape]
    maps = [e for e in events if getattr(e.module, "weight", None) is not None and e.module.weight.ndim == 2]
    if len(norms) < 2 or len({id(e.module) for e in norms}) < len(norms):
        raise InputError("fewer than two norms on the stream, or one used twice")
    first = bool(torch.equal(norms[0].entered, tokens))
    if not first and not torch.equal(norms[-1].left, after):
        raise InputError("norms neither before nor after the sums")
    for middle in norms[1:] if first else norms[:-1]:
        behind = middle.entered - tokens
        joined = _joined(network, move, tokens, maps, behind, middle.entered)
        if joined is None and len(norms) > 2:
            continue
        if first and not _residual(move, middle.module, tokens, after, middle.entered):
            continue
        value = None if joined is None else _value(network, move, tokens, maps, joined[0])
        front = norms[0].module if first else None
        attended, paths, words = _attention(move, middle.module, joined, value, front)
        if first:
            return Layer((attended, _mixed(move, middle.module)), paths), words
        last = norms[-1].module
        mixed = _between(move, middle.module, last)
        return Layer((attended, norm_step(middle.module), mixed, norm_step(last)), paths), words
    raise InputError("no norm stands between attention and what follows it")


def _events(network: nn.Module, move: Move, tokens: Tensor) -> list[Event]:
    """What norms and linear maps do, in the order they end."""
    found: list[Event] = []

    def hook(module: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
        x, y = first_tensor([*args, *kwargs.values()]), first_tensor(out)
        if x is not None and y is not None:
            found.append(Event(module, x, y))

    leaves = [m for m in network.modules() if not any(True for _ in m.children())]
    with _gone([m.register_forward_hook(hook, with_kwargs=True) for m in leaves]):
        move(tokens)
    return found


def _matrix(event: Event) -> Tensor | None:
    """W of x W + b: torch.nn.Linear holds it (out, in), GPT-2's Conv1D (in, out)."""
    weight, bias = event.module.weight, getattr(event.module, "bias", None)
    if weight.ndim != 2 or event.entered.shape[-1] not in weight.shape:
        return None
    for matrix in (weight.T, weight):
        if matrix.shape == (event.entered.shape[-1], event.left.shape[-1]):
            told = event.entered @ matrix
            if _close(told if bias is None else told + bias, event.left):
                return matrix.detach()
    return None


Joined = tuple[nn.Module, Tensor, Tensor | None, int, Tensor | None]  # the map of the heads, W_O, its bias, heads, LayerScale


def _joined(network: nn.Module, move: Move, x: Tensor, maps: list[Event], behind: Tensor, middle: Tensor) -> Joined | None:
    """The map that reads all heads side by side, if what it gives is all that is added behind, up to a scale per channel."""
    with Recorder(network).attached() as recorder:
        move(x)
    for seen in [a.heads for a in recorder.attention if a.heads is not None]:
        said = seen.transpose(1, 2).flatten(2)  # R, Q, H E
        for event in maps:
            if event.entered.shape != said.shape or event.left.shape != x.shape:
                continue
            matrix = _matrix(event)
            if matrix is None or not torch.allclose(event.entered.detach().cpu().float(), said, rtol=1e-2, atol=1e-5):
                continue
            scale = (event.left * behind).sum((0, 1)) / event.left.square().sum((0, 1)).clamp_min(1e-30)
            scale = None if _close(middle, x + event.left) else scale
            if _close(middle, x + (event.left if scale is None else event.left * scale)):
                return event.module, matrix, getattr(event.module, "bias", None), seen.shape[1], scale
    return None


def _residual(move: Move, middle: nn.Module, x: Tensor, after: Tensor, stream: Tensor) -> bool:
    """Whether what the norm reads also passes by: with its output held, the block's moves as much as its input does."""
    held: list[Tensor] = []
    hook = middle.register_forward_hook(lambda _, args, out: held.append(out))
    with _gone([hook]):
        move(x)
    other, read = x + 0.1 * x.roll(1, 1), []
    with _gone([middle.register_forward_hook(lambda _, args, out: read.append(args[0]) or held[0])]):
        moved = move(other)
    return _close(moved - after + stream, read[0])


def _value(network: nn.Module, move: Move, x: Tensor, maps: list[Event], output: nn.Module) -> tuple[Tensor, bool] | None:
    """W_V (D, H E) and whether it reads the stream through the norm: the map that gives what heads say where tokens are equal."""
    equal = x.mean(1, keepdim=True).expand_as(x).contiguous()
    events = _events(network, move, equal)
    said = next((e.entered for e in events if e.module is output), None)
    if said is None:
        return None
    size = said.shape[-1]
    for event in (e for e in events if any(e.module is m.module for m in maps)):
        if event.left.shape[:-1] != said.shape[:-1] or event.left.shape[-1] not in (size, 3 * size):
            continue
        matrix = _matrix(event)
        if matrix is None or matrix.shape[0] != x.shape[-1]:
            continue
        at = slice(None) if matrix.shape[1] == size else slice(2 * size, None)
        if torch.allclose(event.left[..., at], said, rtol=1e-3, atol=float(1e-4 * said.abs().max())):
            return matrix[:, at], not _close(event.entered, equal)
    return None


def _attention(move: Move, middle: nn.Module, joined: Joined | None, value: tuple | None, front: nn.Module | None) -> tuple:
    """The step up to the norm in the middle, paths of heads, and what is missing."""
    if joined is None:
        return (
            lambda x: {"attention": _reads(move, middle, x)[0] - x},
            {},
            "its heads cannot be told apart: attention is one part",
        )
    output, matrix, bias, heads, scale = joined
    wide = [(w if scale is None else w * scale) for w in matrix.chunk(heads)]

    def step(x: Tensor) -> dict[str, Tensor]:
        _, said = _reads(move, middle, x, output)
        found = {f"head {h}": y @ w for h, (y, w) in enumerate(zip(said.chunk(heads, -1), wide, strict=True))}
        return found if bias is None else {**found, "bias": (bias if scale is None else bias * scale).expand_as(x)}

    if value is None:
        return step, {}, "its map of values is not seen: heads are not split over eigenvalues"
    read = read_through(front if value[1] else None, value[0])
    return step, {f"head {h}": Head(v, w) for h, (v, w) in enumerate(zip(read.chunk(heads, 1), wide, strict=True))}, ""


def _reads(move: Move, norm: nn.Module, x: Tensor, output: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
    """What the norm reads, and what the map of the heads reads; the block runs no further than that."""
    found: dict[str, Tensor] = {}

    def stop(_: nn.Module, args: tuple) -> None:
        found["stream"] = args[0]
        raise _Enough

    hooks = [norm.register_forward_pre_hook(stop)]
    if output is not None:
        hooks.append(output.register_forward_pre_hook(lambda _, args: found.update(said=args[0])))
    with _gone(hooks):
        try:
            move(x)
        except _Enough:
            pass
    return found["stream"], found.get("said")


def _mixed(move: Move, middle: nn.Module) -> Step:
    """What follows the norm in the middle adds to the stream it is given."""

    def step(x: Tensor) -> dict[str, Tensor]:
        own: list[Tensor] = []
        with _gone([middle.register_forward_pre_hook(lambda _, args: own.append(args[0]) or (x,))]):
            after = move(x)
        return {"mlp": after - own[0]}

    return step


def _between(move: Move, middle: nn.Module, last: nn.Module) -> Step:
    """What is added between the norm in the middle and the last, given what the first of them gave."""

    def step(x: Tensor) -> dict[str, Tensor]:
        with _gone([middle.register_forward_hook(lambda *_: x)]):
            return {"mlp": _reads(move, last, x)[0] - x}

    return step
