"""Attention replaced by identity: what a network is worth when no token may look at another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from headwater.backbones.attention import Attention
from headwater.backbones.swin import WindowAttention
from headwater.errors import InputError

ATTENTION = (Attention, WindowAttention)


def attends(network: nn.Module) -> bool:
    """Whether there is attention in a network."""
    return any(isinstance(part, ATTENTION) for part in network.modules())


@contextmanager
def without_attention(network: nn.Module | None = None, kind: str = "branch") -> Iterator[None]:
    """Within it, attention is the identity: in one network, or in every network of the process where none is given.

    branch   attention adds nothing, so the residual stream passes: the knock-out, as Primus (2503.01835) takes blocks out
    own      every token attends to itself alone: its value, mapped back, is added. Milder on weights that were trained with
             attention: the maps of values and outputs stay
    Feed-forward parts, norms, merging and convolutions stay as they are in both. Works in training too: a network that learns
    within it never mixes tokens by attention (for networks that are built inside a function, give none).
    Raises: InputError for another kind, and for a network without attention.
    """
    if kind not in KINDS:
        raise InputError(f"There is no knock-out {kind!r}: use one of {', '.join(KINDS)}.")
    if network is not None and not attends(network):
        raise InputError(f"{type(network).__name__} has no attention to knock out: give a transformer or a hybrid.")

    def replaced(part: nn.Module, given: tuple[Any, ...], found: Any) -> Tensor | None:
        return KINDS[kind](part, given[0], found) if isinstance(part, ATTENTION) else None

    if network is None:
        hooks = [register_module_forward_hook(replaced)]
    else:
        hooks = [part.register_forward_hook(replaced) for part in network.modules() if isinstance(part, ATTENTION)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _branch(part: nn.Module, x: Tensor, found: Tensor) -> Tensor:
    """Nothing is added; no gradient reaches the weights of attention."""
    return found.new_zeros(found.shape)


def _own(part: nn.Module, x: Tensor, found: Tensor) -> Tensor:
    """The mapped value of each token: what comes out where all weight lies on the token itself."""
    values = part.qkv(x).chunk(3, -1)[2]
    if not getattr(part, "plain", True):  # heads of several kernels are each brought to one scale
        heads = values.unflatten(-1, (part.heads, -1)).transpose(1, 2)
        values = part.norm_heads(heads).transpose(1, 2).flatten(2)
    return part.out(values)


KINDS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {"branch": _branch, "own": _own}
