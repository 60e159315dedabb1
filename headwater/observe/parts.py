"""A residual layer as named parts whose updates sum to what the layer adds: heads, feed-forward, norms, biases.

A step maps tokens to named updates; the next step reads the tokens with these added. A norm on the stream itself (post-norm,
nGPT) is a step of its own. Whatever follows the heads linearly once its own statistics are known (output map, second norm, step
size per channel) is worked into each head's update, so the updates of heads sum exactly.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import InputError

Updates = dict[str, Tensor]
Step = Callable[[Tensor], Updates]


@dataclass(frozen=True)
class Head:
    """The linear path through one head, for row tokens: what is read z becomes z @ value @ output, gains of norms inside."""

    value: Float[Tensor, "D E"]
    output: Float[Tensor, "E D"]


@dataclass(frozen=True)
class Layer:
    """steps, run one after the other; heads: the linear path of those parts that are heads, by the part's name."""

    steps: tuple[Step, ...]
    heads: Mapping[str, Head] = field(default_factory=dict)


def layer_of(parts: Mapping[str, Callable[[Tensor], Tensor]], heads: Mapping[str, Head] | None = None) -> Layer:
    """A layer of one step from callables that all read the layer's input: x -> x + sum of part(x)."""
    return Layer((lambda x: {name: part(x) for name, part in parts.items()},), heads or {})


def run(layer: Layer, tokens: Float[Tensor, "B N D"], without: Collection[str] = ()) -> Float[Tensor, "B N D"]:
    """Tokens after the layer; parts named in `without` add nothing, and what comes after them reads the stream without them."""
    for step in layer.steps:
        for name, update in step(tokens).items():
            tokens = tokens if name in without else tokens + update
    return tokens


def attention_layer(
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    heads: int,
    biases: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None] = (None, None, None, None),
    *,
    norm: nn.Module | None = None,
    mask: Tensor | None = None,
) -> tuple[Step, dict[str, Head]]:
    """Softmax attention from W_Q, W_K, W_V, W_O as torch.nn.Linear holds them (out, in), with a norm in front or none.

    mask: added to the scores, broadcast over (B, H, N, N). Returns the step and the linear paths of its heads.
    """
    q, k, v, o = weights
    if heads < 1 or v.shape[0] % heads:
        raise InputError(f"{v.shape[0]} value channels do not divide into {heads} heads: say how many heads there are")

    def said(x: Tensor) -> Tensor:
        x = x if norm is None else norm(x)
        rows = [F.linear(x, w, b).unflatten(-1, (heads, -1)).transpose(1, 2) for w, b in zip((q, k, v), biases, strict=False)]
        return F.scaled_dot_product_attention(*rows, attn_mask=mask).transpose(1, 2).flatten(2)

    return _heads(said, v, o, biases[3], heads, norm)


def block_layer(block: nn.Module, *places: Tensor | None) -> Layer:
    """Parts of a block of a Headwater ViT, known by its attributes; places: what the block is told beside its tokens.

    Attributes: place, attention (heads, qkv, out), mix, norm_*, after_*, scale_* of both, norm_heads of the attention if any.
    """
    attention, place = block.attention, block.place
    if block.training and block.drop:
        raise InputError("the block leaves out steps at random while it trains: call eval() first")
    width = attention.out.weight.shape[0]
    norm = block.norm_attention if place in ("pre", "peri") else (lambda x: x * width**0.5) if place == "ngpt" else None

    def said(x: Tensor) -> Tensor:
        return _caught(attention, attention.out, x if norm is None else norm(x), *places)

    gain = getattr(attention, "norm_heads", None)
    value = attention.qkv.weight.chunk(3)[2]
    value = value if gain is None else value * gain.gain.reshape(-1, 1)
    step, heads = _heads(said, value, attention.out.weight, attention.out.bias, attention.heads, norm)
    first, heads = _after(step, heads, block, "attention")
    before = block.norm_mix if place in ("pre", "peri") else norm
    second, _ = _after(lambda x: {"mlp": block.mix(x if before is None else before(x))}, {}, block, "mix")
    if place in ("pre", "peri"):
        return Layer((first, second), heads)
    if place == "ngpt":
        return Layer((first, norm_step(_unit), second, norm_step(_unit)), heads)
    return Layer((first, norm_step(block.norm_attention), second, norm_step(block.norm_mix)), heads)


def encoder_layer(layer: nn.TransformerEncoderLayer, mask: Tensor | None = None) -> Layer:
    """Parts of torch's own encoder layer in evaluation; for tokens (B, N, D) whatever its batch_first."""
    own = layer.self_attn
    if layer.training:
        raise InputError("the layer drops channels at random while it trains: call eval() first")
    if own.in_proj_weight is None or own.bias_k is not None:
        raise InputError(
            "only encoder layers with one width for queries, keys and values, and no bias for keys, can be taken apart"
        )
    inward = (None, None, None) if own.in_proj_bias is None else own.in_proj_bias.chunk(3)
    step, heads = attention_layer(
        (*own.in_proj_weight.chunk(3), own.out_proj.weight),
        own.num_heads,
        (*inward, own.out_proj.bias),
        norm=layer.norm1 if layer.norm_first else None,
        mask=mask,
    )

    def mlp(x: Tensor) -> dict[str, Tensor]:
        x = layer.norm2(x) if layer.norm_first else x
        return {"mlp": layer.linear2(layer.activation(layer.linear1(x)))}

    if layer.norm_first:
        return Layer((step, mlp), heads)
    return Layer((step, norm_step(layer.norm1), mlp, norm_step(layer.norm2)), heads)


def residual_layer(
    attend: Callable[[Tensor], object],
    output: nn.Module,
    value: Float[Tensor, "P D"],
    heads: int,
    mlp: Callable[[Tensor], Tensor],
    norms: tuple[nn.Module, nn.Module],
    *,
    first: bool = True,
    scales: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Layer:
    """Parts of anybody's transformer layer in evaluation, whatever its attention is, as long as a linear map follows the heads.

    attend: runs the attention on its input, whatever it returns; output: the linear map within it that joins the heads, whose
    input is read by a hook for the moment. value: W_V as torch.nn.Linear holds it. norms: before attention and mlp (first), or
    after each sum. scales: LayerScale of both, or None.
    """
    if not isinstance(output, nn.Linear) or output.in_features % heads or value.shape[0] % heads:
        raise InputError(f"heads are read before a torch.nn.Linear whose inputs divide into {heads} heads, not {output}")
    before = norms if first else (None, None)

    def said(x: Tensor) -> Tensor:
        return _caught(attend, output, x if before[0] is None else before[0](x))

    step, paths = _heads(said, value, output.weight, output.bias, heads, before[0])
    one, two = ((lambda u, s=s: u if s is None else u * s) for s in scales)
    paths = {name: Head(head.value, one(head.output)) for name, head in paths.items()}

    def attended(x: Tensor) -> dict[str, Tensor]:
        return {name: one(u) for name, u in step(x).items()}

    def mixed(x: Tensor) -> dict[str, Tensor]:
        return {"mlp": two(mlp(x if before[1] is None else before[1](x)))}

    if first:
        return Layer((attended, mixed), paths)
    return Layer((attended, norm_step(norms[0]), mixed, norm_step(norms[1])), paths)


def _heads(
    said: Callable[[Tensor], Tensor], value: Tensor, output: Tensor, bias: Tensor | None, heads: int, norm: object
) -> tuple[Step, dict[str, Head]]:
    """Step and paths from what all heads say (B, N, H E) before the output map; a head's value bias counts with the head."""
    wide = [o.T for o in output.chunk(heads, 1)]  # each E, D
    paths = {f"head {h}": Head(read_through(norm, v.T), o) for h, (v, o) in enumerate(zip(value.chunk(heads), wide, strict=True))}

    def step(x: Tensor) -> dict[str, Tensor]:
        found = {f"head {h}": y @ o for h, (y, o) in enumerate(zip(said(x).chunk(heads, -1), wide, strict=True))}
        return found if bias is None else {**found, "bias": bias.expand_as(x)}

    return step, paths


def read_through(norm: object, value: Tensor) -> Tensor:
    """W_V (D, E) with the gain of the norm in front, and its centring."""
    if not isinstance(norm, nn.Module):
        return value
    gain = getattr(norm, "weight", None)
    value = value if gain is None else gain[:, None] * value
    return value - value.mean(0) if isinstance(norm, nn.LayerNorm) else value


def _after(step: Step, heads: dict[str, Head], block: nn.Module, which: str) -> tuple[Step, dict[str, Head]]:
    """What follows a part before it is added: the second norm of peri, nGPT's unit vector and pull, the step size per channel."""
    norm, scale = getattr(block, f"after_{which}"), getattr(block, f"scale_{which}")
    if block.place == "ngpt":

        def pulled(x: Tensor) -> dict[str, Tensor]:
            found = step(x)
            factor = _factor(sum(found.values()), mean=False)
            return {**{name: scale.abs() * factor * u for name, u in found.items()}, "pull": -scale.abs() * x}

        return pulled, {name: Head(head.value, head.output * scale.abs()) for name, head in heads.items()}
    gain = None if norm is None else norm.weight
    gain = scale if gain is None else gain if scale is None else gain * scale
    centred = isinstance(norm, nn.LayerNorm)
    if norm is not None and not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        raise InputError(f"a {type(norm).__name__} after the {which} cannot be shared out: use RMSNorm or LayerNorm")

    def through(u: Tensor) -> Tensor:
        u = u - u.mean(-1, keepdim=True) if centred else u
        return u if gain is None else u * gain

    def scaled(x: Tensor) -> dict[str, Tensor]:
        found = step(x)
        total = sum(found.values())
        factor = 1 if norm is None else _factor(total - total.mean(-1, keepdim=True) if centred else total, norm.eps)
        found = {name: factor * through(u) for name, u in found.items()}
        if getattr(norm, "bias", None) is not None:
            shift = (norm.bias if scale is None else norm.bias * scale).expand_as(x)
            found["bias"] = found["bias"] + shift if "bias" in found else shift
        return found

    return scaled, {name: Head(head.value, through(head.output)) for name, head in heads.items()}


def _factor(x: Tensor, eps: float | None = 1e-6, mean: bool = True) -> Tensor:
    """One over the root mean square (or root sum of squares) of each token."""
    square = x.square().mean(-1, keepdim=True) if mean else x.square().sum(-1, keepdim=True)
    return (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()


def _unit(x: Tensor) -> Tensor:
    return x * _factor(x, mean=False)


def norm_step(norm: Callable[[Tensor], Tensor]) -> Step:
    """A norm on the stream itself, as the update it makes."""
    return lambda x: {"norm": norm(x) - x}


def _caught(module: Callable[..., object], inner: nn.Module, *given: object) -> Tensor:
    """What reaches `inner` while `module` runs on `given`; the hook is gone afterwards."""
    found: list[Tensor] = []
    hook = inner.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
    try:
        module(*given)
    finally:
        hook.remove()
    return found[0]
