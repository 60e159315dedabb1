"""The mean field on the circle against closed forms."""

import math

import numpy as np
import pytest
import torch

from headwater.flow import sphere
from headwater.flow.circle import Circle, against_particles, two_humps
from headwater.flow.integrate import solve
from headwater.flow.onset import growth_rates
from headwater.flow.velocity import Attention

KINDS = ["SA", "USA"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, 1.0, 9.0, 81.0])
def test_prediction_13_rates_are_the_closed_form(beta, kind):
    expected = growth_rates(12, 2, beta, kind)
    assert np.abs(Circle(beta, 32, kind=kind).rates()[1:13] - expected).max() < 1e-12 * expected.max()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [1.0, 4.0, 16.0])
def test_prediction_13_growth_of_modes(beta, kind, sign):
    """Uniform with all modes up to 8 perturbed by 1e-9, so that products of modes stay below the tolerance."""
    rates, phase = sign * growth_rates(8, 2, beta, kind), np.arange(1, 9) ** 2
    t = 1 / np.abs(rates).max()
    c = np.zeros(25, complex)
    c[0], c[1:9] = 1 / (2 * math.pi), 1e-9 * np.exp(1j * phase)
    found = Circle(beta, 24, kind=kind, strength=sign).solve(c, [0.0, t])
    grown = np.log(found.coefficients[1][1:9] / c[1:9])
    assert np.abs(grown.imag).max() < 1e-6
    assert np.abs(grown.real / t - rates).max() < 1e-6 * np.abs(rates).max()


@pytest.mark.slow
def test_prediction_13_growth_of_a_mode_among_particles():
    """Mode 2 of n particles: error of its growth falls as n^{-1/2}, around the growth of the density."""
    beta, t, ends = 4.0, 0.8, []
    field = Circle(beta, 64)
    found = field.solve(lambda x: 1 + 0.2 * (2 * x[..., 0] ** 2 - 1), [0.0, t])
    law = 2 * math.pi * found.coefficients[1][2].real
    for n, replicates in ((80, 500), (320, 250)):
        x = found.sample(n, torch.Generator().manual_seed(n), batch=replicates, index=0)
        end = solve(Attention(beta), x, (0.0, t), step=0.1).end
        mode = (2 * end[..., 0] ** 2 - 1).mean(1)
        assert abs(float(mode.mean()) - law) < 4 * float(mode.std()) / replicates**0.5 + 2 / n
        ends.append(float(mode.std()) * n**0.5)
    assert 0.85 < ends[0] / ends[1] < 1.15


@pytest.mark.parametrize("kind", KINDS)
def test_kuramoto_keeps_the_poisson_kernel(kind):
    """beta = 0: coefficients r^k / 2 pi with r' = r (1 - r^2) / 2 (Ott and Antonsen 2008)."""
    start = 0.3
    found = Circle(0.0, 128, kind=kind).solve(lambda x: 1 / (1 - 2 * start * x[..., 0] + start**2), [0.0, 1.0, 2.0])
    for t, c in zip(found.times, found.coefficients, strict=True):
        odds = start**2 / (1 - start**2) * math.exp(t)
        r = math.sqrt(odds / (1 + odds))
        assert np.abs(2 * math.pi * c[:40] - r ** np.arange(40)).max() < 1e-8


def test_a_turned_start_gives_a_turned_end():
    turn, times = 0.7, [0.0, 1.0]
    field = Circle(3.0, 96)
    plain, turned = (
        field.solve(lambda x: two_humps(sphere.circle(sphere.angle(x) - a)), times)  # noqa: B023
        for a in (0.0, turn)
    )
    angle = torch.linspace(-3, 3, 50, dtype=torch.float64)
    found = turned.density(sphere.circle(angle + turn))
    assert torch.allclose(found, plain.density(sphere.circle(angle)), atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_velocity_is_that_of_many_particles(kind):
    """-div(rho v) of the solver against Attention on an even grid weighted by the density as multiplicities."""
    field, n = Circle(5.0, 48, kind=kind), 192
    c = field.start(two_humps)
    x, rho = field.points(), torch.from_numpy(field.values(c))
    score = 5.0 * x @ x.T
    weight = score.exp() * rho * (2 * math.pi / n)
    pull = (weight / weight.sum(-1, keepdim=True) if kind == "SA" else weight) @ x
    v = (sphere.tangent(x, pull) * torch.stack((-x[:, 1], x[:, 0]), -1)).sum(-1)
    assert np.allclose(field.flux((rho * v).numpy()[None]), field._slope(c)[0], atol=1e-12)


def test_another_weight():
    """w(s) = 1 + s / 2 unnormalised: only degrees 1 and 2 feel it, at pi (1 + ...) by hand: W_1 = pi, W_2 = pi / 8."""
    field = Circle(kind="USA", degrees=16, weight=lambda s: 1 + s / 2)
    assert np.allclose(field.sums[:3], [2 * math.pi, math.pi / 2, 0]) and np.allclose(field.pulls[1:4], [math.pi, math.pi / 8, 0])


def test_against_particles_has_what_the_figure_needs():
    shown = against_particles([0.0, 0.5, 1.0], 200, torch.Generator().manual_seed(0), degrees=96, step=0.1)
    assert shown.density.shape == (3, 721) and shown.particles.shape == shown.carried.shape == (3, 200)
    assert np.allclose(np.trapezoid(shown.density, shown.angles), 1, atol=1e-4)
    assert shown.mismatch[0] < 1e-12 and 0 < shown.mismatch[1] < shown.mismatch[2] < 0.5


@pytest.mark.slow
def test_prediction_36_carried_density_at_the_rate_root_n():
    """Root mean square over twenty clouds of the mismatch of carried density: four times the particles, half the error."""
    found = []
    for n in (100, 400, 1000):
        runs = [
            against_particles([0.0, 1.0], n, torch.Generator().manual_seed(k), beta=1.0, degrees=64, step=0.25).mismatch[-1]
            for k in range(20)
        ]
        found.append(np.sqrt(np.mean(np.square(runs))))
    slope = np.polyfit(np.log([100, 400, 1000]), np.log(found), 1)[0]
    assert abs(slope + 0.5) < 0.1
