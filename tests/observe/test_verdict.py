"""What is said of runs that went well, and of runs that did not."""

import math

import pytest

from headwater.observe.verdict import line, verdict


def look(rho: float, rank: float, *, chance: float = 0.02, spread: float = 0.6, d: int = 240, **more: object) -> dict:
    return {"reliability": rho, "null95": chance, "rank": rank, "n": 96, "d": d, "spread": spread, "error": 0.01, **more}


def dense(rho: float, rank: float, **more: object) -> dict:
    return {"dense": look(rho, rank, **more)}


def steps(*looks: dict) -> list[dict]:
    return [{"event": "watch", "step": 100 * (i + 1), **seen} for i, seen in enumerate(looks)]


def test_healthy_in_the_words_of_the_design() -> None:
    found = verdict(dense(0.35, 41), steps(dense(0.5, 30)), dense(0.61, 24), "dense")
    assert found.state == "healthy"
    numbers = "dense agreement 0.61 (chance 0.02, before training 0.35), 24 directions."
    assert found.sentence == f"Features are stable and not random: {numbers}"
    assert line(found) == "agreement between views 0.61 (chance 0.02, before training 0.35)   directions 24   healthy"


def test_a_falling_rank_alone_is_no_alarm() -> None:
    history = steps(dense(0.6, 100), dense(0.7, 60), dense(0.75, 40))
    assert verdict(dense(0.548, 108), history, dense(0.797, 29), "dense").state == "healthy"
    few = verdict(dense(0.548, 108), history, dense(0.797, 2), "dense")
    assert few.state == "healthy" and "Few directions" in few.sentence and "no alarm by itself" in few.sentence


def test_a_falling_reliability_alone_is_no_collapse() -> None:
    assert verdict(dense(0.5, 20), steps(dense(0.6, 20)), dense(0.2, 20), "dense").state == "weak"


def test_both_falling_is_collapse_and_names_the_last_good_step() -> None:
    history = steps(dense(0.5, 30), dense(0.6, 30), dense(0.61, 28), dense(0.2, 4), dense(0.1, 3))
    found = verdict(dense(0.35, 41), history, dense(0.05, 1), "dense")
    assert found.state == "collapsed"
    assert "at step 300 it was 0.61 in 28 directions" in found.sentence
    assert "learning rate too high" in found.sentence and "at its best at step 300" in found.sentence


def test_one_bad_look_is_no_alarm() -> None:
    found = verdict(dense(0.35, 41), steps(dense(0.5, 30), dense(0.6, 30)), dense(0.05, 1), "dense")
    assert found.state != "collapsed"


@pytest.mark.parametrize("rho", [0.005, math.nan, None])
def test_point_collapse(rho: float | None) -> None:
    found = verdict(dense(0.35, 41), [], dense(rho, 0, spread=1e-14), "dense")
    assert found.state == "collapsed" and "the same dense features" in found.sentence and "start again" in found.sentence


def test_tiny_but_informative_features_are_not_collapsed() -> None:
    assert verdict(dense(0.35, 20), [], dense(0.89, 21, spread=4e-5), "dense").state == "healthy"


def test_images_that_hardly_differ_any_more_are_collapse() -> None:
    """Unless what is left agrees more than before, in as many directions."""
    before = dense(0.9, 3, spread=0.8)
    assert verdict(before, [], dense(0.85, 5, spread=4e-3), "dense").state == "collapsed"
    found = verdict(before, [], dense(0.96, 1, spread=1e-4), "dense")
    assert found.state == "collapsed" and "8,000 times less than before training" in found.sentence
    assert verdict(before, [], dense(0.96, 3, spread=4e-3), "dense").state == "healthy"
    assert verdict(before, [], dense(0.85, 3, spread=0.03), "dense").state != "collapsed"


def test_random_and_weak_say_cause_and_next_action() -> None:
    random = verdict(dense(0.01, 0), [], dense(0.01, 0), "dense")
    assert random.state == "random" and "Usually:" in random.sentence and "Next:" in random.sentence
    weak = verdict(dense(0.247, 41), [], dense(0.229, 13), "dense")
    assert weak.state == "weak" and "Usually:" in weak.sentence and "Next:" in weak.sentence


def test_judged_by_the_level_that_was_trained() -> None:
    before = {"pooled": look(0.01, 0, d=24, chance=0.03), **dense(0.35, 41)}
    after = {"pooled": look(-0.003, 0, d=24, chance=0.03), **dense(0.61, 24)}
    masked = verdict(before, [], after, "dense")
    assert masked.state == "healthy" and "pooled" not in masked.sentence
    both = verdict(before, [], after, ("pooled", "dense"))
    assert both.state == "healthy" and both.sentence.index("dense") < both.sentence.index("pooled agreement")
    assert "The pooled agreement is within chance: rely on token features." in both.sentence
    assert verdict(before, [], after, "pooled").state == "random"
    assert set(both.numbers) == {"pooled", "dense"} and both.numbers["pooled"]["state"] == "random"


def test_singular() -> None:
    assert "1 direction." in verdict(dense(0.3, 5), [], dense(0.6, 1.0, d=24), "dense").sentence


@pytest.mark.parametrize(
    ("initial", "final", "why"),
    [
        (dense(0.3, 5), dense(math.nan, math.nan, why="features of 3 of 96 images are not finite"), "3 of 96 images"),
        (dense(0.3, 5), dense(None, None, chance=None, spread=None), "it was not measured"),
        (dense(0.3, 5), {}, "it was not measured"),
        (dense(0.3, 5), None, "it was not measured"),
        (None, dense(0.3, 5), "it was not measured before training"),
        ({"dense": None}, {"dense": None}, "it was not measured"),
    ],
)
def test_unknown_never_raises_and_says_why(initial: dict | None, final: dict | None, why: str) -> None:
    found = verdict(initial, [{"step": None}, {}], final, "dense")
    assert found.state == "unknown" and why in found.sentence
    assert line(found) == "unknown"


def test_an_unknown_level_does_not_hide_the_other() -> None:
    before = {"pooled": look(0.1, 3, d=24), **dense(0.35, 41)}
    after = {"pooled": look(math.nan, math.nan, why="broken"), **dense(0.61, 24)}
    found = verdict(before, [], after, ("pooled", "dense"))
    assert found.state == "healthy" and "because broken" in found.sentence


def test_an_untrained_network_at_the_ceiling_leaves_nothing_to_say() -> None:
    found = verdict(dense(0.955, 6), steps(dense(0.9, 12)), dense(0.7, 15), "dense")
    assert found.state == "unknown" and "too easy to tell" in found.sentence
    assert verdict(dense(0.955, 40), [], dense(0.4, 5), "dense").state != "collapsed"
