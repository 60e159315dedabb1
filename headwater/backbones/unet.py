"""UNet: the plain encoder of nnU-Net (Isensee et al. 2021), stages of convolutions without shortcuts."""

from collections.abc import Sequence

from torch import nn

from headwater.backbones.convolutions import ConvNorm, Same
from headwater.backbones.pyramid import PerStage, Staged
from headwater.errors import InputError


class UNet(Staged):
    """Stages of convolution, instance norm, LeakyReLU; the first of each stage strides.

    With the numbers of an nnU-Net plan its parameters are those of the encoder of PlainConvUNet, one to one (nnunet.py).
    What a network of stages promises is in pyramid.py. Its blocks have no shortcut: a velocity is block(x) - x all the same.

    Args: widths, convolutions: per stage. The others as for ResEnc.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        widths: Sequence[int],
        convolutions: Sequence[int],
        patch: int = 4,
        *,
        kernels: PerStage = 3,
        strides: PerStage | None = None,
        bias: bool = False,
    ):
        super().__init__(ndim, channels, widths, convolutions, patch, kernels, strides, bias)
        if min(convolutions) < 1:
            raise InputError(f"convolutions {tuple(convolutions)}: every stage needs at least one")
        self.stem, self.stages = Same(), nn.ModuleList()
        before = channels
        for width, n, kernel, step in zip(widths, convolutions, self.kernels, self.steps, strict=True):
            first = ConvNorm(ndim, before, width, kernel, step, bias=bias)
            more = (ConvNorm(ndim, width, width, kernel, bias=bias) for _ in range(n - 1))
            self.stages.append(nn.Sequential(first, *more))
            before = width
