"""A network's tokens along its depth and what its attention does, from one probe batch; the network stays as it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.finding import Blocks, find, tokens_of
from headwater.observe.probe import first_images, first_tensor, kept, placed, plain, run, size_of, undisturbed
from headwater.observe.recording import Attention, Recorder

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Stream:
    """A stretch of depth along which tokens keep their number and width; float32 on the CPU.

    names of its L blocks. start: tokens that enter the first block, None where that block changes their number or width.
    tokens: after every block. grid: how the N tokens lie, (N,) for a row of them; with a reduction that of all tokens.
    """

    names: tuple[str, ...]
    start: Float[Tensor, "B N D"] | None
    tokens: Float[Tensor, "L B N D"]
    grid: tuple[int, ...]

    @property
    def path(self) -> Float[Tensor, "P B N D"]:
        """Start and tokens in a row, L + 1 states, or L where there is no start."""
        return self.tokens if self.start is None else torch.cat([self.start[None], self.tokens])


@dataclass(frozen=True, eq=False)
class Trace:
    """What a model did with a probe batch.

    streams, in order of depth: one for a plain transformer, one per stage for pyramids. attention: of the first images only.
    words: how blocks were found and what is missing or broken, one sentence each.
    """

    streams: tuple[Stream, ...]
    attention: tuple[Attention, ...]
    words: tuple[str, ...]

    @property
    def stream(self) -> Stream:
        """The longest stretch; the first of the longest."""
        return max(self.streams, key=lambda stream: len(stream.names))

    @property
    def tokens(self) -> Float[Tensor, "L B N D"]:
        """Tokens after every block of the longest stretch."""
        return self.stream.tokens

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all blocks."""
        return tuple(name for stream in self.streams for name in stream.names)

    @property
    def layers(self) -> tuple[Float[Tensor, "B n d"], ...]:
        """Tokens after every block, whatever their number and width."""
        return tuple(tokens for stream in self.streams for tokens in stream.tokens)


def trace(
    model: nn.Module,
    batch: Any,
    *,
    blocks: Sequence[str] | None = None,
    attend: int = 4,
    reduce: Reduce | None = None,
    axis: int = 0,
    call: Callable[[nn.Module, Any], Any] = run,
) -> Trace:
    """Tokens after every block, and attention of the first `attend` images (0: none), in eval mode.

    The model's flags, buffers, gradients and the random streams are as before, whatever happens. It runs twice: first on a few
    images to find blocks and read attention, then on all.
    batch: a tensor, a dict (keywords) or a tuple (arguments) with images along `axis` (1 for torch's batch_first=False); moved to
    the model's device and precision.
    blocks: names or patterns ("encoder.layer.*") of the blocks, if not those that `find` takes. Models with `segments`, as our
    backbones have, tell their blocks themselves. reduce: (B, N, D) -> (b, n, d), applied to every layer as it comes, so that only
    what it returns is kept. call: how to run the model, where model(batch) is not it.
    Raises: InputError for a model without blocks and for blocks whose outputs are no tokens of the batch.
    """
    network = plain(model)
    with undisturbed(network):
        batch = placed(batch, network)
        images = size_of(batch, axis)
        few = first_images(batch, max(1, attend), axis)
        if blocks is None and call is run and isinstance(batch, Tensor) and segmented(network, few):
            states, attention, words = _own(network, batch, few if attend else None, reduce)
        else:
            states, attention, words = _hooked(network, batch, few, images, blocks, attend, reduce, call)
    streams = _streams(states)
    return Trace(streams, tuple(attention), (words, *_missing(streams, attention, attend)))


State = tuple[str, str, Tensor | None, Tensor, tuple[int, ...]]  # block, its place, tokens in, tokens out, grid


def segmented(network: nn.Module, few: Tensor) -> bool:
    """Whether the model tells its blocks itself, as our backbones do."""
    try:
        return hasattr(network, "segments") and bool(network.segments(few))
    except NotImplementedError:
        return False


def _own(network: nn.Module, batch: Tensor, few: Tensor | None, reduce: Reduce | None) -> tuple[list[State], list, str]:
    """Along the segments that a backbone tells: start, then one velocity after the other."""
    states: list[State] = []
    for s, segment in enumerate(network.segments(batch)):
        x = segment.start
        for t, velocity in enumerate(segment.velocities):
            before, x = x, x + velocity(t, x)
            entered = _reduced(before, reduce) if t == 0 else None
            states.append((f"segments.{s}.{t}", f"segments.{s}", entered, _reduced(x, reduce), segment.grid))
    attention: list[Attention] = []
    for s, segment in enumerate([] if few is None else network.segments(few)):
        x = segment.start
        for t, velocity in enumerate(segment.velocities):
            with Recorder(network).attached() as recorder:
                x = x + velocity(t, x)
            attention += [Attention(f"segments.{s}.{t}:{a.name}", a.weights, a.heads) for a in recorder.attention]
    return states, attention, f"{len(states)} blocks, as {type(network).__name__}.segments tells them"


def _hooked(
    network: nn.Module,
    batch: Any,
    few: Any,
    images: int,
    told: Sequence[str] | None,
    attend: int,
    reduce: Reduce | None,
    call: Callable[[nn.Module, Any], Any],
) -> tuple[list[State], list[Attention], str]:
    """Blocks found on a few images, then their inputs and outputs on all."""
    with Recorder(network).attached() as recorder:
        call(network, few)
    found = find(network, recorder.calls, [a.name for a in recorder.attention], told)
    states, joins = _read(network, batch, images, found, reduce, call)
    words = found.words
    if not joins and told is None and recorder.attention:  # each block's output is added to the stream outside of it
        states, _ = _read(network, batch, images, found, reduce, call, at_entry=True)
        words += (
            "; what they give is added outside of them, so tokens are read where the next begins, those of the last not at all"
        )
    return states, recorder.attention if attend else [], words


def _read(
    network: nn.Module,
    batch: Any,
    images: int,
    found: Blocks,
    reduce: Reduce | None,
    call: Callable[[nn.Module, Any], Any],
    at_entry: bool = False,
) -> tuple[list[State], bool]:
    """Tokens that leave the blocks (or enter the next), and whether every block gets what the one before it gave."""
    states: list[State] = []
    quota, joins, last = {name: found.names.count(name) for name in found.names}, True, (None, "")

    def hook(name: str, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        nonlocal joins, last
        x, y = first_tensor([*args, *kwargs.values()]), first_tensor(out)
        if not quota[name] or y is None:
            return
        quota[name] -= 1
        if x is not None and last[1] == _place(name) and x.shape == last[0].shape:
            joins &= torch.equal(x.nan_to_num(), last[0].nan_to_num())
        last = y, _place(name)
        if at_entry and x is None:
            return
        tokens, grid = tokens_of(x if at_entry else y, module, images)
        start = None
        first = not states or states[-1][1] != _place(name) or states[-1][3].shape != tokens.shape or reduce is not None
        if first and not at_entry and x is not None and x.shape == y.shape:
            start = _reduced(tokens_of(x, module, images)[0], reduce)
        states.append((name, _place(name), start, _reduced(tokens, reduce), grid))

    hooks = [network.get_submodule(n).register_forward_hook(partial(hook, n), with_kwargs=True) for n in quota]
    try:
        with Recorder(network, attention=False):  # torch's own encoder would skip its blocks on its fast path
            call(network, batch)
    finally:
        for one in hooks:
            one.remove()
    if at_entry:
        pairs = [(a, b) for a, b in zip(states, states[1:], strict=False) if a[1] == b[1] and a[3].shape == b[3].shape]
        states = [(a[0], a[1], a[3], b[3], b[4]) for a, b in pairs]
    return states, joins


def _reduced(tokens: Tensor, reduce: Reduce | None) -> Tensor:
    """A copy on the CPU of the tokens or of what stands for them."""
    if reduce is not None and (tokens := reduce(tokens)).ndim != 3:
        raise InputError(f"reduce gave {tuple(tokens.shape)}: it must give three axes, images, tokens and width")
    return kept(tokens)


def _place(name: str) -> str:
    """A name without its numbers: blocks of one list, or of lists in a list, share it; a teacher's and a student's do not."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _streams(states: list[State]) -> tuple[Stream, ...]:
    """Consecutive blocks of one place with tokens of one shape on one grid."""
    runs: list[list[State]] = []
    for state in states:
        last = runs[-1][-1] if runs else None
        same = last is not None and (last[1], last[3].shape, last[4]) == (state[1], state[3].shape, state[4])
        runs[-1].append(state) if same else runs.append([state])
    return tuple(Stream(tuple(s[0] for s in run), run[0][2], torch.stack([s[3] for s in run]), run[0][4]) for run in runs)


def _missing(streams: tuple[Stream, ...], attention: Sequence[Attention], attend: int) -> list[str]:
    """What the reader must know, in sentences."""
    said = []
    for stream in streams:
        bad = [name for name, x in zip(stream.names, stream.tokens, strict=True) if not bool(x.isfinite().all())]
        if bad:
            said.append(f"tokens after {bad[0]} hold NaN or infinity, and so do those after {len(bad) - 1} later blocks")
            break
    if attend and not attention:
        said.append("no attention was seen: the model has none, or computes it where neither a softmax nor torch's kernel shows")
    dark = [a.name for a in attention if a.weights is None]
    if dark:
        said.append(f"{len(dark)} attention layers show no weights: not all heads are softmax, or their windows differ in size")
    return said
