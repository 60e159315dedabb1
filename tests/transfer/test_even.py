"""Even means: one setting differs, and budgets add up."""

import time
from dataclasses import replace

import numpy as np
import pytest

from headwater import runfolder
from headwater.errors import InputError
from headwater.settings import Settings, change
from headwater.transfer import draws, even
from headwater.transfer.even import Cost, Plan

COSTS = {"resenc": Cost(0.2, 0.05, 10, False), "vit": Cost(0.1, 0.05, 20, True), "swin": Cost(0.5, 0.1, 30, True)}


def told(*changes):
    settings = Settings()
    for one in changes:
        settings = change(settings, one)
    return settings


def test_differences_are_found_by_name():
    one = told()
    assert even.differs(one, one) == []
    assert even.differs(one, told("adapt.batch=3", "budget=7")) == ["adapt.batch", "budget"]
    assert even.differs(one, even.method(one, "vit", 9)) == ["adapt.steps", "backbone.family"]
    assert even.differs(one, replace(one, objective={"width": 3})) == ["objective.width"]


def test_one_factor_or_an_error():
    base = even.method(told(), "resenc", 50)
    others = [even.method(base, name, 50) for name in ("vit", "swin")]
    found = even.factor([base, *others])
    assert found["differs"] == ["backbone.family"] and "differ in backbone.family alone" in found["sentence"]
    assert even.factor([base, base], [])["differs"] == [] and "seeds alone" in even.factor([base, base], [])["sentence"]
    for fault in ("adapt.batch=3", "adapt.learning_rate=0.1", "views.rotation=3", "precision=bf16"):
        with pytest.raises(InputError, match=f"differ in more than backbone.family: also in {fault.split('=')[0]}"):
            even.factor([base, *others, change(others[0], fault)])
    with pytest.raises(InputError, match="more than their seeds: also in backbone.family"):
        even.factor([base, others[0]], [])


def seconds(plan: Plan, tests: int) -> float:
    """What all trainings and scorings take, added up one by one; the first is trained once for both regimes."""
    first = next(iter(plan.costs))
    total = 0.0
    for regime, steps in plan.steps.items():
        for name, n in steps.items():
            if regime == "time" and name == first:
                continue
            scored = 3 if regime == "steps" and plan.costs[name].attention else 1
            total += plan.seeds * (n * plan.costs[name].step + scored * tests * plan.costs[name].test)
    return total


@pytest.mark.parametrize("budget", [2.0, 5.0, 30.0, 200.0])
def test_the_plan_fits_the_budget_and_uses_it(budget):
    plan = even.plan(told(f"budget={budget}"), COSTS, {}, 20)
    taken = seconds(plan, 20)
    assert 0.5 * 54 * budget < taken <= 54 * budget * 1.02
    assert plan.seeds >= 2 and (plan.seeds >= 3) == (plan.steps["steps"]["vit"] >= even.ENOUGH or plan.seeds > 3)
    assert ("three would have fewer than 40 steps each" in " ".join(plan.words)) == (plan.seeds == 2)
    assert (plan.seeds > 3) == (budget == 200)
    assert set(plan.steps["steps"].values()) == {plan.steps["steps"]["resenc"]}
    for name, steps in plan.steps["time"].items():
        assert steps * COSTS[name].step == pytest.approx(plan.seconds, abs=COSTS[name].step)
    assert plan.steps["time"]["resenc"] == plan.steps["steps"]["resenc"]


def test_what_was_set_by_hand_stays():
    plan = even.plan(told("compare.steps=12", "compare.seeds=1", "budget=0.1"), COSTS, {"pde": "pde is left out: small"}, 5)
    assert plan.seeds == 1 and plan.steps["steps"] == dict.fromkeys(COSTS, 12)
    assert plan.steps["time"] == {"resenc": 12, "vit": 24, "swin": 5}
    assert any("as you asked" in words for words in plan.words) and any("12 steps are few" in words for words in plan.words)
    assert Plan.of(runfolder.plain(plan.plain())) == plan


def test_twice_is_one_method():
    plan = even.plan(told("budget=4"), COSTS, {}, 10, twice=True)
    assert list(plan.steps) == ["steps"] and set(plan.steps["steps"]) == {"resenc"}
    assert 2 * plan.seeds * (plan.steps["steps"]["resenc"] * 0.2 + 10 * 0.05) <= 4 * 54


def test_too_small_a_budget_says_what_would_do():
    with pytest.raises(InputError, match="give at least --budget") as fault:
        even.plan(told("budget=0.2"), COSTS, {}, 20)
    enough = float(str(fault.value).split("--budget ")[1].split(",")[0])
    assert even.plan(told(f"budget={enough}"), COSTS, {}, 20).steps["steps"]["vit"] >= even.FEWEST


def test_unknown_names_and_none():
    with pytest.raises(InputError, match="no backbone family 'resnet'"):
        even.names(told("compare.methods=resenc,resnet"))
    with pytest.raises(InputError, match="names nothing"):
        even.names(replace(told(), compare=replace(told().compare, methods=())))
    assert even.names(told("compare.methods=vit,resenc,vit")) == ["vit", "resenc"]


def test_measured_costs_are_real_and_who_cannot_run_is_left_out(flat, tiny):
    """Pictures of 8 pixels are too small for the residual encoder, not for the transformer."""
    settings = tiny(2, "adapt.patch=8,8", "compare.methods=vit,resenc")
    labelled, tests = draws.trainable(flat)[:2], draws.testable(flat)
    costs, left = even.measure(flat, settings, labelled, tests)
    assert list(costs) == ["vit"] and costs["vit"].attention and costs["vit"].parameters > 1e6
    assert 0 < costs["vit"].step < 60 and 0 < costs["vit"].test < 60
    assert "resenc is left out" in left["resenc"] and "at least 9 voxels" in left["resenc"]
    with pytest.raises(InputError, match="resenc cannot run on these scans .*put another first"):
        even.measure(flat, change(settings, "compare.methods=resenc,vit"), labelled, tests)


def test_memory_is_seen_while_it_is_held():
    with even.memory() as before:
        pass
    with even.memory() as held:
        block = np.ones(2**24)  # an eighth of a GiB
        time.sleep(0.1)
        del block
    if before[0] < 8:  # on an accelerator the process' own memory is not looked at
        assert held[0] > before[0] + 0.08 or held[0] == 0
