"""Kernels of attention heads: how scores between queries and keys become weights.

Score s_ij = <q_i, k_j>. softmax: e^{beta s}; cosine: e^{beta cos(q, k)} (Liu 2022, Swin v2); linear: <phi(sqrt(beta) q),
phi(sqrt(beta) k)>, phi = elu + 1 (Katharopoulos 2020); these three are divided by the sum of the row, or by the number n of
keys the row sees. sigmoid: sigmoid(beta s - log n) (Ramapuram 2024); relu: max(beta s, 0) / n (Wortsman 2023).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.flow.sphere import _readable

KERNELS = ("softmax", "sigmoid", "relu", "linear", "cosine")


def visible(n: int, mask: None | str | int | Tensor, device: torch.device) -> Bool[Tensor, "*H N N"] | None:
    """The mask as a tensor, True where query i (row) may see key j; None when all see all.

    mask: None | "causal" (j <= i) | window w (|i - j| <= w) | a boolean tensor that ends in (n, n).
    """
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool or mask.shape[-2:] != (n, n):
            raise ValueError(f"mask: {mask.dtype} of shape {tuple(mask.shape)} for {n} tokens; needs bool (..., {n}, {n})")
        return mask.to(device)
    place = torch.arange(n, device=device)
    apart = place[:, None] - place
    return apart >= 0 if mask == "causal" else apart.abs() <= mask


def _check_exponent(largest: Tensor, beta: float, dtype: torch.dtype) -> None:
    """e^s must be a number: without division by the row's sum nothing else saves it."""
    limit = math.log(torch.finfo(dtype).max) - 1
    if _readable(largest) and float(largest) > limit:
        usable = beta * limit / float(largest)
        raise ValueError(
            f"attention: unnormalised weights overflow {dtype} at beta={beta:g}: the largest usable beta here is {usable:.4g};"
            " use normalised=True, which has no limit"
        )


def weigh(
    q: Float[Tensor, "B H N P"],
    k: Float[Tensor, "B H N P"],
    *,
    beta: float,
    kernel: str = "softmax",
    normalised: bool = True,
    mask: None | str | int | Tensor = None,
) -> Float[Tensor, "B H N N"]:
    """The matrix of weights A_ij, in memory of n^2. Exponentials are taken in log space.

    Raises: ValueError if unnormalised weights overflow; it says which beta would still do.
    """
    n = q.shape[-2]
    seen = visible(n, mask, q.device)
    count = n if seen is None else seen.sum(-1, keepdim=True)
    q, k = _prepared(q, k, beta, kernel)
    score = q @ k.transpose(-1, -2)
    if kernel in ("softmax", "cosine"):
        score = score if seen is None else score.masked_fill(~seen, -torch.inf)
        if normalised:
            return score.softmax(-1)
        _check_exponent(score.detach().max(), beta, q.dtype)
        return (score - torch.as_tensor(count, dtype=q.dtype, device=q.device).log()).exp()
    if kernel == "sigmoid":
        weight = (score - torch.as_tensor(count, dtype=q.dtype, device=q.device).log()).sigmoid()
    else:
        weight = score.relu() / count if kernel == "relu" else score
    weight = weight if seen is None else weight * seen
    if kernel == "linear":
        weight = weight / (_positive(weight.sum(-1, keepdim=True), beta) if normalised else count)
    return weight


def _positive(total: Tensor, beta: float) -> Tensor:
    """The sums of rows of the linear kernel, which must not have vanished."""
    if _readable(total) and not bool((total > 0).all()):
        raise ValueError(f"attention: all weights of the linear kernel vanish at beta={beta:g}; use a smaller beta, or softmax")
    return total


def attend(
    q: Float[Tensor, "B H N P"],
    k: Float[Tensor, "B H N P"],
    v: Float[Tensor, "B H N D"],
    *,
    beta: float,
    kernel: str = "softmax",
    normalised: bool = True,
    mask: None | str | int | Tensor = None,
    fused: bool = True,
) -> Float[Tensor, "B H N D"]:
    """sum_j A_ij v_j, one row of weights per query.

    softmax and cosine with row sums go through torch's fused kernel (memory of n), linear without a mask in time of n, the rest
    through `weigh`. The fused kernel has no forward-mode and no second derivative on the CPU: fused=False has both.
    """
    if kernel in ("softmax", "cosine") and normalised and fused:
        q, k = _prepared(q, k, beta, kernel)
        if mask == "causal" and not isinstance(mask, Tensor):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible(q.shape[-2], mask, q.device), scale=1.0)
    if kernel == "linear" and mask is None:
        q, k = _prepared(q, k, beta, kernel)
        gathered = q @ (k.transpose(-1, -2) @ v)  # B H P D in between: never n^2
        return gathered / (_positive(q @ k.sum(-2).unsqueeze(-1), beta) if normalised else q.shape[-2])
    return weigh(q, k, beta=beta, kernel=kernel, normalised=normalised, mask=mask) @ v


def _prepared(q: Tensor, k: Tensor, beta: float, kernel: str) -> tuple[Tensor, Tensor]:
    """Queries and keys with the kernel's own map applied and beta in the queries (it may be negative)."""
    if kernel == "linear":
        return F.elu(q * math.sqrt(beta)) + 1, F.elu(k * math.sqrt(beta)) + 1
    if kernel == "cosine":
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return q * beta, k
