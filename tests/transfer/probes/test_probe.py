"""Probes: planted targets are found and noise is not, subjects stay on one side, closed forms of the scores, faults named."""

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.transfer.probes.probe import probe


def planted(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of 8 numbers, three unequal classes along three of them, two images of each subject."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    return rng.standard_normal((n, 8)) + 4 * np.eye(8)[y], y, np.arange(n) // 2


def test_classes_are_told_and_noise_is_not():
    x, y, whose = planted()
    noise = np.random.default_rng(9).standard_normal(x.shape)
    found = probe({"noise": noise, "planted": x}, y, whose, kind="classes", names=("a", "b", "c"))
    assert found.score(layer="planted").interval.low > 0.8 > found.score(layer="noise").interval.mean
    assert found.chance.interval.low < 1 / 3 < found.chance.interval.high + 0.05
    assert found.score("neighbours").interval.mean > 0.8
    few = [found.score("nearest mean", count=c).interval.mean for c in (1, 4)]
    assert 0.6 < few[0] < few[1] + 0.02
    assert found.score("linear", count=1).values.shape == (5, 30)  # draws, subjects
    assert set(found.calibration) == {"before", "after"} and found.plain()["metric"] == "balanced accuracy"
    with pytest.raises(KeyError, match="no score of attentive"):
        found.score("attentive")


def test_numbers_and_attention():
    x, _, whose = planted()
    y = 100 + 5 * x[:, 0]
    tokens = np.repeat(x[:, None], 4, 1) + 0.1 * np.random.default_rng(1).standard_normal((60, 4, 8))
    found = probe({"x": x}, y, whose, kind="number", tokens=tokens, few=False)
    assert found.score().interval.low > 0.95 and found.score("attentive").interval.mean > 0.5
    assert abs(found.chance.interval.mean) < 0.3 and found.calibration == {}


def test_labels_with_unknown_answers():
    x, y, whose = planted()
    labels = np.stack([y == 0, y == 1, np.zeros_like(y)], 1).astype(float)
    labels[3, 0] = np.nan
    found = probe({"x": x}, labels, whose, kind="labels", names=("p", "q", "none"))
    assert found.score().interval.mean > 0.9 and found.names == ("p", "q")
    assert found.words == ("label none is the same for every image: left out",)
    assert abs(found.chance.interval.mean - 0.5) < 0.15


def test_structures_by_dice_of_tokens():
    rng = np.random.default_rng(0)
    y, whose = rng.choice(3, 1200, p=[0.8, 0.15, 0.05]), np.arange(1200) // 100
    x = rng.standard_normal((1200, 6)) + 5 * np.eye(6)[y]
    found = probe({"x": x}, y, whose, kind="tokens", names=("background", "head", "tail"))
    assert found.score().interval.mean > 0.9 > 0.3 > found.chance.interval.mean
    assert [s.count for s in found.scores if s.count] == [1, 2, 4] and found.score(count=4).interval.mean > 0.7


def test_the_background_is_the_first_class_where_there_is_none():
    rng = np.random.default_rng(0)
    y, whose = rng.choice([1, 2], 200), np.arange(200) // 20
    x = rng.standard_normal((200, 3)) + 6 * np.eye(3)[y]
    found = probe({"x": x}, y, whose, kind="tokens", names=("background", "head", "tail"), few=False)
    assert found.names == ("background", "head", "tail") and found.score().interval.mean > 0.95  # of both structures


def test_a_subjects_own_mark_is_of_no_use():
    """Features that say whose an image is and nothing else: with images of one subject on both sides it would be perfect."""
    rng = np.random.default_rng(0)
    whose = np.repeat(np.arange(20), 3)
    y = rng.integers(0, 2, 20)[whose]
    found = probe({"x": np.eye(20)[whose] * 5}, y, whose, kind="classes", few=False)
    assert found.score("neighbours").interval.low < 0.6


def test_a_class_of_one_subject_is_left_out_and_named():
    x, y, whose = planted()
    y = np.where(whose == 7, 3, y)
    y[0] = -1
    found = probe({"x": x}, y, whose, kind="classes", names=("a", "b", "c", "rare"), few=False)
    assert found.names == ("a", "b", "c")
    assert found.words[0].startswith("class rare has images of one subject alone") and found.words[1].startswith("1 of 60 images")


def test_a_class_that_a_fold_lacks_is_named():
    x, y, _ = planted(20)
    whose = np.array([0] * 7 + [1] * 7 + [2] * 6)
    y = np.where(whose == 2, 0, np.where(whose == 1, 1, np.arange(20) % 2))
    y[-1] = 2
    y[0] = 2
    found = probe({"x": x}, y, whose, kind="classes", few=False)
    assert not found.words or all("missing from the subjects of a fold" in word for word in found.words if "class" in word)
    assert np.isfinite(found.score().interval.mean)


@pytest.mark.parametrize(
    ("targets", "whose", "kind", "said"),
    [
        (np.zeros(60, int), np.arange(60), "classes", "of these there is only 0"),
        (np.full(60, 3.5), np.arange(60), "number", "is 3.5 for every image"),
        (np.full(60, np.nan), np.arange(60), "number", "2 subjects or more"),
        (np.arange(60.0), np.zeros(60), "number", "2 subjects or more"),
        (np.arange(60) % 2, np.zeros(60), "classes", "of these there is none"),
        (np.full((60, 2), np.nan), np.arange(60), "labels", "every label is the same"),
        (np.full((60, 2), 0.5), np.arange(60), "labels", "a table of 0 and 1"),
        (np.linspace(0, 1, 60), np.arange(60), "classes", "whole numbers"),
        (np.arange(59), np.arange(60), "number", "a row for each image"),
        (np.arange(60), np.arange(60), "depth", "no kind of probe"),
    ],
)
def test_faults_are_named(targets, whose, kind, said):
    with pytest.raises(InputError, match=said):
        probe({"x": planted()[0]}, targets, whose, kind=kind)


def test_broken_features_are_named():
    x, y, whose = planted()
    x[3, 2] = np.inf
    with pytest.raises(InputError, match="features of x hold NaN"):
        probe({"x": x}, y, whose, kind="classes")
