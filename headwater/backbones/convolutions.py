"""Convolutional parts shared by the residual encoder and the decoders, in 2D and 3D."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
SLOPE = 0.01  # of LeakyReLU
LARGE = 8  # voxels of an image per channel from which on a map is large


def per_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """One number per axis, from one for all of them or one each."""
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def laid_out(x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
    """The same numbers in the order in memory that a CPU convolves fastest: channels innermost for large maps, outermost else.

    Weights stay as they are: in the first layout torch reorders them at every call, which small maps do not repay.
    """
    if x.device.type != "cpu":
        return x
    large = math.prod(x.shape[2:]) >= LARGE * x.shape[1]
    return x.to(memory_format=CHANNELS_LAST[x.ndim - 2] if large else torch.contiguous_format)


class InstanceNorm(nn.Module):
    """Every channel of every image with mean 0 and variance 1 over space, then gain and offset.

    The numbers of torch's InstanceNorm. With channels innermost on a CPU, batch norm of one image at a time is the fastest
    kernel torch has for it (3 times its instance norm, forward and backward); elsewhere group norm of one channel each.
    """

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), eps

    def forward(
        self,
        x: Float[Tensor, "B C *S"],
        removed: Float[Tensor, " C"] | None = None,
        seen: Bool[Tensor, "B 1 *S"] | None = None,
    ) -> Float[Tensor, "B C *S"]:
        """Same shape; `removed` is an offset of the input that was left out, as the norm takes it away: its gradient is 0.

        seen: the voxels that count for mean and variance; the others are not read and become 0.
        Raises: ValueError for maps of a single voxel: they have no variance.
        """
        if math.prod(x.shape[2:]) == 1:
            raise ValueError("a map of one voxel cannot be normalised over space")
        offset = self.bias if removed is None else self.bias + 0 * removed
        if seen is not None:
            return self.of_seen(x, offset, seen)
        if x.device.type == "cpu" and x.is_contiguous(memory_format=CHANNELS_LAST[x.ndim - 2]):
            each = [F.batch_norm(one, None, None, self.weight, offset, True, 0.0, self.eps) for one in x.split(1)]
            return each[0] if len(each) == 1 else torch.cat(each)
        return F.group_norm(x, x.shape[1], self.weight, offset, self.eps)

    def of_seen(self, x: Tensor, offset: Tensor, seen: Tensor) -> Tensor:
        """The norm over the voxels seen, 0 elsewhere; a channel of which one voxel is seen becomes its offset there."""
        space, each = tuple(range(2, x.ndim)), (-1,) + (1,) * (x.ndim - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = seen.sum(space, keepdim=True).clamp(min=1)
        mean = wide.masked_fill(~seen, 0).sum(space, keepdim=True) / count
        away = (wide - mean).masked_fill(~seen, 0)
        gain = (away.square().sum(space, keepdim=True) / count + self.eps).rsqrt() * self.weight.view(each)
        return (away * gain + offset.view(each)).masked_fill_(~seen, 0).to(x.dtype)


class ConvNorm(nn.Module):
    """Convolution, instance norm with affine, and LeakyReLU unless told otherwise.

    The norm removes whatever bias the convolution has, so the bias is not added: it is there to be nnU-Net's parameter, and
    its gradient is exactly 0 (nnU-Net's is rounding noise).
    """

    def __init__(
        self,
        ndim: int,
        width_in: int,
        width_out: int,
        kernel: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        active: bool = True,
        bias: bool = False,
    ):
        super().__init__()
        kernel = per_axis(kernel, ndim)
        padding = tuple(k // 2 for k in kernel)
        self.conv = CONV[ndim](width_in, width_out, kernel, per_axis(stride, ndim), padding, bias=bias)
        self.norm = InstanceNorm(width_out)
        self.active = active
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE)
        if bias:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Float[Tensor, "B C *S"], seen: Bool[Tensor, "B 1 *R"] | None = None) -> Float[Tensor, "B K *R"]:
        """Maps (B, C, *S) to (B, K, *ceil(S / stride)); where `seen` is False the result is 0 and the norm does not look."""
        x = self.norm(convolve(self.conv, laid_out(x)), self.conv.bias, seen)
        return F.leaky_relu_(x, SLOPE) if self.active else x


def convolve(conv: nn.Module, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B K *R"]:
    """The convolution without its bias; a 1x1 convolution as a matrix product where the channels are innermost.

    In full precision on a CPU where the map is 1 or 2 voxels thin: there oneDNN's bf16 gradient of a 3D convolution's weight
    is wrong and may corrupt memory (torch 2.13, AVX-512 without AMX: at stride 1 when the first axis is 2, at stride 2 when a
    later axis is 1).
    """
    apply = F.conv3d if x.ndim == 5 else F.conv2d
    if max(conv.kernel_size) == 1 and max(conv.stride) == 1 and not x.is_contiguous():
        return F.linear(x.movedim(1, -1), conv.weight.flatten(1)).movedim(-1, 1)
    if x.device.type == "cpu" and min(x.shape[2:]) < 3:
        with torch.autocast("cpu", enabled=False):
            return apply(x.to(conv.weight.dtype), conv.weight, None, conv.stride, conv.padding)
    return apply(x, conv.weight, None, conv.stride, conv.padding)


class Same(nn.Identity):
    """Hands on what it gets, in place of a part that would look at `seen`."""

    def forward(self, x: Float[Tensor, "B C *S"], seen: Bool[Tensor, "B 1 *S"] | None = None) -> Float[Tensor, "B C *S"]:
        """x itself."""
        return x


class Residual(nn.Module):
    """Two convolutions beside a shortcut: average pooling where the block strides, 1x1 convolution where the width changes.

    Source: ResNet-D (He et al. 2019), as in nnU-Net's residual encoder (Isensee et al. 2404.09556; there BasicBlockD).
    """

    def __init__(
        self,
        ndim: int,
        width_in: int,
        width_out: int,
        kernel: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        bias: bool = False,
    ):
        super().__init__()
        self.stride = per_axis(stride, ndim)
        self.first = ConvNorm(ndim, width_in, width_out, kernel, stride, bias=bias)
        self.second = ConvNorm(ndim, width_out, width_out, kernel, active=False, bias=bias)
        self.shortcut = ConvNorm(ndim, width_in, width_out, 1, active=False) if width_in != width_out else Same()

    def forward(self, x: Float[Tensor, "B C *S"], seen: Bool[Tensor, "B 1 *R"] | None = None) -> Float[Tensor, "B K *R"]:
        """Maps (B, C, *S) to (B, K, *ceil(S / stride)); where `seen` is False the result is 0, as x must be."""
        short = self.shortcut(average_pool(x, self.stride), seen)
        return F.leaky_relu_(self.second(self.first(x, seen), seen).add_(short), SLOPE)


def average_pool(x: Float[Tensor, "B C *S"], stride: int | Sequence[int]) -> Float[Tensor, "B C *R"]:
    """Mean over cells of `stride` voxels along each axis, powers of two: R = ceil(S / stride).

    Where the cells do not divide the map, or in bf16 (there is no avg_pool3d for it on a CPU), one axis after the other is
    halved by adding neighbours: a cell over the edge averages what it has, at every halving.
    """
    left = per_axis(stride, x.ndim - 2)
    if x.dtype != torch.bfloat16 and not any(n % s for n, s in zip(x.shape[2:], left, strict=True)):
        return x if max(left) == 1 else (F.avg_pool3d if x.ndim == 5 else F.avg_pool2d)(x, left)
    while max(left) > 1:
        halved = [axis for axis, s in enumerate(left, start=2) if s > 1]
        for axis in reversed(halved):
            n = x.shape[axis]
            low, high = (x[(slice(None),) * axis + (slice(first, None, 2),)] for first in (0, 1))
            x = low + (high if n % 2 == 0 else torch.cat([high, low.narrow(axis, n // 2, 1)], axis))
        x, left = x / 2 ** len(halved), tuple(max(1, s // 2) for s in left)
    return x


def enlarge(x: Float[Tensor, "B C *R"], factor: int | Sequence[int], size: tuple[int, ...]) -> Float[Tensor, "B C *S"]:
    """Linear interpolation by whole factors per axis, cropped at the high end to `size`: cell centres stay where they are."""
    factor = per_axis(factor, x.ndim - 2)
    if max(factor) > 1:
        factors = [float(f) for f in factor]
        x = F.interpolate(x, scale_factor=factors, mode=LINEAR[x.ndim - 2], align_corners=False)
    return crop(x, size)


def crop(x: Shaped[Tensor, "B C *R"], size: tuple[int, ...]) -> Shaped[Tensor, "B C *S"]:
    """The first `size` voxels of each axis."""
    for axis, n in enumerate(size, start=2):
        if x.shape[axis] != n:
            x = x.narrow(axis, 0, n)
    return x
