"""Do two views of the same images agree, and in how many directions? Each number comes with its own chance level."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError
from headwater.streams import torch_stream

FEWEST = 8  # images; below this a permuted pairing is too often the true one
NULL_DRAWS = 200  # permuted pairings behind null95; a draw costs a gather, not a matrix product


@dataclass(frozen=True)
class Agreement:
    """How far two views of the same images agree.

    reliability: -1 to 1; 1 if both views give the same features. null95: what permuted pairs reach in 95 of 100 draws.
    error: standard error of reliability (jackknife over images). rank: directions that agree beyond chance, 0 to d;
    rank_null95: what permuted pairs reach in 95 of 100 draws.
    n: images. d: directions compared, after the PCA. spread: share of the features' mean square that differs between
    images, 0 (every image gets the same features) to 1. why: empty, or what kept a number from being computed (nan).
    """

    reliability: float
    null95: float
    rank: float
    n: int
    d: int
    spread: float
    error: float = math.nan
    rank_null95: float = math.nan
    why: str = ""

    def numbers(self) -> dict[str, float | int | str]:
        """The fields as a dictionary for events.jsonl; `why` only where there is something to say."""
        return {name: value for name, value in vars(self).items() if name != "why" or value}


def reliability(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """Cross-view reliability tr(A'B) / sqrt(tr A'A tr B'B) of the centred features A, B.

    Args:    a, b: features of the two views, row i of both from image i.
    Returns: -1 to 1; unchanged by rotation, scaling and shift of both; nan if one view does not vary.
    Raises:  ValueError if shapes differ; InputError for fewer than 8 images.
    """
    _check(a, b)
    return _reliability(_centre(a[:, None]), _centre(b[:, None]))


def signal_rank(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], null: int = 20, generator: torch.Generator | None = None
) -> float:
    """Number of directions in which two views of the same images agree beyond chance.

    Entropy rank of the eigenvalues of (A'B + B'A)/2n above the 95th percentile of the largest one under permuted pairs.

    Args:    a, b: features of the two views, row i of both from image i; null: how many permuted pairings;
             generator: draws them (a fixed one if not given).
    Returns: 0 (nothing shared) to d. It grows with n: compare within one run, at one n.
    Raises:  ValueError if shapes differ; InputError for fewer than 8 images.
    """
    _check(a, b)
    generator = generator if generator is not None else torch_stream(0, "observe", "pairs")
    return _signal_rank(_centre(a[:, None]), _centre(b[:, None]), null, generator)[0]


def agreement(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], *, seed: int, permutations: int = 20) -> Agreement:
    """Reliability, signal rank and spread of image-level features, each with its chance level.

    If n < 4d, both views are first projected on their n//4 leading common principal directions.

    Args:    a, b: features of the two views, row i of both from image i; any float type, compared in float64.
             seed: fixes the permuted pairings, so that two measurements of one run share their chance level.
    Returns: Agreement; features with NaN or Inf give nan numbers and say why.
    Raises:  ValueError if shapes differ; InputError for fewer than 8 images.
    """
    return compare(a[:, None], b[:, None], seed=seed, permutations=permutations)


def compare(
    a: Float[Tensor, "n P D"], b: Float[Tensor, "n P D"], *, seed: int, permutations: int = 20, most: int | None = None
) -> Agreement:
    """Agreement of n images described at P places each; P = 1 for image-level features.

    The mean over images is removed at every place. The null permutes whole images, the same way at every place: tokens
    of one image are not independent, so permuting each place by itself would make chance look too small.

    Args: most: upper limit of the directions kept by the PCA (none if not given).
    """
    _check(a, b)
    n, width = a.shape[0], a.shape[-1]
    d = min(width, max(1, n * a.shape[1] // 4))
    d = min(d, most) if most else d
    broken = ~(a.flatten(1).isfinite().all(1) & b.flatten(1).isfinite().all(1))
    if broken.any():
        why = f"features of {int(broken.sum())} of {n} images are not finite"
        return Agreement(math.nan, math.nan, math.nan, n, d, math.nan, why=why)
    x, y = _centre(a), _centre(b)
    square = float(a.detach().double().square().mean() + b.detach().double().square().mean())
    spread = float(x.square().mean() + y.square().mean()) / square if square > 0 else 0.0
    if float(x.square().sum()) == 0 or float(y.square().sum()) == 0:
        return Agreement(math.nan, math.nan, 0.0, n, d, spread, why="every image has the same features")
    if d < width:
        x, y = _project(x, y, d)
    generator = torch_stream(seed, "observe", "pairs")
    null95, error = _chance(x, y, generator), _error(x, y)
    rank, rank_null95 = _signal_rank(x, y, permutations, generator)
    return Agreement(_reliability(x, y), null95, rank, n, d, spread, error, rank_null95)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"the two views need the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if len(a) < FEWEST:
        raise InputError(f"Agreement between views needs at least {FEWEST} images, there are {len(a)}. Add scans to compare.")


def _centre(a: Tensor) -> Tensor:
    a = a.detach().cpu().double()
    return a - a.mean(0, keepdim=True)


def _project(x: Tensor, y: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Both on the d leading directions of their pooled covariance, which does not know the pairing."""
    rows = torch.cat([x, y]).flatten(0, 1)
    if len(rows) >= rows.shape[1]:
        axes = torch.linalg.eigh(rows.T @ rows)[1][:, -d:]
    else:
        axes = torch.linalg.svd(rows, full_matrices=False)[2][:d].T
    return x @ axes, y @ axes


def _reliability(x: Tensor, y: Tensor) -> float:
    scale = float(x.square().sum().sqrt() * y.square().sum().sqrt())
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def _chance(x: Tensor, y: Tensor, generator: torch.Generator) -> float:
    """95th percentile of the reliability of permuted pairs, from all n x n products at once."""
    products = x.flatten(1) @ y.flatten(1).T
    products = products / (x.square().sum().sqrt() * y.square().sum().sqrt())
    rows = torch.arange(len(x))
    drawn = [products[rows, _partners(len(x), generator)].sum() for _ in range(NULL_DRAWS)]
    return float(torch.stack(drawn).quantile(0.95))


def _partners(n: int, generator: torch.Generator) -> Tensor:
    """A random pairing in which nobody meets their own other view: one cycle through all, in random order."""
    order = torch.randperm(n, generator=generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _error(x: Tensor, y: Tensor) -> float:
    """Standard error of the reliability: each image left out once (the means are kept)."""
    shared, left, right = ((u * v).flatten(1).sum(1) for u, v in ((x, y), (x, x), (y, y)))
    without = (shared.sum() - shared) / ((left.sum() - left) * (right.sum() - right)).sqrt()
    return float(((len(x) - 1) * without.var(correction=0)).sqrt())


def _signal_rank(x: Tensor, y: Tensor, null: int, generator: torch.Generator) -> tuple[float, float]:
    """The signal rank, and the 95th percentile of what the permuted pairings score by the same measure."""
    left = x.flatten(0, 1).T
    shared = _eigenvalues(left, y)
    permuted = torch.stack([_eigenvalues(left, y[_partners(len(y), generator)]) for _ in range(null)])
    floor = max(float(permuted[:, -1].quantile(0.95)), 0.0)
    chance = torch.tensor([_entropy_rank(values[values > floor]) for values in permuted], dtype=torch.float64)
    return _entropy_rank(shared[shared > floor]), float(chance.quantile(0.95))


def _eigenvalues(left: Tensor, y: Tensor) -> Tensor:
    cross = left @ y.flatten(0, 1) / left.shape[1]  # (D, D)
    return torch.linalg.eigvalsh((cross + cross.T) / 2)


def _entropy_rank(values: Tensor) -> float:
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-(share * share.log()).sum()))
