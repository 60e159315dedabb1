"""Norm placements as speeds: the table of initial rates, the law of the end, and the layers they come from."""

import math

import numpy as np
import pytest
import torch

from headwater.flow import sphere
from headwater.flow.integrate import solve
from headwater.flow.schemes import SCHEMES, Normed, speed
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normed(scheme: str, beta: float, **options) -> Normed:
    return Normed(Attention(beta), scheme, **{"alpha": 0.7, "switch": 1.0, **options})


def opening(scheme: str, n: int, beta: float, radius: float, alpha: float) -> float:
    """g'(0) from an orthonormal start: 2 <P A_1, x_2> / s, the table of the theory."""
    e = math.exp(beta)
    pre = 2 / (radius * (e + n - 1))
    post = 2 / (e + n - 1)
    root = math.sqrt(e**2 + n - 1)
    return {"post": post, "mix": post, "pre": pre, "peri": 2 / (radius * root), "ngpt": 2 * alpha / root}[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_prediction_25_initial_speeds(scheme, beta):
    n, alpha, radius = 6, 0.7, 1.0 if scheme in ("post", "ngpt") else 2.5
    x = radius * torch.linalg.qr(torch.randn(8, 8, generator=random(), dtype=torch.float64))[0][None, :n]
    v = normed(scheme, beta, alpha=alpha)
    theta, moving = x / radius, sphere.tangent(x / radius, v(0.0, x)) / radius
    rate = (moving @ theta.transpose(1, 2))[0]
    rate = (rate + rate.T)[~torch.eye(n, dtype=torch.bool)]
    assert (rate / opening(scheme, n, beta, radius, alpha) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("scheme", ["pre", "peri", "mix"])
def test_prediction_24_closing_law_is_a_power(scheme):
    """1 - g falls as t^-2 where the radius grows as t: theta' = P A / r and r ~ t, so d log(1 - g) / d log t = -2."""
    v, x = normed(scheme, 1.0), torch.eye(4, dtype=torch.float64)[None]
    gap = lambda t, x: sphere.one_minus_cosine(*sphere.project(x[0, :2]))  # noqa: E731
    found = solve(v, x, (0.0, 2000.0, 4000.0), method="adaptive", tolerance=1e-10, save=gap).states
    assert abs(float(found[2] / found[1]) - 0.25) < 0.25 * 0.01 * math.log(2)
    assert abs(math.log2(float(found[2] / found[1])) + 2) < 0.01


@pytest.mark.parametrize("scheme, rate", [("post", 2.0), ("ngpt", 2 * 0.7)])
def test_prediction_24_closing_law_is_exponential(scheme, rate):
    v, x = normed(scheme, 1.0), torch.eye(4, dtype=torch.float64)[None]
    gap = lambda t, x: sphere.one_minus_cosine(x[0, 0], x[0, 1])  # noqa: E731
    found = solve(v, x, (0.0, 14 / rate, 16 / rate), method="adaptive", tolerance=1e-12, save=gap).states
    assert abs(float((found[1] / found[2]).log()) / 2 - 1) < 0.01


@pytest.mark.parametrize("scheme", SCHEMES)
def test_particles_follow_the_coupled_equation_of_angle_and_radius(scheme):
    """Equal angles g and equal radii r stay so: g' = 2 s^-1 e^{bg} (1-g) ((n-1)g+1) / Z, r' as in the table."""
    n, beta, alpha, switch = 5, 1.3, 0.7, 1.0
    from scipy.integrate import solve_ivp

    def slope(t, state):
        g, r = state
        near, far = math.exp(beta), math.exp(beta * g)
        z = near + (n - 1) * far
        along = (near + (n - 1) * g * far) / z  # <theta, A>
        square = (near**2 + (n - 1) * far**2 + 2 * (n - 1) * near * far * g + (n - 1) * (n - 2) * far**2 * g) / z**2
        now = ("post" if t < switch else "pre") if scheme == "mix" else scheme
        size = math.sqrt(square)
        s = {"post": 1.0, "pre": r, "peri": r * size, "ngpt": size / alpha}[now]
        growth = {"post": 0.0, "pre": along, "peri": along / size, "ngpt": 0.0}[now]
        return [2 * far * (1 - g) * ((n - 1) * g + 1) / z / s, growth]

    state = [0.0, 1.0]
    for leg in ((0, switch), (switch, 3.0)):
        inside = (leg[0], np.nextafter(leg[1], 0))
        state = solve_ivp(slope, inside, state, rtol=1e-11, atol=1e-12, method="DOP853").y[:, -1]
    end = solve(normed(scheme, beta), torch.eye(n, dtype=torch.float64)[None], (0.0, 3.0), step=0.01).end
    theta = sphere.project(end)[0]
    assert abs(float(theta[0] @ theta[1]) - state[0]) < 1e-8 and abs(float(end.norm(dim=-1)[0, 0]) - state[1]) < 1e-8


def test_small_layers_are_the_flow():
    """A layer of each scheme with residual h A moves as h v to first order."""
    field, h = Attention(1.5), 1e-6
    x = sphere.uniform(6, 3, random())
    pull = field.ambient(0.0, x)
    layers = {
        "post": sphere.project(x + h * pull),
        "pre": 2 * x + h * pull,
        "peri": 2 * x + h * sphere.project(pull),
        "ngpt": sphere.project(x + 0.7 * h * sphere.project(pull)),
    }
    for scheme, after in layers.items():
        start = x if scheme in ("post", "ngpt") else 2 * x
        assert torch.allclose((after - start) / h, normed(scheme, 1.5)(0.0, start), atol=1e-5), scheme


def test_faults_are_named():
    x = sphere.uniform(4, 3, random())
    with pytest.raises(ValueError, match="scheme 'sandwich'"):
        Normed(Attention(1.0), "sandwich")
    with pytest.raises(ValueError, match="switch"):
        Normed(Attention(1.0), "mix")
    with pytest.raises(ValueError, match="on the sphere"):
        Normed(Attention(1.0, space="flat"), "pre")
    with pytest.raises(ValueError, match="no direction"):
        Normed(Attention(1.0), "pre")(0.0, 0 * x)
    opposite = torch.stack((x[0, 0], -x[0, 0]))[None]
    with pytest.raises(ValueError, match="zero at a token"):
        Normed(Attention(0.0), "peri")(0.0, opposite)
    with pytest.raises(ValueError, match="'mix'"):
        speed("mix", x, torch.ones(1, 4, 1).double())
