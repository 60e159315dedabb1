"""Journeys: straight lines, circles, great circles, the order of the three parts of the action, faults."""

import inspect
import math

import pytest
import torch

from headwater.flow import journey, transport
from headwater.flow.sphere import circle, exponential, logarithm, uniform


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def times(n: int, end: float = 1.0) -> torch.Tensor:
    return torch.linspace(0, end, n, dtype=torch.float64)


def test_a_straight_line_at_constant_speed_is_optimal_transport():
    x, shift = cloud(2, 30, 3), torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    t = times(7, 5.0)
    found = journey.journey(t, torch.stack([x + s / 5 * shift for s in t]))
    assert torch.allclose(found.straightness, torch.ones(2, 30, dtype=torch.float64), atol=1e-12)
    for value in (found.action, found.transport):  # neither depends on how long it takes
        assert torch.allclose(value, torch.tensor(9.0, dtype=torch.float64), rtol=1e-12)
    for part in (found.gap, found.unevenness, found.bending, found.crossing):
        assert part.abs().max() < 1e-10
    assert found.error.abs().max() == 0


def test_half_a_circle_has_straightness_two_over_pi():
    t = times(2001)
    states = circle(math.pi * t)[:, None, None]
    found = journey.journey(t, states)
    assert float(1 / found.straightness) == pytest.approx(math.pi / 2, rel=1e-6)
    assert float(found.action) == pytest.approx(math.pi**2, rel=1e-6)
    assert float(found.bending) == pytest.approx(math.pi**2 - 4, rel=1e-6)


def test_lengths_on_the_sphere_are_angles():
    x, y = uniform(20, 4, random(), batch=2), uniform(20, 4, random(1), batch=2)
    u, t = logarithm(x, y), times(9)
    found = journey.journey(t, torch.stack([exponential(x, s * u) for s in t]), space="sphere")
    assert torch.allclose(found.length, u.norm(dim=-1), rtol=1e-10)
    assert (found.straightness - 1).abs().max() < 1e-10
    assert torch.allclose(found.action, u.square().sum(-1).mean(-1), rtol=1e-10)
    assert found.crossing.min() > 0.1  # random pairs are not the cheapest
    height = 0.5  # a parallel circle: half of it is pi r long, its ends 2 asin(r) apart
    r = math.sqrt(1 - height**2)
    t = times(1001)
    ring = torch.cat((r * circle(math.pi * t), torch.full((1001, 1), height, dtype=torch.float64)), -1)
    found = journey.journey(t, ring[:, None, None], space="sphere")
    assert float(found.straightness) == pytest.approx(2 * math.asin(r) / (math.pi * r), rel=1e-5)


def test_the_parts_of_the_action():
    t = times(401)
    x = cloud(1, 1, 2)
    uneven = journey.journey(t, torch.stack([x + s**2 * torch.tensor([3.0, 4.0], dtype=torch.float64) for s in t]))
    assert float(uneven.action) == pytest.approx(25 * 4 / 3, rel=1e-5)  # int (2 s 5)^2 ds
    assert float(uneven.unevenness) == pytest.approx(25 / 3, rel=1e-4)
    assert abs(float(uneven.bending)) < 1e-10
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)[None]
    crossed = journey.journey(t, torch.stack([(1 - s) * ends + s * ends.flip(1) for s in t]))
    assert float(crossed.crossing) == pytest.approx(1.0) and float(crossed.transport) == 0
    wild = journey.journey(times(5), cloud(5, 3, 20, 2))
    for part in (wild.unevenness, wild.bending, wild.crossing):
        assert part.min() > 0
    assert torch.allclose(wild.gap, wild.unevenness + wild.bending + wild.crossing)
    backward = journey.journey(times(5).flip(0), cloud(5, 3, 20, 2).flip(0))
    assert torch.allclose(backward.action, wild.action) and torch.allclose(backward.transport, wild.transport)


def test_a_token_at_rest_is_straight_and_energy_is_half_the_square():
    x = cloud(1, 4, 2)
    found = journey.journey(times(3), torch.stack([x] * 3))
    assert (found.straightness == 1).all() and (found.action == 0).all()
    v = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    assert journey.kinetic_energy(v).tolist() == [(25 + 1) / 4]


def test_layer_costs_are_distances_of_neighbouring_clouds():
    states = cloud(4, 2, 15, 3)
    value, error = journey.layer_costs(states)
    assert value.shape == (3, 2) and (error == 0).all()
    for k in range(3):
        for b in range(2):
            assert float(value[k, b]) == pytest.approx(
                float(transport.wasserstein(states[k, b], states[k + 1, b]).distance), rel=1e-12
            )
    mixed = states[:1].repeat(2, 1, 1, 1)
    mixed[1] = mixed[1].flip(1)  # order of tokens is no cost
    assert journey.layer_costs(mixed)[0].max() < 1e-7
    _, error = journey.layer_costs(states, most=10, generator=random())
    assert error.min() > 0
    whole = journey.journey(times(4), states, most=10, generator=random())
    assert whole.error.min() > 0


def test_mistakes_are_said():
    states = cloud(3, 1, 4, 2)
    for call, word in (
        (lambda: inspect.unwrap(journey.journey)(times(2), states), "one time for each"),
        (lambda: journey.journey(times(1), states[:1]), "two or more"),
        (lambda: journey.journey(torch.tensor([0.0, 1.0, 1.0]), states), "equal"),
        (lambda: journey.journey(times(3), states, space="torus"), "torus"),
        (lambda: journey.journey(times(3), states, space="sphere"), "off the unit sphere"),
        (lambda: journey.journey(times(3), states * math.nan), "NaN"),
        (lambda: journey.layer_costs(states[:1]), "two or more"),
        (lambda: journey.layer_costs(states, most=3), "pass a generator"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
