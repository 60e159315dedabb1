"""What one level's agreement means, and reading looks that may hold anything."""

import math

import pytest

from headwater.observe.levels import History, Judged, entry, judge, level, number, value, words
from tests.observe.told import dense, run


def of(*looks: dict, confirm: int = 2) -> Judged:
    return judge("dense", History(tuple(run(*looks)), confirm))


def test_healthy_is_above_its_own_start_by_two_errors() -> None:
    assert of(dense(0.3, 20), dense(0.33, 20)).state == "healthy"
    assert of(dense(0.3, 20), dense(0.325, 20)).state == "weak"
    assert of(dense(0.3, 20), dense(0.2, 20)).state == "weak"


def test_random_is_within_chance_in_two_looks() -> None:
    assert of(dense(0.3, 20), dense(0.02, 20)).state == "random"
    assert of(dense(0.3, 20), dense(0.2, 20), dense(0.02, 20)).state == "weak"
    assert of(dense(0.3, 20), dense(0.02, 20), dense(0.02, 20)).state == "random"
    assert of(dense(0.1, 1), dense(0.19, 0, chance=0.12)).state == "healthy"  # few images find no direction


def test_images_that_differ_without_agreeing_are_noise() -> None:
    assert of(dense(0.3, 20), dense(0.01, 20, spread=0.11)).cause == "noise"
    assert of(dense(0.3, 20), dense(0.01, 20, spread=0.09)).cause == ""


def test_a_falling_rank_alone_is_no_alarm() -> None:
    assert of(dense(0.548, 108), dense(0.6, 100), dense(0.7, 60), dense(0.797, 29)).state == "healthy"


def test_a_falling_reliability_alone_is_no_collapse() -> None:
    assert of(dense(0.5, 20), dense(0.6, 20), dense(0.2, 20), dense(0.2, 20)).state == "weak"


def test_both_falling_is_collapse_with_the_last_good_step() -> None:
    found = of(dense(0.35, 41), dense(0.5, 30), dense(0.6, 30), dense(0.61, 28), dense(0.2, 4), dense(0.1, 3), dense(0.05, 1))
    assert (found.state, found.cause) == ("collapsed", "dimensional")
    assert "at step 300 it was 0.61 in 28 directions" in found.said and found.numbers["best_step"] == 300


def test_one_bad_look_is_no_alarm_unless_asked() -> None:
    looks = dense(0.35, 41), dense(0.5, 30), dense(0.6, 30), dense(0.05, 1)
    assert of(*looks).state != "collapsed" and of(*looks, confirm=1).state == "collapsed"


def test_from_few_directions_none_can_be_lost() -> None:
    fall = [dense(0.35, 5), dense(0.6, 3), dense(0.6, 3), *[dense(0.05, 0)] * 3]
    assert of(*fall).state != "collapsed"
    fall[1:3] = [dense(0.6, 4)] * 2
    assert of(*fall).state == "collapsed"


@pytest.mark.parametrize("rho", [0.005, math.nan, None])
def test_point_collapse(rho: float | None) -> None:
    found = of(dense(0.35, 41), dense(rho, 0, spread=1e-14))
    assert (found.state, found.cause) == ("collapsed", "point") and "the same dense features" in found.said


def test_tiny_but_informative_features_are_not_collapsed() -> None:
    assert of(dense(0.35, 20, spread=4e-5), dense(0.89, 21, spread=4e-5)).state == "healthy"


def test_images_that_hardly_differ_any_more_are_collapse() -> None:
    """Unless what is left agrees more than before, in as many directions."""
    before = dense(0.9, 3, spread=0.8)
    assert of(before, dense(0.85, 5, spread=4e-3)).cause == "point"
    found = of(before, dense(0.96, 1, spread=1e-4))
    assert found.cause == "point" and "8,000 times less than before training" in found.said
    assert of(before, dense(0.96, 3, spread=4e-3)).state == "healthy"
    assert of(before, dense(0.85, 3, spread=0.03)).state != "collapsed"
    assert of(before, dense(0.85, 5, spread=0.0)).state == "collapsed"


def test_less_spread_is_never_better() -> None:
    """Everything else the same, once collapsed it stays so as the spread goes down."""
    states = [of(dense(0.5, 20), dense(0.4, 10, spread=10.0**-k)).state for k in range(12)]
    assert states[0] == "weak" and states[-1] == "collapsed" and states == sorted(states, reverse=True)


def test_more_agreement_is_never_worse() -> None:
    order = ["random", "weak", "healthy"]
    states = [order.index(of(dense(0.3, 20), dense(k / 20, 20)).state) for k in range(20)]
    assert states == sorted(states) and set(states) == {0, 1, 2}


def test_an_untrained_network_at_the_ceiling_leaves_nothing_to_say() -> None:
    found = of(dense(0.955, 6), dense(0.9, 12), dense(0.7, 15))
    assert found.state == "unknown" and "too easy to tell" in found.said
    assert of(dense(0.955, 40), dense(0.4, 5)).state != "collapsed"


def test_alone_a_look_can_be_collapsed_but_nothing_else() -> None:
    assert of(dense(0.01, 0)).state == of(dense(0.6, 20)).state == "unknown"
    assert of(dense(0.0, 0, spread=1e-9)).state == "collapsed"


def test_reading_what_may_be_anything() -> None:
    look = {"dense": 3, "pooled": None, "panel": {"a": {"value": "high"}, "b": 2, "c": {"value": 10**400}}}
    assert level(look, "dense") == level(look, "pooled") == level(None, "dense") == {}
    assert entry(look, "b") == entry({"panel": []}, "b") == {} and words(None) == words(3) == ""
    assert all(math.isnan(value(look, name)) for name in "abcd") and math.isnan(number([1]))
    assert number(2) == 2.0


def test_recent_values_are_those_since_training_began() -> None:
    looks = [{"step": s, "panel": {"x": {"value": v, "null": 7.0}}} for s, v in ((0, 1.0), (0, 2.0), (5, 3.0), (9, 4.0))]
    history = History(tuple(looks))
    assert history.recent("x") == [3.0, 4.0] and history.start("x") == 1.0
    assert History(tuple(looks[:1])).recent("x") == [1.0] and History(tuple(looks[:1])).start("x") == 7.0
    looks[-1] = {"step": 9}
    assert History(tuple(looks)).recent("x") == []
    assert History(()).recent("x") == [] and History(()).now == {}
