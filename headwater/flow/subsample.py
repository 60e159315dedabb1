"""Attention to a shared random subset of keys: time of n p, any width, error about sqrt(1/p) per step and sqrt(h/p) along a flow.

All tokens look at the same p keys, drawn without replacement, so sums over them times n/p are unbiased estimates of numerator
and denominator; their ratio is biased by order 1/p only. Errors of successive steps are independent and average out: the 1/h
steps of size h in a unit of time, each off by h / sqrt(p), leave sqrt(h/p).
"""

import hashlib
import math
import struct
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from headwater.flow.onset import bessel_ratios, log_uniform_sum
from headwater.flow.sphere import check_on_sphere, tangent
from headwater.flow.velocity import InTime, Weight


def attend(
    x: Float[Tensor, "B N D"], keys: Float[Tensor, "B P D"], beta: float, V: Float[Tensor, "D D"] | None = None
) -> Float[Tensor, "B N D"]:
    """sum_j A_ij V y_j with softmax weights over the keys y, through torch's fused kernel."""
    keys = keys.unsqueeze(1)
    values = keys if V is None else keys @ V.to(x).T
    return F.scaled_dot_product_attention(beta * x.unsqueeze(1), keys, values, scale=1.0).squeeze(1)


def draw(n: int, p: int, generator: torch.Generator) -> Integer[Tensor, "P"]:
    """p of n tokens without replacement, all if p >= n."""
    if p < 1:
        raise ValueError(f"subsample: p={p} keys; needs one or more")
    return torch.randperm(n, generator=generator, device=generator.device)[:p]


def _spread(d: int, beta: float) -> float:
    """Variance of the pull per key, for tokens spread evenly: E[w^2 |x - m|^2] / E[w]^2, w = e^{beta t}, m the mean under w.

    First order of a ratio of means: N_p/Z_p - m is about the mean of w (x - m) over the keys, divided by E[w].
    The mean of t under e^{beta t} is A(beta) = I_{d/2}/I_{d/2-1}, hence E_{w^2} |x - m|^2 = 1 - 2 A(2 beta) A(beta) + A(beta)^2.
    """
    beta = abs(beta)
    one, two = (float(bessel_ratios(d / 2 - 1, b, 1)[0]) for b in (beta, 2 * beta))
    log_ratio = log_uniform_sum(d, 2 * beta) - 2 * log_uniform_sum(d, beta)
    return math.exp(min(log_ratio, 700.0)) * (1 - 2 * one * two + one * one)


def expected_error(n: int, d: int, beta: float, p: int) -> float:
    """Root mean square error of the pull for n tokens spread evenly, first order in 1/p: sqrt((1/p - 1/n) times the spread)."""
    return math.sqrt(max(1 / p - 1 / n, 0.0) * _spread(d, beta))


def keys_for(n: int, d: int, beta: float, tol: float) -> int:
    """Smallest p with expected_error <= tol; n where nothing less will do."""
    return min(n, math.ceil(1 / (tol * tol / _spread(d, beta) + 1 / n)))


@final
class Subsampled(nn.Module):
    """Velocity of softmax self-attention on the sphere through p keys, drawn afresh for each time t, the same whenever t returns.

    So a fixed step sees new keys each time, while checkpointing, the adjoint and two calls at one t agree. Use a first-order
    method: the noise hides what higher orders gain. Not for adaptive steps.
    Args: generator: read once, for the seed. V: as in velocity.Attention, one head.
    """

    space = "sphere"

    def __init__(self, beta: float, p: int, generator: torch.Generator, V: Weight = None, *, duration: float = 1.0):
        super().__init__()
        if not math.isfinite(beta) or p < 1:
            raise ValueError(f"Subsampled: beta={beta}, p={p}: needs a finite beta and one key or more")
        self.beta, self.p, self.V = float(beta), p, InTime(V, duration)
        self.breaks = self.V.breaks
        self.seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))

    def keys(self, t: float | Tensor, n: int) -> Integer[Tensor, "P"]:
        """The keys at time t."""
        mixed = hashlib.blake2b(struct.pack("<qd", self.seed, float(t)), digest_size=8).digest()
        return draw(n, self.p, torch.Generator().manual_seed(int.from_bytes(mixed, "little", signed=True)))

    def ambient(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The pull before projection."""
        check_on_sphere(x, "Subsampled")
        return attend(x, x[:, self.keys(t, x.shape[1]).to(x.device)], self.beta, self.V(t, x))

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Tangent velocity of every token."""
        return tangent(x, self.ambient(t, x))
