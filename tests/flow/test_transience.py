"""Numerical abscissa and eigenvalue shares against definitions, and the null against random matrix theory."""

import math

import pytest
import torch
from headwater.flow.transience import numerical_abscissa, random_null, weight_spectrum


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_abscissa_is_the_fastest_growth_at_the_first_moment():
    H = torch.randn(3, 6, 6, generator=stream(1), dtype=torch.float64)
    told = numerical_abscissa(H)
    h = 1e-6
    growth = (torch.linalg.matrix_norm(torch.matrix_exp(h * H), 2) - 1) / h
    assert torch.allclose(told, growth, atol=1e-4)
    assert bool((told >= torch.linalg.eigvals(H).real.amax(-1)).all())
    normal = torch.diag(torch.tensor([-1.0, 2.0]).double())
    assert float(numerical_abscissa(normal)) == 2.0
    stable = torch.tensor([[-1.0, 100.0], [0.0, -1.0]], dtype=torch.float64)  # decays in the end, grows first
    assert float(numerical_abscissa(stable)) == pytest.approx(49.0)


def test_shares_of_known_eigenvalues():
    H = torch.zeros(5, 5, dtype=torch.float64)
    H[0, 0], H[1, 1] = 3.0, -1.0
    H[2:4, 2:4] = torch.tensor([[1.0, -2.0], [2.0, 1.0]])  # 1 +- 2i; the last is 0 and does not count
    turn = torch.linalg.qr(torch.randn(5, 5, generator=stream(2), dtype=torch.float64))[0]
    found = weight_spectrum(turn @ H @ turn.T)
    assert float(found.positive) == 0.75 and float(found.real) == 2
    assert float(found.weighted) == pytest.approx((3 + 2 * math.sqrt(5)) / (4 + 2 * math.sqrt(5)))


def test_null_of_independent_weights():
    H = torch.randn(2, 40, 40, generator=stream(3), dtype=torch.float64) * torch.tensor([1.0, 5.0])[:, None, None]
    null = random_null(H, stream(4), draws=200)
    assert torch.allclose(null.mean.positive, torch.full((2,), 0.5).double(), atol=0.03)
    assert float(null.mean.real[0]) == pytest.approx(math.sqrt(2 * 40 / math.pi) + 0.5, rel=0.08)
    seen = weight_spectrum(H)
    for name in ("positive", "weighted", "real", "abscissa"):
        low, high, own = getattr(null.low, name), getattr(null.high, name), getattr(seen, name)
        assert bool(((own >= low - 0.1 * (high - low)) & (own <= high + 0.1 * (high - low))).all()), name
    assert float(null.mean.abscissa[1] / null.mean.abscissa[0]) == pytest.approx(float(H[1].norm() / H[0].norm()))
    assert float(null.mean.abscissa[0] / H[0].norm()) == pytest.approx(math.sqrt(2 / 40), rel=0.1)  # edge of the semicircle


def test_null_keeps_the_rank_and_flags_what_is_not_random():
    left, right = (torch.randn(*s, generator=stream(5), dtype=torch.float64) for s in ((32, 6), (6, 32)))
    null = random_null(left @ right, stream(6), draws=60)
    seen = weight_spectrum(left @ right)
    assert bool((null.low.abscissa <= seen.abscissa) & (seen.abscissa <= null.high.abscissa))
    full = random_null(left @ right, stream(6), draws=60, rank=32)
    assert float(full.high.abscissa) < float(null.low.abscissa)  # forgetting the rank would call random weights transient
    assert float(weight_spectrum(right.T @ right).positive) == 1.0 > float(null.high.positive) - 1e-9


def test_what_cannot_be_is_refused():
    for call in (
        lambda: weight_spectrum(torch.full((2, 2), math.nan)),
        lambda: random_null(torch.eye(3), stream(1), draws=5),
        lambda: random_null(torch.eye(3), stream(1), rank=4),
    ):
        with pytest.raises(ValueError):
            call()
