"""Paths: ends, slopes by finite differences, the exact Gaussian law and its score, the sphere, faults."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from headwater.flow import paths
from headwater.flow.integrate import solve
from headwater.flow.sphere import check_on_sphere, inner, project, uniform

AFFINE = {
    "straight": paths.Straight(),
    "straight, width left": paths.Straight(0.1),
    "variance-preserving": paths.VariancePreserving(),
    "diffusion": paths.Diffusion(),
}
every = pytest.mark.parametrize("path", AFFINE.values(), ids=AFFINE)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def law(path: paths.Affine, d: int = 3) -> tuple[paths.Gaussian, torch.Tensor, torch.Tensor]:
    root = cloud(d, d, seed=3)
    mean, covariance = cloud(d, seed=4), root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)
    return paths.Gaussian(path, mean, covariance), mean, covariance


@every
def test_it_runs_from_noise_to_data(path: paths.Affine):
    a, s, _, _ = path.at(0.0)
    assert abs(float(s) - 1) < 1e-4 and float(a) < 0.007
    a, s, _, _ = path.at(path.end)
    left = {"straight, width left": 0.1, "diffusion": 0.01049}.get(next(k for k, v in AFFINE.items() if v is path), 0.0)
    assert float(a) == pytest.approx(1, abs=1e-4) and float(s) == pytest.approx(left, abs=1e-4)
    x0, x1 = cloud(5, 3), cloud(5, 3, seed=1)
    end, _ = path.between(path.end, x0, x1)
    assert torch.allclose(end, x1 + left * x0, atol=1e-3)


@every
def test_slopes_agree_with_finite_differences(path: paths.Affine):
    t, h = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-5
    a, s, da, ds = path.at(t)
    up, down = path.at(t + h), path.at(t - h)
    assert torch.allclose((up[0] - down[0]) / (2 * h), da, rtol=1e-6, atol=1e-8)
    assert torch.allclose((up[1] - down[1]) / (2 * h), ds, rtol=1e-6, atol=1e-8)
    if not isinstance(path, paths.Straight):
        assert torch.allclose(a**2 + s**2, torch.ones_like(t), rtol=1e-12)


def test_diffusion_follows_its_equation():
    path = paths.Diffusion(0.2, 15.0)
    t = torch.linspace(0, 0.99, 50, dtype=torch.float64)
    a, _, da, _ = path.at(t)
    assert torch.allclose(da / a, (0.2 + 14.8 * (1 - t)) / 2, rtol=1e-12)  # x' = -beta x / 2 towards noise, read backward
    assert float(path.at(1.0)[0]) == 1


@every
def test_velocity_and_score_are_the_same_knowledge(path: paths.Affine):
    gaussian, mean, covariance = law(path)
    x = cloud(40, 3, seed=7)
    for t in (0.05, 0.3, 0.8, 0.95):
        a, s, _, _ = path.at(t)
        spread = a**2 * covariance + s**2 * torch.eye(3, dtype=torch.float64)
        score = -torch.linalg.solve(spread, (x - a * mean).T).T
        velocity = gaussian(t, x)
        assert torch.allclose(paths.score_from_velocity(path, t, x, velocity), score, rtol=1e-8, atol=1e-8)
        assert torch.allclose(paths.velocity_from_score(path, t, x, score), velocity, rtol=1e-8, atol=1e-8)
        back = paths.velocity_from_score(path, t, x, paths.score_from_velocity(path, t, x, x))
        assert torch.allclose(back, x, rtol=1e-8, atol=1e-8)


@every
def test_the_gaussian_has_the_law_of_scipy_and_of_its_pairs(path: paths.Affine):
    gaussian, mean, covariance = law(path)
    x = cloud(30, 3, seed=7)
    a, s, _, _ = (float(value) for value in path.at(0.7))
    known = scipy.stats.multivariate_normal(a * mean.numpy(), a**2 * covariance.numpy() + s**2 * np.eye(3))
    assert torch.allclose(gaussian.log_density(0.7, x), torch.as_tensor(known.logpdf(x.numpy())), rtol=1e-10)
    x0 = cloud(200_000, 3, seed=8)
    x1 = mean + cloud(200_000, 3, seed=9) @ torch.linalg.cholesky(covariance).T
    at, wanted = path.between(0.7, x0, x1)  # E[velocity of the pair | x] is affine in x: its least-squares fit
    ones = torch.ones(len(at), 1, dtype=torch.float64)
    fit = torch.linalg.lstsq(torch.cat((at, ones), 1), wanted).solution
    assert torch.allclose(torch.cat((x, ones[:30]), 1) @ fit, gaussian(0.7, x), atol=0.15)
    assert torch.allclose(gaussian.standard(0.7, at)[0].T.cov(), torch.eye(3, dtype=torch.float64), atol=0.02)


@every
def test_its_flow_is_the_affine_map(path: paths.Affine):
    gaussian, mean, covariance = law(path)
    x0 = cloud(1, 20, 3, seed=7)
    # diffusion is stiff near its end; it starts from N(a m, S), which is N(0, I) to .007
    end = solve(gaussian, x0, (0.0, path.end), method="adaptive", tolerance=1e-9).end
    a, s, _, _ = path.at(path.end)
    b, r, _, _ = path.at(0.0)
    variance, axes = gaussian.variance, gaussian.axes
    grown = ((a**2 * variance + s**2) / (b**2 * variance + r**2)).sqrt()
    assert torch.allclose(end, a * mean + (x0 - b * mean) @ (axes * grown) @ axes.T, atol=1e-5)


def test_fit_takes_mean_and_covariance():
    x = cloud(50, 3) @ cloud(3, 3, seed=1) + 5
    fitted = paths.Gaussian.fit(paths.Straight(), x)
    assert torch.allclose(fitted.axes @ fitted.variance.diag() @ fitted.axes.T, torch.as_tensor(x.T.cov()), rtol=1e-10)
    assert torch.allclose(fitted.mean, x.mean(0))
    assert paths.Gaussian.fit(paths.Straight(), x[:, :1]).variance.shape == (1,)


def test_base_is_a_standard_normal_and_knows_its_density():
    path = paths.Straight()
    x = path.base(20000, 2, random())
    assert x.shape == (1, 20000, 2) and torch.equal(x, path.base(20000, 2, random()))
    assert scipy.stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.allclose(path.base_log_density(x), torch.as_tensor(scipy.stats.norm.logpdf(x.numpy()).sum(-1)))


def test_the_geodesic_stays_on_the_sphere_at_constant_speed():
    path, h = paths.Geodesic(), 1e-5
    x0, x1 = path.base(50, 4, random()), uniform(50, 4, random(1))
    angle = (x0 * x1).sum(-1).arccos()
    for t in (0.0, 0.2, 0.7, 1.0):
        x, v = path.between(t, x0, x1)
        check_on_sphere(x)
        assert inner(x, v).abs().max() < 1e-12
        assert torch.allclose(v.norm(dim=-1), angle, rtol=1e-10)
        slope = (path.between(t + h, x0, x1)[0] - path.between(t - h, x0, x1)[0]) / (2 * h)
        assert torch.allclose(v, slope, atol=1e-8)
    assert torch.allclose(path.between(0.0, x0, x1)[0], x0, atol=1e-12)
    assert torch.allclose(path.between(1.0, x0, x1)[0], x1, atol=1e-12)
    assert torch.allclose(path.between(0.5, x0, x1)[0], project(x0 + x1), atol=1e-12)
    for d, area in ((2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)):
        assert float(path.base_log_density(uniform(1, d, random()))) == pytest.approx(-math.log(area))


def test_mistakes_are_said():
    path, x, eye = paths.Straight(), cloud(5, 2), torch.eye(2, dtype=torch.float64)
    for call, word in (
        (lambda: paths.Straight(1.0), "sigma_min"),
        (lambda: paths.Straight(math.nan), "sigma_min"),
        (lambda: paths.Diffusion(0.0), "low"),
        (lambda: paths.Diffusion(0.1, 5.0), "noise is not reached"),
        (lambda: paths.velocity_from_score(path, 0.0, x, x), "strictly between"),
        (lambda: paths.score_from_velocity(path, 1.0, x, x), "strictly between"),
        (lambda: paths.Gaussian(path, x[0], 0 * eye), "positive definite"),
        (lambda: paths.Gaussian(path, x[0] * math.nan, eye), "finite"),
        (lambda: paths.Gaussian(path, x[0], eye * math.nan), "finite"),
        (lambda: paths.Gaussian.fit(path, x[:2]), "no covariance"),
        (lambda: paths.Geodesic().between(0.5, eye, -eye), "opposite"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
