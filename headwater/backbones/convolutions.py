"""Convolutional parts shared by the residual encoder and the decoders, in 2D and 3D."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
SLOPE = 0.01  # of LeakyReLU


def instance_norm(width: int) -> nn.GroupNorm:
    """Instance norm with affine: one group per channel. The same numbers as torch's InstanceNorm, twice as fast on a CPU."""
    return nn.GroupNorm(width, width)


class ConvNorm(nn.Module):
    """Convolution, instance norm with affine, and LeakyReLU unless told otherwise.

    The convolution has no bias: the norm after it would remove it.
    """

    def __init__(self, ndim: int, width_in: int, width_out: int, kernel: int = 3, stride: int = 1, active: bool = True):
        super().__init__()
        self.conv = CONV[ndim](width_in, width_out, kernel, stride, kernel // 2, bias=False)
        self.norm = instance_norm(width_out)
        self.active = active
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE)

    def forward(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B K *R"]:
        """Maps (B, C, *S) to (B, K, *ceil(S / stride))."""
        x = self.norm(convolve(self.conv, x))
        return F.leaky_relu_(x, SLOPE) if self.active else x


def convolve(conv: nn.Module, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B K *R"]:
    """The convolution; in full precision on a CPU where the map is 1 or 2 voxels thin.

    There oneDNN's bf16 gradient of a 3D convolution's weight is wrong and may corrupt memory (torch 2.13, AVX-512 without
    AMX: at stride 1 when the first axis is 2, at stride 2 when a later axis is 1).
    """
    if x.device.type == "cpu" and min(x.shape[2:]) < 3:
        with torch.autocast("cpu", enabled=False):
            return conv(x.to(conv.weight.dtype))
    return conv(x)


class Residual(nn.Module):
    """Two convolutions beside a shortcut: average pooling where the block strides, 1x1 convolution where the width changes.

    Source: ResNet-D (He et al. 2019), as in nnU-Net's residual encoder (Isensee et al. 2404.09556).
    """

    def __init__(self, ndim: int, width_in: int, width_out: int, stride: int = 1):
        super().__init__()
        self.ndim, self.stride = ndim, stride
        self.first = ConvNorm(ndim, width_in, width_out, 3, stride)
        self.second = ConvNorm(ndim, width_out, width_out, 3, active=False)
        self.shortcut = ConvNorm(ndim, width_in, width_out, 1, active=False) if width_in != width_out else nn.Identity()

    def forward(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B K *R"]:
        """Maps (B, C, *S) to (B, K, *ceil(S / stride))."""
        short = self.shortcut(average_pool(x, self.stride))
        return F.leaky_relu_(self.second(self.first(x)).add_(short), SLOPE)


def average_pool(x: Float[Tensor, "B C *S"], stride: int) -> Float[Tensor, "B C *R"]:
    """Mean over cells of stride^d voxels, stride a power of two: R = ceil(S / stride).

    Halves one axis after the other by adding neighbours, which a CPU does faster than torch's pooling, and in bf16 too
    (there is no avg_pool3d for it). A cell over the edge averages what it has, at every halving.
    """
    d = x.ndim - 2
    while stride > 1:
        for axis in range(d + 1, 1, -1):
            n = x.shape[axis]
            low, high = (x[(slice(None),) * axis + (slice(first, None, 2),)] for first in (0, 1))
            x = low + (high if n % 2 == 0 else torch.cat([high, low.narrow(axis, n // 2, 1)], axis))
        x, stride = x / 2**d, stride // 2
    return x


def enlarge(x: Float[Tensor, "B C *R"], factor: int, size: tuple[int, ...]) -> Float[Tensor, "B C *S"]:
    """Linear interpolation by a whole factor, cropped at the high end to `size`: cell centres stay where they are."""
    if factor > 1:
        x = F.interpolate(x, scale_factor=factor, mode=LINEAR[x.ndim - 2], align_corners=False)
    return crop(x, size)


def crop(x: Shaped[Tensor, "B C *R"], size: tuple[int, ...]) -> Shaped[Tensor, "B C *S"]:
    """The first `size` voxels of each axis."""
    for axis, n in enumerate(size, start=2):
        if x.shape[axis] != n:
            x = x.narrow(axis, 0, n)
    return x
