"""Reads which modules of a model run, and what its attention does, while it runs.

Attention is read where the model computes it: the queries, keys and mask that it hands to torch's fused attention (which runs
as it would), torch's own multi-head function, or a softmax written out. So rotary positions, biases and masks are the model's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwater.errors import InputError
from headwater.observe.probe import first_tensor, kept

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax)
FUSED = F.scaled_dot_product_attention
PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.einsum)


@dataclass(frozen=True, eq=False)
class Attention:
    """What one attention layer did. R rows: images, or windows of images in order; H heads, Q queries, K keys, E channels.

    name of the module. weights: rows sum to 1 (0 where everything is masked); None where no softmax was seen. heads: outputs per
    head before they are mixed; None where they could not be read. Float32 on the CPU.
    """

    name: str
    weights: Float[Tensor, "R H Q K"] | None
    heads: Float[Tensor, "R H Q E"] | None


@dataclass(frozen=True)
class Call:
    """A module that ran: its name, what went in and came out first (shapes; None: no tensor), and when it came and left."""

    name: str
    entered: tuple[int, ...] | None
    left: tuple[int, ...] | None
    begin: int
    end: int


@dataclass(frozen=True, eq=False)
class Frame:
    """A module that runs now; `seen`: what its attention showed; `last`: input of the last linear map within it."""

    name: str
    module: nn.Module
    entered: tuple[int, ...] | None
    begin: int
    seen: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """Records modules and attention while it is entered, once `attach`ed. With `attention` False only module calls.

    calls: every module that ran, in the order they left. attention: what attention layers did, in the order they left.
    """

    def __init__(self, model: nn.Module, attention: bool = True):
        super().__init__()
        self.model, self.reads = model, attention
        self.calls: list[Call] = []
        self.attention: list[Attention] = []
        self.frames: list[Frame] = []
        self.clock = 0
        self.owners = {module: any(True for _ in module.parameters()) for module in model.modules()}

    @contextmanager
    def attached(self) -> Iterator["Recorder"]:
        """Hooks on every module, gone afterwards."""
        hooks = []
        try:
            for name, module in self.model.named_modules():
                hooks.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
                hooks.append(module.register_forward_hook(self._leave))
            with self:
                yield self
        except RuntimeError as error:
            if "ScriptModule" in str(error):
                raise InputError("a scripted module takes no hooks: observe the model before torch.jit") from error
            raise
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = first_tensor([*args, *kwargs.values()])
            if (
                self.reads
                and x is not None
                and isinstance(weight := getattr(module, "weight", None), Tensor)
                and weight.ndim == 2
            ):
                for frame in self.frames:
                    frame.last[:] = [x]
            self.frames.append(Frame(name, module, None if x is None else tuple(x.shape), self.clock))
            self.clock += 1

        return hook

    def _leave(self, module: nn.Module, args: tuple, out: Any) -> None:
        frame, y = self.frames.pop(), first_tensor(out)
        self.calls.append(Call(frame.name, frame.entered, None if y is None else tuple(y.shape), frame.begin, self.clock))
        self.clock += 1
        if self.reads:
            self._close(frame)

    def _close(self, frame: Frame) -> None:
        """What the attention of this module showed, put together."""
        count = heads_of(frame.module)
        named = count is not None and "attention" in type(frame.module).__name__.lower()
        inner = any(found.name.startswith(frame.name + ".") for found in self.attention)
        if not frame.seen and not (named and frame.last and not inner):
            return
        weights, heads = joined([w for w, _ in frame.seen], count), joined([h for _, h in frame.seen], count)
        if count is not None and weights is not None and weights.shape[1] == 1 < count and len(weights) % count == 0:
            weights, heads = (x if x is None else x.flatten(0, 1).unflatten(0, (-1, count)) for x in (weights, heads))
        if count is not None and frame.last and (heads is None or heads.shape[1] != count):  # heads that need no softmax
            heads = per_head(frame.last[0], count)
            weights = weights if weights is not None and weights.shape[1] == count else None
        if weights is not None or heads is not None:
            self.attention.append(Attention(frame.name, weights, heads))

    def _multiplied(self, args: tuple, out: Tensor) -> None:
        """Weights written out, times values: what the heads gave."""
        first = next((x for x in args if isinstance(x, Tensor)), None)
        frame = next((frame for frame in reversed(self.frames) if frame.seen), None)
        if first is None or frame is None or frame.seen[-1][1] is not None:
            return
        weights, rows = frame.seen[-1][0], first if first.ndim == 4 else first[:, None]
        out = out if first.ndim == 4 else out[:, None]
        if rows.shape == weights.shape and out.ndim == 4 and out.shape[:3] == weights.shape[:3]:
            frame.seen[-1] = (weights, kept(out))

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Runs everything as it is; looks at attention on the way."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.reads or not self.frames:
            return out
        found = None
        if func in PRODUCTS:
            self._multiplied(args, out)
        elif func is FUSED:
            found = of_fused(out, *args, **kwargs)
        elif func is F.multi_head_attention_forward:
            found = of_torch(*args, **kwargs)
        elif func in SOFTMAX:
            found = of_softmax(out, *args[1:], **kwargs)
        if found is not None:
            owner = next((frame for frame in reversed(self.frames) if self.owners.get(frame.module)), self.frames[0])
            owner.seen.append(found)
        return out


def heads_of(module: nn.Module) -> int | None:
    """The number of heads that a module says it has."""
    return next((n for name in HEADS if isinstance(n := getattr(module, name, None), int) and n > 0), None)


def per_head(x: Tensor, heads: int) -> Tensor | None:
    """What the map after the heads reads, (R, *Q, H E), as (R, H, Q, E); None if it does not fit."""
    if x.ndim < 3 or x.shape[-1] % heads:
        return None
    return kept(x.flatten(1, -2).unflatten(-1, (heads, -1)).transpose(1, 2))


def joined(parts: list[Tensor | None], heads: int | None) -> Tensor | None:
    """Parts of one layer's attention: more rows (images in chunks), or more heads (kernel by kernel) where none is whole."""
    if not parts or any(part is None for part in parts):
        return None
    if len(parts) == 1:
        return parts[0]
    whole = heads is None or all(part.shape[1] == heads for part in parts)
    axis = 0 if whole else 1
    rest = {tuple(n for i, n in enumerate(part.shape) if i != axis) for part in parts}
    return torch.cat(parts, axis) if len(rest) == 1 else None


def of_fused(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Weights by the formula of scaled_dot_product_attention, heads as it gave them."""
    if query.ndim != 4:
        return None
    q, k = query.detach().float(), key.detach().float()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1) if enable_gqa else k
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask.float()
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    return kept(scores.softmax(-1).masked_fill(blind, 0)), kept(out)


def of_torch(query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *args: Any, **kwargs: Any) -> tuple | None:
    """Weights and heads of torch.nn.MultiheadAttention: its own function again, with an output map that changes nothing."""
    if query.ndim != 3:
        return None
    rest = list(args)
    names = (
        "in_proj_weight",
        "in_proj_bias",
        "bias_k",
        "bias_v",
        "add_zero_attn",
        "dropout_p",
        "out_proj_weight",
        "out_proj_bias",
    )
    told = dict(zip(names, rest, strict=False)) | kwargs
    told |= {"out_proj_weight": torch.eye(width).to(query), "out_proj_bias": None, "training": False}
    told |= {"need_weights": True, "average_attn_weights": False}
    out, weights = F.multi_head_attention_forward(query, key, value, width, heads, **told)
    return kept(weights), kept(out.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3))  # Q R (H E) -> R H Q E


def of_softmax(out: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> tuple[Tensor, None] | None:
    """A softmax over the last of four axes is attention written out; over three axes if square, with one head."""
    if dim not in (-1, out.ndim - 1) or not (out.ndim == 4 or (out.ndim == 3 and out.shape[1] == out.shape[2])):
        return None
    return kept(out if out.ndim == 4 else out[:, None]), None
