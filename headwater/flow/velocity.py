"""Attention as a velocity: every token is a particle pulled by the others. Kuramoto oscillators as the special case."""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.flow.kernels import KERNELS, attend, weigh
from headwater.flow.sphere import check_finite, check_on_sphere, tangent

Weight = Tensor | Sequence[Tensor] | Callable[[float | Tensor], Tensor] | None
Mask = None | str | int | Tensor
SPACES = ("sphere", "flat")


@final
class InTime(nn.Module):
    """A matrix along depth-time: constant, one per layer (layer l holds on [l, l + 1) * duration), or any function of t.

    Tensors that are nn.Parameter are registered; `breaks` are the times at which it jumps.
    """

    def __init__(self, value: Weight, duration: float = 1.0):
        super().__init__()
        self.breaks: tuple[float, ...] = ()
        self.layers: list[Tensor] = []
        self.function: Callable[[float | Tensor], Tensor] | None = None
        if isinstance(value, Tensor):
            self.layers = [value]
        elif callable(value):
            self.function = value
        elif value is not None:
            self.layers = list(value)
            if not self.layers:
                raise ValueError("weights per layer: the list is empty; pass None for the identity")
            self.breaks = tuple(duration * layer for layer in range(1, len(self.layers)))
        for index, layer in enumerate(self.layers):
            check_finite(layer, f"weights of layer {index}")
            if isinstance(layer, nn.Parameter):
                self.register_parameter(f"layer{index}", layer)

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Tensor | None:
        """The matrix at time t with the type and device of x; None stands for the identity."""
        if self.function is not None:
            return self.function(t).to(x)
        if not self.layers:
            return None
        layer = bisect.bisect_right(self.breaks, float(t)) if self.breaks else 0
        return self.layers[layer].to(x)


def times_matrix(matrix: Tensor | None, x: Float[Tensor, "B N D"], name: str) -> Float[Tensor, "B H N P"]:
    """matrix (p, D) or (H, p, D) applied to every token, heads in front of tokens; None leaves one head of x itself."""
    if matrix is None:
        return x.unsqueeze(1)
    if matrix.ndim not in (2, 3) or matrix.shape[-1] != x.shape[-1]:
        raise ValueError(f"{name}: shape {tuple(matrix.shape)} for tokens of width {x.shape[-1]}; needs (p, D) or (H, p, D)")
    return x.unsqueeze(1) @ matrix.transpose(-1, -2)


@final
class Attention(nn.Module):
    """Self-attention: x_i' = P_{x_i} sum_h sum_j A^h_ij V_h x_j on the sphere, without P in flat space.

    A_ij = e^{beta <Q x_i, K x_j>} / Z_i; `normalised`: Z_i is the sum of the row (SA), else the number of keys seen (USA).

    Args:   Q, K: (p, D) or (H, p, D); V: (D, D) or (H, D, D); None is the identity. Each constant, a list of layers that hold
            for `duration` each, or a function of t. Heads are summed.
            mask: None | "causal" | window w, |i - j| <= w | boolean tensor ending in (N, N), True where i may see j.
            kernel: see headwater.flow.kernels; sigmoid and relu bring their own 1/n and take no notice of `normalised`.
            fused: through torch's fused kernel where it applies; False allows forward-mode and second derivatives.
    Raises: ValueError for tokens off the sphere, NaN, and overflow of unnormalised weights (with the largest usable beta).
    Source: Geshkovski et al. 2312.10794; SA and USA as there.
    """

    def __init__(
        self,
        beta: float = 1.0,
        Q: Weight = None,
        K: Weight = None,
        V: Weight = None,
        *,
        normalised: bool = True,
        kernel: str = "softmax",
        mask: Mask = None,
        space: str = "sphere",
        duration: float = 1.0,
        fused: bool = True,
    ):
        super().__init__()
        if kernel not in KERNELS or space not in SPACES:
            raise ValueError(f"Attention: kernel {kernel!r} and space {space!r}: use one of {KERNELS} and of {SPACES}")
        if not math.isfinite(beta) or (kernel == "linear" and beta < 0) or duration <= 0:
            raise ValueError(f"Attention: beta={beta}, duration={duration}: needs finite (linear kernel: >= 0) and positive")
        good = mask is None or mask == "causal" or (isinstance(mask, int) and mask >= 0)
        if isinstance(mask, Tensor):
            good = mask.dtype == torch.bool and mask.ndim >= 2 and bool(mask.any(-1).all())
        if not good:
            raise ValueError('Attention: mask must be None, "causal", a window >= 0 or a bool tensor with a True in each row')
        self.beta, self.kernel, self.space = float(beta), kernel, space
        self.normalised, self.mask, self.fused = normalised, mask, fused
        self.Q, self.K, self.V = InTime(Q, duration), InTime(K, duration), InTime(V, duration)
        self.breaks = tuple(sorted({*self.Q.breaks, *self.K.breaks, *self.V.breaks}))

    def _check(self, x: Tensor) -> None:
        if self.space == "sphere":
            check_on_sphere(x, "Attention")
        else:
            check_finite(x, "Attention")

    def _queries_keys(self, t: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k = times_matrix(self.Q(t, x), x, "Q"), times_matrix(self.K(t, x), x, "K")
        if q.shape[-1] != k.shape[-1] or 1 < q.shape[1] != k.shape[1] > 1:
            raise ValueError(f"Attention: queries {tuple(q.shape)} and keys {tuple(k.shape)} do not match")
        heads = max(q.shape[1], k.shape[1])
        return q.expand(-1, heads, -1, -1), k.expand(-1, heads, -1, -1)

    def ambient(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """sum_h sum_j A^h_ij V_h x_j, not yet projected on the tangent space: what a layer adds before its norm."""
        self._check(x)
        q, k = self._queries_keys(t, x)
        values = times_matrix(self.V(t, x), x, "V")
        if values.shape[-1] != x.shape[-1]:
            raise ValueError(f"V: maps width {x.shape[-1]} to {values.shape[-1]}; needs (D, D) or (H, D, D)")
        heads = max(q.shape[1], values.shape[1])
        q, k, values = (part.expand(-1, heads, -1, -1) for part in (q, k, values))
        options = {"beta": self.beta, "kernel": self.kernel, "normalised": self.normalised, "mask": self.mask}
        return attend(q, k, values, **options, fused=self.fused).sum(1)

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The velocity of every token at depth-time t; tangent when the space is the sphere."""
        pull = self.ambient(t, x)
        return tangent(x, pull) if self.space == "sphere" else pull

    def weights(self, t: float | Tensor, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B H N N"]:
        """The attention matrix of each head."""
        self._check(x)
        q, k = self._queries_keys(t, x)
        return weigh(q, k, beta=self.beta, kernel=self.kernel, normalised=self.normalised, mask=self.mask)

    def energy(self, x: Float[Tensor, "B N D"], t: float | Tensor = 0.0) -> Float[Tensor, "B"]:
        """E_beta = sum_ij e^{beta <Q x_i, K x_j>} / (2 beta n^2), summed over heads; at beta = 0 the mean of <Q x_i, K x_j> / 2.

        Rises along SA and USA if V = Q'K is symmetric and nothing is masked, with dE/dt = sum_i Z_i |x_i'|^2 / n^2 (SA; one head)
        and sum_i |x_i'|^2 / n (USA): the gradient in x_i is sum_j e^{..} V x_j / n^2. Falls if V = -Q'K.
        """
        self._check(x)
        q, k = self._queries_keys(t, x)
        score = q @ k.transpose(-1, -2)
        if self.beta == 0:
            return score.mean((-1, -2)).sum(-1) / 2
        score = self.beta * score
        largest = math.log(torch.finfo(x.dtype).max) - 1
        if float(score.detach().max()) > largest:
            usable = self.beta * largest / float(score.detach().max())
            raise ValueError(f"energy: e^(beta s) overflows {x.dtype} at beta={self.beta:g}; the largest usable is {usable:.4g}")
        return score.exp().mean((-1, -2)).sum(-1) / (2 * self.beta)


@final
class Kuramoto(nn.Module):
    """Coupled oscillators theta_i' = omega_i - (coupling / n) sum_j sin(theta_i - theta_j), as points (B, N, 2) of the circle.

    Attention with d = 2 and beta = 0 is coupling 1 without natural frequencies. Costs time of n.
    Args: frequencies: omega (N,) or (B, N), radians per unit time. Source: Kuramoto 1975; link in 2312.10794.
    """

    space = "sphere"

    def __init__(self, coupling: float = 1.0, frequencies: Float[Tensor, "*B N"] | None = None):
        super().__init__()
        self.coupling = float(coupling)
        self.register_buffer("frequencies", frequencies)

    def ambient(self, t: float | Tensor, x: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N 2"]:
        """The pull before projection: coupling times the mean point, and the own rotation."""
        check_on_sphere(x, "Kuramoto")
        pull = (self.coupling * x.mean(1, keepdim=True)).expand_as(x)
        if self.frequencies is None:
            return pull
        turned = torch.stack((-x[..., 1], x[..., 0]), -1)
        return pull + self.frequencies.to(x).unsqueeze(-1) * turned

    def forward(self, t: float | Tensor, x: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N 2"]:
        """Tangent velocity of every oscillator."""
        return tangent(x, self.ambient(t, x))

    def order(self, x: Float[Tensor, "B N 2"]) -> Float[Tensor, "B"]:
        """Order parameter R = |mean point|: 0 spread, 1 all equal."""
        return torch.linalg.vector_norm(x.mean(1), dim=-1)
