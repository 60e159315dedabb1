"""Mean field: mass, order in time, noise, limits, and particles at the rate n^{-1/2}. The harmonics have their own tests."""

import math

import numpy as np
import pytest
import torch

from headwater.flow import sphere
from headwater.flow.circle import Circle, two_humps
from headwater.flow.continuity import Unresolved
from headwater.flow.density import push
from headwater.flow.integrate import solve
from headwater.flow.onset import critical_kappa, growth_rates
from headwater.flow.terms import Noise
from headwater.flow.two_sphere import TwoSphere
from headwater.flow.velocity import Attention

FORMS = [Circle, TwoSphere]
KINDS = ["SA", "USA"]


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lopsided(x: torch.Tensor) -> torch.Tensor:
    return (0.9 * x[..., 0] + 0.5 * x[..., 1] * x[..., 0] + 0.3 * x[..., -1]).exp()


def ripple(size: float):
    return lambda x: 1 + size * x[..., 0]


class Moments:
    """Attention on the circle in time of n: e^{beta cos} in `terms` Fourier modes. Checked against Attention below."""

    space = "sphere"

    def __init__(self, beta: float, kind: str, terms: int = 14):
        field = Circle(beta, terms - 1, kind=kind)
        self.sums, self.pulls = torch.from_numpy(field.sums), torch.from_numpy(field.pulls)
        self.kind, self.terms = kind, terms

    def __call__(self, t, x):
        turn, power = torch.view_as_complex(x.contiguous()), 1.0
        z, pull = torch.full(turn.shape, float(self.sums[0]), dtype=x.dtype), torch.zeros(turn.shape, dtype=x.dtype)
        for k in range(1, self.terms):
            power = power * turn
            mode = power * power.mean(1, keepdim=True).conj()
            z, pull = z + 2 * self.sums[k] * mode.real, pull - 2 * k * self.pulls[k] * mode.imag
        speed = pull / z if self.kind == "SA" else pull / (2 * torch.pi)  # a Dirac has coefficients 1 / 2 pi
        return speed[..., None] * torch.stack((-x[..., 1], x[..., 0]), -1)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_attention(kind):
    x = sphere.uniform(50, 2, random(), batch=2)
    assert (Moments(1.0, kind)(0.0, x) - Attention(1.0, normalised=kind == "SA")(0.0, x)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_mass_is_kept_to_rounding(form, kind):
    found = form(2.0, 32, kind=kind, kappa=30.0, tail=1e-3).solve(lopsided, [0.0, 0.1, 0.3])
    assert np.abs(found.mass - 1).max() < 1e-14 and found.resolved and found.lowest.min() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_order_four_in_time(form, kind):
    field = form(1.0, 16, kind=kind, kappa=5.0, tail=1e-2)
    found = [field.solve(lopsided, [0.0, 0.5], step=h).coefficients[-1] for h in (0.5 / 20, 0.5 / 40, 0.5 / 80)]
    order = math.log2(np.abs(found[0] - found[1]).max() / np.abs(found[1] - found[2]).max())
    assert 3.7 < order < 4.5


@pytest.mark.parametrize("form", FORMS)
def test_noise_alone_is_the_heat_flow(form):
    field = form(1.0, 16, strength=0.0, kappa=4.0)
    found = field.solve(lopsided, [0.0, 0.7], step=0.3)
    decay = np.exp(-field.laplace * 0.7 / 4.0)
    assert np.allclose(found.coefficients[1], field.spread(decay) * found.coefficients[0], atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_prediction_18_kappa_c(form, kind):
    """Degree 1 grows at A - (d - 1) / kappa: measured at two kappas, the zero gives kappa_c of the closed form."""
    d, beta, rate = form.width, 2.0, {}
    for kappa in (1.5, 4.0):
        found = form(beta, 8, kind=kind, kappa=kappa).solve(ripple(1e-6), [0.0, 1.0], step=0.02)
        first = [np.abs(found.field.by_degree(c)[1]).max() for c in found.coefficients]
        rate[kappa] = math.log(first[1] / first[0])
        expected = growth_rates(1, d, beta, kind)[0] - (d - 1) / kappa
        assert abs(rate[kappa] - expected) < 1e-6 and abs(found.field.rates()[1] - expected) < 1e-12
    critical = (d - 1) / (rate[1.5] + (d - 1) / 1.5)
    assert abs(critical / critical_kappa(d, beta, kind) - 1) < 1e-6
    for kappa, sign in ((0.999, -1), (1.001, 1)):
        assert np.sign(form(beta, 8, kind=kind, kappa=kappa * critical).rates()[1]) == sign


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_prediction_18_kappa_c_of_particles(kind):
    """300,000 noisy particles: growth of the mean point at two kappas either side; the zero within 5 %."""
    beta, n, t, found = 1.0, 300_000, 2.0, []
    critical = critical_kappa(2, beta, kind)
    angle = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
    start = sphere.circle(angle - 0.2 * angle.sin())[None]  # density 1 + 0.2 cos to first order
    for factor in (0.8, 1.25):
        noise, kappa = Noise(factor * critical), factor * critical
        done = solve(Moments(beta, kind), start, (0.0, t), method="euler", step=0.04, noise=noise, generator=random(3))
        growth = math.log(float(done.end.mean(1).norm() / start.mean(1).norm())) / t
        found.append(1 / (growth + 1 / kappa))
    assert abs(np.mean(found) / critical - 1) < 0.05 and max(abs(np.array(found) / critical - 1)) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_prediction_36_particles_at_the_rate_root_n(kind):
    """Spread of <cos> over replicates times sqrt(n) does not depend on n, and its mean is that of the density."""
    beta, t, spread = 1.0, 1.0, []
    field = Circle(beta, 64, kind=kind)
    found = field.solve(two_humps, [0.0, t])
    law = 2 * math.pi * found.coefficients[1][1].real
    for n, replicates in ((50, 1000), (200, 1000), (800, 600)):
        seen = []
        for k in range(0, replicates, 100):
            start = found.sample(n, random(1000 * n + k), batch=100, index=0)
            seen.append(solve(Moments(beta, kind, 12), start, (0.0, t), step=0.125).end[..., 0].mean(1))
        seen = torch.cat(seen)
        spread.append(float(seen.std()) * math.sqrt(n))
        assert abs(float(seen.mean()) - law) < 4 * float(seen.std()) / math.sqrt(replicates) + 1 / n
    assert max(spread) / np.mean(spread) < 1.1 and min(spread) / np.mean(spread) > 0.9


@pytest.mark.slow
def test_prediction_36_on_the_two_sphere():
    found = TwoSphere(2.0, 32).solve(lopsided, [0.0, 0.8])
    axis = found.field.points()
    area = torch.from_numpy(np.broadcast_to(found.field.area_weights[:, None], axis.shape[:2]).copy())
    law = (axis * (area * torch.from_numpy(found.field.values(found.coefficients[1])))[..., None]).sum((0, 1))
    spread = []
    for n, replicates in ((40, 400), (160, 200)):
        start = found.sample(n, random(n), batch=replicates, index=0)
        seen = solve(Attention(2.0), start, (0.0, 0.8), step=0.2).end.mean(1)
        spread.append(seen.std(0) * math.sqrt(n))
        assert ((seen.mean(0) - law).abs() < 4 * seen.std(0) / math.sqrt(replicates) + 2 / n).all()
    assert (spread[0] / spread[1] - 1).abs().max() < 0.2


@pytest.mark.parametrize("form", FORMS)
def test_samples_have_the_law(form):
    field = form(1.0, 16)
    c = field.start(lopsided)
    x = field.sample(c, 5000, random(1), batch=2)
    assert x.shape == (2, 5000, form.width) and (sphere.inner(x, x) - 1).abs().max() < 1e-12
    weight = field.density(c, x)
    flat = 1 / weight  # E[1 / rho] is the area
    assert abs(float(flat.mean()) / field.area() - 1) < 5 * float(flat.std() / flat.mean()) / 100


@pytest.mark.parametrize("form", FORMS)
def test_uniform_points_give_back_the_density(form):
    field = form(1.0, 20)
    c, x = field.start(lopsided), sphere.uniform(30, form.width, random(2), batch=2)
    ratio = field.density(c, x) / lopsided(x)
    assert ratio.shape == (2, 30) and (ratio / ratio.mean() - 1).abs().max() < 1e-9


def test_outgrown_degrees_are_told_and_not_hidden():
    field, times = Circle(2.0, 32), [0.0, 1.0, 2.0, 8.0]
    with pytest.raises(Unresolved, match="particles that carry log-density") as told:
        field.solve(two_humps, times)
    found = field.solve(two_humps, times, partial=True)
    assert not found.resolved and 1 <= len(found.times) < 4 and (found.tail <= 1e-6).all()
    assert np.array_equal(told.value.evolution.times, found.times) and told.value.t < 8.0
    with pytest.raises(Unresolved, match="tail"):
        field.solve(lambda x: (x[..., 0] > 0).double(), [0.0, 1.0])
    longer = Circle(2.0, 256).solve(two_humps, [0.0, 2.0])
    shorter = Circle(2.0, 512).solve(two_humps, [0.0, 2.0])
    assert np.allclose(longer.coefficients[1][:200], shorter.coefficients[1][:200], atol=1e-6)


def test_softmax_sums_beyond_double_precision_are_told():
    sharp = lambda x: (40 * (x[..., 0] - 1)).exp()  # noqa: E731
    with pytest.raises(Unresolved, match="span more than 1e12"):
        Circle(30.0, 128).solve(sharp, [0.0, 0.1])
    with pytest.raises(Unresolved, match="positivity"):
        Circle(weight=lambda s: s).solve(sharp, [0.0, 0.1])


def test_a_negative_density_is_told():
    c = np.zeros(17, complex)
    c[:2] = 1 / (2 * math.pi)  # 1 + 2 cos
    with pytest.raises(Unresolved, match="falls to -0.16"):
        Circle(1.0, 16).solve(c, [0.0, 0.1])


def test_mistakes():
    for wrong in (
        {"kind": "softmax"},
        {"degrees": 2},
        {"beta": math.nan},
        {"kappa": 0.0},
        {"tail": 2.0},
        {"beta": 800.0, "kind": "USA"},
    ):
        with pytest.raises(ValueError, match="mean field"):
            Circle(**wrong)
    with pytest.raises(ValueError, match="not finite on all"):
        Circle(weight=lambda s: np.where(s > 0.9, np.inf, 1.0))
    field = Circle(1.0, 16)
    for start in (lambda x: -x[..., 0], lambda x: x[..., 0] * math.nan, lambda x: 0 * x[..., 0], lambda x: x):
        with pytest.raises(ValueError, match="starting density"):
            field.solve(start, [0.0, 1.0])
    with pytest.raises(ValueError, match="rising"):
        field.solve(two_humps, [1.0, 0.0])
    with pytest.raises(ValueError, match="positive one"):
        field.solve(two_humps, [0.0, 1.0], step=-1.0)
    with pytest.raises(ValueError, match="for degrees up to"):
        field.solve(np.zeros(5, complex), [0.0, 1.0])
    with pytest.raises(ValueError, match="shorten the time"):
        Circle(60.0, 32, kind="USA").solve(two_humps, [0.0, 1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_density_and_particles_that_carry_it_agree(kind):
    """Particles at the quantiles of the start are a spectral rule on the circle: the two descriptions meet to 1e-6."""
    field, times, n = Circle(2.0, 96, kind=kind), [0.0, 0.4, 0.8], 400
    found = field.solve(two_humps, times, step=0.01)
    level = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    angle = 2 * torch.pi * level
    for _ in range(50):  # Newton for the quantiles of two_humps
        mass = (angle + angle.sin() / 2 + (2 * angle).sin() / 6) / (2 * torch.pi)
        angle = angle - (mass - level) / two_humps(sphere.circle(angle))
    x = sphere.circle(angle)[None]
    done = push(Attention(2.0, normalised=kind == "SA"), x, two_humps(x).log(), times, step=0.025)
    for k in (1, 2):
        there = found.density(done.trajectory.states[k], k).log()
        assert (there - done.logp[k]).abs().max() < 1e-6
