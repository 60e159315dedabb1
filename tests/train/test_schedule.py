"""The learning rate against its closed form."""

import math

import pytest

from headwater.train.schedule import learning_rate


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.05), (1000, 0.1), (20, 0.3), (7, 0.0)])
def test_closed_form(steps, warmup):
    rising = max(1, round(steps * warmup))
    for step in range(steps):
        rate = learning_rate(step, steps, 2e-3, warmup)
        if step < rising:
            assert rate == pytest.approx(2e-3 * (step + 1) / rising)
        else:
            assert rate == pytest.approx(1e-3 * (1 + math.cos(math.pi * (step - rising) / (steps - rising))))


def test_it_rises_to_the_peak_once_then_only_falls():
    rates = [learning_rate(step, 200, 1.0, 0.1) for step in range(200)]
    top = rates.index(max(rates))
    assert max(rates) == 1.0 and top == 19 and rates[20] == 1.0
    assert all(a < b for a, b in zip(rates[:top], rates[1:top], strict=False))
    assert all(a > b for a, b in zip(rates[20:], rates[21:], strict=False)) and 0 < rates[-1] < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs(steps):
    assert all(0 <= learning_rate(step, steps, 1.0, 0.05) <= 1 for step in range(steps))
    assert learning_rate(0, steps, 1.0, 0.05) == 1


def test_the_teacher_follows_closely_at_first_and_never_faster_than_told_later():
    from headwater.train.schedule import teacher_momentum

    assert teacher_momentum(0, 0.995) == 0.1 and teacher_momentum(8, 0.995) == 0.5
    values = [teacher_momentum(step, 0.995) for step in range(5000)]
    assert values == sorted(values) and values[-1] == max(values) == 0.995


@pytest.mark.parametrize("steps", [1, 7, 250])
def test_the_polynomial_is_that_of_nnunet(steps):
    rates = [learning_rate(step, steps, 1e-2, 0.0, "poly") for step in range(steps)]
    assert rates == pytest.approx([1e-2 * (1 - step / steps) ** 0.9 for step in range(steps)])
    warm = [learning_rate(step, 100, 1.0, 0.1, "poly") for step in range(100)]
    assert warm[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert warm[10:] == pytest.approx([(1 - step / 90) ** 0.9 for step in range(90)])
