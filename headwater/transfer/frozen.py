"""What a frozen backbone says of whole scans: one vector for each, of the mean and the spread of its tokens."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.backbones.features import Backbone
from headwater.device import machine

TOKENS = 8192  # that go through at once: scans with more of them are cut into tiles


def tiles(size: Sequence[int], stride: Sequence[int], most: int = TOKENS) -> Iterator[tuple[slice, ...]]:
    """Parts of an image of `size` voxels, next to each other and about equally large, of at most about `most` tokens each.

    The longest axis is halved until they fit; borders of tiles lie on whole tokens.
    """
    tokens = [math.ceil(n / s) for n, s in zip(size, stride, strict=True)]
    parts = [1] * len(tokens)
    while math.prod(math.ceil(t / p) for t, p in zip(tokens, parts, strict=True)) > most:
        longest = max(range(len(tokens)), key=lambda axis: tokens[axis] / parts[axis])
        parts[longest] *= 2
    steps = [math.ceil(t / p) * s for t, p, s in zip(tokens, parts, stride, strict=True)]
    starts = [range(0, n, step) for n, step in zip(size, steps, strict=True)]
    for corner in product(*starts):
        yield tuple(slice(a, min(a + step, n)) for a, step, n in zip(corner, steps, size, strict=True))


def large_enough(image: Float[Tensor, "C *S"], backbone: Backbone) -> Float[Tensor, "1 C *R"]:
    """The image as a batch of one, shorter axes continued by their last voxels to two cells of the coarsest map."""
    coarsest = (max(column) for column in zip(*backbone.strides, backbone.stride, strict=True))
    missing = [max(0, 2 * s - n) for n, s in zip(image.shape[1:], coarsest, strict=True)]
    pairs = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    return torch.nn.functional.pad(image[None], pairs, mode="replicate") if any(pairs) else image[None]


@torch.no_grad()
def summary(backbone: Backbone, image: np.ndarray) -> Float[Tensor, "d"]:
    """Of one prepared scan (C, *S): the pooled features, and log of the spread of each channel over its tokens; float32.

    Scans of more than 8192 tokens go through in tiles, their vectors averaged by their share of the voxels.
    """
    device = next(backbone.parameters()).device
    total, count = torch.zeros(2 * backbone.dim, dtype=torch.float64), math.prod(image.shape[1:])
    for part in tiles(image.shape[1:], backbone.stride):
        voxels = torch.from_numpy(np.ascontiguousarray(image[(slice(None), *part)], dtype=np.float32))
        seen = backbone(large_enough(voxels, backbone).to(device))
        spread = (seen.tokens[0].double().std(0, correction=0) + 1e-6).log()
        found = torch.cat([seen.pooled[0].double(), spread]).cpu()
        total += found * (voxels[0].numel() / count)
    return total.float()


def resting(backbone: Backbone) -> Backbone:
    """In evaluation mode, without gradients, in float32, on this machine's accelerator if it has one."""
    return backbone.float().eval().requires_grad_(False).to(machine().device)
