"""Growth around the uniform state against quadrature, against particles and against scipy's Bessel functions."""

import math

import numpy as np
import pytest
import torch
from headwater.flow import clusters, onset, sphere, velocity
from scipy.integrate import quad
from scipy.special import eval_gegenbauer, gamma, ive, roots_gegenbauer


def test_rates_are_ratios_of_bessel_functions():
    for d, beta in ((2, 0.5), (3, 9.0), (7, 300.0), (2, 1e4), (16, 30.0)):
        l, nu = np.arange(1, 9), d / 2 - 1
        told = l * (l + d - 2) * ive(l + nu, beta) / (beta * ive(nu, beta))
        assert onset.growth_rates(8, d, beta) == pytest.approx(told, rel=1e-12)
        if beta < 300:
            scaled = l * (l + d - 2) * gamma(d / 2) * (2 / beta) ** nu * ive(l + nu, beta) * np.exp(beta) / beta
            assert onset.growth_rates(8, d, beta, "USA") == pytest.approx(scaled, rel=1e-11)


def test_rates_by_quadrature_of_the_linearised_velocity():
    """USA: l(l+d-2)/beta times the Funk-Hecke eigenvalue of e^{beta t}; SA: divided by its mean."""
    for d, beta in ((3, 2.0), (4, 5.0), (8, 3.0)):
        nodes, weights = roots_gegenbauer(60, d / 2 - 1)
        weights = weights / weights.sum()
        mean = weights @ np.exp(beta * nodes)
        for degree in (1, 2, 5):
            harmonic = eval_gegenbauer(degree, d / 2 - 1, nodes) / eval_gegenbauer(degree, d / 2 - 1, 1.0)
            rate = degree * (degree + d - 2) / beta * (weights @ (np.exp(beta * nodes) * harmonic))
            assert onset.growth_rates(degree, d, beta, "USA")[-1] == pytest.approx(rate, rel=1e-9)
            assert onset.growth_rates(degree, d, beta)[-1] == pytest.approx(rate / mean, rel=1e-9)


@pytest.mark.parametrize("normalised", [True, False])
def test_rates_of_particles_on_the_circle(normalised):
    """400 tokens, evenly spaced and moved by 1e-6 sin(k a) / k: the k-th mode grows at its rate (spectral accuracy)."""
    n, beta, kind = 400, 6.0, "SA" if normalised else "USA"
    even = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    v = velocity.Attention(beta, normalised=normalised)
    for k in (1, 3, 5):
        angle = even + 1e-6 * torch.sin(k * even)
        x = sphere.circle(angle)[None]
        across = torch.stack([-x[..., 1], x[..., 0]], -1)
        speed = (v(0.0, x) * across).sum(-1)[0]
        rate = float((speed * torch.sin(k * even)).sum() / (1e-6 * torch.sin(k * even) ** 2).sum())
        assert rate == pytest.approx(onset.growth_rates(k, 2, beta, kind)[-1], rel=1e-4)


def test_large_beta_and_large_width_stay_finite():
    for d, beta in ((2, 1e6), (3, 1e6), (4096, 1.0), (768, 1e4), (2, 1e-8)):
        for kind in ("SA", "USA"):
            assert np.isfinite(onset.log_growth_rates(4, d, beta, kind)).all()
    assert onset.growth_rates(4, 2, 1e6)[0] == pytest.approx(1e-6, rel=1e-5)
    assert onset.growth_rates(1, 4096, 1.0)[0] == pytest.approx(4095 / 4096, rel=1e-6)
    with pytest.raises(ValueError, match="log_growth_rates"):
        onset.growth_rates(4, 3, 1e4, "USA")
    assert list(onset.growth_rates(2, 3, 0.0)) == pytest.approx([2 / 3, 0.0])


def test_fastest_degree_on_the_circle():
    assert [onset.first_degree(2, b) for b in (4.0, 9.0, 16.0, 64.0, 256.0)] == [3, 4, 6, 11, 23]
    for beta in (100.0, 1e4):
        assert onset.first_degree(2, beta) == pytest.approx(math.sqrt(2 * beta), abs=0.6)
    assert onset.first_degree(768, 1.0) == 1 and onset.first_cluster_count(3, 0.5) == 1.0
    degree = onset.first_degree(3, 64.0)
    assert onset.first_cluster_count(3, 64.0) == pytest.approx(1 / math.sin(math.pi / degree / 2) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [4.0, 9.0, 16.0, 32.0])
def test_prediction_15_first_cluster_count(follow, beta):
    """Peaks on the circle that form from a nearly uniform start (n = 400, mean of 8): fastest degree +-1, sqrt(2 b) +-1."""
    n, starts, g = 400, 8, torch.Generator().manual_seed(int(beta))
    even = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    angle = even + 1e-3 * torch.randn(starts, n, generator=g, dtype=torch.float64)
    rate = onset.growth_rates(onset.first_degree(2, beta), 2, beta)[-1]
    times = [0.0, *(k / rate for k in (6.0, 8.0, 10.0, 12.0, 14.0))]
    states = follow(sphere.circle(angle), times, 0.25, beta)
    counts = []
    for member in range(starts):
        seen = (clusters.clusters(state[member], math.cos(0.25 / math.sqrt(beta)), smallest=n // 50) for state in states)
        counts.append(next(c.count for c in seen if c.tight > 0.9))
    assert abs(np.mean(counts) - onset.first_cluster_count(2, beta)) <= 1, counts
    assert abs(np.mean(counts) - math.sqrt(2 * beta)) <= 1, counts


def test_critical_noise():
    assert onset.critical_kappa(2, 0.0) == pytest.approx(2.0) and onset.critical_kappa(7, 0.0, "SA") == pytest.approx(7.0)
    for d, beta in ((2, 1.5), (3, 4.0), (6, 10.0)):
        told = beta ** (d / 2) / (2 ** (d / 2 - 1) * gamma(d / 2) * ive(d / 2, beta) * np.exp(beta))
        assert onset.critical_kappa(d, beta) == pytest.approx(told, rel=1e-11)
        for kind in ("SA", "USA"):  # at kappa_c degree 1 stands still, the others decay
            l = np.arange(1, 12)
            noisy = onset.growth_rates(11, d, beta, kind) - l * (l + d - 2) / onset.critical_kappa(d, beta, kind)
            assert abs(noisy[0]) < 1e-12 * onset.growth_rates(1, d, beta, kind)[0] and (noisy[1:] < 0).all()


def test_transition_beta():
    for d in (2, 3, 8, 64):
        beta = onset.transition_beta(d)
        assert ive(d / 2 + 1, beta) / ive(d / 2, beta) == pytest.approx(1 / d, rel=1e-10)


def test_uniform_sum():
    for d, beta in ((2, 3.0), (3, 40.0), (5, 9.0)):
        mean = quad(lambda u, b=beta, d=d: np.exp(b * (u - 1)) * (1 - u * u) ** ((d - 3) / 2), -1, 1)[0]
        mean /= quad(lambda u, d=d: (1 - u * u) ** ((d - 3) / 2), -1, 1)[0]
        assert onset.log_uniform_sum(d, beta) == pytest.approx(beta + math.log(mean), rel=1e-7)


def test_what_cannot_be_is_refused():
    for call in (
        lambda: onset.growth_rates(3, 1, 1.0),
        lambda: onset.growth_rates(3, 2, -1.0),
        lambda: onset.growth_rates(0, 2, 1.0),
    ):
        with pytest.raises(ValueError):
            call()
