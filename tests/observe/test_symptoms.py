"""Each cause by looks made up for it, on both sides of its threshold."""

import copy
import math
from typing import Any

import pytest

from headwater.observe.causes import CAUSES
from headwater.observe.symptoms import RULES
from headwater.observe.verdict import verdict
from tests.observe.told import agreed, healthy, told, with_panel


def causes(looks: list[dict[str, Any]], *levels: str) -> list[str]:
    return verdict(looks, levels or ("pooled", "dense")).numbers["causes"]


def test_every_cause_has_a_rule_and_a_healthy_run_none() -> None:
    assert list(RULES) == list(CAUSES)
    for count in (1, 2, 5):
        assert causes(healthy(count)) == [] and verdict(healthy(count)).state == "healthy"
    assert causes(healthy(0)) == [] and verdict(healthy(0)).state == "unknown"


ONE = {"loss": 0.1, "loss__gap": 0.1 - math.log(64)}  # both sides sure of one prototype
PLANTED = [  # cause, what the panel shows in the last two looks, what is just not enough
    ("unlearned", {"weights": 1e-9, "change": 0.0}, {"weights": 1e-9, "change": 1e-3}),
    ("unlearned", {"weights": 0.0, "change": None}, {"weights": 1e-2, "change": None}),
    ("unlearned", {"weights": 0.0, "change": 0.2}, {"weights": 1e-7, "change": 0.2}),  # running means of norms move by themselves
    ("alias", {"teacher": 0.0}, {"teacher": 1e-5}),
    ("stuck", {"loss__gap": -9e-4}, {"loss__gap": 2e-3}),
    ("entropy", {"entropy__low": 0.4}, {"entropy__low": 0.2}),
    ("prototype", {"prototypes__use": 0.01, **ONE}, {"prototypes__use": 0.2, **ONE}),
    ("prototype", {"prototypes__use": 0.01, **ONE}, {"prototypes__use": 0.01, "loss": 2.5, "loss__gap": 2.5 - math.log(64)}),
    ("token", {"variance__image": 0.97}, {"variance__image": 0.9}),
    ("token", {"similarity": 0.99}, {"similarity": 0.96}),
    ("position", {"variance__position": 0.85}, {"variance__position": 0.75}),
    ("head", {"heads__effective": 0.3}, {"heads__effective": 0.5}),
    ("shortcut", {"shortcut__group": 0.03}, {"shortcut__group": 0.06}),
    ("shortcut", {"shortcut__intensity": 0.95}, {"shortcut__intensity": 0.75}),
    ("order", {"order": 1e-7}, {"order": 1e-4}),
]


@pytest.mark.parametrize(("cause", "bad", "fair"), PLANTED)
def test_a_symptom_in_two_looks_is_believed(cause: str, bad: dict[str, float], fair: dict[str, float]) -> None:
    found = verdict(with_panel(healthy(), **bad))
    assert (found.cause, found.state) == (cause, CAUSES[cause].state), found.sentence
    assert found.remedy == CAUSES[cause].next and found.sentence.startswith(CAUSES[cause].opening + ": ")
    assert causes(with_panel(healthy(), **fair)) == []


@pytest.mark.parametrize(("cause", "bad", "fair"), [row for row in PLANTED if row[0] != "order"])
def test_one_look_is_not_unless_it_is_all_there_is(cause: str, bad: dict[str, float], fair: dict[str, float]) -> None:
    assert causes(with_panel(healthy(3), (-1,), **bad)) == []
    assert causes(with_panel(healthy(3), (-2,), **bad)) == []
    assert causes(with_panel(healthy(1), (-1,), **bad)) == [cause]


@pytest.mark.parametrize(
    ("cause", "panel"),
    [
        ("entropy", {"entropy__low": 0.4}),
        ("position", {"variance__position": 0.9}),
        ("token", {"similarity": 0.97}),
        ("shortcut", {"shortcut__intensity": 0.95}),
        ("head", {"heads__effective": 0.3}),
    ],
)
def test_what_was_so_before_training_is_no_symptom(cause: str, panel: dict[str, float]) -> None:
    looks = with_panel(healthy(), (0, 1, 2, 3), **panel)
    assert causes(looks) == [], cause


def test_a_shared_teacher_is_known_before_training() -> None:
    looks = healthy(0)
    looks[0]["panel"]["teacher"] = told(0.0, why="the same tensors")
    assert (verdict(looks).cause, verdict(looks).state) == ("alias", "miswired")


def test_a_teacher_equal_before_training_is_a_copy() -> None:
    assert causes(with_panel(healthy(0), (0,), teacher=0.0)) == []


def test_a_teacher_equal_because_nothing_moved_is_not_to_blame() -> None:
    assert causes(with_panel(healthy(), teacher=0.0, weights=0.0, change=0.0)) == ["unlearned"]


def test_few_prototypes_alone_are_usual_before_training() -> None:
    looks = with_panel(healthy(), (0, 1, 2, 3), prototypes__use=1 / 64, loss=9.0, loss__gap=3.0)
    assert causes(looks) == []
    looks[-1]["output"] = agreed(0.01, 0, spread=1e-9)
    assert causes(looks) == ["prototype", "point"]


def test_diverged() -> None:
    why = "features of 3 of 96 images are not finite"
    broken = {"pooled": agreed(math.nan, math.nan, why=why)}
    found = verdict(healthy(**broken))
    assert (found.cause, found.state) == ("diverged", "collapsed") and why in found.sentence
    assert verdict(with_panel(healthy(), (-1,), loss=math.inf)).cause == "diverged"
    assert verdict(with_panel(healthy(), (-1,), loss=math.nan)).state == "healthy"  # not told
    looks = healthy(**broken)
    looks[0] |= copy.deepcopy(broken)
    assert "diverged" not in causes(looks)  # the scans are broken, or the model always was


def test_order_needs_positions_or_attention() -> None:
    looks = with_panel(healthy(), (0, 1, 2, 3), order=0.0, entropy__low=None, heads__effective=None)
    assert causes(looks) == []  # neither now nor ever
    assert causes(with_panel(looks, (0,), order=0.5)) == ["order"]
    assert causes(with_panel(healthy(), (0, 1, 2, 3), order=0.0)) == ["order"]  # attention without positions


def test_order_is_seldom_measured_and_not_forgotten() -> None:
    assert causes(with_panel(with_panel(healthy(), (1,), order=0.0), (2, 3), order=None)) == ["order"]


def test_tokens_that_decay_whatever_images_do() -> None:
    def looks(rho: float, locality: float, pooled: float) -> list[dict[str, Any]]:
        seen = healthy(4)
        for look in seen[3:]:
            look |= {"dense": agreed(rho, 30), "pooled": agreed(pooled, 12)}
        return with_panel(seen, locality=locality)

    found = verdict(looks(0.35, 0.3, 0.7))
    assert found.cause == "decay" and "0.60 at step 100" in found.sentence and "pooled agreement +0.20" in found.sentence
    assert causes(looks(0.35, 0.3, 0.3)) == ["decay"]
    for fair in ((0.35, 0.5, 0.7), (0.5, 0.3, 0.7)):
        assert causes(looks(*fair)) == [], fair
    assert causes(looks(0.35, 0.3, 0.7), "pooled") == []  # tokens were never asked for


def test_noise_is_agreement_lost_while_features_spread() -> None:
    def last_two(*levels: str) -> list[dict[str, Any]]:
        looks = healthy()
        for look in looks[-2:]:
            look |= {name: agreed(0.01, 0) for name in levels}
        return looks

    lost = verdict(last_two("pooled", "dense"))
    assert (lost.state, lost.cause) == ("random", "noise")
    assert verdict(last_two("pooled")).state == "healthy"  # the other level holds
    assert verdict(last_two("pooled"), ("pooled",)).cause == "noise"
    assert verdict(healthy(pooled=agreed(0.01, 0)), ("pooled",)).state == "weak"  # one look


def test_the_output_of_a_head_is_judged_for_collapse_only() -> None:
    looks = healthy(output=agreed(0.01, 0, spread=1e-9))
    looks[0]["output"] = agreed(0.2, 6)
    found = verdict(looks)
    assert (found.state, found.cause) == ("collapsed", "point") and "output of the head" in found.sentence
    looks[-1]["output"] = agreed(0.2, 6, spread=1e-3)  # an offset, which centring takes away
    assert verdict(looks).state == "healthy"
    assert verdict(healthy(output=agreed(0.01, 0))).state == "healthy"


def narrow(rank: float, rankme: float, *, began: float = 30, first: float = 30.0) -> list[dict[str, Any]]:
    looks = with_panel(with_panel(healthy(), (0,), rankme=first), rankme=rankme)
    for look in looks:
        look["dense"] = agreed(0.6, rank) if look["step"] > 100 else agreed(0.3, began)
    return looks


def test_few_directions_are_collapse_only_if_no_others_are_there() -> None:
    found = verdict(narrow(1.9, 2.0))
    assert (found.state, found.cause) == ("collapsed", "dimensional") and "RankMe 2.0, 30.00 before" in found.sentence
    for fair in (narrow(1.9, 10.0), narrow(2.0, 2.0), narrow(1.9, 2.0, began=3), narrow(1.9, 2.0, first=6.0)):
        assert causes(fair) == []


def test_lost_agreement_is_noise_where_directions_are_left_and_collapse_where_not() -> None:
    def lost(rankme: Any, *, pooled: float = 0.1) -> list[dict[str, Any]]:
        looks = with_panel(healthy(5), (-3, -2, -1), rankme=rankme)
        for look in looks[-3:]:
            look |= {"pooled": agreed(pooled, 3), "dense": agreed(0.15, 3)}
        return looks

    assert verdict(lost(20.0)).cause == "noise" and verdict(lost(20.0)).state == "random"
    assert verdict(lost(5.0)).cause == "dimensional"
    assert verdict(lost(None)).cause == "dimensional"  # looks of before there was a panel
    assert causes(lost(20.0, pooled=0.5)) == ["dimensional"]  # the other level holds: not noise


def test_a_scanner_takes_the_agreement_with_it() -> None:
    def looks(whole: float, within: float) -> list[dict[str, Any]]:
        seen = with_panel(healthy(), shortcut__group=within)
        for look in seen[-2:]:
            look["pooled"] = agreed(whole, 12)
        return seen

    assert causes(looks(0.9, 0.39)) == ["shortcut"] and causes(looks(0.9, 0.41)) == []
    assert causes(looks(0.3, 0.04)) == ["shortcut"] and causes(looks(0.28, 0.04)) == []  # within chance
    assert causes(looks(0.03, 0.0)) == []  # there is no agreement to be explained
    assert causes(looks(0.9, 0.2), "dense") == []  # nobody asked for it


def test_the_layer_that_does_it_is_named() -> None:
    looks = with_panel(healthy(), similarity=0.99)
    looks[-1]["layers"]["similarity"] = [0.3, 0.4, 0.97, 0.99]
    assert "layer 2 does most of it (+0.57)" in verdict(looks).sentence
    looks = with_panel(healthy(), heads__effective=0.2)
    for look in looks:
        look["layers"]["effective"] = [0.3, 0.3, 0.2] if look["step"] else [0.9, 0.9, 0.5]
    assert "worst in layer 3" in verdict(looks).sentence


def test_one_layer_whose_heads_narrow_is_no_alarm() -> None:
    looks = with_panel(healthy(), heads__effective=0.2)
    for look in looks:
        look["layers"]["effective"] = [0.9, 0.6, 0.2] if look["step"] else [0.9, 0.9, 0.9]
    assert causes(looks) == []
    for look in looks[1:]:
        look["layers"]["effective"] = [0.4, 0.4, 0.2]
    assert causes(looks) == ["head"]


def test_weights_at_rest_in_the_first_steps_are_no_symptom() -> None:
    looks = with_panel(healthy(1), (-1,), weights=0.0, change=0.0)
    looks[-1]["step"] = 1
    assert causes(looks) == []


def test_a_loss_that_rose_tenfold_is_divergence() -> None:
    looks = healthy(4)
    for look, loss in zip(looks[1:], (4.5, 900.0, 400.0, 380.0), strict=True):
        look["panel"]["loss"] = told(loss)
    assert "the loss is 380, and was 4.5" in verdict(looks).sentence and verdict(looks).cause == "diverged"
    looks[-1]["panel"]["loss"] = told(20.0)
    assert causes(looks) == []


def test_weights_many_times_their_size_are_divergence() -> None:
    looks = with_panel(healthy(2), (1, 2), weights=85.0)
    found = verdict(looks)
    assert found.cause == "diverged" and "85 times their size" in found.sentence
    assert "Last" not in found.sentence  # no look since training began was sound
    assert causes(with_panel(healthy(), weights=3.0)) == []
