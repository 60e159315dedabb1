"""Novelty: held-out samples are uniform, planted outliers stand out, the density against exact ones, units, faults."""

import math

import pytest
import scipy.stats
import torch

from headwater.flow.novelty import Density, Summary


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def features(n: int, d: int, seed: int) -> torch.Tensor:
    """Correlated, of very different scales, in two lobes along the first axis."""
    z = cloud(n, d, seed=seed)
    z[:, 0] = 0.3 * z[:, 0] + torch.where(z[:, -1] > 0, 2.0, -2.0)
    return z @ (torch.eye(d, dtype=torch.float64) + 0.3 * cloud(d, d, seed=50)) * 10.0 ** torch.linspace(-2, 2, d) + 7


@pytest.fixture(scope="module")
def density() -> Density:
    return Density.fit(features(200, 4, 1), generator=random(), folds=2, steps=800)


@pytest.mark.slow
def test_percentiles_of_held_out_samples_are_uniform(density: Density):
    share = density.novelty(features(400, 4, 2)) / 100
    chance = 1.36 * math.sqrt(1 / 400 + 1 / 100)  # 95 % of the distance of 400 samples from the 100 that were set aside
    assert scipy.stats.kstest(share.numpy(), "uniform").statistic < chance
    assert 0.4 < float(share.mean()) < 0.6 and float((share > 0.95).double().mean()) < 0.12


@pytest.mark.slow
def test_planted_outliers_are_above_99(density: Density):
    x = features(20, 4, 3)
    assert density.novelty(x + 10 * features(300, 4, 1).std(0)).min() > 99
    mixed = x.clone()
    mixed[:, 1] = x[:, 1] + 8 * features(300, 4, 1).std(0)[1]  # one feature alone
    assert density.novelty(mixed).min() > 99
    assert density.novelty(x).max() <= 100 * (100 + 0.5) / 101


def lobes(n: int, seed: int) -> torch.Tensor:
    """Two round clouds of spread 0.4, four apart."""
    z = 0.4 * cloud(n, 2, seed=seed)
    z[:, 0] += torch.where(torch.rand(n, generator=random(seed + 99)) > 0.5, 2.0, -2.0)
    return z


@pytest.mark.slow
def test_the_flow_beats_the_gaussian_where_data_is_not_gaussian():
    flow, gaussian = (Density.fit(lobes(400, 1), generator=random(), folds=2, steps=steps) for steps in (400, 0))
    assert all(member.steps > 0 for member in flow.members) and all(member.steps == 0 for member in gaussian.members)
    x, middle = lobes(300, 2), torch.zeros(1, 2, dtype=torch.float64)  # between the lobes a Gaussian is densest
    exact = -math.log(2) - math.log(2 * math.pi * math.e * 0.16)
    assert float(flow.log_density(x)[0].mean()) == pytest.approx(exact, abs=0.15)
    assert float(gaussian.log_density(x)[0].mean()) < exact - 0.5
    assert float(flow.novelty(middle)) > 95 and float(gaussian.novelty(middle)) < 20


def test_the_gaussian_alone_is_the_density_of_a_gaussian():
    x, root = cloud(900, 3), torch.tensor([[2.0, 0.5, 0], [0, 1, 30], [0.1, 0, 5]], dtype=torch.float64)
    found, error = Density.fit(x @ root, generator=random(), steps=0).log_density(cloud(50, 3, seed=1) @ root)
    exact = scipy.stats.multivariate_normal(torch.zeros(3).numpy(), (root.T @ root).numpy()).logpdf(
        (cloud(50, 3, seed=1) @ root).numpy()
    )
    exact = torch.as_tensor(exact)
    assert ((found - exact).abs() / exact.abs()).max() < 0.05 and (found - exact).abs().mean() < 0.06
    assert (error >= 0).all() and float(error.mean()) < 0.1


@pytest.mark.slow
def test_units_and_order_of_features_play_no_part():
    x, new = features(40, 4, 1), features(4, 4, 2)
    scale = torch.tensor([1e-3, 2.0, 5e4, 1.0], dtype=torch.float64)
    one = Density.fit(x, generator=random(), folds=2, steps=0)
    other = Density.fit(x * scale - 3, generator=random(), folds=2, steps=0)
    assert torch.allclose(one.novelty(new), other.novelty(new * scale - 3), atol=1e-6)
    assert torch.allclose(one.log_density(new)[0] - scale.log().sum(), other.log_density(new * scale - 3)[0], atol=1e-4)
    back = Density.fit(x.flip(1), generator=random(), folds=2, steps=0)
    assert torch.allclose(one.novelty(new), back.novelty(new.flip(1)), atol=1e-6)
    same = Density.fit(x, generator=random(), folds=2, steps=100), Density.fit(x, generator=random(), folds=2, steps=100)
    assert torch.equal(same[0].novelty(new), same[1].novelty(new))


@pytest.mark.slow
def test_more_features_than_samples():
    low = cloud(5, 200, seed=3)
    x, new = (cloud(n, 5, seed=s) @ low + 0.05 * cloud(n, 200, seed=s + 10) for n, s in ((60, 1), (40, 2)))
    made = Density.fit(x, generator=random(), steps=0)
    assert made.members[0].summary.rest is not None
    share = made.novelty(new)
    assert 0.25 < float(share.mean()) / 100 < 0.75
    off = new + 2 * cloud(40, 200, seed=9)  # off the plane of the data: seen by the length left out alone
    assert made.novelty(off).min() > 95
    constant = torch.column_stack((features(100, 3, 1), torch.ones(100, dtype=torch.float64)))
    made = Density.fit(constant, generator=random(), steps=0)
    moved = constant.clone()
    moved[:, 3] += 50
    assert made.novelty(moved).min() > 97 and made.novelty(constant).mean() < 60


def test_summary_has_unit_variance_and_its_volume():
    x = features(200, 4, 1)
    made = Summary.fit(x, 4)
    assert torch.allclose(made(x).T.cov(), torch.eye(4, dtype=torch.float64), atol=1e-8)
    slope = torch.autograd.functional.jacobian(lambda y: made(y[None])[0], x[0])
    assert float(torch.linalg.slogdet(slope).logabsdet) == pytest.approx(made.log_volume, rel=1e-9)
    few = Summary.fit(x, 2)
    assert few(x).shape == (200, 3)
    assert abs(float(few(x)[:, 2].mean())) < 1e-9 and float(few(x)[:, 2].std()) == pytest.approx(1)


@pytest.mark.slow
def test_mistakes_are_said(density: Density):
    x = features(40, 4, 1)
    wrong = x.clone()
    wrong[0, 0] = math.nan
    for call, word in (
        (lambda: Density.fit(x[:29], generator=random()), "30 samples"),
        (lambda: Density.fit(x, generator=random(), folds=5), "10 a fold"),
        (lambda: Density.fit(x, generator=random(), folds=1), "folds=1"),
        (lambda: Density.fit(x, generator=random(), dims=0), "dims=0"),
        (lambda: Density.fit(wrong, generator=random()), "NaN"),
        (lambda: Density.fit(torch.ones(40, 3), generator=random()), "same features"),
        (lambda: density.novelty(x[:, :3]), "on 4 features"),
        (lambda: density.novelty(x[:0]), "on 4 features"),
        (lambda: density.log_density(wrong), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
