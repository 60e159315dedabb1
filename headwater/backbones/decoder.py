"""From features back to voxels: segmentation decoders, the light head, the refill of dropped tokens, reconstruction."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones.attention import EPSILON
from headwater.backbones.continuous import ContinuousViT
from headwater.backbones.convolutions import CONV, CONV_TRANSPOSED, SLOPE, ConvNorm, InstanceNorm, crop, enlarge, laid_out
from headwater.backbones.features import Backbone, Features
from headwater.backbones.patches import unpatchify
from headwater.backbones.pyramid import Staged
from headwater.backbones.vit import Stack, ViT
from headwater.errors import InputError


class Up(nn.Module):
    """One step of a U-Net decoder: transposed convolution, the skip beside it, then convolutions."""

    def __init__(
        self,
        ndim: int,
        coarse: int,
        fine: int,
        step: int | Sequence[int] = 2,
        kernel: int | Sequence[int] = 3,
        convolutions: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        self.up = CONV_TRANSPOSED[ndim](coarse, fine, step, step, bias=bias)
        widths = [2 * fine] + [fine] * (convolutions - 1)
        self.mix = nn.Sequential(*(ConvNorm(ndim, w, fine, kernel, bias=bias) for w in widths))

    def forward(self, x: Float[Tensor, "B K *R"], skip: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
        """Brings the coarse map (ceil(S / step)) to the skip's size and width."""
        return self.mix(torch.cat([laid_out(crop(self.up(x), tuple(skip.shape[2:]))), skip], 1))


class Decoder(nn.Module):
    """Voxel scores from features; the last 1x1 convolution is `head`, to be replaced for other classes.

    A pyramid gets the U-Net decoder of nnU-Net, with its encoder's kernels, strides and bias; where the finest map is coarser
    than a voxel (Swin) transposed convolutions of stride 2 follow, and they are all there is for a single map (ViT), as in
    Primus (2503.01835; instance norm and LeakyReLU here where Primus has layer norm and GELU).

    Args: convolutions: of each step of the U-Net, or one number per step, coarse to fine. deep: whether the coarser steps
          have heads of their own (`coarse_heads`, fine to coarse), for deep supervision.
    """

    def __init__(self, backbone: Backbone, classes: int, convolutions: int | Sequence[int] = 1, deep: bool = False):
        super().__init__()
        widths, strides, ndim = backbone.widths, backbone.strides, backbone.ndim
        staged = isinstance(backbone, Staged)
        kernels, bias = (backbone.kernels, backbone.bias) if staged else ((3,) * len(widths), False)
        count = len(widths) - 1
        each = [convolutions] * count if isinstance(convolutions, int) else list(convolutions)
        if len(each) != count or min(each, default=1) < 1:
            raise InputError(
                f"{each} convolutions for the {count} steps of this decoder: give one number, or {count} of 1 or more"
            )
        self.steps = nn.ModuleList(
            Up(ndim, widths[i + 1], widths[i], ratio(strides[i + 1], strides[i]), kernels[i], n, bias)
            for i, n in zip(reversed(range(count)), each, strict=True)
        )
        last, left = widths[0], strides[0]
        while max(left) > 1:
            step = tuple(2 if s > 1 else 1 for s in left)
            narrow = max(16, last // 4)
            self.steps.append(Enlarge(ndim, last, narrow, step))
            last, left = narrow, tuple(max(1, s // 2) for s in left)
        self.head = CONV[ndim](last, classes, 1)
        outputs = widths[1 if len(self.steps) == count else 0 : count]  # the finest step of a U-Net feeds `head`
        self.coarse_heads = nn.ModuleList(CONV[ndim](w, classes, 1) for w in outputs) if deep else None

    def forward(
        self, features: Features, size: tuple[int, ...] | None = None, deep: bool = False
    ) -> Float[Tensor, "B K *S"] | list[Tensor]:
        """Scores for every voxel of an image of `size` (default: the image the features came from).

        deep: a list of scores, fine to coarse; those after the first have the sizes of the maps of the pyramid.
        Raises: ValueError if tokens were dropped (refill them first), or if there are no heads for the coarse scores.
        """
        size = size or features.size
        if features.kept is not None:
            raise ValueError("tokens were dropped: refill them before decoding")
        if deep and self.coarse_heads is None:
            raise ValueError("this decoder has no heads for coarse scores: build it with deep=True")
        *skips, x = features.pyramid
        passed = []
        for step in self.steps:
            if skips:
                x = step(x, skips.pop())
                passed.append(x)
            else:
                x = step(x)
        scores = crop(self.head(x), size)
        if not deep:
            return scores
        coarse = passed[::-1][-len(self.coarse_heads) :] if len(self.coarse_heads) else []
        return [scores, *(head(m) for head, m in zip(self.coarse_heads, coarse, strict=True))]


def ratio(coarse: Sequence[int], fine: Sequence[int]) -> tuple[int, ...]:
    """Cells of the fine map per cell of the coarse one, along each axis."""
    return tuple(c // f for c, f in zip(coarse, fine, strict=True))


class Enlarge(nn.Module):
    """Transposed convolution, of stride 2 unless told otherwise, instance norm, LeakyReLU."""

    def __init__(self, ndim: int, coarse: int, fine: int, step: int | Sequence[int] = 2):
        super().__init__()
        self.up = CONV_TRANSPOSED[ndim](coarse, fine, step, step, bias=False)
        self.norm = InstanceNorm(fine)

    def forward(self, x: Float[Tensor, "B K *R"]) -> Float[Tensor, "B C *S"]:
        """`step` times the size."""
        return F.leaky_relu_(self.norm(self.up(laid_out(x))), SLOPE)


class LightHead(nn.Module):
    """Small segmentation head over a frozen backbone.

    Every map to `width` channels by a 1x1 convolution; coarse to fine, each is enlarged linearly and added to the next;
    at the image's size norm, activation, one 3x3 convolution and the 1x1 `head`.
    """

    def __init__(self, backbone: Backbone, classes: int, width: int = 16):
        super().__init__()
        ndim, strides = backbone.ndim, [(1,) * backbone.ndim, *backbone.strides]
        self.factors = [ratio(b, a) for a, b in zip(strides, strides[1:], strict=False)]  # from each map to the next finer
        self.reduce = nn.ModuleList(CONV[ndim](w, width, 1, bias=False) for w in backbone.widths)
        self.norm, self.mix = InstanceNorm(width), ConvNorm(ndim, width, width)
        self.head = CONV[ndim](width, classes, 1)

    def forward(self, features: Features, size: tuple[int, ...] | None = None) -> Float[Tensor, "B K *S"]:
        """Scores for every voxel of an image of `size` (default: the image the features came from).

        Raises: ValueError if tokens were dropped: refill them first.
        """
        size = size or features.size
        if features.kept is not None:
            raise ValueError("tokens were dropped: refill them before decoding")
        maps = [reduce(m) for reduce, m in zip(self.reduce, features.pyramid, strict=True)]
        x = maps[-1]
        for finer, factor in zip(maps[-2::-1], self.factors[:0:-1], strict=True):
            x = finer + enlarge(x, factor, tuple(finer.shape[2:]))
        x = enlarge(x, self.factors[0], size)
        return self.head(self.mix(F.leaky_relu(self.norm(x), SLOPE)))


class Refill(nn.Module):
    """Dropped tokens refilled: mask tokens at their places, then blocks that let them look at the kept ones.

    For networks that drop tokens: the ViT, also in continuous depth.

    The feature decoder of a masked autoencoder (He et al. 2111.06377) and of CVA's Primus student (2509.13846).
    """

    def __init__(self, backbone: ViT | ContinuousViT, width: int | None = None, depth: int = 2):
        super().__init__()
        width = width or backbone.dim
        most = getattr(backbone, "vit", backbone).heads
        heads = max(h for h in range(1, most + 1) if width % h == 0 and width // h >= 2 * backbone.ndim)
        self.into, self.back = nn.Linear(backbone.dim, width), nn.Linear(width, backbone.dim)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.stack, self.norm = Stack(backbone.ndim, width, depth, heads), nn.RMSNorm(width, EPSILON)
        nn.init.trunc_normal_(self.hidden, std=0.02)

    def forward(self, features: Features) -> Features:
        """Features with every token of the grid: tokens, map and pyramid are new, pooled is the backbone's."""
        x = self.into(features.tokens).to(self.hidden.dtype)
        if features.kept is not None:
            full = self.hidden.expand(x.shape[0], math.prod(features.grid), -1)
            x = full.scatter(1, features.kept[..., None].expand(-1, -1, x.shape[-1]), x)
        x = self.back(self.norm(self.stack(x, features.grid)))
        whole = x.transpose(1, 2).unflatten(2, features.grid)
        return Features(x, features.grid, lambda: features.pooled, [whole], size=features.size)


def drops(backbone: Backbone) -> bool:
    """Whether hidden cells are dropped instead of covered."""
    return isinstance(backbone, ViT | ContinuousViT)


def refill(backbone: Backbone, width: int | None = None, depth: int = 2) -> nn.Module:
    """Features in, Features of the whole grid out: a Refill for a ViT, nothing to do for a network that drops no tokens."""
    return Refill(backbone, width, depth) if drops(backbone) else nn.Identity()


class Reconstruction(nn.Module):
    """The image again, from features of a masked one.

    Networks that drop tokens: their own Refill, then a linear map to voxels; the others: the Decoder.
    """

    def __init__(self, backbone: Backbone, channels: int):
        super().__init__()
        self.refill = refill(backbone)
        if drops(backbone):
            self.patch = backbone.stride[0]
            self.decoder = nn.Linear(backbone.dim, channels * self.patch**backbone.ndim)
        else:
            self.patch = 0
            self.decoder = Decoder(backbone, channels)

    def forward(self, features: Features, size: tuple[int, ...] | None = None) -> Float[Tensor, "B C *S"]:
        """Voxels of an image of `size` (default: the image the features came from)."""
        size = size or features.size
        if not self.patch:
            return self.decoder(features, size)
        return crop(unpatchify(self.decoder(self.refill(features).tokens), features.grid, self.patch), size)
