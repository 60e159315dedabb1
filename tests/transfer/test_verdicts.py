"""Verdicts: right in closed form, seldom false on simulated comparisons of a method with itself, honest where little is known."""

import math

import numpy as np
import pytest
from scipy.stats import t

from headwater.transfer import verdicts
from headwater.transfer.scores import Interval
from headwater.transfer.verdicts import Difference, Noise, judge, noise, suitability, verdict

NAN = math.nan


def table(rng, methods=5, seeds=3, subjects=40, between=0.006, shift=0.0):
    """Made-up scores: subjects, methods on subjects, trainings, rest; the second method is better by `shift`."""
    subject = 0.8 + 0.04 * rng.standard_normal((1, 1, subjects))
    method = 0.014 * rng.standard_normal((methods, 1, subjects))
    seed = between * rng.standard_normal((methods, seeds, 1))
    found = subject + method + seed + 0.02 * rng.standard_normal((methods, seeds, subjects))
    found[1] += shift
    return {f"m{i}": one for i, one in enumerate(found)}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.002, 0.03, "better"),
        (-0.03, -0.002, "worse"),
        (-0.009, 0.01, "no difference"),
        (0.002, 0.009, "no difference"),
        (-0.02, 0.03, "cannot tell"),
        (-0.002, 0.011, "cannot tell"),
        (NAN, NAN, "cannot tell"),
    ],
)
def test_three_verdicts_and_their_opposite(low, high, said):
    assert verdict(Interval((low + high) / 2, low, high), 0.01) == said
    mirrored = {"better": "worse", "worse": "better"}.get(said, said)
    assert verdict(Interval(-(low + high) / 2, -high, -low), 0.01) == mirrored and said in (
        "better",
        "worse",
        "no difference",
        "cannot tell",
    )


def test_the_interval_is_students_where_one_source_varies():
    subjects, seeds = Difference(0.02, 1e-4, 9, 0.0, 4), Difference(0.02, 0.0, 9, 1e-4, 4)
    assert subjects.reach(0.05) == pytest.approx(0.01 * t.ppf(0.975, 9))
    assert seeds.reach(0.05) == pytest.approx(0.01 * t.ppf(0.975, 4))
    assert subjects.p() == pytest.approx(2 * t.sf(2, 9), rel=1e-6) and seeds.p() == pytest.approx(2 * t.sf(2, 4), rel=1e-6)
    both = Difference(0.02, 1e-4, 9, 1e-4, 4)
    assert both.reach() ** 2 == pytest.approx(subjects.reach() ** 2 + seeds.reach() ** 2)
    assert both.reach(both.p()) == pytest.approx(0.02) and both.p() > seeds.p()


def test_variances_by_hand():
    scores = {"a": np.array([[0.1, 0.2, 0.6], [0.3, 0.2, 0.4]]), "b": np.array([[0.5, 0.5, 0.8], [0.7, 0.5, 0.9]])}
    pooled = noise(list(scores.values()))
    by_hand = (np.var([0.3, 0.3], ddof=1) + np.var([0.6, 0.7], ddof=1)) / 2
    assert pooled.variance == pytest.approx(by_hand) and pooled.freedom == 2
    found = verdicts.difference(scores["b"], scores["a"], pooled)
    each = np.array([0.6 - 0.2, 0.5 - 0.2, 0.85 - 0.5])
    assert found.gain == pytest.approx(each.mean()) and found.subjects == pytest.approx(each.var(ddof=1) / 3)
    assert found.seeds == pytest.approx(by_hand) and (found.subjects_freedom, found.seeds_freedom) == (2, 2)
    steady = Noise(1e-6, 20)
    assert verdicts.difference(scores["b"], scores["a"], steady).seeds == pytest.approx(by_hand), "an unsteady pair is not steady"


def test_a_method_is_seldom_better_than_itself():
    """150 tables, no method better: at most 5 % of them hold a false verdict; three points are found in most."""
    rng, wrong, planted = np.random.default_rng(0), 0, 0
    pairs = [(f"m{i}", "m0") for i in range(1, 5)]
    for n in range(150):
        between = (0.0, 0.006, 0.015)[n % 3]
        wrong += any(j.verdict in ("better", "worse") for j in judge(table(rng, seeds=2 + n % 2, between=between), pairs, 0.005))
        if n % 3 < 2:
            planted += judge(table(rng, between=between, shift=0.03), pairs, 0.005)[0].verdict == "better"
    assert wrong <= 150 * 0.05 and planted > 0.6 * 100


def test_holm_steps_down():
    """The clearest pair is held to 0.05 / m, the next to 0.05 / (m - 1); after the first that fails all have its level."""
    rng = np.random.default_rng(1)
    scores = table(rng, methods=4, between=0.003)
    for name, shift in (("m1", 0.1), ("m2", 0.06), ("m3", 0.0)):
        scores[name] = scores[name] + shift
    pairs = [("m3", "m0"), ("m1", "m0"), ("m2", "m0")]
    found = judge(scores, pairs, 0.01)
    assert [(j.method, j.against) for j in found] == pairs and [j.verdict for j in found][1:] == ["better", "better"]
    pooled = noise(list(scores.values()))
    for j, level in zip(found, (0.05, 0.05 / 3, 0.05 / 2), strict=True):
        alone = verdicts.difference(scores[j.method], scores["m0"], pooled)
        assert (j.interval.high - j.interval.low) / 2 == pytest.approx(alone.reach(level)) and j.p == pytest.approx(alone.p())
    alike = judge({"a": scores["m0"], "b": table(rng)["m1"], "c": table(rng)["m1"]}, [("b", "a"), ("c", "a")], 0.01)
    widths = [j.interval.high - j.interval.low for j in alike if j.verdict == "cannot tell"]
    assert len(widths) == 2


def test_the_same_scores_are_no_difference_and_order_only_turns_the_sign():
    scores = table(np.random.default_rng(2))
    same = judge({"a": scores["m0"], "b": scores["m0"].copy(), "c": scores["m1"]}, [("b", "a"), ("c", "a"), ("a", "c")], 1.0)
    assert same[0].interval.mean == 0 and same[0].verdict == "no difference"
    one, other = same[1].interval, same[2].interval
    assert one.mean == pytest.approx(-other.mean) and one.low == pytest.approx(-other.high)
    constant = {"a": np.full((2, 3), 0.5), "b": np.full((2, 3), 0.5)}
    (still,) = judge(constant, [("b", "a")], 0.01)
    assert (still.interval.low, still.interval.high, still.verdict) == (0, 0, "no difference")
    constant["b"] = np.full((2, 3), 0.6)
    assert judge(constant, [("b", "a")], 0.01)[0].verdict == "better"


@pytest.mark.parametrize(("seeds", "subjects"), [(1, 10), (3, 1), (3, 0)])
def test_where_nothing_is_known_it_cannot_tell(seeds, subjects):
    scores = table(np.random.default_rng(0), 2, seeds, max(1, subjects))
    if not subjects:
        scores["m0"] = scores["m0"] * NAN
    (found,) = judge(scores, [("m1", "m0")], 0.01)
    assert found.verdict == "cannot tell" and "cannot tell; an interval needs two" in verdicts.sentence(found)


def test_subjects_without_a_score_are_left_out():
    scores = table(np.random.default_rng(3), 2)
    less = {name: one[:, 1:] for name, one in scores.items()}
    scores["m1"][1, 0] = NAN
    assert judge(scores, [("m1", "m0")], 0.01) == judge(less, [("m1", "m0")], 0.01)


def test_words():
    j = verdicts.Judged("vit", "resenc", Interval(-0.021, -0.034, -0.008), 0.001, "worse")
    assert verdicts.sentence(j) == "vit is worse than resenc: -2.1 Dice points [-3.4, -0.8]."
    assert verdicts.sentence(j, "equal time") == "vit is worse than resenc at equal time: -2.1 Dice points [-3.4, -0.8]."


def test_a_set_that_cannot_tell_methods_apart_is_named():
    rng = np.random.default_rng(4)
    alike = [suitability(table(rng, between=0.01)) for _ in range(100)]
    assert sum("cannot tell these" not in one["sentence"] for one in alike) <= 15
    apart = table(rng, between=0.003)
    apart["m2"] = apart["m2"] - 0.1
    found = suitability(apart)
    assert found["sentence"].startswith("This set can tell") and found["between"] > 3 * found["within"] > 0
    means = [one.mean() for one in apart.values()]
    assert found["between"] == pytest.approx(np.std(means, ddof=1)) and found["within"] == pytest.approx(
        np.sqrt(noise(list(apart.values())).variance)
    )
    alone = suitability({"a": np.ones((3, 4))})
    assert alone["between"] is None and "unknown" in alone["sentence"]
