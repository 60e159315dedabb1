"""Orders of all methods, stability limits, and which method fits which space."""

import math

import pytest
import torch

from headwater.flow import sphere
from headwater.flow.integrate import solve
from headwater.flow.steps import METHODS, StepError, step_of
from headwater.flow.terms import Hamiltonian, Learned, Parabolic, SecondOrder, pair
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def orders(v, x, method: str, steps: tuple[float, ...], **options) -> list[float]:
    exact = solve(v, x, (0.0, 1.0), method="adaptive", tolerance=1e-12, **options).end
    errors = [float((solve(v, x, (0.0, 1.0), method=method, step=h, **options).end - exact).norm()) for h in steps]
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


FINE = {"euler": 1, "exponential": 1, "normalise": 1, "rk4": 4}


@pytest.mark.parametrize("method", FINE)
def test_prediction_39_integrator_orders_on_the_sphere(method):
    """Measured at h = 1/8, 1/16, 1/32: euler 0.99 1.00, exponential 0.98 0.99, normalise 0.92 0.96, rk4 3.99 3.99."""
    V = lambda t: torch.eye(3, dtype=torch.float64) + t * 0.5 * drawn(0, 3, 3)  # noqa: E731
    for v, finest in ((Attention(2.0), 32), (Attention(1.0, V=V, normalised=False), 64)):
        found = orders(v, sphere.uniform(10, 3, random()), method, tuple(k / finest for k in (4, 2, 1)))
        assert all(abs(order - FINE[method]) < 0.1 for order in found), found


def test_prediction_39_integrator_orders_in_flat_space():
    """Euler 1, RK4 4, Verlet 2 for the Hamiltonian and the second-order layer."""
    pull = Learned(lambda t, x: torch.sin(x) * math.cos(t) - 0.3 * x)
    for method, order in (("euler", 1), ("rk4", 4)):
        found = orders(pull, drawn(1, 1, 5, 3), method, (1 / 8, 1 / 16, 1 / 32))
        assert all(abs(each - order) < 0.1 for each in found), found
    one, two = Parabolic(drawn(2, 4, 3)), Parabolic(lambda t: (1 + t / 2) * drawn(3, 4, 3))
    for v in (Hamiltonian(one, two), SecondOrder(two)):
        found = orders(v, pair(drawn(4, 1, 5, 3), drawn(5, 1, 5, 3)), "verlet", (1 / 16, 1 / 32, 1 / 64))
        assert all(abs(each - 2) < 0.1 for each in found), found


def test_the_order_survives_weights_that_jump_between_layers():
    v = Attention(1.0, V=[drawn(s, 3, 3) for s in range(10)], duration=0.1)  # 0.1 k is rounded
    x = sphere.uniform(6, 3, random())
    found = orders(v, x, "rk4", (1 / 20, 1 / 40, 1 / 80))
    assert all(abs(order - 4) < 0.2 for order in found), found
    ahead = solve(v, x, (0.0, 1.0), step=1 / 64).end
    assert (solve(v, ahead, (1.0, 0.0), step=1 / 64).end - x).norm() < 1e-6  # backward, the jumps are taken from the other side


def test_the_tangent_steps_agree_to_first_order_and_normalise_is_a_change_of_clock():
    x, h = sphere.uniform(8, 4, random()), 0.3
    v = Attention(1.5)
    pull = v.ambient(0.0, x)
    clock = h / (1 + h * sphere.inner(x, pull))
    moved = step_of("normalise", v, "sphere")(0.0, h, x)
    assert torch.allclose(moved, sphere.project(x + clock * v(0.0, x)), atol=1e-15)
    assert torch.allclose(step_of("euler", v, "sphere")(0.0, h, x), sphere.project(x + h * v(0.0, x)), atol=1e-15)
    turned = step_of("exponential", v, "sphere")(0.0, h, x)
    assert torch.allclose(sphere.distance(x, turned), h * v(0.0, x).norm(dim=-1), atol=1e-14)


def growth(v, x, method: str, h: float) -> float:
    """Largest size over the first, to the end of 400 steps or blow-up."""
    try:
        with torch.no_grad():
            sizes = solve(
                v, x, torch.arange(41, dtype=torch.float64) * 10 * h, method=method, step=h, save=lambda t, x: x.norm()
            ).states
    except StepError:
        return math.inf
    return float(sizes.max() / sizes[0])


def test_prediction_42_leapfrog_and_euler_limits():
    """Linear sigma: bounded at 0.95 of the largest step and divergent at 1.05, for each layer of Ruthotto and Haber."""
    K = drawn(0, 5, 4)
    linear = Parabolic(K, sigma=lambda x: 2 * x, slope=2.0)
    axes = torch.linalg.svd(K)[2]  # shared, so that the bound is sharp
    scaled = Parabolic(torch.tensor([1.7, 1.2, 1.0, 0.8], dtype=torch.float64)[:, None] * axes, sigma=lambda x: x)
    y, z = drawn(1, 1, 6, 4), drawn(2, 1, 6, 4)
    cases = [
        (linear, y, "euler"),
        (SecondOrder(linear), pair(y, z), "verlet"),
        (Hamiltonian(linear, scaled), pair(y, z), "verlet"),
    ]
    for v, x, method in cases:
        limit = v.largest_step()
        assert growth(v, x, method, 0.95 * limit) < 30, method  # leapfrog near the limit: an ellipse of condition 1/sqrt(1-.95^2)
        assert growth(v, x, method, 1.05 * limit) > 1e6, method


def test_methods_that_do_not_fit_are_refused():
    faults = [
        ("leap", Attention(1.0), "sphere", "no method"),
        ("rk4", Attention(1.0), "torus", "space"),
        ("normalise", Attention(1.0, space="flat"), "flat", "needs space 'sphere'"),
        ("exponential", Attention(1.0, space="flat"), "flat", "needs space 'sphere'"),
        ("verlet", Attention(1.0), "sphere", "needs space 'flat'"),
        ("verlet", Attention(1.0, space="flat"), "flat", "drift and force"),
        ("normalise", lambda t, x: x, "sphere", "ambient"),
    ]
    for method, v, space, word in faults:
        with pytest.raises(ValueError, match=word):
            step_of(method, v, space)
    assert set(METHODS) == {*FINE, "verlet"}
