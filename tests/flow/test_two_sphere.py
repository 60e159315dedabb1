"""The mean field on S^2 against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from headwater.flow import sphere
from headwater.flow.continuity import Unresolved
from headwater.flow.onset import growth_rates
from headwater.flow.two_sphere import TwoSphere

KINDS = ["SA", "USA"]


def lopsided(x: torch.Tensor) -> torch.Tensor:
    return (0.9 * x[..., 0] + 0.5 * x[..., 1] * x[..., 2] + 0.3 * x[..., 2]).exp()


def unit(field: TwoSphere, l: int, m: int) -> np.ndarray:
    c = np.zeros((field.degrees + 1, field.degrees + 1), complex)
    c[m, l] = 1.0 if m == 0 else np.exp(0.4j)
    return c


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, 1.0, 9.0, 64.0])
def test_prediction_14_rates_are_the_closed_form(beta, kind):
    expected = growth_rates(10, 3, beta, kind)
    assert np.abs(TwoSphere(beta, 24, kind=kind).rates()[1:11] - expected).max() < 1e-10 * expected.max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [1.0, 9.0])
def test_prediction_14_funk_hecke_on_the_grid(beta, kind):
    """Derivative of the whole right-hand side at uniform along Y_lm (central differences of order 4) is rate * Y_lm."""
    field, rates, h = TwoSphere(beta, 12, kind=kind), growth_rates(8, 3, beta, kind), 3e-4
    rest = field.start(lambda x: torch.ones_like(x[..., 0]))
    for l, m in ((1, 0), (1, 1), (2, 1), (3, 3), (5, 2), (8, 0), (8, 8)):
        along = unit(field, l, m)
        slope = [field._slope(rest + k * h * along)[0] for k in (-2, -1, 1, 2)]
        found = (slope[0] - 8 * slope[1] + 8 * slope[2] - slope[3]) / (12 * h)
        assert np.abs(found - rates[l - 1] * along).max() < 1e-10 * rates.max()


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_14_growth_in_time(kind):
    field, rates = TwoSphere(6.0, 12, kind=kind), growth_rates(4, 3, 6.0, kind)
    rest, t = field.start(lambda x: torch.ones_like(x[..., 0])), 1 / rates.max()
    start = rest + 1e-7 * (unit(field, 1, 1) + unit(field, 2, 0) + unit(field, 3, 2) + unit(field, 4, 4))
    found = field.solve(start, [0.0, t]).coefficients[1]
    for l, m in ((1, 1), (2, 0), (3, 2), (4, 4)):
        grown = np.log(found[m, l] / start[m, l])
        assert abs(grown.real / t - rates[l - 1]) < 1e-6 * rates.max() and abs(grown.imag) < 1e-6


def test_transforms_there_and_back():
    field = TwoSphere(1.0, 20)
    random = np.random.default_rng(0)
    c = np.triu(random.normal(size=(21, 21)) + 1j * random.normal(size=(21, 21)))
    c[0] = c[0].real
    assert np.allclose(field.analyse(field.values(c)), c, atol=1e-12)
    x = field.points()
    assert np.allclose(field.density(c, x).numpy(), field.values(c), atol=1e-11)
    assert (sphere.inner(x, x) - 1).abs().max() < 1e-14
    assert abs(field.area_weights.sum() * field.round - 4 * math.pi) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_flux_of_attention_by_direct_sums(kind):
    """The pull and Z of the harmonics against sums over the grid as quadrature; the flux against those gradients."""
    field, beta = TwoSphere(3.0, 20, kind=kind), 3.0
    c = field.start(lopsided)
    x = field.points().reshape(-1, 3)
    rho = torch.from_numpy((field.values(c) * field.area_weights[:, None]).reshape(-1))
    weight = (beta * x @ x.T).exp() * rho
    pull = sphere.tangent(x, (weight / weight.sum(-1, keepdim=True) if kind == "SA" else weight) @ x)
    _, v, z = field.on_grid(c)
    v = (v / z if kind == "SA" else v).reshape(2, -1)
    turn = torch.atan2(x[:, 1], x[:, 0])
    east = torch.stack((-turn.sin(), turn.cos(), 0 * turn), -1)
    south = torch.linalg.cross(east, x)
    assert np.allclose((pull * south).sum(-1).numpy(), v[0], atol=1e-9)
    assert np.allclose((pull * east).sum(-1).numpy(), v[1], atol=1e-9)


def test_beta_zero_keeps_the_poisson_kernel():
    """rho = ((1 - r^2) / |x - r a|^2)^2 / 4 pi stays so, with r' = (1 - r^2) / 2 <x, a> (Moebius action; Chandra 2019)."""
    start, times = 0.25, [0.0, 0.8, 1.6]

    def pole(r: float) -> float:
        return quad(lambda s: s / 2 * ((1 - r**2) / (1 - 2 * r * s + r**2)) ** 2, -1, 1, epsabs=1e-13)[0]

    radius = solve_ivp(lambda t, r: (1 - r**2) / 2 * pole(r[0]), (0, 1.6), [start], t_eval=times, rtol=1e-11, atol=1e-12).y[0]
    axis = sphere.project(torch.tensor([0.4, -0.7, 0.5], dtype=torch.float64))

    def kernel(r: float, x: torch.Tensor) -> torch.Tensor:
        return ((1 - r**2) / (1 - 2 * r * (x @ axis) + r**2)) ** 2 / (4 * math.pi)

    found = TwoSphere(0.0, 40).solve(lambda x: kernel(start, x), times)
    x = sphere.uniform(200, 3, torch.Generator().manual_seed(0))[0]
    for k in range(3):
        assert (found.density(x, k) - kernel(radius[k], x)).abs().max() < 1e-6


def test_a_rotated_start_gives_a_rotated_end():
    R = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    field, x = TwoSphere(2.0, 24, kappa=20.0), sphere.uniform(40, 3, torch.Generator().manual_seed(2))[0]
    plain = field.solve(lopsided, [0.0, 0.4]).density(x)
    turned = field.solve(lambda y: lopsided(y @ R), [0.0, 0.4]).density(x @ R.T)
    assert torch.allclose(plain, turned, atol=1e-6)


def test_energy_rises():
    """iint e^{beta <x, y>} rho rho, a sum over degrees of w_l |a_l|^2, grows along SA and USA and falls for V = -identity."""
    for kind in KINDS:
        for sign in (1.0, -1.0):
            field = TwoSphere(2.0, 20, kind=kind, strength=sign, tail=1e-3)
            found = field.solve(lopsided, [0.0, 0.05, 0.1, 0.15]).coefficients
            both = np.where(np.arange(21) == 0, 1, 2)[:, None]
            energy = (both * np.abs(found) ** 2 * field.sums).sum((1, 2))
            assert (sign * np.diff(energy) > 0).all()


def test_outgrown_degrees_are_told():
    with pytest.raises(Unresolved, match="degrees up to 16"):
        TwoSphere(2.0, 16).solve(lopsided, [0.0, 6.0])
