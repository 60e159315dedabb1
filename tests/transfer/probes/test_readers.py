"""The small readers: closed forms, classes not seen, calibration that is known."""

import numpy as np
import pytest

from headwater.transfer.probes import readers


def lobes(n: int, seed: int, gap: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return rng.standard_normal((n, 5)) + gap * np.eye(5)[y], y


def test_the_nearest_mean_is_the_nearest_mean():
    x, y = lobes(60, 0, gap=6.0)
    there, truth = lobes(40, 1, gap=6.0)
    shares = readers.nearest_mean(x - x.mean(0), y, there - there.mean(0), 4)
    assert (shares.argmax(1) == truth).mean() > 0.95 and shares.sum(1) == pytest.approx(1)
    assert (shares[:, 3] == 0).all()  # never seen, never answered


@pytest.mark.parametrize("reader", [readers.linear, readers.neighbours])
def test_classes_that_were_not_seen_have_no_share(reader):
    x, y = lobes(60, 0)
    shares = readers.shares(reader(x[y != 1], y[y != 1]), x, 3)
    assert (shares[:, 1] == 0).all() and shares.sum(1) == pytest.approx(1)
    assert (shares.argmax(1) == y)[y != 1].mean() > 0.9


def test_the_strength_is_chosen_where_there_are_folds():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((90, 60)), rng.integers(0, 2, 90)  # noise: the weakest is best
    splits = [(np.arange(90)[np.arange(90) % 3 != k], np.arange(90)[np.arange(90) % 3 == k]) for k in range(3)]
    assert readers.linear(x, y, splits)[-1].C == min(readers.STRENGTHS)
    assert readers.linear(x, y)[-1].C == readers.STRENGTHS[1]


def test_ridge_finds_a_line():
    x = np.random.default_rng(0).standard_normal((50, 4)) * [1, 10, 100, 1000]
    y = x @ [1, -0.1, 0.02, 0.003] + 7
    assert readers.ridge(x, y).predict(x) == pytest.approx(y, abs=0.05)


def test_calibration_error_of_known_answers():
    y = np.array([0, 1] * 50)
    sure = np.eye(2)[y]
    assert readers.calibration_error(sure, y) == 0
    assert readers.calibration_error(sure[:, ::-1], y) == 1
    assert readers.calibration_error(np.full((100, 2), 0.5), y) == pytest.approx(0, abs=1e-12)
    boast = np.where(np.eye(2)[np.zeros(100, int)] > 0, 0.9, 0.1)  # nine in ten said, half right
    assert readers.calibration_error(boast, y) == pytest.approx(0.4, abs=1e-12)


def test_a_temperature_cools_what_boasts():
    from sklearn.linear_model import LogisticRegression

    x, y = lobes(150, 3, gap=0.8)
    x = np.hstack([x, np.random.default_rng(4).standard_normal((150, 60))])  # directions to overfit
    there, truth = lobes(300, 5, gap=0.8)
    there = np.hstack([there, np.random.default_rng(6).standard_normal((300, 60))])
    boaster = LogisticRegression(C=100.0, max_iter=500).fit(x, y)
    splits = [(np.arange(150)[np.arange(150) % 3 != k], np.arange(150)[np.arange(150) % 3 == k]) for k in range(3)]
    cooled = readers.calibrated(boaster, x, y, splits)
    before, after = (readers.calibration_error(readers.shares(m, there, 3), truth) for m in (boaster, cooled))
    assert before > 0.2 and after < before / 2
