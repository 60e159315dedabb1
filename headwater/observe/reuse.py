"""Are the prototypes used, and do the features beat what was there before training?"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from headwater.observe.number import Number, absent, broken
from headwater.streams import numpy_stream, torch_stream

WARMTH = 0.07  # temperature of the neighbours' votes (Wu et al. 2018)
DRAWS = 2000
COMPONENTS = 64  # of the pixels at most
EVIDENCE = "the interval includes 0: no evidence of learning"


@dataclass(frozen=True)
class ReuseGain:
    """accuracy: balanced accuracy of the neighbours' vote on the trained features (null: guessing). over_untrained, over_pixels:
    that less the same on the network's own initialisation and on principal components of the pixels, with 95 % intervals."""

    accuracy: Number
    over_untrained: Number
    over_pixels: Number


def uniform_gap(loss: float, prototypes: int) -> Number:
    """Loss of a prototype objective less ln K. Within 1e-3 of 0 the output is uniform: nothing has been learned."""
    return Number(loss - math.log(prototypes), 0.0, f"uniform output over {prototypes} prototypes")


def prototype_use(assigned: Float[Tensor, "n K"], seed: int = 0) -> Number:
    """Share of the K prototypes in use: exp entropy of the mean assignment over K, 1/K (one prototype) to 1 (all alike).

    Null: each row turned round by a random number of prototypes, so that rows are as sharp as they are but fall by chance; n
    sharp rows cannot reach more than n of K prototypes, however healthy.

    Args: assigned: teacher's probabilities, rows divided by their sum here.
    """
    how = "the same rows falling on prototypes by chance"
    count, prototypes = assigned.shape
    rows = assigned.detach().cpu()
    total = rows.sum(1, keepdim=True, dtype=torch.float64)
    why = broken(rows, "rows") or ("" if count and (rows >= 0).all() and (total > 0).all() else "rows are not probabilities")
    if why:
        return absent(why, how)
    turns = torch.randint(prototypes, (count,), generator=torch_stream(seed, "observe", "prototypes")).tolist()
    mean, chance = torch.zeros(2, prototypes, dtype=torch.float64)
    for row, weight, turn in zip(rows, total, turns, strict=True):  # one row at a time: K may be 65536
        share = row / weight
        mean += share
        chance += share.roll(turn)
    return Number(_share_used(mean / count), _share_used(chance / count), how)


def _share_used(mean: Tensor) -> float:
    return float(torch.exp(-torch.special.xlogy(mean, mean).sum())) / len(mean)


def reuse_gain(
    features: Float[Tensor, "n d"],
    untrained: Float[Tensor, "n e"],
    pixels: Float[Tensor, "n p"],
    answers: Integer[Tensor, "n"],
    owners: Integer[Tensor, "n"] | None = None,
    neighbours: int = 10,
    seed: int = 0,
) -> ReuseGain:
    """Whether the features beat the untrained network's and the pixels' at telling classes apart, each image left out once.

    An image's class is voted by its 10 nearest others in cosine of the centred features, weighted by exp(cosine / 0.07) (Wu et
    al. 2018); accuracy is the mean over classes. The interval is of a bootstrap over owners (patients), paired between methods.

    Args: untrained: of the same network before training, same images; pixels: flattened, reduced here to their 64 leading
          principal components (no more than the features have, nor n // 4); answers: classes; owners: images of one owner
          neither vote for each other nor are drawn apart (else each image its own). Memory and time grow with n x n.
    """
    why = broken(features) or broken(untrained) or broken(pixels)
    kinds, labels = np.unique(answers.cpu().numpy(), return_inverse=True)
    of = np.arange(len(labels)) if owners is None else np.unique(owners.cpu().numpy(), return_inverse=True)[1]
    if len(labels) < 8 or len(kinds) < 2 or of.max(initial=0) < 3:
        why = why or f"{len(labels)} images of {len(kinds)} class(es) and {of.max(initial=-1) + 1} owner(s) are too few to judge"
    if why:
        return ReuseGain(*(absent(why),) * 3)
    reduced = _components(pixels, max(1, min(COMPONENTS, features.shape[1], len(labels) // 4)))
    right = [_votes(z, labels, len(kinds), of, neighbours) == labels for z in (features, untrained, reduced)]
    draws = numpy_stream(seed, "observe", "bootstrap").multinomial(of.max() + 1, np.full(of.max() + 1, 1 / (of.max() + 1)), DRAWS)
    accuracy = _interval(right[0].astype(float), labels, of, draws)
    gains = []
    for other, how in zip(right[1:], ("the same network before training", "principal components of the pixels"), strict=True):
        value, low, high = _interval(right[0].astype(float) - other, labels, of, draws)
        gains.append(Number(value, 0.0, how, "" if low > 0 or high < 0 else EVIDENCE, low, high))
    return ReuseGain(Number(accuracy[0], 1 / len(kinds), "guessing", "", *accuracy[1:]), *gains)


def _components(pixels: Tensor, k: int) -> Tensor:
    """Coordinates on the k leading principal components, from the n x n products (pixels are many)."""
    from scipy.sparse.linalg import eigsh

    x = pixels.detach().cpu().double()
    x = x - x.mean(0)
    start = np.linspace(1, 2, len(x))  # fixed, so that the same pixels give the same answer
    values, vectors = eigsh((x @ x.T).numpy(), k=k, v0=start)
    return torch.from_numpy(vectors * np.sqrt(values.clip(min=0)))


def _votes(z: Tensor, labels: np.ndarray, kinds: int, of: np.ndarray, neighbours: int) -> np.ndarray:
    """Each image's class by its nearest others of other owners."""
    x = z.detach().cpu().double()
    x = x - x.mean(0)
    x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-300)
    owner = torch.from_numpy(of)
    cosines = (x @ x.T).masked_fill(owner[:, None] == owner, -math.inf)
    near, where = cosines.topk(min(neighbours, len(x) - 1), dim=1)
    votes = torch.zeros(len(x), kinds, dtype=torch.float64)
    votes.scatter_add_(1, torch.from_numpy(labels)[where], torch.exp(near / WARMTH))
    return votes.argmax(1).numpy()


def _interval(score: np.ndarray, labels: np.ndarray, of: np.ndarray, draws: np.ndarray) -> tuple[float, float, float]:
    """Mean over classes of the mean score, and its 2.5 and 97.5 percentiles when owners are drawn again."""
    sums, counts = (np.zeros((of.max() + 1, labels.max() + 1)) for _ in range(2))
    np.add.at(sums, (of, labels), score)
    np.add.at(counts, (of, labels), 1.0)
    top, below = draws @ sums, draws @ counts
    drawn = np.divide(top, below, out=np.full_like(top, np.nan), where=below > 0)  # a class may miss from a draw
    low, high = np.nanpercentile(np.nanmean(drawn, axis=1), [2.5, 97.5])
    return float((sums.sum(0) / counts.sum(0)).mean()), float(low), float(high)
