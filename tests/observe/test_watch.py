"""Two lines in anybody's loop: when it looks, what it says and writes, and what it does when told to."""

import json
import logging
import math

import pytest
import torch
from learners import scans
from specimens import hugging, ids
from torch import nn

import headwater
from headwater.errors import InputError, Unhealthy
from headwater.observe.watch import Watch


def pictures(count: int = 24) -> torch.Tensor:
    return torch.stack([torch.from_numpy(x[:, :32, :32].astype("float32")) for x in scans(count, 36, 36)])


class Net(nn.Module):
    """A transformer of pictures with dropout."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patch, self.places = nn.Conv2d(1, 24, 4, 4), nn.Parameter(0.2 * torch.randn(64, 24))
            layer = nn.TransformerEncoderLayer(24, 3, 48, 0.1, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(24, 6)

    def forward(self, x):
        return self.head(self.encoder(self.patch(x).flatten(2).mT + self.places).mean(1))


def train(model: nn.Module, x: torch.Tensor, steps: int, watch=None, ruin: int | None = None, optimizer=None) -> list:
    """Views of a picture shall give the same; from step `ruin` on the weights are shrunk away."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), 1e-3)
    found = []
    torch.manual_seed(1)
    for step in range(1, steps + 1):
        a, b = (model(x + 0.3 * torch.randn_like(x)) for _ in range(2))
        loss = (a - b).square().mean() - 0.1 * a.std(0).clamp(max=1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if ruin is not None and step >= ruin:
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(0.0) if p.ndim > 1 else p.mul_(0.5)
        found.append(None if watch is None else watch(step, loss))
    return found


def test_it_looks_when_told_and_returns_a_verdict_then(tmp_path, caplog):
    model, out = Net(), tmp_path / "looks.jsonl"
    with caplog.at_level(logging.INFO, logger="headwater"):
        watch = headwater.Watch(model, pictures(), every=4, out=out)
        heard = []
        watch.on_look.append(heard.append)
        found = train(model, pictures(), 9, watch)
    assert [step for step, verdict in enumerate(found, 1) if verdict is not None] == [4, 8]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 4, 8] and lines[0]["state"] == "start"
    assert lines[-1]["panel"]["loss"]["value"] is not None and lines[-1]["sentence"] == watch.verdict.sentence
    assert [event["step"] for event in heard] == [4, 8] and "step 8" in caplog.text


def test_by_itself_it_takes_a_hundredth_of_the_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("headwater.observe.watch.time.monotonic", lambda: clock[0])
    watch = Watch(Net(), pictures(8))
    looked = []

    def look(step, loss):
        looked.append(clock[0])
        watch._cost, watch._spent, watch._last = 2.0, watch._spent + 2.0, step
        return watch.verdict

    watch._look, watch._cost = look, 2.0
    for step in range(1, 2001):
        watch.looks += [{}] * (len(looked) == 1 and len(watch.looks) == 1)
        clock[0] += 1.0
        watch(step)
    assert looked == [40.0, *(200.0 * k for k in range(2, 11))]


def test_training_with_and_without_it_is_the_same_bit_for_bit():
    ends = []
    for watched in (False, True):
        model = Net()
        watch = Watch(model, pictures(), every=1) if watched else None
        train(model, pictures(), 5, watch)
        ends.append([p.detach().clone() for p in model.parameters()])
        assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_stop_ends_the_loop_with_the_sentence():
    model = Net()
    watch = Watch(model, pictures(), every=1, action="stop")
    with pytest.raises(Unhealthy, match="stopped at step"):
        train(model, pictures(), 12, watch, ruin=6)
    assert watch.looks[-1]["step"] in (6, 7, 8)


def test_roll_back_returns_to_the_last_healthy_state_with_half_the_rate(caplog):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    watch = Watch(model, pictures(), every=1, action="roll back", optimizer=optimizer)
    train(model, pictures(), 3, watch, optimizer=optimizer)
    watch._act(3, type(watch.verdict)("healthy", "", "", "", {}))
    then = [p.detach().clone() for p in model.parameters()]
    train(model, pictures(), 1, lambda step, loss: watch(step + 3, loss), ruin=1, optimizer=optimizer)
    assert "rolled back to step 3" in caplog.text and math.isclose(optimizer.param_groups[0]["lr"], 5e-4)
    assert [seen["step"] for seen in watch.looks] == [0, 1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(then, model.parameters(), strict=True))


def test_words_that_make_no_sense_are_refused():
    for told, match in (
        ({"action": "panic"}, "warn, stop, roll back"),
        ({"every": 0}, "1 or more"),
        ({"action": "roll back"}, "optim"),
    ):
        with pytest.raises(InputError, match=match):
            Watch(Net(), pictures(8), **told)


def test_what_goes_wrong_is_said_once_and_training_goes_on(caplog):
    few = Watch(Net(), pictures(5))
    assert "at least 8 images, there are 5" in few.off and few(1) is None
    model = Net()
    watch = Watch(model, pictures(8), every=1)
    model.head = nn.Linear(23, 6)
    assert watch(1) is None and watch(2) is None
    assert caplog.text.count("could not look") == 1


def test_ids_are_watched_along_depth():
    watch = Watch(hugging("BertModel"), {"input_ids": ids(12)}, every=1)
    assert not watch.off and len(watch.looks[0]["layers"]["similarity"]) == 4


def test_rates_are_halved_once_for_each_time_back():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    watch = Watch(model, pictures(8), every=1, action="roll back", optimizer=optimizer)
    rates = []
    for state in ("collapsed", "collapsed", "healthy", "collapsed"):
        watch._act(len(rates) + 1, type(watch.verdict)(state, "", "", "", {}))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 0.25, 0.25, 0.125]
