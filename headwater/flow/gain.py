"""What one layer does to the agreement of tokens, from its weights and the mean token.

All tokens equal is invariant under any unmasked attention without positional bias: every row sees the same values. Near it the
deviations pass attention unchanged (AC gain 1) while the mean token x becomes x + x H (DC gain |x + x H|/|x|), H = sum of
W_V W_O over heads for row tokens. So log(1 - cosine) changes by 2 log AC - 2 log DC. A linearisation: use it near consensus only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WITHIN = 0.1  # distance from consensus up to which the linearisation is called valid: error of the gain is of this order


@dataclass(frozen=True)
class Gain:
    """Gains of layers linearised at equal tokens; leading axes as given.

    dc: growth of the mean token. ac: growth of the deviations across it. change: predicted change of log(1 - cosine),
    2 log(ac/dc): negative collapses, positive sharpens. distance: root mean square of |x_i - mean| / |mean| where it was
    linearised (nan: not told). valid: distance <= 0.1; elsewhere the prediction has no standing.
    """

    dc: Float[Tensor, "*L"]
    ac: Float[Tensor, "*L"]
    change: Float[Tensor, "*L"]
    distance: Float[Tensor, "*L"]
    valid: Bool[Tensor, "*L"]


def _gain(dc: Tensor, ac: Tensor, distance: Tensor) -> Gain:
    return Gain(dc, ac, 2 * (ac / dc).log(), distance, distance <= WITHIN)


def head_maps(value: Float[Tensor, "*L P D"], output: Float[Tensor, "*L D P"], heads: int = 1) -> Float[Tensor, "*L H D D"]:
    """H_h = W_V,h W_O,h of each head, for row tokens (x -> x H), from weights as torch.nn.Linear holds them, (out, in).

    Heads are consecutive groups of the rows of `value` and columns of `output`. Their sum is what consensus_gain asks for.
    """
    if value.shape[-2] % heads:
        raise ValueError(f"{value.shape[-2]} value channels do not divide into {heads} heads.")
    v = value.unflatten(-2, (heads, -1))  # H, p, D
    o = output.unflatten(-1, (heads, -1)).movedim(-2, -3)  # H, D, p
    return v.mT @ o.mT


def consensus_distance(tokens: Float[Tensor, "*L N D"]) -> Float[Tensor, "*L"]:
    """Root mean square of |x_i - mean| / |mean| over tokens; inf where the mean vanishes."""
    mean = tokens.mean(-2, keepdim=True)
    return ((tokens - mean).square().sum(-1).mean(-1) / mean.square().sum((-2, -1))).sqrt().nan_to_num(nan=torch.inf)


def _layer_norm(x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    x = x if scale is None else x * scale
    return x if shift is None else x + shift


def consensus_gain(
    mean: Float[Tensor, "*L D"],
    H: Float[Tensor, "*L D D"],
    *,
    norm: Literal["post", "pre"] = "post",
    scale: Float[Tensor, "*L D"] | None = None,
    shift: Float[Tensor, "*L D"] | None = None,
    bias: Float[Tensor, "*L D"] | None = None,
    distance: Float[Tensor, "*L"] | None = None,
    eps: float = 1e-6,
) -> Gain:
    """Gain of the residual attention update of each layer from its mean token and H alone; AC gain 1 (no MLP).

    post (or no norm): |m + m H + bias| / |m|, what follows the update not counted. pre: |m + LN(m) H + bias| / |m|, LN with gain
    `scale` and `shift`: a large residual norm freezes collapse. bias: the constant that value and output biases add. Exact as
    tokens agree, up to a rotation of the mean (see layer_gain). Unmasked attention only. distance: where the tokens stand
    (consensus_distance); without it nothing is called valid. Raises ValueError for a zero or non-finite mean.
    """
    if norm not in ("post", "pre"):
        raise ValueError(f'norm must be "post" or "pre", not {norm!r}.')
    size = mean.norm(dim=-1)
    if not bool(((size > 0) & torch.isfinite(size)).all()) or not bool(torch.isfinite(H).all()):
        raise ValueError(
            "Mean tokens must be finite and not zero, H finite: at a zero mean there is no consensus to linearise at."
        )
    seen = _layer_norm(mean, scale, shift, eps) if norm == "pre" else mean
    after = mean + (seen.unsqueeze(-2) @ H).squeeze(-2)
    after = after if bias is None else after + bias
    dc = after.norm(dim=-1) / size
    return _gain(dc, torch.ones_like(dc), torch.full_like(dc, torch.nan) if distance is None else distance.to(dc))


def layer_gain(layer: Callable[[Tensor, Tensor], Tensor], tokens: Float[Tensor, "N D"]) -> Gain:
    """Gain of a whole layer (norms, MLP, biases) at the mean of its input tokens, by one Jacobian-vector product.

    layer(x, seen): the layer applied to each row of x (N, D) when attention returns what it returns if all tokens equal
    `seen` (1, D): one value per layer, not differentiated. ac counts deviations across the mean before and after, so the
    rotation of the mean and the norm's own projection are in it. Raises ValueError for a zero mean or tokens that all agree.
    """
    mean = tokens.mean(0, keepdim=True)
    off = tokens - mean
    before = _across(off, mean)
    if not bool(mean.norm() > 0) or not bool(before.norm() > 0):
        raise ValueError("layer_gain needs tokens with a mean that is not zero and that do not all point the same way.")
    base = mean.expand_as(tokens).contiguous()
    out, moved = torch.func.jvp(lambda x: layer(x, mean), (base,), (off,))
    dc = out[0].norm() / mean.norm()
    ac = _across(moved, out[:1]).norm() / before.norm()
    return _gain(dc, ac, consensus_distance(tokens))


def _across(off: Tensor, mean: Tensor) -> Tensor:
    """Part of each row orthogonal to mean (1, D), its own mean over rows removed."""
    off = off - off.mean(0, keepdim=True)
    return off - (off @ mean.T) * mean / mean.square().sum()


@dataclass(frozen=True)
class Dovonon:
    """Weights-only verdict for X <- X + A X H repeated. dc: max |1 + l| over eigenvalues l of H (what all tokens share);
    ac: max |1 + a_min l| (what differs). margin = log(dc/ac); smooths: margin > 0. Near margin 0 nothing is said.
    """

    dc: Float[Tensor, "*L"]
    ac: Float[Tensor, "*L"]
    margin: Float[Tensor, "*L"]
    smooths: Bool[Tensor, "*L"]


def dovonon(H: Float[Tensor, "*L D D"], a_min: float = 0.0, scale: Float[Tensor, "*L D"] | None = None) -> Dovonon:
    """Whether repeating one layer smooths tokens: iff max |1 + l| > max |1 + a_min l|, l the eigenvalues of diag(scale) H.

    Assumes A row-stochastic with real eigenvalues in [a_min, 1] (a_min ~ 0 for softmax attention; -1 at worst), one A and one H
    for all depth. |1 + a l| is convex in a, so the worst differing mode sits at a_min or next to 1. a_min = 0: no smoothing iff
    every l has |1 + l| <= 1. scale: the LN gain in front, signs included. Source: Dovonon et al., "Setting the record straight on
    transformer oversmoothing" (TMLR 2025), clipping removed.
    """
    if not -1 <= a_min < 1:
        raise ValueError(f"The smallest eigenvalue of attention lies in [-1, 1), not at {a_min}.")
    if not bool(torch.isfinite(H).all()):
        raise ValueError("H must be finite.")
    values = torch.linalg.eigvals(H if scale is None else scale.unsqueeze(-1) * H)
    dc, ac = (1 + values).abs().amax(-1), (1 + a_min * values).abs().amax(-1)
    margin = (dc / ac).log()
    return Dovonon(dc, ac, margin, margin > 1e-9)
