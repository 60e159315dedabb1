"""Terms beside attention: what they compute, what they keep, how they combine."""

import math

import pytest
import torch

from headwater.flow import sphere
from headwater.flow.integrate import solve
from headwater.flow.terms import Hamiltonian, Learned, Noise, Parabolic, Scaled, SecondOrder, Sum, pair, parts, perceptron
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def test_perceptron_is_projected_and_its_weights_are_found():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).double()
    v, x = perceptron(layer), sphere.uniform(6, 4, random())
    assert torch.allclose(v(0.0, x), sphere.tangent(x, layer(x))) and sphere.inner(x, v(0.0, x)).abs().max() < 1e-15
    block = Scaled(Sum(Attention(1.0), v), 0.5)
    assert len(list(block.parameters())) == 4
    assert torch.allclose(block(0.0, x), 0.5 * (Attention(1.0)(0.0, x) + v(0.0, x)))
    assert torch.allclose(block.ambient(0.0, x), 0.5 * (Attention(1.0).ambient(0.0, x) + layer(x)))
    solve(block, x, (0.0, 1.0), method="normalise", step=0.1)


def test_scaled_reverses_time_and_takes_functions():
    v, x = Attention(1.0), sphere.uniform(6, 4, random())
    there = solve(v, x, (0.0, 1.0), step=0.02).end
    assert torch.allclose(solve(Scaled(v, -1.0), there, (0.0, 1.0), step=0.02).end, x, atol=1e-8)
    faster = solve(Scaled(v, lambda t: 2 * t), x, (0.0, 1.0), step=0.01).end  # the clock t^2
    assert torch.allclose(faster, there, atol=1e-7)


def test_sum_joins_breaks_and_refuses_two_spaces():
    jumps = Attention(1.0, V=[torch.eye(3).double()] * 3)
    assert Sum(jumps, Attention(2.0)).breaks == Scaled(jumps, 2.0).breaks == (1.0, 2.0)
    with pytest.raises(ValueError, match="one space"):
        Sum(jumps, Learned(lambda t, x: x))
    with pytest.raises(ValueError, match="keeps the shape"):
        Learned(lambda t, x: x[..., :2])(0.0, torch.ones(1, 3, 3))


@pytest.mark.parametrize("d", [2, 3, 5])
def test_noise_is_brownian_motion_of_the_sphere(d):
    """E<x_t, x_0> = e^{-(d-1) t / kappa}: degree 1 decays at d - 1. 4 standard errors of 20,000 tokens."""
    kappa, t, n = 2.0, 0.5, 20_000
    x = sphere.uniform(n, d, random())
    still = Learned(lambda t, x: torch.zeros_like(x), space="sphere")
    end = solve(still, x, (0.0, t), method="euler", step=0.01, noise=Noise(kappa), generator=random(1)).end
    cosine = sphere.inner(x, end)
    expected = math.exp(-(d - 1) * t / kappa)
    assert abs(float(cosine.mean()) - expected) < 4 * float(cosine.std()) / math.sqrt(n) + 1e-3
    flat = solve(
        Learned(lambda t, x: 0 * x),
        0 * x,
        (0.0, t),
        method="euler",
        step=0.1,
        noise=Noise(kappa, space="flat"),
        generator=random(),
    )
    assert abs(float(flat.end.var()) / (2 * t / kappa) - 1) < 0.05


def test_parabolic_is_minus_the_gradient_of_its_potential_and_contracts():
    K, b, y = drawn(0, 5, 3), drawn(1, 5), drawn(2, 1, 7, 3).requires_grad_()
    v = Parabolic(K, b)
    (slope,) = torch.autograd.grad((y @ K.T + b).cosh().log().sum(), y)
    assert torch.allclose(v(0.0, y), -slope, atol=1e-14)
    one, two = drawn(3, 1, 7, 3), drawn(4, 1, 7, 3)
    h = v.largest_step()
    for _ in range(20):
        apart = (one - two).norm(dim=-1)
        one, two = one + h * v(0.0, one), two + h * v(0.0, two)
        assert ((one - two).norm(dim=-1) <= apart + 1e-14).all()
    assert abs(h - 2 / float(torch.linalg.svdvals(K)[0]) ** 2) < 1e-14


def test_verlet_keeps_the_energy_near_and_runs_back_exactly():
    """H = sum log cosh K_1 Z + sum log cosh K_2 Y swings by h^2 without drift; euler's grows."""
    K1, K2 = drawn(0, 4, 3), drawn(1, 4, 3)
    v, x = Hamiltonian(Parabolic(K1), Parabolic(K2)), pair(drawn(2, 1, 5, 3), drawn(3, 1, 5, 3))

    def energy(t, x):
        y, z = parts(x)
        return (z @ K1.T).cosh().log().sum() + (y @ K2.T).cosh().log().sum()

    times, h = torch.linspace(0, 30, 31), v.largest_step() / 10
    kept = solve(v, x, times, method="verlet", step=h, save=energy).states
    drifted = solve(v, x, times, method="euler", step=h, save=energy).states
    assert (kept / kept[0] - 1).abs().max() < 0.01 < drifted[-1] / drifted[0] - 1
    there = solve(v, x, (0.0, 5.0), method="verlet", step=h).end
    assert torch.allclose(solve(v, there, (5.0, 0.0), method="verlet", step=h).end, x, atol=1e-11)


def test_second_order_is_a_harmonic_oscillator_for_linear_sigma():
    omega = 1.7
    v = SecondOrder(Parabolic(omega * torch.eye(2, dtype=torch.float64), sigma=lambda x: x))
    y = drawn(0, 1, 4, 2)
    end, speed = parts(solve(v, pair(y, 0 * y), (0.0, 1.0), method="verlet", step=1e-3).end)
    assert torch.allclose(end, y * math.cos(omega), atol=1e-6) and torch.allclose(speed, -omega * y * math.sin(omega), atol=1e-5)
    assert torch.allclose(solve(v, pair(y, 0 * y), (0.0, 1.0), step=1e-2).end, pair(end, speed), atol=1e-5)
    with pytest.raises(ValueError, match="does not split"):
        v(0.0, torch.ones(1, 2, 3, dtype=torch.float64))


def test_faults_of_noise():
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="kappa"):
            Noise(bad)
    with pytest.raises(ValueError, match="NaN"):
        Parabolic(torch.eye(2))(0.0, torch.full((1, 2, 2), math.nan))
