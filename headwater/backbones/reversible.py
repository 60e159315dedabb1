"""K' sigma(K y + b): the symmetric layer of PDE networks, and steps of it that can be undone, so that no step need be kept."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from headwater.backbones.convolutions import SLOPE

CONVOLVE = {4: F.conv2d, 5: F.conv3d}  # by the number of axes of a map
SPREAD = {4: F.conv_transpose2d, 5: F.conv_transpose3d}  # the adjoint, with the same weights
WEIGHT_GRADIENT = {4: torch.nn.grad.conv2d_weight, 5: torch.nn.grad.conv3d_weight}
Parameters = Sequence[Tensor]  # weight K (C, C, 3, ..) and bias b (C) of every layer, in turn


def symmetric(y: Float[Tensor, "B C *S"], weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Float[Tensor, "B C *S"]:
    """K' sigma(K y + b), sigma LeakyReLU, K a convolution of 3 with zeros around, K' its adjoint; worked out in `dtype`.

    dtype: that of autocast where it is on, but on a CPU any, whatever autocast says.
    """
    with torch.autocast("cpu", enabled=False):
        weight = weight.to(dtype)
        inner = F.leaky_relu(CONVOLVE[y.ndim](y.to(dtype), weight, bias.to(dtype), padding=1), SLOPE)
        return SPREAD[y.ndim](inner, weight, padding=1)


def pulled(
    y: Tensor, weight: Tensor, bias: Tensor, pull: Tensor, dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """symmetric(y), and the gradients of <pull, symmetric(y)> by y, weight and bias, by hand: the answer itself is not kept."""
    shape, gradient = weight.shape, WEIGHT_GRADIENT[y.ndim]
    with torch.autocast("cpu", enabled=False):
        small, y, pull = weight.to(dtype), y.to(dtype), pull.to(dtype)
        before = CONVOLVE[y.ndim](y, small, bias.to(dtype), padding=1)
        inner = F.leaky_relu(before, SLOPE)
        change = CONVOLVE[y.ndim](pull, small, padding=1)  # <pull, K' s> = <K pull, s>
        change = torch.where(before > 0, change, SLOPE * change)
        by_weight = gradient(pull, shape, inner, padding=1).to(weight.dtype) + gradient(y, shape, change, padding=1)
        by_bias = change.flatten(2).sum((0, 2), dtype=weight.dtype)
        return SPREAD[y.ndim](inner, small, padding=1), (SPREAD[y.ndim](change, small, padding=1), by_weight, by_bias)


def advance(a: Tensor, b: Tensor, h: float, layers: Parameters, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One step of length h. Two layers, Hamiltonian: a' = K1' sigma(K1 b), b' = -K2' sigma(K2 a); one layer, second order:
    b' = a, a' = -K' sigma(K b). First a, then b from the new a (Verlet's scheme, symplectic).
    """
    if len(layers) == 2:
        a = a - h * symmetric(b, *layers, dtype)
        return a, b + h * a
    a = a + h * symmetric(b, *layers[:2], dtype)
    return a, b - h * symmetric(a, *layers[2:], dtype)


def retreat(a: Tensor, b: Tensor, h: float, layers: Parameters, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The inverse of `advance`, exact but for rounding."""
    if len(layers) == 2:
        b = b - h * a
        return a + h * symmetric(b, *layers, dtype), b
    b = b + h * symmetric(a, *layers[2:], dtype)
    return a - h * symmetric(b, *layers[:2], dtype), b


class Journey(torch.autograd.Function):
    """Many steps of `advance` of which only the end is kept; the backward pass walks back and finds every state again.

    One more forward pass in time; memory does not grow with the number of steps. First derivatives only.
    """

    @staticmethod
    def forward(ctx, a, b, h, per_step, dtype, *layers):
        """a, b after all steps; per_step: how many of `layers` belong to each."""
        for i in range(0, len(layers), per_step):
            a, b = advance(a, b, h, layers[i : i + per_step], dtype)
        ctx.save_for_backward(a, b, *layers)
        ctx.how = h, per_step, dtype
        return a, b

    @staticmethod
    @once_differentiable
    def backward(ctx, by_a, by_b):
        """Gradients by the start and by all layers."""
        a, b, *layers = ctx.saved_tensors
        h, per_step, dtype = ctx.how
        found = []
        for i in reversed(range(0, len(layers), per_step)):
            own = layers[i : i + per_step]
            if per_step == 2:
                by_a, b = by_a + h * by_b, b - h * a
                force, (by_state, *by_own) = pulled(b, *own, -h * by_a, dtype)
                a, by_b = a + h * force, by_b + by_state
            else:
                force, (by_state, *second) = pulled(a, *own[2:], -h * by_b, dtype)
                b, by_a = b + h * force, by_a + by_state
                force, (by_state, *first) = pulled(b, *own[:2], h * by_a, dtype)
                a, by_b, by_own = a - h * force, by_b + by_state, [*first, *second]
            found = [*by_own, *found]
        return by_a, by_b, None, None, None, *found
