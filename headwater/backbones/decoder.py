"""From features back to voxels: segmentation decoders, the light head, the refill of dropped tokens, reconstruction."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones.attention import EPSILON
from headwater.backbones.convolutions import CONV, CONV_TRANSPOSED, SLOPE, ConvNorm, crop, enlarge, instance_norm
from headwater.backbones.features import Backbone, Features
from headwater.backbones.patches import unpatchify
from headwater.backbones.vit import Stack, ViT


class Up(nn.Module):
    """One step of a U-Net decoder: transposed convolution of stride 2, the skip beside it, one convolution."""

    def __init__(self, ndim: int, coarse: int, fine: int):
        super().__init__()
        self.up = CONV_TRANSPOSED[ndim](coarse, fine, 2, 2)
        self.mix = ConvNorm(ndim, 2 * fine, fine)

    def forward(self, x: Float[Tensor, "B K *R"], skip: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
        """Brings the coarse map (ceil(S / 2)) to the skip's size and width."""
        return self.mix(torch.cat([crop(self.up(x), tuple(skip.shape[2:])), skip], 1))


class Decoder(nn.Module):
    """Voxel scores from features; the last 1x1 convolution is `head`, to be replaced for other classes.

    A pyramid gets a U-Net decoder, one convolution per stage; a single map (ViT) gets transposed convolutions of stride 2
    alone, as in Primus (2503.01835; instance norm and LeakyReLU here where Primus has layer norm and GELU).
    """

    def __init__(self, backbone: Backbone, classes: int):
        super().__init__()
        widths, ndim = backbone.widths, backbone.ndim
        if len(widths) > 1:
            steps = zip(widths[:0:-1], widths[-2::-1], strict=True)  # coarse to fine
            self.steps = nn.ModuleList(Up(ndim, coarse, fine) for coarse, fine in steps)
            last = widths[0]
        else:
            doublings = int(math.log2(backbone.strides[0][0]))
            path = [widths[0], *(max(16, widths[0] // 4 ** (i + 1)) for i in range(doublings))]
            self.steps = nn.ModuleList(Enlarge(ndim, a, b) for a, b in zip(path, path[1:], strict=False))
            last = path[-1]
        self.head = CONV[ndim](last, classes, 1)

    def forward(self, features: Features, size: tuple[int, ...] | None = None) -> Float[Tensor, "B K *S"]:
        """Scores for every voxel of an image of `size` (default: the image the features came from).

        Raises: ValueError if tokens were dropped: refill them first.
        """
        size = size or features.size
        if features.kept is not None:
            raise ValueError("tokens were dropped: refill them before decoding")
        *skips, x = features.pyramid
        for step in self.steps:
            x = step(x, skips.pop()) if skips else step(x)
        return crop(self.head(x), size)


class Enlarge(nn.Module):
    """Transposed convolution of stride 2, instance norm, LeakyReLU."""

    def __init__(self, ndim: int, coarse: int, fine: int):
        super().__init__()
        self.up = CONV_TRANSPOSED[ndim](coarse, fine, 2, 2, bias=False)
        self.norm = instance_norm(fine)

    def forward(self, x: Float[Tensor, "B K *R"]) -> Float[Tensor, "B C *S"]:
        """Twice the size."""
        return F.leaky_relu_(self.norm(self.up(x)), SLOPE)


class LightHead(nn.Module):
    """Small segmentation head over a frozen backbone.

    Every map to `width` channels by a 1x1 convolution; coarse to fine, each is enlarged linearly and added to the next;
    at the image's size norm, activation, one 3x3 convolution and the 1x1 `head`.
    """

    def __init__(self, backbone: Backbone, classes: int, width: int = 16):
        super().__init__()
        ndim, strides = backbone.ndim, [1, *(s[0] for s in backbone.strides)]
        self.factors = [b // a for a, b in zip(strides, strides[1:], strict=False)]  # from each map to the next finer
        self.reduce = nn.ModuleList(CONV[ndim](w, width, 1, bias=False) for w in backbone.widths)
        self.norm, self.mix = instance_norm(width), ConvNorm(ndim, width, width)
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
    """Dropped tokens refilled: mask tokens at their places, then blocks that let them look at the kept ones. ViT only.

    The feature decoder of a masked autoencoder (He et al. 2111.06377) and of CVA's Primus student (2509.13846).
    """

    def __init__(self, backbone: ViT, width: int | None = None, depth: int = 2):
        super().__init__()
        width = width or backbone.dim
        heads = max(h for h in range(1, backbone.heads + 1) if width % h == 0 and width // h >= 2 * backbone.ndim)
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


def refill(backbone: Backbone, width: int | None = None, depth: int = 2) -> nn.Module:
    """Features in, Features of the whole grid out: a Refill for a ViT, nothing to do for a network that drops no tokens."""
    return Refill(backbone, width, depth) if isinstance(backbone, ViT) else nn.Identity()


class Reconstruction(nn.Module):
    """The image again, from features of a masked one. ResEnc: the Decoder; ViT: its own Refill, then a linear map to voxels."""

    def __init__(self, backbone: Backbone, channels: int):
        super().__init__()
        self.refill = refill(backbone)
        if isinstance(backbone, ViT):
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
