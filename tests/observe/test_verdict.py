"""What is said of runs that went well, and of runs that did not."""

import copy
import itertools
import json
import math
from typing import Any

import pytest

from headwater.observe.causes import CAUSES
from headwater.observe.verdict import ALARMS, healthy_until, line, verdict
from tests.observe.told import agreed, dense, healthy, run, told, with_panel


def test_healthy_in_the_words_of_the_design() -> None:
    found = verdict(run(dense(0.35, 41), dense(0.5, 30), dense(0.61, 24)), ("dense",))
    assert (found.state, found.cause, found.remedy) == ("healthy", "", "")
    numbers = "dense agreement 0.61 (chance 0.02, before training 0.35), 24 directions."
    assert found.sentence == f"Features are stable and not random: {numbers}"
    assert line(found) == "agreement between views 0.61 (chance 0.02, before training 0.35)   directions 24   healthy"


def test_few_directions_are_remarked_on() -> None:
    few = verdict(run(dense(0.548, 108), dense(0.6, 100), dense(0.7, 60), dense(0.75, 40), dense(0.797, 2)), ("dense",))
    assert few.state == "healthy" and "Few directions" in few.sentence and "no alarm by itself" in few.sentence


def test_collapse_says_what_usually_does_it_what_to_do_and_where_to_go_back_to() -> None:
    looks = run(dense(0.35, 41), *[dense(0.6, 30)] * 3, dense(0.2, 4), dense(0.1, 3), dense(0.05, 1))
    found = verdict(looks, ("dense",))
    assert (found.state, found.cause) == ("collapsed", "dimensional")
    for part in ("before training 0.35", "Usually: learning rate too high", "Next: start again", "Last healthy state: step 300."):
        assert part in found.sentence, found.sentence
    assert line(found).endswith("collapsed (dimensional)") and found.remedy in found.sentence


def test_random_and_weak_say_cause_and_next_action() -> None:
    random = verdict(run(dense(0.01, 0), dense(0.01, 0, spread=0.05)), ("dense",))
    assert (random.state, random.cause) == ("random", "") and "Usually:" in random.sentence and "Next:" in random.sentence
    weak = verdict(run(dense(0.247, 41), dense(0.229, 13)), ("dense",))
    assert weak.state == "weak" and weak.state not in ALARMS and weak.remedy in weak.sentence and "Usually:" in weak.sentence


def test_judged_by_the_level_that_was_trained() -> None:
    looks = run(
        {"pooled": agreed(0.01, 0, d=24, chance=0.03), **dense(0.35, 41)},
        {"pooled": agreed(-0.003, 0, d=24, chance=0.03), **dense(0.61, 24)},
    )
    masked = verdict(looks, ("dense",))
    assert masked.state == "healthy" and "pooled" not in masked.sentence
    both = verdict(looks, ("pooled", "dense"))
    assert both.state == "healthy" and both.sentence.index("dense") < both.sentence.index("pooled agreement")
    assert "The pooled agreement is within chance: rely on token features." in both.sentence
    assert verdict(looks, ("pooled",)).state == "random"
    assert set(both.numbers) == {"pooled", "dense", "causes"} and both.numbers["pooled"]["state"] == "random"


def test_singular() -> None:
    assert "1 direction." in verdict(run(dense(0.3, 5), dense(0.6, 1.0, d=24)), ("dense",)).sentence


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [
        (dense(None, None, why="no images"), dense(math.nan, math.nan, why="3 of 96 images are too small"), "3 of 96 images"),
        (dense(0.3, 5), dense(None, None, chance=None, spread=None), "it was not measured"),
        (dense(0.3, 5), {}, "it was not measured"),
        ({}, dense(0.3, 5), "it was not measured before training"),
        ({"dense": None}, {"dense": None}, "it was not measured"),
    ],
)
def test_unknown_never_raises_and_says_why(first: dict, last: dict, why: str) -> None:
    found = verdict([first, {"step": None}, {}, last], ("dense",))
    assert found.state == "unknown" and why in found.sentence
    assert line(found) == "unknown"


def test_an_unknown_level_does_not_hide_the_other() -> None:
    looks = run({"pooled": agreed(0.1, 3), **dense(0.35, 41)}, {"pooled": agreed(None, None, why="broken"), **dense(0.61, 24)})
    found = verdict(looks)
    assert found.state == "healthy" and "because broken" in found.sentence


BAD = {  # cause: what shows it in every look after the first
    "diverged": {"loss": math.inf},
    "alias": {"teacher": 0.0},
    "unlearned": {"weights": 0.0, "change": 0.0},
    "stuck": {"loss__gap": 0.0},
    "entropy": {"entropy__low": 0.9},
    "prototype": {"prototypes__use": 0.001, "loss": 0.1, "loss__gap": 0.1 - math.log(64)},
    "token": {"variance__image": 0.99},
    "position": {"variance__position": 0.99},
    "head": {"heads__effective": 0.1},
    "shortcut": {"shortcut__group": 0.0},
    "order": {"order": 0.0},
}


@pytest.mark.parametrize(("one", "other"), itertools.combinations(BAD, 2))
def test_of_two_causes_the_root_is_named_and_the_other_listed(one: str, other: str) -> None:
    if {"loss", "loss__gap"} & set(BAD[one]) & set(BAD[other]) or {one, other} == {"stuck", "prototype"}:
        return  # one loss cannot be both
    found = verdict(with_panel(healthy(), (1, 2, 3), **(BAD[one] | BAD[other])))
    first, second = sorted((one, other), key=list(CAUSES).index)
    if {one, other} == {"alias", "unlearned"}:  # a copy that never moved is still a copy
        assert found.numbers["causes"] == ["unlearned"]
        return
    assert found.cause == first and found.numbers["causes"] == [first, second], found.sentence
    assert "Also: " in found.sentence


def test_everything_at_once_is_divergence() -> None:
    changes = {name: number for bad in reversed(BAD.values()) for name, number in bad.items()}
    dead = {"pooled": agreed(0.0, 0, spread=0.0), "dense": agreed(0.0, 0, spread=0.0)}
    assert verdict(with_panel(healthy(**dead), (1, 2, 3), **changes)).cause == "diverged"


def keys(found: Any, path: tuple = ()) -> list[tuple]:
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [
        deeper for key, part in inner for deeper in ((*path, key), *keys(part, (*path, key))) if key not in ("how", "low", "high")
    ]


MALFORMED = [None, math.nan, math.inf, "?", [], {}, 10**400, True]


@pytest.mark.parametrize("part", [["pooled", "dense", "output", "step", "layers", "words"], ["panel"]], ids=["levels", "panel"])
def test_whatever_is_missing_or_malformed_nothing_is_raised(part: list[str]) -> None:
    """Every key of the first and the last look in turn: taken away, and holding what it should not."""
    looks = with_panel(healthy(1), (1,), heads__effective=0.1, similarity=0.999, prototypes__use=0.001, loss=0.1, loss__gap=-4.0)
    for look in looks:
        look["output"] = agreed(0.3, 4)
    paths = [path for path in keys(looks) if len(path) == 1 or path[1] in part]
    for count, path in enumerate(paths):
        for new in (..., MALFORMED[count % len(MALFORMED)], MALFORMED[(count // 3 + 5) % len(MALFORMED)]):
            broken = copy.deepcopy(looks)
            place = broken
            for key in path[:-1]:
                place = place[key]
            if new is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = new
            found = verdict(broken)
            assert found.state in ("collapsed", "miswired", "healthy", "random", "weak", "unknown"), (path, new)
            assert found.sentence and line(found)
    assert verdict(looks).cause == "prototype" and len(paths) > 40


def test_nan_is_looked_for_only_where_features_are_not_finite() -> None:
    broken = dense(math.nan, math.nan, why="features of 3 of 96 images are not finite")
    assert "look for NaN" in verdict([{"step": 0, **broken}], ("dense",)).remedy
    for looks in ([{"step": 0, **dense(0.7, 9)}], run(dense(0.96, 5), dense(0.95, 5))):
        found = verdict(looks, ("dense",))
        assert found.state == "unknown" and "NaN" not in found.sentence and "labels" in found.remedy, found.sentence


@pytest.mark.parametrize("looks", [[], [{}], [{}, {}], [None, None], [{"step": 0}, {"step": "a", "panel": 3, "layers": []}]])
def test_nothing_at_all_is_unknown(looks: list) -> None:
    assert verdict(looks).state == "unknown" and healthy_until(looks) is None


def test_files_hold_the_same_as_memory() -> None:
    looks = with_panel(healthy(), heads__effective=0.2)
    looks[-1]["panel"]["rankme"] = told(math.nan, why="no")
    assert verdict(json.loads(json.dumps(looks))).sentence == verdict(looks).sentence


def test_healthy_until_is_the_step_before_the_first_bad_look() -> None:
    looks = with_panel(healthy(5), (-2, -1), heads__effective=0.2)
    assert verdict(looks[:-1]).state == "healthy" and verdict(looks).cause == "head"
    assert healthy_until(looks) == healthy_until(looks[:-1]) == 300
    assert "Last healthy state: step 300." in verdict(looks).sentence
    assert healthy_until(healthy(5)) == 500


def test_a_run_that_never_was_healthy_goes_back_to_where_nothing_was_wrong() -> None:
    weak = run(*[dense(0.3, 20)] * 3, *[dense(0.01, 20)] * 2)
    assert healthy_until(weak, ("dense",)) == 200
    assert verdict(weak, ("dense",)).sentence.endswith("Last look without an alarm: step 200.")
    assert healthy_until(weak[:1], ("dense",)) is None
    wired = with_panel(healthy(), (1, 2, 3), teacher=0.0)
    assert healthy_until(wired) is None and "Last" not in verdict(wired).sentence
