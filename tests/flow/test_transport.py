"""Transport: sorted formulas, scipy and a linear programme as oracles, entropic limits, gradients, faults, prediction 32."""

import inspect
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from headwater.flow import transport
from headwater.flow.sphere import circle, distance, uniform


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=random(seed), dtype=torch.float64)


def turn(d: int) -> torch.Tensor:
    return torch.linalg.qr(cloud(d, d, 99)).Q


def test_on_a_line_it_is_the_sorted_formula_and_that_of_scipy():
    x, y = cloud(300, 1), 0.5 + 2 * cloud(300, 1, 1)
    apart = (x.sort(0).values - y.sort(0).values).abs()
    for p in (1.0, 2.0, 3.0):
        found = transport.wasserstein(x, y, p=p)
        assert float(found.power) == pytest.approx(float((apart**p).mean()), rel=1e-12)
        assert (found.error, found.points) == (0.0, (300, 300))
    few = y[:77]  # sizes that differ
    known = scipy.stats.wasserstein_distance(x[:, 0].numpy(), few[:, 0].numpy())
    assert float(transport.wasserstein(x, few, p=1.0).distance) == pytest.approx(known, rel=1e-12)


def test_gaussian_quantiles_give_the_distance_of_the_gaussians():
    q = torch.as_tensor(scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000))[:, None]
    found = transport.wasserstein(1 + q, -2 + 3 * q)  # W2^2 = (m - m')^2 + (s - s')^2
    assert float(found.distance) == pytest.approx(math.sqrt(9 + 4), rel=2e-3)


def test_it_is_the_least_over_assignments_and_the_pairing_attains_it():
    for space, x, y in (
        ("flat", cloud(40, 3), cloud(40, 3, 1)),
        ("sphere", uniform(40, 3, random())[0], uniform(40, 3, random(1))[0]),
    ):
        matrix = transport.costs(x, y, space=space)
        rows, columns = scipy.optimize.linear_sum_assignment(matrix.numpy())
        least = matrix[rows, columns].mean()
        assert float(transport.wasserstein(x, y, space=space).power) == pytest.approx(float(least), rel=1e-12)
        assert transport.pairing(x, y, space=space).tolist() == columns.tolist()


def test_a_translation_costs_its_length_and_a_rotation_nothing():
    x, y, shift = cloud(60, 4), cloud(50, 4, 1), torch.tensor([1.0, -2, 0.5, 3], dtype=torch.float64)
    for p in (1.0, 2.0):
        assert float(transport.wasserstein(x, x + shift, p=p).distance) == pytest.approx(float(shift.norm()), rel=1e-12)
    plain = transport.wasserstein(x, y).power
    assert torch.allclose(transport.wasserstein(x @ turn(4) + shift, y @ turn(4) + shift).power, plain, rtol=1e-12)
    assert torch.allclose(transport.wasserstein(y.flip(0), x).power, plain, rtol=1e-12)
    assert torch.allclose(transport.wasserstein(3 * x, 3 * y).distance, 3 * plain.sqrt(), rtol=1e-12)
    assert float(transport.wasserstein(x, x[torch.randperm(60, generator=random())]).distance) == 0


def test_on_the_sphere_costs_are_angles():
    turned = circle(torch.tensor([0.0, 0.3, 2.0, math.pi], dtype=torch.float64))
    found = transport.costs(turned[:1], turned, space="sphere", p=1.0)
    assert torch.allclose(found[0], torch.tensor([0.0, 0.3, 2.0, math.pi], dtype=torch.float64), atol=1e-14)
    x, y = uniform(30, 5, random())[0], uniform(20, 5, random(1))[0]
    assert torch.allclose(transport.costs(x, y, space="sphere"), torch.arccos(x @ y.T) ** 2, rtol=1e-10)
    even = circle(2 * math.pi * torch.arange(12, dtype=torch.float64) / 12)
    ahead = circle(2 * math.pi * torch.arange(12, dtype=torch.float64) / 12 + 0.1)
    assert float(transport.wasserstein(even, ahead, space="sphere").distance) == pytest.approx(0.1, rel=1e-12)
    assert torch.allclose(distance(even, ahead), torch.tensor(0.1, dtype=torch.float64), rtol=1e-12)


def test_a_subsample_is_within_its_stated_error():
    x, y = cloud(1500, 2), cloud(1200, 2, 1) + 1
    exact = float(transport.wasserstein(x, y).distance)
    for seed in range(5):
        found = transport.wasserstein(x, y, most=200, generator=random(seed))
        assert found.points == (200, 200)
        assert 0 < abs(float(found.distance) - exact) < found.error < 1


def test_sinkhorn_falls_to_the_exact_cost_with_its_entropy():
    x, y = cloud(25, 2), cloud(25, 2, 1) + 1
    exact = float(transport.wasserstein(x, y).power)
    gaps = [float(transport.sinkhorn(x, y, eps, sweeps=20000).power) - exact for eps in (1.0, 0.3, 0.1, 0.03)]
    assert all(0 < b < a for a, b in zip(gaps, gaps[1:], strict=False))
    assert gaps[-1] <= 0.03 * math.log(25)  # KL(P | uniform) of a plan of 25 points is at most log 25
    assert gaps[-1] < 0.03 * exact


def test_sinkhorn_has_the_value_of_its_plan():
    import ot

    x, y = cloud(20, 3), cloud(30, 3, 1)
    matrix = transport.costs(x, y).numpy()
    plan = ot.sinkhorn(np.full(20, 1 / 20), np.full(30, 1 / 30), matrix, 0.7, stopThr=1e-13)
    value = (plan * matrix).sum() + 0.7 * (plan * np.log(plan * 600)).sum()
    assert float(transport.sinkhorn(x, y, 0.7).power) == pytest.approx(value, rel=1e-5)


def test_sinkhorn_divergence_is_zero_for_equal_clouds_alone():
    x = cloud(40, 3)
    own = float(transport.sinkhorn_divergence(x, x[torch.randperm(40, generator=random())], 0.5).power)
    assert abs(own) < 1e-5
    shift = torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64)  # a translation costs |shift|^2 at any eps: Feydy, section 2
    assert float(transport.sinkhorn_divergence(x, x + shift, 0.5).power) == pytest.approx(0.09, abs=1e-4)
    assert float(transport.sinkhorn(x, x, 0.5).power) > 0.1  # what the divergence takes away
    y = cloud(40, 3, 1)
    far = [abs(float(transport.sinkhorn_divergence(x, y, e).power - transport.wasserstein(x, y).power)) for e in (3.0, 0.3)]
    assert far[1] < far[0] / 2
    on = uniform(30, 3, random())[0], uniform(30, 3, random(1))[0]
    assert float(transport.sinkhorn_divergence(*on, 0.1, space="sphere").power) > 1e-3


def test_sliced_is_within_its_stated_error():
    x = cloud(200, 5)
    shift = torch.tensor([2.0, 0, 0, 0, 0], dtype=torch.float64)  # sliced W2 of a translation: |shift| / sqrt(d)
    off = []
    for seed in range(40):
        found = transport.sliced(x, x + shift, random(seed), projections=200)
        off.append((float(found.distance) - 2 / math.sqrt(5)) / found.error)
    assert 0.6 < np.std(off) < 1.5 and abs(np.mean(off)) < 0.7


def test_sliced_on_the_sphere_is_blind_to_rotation_and_right_on_the_circle():
    x, y = uniform(60, 2, random())[0], uniform(60, 2, random(1))[0]
    found = transport.sliced(x, y, random(), space="sphere", projections=20)
    angles = [np.sort(np.arctan2(a[:, 1].numpy(), a[:, 0].numpy())) for a in (x, y)]
    wound = np.concatenate([angles[1] - 2 * np.pi, angles[1], angles[1] + 2 * np.pi])
    exact = min(((angles[0] - wound[k : k + 60]) ** 2).mean() for k in range(121))  # cyclic shifts of the sorted angles
    assert float(found.power) == pytest.approx(exact, rel=1e-3)
    assert float(transport.sliced(x, x, random(), space="sphere").distance) < 1e-6


@pytest.mark.parametrize("space", ["flat", "sphere"])
@pytest.mark.parametrize("kind", ["wasserstein", "sinkhorn", "sinkhorn_divergence", "sliced"])
def test_gradients_agree_with_finite_differences(kind: str, space: str):
    x, y = (uniform(12, 3, random(s))[0] for s in (0, 1))
    extra = {"wasserstein": (), "sliced": None}.get(kind, (0.3,))

    def power(x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.normalize(x, dim=-1) if space == "sphere" else x
        more = (random(7),) if extra is None else extra
        return getattr(transport, kind)(x, y, *more, space=space).power

    x.requires_grad_()
    (slope,) = torch.autograd.grad(power(x), x)
    way, h = cloud(12, 3, 5), 1e-4
    with torch.no_grad():
        wanted = float(power(x + h * way) - power(x - h * way)) / (2 * h)
    assert float((slope * way).sum()) == pytest.approx(wanted, rel=2e-3)


def test_the_gradient_of_no_distance_is_zero_and_not_nan():
    x = cloud(10, 2).requires_grad_()
    (slope,) = torch.autograd.grad(transport.wasserstein(x, x.detach()).distance, x)
    assert slope.abs().max() == 0


def test_drifts_of_a_known_cloud():
    x = cloud(30, 2)[None]
    for drift, doubly in ((transport.softmax_drift, False), (transport.sinkhorn_drift, True)):
        weight = np.exp(-((x[0, :, None] - x[0]) ** 2).sum(-1).numpy() / 0.6)
        for _ in range(3000 if doubly else 1):
            weight = weight / weight.sum(0) if doubly else weight
            weight = weight / weight.sum(1, keepdims=True)
        wanted = (weight @ x[0].numpy() - x[0].numpy()) / 0.3
        assert np.abs(drift(x, 0.3)[0].numpy() - wanted).max() < 1e-6
    assert transport.sinkhorn_drift(x, 0.3).mean(1).abs().max() < 1e-9  # columns sum to 1: the mean stays
    assert transport.softmax_drift(x, 0.3).mean(1).abs().max() > 1e-4


def test_prediction_32_sinkhorn_drift_is_half_the_softmax_drift():
    eps, n = 0.02, 1500
    x = torch.as_tensor(scipy.stats.norm.ppf((np.arange(n) + 0.5) / n))[None, :, None]
    inner = x[0, :, 0].abs() < 2  # away from the ends, where quantiles are further apart than the kernel is wide
    slopes = []
    for drift in (transport.softmax_drift, transport.sinkhorn_drift):
        v = drift(x, eps)[0, inner, 0]
        slopes.append(float((v * -x[0, inner, 0]).sum() / x[0, inner, 0].square().sum()))
    a = (1 + math.sqrt(1 + 4 / eps**2)) / 2
    assert slopes[0] == pytest.approx(1 / (1 + eps), rel=0.005)
    assert slopes[1] == pytest.approx((1 - 1 / (eps * a)) / eps, rel=0.005)
    assert 2 * slopes[1] == pytest.approx(slopes[0], rel=0.02)


def test_mistakes_are_said():
    unchecked = inspect.unwrap  # past the shapes that tests check: users have the messages alone
    x, y = cloud(10, 3), cloud(12, 3, 1)
    wrong = x.clone()
    wrong[3, 1] = math.nan
    for call, word in (
        (lambda: transport.wasserstein(wrong, y), "NaN"),
        (lambda: unchecked(transport.wasserstein)(x, y[:, :2]), "same width"),
        (lambda: transport.wasserstein(x[:0], y), "same width"),
        (lambda: transport.wasserstein(x, y, p=0.5), "p >= 1"),
        (lambda: transport.wasserstein(x, y, space="torus"), "torus"),
        (lambda: transport.wasserstein(x, y, space="sphere"), "off the unit sphere"),
        (lambda: transport.wasserstein(x, y, most=5), "pass a generator"),
        (lambda: unchecked(transport.pairing)(x, y), "equal size"),
        (lambda: transport.sinkhorn(x, y, 0.0), "must be positive"),
        (lambda: transport.sinkhorn(x, y, math.nan), "must be positive"),
        (lambda: transport.sinkhorn(x, y, 1e-4, sweeps=5), "raise eps or sweeps"),
        (lambda: transport.sinkhorn(cloud(6000, 1), cloud(6000, 1), 1.0), "at most 5000"),
        (lambda: transport.sliced(x, y, random(), projections=1), "standard error"),
        (lambda: transport.softmax_drift(x[None], -1.0), "bandwidth"),
        (lambda: transport.sinkhorn_drift(wrong[None], 1.0), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
