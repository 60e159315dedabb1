"""The sphere: closed forms, extreme angles, faults, the linear programme."""

import math

import numpy as np
import pytest
import torch

from headwater.flow import sphere


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_project_gives_unit_length_at_any_scale_and_refuses_what_has_no_direction():
    x = torch.randn(4, 7, 3, generator=random(), dtype=torch.float64)
    for scale in (1e-300, 1.0, 1e300):
        assert (torch.linalg.vector_norm(sphere.project(x * scale), dim=-1) - 1).abs().max() < 1e-15
        assert torch.allclose(sphere.project(x * scale), sphere.project(x), atol=1e-15)
    for bad, word in ((0.0, "zero"), (math.nan, "NaN"), (math.inf, "NaN or infinity")):
        wrong = x.clone()
        wrong[1, 2] = bad
        with pytest.raises(ValueError, match=word):
            sphere.project(wrong)


def test_tangent_is_orthogonal_and_a_projection():
    x, y = sphere.uniform(50, 6, random()), torch.randn(1, 50, 6, generator=random(1), dtype=torch.float64)
    u = sphere.tangent(x, y)
    assert sphere.inner(x, u).abs().max() < 1e-15
    assert torch.allclose(sphere.tangent(x, u), u, atol=1e-15)


def test_check_on_sphere_sees_what_is_off():
    x = sphere.uniform(10, 3, random())
    sphere.check_on_sphere(x)
    sphere.check_on_sphere(x.float())
    sphere.check_on_sphere(x.to(torch.bfloat16))
    for wrong, word in ((x * (1 + 2e-6), "off the unit sphere"), (x * math.nan, "NaN"), (x[..., :1], "width 1")):
        with pytest.raises(ValueError, match=word):
            sphere.check_on_sphere(wrong)
    sphere.check_on_sphere(x * (1 + 5e-7))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-3, 0.009, 0.011, 1.0, 3.0, math.pi - 1e-6])
def test_exponential_and_logarithm_undo_each_other(angle):
    x = sphere.uniform(20, 4, random())
    direction = sphere.project(sphere.tangent(x, torch.randn(1, 20, 4, generator=random(1), dtype=torch.float64)))
    y = sphere.exponential(x, angle * direction)
    assert (sphere.distance(x, y) - angle).abs().max() < 4e-15
    condition = angle / math.sin(angle) if angle else 1.0  # how much an error of the place turns the direction
    assert (sphere.logarithm(x, y) - angle * direction).abs().max() < 1e-15 * (1 + condition)


def test_logarithm_of_opposite_points_is_refused_and_gradients_at_zero_are_numbers():
    x = sphere.uniform(3, 3, random())
    with pytest.raises(ValueError, match="opposite"):
        sphere.logarithm(x, -x)
    u = torch.zeros_like(x).requires_grad_()
    (jacobian,) = torch.autograd.grad(sphere.exponential(x, u).sum(), u)
    assert torch.allclose(jacobian, sphere.tangent(x, torch.ones_like(x)))  # exp is the identity to first order
    y = x.clone().requires_grad_()
    (back,) = torch.autograd.grad(sphere.logarithm(x, y).sum(), y)
    assert torch.isfinite(back).all()


def test_one_minus_cosine_keeps_its_digits():
    angle = 1e-9
    x, y = sphere.circle(torch.tensor([0.3, 0.3 + angle], dtype=torch.float64))
    assert abs(float(sphere.one_minus_cosine(x, y)) / (angle**2 / 2) - 1) < 1e-6
    assert 1 - float(x @ y) in (0.0, pytest.approx(0.0, abs=3e-16))  # what is avoided: no digit left


def test_spread_is_the_mean_over_pairs():
    x = sphere.uniform(9, 4, random(), batch=3)
    pairs = (1 - x @ x.transpose(1, 2)).mean((1, 2))
    assert torch.allclose(sphere.spread(x), pairs, atol=1e-15)


def test_circle_and_angle_undo_each_other():
    theta = torch.linspace(-3.1, 3.1, 50, dtype=torch.float64)
    assert torch.allclose(sphere.angle(sphere.circle(theta)), theta, atol=1e-15)


def test_uniform_has_the_moments_of_the_sphere_and_repeats_with_its_generator():
    x = sphere.uniform(40_000, 3, random(5))[0]
    assert x.mean(0).abs().max() < 4 / math.sqrt(3 * 40_000)
    second = x.T @ x / len(x)
    assert (second - torch.eye(3) / 3).abs().max() < 4 / math.sqrt(40_000)
    assert torch.equal(x, sphere.uniform(40_000, 3, random(5))[0])
    assert sphere.uniform(3, 2, random(), batch=4, dtype=torch.float32).shape == (4, 3, 2)
    with pytest.raises(ValueError, match="d >= 2"):
        sphere.uniform(3, 1, random())


def test_hemisphere_margin_against_angles_on_the_circle():
    """On the circle the points share an open half exactly when some gap between neighbours exceeds pi."""
    seen = set()
    for seed in range(40):
        x = sphere.uniform(4, 2, random(seed))[0]
        theta = np.sort(sphere.angle(x).numpy())
        gap = max(np.diff(theta, append=theta[0] + 2 * np.pi))
        margin, pole = sphere.hemisphere_margin(x)
        assert (margin > 0) == (gap > np.pi)
        assert float(pole.abs().max()) <= 1 and (margin == 0 or abs(float((x @ pole).min()) - margin) < 1e-15)
        seen.add(margin > 0)
    assert seen == {True, False}


def test_hemisphere_margin_of_orthonormal_points_and_of_nan():
    margin, pole = sphere.hemisphere_margin(torch.eye(4, dtype=torch.float64))
    assert margin == 1 and torch.allclose(pole, torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="NaN"):
        sphere.hemisphere_margin(torch.full((2, 2), math.nan))
