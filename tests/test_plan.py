"""The budget is kept, or refused with one that would do."""

import itertools
import re
from functools import reduce

import pytest

from headwater import plan
from headwater.costs import Costs
from headwater.errors import InputError
from headwater.settings import Settings, change

ARMS = ("scratch", "frozen", "fine-tuned")


def costs(pretrain: float = 0.3, adapt: float | None = 0.2, look: float = 2.0, test: float = 0.1) -> Costs:
    """Of a made-up machine, in seconds."""
    arms = {} if adapt is None else dict(zip(ARMS, (adapt, 0.4 * adapt, adapt), strict=True))
    return Costs({"fp32": 2 * pretrain, "bf16": pretrain}, "bf16", look, arms, 0.0 if adapt is None else test, 1.0, 20.0, 8)


def told(budget: float, *changes: str) -> Settings:
    made = change(Settings(), f"budget={budget}")
    for line in changes:
        made = change(made, line)
    return made


GRID = list(
    itertools.product(
        (1.0, 3.0, 10.0, 30.0), (0.02, 0.3, 3.0), (None, 0.02, 0.2, 2.0), (0.0, 2.0), (0.02, 1.0), (0, 2, 15), (1, 40)
    )
)


def planned(budget, pretrain, adapt, look, test, labelled, tests) -> tuple[Settings, Costs] | None:
    """The plan of one case of the grid; None where it is refused or makes no sense."""
    if (adapt is None) != (labelled == 0):
        return None
    machine = costs(pretrain, adapt, look, test)
    try:
        return plan.spend(told(budget), machine, labelled, tests), machine
    except InputError:
        return None


def test_the_plan_keeps_to_the_budget():
    over = []
    for case in GRID:
        made = planned(*case)
        if made and sum(plan.minutes(*made, case[-1])) > case[0]:
            over.append((case, sum(plan.minutes(*made, case[-1]))))
    assert not over, f"{len(over)} of {len(GRID)}, such as {over[:3]}"


def test_what_is_planned_makes_sense():
    some = 0
    for case in GRID:
        made = planned(*case)
        if made is None:
            continue
        some += 1
        settings, machine = made
        labelled = case[5]
        assert settings.pretrain.steps >= 20 and settings.precision == machine.precision
        if labelled == 0:
            assert settings.adapt.counts == ()
            continue
        assert set(settings.adapt.counts) <= {c for c in Settings().adapt.counts if c <= labelled}
        assert list(settings.adapt.counts) == sorted(settings.adapt.counts) and settings.adapt.counts
        assert settings.adapt.draws >= 1 and plan.FEWEST <= settings.adapt.steps <= plan.MOST
    assert some > 100


def test_a_generous_budget_is_used():
    for budget in (10.0, 30.0, 120.0):
        settings = plan.spend(told(budget), costs(), 100, 40)
        assert 0.8 * budget < sum(plan.minutes(settings, costs(), 40)) <= budget
        assert settings.adapt.draws >= 3 and (budget < 30 or settings.adapt.counts == (1, 2, 4, 8, 16))
    alone = plan.spend(told(30.0), costs(adapt=None), 0, 0)
    assert 0.8 * 30 < plan.minutes(alone, costs(adapt=None), 0)[0] <= 30 and plan.minutes(alone, costs(adapt=None), 0)[1] == 0


def test_more_budget_is_never_fewer_steps():
    steps = [plan.spend(told(b), costs(), 20, 10).pretrain.steps for b in (3.0, 5.0, 10.0, 30.0, 60.0)]
    assert steps == sorted(steps) and steps[0] < steps[-1]


@pytest.mark.parametrize("labelled", [0, 20])
@pytest.mark.parametrize("pretrain", [0.3, 3.0, 30.0])
def test_too_little_is_refused_with_what_would_do(labelled, pretrain):
    machine = costs(pretrain, 0.2 if labelled else None)
    with pytest.raises(InputError, match="too short") as caught:
        plan.spend(told(0.1), machine, labelled, 10)
    assert "0.1 minutes" in str(caught.value) and NAMED.search(str(caught.value))


NAMED = re.compile(r"--budget (\d+\.?\d*)")


@pytest.mark.parametrize("labelled", [0, 20])
def test_the_budget_that_is_named_does(labelled):
    again = []
    for pretrain in (0.05 * n for n in range(1, 80)):
        machine = costs(pretrain, 0.2 if labelled else None)
        try:
            plan.spend(told(0.01), machine, labelled, 10)
        except InputError as fault:
            enough = float(NAMED.search(str(fault))[1])
            try:
                settings = plan.spend(told(enough), machine, labelled, 10)
            except InputError:
                again.append((pretrain, enough))
            else:
                assert sum(plan.minutes(settings, machine, 10)) <= enough
    assert not again, again[:5]


def test_what_was_set_by_hand_stays():
    lines = ("adapt.draws=2", "adapt.steps=77", "pretrain.steps=123", "adapt.counts=2,4")
    settings = plan.spend(told(30, *lines), costs(), 20, 10)
    assert (settings.adapt.draws, settings.adapt.steps, settings.pretrain.steps, settings.adapt.counts) == (2, 77, 123, (2, 4))


def test_few_steps_set_by_hand_are_no_matter_of_budget():
    assert plan.spend(told(30, "pretrain.steps=3"), costs(), 20, 10).pretrain.steps == 3


def test_draws_set_by_hand_stay_when_the_budget_is_short():
    assert plan.spend(told(30, "adapt.draws=5"), costs(), 20, 40).adapt.draws == 5
    with pytest.raises(InputError, match="--budget"):
        plan.spend(told(2, "adapt.draws=5"), costs(), 20, 40)


def test_counts_that_cannot_be_had_are_said():
    with pytest.raises(InputError, match="counts"):
        plan.spend(told(30, "adapt.counts=50"), costs(), 20, 10)


def test_a_batch_that_does_not_fit_is_made_smaller():
    from dataclasses import replace

    made = plan.spend(told(30), replace(costs(), batch=3), 20, 10)
    assert made.pretrain.batch == 3


def test_lines_tell_every_choice_with_its_reason(flat, tmp_path):
    from dataclasses import replace

    from headwater import recipes, runfolder
    from headwater.device import machine

    settings = plan.spend(recipes.default(flat.shape(0), False), costs(), 10, 2)
    rows = plan.lines(settings, costs(), flat, machine(), 2, 1.5)
    names = {"spacing", "backbone", "views", "batch", "pretrain", "adapt", "mirroring", "memory", "done"}
    assert names == {row["name"] for row in rows}
    assert all(row["choice"] and row["because"] and row["set"] for row in rows)
    for name in ", ".join(row["set"] for row in rows).split(", "):  # every line names settings that there are
        reduce(getattr, name.split("."), settings)
    pictures = plan.lines(settings, costs(), replace(flat, unit="pixels", spacing=(1.0, 1.0)), machine(), 2, 1.5)[0]
    assert (pictures["choice"], pictures["because"]) == ("as stored", "no scan states its own")
    plan.save(tmp_path, rows, costs())
    kept = runfolder.read_json(tmp_path / "plan.json")
    assert kept["lines"] == rows and kept["costs"]["steps"] == costs().steps
