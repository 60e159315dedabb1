"""The loop: every scan once per epoch, the same weights from the same seed, whatever interrupts it."""

import copy
import math
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch

from headwater import backbones, runfolder
from headwater import settings as written
from headwater.errors import InputError, Unhealthy
from headwater.interrupt import Interrupted
from headwater.objectives import OBJECTIVES
from headwater.objectives.network import Network
from headwater.train import loop, state

FAMILIES = ("resenc", "vit")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def started(store, settings):
    """Student, teacher, objective, optimizer and views as the loop has them at its first step."""
    student, objective = loop.assemble(settings, store)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = loop.optimizer_for(student, settings.pretrain.learning_rate, settings.pretrain.weight_decay)
    return student, teacher, objective, optimizer, loop.views_at(0, store, store.split("train"), settings, student.backbone)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 10, 16, 25])
def test_every_scan_once_per_epoch(batch):
    count, epochs = 10, 5
    steps = -(-count * epochs // batch)
    seen = [i for step in range(steps) for i in loop.members(step, batch, count, 0)]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert seen[:count] != seen[count : 2 * count]
    assert all(len(loop.members(step, batch, count, 0)) == batch for step in range(steps))


def test_the_order_of_scans_is_a_function_of_seed_and_step():
    assert loop.members(17, 4, 10, 3) == loop.members(17, 4, 10, 3)
    assert [loop.members(s, 4, 10, 3) for s in range(5)] != [loop.members(s, 4, 10, 4) for s in range(5)]
    assert Counter(loop.members(0, 5, 1, 0)) == {0: 5}


def test_only_scans_to_learn_from_are_seen(flat, tiny, tmp_path, monkeypatch):
    seen = set()
    image = type(flat).image
    monkeypatch.setattr(type(flat), "image", lambda self, i: seen.add(i) or image(self, i))
    loop.fit(flat, tiny(2, "pretrain.steps=6", "pretrain.batch=4", "pretrain.watch=2"), tmp_path)
    assert seen == set(flat.split("train"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_weights(solid, tiny, tmp_path, family):
    settings = tiny(3, f"backbone.family={family}", "pretrain.steps=3")
    first = loop.fit(solid, settings, tmp_path / "a")
    torch.rand(7)  # whatever else the process drew
    second = loop.fit(solid, replace(settings, pretrain=replace(settings.pretrain, watch=2)), tmp_path / "b")
    assert same(first, second), "the same seed, with and without the watch"
    a, b = ((tmp_path / run / "state" / "pretrain.safetensors").read_bytes() for run in "ab")
    assert a == b
    assert not same(loop.assemble(settings, solid)[0], loop.assemble(replace(settings, seed=1), solid)[0])


@pytest.mark.parametrize(("family", "objective"), [("resenc", "cva"), ("resenc", "mae"), ("vit", "cva")])
def test_interrupted_at_any_step_and_resumed_gives_the_same_weights(flat, tiny, tmp_path, family, objective):
    settings = tiny(2, f"backbone.family={family}", f"pretrain.objective={objective}", "pretrain.watch=2")
    whole = loop.fit(flat, settings, tmp_path / "whole")
    for stop in (1, 2, 3):
        run = tmp_path / f"stopped{stop}"
        with pytest.raises(Interrupted, match=f"after step {stop} of 4"):
            loop.fit(flat, settings, run, stop_at=stop)
        assert state.about(run / "state" / "pretrain.safetensors")["step"] == stop
        assert same(loop.fit(flat, settings, run), whole)
        assert told(run) == told(tmp_path / "whole")


def test_interrupted_after_every_step(flat, tiny, tmp_path):
    settings = tiny(2, "pretrain.watch=2")
    whole = loop.fit(flat, settings, tmp_path / "whole")
    for stop in (1, 2, 3):
        with pytest.raises(Interrupted):
            loop.fit(flat, settings, tmp_path / "often", stop_at=stop)
    assert same(loop.fit(flat, settings, tmp_path / "often"), whole) and told(tmp_path / "often") == told(tmp_path / "whole")


def told(run) -> list:
    """Steps and looks of a run, without the time they took."""
    events = [e for e in runfolder.read_events(run) if e["event"] in ("step", "watch")]
    return [{key: value for key, value in event.items() if key != "seconds"} for event in events]


def test_killed_between_two_states(flat, tiny, tmp_path):
    """Steps after the newest state are taken again, and stand once in events.jsonl."""
    settings = tiny(2, "pretrain.watch=4")
    whole = loop.fit(flat, settings, tmp_path / "whole")
    run = tmp_path / "killed"
    with pytest.raises(Interrupted):
        loop.fit(flat, settings, run, stop_at=2)
    kept = shutil.copy(run / "state" / "pretrain.safetensors", tmp_path / "kept")
    with pytest.raises(Interrupted):
        loop.fit(flat, settings, run, stop_at=3)
    shutil.copy(kept, run / "state" / "pretrain.safetensors")
    assert same(loop.fit(flat, settings, run), whole) and told(run) == told(tmp_path / "whole")


def test_killed_before_the_first_state(flat, tiny, tmp_path):
    settings = tiny(2, "pretrain.watch=4")
    whole = loop.fit(flat, settings, tmp_path / "whole")
    run = tmp_path / "killed"
    with pytest.raises(Interrupted):
        loop.fit(flat, settings, run, stop_at=2)
    (run / "state" / "pretrain.safetensors").unlink()
    assert same(loop.fit(flat, settings, run), whole) and told(run) == told(tmp_path / "whole")


def test_killed_while_writing_an_event(flat, tiny, tmp_path):
    settings = tiny(2)
    with pytest.raises(Interrupted):
        loop.fit(flat, settings, tmp_path, stop_at=2)
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"event": "step", "step": 3, "lo')
    loop.fit(flat, settings, tmp_path)
    assert [e["step"] for e in runfolder.read_events(tmp_path) if e["event"] == "step"] == [1, 2, 3, 4]


def test_a_finished_run_is_left_as_it_is(flat, tiny, tmp_path):
    settings = tiny(2)
    whole = loop.fit(flat, settings, tmp_path)
    written = (tmp_path / "state" / "pretrain.safetensors").read_bytes()
    assert same(loop.fit(flat, settings, tmp_path), whole)
    assert (tmp_path / "state" / "pretrain.safetensors").read_bytes() == written
    assert [e["step"] for e in runfolder.read_events(tmp_path) if e["event"] == "step"] == [1, 2, 3, 4]


@pytest.mark.parametrize(("family", "objective"), [("resenc", "cva"), ("vit", "mae")])
def test_a_short_fit_lowers_the_loss(flat, tiny, tmp_path, family, objective):
    settings = tiny(2, f"backbone.family={family}", f"pretrain.objective={objective}", "pretrain.steps=30", "pretrain.batch=4")
    loop.fit(flat, settings, tmp_path)
    loss = [e["loss"] for e in runfolder.read_events(tmp_path) if e["event"] == "step"]
    assert len(loss) == 30 and sum(loss[-8:]) < 0.95 * sum(loss[:8]), (sum(loss[:8]) / 8, sum(loss[-8:]) / 8)


class Broken:
    """An objective whose loss is not a number."""

    masked = True

    def heads(self, backbone):
        return torch.nn.ModuleDict()

    def __call__(self, student: Network, teacher: Network, views):
        loss = student(views.x[0]).pooled.sum() * float("nan")
        return loss, {"broken": loss.detach()}


def test_a_step_that_is_not_finite_changes_nothing(flat, tiny):
    settings = tiny(2)
    student, teacher, objective, optimizer, views = started(flat, settings)
    loop.step(student, teacher, objective, optimizer, views, 1e-3, settings.pretrain.momentum, settings)
    before = copy.deepcopy((student, teacher, optimizer.state_dict()["state"]))
    values = loop.step(student, teacher, Broken(), optimizer, views, 1e-3, settings.pretrain.momentum, settings)
    assert not values["loss"] == values["loss"] and not values["gradient"] < float("inf")
    assert same(student, before[0]) and same(teacher, before[1]) and all(p.grad is None for p in student.parameters())
    for now, then in zip(optimizer.state_dict()["state"].values(), before[2].values(), strict=True):
        assert all(torch.equal(now[key], then[key]) for key in now)
    after = loop.step(student, teacher, objective, optimizer, views, 1e-3, settings.pretrain.momentum, settings)
    assert after["loss"] == after["loss"] and not same(student, before[0])


def test_a_step_uses_the_rate_and_the_clip_it_is_given(flat, tiny):
    settings = tiny(2)
    student, teacher, objective, optimizer, views = started(flat, settings)
    before = copy.deepcopy(student)
    values = loop.step(student, teacher, objective, optimizer, views, 0.0, settings.pretrain.momentum, settings)
    assert same(student, before) and {g["lr"] for g in optimizer.param_groups} == {0.0}
    assert set(values) == {"loss", "gradient", "parts"} and len(values["parts"]) == 3


def test_the_teacher_follows_by_the_momentum_exactly(flat, tiny):
    settings = tiny(2, "pretrain.momentum=0.9")
    student, teacher, objective, optimizer, views = started(flat, settings)
    before = copy.deepcopy(teacher.state_dict())
    loop.step(student, teacher, objective, optimizer, views, 1e-2, settings.pretrain.momentum, settings)
    moved = 0
    for key, now in teacher.state_dict().items():
        target = student.state_dict()[key]
        if now.is_floating_point():
            torch.testing.assert_close(now, 0.9 * before[key] + 0.1 * target, rtol=1e-5, atol=1e-7, msg=key)
            moved += not torch.equal(now, before[key])
        else:
            assert torch.equal(now, target)
    assert moved > 10 and not any(p.requires_grad for p in teacher.parameters())


def test_following_covers_buffers_and_counts():
    one, other = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    other.running_mean.fill_(2.0)
    other.num_batches_tracked.fill_(5)
    loop.follow(one, other, 0.75)
    assert torch.equal(one.running_mean, torch.full((3,), 0.5)) and one.num_batches_tracked == 5
    loop.follow(one, other, 0.0)
    assert same(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_matrices_and_kernels_decay(flat, tiny, family):
    student = loop.assemble(tiny(2, f"backbone.family={family}"), flat)[0]
    frozen = next(p for p in student.parameters() if p.ndim > 1).requires_grad_(False)
    decayed, free = loop.optimizer_for(student, 1e-3, 0.05).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim <= 1 for p in free["params"])
    learned = [p for p in student.parameters() if p is not frozen]
    assert sorted(map(id, learned)) == sorted(map(id, decayed["params"] + free["params"]))


def test_the_path_of_a_network_in_continuous_depth_can_be_charged_for(flat, tiny):
    """The loss grows by the weight times the cost, and learning brings the cost down."""
    plain = written.change(tiny(2), "backbone.family=continuous")
    charged = written.change(plain, "pretrain.transport=5")
    found = []
    for settings in (plain, charged):
        values = loop.step(*started(flat, settings), 1e-3, 0.9, settings)
        found.append(values)
    cost = found[1]["parts"]["transport"]
    assert "transport" not in found[0]["parts"] and cost > 0
    assert found[1]["loss"] == pytest.approx(found[0]["loss"] + 5 * cost, rel=1e-4)
    with pytest.raises(InputError, match="backbone.family=continuous"):
        loop.assemble(written.change(tiny(2), "pretrain.transport=1"), flat)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_runs_and_goes_on_where_it_was(name, flat, tiny, tmp_path):
    """Two steps and two more are four; what an objective keeps beside the backbone is in the state."""
    more = ["objective.prototypes=4"] if name == "dino" else []
    if name == "distil":
        source = backbones.build("resenc", "nano", flat.channels, 2, seed=1)
        about = {"family": "resenc", "size": "nano", "patch": 4, "channels": flat.channels, "ndim": 2}
        path = state.save(tmp_path / "teacher.safetensors", 1, {"teacher.backbone": source}, backbone=about)
        more = [f"objective.source={path}"]
    settings = tiny(2, f"pretrain.objective={name}", *more)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = loop.fit(flat, settings, whole)
    with pytest.raises(Interrupted):
        loop.fit(flat, settings, parts, stop_at=2)
    assert same(done, loop.fit(flat, settings, parts))
    steps = [e for e in runfolder.read_events(whole) if e["event"] == "step"]
    assert len(steps) == 4 and all(math.isfinite(e["loss"]) for e in steps)


def test_objective_faults(flat, tiny):
    for change, words in (
        ("pretrain.objective=nothing", "use one of cva, mae"),
        ("objective.depth=3", "it has: width"),
        ("objective.width=wide", "give a whole number, such as 256"),
    ):
        with pytest.raises(InputError, match=words):
            loop.assemble(tiny(2, change), flat)
    with pytest.raises(InputError, match="set objective.prototypes=4"):
        loop.assemble(tiny(2, "pretrain.objective=dino", "objective.prototypes=64"), flat)


def test_further_changes_mix_scans_and_repeat(flat, tiny):
    """With partners from the other scans; the same step gives the same views, and they differ from those without."""
    settings = tiny(2, "views.further=1", "views.geometry=0")
    backbone = backbones.build("vit", "nano", flat.channels, 2, seed=0)
    chosen = flat.split("train")
    first, again = (loop.views_at(3, flat, chosen, settings, backbone) for _ in range(2))
    plain = loop.views_at(3, flat, chosen, tiny(2, "views.geometry=0"), backbone)
    assert torch.equal(first.x, again.x) and torch.isfinite(first.x).all()
    assert torch.equal(first.boxes, plain.boxes) and not torch.allclose(first.x, plain.x)


def judging(monkeypatch, states: dict[int, str]) -> None:
    """Verdicts by step, instead of the watch's own; each step's once."""
    from headwater.observe import running
    from headwater.observe.verdict import Verdict

    left = dict(states)

    def judge(looks, levels):
        return Verdict(left.pop(looks[-1]["step"], "weak"), "point", "As planted.", "", {})

    monkeypatch.setattr(running, "verdict", judge)


def test_an_alarm_stops_a_run_that_was_told_to(flat, tiny, tmp_path, monkeypatch):
    judging(monkeypatch, {2: "collapsed"})
    with pytest.raises(Unhealthy, match="step 2 of 4. As planted"):
        loop.fit(flat, tiny(2, "pretrain.watch=4", "pretrain.alarm=stop"), tmp_path)
    judging(monkeypatch, {2: "collapsed"})
    loop.fit(flat, tiny(2, "pretrain.watch=4"), tmp_path / "warned")


def test_an_alarm_takes_a_run_back_and_halves_the_rate(flat, tiny, tmp_path, monkeypatch):
    settings = tiny(2, "pretrain.watch=4", "pretrain.alarm=back")
    judging(monkeypatch, {1: "healthy", 3: "collapsed"})
    loop.fit(flat, settings, tmp_path / "back")
    events = runfolder.read_events(tmp_path / "back")
    back = next(e for e in events if e["event"] == "rolled back")
    assert (back["step"], back["from"], back["because"]) == (1, 3, "As planted.")
    taken = [e for e in events if e["event"] == "step"]
    assert [e["step"] for e in taken] == [1, 2, 3, 4]
    plain = loop.fit(flat, tiny(2, "pretrain.watch=4"), tmp_path / "plain")
    usual = [e["rate"] for e in runfolder.read_events(tmp_path / "plain") if e["event"] == "step"]
    assert [e["rate"] for e in taken] == pytest.approx([usual[0], *(rate / 2 for rate in usual[1:])])
    judging(monkeypatch, {1: "healthy", 3: "collapsed"})
    run = tmp_path / "resumed"
    with pytest.raises(Interrupted):
        loop.fit(flat, settings, run, stop_at=2)
    again = loop.fit(flat, settings, run)
    assert same(again, loop.fit(flat, settings, tmp_path / "back")) and not same(again, plain)
