"""Dice against its closed form; the interval against many simulated studies."""

import numpy as np
import pytest
import torch

from headwater.transfer import scores


def overlap(prediction: np.ndarray, truth: np.ndarray, structure: int) -> float:
    """2 |A and B| / (|A| + |B|), by hand."""
    a, b = prediction == structure, truth == structure
    return 2 * (a & b).sum() / (a.sum() + b.sum()) if b.any() else float("nan")


@pytest.mark.parametrize("shape", [(9, 7), (6, 5, 8)])
def test_closed_form_in_two_and_three_dimensions(shape):
    rng = np.random.default_rng(0)
    for _ in range(4):
        prediction, truth = rng.integers(0, 4, (2, *shape))
        found = scores.dice(torch.from_numpy(prediction), torch.from_numpy(truth), 4)
        assert np.allclose(found, [overlap(prediction, truth, k) for k in (1, 2, 3)], atol=1e-6)


def test_perfect_missed_absent_and_invented():
    truth = torch.tensor([[1, 1, 0, 0], [2, 2, 0, 0]])
    prediction = torch.tensor([[1, 1, 0, 4], [0, 0, 3, 3]])
    found = scores.dice(prediction, truth, 6)
    assert found[0] == 1 and found[1] == 0 and np.isnan(found[2:]).all(), "what the truth has not is nan, invented or not"


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=(3, 12))
    assert scores.interval(values, 5) == scores.interval(values, 5)
    assert scores.interval(values, 5) != scores.interval(values, 6)
    found = scores.interval(values, 5)
    assert found.low < found.mean < found.high and found.mean == pytest.approx(values.mean())


def test_identical_arms_differ_by_exactly_nothing():
    values = np.random.default_rng(0).random((3, 20))
    found = scores.interval(values - values, 0)
    assert (found.mean, found.low, found.high, found.clear) == (0.0, 0.0, 0.0, 0)


def test_the_same_everywhere_has_no_width():
    found = scores.interval(np.full((3, 9), 0.25), 0)
    assert found.mean == pytest.approx(0.25) and found.low == pytest.approx(0.25) and found.high == pytest.approx(0.25)
    assert found.clear == 1


def test_subjects_without_a_score_are_left_out():
    values = np.random.default_rng(0).random((3, 8))
    holes = np.concatenate([values, np.full((3, 2), np.nan)], 1)
    holes[:, 8] = [0.1, np.nan, 0.2]
    assert scores.interval(holes, 0) == scores.interval(values, 0)
    nothing = scores.interval(np.full((2, 3), np.nan), 0)
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all() and nothing.clear == 0
    one = scores.interval(np.array([[0.5, np.nan], [0.7, np.nan]]), 0)
    assert one.mean == pytest.approx(0.6) and np.isnan([one.low, one.high]).all() and one.clear == 0


def test_one_draw_is_the_bootstrap_over_subjects():
    values = np.random.default_rng(1).normal(size=(1, 200))
    found = scores.interval(values, 0)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [
        (0.01, 0.2, 1),
        (-0.2, -0.01, -1),
        (-0.1, 0.1, 0),
        (0.0, 0.1, 0),
        (-0.1, 0.0, 0),
    ],
)
def test_clear_means_that_nought_lies_outside(low, high, clear):
    assert scores.Interval((low + high) / 2, low, high).clear == clear


def coverage(draws: int, subjects: int, of_draw: float, of_subject: float, noise: float, studies: int = 300) -> float:
    """Share of simulated studies whose interval holds the true mean (0): value = draw effect + subject effect + noise."""
    rng, held = np.random.default_rng(draws * 1000 + subjects), 0
    for study in range(studies):
        values = of_draw * rng.normal(size=(draws, 1)) + of_subject * rng.normal(size=(1, subjects))
        values = values + noise * rng.normal(size=(draws, subjects))
        found = scores.interval(values, study, resamples=600)
        held += found.low <= 0 <= found.high
    return held / studies


@pytest.mark.parametrize(
    ("draws", "subjects", "of_draw", "of_subject", "noise"),
    [
        (3, 40, 0.0, 1.0, 1.0),
        (3, 40, 0.1, 1.0, 1.0),
        (8, 40, 0.1, 1.0, 1.0),
        (1, 40, 0.0, 1.0, 0.5),
        (3, 15, 0.0, 0.5, 2.0),
    ],
)
def test_coverage(draws, subjects, of_draw, of_subject, noise):
    """At least the 95 % that it says, less two standard errors of this count."""
    assert coverage(draws, subjects, of_draw, of_subject, noise) >= 0.925


def nested(study: int, of_draw: float, of_seed: float, rng: np.random.Generator, shape=(3, 2, 20)) -> np.ndarray:
    """Draws, trainings within them, and subjects crossed with both; each subject differs a little for each draw and training."""
    draws, seeds, subjects = shape
    values = of_draw * rng.normal(size=(draws, 1, 1)) + of_seed * rng.normal(size=(draws, seeds, 1))
    return values + rng.normal(size=(1, 1, subjects)) + 0.5 * rng.normal(size=(draws, 1, subjects)) + 0.5 * rng.normal(size=shape)


@pytest.mark.parametrize(("of_draw", "of_seed"), [(0.0, 0.2), (0.4, 0.1)])
def test_coverage_with_trainings_within_draws(of_draw, of_seed):
    """3 draws x 2 seeds x 20 subjects: between 90 and 99 %."""
    rng, held = np.random.default_rng(7), 0
    for study in range(200):
        found = scores.interval(nested(study, of_draw, of_seed, rng), study, resamples=300)
        held += found.low <= 0 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_one_training_each_is_no_axis():
    values = np.random.default_rng(0).normal(size=(3, 12))
    assert scores.interval(values[:, None], 5) == scores.interval(values, 5)


def test_trainings_that_agree_tell_no_more_than_one():
    """Repeating a network exactly is not evidence; networks that differ by chance narrow the interval."""
    values = np.random.default_rng(0).normal(size=(3, 1, 12))
    one, twice = scores.interval(values[:, 0], 5), scores.interval(np.repeat(values, 8, axis=1), 5)
    assert twice.high - twice.low == pytest.approx(one.high - one.low, rel=0.1)


def test_one_draw_trained_often_varies_with_the_training():
    rng = np.random.default_rng(0)
    values = 0.5 * rng.normal(size=(1, 6, 1)) + 0.01 * rng.normal(size=(1, 1, 200))
    found = scores.interval(values, 0)
    assert found.high - found.low > 2 * 1.9 * values.mean(2).std(ddof=1) / np.sqrt(6)


def test_studies_are_the_same_for_curves_of_one_shape():
    """So that two arms can be resampled in pairs: what is common to both cancels in every study."""
    rng = np.random.default_rng(0)
    shared, gain = rng.normal(size=(3, 2, 20)), 0.25
    one, other = scores.resampled(shared, 3, 50), scores.resampled(shared + gain, 3, 50)
    assert np.allclose(other - one, gain) and one.std() > 0
    assert not np.allclose(one, scores.resampled(shared, 4, 50))


def test_coverage_where_it_matters_which_labels_were_drawn():
    assert coverage(3, 40, 0.5, 1.0, 1.0) >= 0.925


def test_no_end_lies_outside_what_there_can_be():
    wild = np.array([[1.0, 0.9], [0.1, 0.0]])
    free, kept = scores.interval(wild, 0), scores.interval(wild, 0, bounds=(0.0, 1.0))
    assert free.low < 0 and free.high > 1 and (kept.low, kept.high, kept.mean) == (0.0, 1.0, free.mean)


def test_overlaps_are_those_of_united_classes_where_voxels_count():
    truth = np.array([[0, 1, 1, 2], [2, 2, 0, 255]], np.uint8)
    found = np.array([[0, 1, 2, 2], [2, 0, 0, 1]], np.uint8)
    told = scores.overlaps(found, truth, [(1,), (2,), (1, 2), (3,)], 4)
    assert told[:3] == pytest.approx([2 / 3, 4 / 6, 8 / 9]) and np.isnan(told[3])
    other = np.where(truth == 255, 2, found).astype(np.uint8)  # whatever is said where nothing counts
    assert np.array_equal(told, scores.overlaps(other, truth, [(1,), (2,), (1, 2), (3,)], 4), equal_nan=True)
