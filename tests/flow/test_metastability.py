"""Counts of clusters in time: simulated mergers against the theory of who goes first and when."""

import math

import pytest
import torch
from headwater.flow import exact, sphere
from headwater.flow.metastability import metastability


def groups(angles: list[float], each: int, width: float) -> torch.Tensor:
    """Groups of tokens on the circle around the given angles (radians), evenly over 2 * width."""
    spread = torch.linspace(-width, width, each, dtype=torch.float64)
    return sphere.circle((torch.tensor(angles, dtype=torch.float64)[:, None] + spread).flatten())


def followed(follow, x: torch.Tensor, beta: float, times: list[float]):
    states = follow(x[None], times, 0.2, beta)[:, 0]
    return metastability(torch.tensor(times, dtype=torch.float64), states)


def test_prediction_17_closest_pair_merges_first(follow):
    """k = 4 groups, b = 20 and 25: every merger joins the two clusters that are closest just before it."""
    for beta, angles in ((20.0, [2.5, 3.4, 0.0, 0.8]), (25.0, [0.0, 0.85, 4.0, 3.3])):
        times = [0.0, *(10 ** (0.1 * k - 1) for k in range(41))]
        found = followed(follow, groups(angles, 5, 0.1), beta, times)
        first, second = found.mergers
        assert first.tokens == first.closest == (10, 15) and second.tokens == second.closest == (0, 5)
        assert [p.count for p in found.plateaus][-3:] == [4, 3, 2] and found.counts[-1] == 2
        assert first.after < found.plateaus[-2].stop <= second.after


def test_plateau_of_two_clusters_and_its_end(follow):
    """Two groups of equal size at a right angle, b = 8: T2 is the merging time of two tokens."""
    beta, times = 8.0, [0.0, *(10 ** (0.04 * k - 1) for k in range(95))]
    found = followed(follow, groups([0.0, math.pi / 2], 4, 0.2), beta, times)
    T = exact.merging_time(0.0, 0.99, beta)
    assert found.broken == pytest.approx(T, rel=0.15) and found.formed < 5
    plateau = next(p for p in found.plateaus if p.count == 2)
    assert plateau.start == found.formed and plateau.width == pytest.approx(math.log(plateau.stop / (plateau.start or times[1])))
    assert found.plateaus[-1].count == 1 and [event.tokens for event in found.mergers] == [(0, 4)]
    assert found.mergers[0].cosine > 0.3 and found.mergers[0].closest == (0, 4)


def test_made_up_trajectory():
    """Counts 3, 3, 2, 2, 1 at chosen times; the spread-out first state does not count."""
    spread = sphere.circle(torch.arange(60, dtype=torch.float64) * 0.1)
    at = lambda *angles: groups(list(angles), 60 // len(angles), 0.001)  # noqa: E731
    three = groups([0.0, 1.0, 2.5], 20, 0.001)
    two = torch.cat([groups([0.5], 40, 0.001), groups([2.5], 20, 0.001)])
    states = torch.stack([spread, three, three, two, two, at(1.0), at(1.0)])
    times = torch.tensor([0.0, 1.0, 10.0, 11.0, 1000.0, 1001.0, 1e6], dtype=torch.float64)
    found = metastability(times, states)
    assert found.counts[1:].tolist() == [3, 3, 2, 2, 1, 1] and found.tight[0] < 0.2
    assert [p.count for p in found.plateaus] == [3, 2, 1]
    assert (found.formed, found.broken) == (11.0, 1000.0)
    assert [(e.after, e.before, e.tokens) for e in found.mergers] == [(10.0, 11.0, (0, 20)), (1000.0, 1001.0, (0, 40))]
    never = metastability(times[:2], torch.stack([spread, spread]))
    assert math.isnan(never.formed) and math.isnan(never.broken) and not never.plateaus
    ended = metastability(times[:2], torch.stack([at(1.0), at(1.0)]))
    assert ended.formed == 0.0 and ended.broken == math.inf


def test_stragglers_are_not_clusters():
    start = groups([0.0, 1.0], 40, 0.001)
    start[-1] = sphere.circle(torch.tensor(3.0, dtype=torch.float64))
    after = groups([0.5], 80, 0.001)
    times = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = metastability(times, torch.stack([start, after]), smallest=5)
    assert found.counts.tolist() == [2, 1] and [e.tokens for e in found.mergers] == [(0, 40)]
    assert metastability(times, torch.stack([start, after])).counts.tolist() == [3, 1]


def test_what_cannot_be_is_refused():
    x = groups([0.0], 3, 0.1)
    for times in ([1.0, 1.0], [-1.0, 1.0]):
        with pytest.raises(ValueError, match="increasing"):
            metastability(torch.tensor(times, dtype=torch.float64), torch.stack([x, x]))
