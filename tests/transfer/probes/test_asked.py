"""What a probe is asked: subjects on one side, scores of rows as means over subjects."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, r2_score

from headwater.transfer.probes.asked import Asked


def planted(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of 8 numbers, three unequal classes along three of them, two images of each subject."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    return rng.standard_normal((n, 8)) + 4 * np.eye(8)[y], y, np.arange(n) // 2


@pytest.mark.parametrize("kind", ["classes", "number", "labels", "tokens"])
def test_no_subject_is_on_both_sides(kind):
    x, y, whose = planted()
    targets = {"number": x[:, 0], "labels": np.stack([y == 0, y == 1], 1).astype(float)}.get(kind, y)
    asked = Asked.of({"x": x}, targets, whose, kind, (), None, 0)
    tried = np.concatenate([test for _, test in asked.folds])
    assert sorted(tried.tolist()) == list(range(60))
    for train, test in asked.folds:
        assert not set(asked.whose[train]) & set(asked.whose[test])
        for inside, out in asked.inner(train):
            assert not set(asked.whose[train][inside]) & set(asked.whose[train][out])


def test_the_mean_over_subjects_is_the_score_of_the_rows():
    x, y, whose = planted()
    rng = np.random.default_rng(3)
    asked = Asked.of({"x": x}, y, whose, "classes", (), None, 0)
    said = rng.dirichlet(np.ones(3), 60)
    answers = (said / np.bincount(y)).argmax(1)
    assert asked.values(said, y).mean() == pytest.approx(balanced_accuracy_score(y, answers))
    asked = Asked.of({"x": x}, x[:, 0], whose, "number", (), None, 0)
    guess = np.empty(60)
    for train, test in asked.folds:
        guess[test] = x[train, 0].mean()
    said = x[:, 0] + rng.standard_normal(60)
    wanted = 1 - ((said - x[:, 0]) ** 2).sum() / ((guess - x[:, 0]) ** 2).sum()
    assert asked.values(said, x[:, 0]).mean() == pytest.approx(wanted) and abs(wanted - r2_score(x[:, 0], said)) < 0.05
