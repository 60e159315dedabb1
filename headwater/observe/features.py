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
BLOCK = 1024  # images whose products with all others are held at once
WIDE = 128  # directions above which only the largest eigenvalue of a permuted pairing is sought
STEPS = 48  # of Lanczos' method then: right to 1e-6 where eigenvalues lie as closely as those of noise in 512 directions


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


@torch.autocast("cpu", enabled=False)  # products stay as precise as they are made
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
    """95th percentile of the reliability of permuted pairs, from the products of all images with all, in single precision."""
    partners = torch.stack([_partners(len(x), generator) for _ in range(NULL_DRAWS)])  # (draws, n)
    left, right = (_scaled(z).flatten(1) for z in (x, y))
    drawn = torch.zeros(NULL_DRAWS, dtype=torch.float64)
    for start in range(0, len(x), BLOCK):
        products = left[start : start + BLOCK] @ right.T
        drawn += products.gather(1, partners[:, start : start + BLOCK].T).double().sum(0)
    return float(drawn.quantile(0.95))


def _scaled(x: Tensor) -> Tensor:
    """Of length one as a whole, so that single precision does for features of any scale."""
    return (x / x.square().sum().sqrt()).float()


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
    x, y = x / x.square().sum().sqrt(), y / y.square().sum().sqrt()
    left = x.flatten(0, 1).T
    partners = [_partners(len(y), generator) for _ in range(null)]
    whole = len(left) <= WIDE
    permuted = [_eigenvalues(left, y[p]) for p in partners] if whole else list(_largest(x, y, torch.stack(partners, 1))[:, None])
    floor = max(float(torch.stack([values[-1] for values in permuted]).quantile(0.95)), 0.0)
    if not whole:  # all eigenvalues only of the pairings that have any above the floor
        permuted = [_eigenvalues(left, y[p]) if v[0] > floor else v for v, p in zip(permuted, partners, strict=True)]
    chance = torch.tensor([_entropy_rank(values[values > floor]) for values in permuted], dtype=torch.float64)
    shared = _eigenvalues(left, y)
    return _entropy_rank(shared[shared > floor]), float(chance.quantile(0.95))


def _largest(x: Tensor, y: Tensor, partners: Tensor) -> Tensor:
    """Largest eigenvalue of (X'Y + Y'X)/2n for each of k permuted pairings (n, k) of y: Lanczos' method on all at once.

    No d x d matrix is made: a step is four products with k columns, in single precision, orthogonal to all steps before.
    """
    (n, places, d), k = x.shape, partners.shape[1]
    left, right = (_scaled(z).flatten(0, 1) for z in (x, y))  # (n P, d)
    there = partners[:, None].expand(n, places, k)
    back = torch.empty_like(partners).scatter_(0, partners, torch.arange(n)[:, None].expand(n, k))[:, None].expand(n, places, k)

    def paired(rows: Tensor, order: Tensor) -> Tensor:
        return rows.view(n, places, k).gather(0, order).view(n * places, k)

    steps = min(STEPS, d)
    basis, main, side = torch.zeros(steps + 1, d, k), torch.zeros(k, steps), torch.zeros(k, steps)
    basis[0] = torch.randn(d, 1, generator=torch_stream(0, "observe", "largest"))
    basis[0] /= basis[0].norm(dim=0)
    for step in range(steps):
        q = basis[step]
        z = (left.T @ paired(right @ q, there) + right.T @ paired(left @ q, back)) / 2
        main[:, step] = (q * z).sum(0)
        for _ in range(2):  # twice is enough
            z = z - (basis[: step + 1] * (basis[: step + 1] * z).sum(1, keepdim=True)).sum(0)
        side[:, step] = z.norm(dim=0)
        basis[step + 1] = torch.where(side[:, step] > 1e-6 * main.abs().amax(1), z / side[:, step], 0.0)
    side = side[:, :-1] * (basis[1:-1].square().sum(1) > 0).T  # where it ended early, the rest is apart
    return torch.linalg.eigvalsh((main.diag_embed() + side.diag_embed(1) + side.diag_embed(-1)).double())[:, -1] / (n * places)


def _eigenvalues(left: Tensor, y: Tensor) -> Tensor:
    cross = left @ y.flatten(0, 1) / left.shape[1]  # (D, D)
    return torch.linalg.eigvalsh((cross + cross.T) / 2)


def _entropy_rank(values: Tensor) -> float:
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-(share * share.log()).sum()))
