"""ResEnc: the residual-encoder CNN of nnU-Net (Isensee et al. 2404.09556)."""

from collections.abc import Sequence

from torch import nn

from headwater.backbones.convolutions import ConvNorm, Residual
from headwater.backbones.pyramid import PerStage, Staged
from headwater.errors import InputError


class ResEnc(Staged):
    """Stem, then stages of residual blocks; every stage after the first halves the map unless told otherwise.

    With the numbers of an nnU-Net plan its parameters are those of the encoder of ResidualEncoderUNet, one to one
    (nnunet.py). What a network of stages promises is in pyramid.py.

    Args:   widths, blocks: per stage (the first may have none: the stem alone, for speed). patch: token stride, a stride of a
            stage or twice the last one. kernels, strides: one number, one per stage, or one per stage and axis. bias: of the
            convolutions. stem: width of the stem (default: of the first stage).
    Source: nnU-Net's ResEnc; token map and pooled vector of CVA (2509.13846), which pools to 16^3 instead.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        patch: int = 4,
        *,
        kernels: PerStage = 3,
        strides: PerStage | None = None,
        bias: bool = False,
        stem: int | None = None,
    ):
        super().__init__(ndim, channels, widths, blocks, patch, kernels, strides, bias)
        stem = stem or widths[0]
        bare = stem == widths[0] and max(self.steps[0]) == 1  # nothing is lost without blocks
        if min(blocks[1:], default=1) < 1 or blocks[0] < (0 if bare else 1):
            raise InputError(f"block counts {tuple(blocks)}: every stage after the first needs at least one")
        self.stem = ConvNorm(ndim, channels, stem, self.kernels[0], bias=bias)
        self.stages = nn.ModuleList()
        before = stem
        for width, n, kernel, step in zip(widths, blocks, self.kernels, self.steps, strict=True):
            first = [Residual(ndim, before, width, kernel, step, bias)] if n else []
            self.stages.append(nn.Sequential(*first, *(Residual(ndim, width, width, kernel, 1, bias) for _ in range(n - 1))))
            before = width
