"""Numbers of a layer's value-output map H that matter at finite depth, each beside what random weights of its size show."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ZERO = 1e-6  # singular and eigenvalues below this share of the largest count as zero


@dataclass(frozen=True)
class WeightSpectrum:
    """What the eigenvalues of H say; leading axes as of H.

    positive: share of the nonzero eigenvalues with Re > 0. weighted: the same, each weighted with its modulus. real: number of
    real ones. abscissa: largest eigenvalue of (H + H^T)/2, the fastest possible growth of |x| under x' = H x at any moment.
    """

    positive: Float[Tensor, "*L"]
    weighted: Float[Tensor, "*L"]
    real: Float[Tensor, "*L"]
    abscissa: Float[Tensor, "*L"]


@dataclass(frozen=True)
class RandomNull:
    """The same numbers for random weights of equal shape, rank and Frobenius norm: mean and a central 95 % range."""

    mean: WeightSpectrum
    low: WeightSpectrum
    high: WeightSpectrum
    draws: int


def _finite(H: Tensor) -> Tensor:
    if H.ndim < 2 or H.shape[-1] != H.shape[-2] or not bool(torch.isfinite(H).all()):
        raise ValueError(f"H must be finite and square in its last two axes, not of shape {tuple(H.shape)}.")
    return H.detach().to("cpu", torch.float64)


def numerical_abscissa(H: Float[Tensor, "*L d d"]) -> Float[Tensor, "*L"]:
    """lambda_max((H + H^T)/2): at least the largest real part of the eigenvalues, equal to it for normal H."""
    H = _finite(H)
    return torch.linalg.eigvalsh((H + H.mT) / 2)[..., -1]


def _read(values: Tensor, abscissa: Tensor) -> WeightSpectrum:
    size = values.abs()
    kept = size > ZERO * size.amax(-1, keepdim=True)
    up = kept & (values.real > 0)
    count, total = kept.sum(-1), (size * kept).sum(-1)
    real = kept & (values.imag.abs() <= 1e-9 * size)
    return WeightSpectrum(up.sum(-1) / count.double(), (size * up).sum(-1) / total, real.sum(-1).double(), abscissa)


def weight_spectrum(H: Float[Tensor, "*L d d"]) -> WeightSpectrum:
    """Eigenvalue shares, number of real eigenvalues and numerical abscissa of each H. nan where H has no nonzero eigenvalue."""
    H = _finite(H)
    return _read(torch.linalg.eigvals(H), numerical_abscissa(H))


def random_null(H: Float[Tensor, "*L d d"], generator: torch.Generator, draws: int = 100, rank: int | None = None) -> RandomNull:
    """weight_spectrum of random weights like H: iid Gaussian, or of rank k < d a product of Gaussian (d, k) and (k, d) factors.

    The Frobenius norm of each H is kept. rank: None takes the largest numerical rank among the given H. For full rank the share
    of Re > 0 is 1/2 and about sqrt(2 d / pi) + 1/2 eigenvalues are real. Costs `draws` eigenproblems of size min(k, d) and d.
    """
    H = _finite(H)
    d = H.shape[-1]
    if rank is None:
        sizes = torch.linalg.svdvals(H).reshape(-1, d)
        rank = int((sizes > ZERO * sizes[:, :1]).sum(1).max()) or d
    if not 1 <= rank <= d or draws < 20:
        raise ValueError(f"The null needs 1 <= rank <= {d} and at least 20 draws, not rank={rank}, draws={draws}.")
    rows = []
    for _ in range(draws):
        if rank == d:
            whole = small = torch.randn(d, d, generator=generator, dtype=torch.float64)
        else:
            left = torch.randn(d, rank, generator=generator, dtype=torch.float64)
            right = torch.randn(rank, d, generator=generator, dtype=torch.float64)
            whole, small = left @ right, right @ left  # the same nonzero eigenvalues
        one = _read(torch.linalg.eigvals(small), numerical_abscissa(whole) / whole.norm())
        rows.append(torch.stack([one.positive, one.weighted, one.real, one.abscissa]))
    table, norms = torch.stack(rows), torch.linalg.matrix_norm(H)

    def summary(row: Tensor) -> WeightSpectrum:
        positive, weighted, real = (row[k].expand(norms.shape) for k in range(3))
        return WeightSpectrum(positive, weighted, real, row[3] * norms)

    return RandomNull(summary(table.mean(0)), summary(table.quantile(0.025, 0)), summary(table.quantile(0.975, 0)), draws)
