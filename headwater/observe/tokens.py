"""Do tokens at the same physical place agree between two views? The level that dense objectives train."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwater.observe.features import Agreement, compare
from headwater.streams import torch_stream

ROWS = 4096  # images x places compared at most: bounds memory and time
WIDEST = 256  # directions compared at most: an eigenproblem stays under a tenth of a second


def places(images: int, tokens: int, seed: int) -> Int[Tensor, "P"]:
    """The places to compare: all of them, or a fixed random choice so that images x places <= 4096 (at least one), in order."""
    count = min(tokens, max(1, ROWS // images))
    return torch.randperm(tokens, generator=torch_stream(seed, "observe", "places"))[:count].sort().values


def dense_agreement(a: Float[Tensor, "n N D"], b: Float[Tensor, "n N D"], seed: int, permutations: int = 20) -> Agreement:
    """Reliability, signal rank and spread of tokens, row (i, j) of both from the same physical place of image i.

    The mean over images is removed at every place, so that position alone does not count as agreement; the null permutes
    whole images. At most 4096 image-place rows are compared (a fixed random choice of places) and at most
    min(rows // 4, 256) principal directions.

    Returns: Agreement; tokens with NaN or Inf give nan numbers and say why.
    Raises:  ValueError if shapes differ; InputError for fewer than 8 images.
    """
    chosen = places(a.shape[0], a.shape[1], seed)
    return compare(a[:, chosen], b[:, chosen], seed=seed, permutations=permutations, most=WIDEST)
