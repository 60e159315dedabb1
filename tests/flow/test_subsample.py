"""A random subset of keys: unbiased sums, the error it says, its fall along a flow, the same keys at the same time."""

import math

import pytest
import torch

from headwater.flow import sphere, subsample
from headwater.flow.integrate import solve
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_keys_is_exact():
    x, V = sphere.uniform(50, 5, random()), torch.randn(5, 5, generator=random(1), dtype=torch.float64)
    found = subsample.Subsampled(2.0, 50, random(), V)(0.3, x)
    assert torch.allclose(found, Attention(2.0, V=V)(0.3, x), atol=1e-13)


def test_numerator_and_denominator_are_unbiased():
    """Sums over keys times n/p, averaged over draws, against the full sums: within four standard errors."""
    x, p, draws = sphere.uniform(30, 3, random())[0], 6, 4000
    weight = torch.exp(1.5 * (x[:1] @ x.T))[0]
    full = torch.cat((weight.sum(0, keepdim=True), weight @ x))
    generator = random(3)
    kept = [subsample.draw(30, p, generator) for _ in range(draws)]
    sums = torch.stack([torch.cat((weight[k].sum(0, keepdim=True), weight[k] @ x[k])) * (30 / p) for k in kept])
    assert ((sums.mean(0) - full).abs() < 4 * sums.std(0) / math.sqrt(draws)).all()


@pytest.mark.parametrize(
    ("d", "beta", "n", "p"), [(3, 1.0, 500, 50), (3, 4.0, 500, 100), (8, 2.0, 500, 100), (2, -3.0, 500, 100)]
)
def test_expected_error_is_what_is_found(d, beta, n, p):
    x, generator = sphere.uniform(n, d, random(1)), random(2)
    exact = Attention(beta).ambient(0.0, x)
    found = [
        (subsample.attend(x, x[:, subsample.draw(n, p, generator)], beta) - exact).square().sum(-1).mean() for _ in range(150)
    ]
    assert float(torch.stack(found).mean().sqrt()) == pytest.approx(subsample.expected_error(n, d, beta, p), rel=0.1)


def test_keys_for_a_tolerance():
    p = subsample.keys_for(10**6, 16, 1.0, 0.02)
    assert subsample.expected_error(10**6, 16, 1.0, p) <= 0.02 < subsample.expected_error(10**6, 16, 1.0, p - 1)
    assert subsample.keys_for(1000, 16, 1.0, 1e-6) == 1000 and subsample.expected_error(1000, 16, 1.0, 1000) == 0
    assert subsample.keys_for(1000, 3, 1e5, 1e-3) == 1000  # e^{beta} overflows nothing


def flow_errors(steps: tuple[float, ...], p: int, draws: int) -> list[float]:
    """Root mean square distance at time 1 to the same flow with all keys, for each step."""
    x0, found = sphere.uniform(150, 3, random(5)), []
    for h in steps:
        wanted = solve(Attention(2.0), x0, [0.0, 1.0], method="euler", step=h).end
        ends = [
            solve(subsample.Subsampled(2.0, p, random(seed)), x0, [0.0, 1.0], method="euler", step=h).end for seed in range(draws)
        ]
        found.append(float(torch.stack([(end - wanted).square().sum(-1).mean() for end in ends]).mean().sqrt()))
    return found


@pytest.mark.slow
def test_prediction_38_error_falls_as_the_root_of_step_over_keys():
    errors = flow_errors((0.05, 0.025, 0.0125, 0.00625), 40, 24)
    ratios = [a / b for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(ratio - math.sqrt(2)) < 0.2 for ratio in ratios), ratios
    one, two = flow_errors((0.025,), 25, 24)[0], flow_errors((0.025,), 50, 24)[0]
    # without replacement: 1/p - 1/n
    assert one / two == pytest.approx(math.sqrt((1 / 25 - 1 / 150) / (1 / 50 - 1 / 150)), abs=0.25)


def test_prediction_38_in_short():
    one, two = flow_errors((0.04, 0.01), 40, 16)
    assert one / two == pytest.approx(2, abs=0.4)


def test_keys_are_fresh_each_time_and_the_same_when_time_returns():
    v, x = subsample.Subsampled(1.0, 5, random()), sphere.uniform(40, 3, random(1))
    assert torch.equal(v.keys(0.1, 40), v.keys(torch.tensor(0.1, dtype=torch.float64), 40))
    assert len({tuple(v.keys(0.1 * step, 40).tolist()) for step in range(20)}) == 20
    assert torch.equal(v(0.2, x), v(0.2, x)) and not torch.equal(v(0.2, x), v(0.3, x))
    assert not torch.equal(v.keys(0.1, 40), subsample.Subsampled(1.0, 5, random(9)).keys(0.1, 40))


def test_checkpointed_gradient_sees_the_same_keys():
    found = []
    for checkpoint in (0, 3):
        x = sphere.uniform(20, 3, random()).requires_grad_()
        v = subsample.Subsampled(1.0, 4, random(1))
        solve(v, x, [0.0, 0.6], method="euler", step=0.1, checkpoint=checkpoint).end[..., 0].sum().backward()
        found.append(x.grad)
    assert torch.allclose(*found, atol=1e-14)


def test_faults():
    for beta, p in ((float("inf"), 3), (1.0, 0)):
        with pytest.raises(ValueError, match="Subsampled"):
            subsample.Subsampled(beta, p, random())
    with pytest.raises(ValueError, match="off the unit sphere"):
        subsample.Subsampled(1.0, 2, random())(0.0, torch.ones(1, 4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="one or more"):
        subsample.draw(5, 0, random())
