"""What do tokens differ by: the image, the position or the content? Are neighbours alike? Are a few tokens enormous?"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.observe.number import Number, absent, broken, flat
from headwater.streams import torch_stream

HIGH = 3.0  # times the median norm; what Darcet et al. (2024) cure by registers lies above it
PAIRS = 2**22  # anchors times tokens at most: distances of a dense map of a volume fill no memory
ANCHORS = 512  # tokens whose neighbours are looked up at most
WORK = 5e8  # multiplications spent on cosines at most; the first images that fit, 17 of 14 x 14 tokens of 768
SHUFFLES = 20
ROWS = 4096  # tokens behind the covariance of the null, and drawn from it


@dataclass(frozen=True)
class TokenVariance:
    """Shares of the tokens' variance, 0 to 1, summing to 1. image: between images' means; position: between places' means;
    content: what is left. Null: the same tokens dealt out at random over images and places (exact, no draw)."""

    image: Number
    position: Number
    content: Number


def token_variance(tokens: Float[Tensor, "B N D"]) -> TokenVariance:
    """Two-way analysis of variance of tokens of B images at N places each. Unchanged by rotation, scale and shift.

    image near 1: tokens of an image are all the same (oversmoothed). position near 1: tokens say where they are and nothing
    else. High-norm tokens dominate the shares: look at `high_norm` beside them.
    """
    images, places, _ = tokens.shape
    how = "the same tokens dealt out at random over images and places"
    x = tokens.detach().cpu().double()
    square = float(x.square().sum(-1).mean())
    x = x - x.mean((0, 1))
    total = float(x.square().sum(-1).mean())
    why = broken(tokens)
    if not why and min(images, places) < 2:
        why = f"{images} image(s) with {places} token(s): image, position and content need two of each to be told apart"
    if not why and flat(total, square, tokens.dtype):
        why = "all tokens are the same"
    if why:
        return TokenVariance(*(absent(why, how),) * 3)
    image = float(x.mean(1).square().sum(-1).mean()) / total
    position = float(x.mean(0).square().sum(-1).mean()) / total
    free = images * places - 1
    by_chance = (images - 1) / free, (places - 1) / free, (images - 1) * (places - 1) / free
    shares = image, position, max(0.0, 1 - image - position)
    return TokenVariance(*(Number(share, null, how) for share, null in zip(shares, by_chance, strict=True)))


def locality(tokens: Float[Tensor, "B N D"], places: Float[Tensor, "N k"], seed: int = 0) -> Number:
    """Cosine between neighbouring tokens less that between tokens half a grid or more apart, over the content of the tokens.

    Content: the means of each image and of each place are removed, so that a smooth position code is not taken for locality.
    Tokens above three times the median norm are scaled down to it first. Falling in training: dense features decay.

    Args:    places: of the N tokens (`heads.grid_places`); neighbours are at the smallest distance there is.
             seed: which tokens are looked up (512 at most) and the shuffles.
    Returns: -2 to 2; null: 95th percentile of 20 shufflings of the places.
    """
    how = f"95th percentile of {SHUFFLES} shufflings of the places"
    images, count, width = tokens.shape
    why = broken(tokens) or ("" if images > 1 else "one image: content cannot be told from position")
    if not why and count < 4:
        why = f"{count} tokens have no near and far"
    if why:
        return absent(why, how)
    x = tokens.detach().cpu().double()
    square = float(x.square().sum(-1).mean())
    norms = x.norm(dim=-1, keepdim=True)
    x = x * (HIGH * norms.median() / norms.clamp(min=1e-300)).clamp(max=1)
    x = x - x.mean(1, keepdim=True) - x.mean(0) + x.mean((0, 1))
    if flat(float(x.square().sum(-1).mean()), square, tokens.dtype):
        return absent("tokens have no content beside image and position", how)
    generator = torch_stream(seed, "observe", "locality")
    anchors = torch.randperm(count, generator=generator)[: min(ANCHORS, max(16, PAIRS // count))]
    x = x[: max(1, int(WORK / (len(anchors) * count * width)))]
    x = (x / x.norm(dim=-1, keepdim=True).clamp(min=1e-300)).transpose(0, 1).flatten(1)  # (N, B D)
    cosines = x[anchors] @ x.T / (x.shape[1] / width)
    places = places.double().cpu()
    apart = torch.cdist(places[anchors], places)  # of the anchors alone: all pairs of a dense map fill the memory
    span = float((places.max(0).values - places.min(0).values).max()) / 2
    nearest = float(apart[apart > 0].min()) if (apart > 0).any() else 0.0
    if not nearest * 1.01 < span:
        return absent("the grid is too small to have near and far", how)
    value = _contrast(cosines, apart, nearest, span)
    orders = [torch.randperm(count, generator=generator) for _ in range(SHUFFLES)]
    chance = [_contrast(cosines, torch.cdist(places[order[anchors]], places[order]), nearest, span) for order in orders]
    return Number(value, float(torch.tensor(chance, dtype=torch.float64).quantile(0.95)), how)


def _contrast(cosines: Tensor, apart: Tensor, nearest: float, span: float) -> float:
    near = (apart > 0) & (apart <= nearest * 1.01)
    return float(cosines[near].mean() - cosines[apart >= span].mean())


def high_norm(tokens: Float[Tensor, "B N D"], seed: int = 0) -> Number:
    """Share of tokens whose norm is above three times the median norm: artefacts that hold global information, or background.

    Null: the share among 4096 Gaussian tokens of the same mean and covariance, since few directions alone make long tails.
    """
    how = "Gaussian tokens of the same mean and covariance"
    rows = tokens.detach().cpu().double().flatten(0, 1)
    why = broken(tokens) or ("" if len(rows) > 1 else "one token")
    norms = rows.norm(dim=1)
    if not why and not float(norms.median()) > 0:
        why = "more than half of the tokens are zero"
    if why:
        return absent(why, how)
    generator = torch_stream(seed, "observe", "norms")
    some = rows[torch.randperm(len(rows), generator=generator)[:ROWS]]
    mean = some.mean(0)
    values, axes = torch.linalg.eigh((some - mean).T @ (some - mean) / len(some))
    drawn = torch.randn(ROWS, len(mean), generator=generator, dtype=torch.float64)
    drawn = (drawn * values.clamp(min=0).sqrt() + mean @ axes).norm(dim=1)  # in the axes of the covariance
    return Number(_share(norms), _share(drawn), how)


def _share(norms: Tensor) -> float:
    middle = float(norms.median())
    return float((norms > HIGH * middle).double().mean()) if middle > 0 else math.nan
