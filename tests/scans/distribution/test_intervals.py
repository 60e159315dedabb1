"""Intervals over scans."""

import numpy as np

from headwater.scans.distribution.intervals import FEWEST, interval, resample, spread, sums, weighted_mean, weighted_median
from headwater.streams import numpy_stream


def test_sums_by_scan():
    values = np.arange(8.0).reshape(4, 2)
    assert sums(values, np.array([0, 2, 0, 2]), 3).tolist() == [[4, 6], [0, 0], [8, 10]]


def test_every_draw_has_as_many_scans():
    draws = resample(7, numpy_stream(0, "draws"), 50)
    assert draws.shape == (50, 7) and (draws.sum(axis=1) == 7).all() and draws.std() > 0.5


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered, rng = 0, numpy_stream(1, "coverage")
    for _ in range(200):
        sample = rng.standard_normal(30)
        low, high = interval(weighted_mean(sample, np.arange(30), resample(30, rng, 200)), 30)
        covered += low <= 0 <= high
    assert 0.87 <= covered / 200 <= 0.99


def test_voxels_of_one_scan_are_no_independent_witnesses():
    """Ten copies of each scan leave the interval over scans where it was; one over values would shrink threefold."""
    rng = numpy_stream(2, "copies")
    sample = rng.standard_normal(20)
    draws = resample(20, rng)
    one = interval(weighted_mean(sample, np.arange(20), draws), 20)
    ten = interval(weighted_mean(np.repeat(sample, 10), np.repeat(np.arange(20), 10), draws), 20)
    assert np.allclose(one, ten)


def test_no_interval_from_few_scans_or_from_nothing():
    assert interval(np.ones(100), FEWEST - 1) is None
    assert interval(np.full(100, np.nan), 50) is None


def test_weighted_median():
    draws = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0], [2.0, 1.0, 0.0]])
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.arange(3), draws).tolist() == [2.0, 2.0, 3.0]


def test_spread_is_the_prediction_interval_of_student():
    mean, low, high = spread(np.array([1.0, 2.0, 3.0]))
    assert mean == 2 and np.isclose(high - mean, 4.302653 * np.sqrt(4 / 3)) and np.isclose(mean - low, high - mean)
    assert spread(np.array([5.0])) == (5.0, 5.0, 5.0)
