"""One set of words for the tokens of all images: the same colour means the same thing in every image."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from headwater.observe.number import Number, absent, broken, flat
from headwater.observe.variance import HIGH
from headwater.streams import numpy_stream, torch_stream

ROWS = 16384  # tokens that the words are learned from
SCRAMBLED = "tokens whose numbers were dealt anew among tokens, channel by channel"
DEALT = "the same labels dealt anew over all places"
UNTRAINED = "the same network before training"


@dataclass(frozen=True, eq=False)
class Dictionary:
    """K words: mean (D,) of the tokens, centres (K, D) of the groups from there, most used first. limit: tokens farther from the
    mean than that belong to none. explained: share of the tokens' variance that lies between groups, 0 to 1."""

    mean: Float[Tensor, "D"]
    centres: Float[Tensor, "K D"]
    limit: float
    explained: Number


@dataclass(frozen=True, eq=False)
class Words:
    """Labels (n, N), -1 for high-norm tokens; share (n, K) of each word in each image.

    together: how often neighbouring places have the same word (null: the same labels dealt anew over the places of their image).
    image: how much of a word is told by which image it stands in, mutual information over the entropy of words: 0 (every image
    uses the words alike) to 1 (each image has a word of its own); null: labels dealt anew over all images."""

    labels: Integer[Tensor, "n N"]
    share: Float[Tensor, "n K"]
    together: Number
    image: Number


def fit(tokens: Float[Tensor, "n N D"], k: int = 8, *, untrained: Dictionary | None = None, seed: int = 0) -> Dictionary:
    """k groups of the tokens of all images (mini-batch k-means on centred tokens), from a fixed start.

    High-norm tokens, farther from the mean than three times the median, are left out: a few of them would take words for
    themselves. Null: the same of tokens that keep each channel's values but not what goes with what; or of an untrained network.

    Args: k: no more than there are different tokens. Unchanged by rotation, scale and shift of the tokens but for rounding.
    """
    width = tokens.shape[2]
    how = SCRAMBLED if untrained is None else UNTRAINED
    rows = tokens.detach().cpu().flatten(0, 1)
    why = broken(rows, "tokens")
    rows = rows[rows.isfinite().all(1)].double()
    blank = Dictionary(torch.zeros(width), torch.zeros(0, width), math.inf, absent(why or "there are no tokens", how))
    if not len(rows):
        return blank
    square, mean = float(rows.square().sum(1).mean()), rows.mean(0)
    norms = (rows - mean).norm(dim=1)
    limit = HIGH * float(norms.median())
    rows = rows[norms <= limit]
    chosen = torch.randperm(len(rows), generator=torch_stream(seed, "observe", "dictionary"))[:ROWS]
    x = (rows[chosen] - mean).numpy()
    if flat(float(np.square(x).sum(1).mean()), square, tokens.dtype):
        return Dictionary(mean.float(), torch.zeros(1, width), limit, absent("all tokens are the same", how))
    x = x / np.sqrt(np.square(x).sum(1).mean())
    centres, labels, value = _grouped(x, k, seed)
    if untrained is None:
        rng = numpy_stream(seed, "observe", "dictionary")
        null = _grouped(np.stack([rng.permutation(column) for column in x.T], 1), k, seed)[2]
    else:
        null = untrained.explained.value
    order = np.argsort(-np.bincount(labels, minlength=len(centres)), kind="stable")
    size = float(np.sqrt(np.square((rows[chosen] - mean).numpy()).sum(1).mean()))
    centres = torch.from_numpy(centres[order] * size).float()
    return Dictionary(mean.float(), centres, limit, Number(value, null, how, why))


def _grouped(x: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Centres, labels and the share of variance between groups."""
    from sklearn.cluster import MiniBatchKMeans

    k = min(k, len(np.unique(x[:512], axis=0)) if len(x) <= 512 else k, len(x))
    start = int(numpy_stream(seed, "observe", "words").integers(2**31))
    told = MiniBatchKMeans(k, random_state=start, n_init=3, batch_size=1024, max_iter=50).fit(x)
    labels = told.predict(x)
    used, labels = np.unique(labels, return_inverse=True)  # a word that nobody uses is none
    centres = np.stack([x[labels == word].mean(0) for word in range(len(used))])
    within = np.square(x - centres[labels]).sum() / np.square(x - x.mean(0)).sum()
    return centres, labels, float(1 - within)


def label(found: Dictionary, tokens: Float[Tensor, "n N D"]) -> Integer[Tensor, "n N"]:
    """The nearest word of each token; -1 for tokens beyond the limit and for what is not finite."""
    x = tokens.detach().cpu().float() - found.mean
    if not len(found.centres):
        return torch.full(tokens.shape[:2], -1)
    nearest = torch.cdist(x.nan_to_num(0.0, 0.0, 0.0), found.centres[None].expand(len(x), -1, -1)).argmin(-1)
    return nearest.masked_fill(~(x.norm(dim=-1) <= found.limit), -1)


def words(found: Dictionary, tokens: Float[Tensor, "n N D"], grid: tuple[int, ...] | None = None, seed: int = 0) -> Words:
    """The dictionary on images; grid: how the tokens lie (else nothing is said about neighbours). None of them class tokens."""
    labels = label(found, tokens)
    count = max(1, len(found.centres))
    share = torch.stack([torch.bincount(row[row >= 0], minlength=count).double() for row in labels])
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    return Words(labels, share, _together(labels, grid), _of_image(labels, count, seed))


def _together(labels: Tensor, grid: tuple[int, ...] | None) -> Number:
    how = "the same labels dealt anew over the places of their image"
    if grid is None or math.prod(grid) != labels.shape[1]:
        return absent("how the tokens lie is not known", how)
    laid, agreed, pairs = labels.unflatten(1, grid), 0, 0
    for axis, n in enumerate(grid, start=1):
        left, right = laid.narrow(axis, 0, n - 1), laid.narrow(axis, 1, n - 1)
        both = (left >= 0) & (right >= 0)
        agreed, pairs = agreed + int(((left == right) & both).sum()), pairs + int(both.sum())
    if not pairs:
        return absent("no two neighbouring tokens have words", how)
    chance = []
    for row in labels:
        counts = row[row >= 0].bincount().double()
        if counts.sum() > 1:  # two different places of the image, drawn at random
            chance.append(float((counts * (counts - 1)).sum() / (counts.sum() * (counts.sum() - 1))))
    return Number(agreed / pairs, sum(chance) / len(chance), how)


def _of_image(labels: Tensor, count: int, seed: int) -> Number:
    """Mutual information of word and image over the entropy of words."""
    if len(labels) < 2:
        return absent("one image", DEALT)
    image = torch.arange(len(labels))[:, None].expand_as(labels)[labels >= 0]
    word = labels[labels >= 0]
    if len(word.unique()) < 2:
        return absent("one word for all tokens", DEALT)

    def told(word: Tensor) -> float:
        joint = torch.bincount(image * count + word, minlength=len(labels) * count).view(-1, count).double() / len(word)
        a, b = joint.sum(1), joint.sum(0)
        return (_entropy(a) + _entropy(b) - _entropy(joint)) / _entropy(b)

    dealt = word[torch.randperm(len(word), generator=torch_stream(seed, "observe", "words"))]
    return Number(told(word), told(dealt), DEALT)


def _entropy(p: Tensor) -> float:
    return -float(torch.special.xlogy(p, p).sum())
