"""Kernels of attention heads: how scores between queries and keys become weights. The maths of `flow.kernels`, for training.

Score s_ij = beta <q_i, k_j> + b_ij. softmax: e^s over the sum of its row; cosine: the same with q and k of length one (Liu 2022,
Swin V2); sigmoid: sigmoid(s - log n) (Ramapuram 2409.04431); relu: max(s, 0) / n (Wortsman 2309.08586), n the number of keys;
linear: <phi(sqrt(beta) q), phi(sqrt(beta) k)> over the sum of its row, phi = elu + 1 (Katharopoulos 2006.16236).
"""

import math
from difflib import get_close_matches

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headwater.backbones.norms import unit
from headwater.backbones.positions import rotate
from headwater.errors import InputError

KERNELS = ("softmax", "sigmoid", "relu", "linear", "cosine")
COSINE_BETA, LARGEST_BETA = 10.0, 100.0  # where a cosine head starts, and where learning may take any head (Swin V2)


def one_of(name: str, known: tuple[str, ...], what: str) -> None:
    """Raises InputError with the nearest name if `name` is not among those known."""
    if name not in known:
        near = get_close_matches(name, known, 1, 0)[0]
        raise InputError(f"there is no {what} {name!r}: use {near!r}, or another of {', '.join(known)}")


def per_head(kernels: str | tuple[str, ...], heads: int) -> tuple[str, ...]:
    """The kernel of each head. One name: the same for all; "mixed": every kernel as often as the others, in runs, first softmax.

    Raises: InputError for an unknown name and for a tuple that does not name every head once.
    """
    if kernels == "mixed":
        return tuple(KERNELS[h * len(KERNELS) // heads] if heads >= len(KERNELS) else KERNELS[h] for h in range(heads))
    if isinstance(kernels, str):
        one_of(kernels, (*KERNELS, "mixed"), "head kernel")
        return (kernels,) * heads
    for kernel in kernels:
        one_of(kernel, KERNELS, "head kernel")
    if len(kernels) != heads:
        nearest = tuple(kernels[h % len(kernels)] for h in range(heads)) if kernels else ("softmax",) * heads
        raise InputError(f"{len(kernels)} head kernels for {heads} heads: name each head's, for example {nearest}")
    return tuple(kernels)


def first_beta(kernel: str, head: int) -> float:
    """beta at the start, of a head of this width: 1 / sqrt(width) for products, COSINE_BETA for cosines."""
    return COSINE_BETA if kernel == "cosine" else head**-0.5


def attend(
    q: Float[Tensor, "B H N P"],
    k: Float[Tensor, "B H N P"],
    v: Float[Tensor, "B H N E"],
    beta: Float[Tensor, "#H 1 1"],
    kernel: str = "softmax",
    cos: Float[Tensor, "b 1 N R"] | None = None,
    sin: Float[Tensor, "b 1 N R"] | None = None,
    bias: Float[Tensor, "b H N N"] | None = None,
) -> Float[Tensor, "B H N E"]:
    """sum_j A_ij v_j, one row of weights per query; with cos and sin, queries and keys are turned by their places first.

    softmax and cosine go through torch's fused attention, memory of n; linear takes time of n and no bias; sigmoid and relu
    hold n^2 weights. A linear head turns its features in the sum alone and not in what divides it, which stays positive
    (RoFormer 2104.09864, eq. 19): its weights depend on places by their differences too, but may be negative.
    """
    if kernel == "linear":
        return _linear(q, k, v, beta, cos, sin)
    if kernel == "cosine":
        q, k = unit(q), unit(k)
    q = (q * beta).to(k.dtype)
    if cos is not None:
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    if kernel in ("softmax", "cosine"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype), scale=1.0)
    n, score = k.shape[-2], q @ k.transpose(-1, -2)
    score = score if bias is None else score + bias.to(score.dtype)
    return ((score - math.log(n)).sigmoid() if kernel == "sigmoid" else score.relu() / n) @ v


def _linear(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, cos: Tensor | None, sin: Tensor | None) -> Float[Tensor, "B H N E"]:
    """The features in float32 at least: elu + 1 of a very negative number is small, not zero."""
    exact = torch.promote_types(q.dtype, torch.float32)
    q, k = (_feature(x.to(exact) * beta.to(exact).sqrt()) for x in (q, k))
    total = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)
    if cos is not None:
        q, k = rotate(q, cos.to(exact), sin.to(exact)), rotate(k, cos.to(exact), sin.to(exact))
    gathered = q @ (k.transpose(-1, -2) @ v.to(exact))  # B H P E in between: never n^2
    return (gathered / total.clamp_min(torch.finfo(exact).tiny)).to(v.dtype)


def _feature(x: Tensor) -> Tensor:
    """elu + 1, without the difference of two numbers near one."""
    return x.clamp_max(0).exp() + x.relu()
