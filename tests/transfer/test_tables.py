"""Tables of a comparison from made-up scores: what was planted is what is said."""

from dataclasses import replace

import numpy as np
import pytest

from headwater.settings import Settings
from headwater.transfer import tables, verdicts
from headwater.transfer.compare import Contender, Job
from headwater.transfer.even import Cost, Plan
from headwater.transfer.scores import Interval

SUBJECTS = [f"s{i}" for i in range(20)]


def world(gain=-0.05, without=-0.1, never=None, seeds=3):
    """Found jobs, plan and contenders: vit differs from resenc by `gain`, and by `without` from itself without attention."""
    costs = {"resenc": Cost(0.1, 0.1, 7, False), "vit": Cost(0.2, 0.1, 9, True)}
    steps = {"steps": {"resenc": 10, "vit": 10}, "time": {"resenc": 10, "vit": 5}}
    plan = Plan(costs, {"swin": "swin is left out: too small"}, seeds, steps, 1.0, ("Said.",))
    ways, rng, found = [Contender("resenc", "resenc"), Contender("vit", "vit")], np.random.default_rng(0), {}
    subject = 0.8 + 0.03 * rng.standard_normal((20, 1))
    jobs = {job for way in ways for regime in steps for job in way.jobs(plan, regime)}
    for job in sorted(jobs, key=lambda job: job.name):
        dice = subject + (gain if job.method == "vit" else 0) + 0.004 * rng.standard_normal((20, 2))
        cost = {"seconds": np.array(1.0), "memory": np.array(0.5), "parameters": np.array(7)}
        found[job] = {"dice": dice, "dice_branch": dice + without, "dice_own": dice + without / 2, **cost}
    if never is not None:
        found[Job("vit", 10, 0, attention=False)] = found[ways[1].jobs(plan, "steps")[0]] | {"dice": subject + gain + never}
    return found, SUBJECTS, plan, ways, Settings()


def test_what_was_planted_is_said():
    found = tables.summarise(*world(never=-0.2))
    steps, time = found["pairs"]
    assert (steps["method"], steps["against"], steps["regime"], steps["verdict"]) == ("vit", "resenc", "steps", "worse")
    assert steps["gain"] == pytest.approx(-0.05, abs=0.005) and steps["sentence"].startswith(
        "vit is worse than resenc at equal steps:"
    )
    assert time["regime"] == "time" and "at equal time" in time["sentence"]
    (knocked,) = found["knockout"]
    assert knocked["change"] == pytest.approx(-0.1) and knocked["own"]["change"] == pytest.approx(-0.05)
    assert "vit uses its attention, -10.0 Dice points [-10.0, -10.0]" in knocked["sentence"]
    assert (
        knocked["retrained"]["verdict"] == "worse"
        and "Trained without attention from the start it is worse" in knocked["sentence"]
    )
    assert found["suitability"]["sentence"].startswith("This set can tell") and found["left_out"] == {
        "swin": "swin is left out: too small"
    }
    assert found["words"][:2] == ["Said.", "swin is left out: too small."]


def test_attention_that_does_nothing_is_named():
    (knocked,) = tables.summarise(*world(without=-0.001))["knockout"]
    assert "attention does nothing that matters in vit" in knocked["sentence"] and knocked["retrained"] is None


def test_a_network_that_learned_nothing_has_nothing_to_knock_out():
    found, *rest = world(without=-0.001)
    nothing = {key: {k: v * 0 if k.startswith("dice") else v for k, v in saved.items()} for key, saved in found.items()}
    (knocked,) = tables.summarise(nothing, *rest)["knockout"]
    assert "vit learned next to nothing (Dice 0.0)" in knocked["sentence"] and np.isnan([knocked["low"], knocked["high"]]).all()


def test_a_row_is_mean_and_interval_by_hand():
    given = world()
    row = next(r for r in tables.summarise(*given)["table"] if (r["method"], r["regime"]) == ("vit", "steps"))
    found, _, plan, ways, _ = given
    dice = {way.name: np.stack([found[job]["dice"].mean(1) for job in way.jobs(plan, "steps")]) for way in ways}
    pooled = verdicts.noise(list(dice.values()))
    each = dice["vit"].mean(0)
    alone = verdicts.Difference(each.mean(), each.var(ddof=1) / 20, 19, pooled.variance / 3, pooled.freedom)
    assert row["mean"] == pytest.approx(each.mean()) and row["high"] - row["mean"] == pytest.approx(alone.reach())
    assert (row["steps"], row["seconds"], row["memory_gib"], row["parameters"], row["trials"]) == (10, 1.0, 0.5, 7, 0)


def test_one_training_and_one_subject_have_no_interval():
    found, _, plan, ways, settings = world()
    alone = {job: {k: v[:1] if k.startswith("dice") else v for k, v in saved.items()} for job, saved in found.items()}
    summary = tables.summarise(alone, SUBJECTS[:1], plan, ways, settings)
    assert all(np.isnan(row["low"]) and np.isfinite(row["mean"]) for row in summary["table"])
    assert {pair["verdict"] for pair in summary["pairs"]} == {"cannot tell"}
    summary = tables.summarise(found, SUBJECTS, replace(plan, seeds=1), ways, settings)
    assert {pair["verdict"] for pair in summary["pairs"]} == {"cannot tell"} and summary["suitability"]["between"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Interval(-0.03, -0.05, -0.02), "vit uses its attention, -3.0 Dice points [-5.0, -2.0]"),
        (Interval(0.03, 0.02, 0.05), "vit is better without its attention"),
        (Interval(-0.001, -0.004, 0.002), "attention does nothing that matters in vit: a network without it would do"),
        (Interval(-0.02, -0.05, 0.01), "whether vit uses its attention cannot be told"),
        (Interval(-0.02, np.nan, np.nan), "cannot be told, -2.0 Dice points, without an interval"),
    ],
)
def test_what_a_knock_out_says(change, said):
    assert said in tables.knockout_sentence("vit", change, 0.01)


def test_the_mean_over_structures_then_scans():
    dice = np.array([[0.5, np.nan], [0.7, 0.9], [np.nan, np.nan]])
    assert tables.per_subject(dice, ["a", "a", "b"]) == pytest.approx([0.65, np.nan], nan_ok=True)
