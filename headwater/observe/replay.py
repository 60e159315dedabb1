"""The blocks of a model as functions of its tokens alone, for derivatives along depth."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.finding import Blocks, find, tokens_of
from headwater.observe.probe import first_tensor, placed, plain, run, size_of, undisturbed
from headwater.observe.recording import Recorder
from headwater.observe.trace import segmented

CACHES = ("past_key_values", "past_key_value", "layer_past", "use_cache", "cache_params")
Step = Callable[[Tensor], Tensor]


def steps(model: nn.Module, batch: Any, *, blocks: Sequence[str] | None = None) -> tuple[tuple[Step, ...], Tensor]:
    """The longest stretch as functions (B, N, D) -> (B, N, D), one per block, and the tokens that enter it, for derivatives.

    They run the model's own blocks with what else these were given for this batch (masks, places; no caches), so the model must
    be in eval mode and stay as it is while they are used. Raises: InputError in train mode or where blocks change token shapes.
    """
    network = plain(model)
    if any(module.training for module in network.modules()):
        raise InputError("derivatives of blocks need a model at rest: call model.eval() first")
    with undisturbed(network):
        batch = placed(batch, network)
        if blocks is None and isinstance(batch, Tensor) and segmented(network, batch[:1]):
            segment = max(network.segments(batch), key=lambda one: len(one.velocities))
            moves = enumerate(segment.velocities)
            return tuple(partial(lambda t, v, x: x + v(t, x), t, v) for t, v in moves), segment.start.detach()
        with Recorder(network).attached() as recorder:
            run(network, batch)
        found = find(network, recorder.calls, [a.name for a in recorder.attention], blocks)
        return _replayed(network, batch, found)


def _replayed(network: nn.Module, batch: Any, found: Blocks) -> tuple[tuple[Step, ...], Tensor]:
    """Blocks called again with what they were given, tokens replaced."""
    entered: list[tuple[nn.Module, tuple, dict, Tensor]] = []

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        args = tuple(None if type(one).__name__.endswith("Cache") else one for one in args)  # keys of an earlier pass
        if (x := first_tensor([*args, *kwargs.values()])) is not None:
            entered.append((module, args, {k: v for k, v in kwargs.items() if k not in CACHES}, x))

    hooks = [network.get_submodule(n).register_forward_pre_hook(hook, with_kwargs=True) for n in dict.fromkeys(found.names)]
    try:
        with Recorder(network, attention=False):
            run(network, batch)
    finally:
        for one in hooks:
            one.remove()
    runs: list[list[tuple]] = []
    for one in entered:
        same = bool(runs) and runs[-1][-1][3].shape == one[3].shape
        runs[-1].append(one) if same else runs.append([one])
    longest, images = max(runs, key=len), size_of(batch)

    def step(module: nn.Module, args: tuple, kwargs: dict, x: Tensor, tokens: Tensor) -> Tensor:
        first_in = tokens_of(x, module, images)[0]
        if first_in.shape != tokens.shape or first_in.numel() != x.numel():
            raise InputError(f"a block that got {tuple(first_in.shape)} tokens cannot take {tuple(tokens.shape)}")
        raw = _as_before(tokens, x, module, images)
        args = tuple(raw if a is x else a for a in args)
        out = first_tensor(module(*args, **{k: raw if v is x else v for k, v in kwargs.items()}))
        return tokens_of(out, module, images)[0]

    return tuple(partial(step, *one) for one in longest), tokens_of(longest[0][3], longest[0][0], images)[0].detach().clone()


def _as_before(tokens: Tensor, like: Tensor, module: nn.Module, images: int) -> Tensor:
    """Tokens (B, N, D) in the layout of what the block was given."""
    index = torch.arange(like.numel()).view(like.shape)
    order = tokens_of(index, module, images)[0].flatten()
    return tokens.flatten()[order.argsort().to(tokens.device)].view(like.shape)
