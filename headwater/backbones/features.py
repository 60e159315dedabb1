"""What every backbone hands on, and what every backbone is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headwater.errors import InputError


class Features:
    """Features of a batch of images: tokens on a grid, one vector per image, and the maps they came from.

    tokens  (B, N, D); a function is called once, when first asked for: who segments never pays for tokens
    grid    G, the full token grid; prod(G) = N unless tokens were dropped
    pooled  (B, D)
    pyramid maps (B, D_i, *S_i), fine to coarse; ViT: the grid alone, nothing when tokens were dropped
    kept    (B, N) places of the kept tokens in the flattened grid, ascending; None: all of them
    size    *S of the image, where known
    cost    (B,) what the way through the network costs, of networks in continuous depth; None: nothing is charged
    """

    def __init__(
        self,
        tokens: Tensor | Callable[[], Tensor],
        grid: tuple[int, ...],
        pooled: Tensor | Callable[[], Tensor],
        pyramid: Sequence[Tensor] = (),
        kept: Tensor | None = None,
        size: tuple[int, ...] | None = None,
        cost: Tensor | None = None,
    ):
        self._tokens, self._pooled, self.cost = tokens, pooled, cost
        self.grid, self.pyramid, self.kept, self.size = tuple(grid), list(pyramid), kept, size

    @property
    def tokens(self) -> Float[Tensor, "B N D"]:
        """One row per token, in the order of the flattened grid."""
        if not isinstance(self._tokens, Tensor):  # functools' cached property would break a compiled graph
            self._tokens = self._tokens()
        return self._tokens

    @property
    def pooled(self) -> Float[Tensor, "B D"]:
        """One row per image."""
        if not isinstance(self._pooled, Tensor):
            self._pooled = self._pooled()
        return self._pooled

    @property
    def map(self) -> Float[Tensor, "B D *G"]:
        """The tokens laid out on their grid, without a copy. Raises ValueError if tokens were dropped (refill them first)."""
        if self.kept is not None:
            count = f"{self.kept.shape[1]} of {math.prod(self.grid)}"
            raise ValueError(f"{count} tokens were kept: refill them before asking for a map")
        return self.tokens.transpose(1, 2).unflatten(2, self.grid)


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of depth along which tokens keep their width: network as flow.

    start (B, N, D); velocities: v(t, tokens) -> (B, N, D), one per block, t the block's index; grid of the tokens.
    tokens + v(t, tokens), block by block, are the network's own tokens.
    """

    start: Tensor
    velocities: tuple[Callable[[float, Tensor], Tensor], ...]
    grid: tuple[int, ...]


class Backbone(nn.Module, ABC):
    """An encoder of 2D or 3D images of any size.

    ndim     2 or 3
    channels C of the images
    dim      D of tokens and pooled
    stride   voxels per token and axis; the grid of an image of size S is ceil(S / stride)
    widths   D_i of the pyramid, fine to coarse
    strides  voxels per cell and axis, for each map of the pyramid
    checkpointed  whether blocks are computed again in the backward pass instead of kept: less memory, a third more time
    """

    checkpointed = False

    def __init__(self, ndim: int, channels: int, dim: int, stride: int, widths: Sequence[int], strides: Sequence[int]):
        super().__init__()
        if ndim not in (2, 3):
            raise InputError(f"images of {ndim} dimensions are not supported: use 2 or 3")
        if channels < 1:
            raise InputError(f"an image cannot have {channels} channels: use 1 or more")
        self.ndim, self.channels, self.dim = ndim, channels, dim
        self.stride, self.widths = (stride,) * ndim, tuple(widths)
        self.strides = tuple((s,) * ndim for s in strides)

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Token grid of an image of this size: ceil(size / stride)."""
        return tuple(-(-n // s) for n, s in zip(size, self.stride, strict=True))

    def admit(self, x: Tensor, keep: Tensor | None) -> tuple[int, ...]:
        """Size *S of a batch this backbone can take. Raises InputError with the nearest thing that works."""
        size = tuple(x.shape[2:])
        if len(size) != self.ndim:
            raise InputError(f"a {self.ndim}D backbone got images of {by(size)}: build it with ndim={len(size)}")
        if x.shape[1] != self.channels:
            raise InputError(
                f"the backbone was built for {self.channels} channels, the images have {x.shape[1]}: "
                f"build it with channels={x.shape[1]}"
            )
        if any(n < s for n, s in zip(size, self.stride, strict=True)):
            least = tuple(max(n, s) for n, s in zip(size, self.stride, strict=True))
            token = by(self.stride)
            raise InputError(f"images of {by(size)} are smaller than one token of {token}: use at least {by(least)}")
        if keep is not None and tuple(keep.shape) != (x.shape[0], *self.grid(size)):
            raise InputError(f"the mask is {by(keep.shape)}, images of {by(size)} need {by((x.shape[0], *self.grid(size)))}")
        return size

    def segments(self, x: Float[Tensor, "B C *S"]) -> list[Segment]:
        """The blocks as residual velocities on the tokens of these images, in order of depth; for `flow` and `observe`."""
        raise NotImplementedError(f"{type(self).__name__} does not show its blocks")

    @abstractmethod
    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of a batch; cells of the token grid where `keep` is False are hidden from the network."""


def by(size: Sequence[int]) -> str:
    """A size in words: 40 x 56 x 40."""
    return " x ".join(str(n) for n in size)


def kept_indices(keep: Bool[Tensor, "B *G"]) -> Int[Tensor, "B N"]:
    """Places of the kept cells in the flattened grid, ascending.

    Raises: InputError if none is kept or the samples differ in their number (they could not share a batch).
    """
    flat = keep.flatten(1)
    counts = flat.sum(1)
    least, most = int(counts.min()), int(counts.max())
    if least != most or least == 0:
        raise InputError(f"the mask keeps {least} to {most} tokens per image: keep the same number, 1 or more")
    return flat.nonzero()[:, 1].view(flat.shape[0], -1)
