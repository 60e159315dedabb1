"""The advisor: what answers what, in which order, and that it says what its benchmark measured."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from headwater.transfer.advise import MEASURED, Advice, Priors, Validation, advise, priors
from headwater.transfer.context import Curve, Reach
from headwater.transfer.scores import Interval

HEARD = replace(MEASURED, better=Interval(0.02, 0.01, 0.03))
FEW, MANY = Priors(200, False, 4.0, 12.0), Priors(20_000, True, 4.0, 12.0)


def knock(method, low, high):
    return {"method": method, "change": (low + high) / 2, "low": low, "high": high, "sentence": f"{method} was knocked out."}


def pair(method, low, high, regime="steps", against="resenc"):
    gain = (low + high) / 2
    return {"method": method, "against": against, "regime": regime, "gain": gain, "low": low, "high": high}


def curve(saturation, blind=(), radii=(2.0, 8.0, 32.0)):
    error = tuple(0.1 if radius >= saturation else 0.3 for radius in radii)
    return Curve(radii, error, (0.1,) * 3, (0.4,) * 3, 0.5, saturation, blind, 8, 480, f"Level at {saturation} mm.")


NEAR, FAR, REACH = curve(8.0), curve(32.0), Reach(30.0, 10.0)
USED = [knock("hybrid", -0.3, -0.1), knock("vit", -0.2, -0.1)]
UNUSED = [knock("hybrid", -0.004, 0.002), knock("vit", -0.002, 0.006)]
BETTER = [pair("hybrid", 0.02, 0.06), pair("vit", 0.03, 0.09)]
UNCLEAR = [pair("hybrid", -0.02, 0.05), pair("vit", -0.05, 0.03)]
WORSE = [pair("hybrid", -0.03, 0.004), pair("vit", -0.09, -0.03)]


@pytest.mark.parametrize(
    ("known", "answer"),
    [
        (dict(knockout=UNUSED), "CNN"),
        (dict(knockout=UNUSED, pairs=BETTER), "CNN"),  # what is not used did not make the gain
        (dict(knockout=[*UNUSED[:1], *USED[1:]], pairs=BETTER), "transformer"),
        (dict(knockout=[*USED[:1], *UNUSED[1:]], pairs=BETTER), "hybrid"),
        (dict(knockout=USED, pairs=BETTER), "transformer"),  # the larger gain
        (dict(knockout=USED, pairs=BETTER[:1]), "hybrid"),
        (dict(knockout=USED, pairs=WORSE), "CNN"),
        (dict(knockout=USED, pairs=UNCLEAR), "cannot tell"),
        (dict(knockout=USED, pairs=UNCLEAR, curve=FAR, reach=REACH), "cannot tell"),
        (dict(knockout=USED, pairs=UNCLEAR, curve=NEAR, reach=REACH), "CNN"),
        (dict(knockout=USED, pairs=UNCLEAR, curve=curve(8.0, (("a", "b"),)), reach=REACH), "cannot tell"),
        (dict(knockout=USED, pairs=BETTER, curve=NEAR, reach=REACH), "transformer"),  # the burden is met
        (dict(curve=NEAR, reach=REACH, known=MANY), "CNN"),
        (dict(curve=NEAR, known=MANY), "cannot tell"),  # near is relative to a reach
        (dict(curve=FAR, reach=REACH, known=MANY), "cannot tell"),
        (dict(known=FEW), "CNN"),
        (dict(known=MANY), "cannot tell"),
        ({}, "cannot tell"),
    ],
)
def test_what_answers_what(known, answer):
    told = advise(**known, measured=HEARD)
    assert told.answer == answer
    assert {"CNN": "take the CNN", "cannot tell": "keep the CNN"}.get(answer, f"take the {answer}") in told.sentence


def test_a_curve_that_still_falls_is_not_level():
    falling = replace(NEAR, error=(0.3, 0.2, 0.1))
    assert advise(USED, falling, UNCLEAR, reach=REACH, measured=HEARD).answer == "cannot tell"
    assert any("still falls by 10 %" in reason for reason in advise(curve=falling, reach=REACH, measured=HEARD).because)


def test_a_gain_at_equal_steps_that_is_a_loss_at_equal_time_is_none():
    both = [pair("vit", 0.02, 0.06), pair("vit", -0.08, -0.02, "time")]
    assert advise(pairs=both, measured=HEARD).answer == "CNN"
    assert advise(pairs=both[::-1], measured=HEARD) == advise(pairs=both, measured=HEARD)
    assert advise(pairs=[both[0], pair("vit", -0.03, 0.02, "time")], measured=HEARD).answer == "transformer"


def test_only_attention_against_a_cnn_counts():
    rows = [pair("parabolic", 0.1, 0.2), pair("vit", 0.1, 0.2, against="swin")]
    assert advise(pairs=rows, measured=HEARD).answer == "cannot tell"


def test_the_interval_is_the_gain_of_the_best_and_reasons_come_in_order():
    told = advise(USED, FAR, BETTER, FEW, reach=REACH, measured=HEARD)
    assert (told.low, told.high) == (0.03, 0.09) and "+6.0 Dice points [3.0, 9.0]" in told.sentence
    first = [reason.split()[0] for reason in told.because]
    assert first == ["hybrid", "vit", "Level", "The", "hybrid", "vit"]
    assert math.isnan(advise(measured=HEARD).low) and "No pilot" in advise(measured=HEARD).sentence
    assert isinstance(told, Advice) and told.plain()["answer"] == "transformer"


def test_rows_without_an_interval_cannot_tell():
    rows = [pair("vit", 0.1, 0.2) | {"low": None, "high": None}]  # as JSON keeps nan
    found = advise([knock("vit", -0.1, 0.1) | {"low": None, "high": None}], None, rows, measured=HEARD)
    assert found.answer == "cannot tell" and "(no interval)" in found.sentence and "nan" not in found.sentence


def test_an_advisor_that_does_not_beat_the_cnn_hears_only_the_pilot_and_says_so():
    beaten = replace(MEASURED, better=Interval(0.01, -0.02, 0.04))
    told = advise(UNUSED, NEAR, BETTER, FEW, reach=REACH, measured=beaten)
    assert told.answer == "transformer" and len(told.because) == 2
    assert "may be chance" in told.trust and "only the trainings above" in told.trust and "chance" not in told.sentence
    assert advise(UNUSED, NEAR, (), FEW, reach=REACH, measured=beaten).answer == "cannot tell"
    unknown = replace(MEASURED, better=Interval(0.01, math.nan, math.nan))
    assert not unknown.trusted and HEARD.trusted and "chance" not in HEARD.sentence()


def test_what_it_says_of_itself_is_what_was_measured():
    tables = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("advisor_*.csv"))
    ends = {r["policy"]: r for r in csv.DictReader(tables[-1].open()) if r["task"] == f"{MEASURED.tasks} tasks"}
    for policy, value in (("advisor", MEASURED.advisor), ("pilot", MEASURED.pilot), ("resenc", MEASURED.cnn)):
        assert float(ends[policy]["regret"]) == pytest.approx(value, abs=1e-4)
    keys = ("less than CNN", "less low", "less high")
    assert [float(ends["advisor"][key]) for key in keys] == pytest.approx(
        [MEASURED.better.mean, MEASURED.better.low, MEASURED.better.high], abs=1e-4
    )
    assert isinstance(MEASURED, Validation) and f"On {MEASURED.of}" in MEASURED.sentence()


def test_priors_of_scans(flat, tiny):
    found = priors(flat, tiny(2, "backbone.patch=8"))
    assert found.images == len(flat) and found.token_mm == 8 * max(flat.spacing) and 1 < found.object_mm < 32
    assert found.doubtful and "CNNs usually win" in found.sentences()[0]
    assert not priors(flat, tiny(2), pretrained=True).doubtful
    assert "less than a token" in replace(found, object_mm=2.0).sentences()[1]
