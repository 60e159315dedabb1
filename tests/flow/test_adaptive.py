"""The embedded pair: order, error control, hits the times asked for, and says why it cannot go on."""

import math

import pytest
import torch

from headwater.flow import sphere
from headwater.flow.adaptive import ERROR, NODES, STAGES, Controller
from headwater.flow.integrate import solve
from headwater.flow.steps import StepError
from headwater.flow.terms import Learned
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_tableau_meets_the_order_conditions():
    for node, row in zip(NODES[1:], STAGES, strict=True):
        assert abs(sum(row) - node) < 1e-14
    high = (*STAGES[-1], 0.0)
    for k in range(5):  # quadrature conditions of order 5; order 4 for the other
        assert abs(sum(b * c**k for b, c in zip(high, NODES, strict=True)) - 1 / (k + 1)) < 1e-14
    for k in range(4):
        assert abs(sum(e * c**k for e, c in zip(ERROR, NODES, strict=True))) < 1e-14


def test_prediction_39_order_five_at_equal_steps_on_the_sphere():
    v, x = Attention(2.0), sphere.uniform(10, 3, random())
    exact = solve(v, x, (0.0, 2.0), method="adaptive", tolerance=1e-13).end
    errors = []
    for count in (8, 16, 32):
        walked = list(Controller(v, "sphere", 1e6, 2.0 / count).walk(0.0, 2.0, x, False))
        assert len(walked) == count and walked[-1][0] == 2.0
        errors.append(float((walked[-1][1] - exact).norm()))
    found = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(order - 5) < 0.3 for order in found), (found, errors)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_error_follows_the_tolerance(normalised):
    v, x = Attention(2.0, normalised=normalised), sphere.uniform(12, 3, random())
    exact = solve(v, x, (0.0, 2.0), method="adaptive", tolerance=1e-13).end
    found = {e: solve(v, x, (0.0, 2.0), method="adaptive", tolerance=10.0**-e) for e in (4, 6, 8, 10)}
    for e, run in found.items():
        assert (run.end - exact).norm(dim=-1).max() < 100 * 10.0**-e
    assert found[10].steps > found[6].steps > found[4].steps
    assert found[10].steps < 9 * found[6].steps  # order 5: 10^(4/5) = 6.3


def test_it_lands_on_the_times_and_the_longest_step_is_kept():
    v, x = Attention(1.0), sphere.uniform(5, 3, random())
    seen = []
    found = solve(v, x, (0.0, 0.1, 0.33, 4.0), method="adaptive", step=0.25, event=lambda t, x: seen.append(t))
    assert found.times.tolist() == [0.0, 0.1, 0.33, 4.0]
    assert max(b - a for a, b in zip(seen, seen[1:], strict=False)) <= 0.25 + 1e-12
    back = solve(v, found.end, (4.0, 0.0), method="adaptive", tolerance=1e-10).end
    assert (back - x).abs().max() < 1e-5


def test_blow_up_in_finite_time_is_a_step_error_that_says_where():
    """y' = y^2 from 1 ends at t = 1."""
    with pytest.raises(StepError, match="beyond t=.*step.*blow-up") as error:
        solve(Learned(lambda t, x: x**2), torch.ones(1, 2, 3, dtype=torch.float64), (0.0, 2.0), method="adaptive")
    assert 0.99 < error.value.t <= 1.0 + 1e-9 and error.value.step < 1e-9


def test_a_field_that_turns_nan_is_a_step_error():
    field = Learned(lambda t, x: x * math.nan if t > 0.5 else x)
    with pytest.raises(StepError, match="not finite") as error:
        solve(field, torch.ones(1, 2, 3, dtype=torch.float64), (0.0, 1.0), method="adaptive")
    assert abs(error.value.t - 0.5) < 1e-6


def test_a_tolerance_beyond_the_precision_is_refused():
    x = sphere.uniform(5, 3, random(), dtype=torch.float32)
    with pytest.raises(ValueError, match="cannot be met in torch.float32: use 1e-06"):
        solve(Attention(1.0), x, (0.0, 1.0), method="adaptive", tolerance=1e-9)
    with pytest.raises(ValueError, match="positive"):
        solve(Attention(1.0), x, (0.0, 1.0), method="adaptive", tolerance=0.0)
    solve(Attention(1.0), x, (0.0, 1.0), method="adaptive", tolerance=1e-5)


def test_still_tokens_take_one_step():
    x = sphere.uniform(1, 3, random()).expand(1, 4, 3)
    assert solve(Attention(1.0), x, (0.0, 1e3), method="adaptive").steps < 10
