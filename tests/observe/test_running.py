"""The watch of a run folder: looks as planned, goes on where it was, flags what collapses and lets the healthy be."""

import torch
from learners import Learner, Output, Shelf, Toy, moved, scans

from headwater import runfolder
from headwater.observe.running import RunWatch
from headwater.settings import Pretrain, Settings, Views


def settings(objective: str = "mae", watch: int = 4) -> Settings:
    return Settings(views=Views(crop=(16, 20)), pretrain=Pretrain(objective=objective, watch=watch), precision="fp32")


def test_watch_through_a_run_and_a_resume(tmp_path) -> None:
    images, toy = scans(24, 36, 40, sigma=1.0), Learner()
    eye = RunWatch(Shelf(images), list(range(24)), settings(), tmp_path, 40)
    assert [s for s in range(1, 41) if eye.due(s)] == [10, 20, 30, 40]
    assert eye.look(toy, 0) == "before training"
    for step in (10, 20):
        toy.train_on()
        text = eye.look(toy, step)
    assert "agreement between views" in text and text.endswith("healthy")
    again = RunWatch(Shelf(images), list(range(24)), settings(), tmp_path, 40)
    assert again.look(toy, 30) == text
    events = runfolder.read_events(tmp_path)
    assert [e["step"] for e in events] == [0, 10, 20, 30]
    assert events[0]["state"] == "start" and events[-1]["state"] == "healthy"
    assert events[-1]["sentence"].startswith("Features are stable and not random: dense agreement 0.")
    assert events[-1]["shift_voxels"] == [8, 8] and events[-1]["dense"] == events[-2]["dense"]


def test_a_run_made_to_collapse_is_flagged(tmp_path) -> None:
    images, generator = scans(32, 36, 40), torch.Generator().manual_seed(0)
    eye = RunWatch(Shelf(images), list(range(32)), settings(watch=10), tmp_path, 60)
    eye.look(Toy(2), 0)
    eye.look(moved(Toy(2)), 6)
    for step in (12, 18):
        eye.look(moved(Output(lambda x: torch.ones_like(x) + 1e-6 * torch.randn(x.shape, generator=generator))), step)
    last = runfolder.read_events(tmp_path)[-1]
    assert last["state"] == "collapsed" and "Next:" in last["sentence"]
    for step in (24, 30, 36):
        eye.look(moved(Output(lambda x: torch.randn(x.shape, generator=generator))), step)
    assert runfolder.read_events(tmp_path)[-1]["state"] in ("collapsed", "random")


def test_healthy_runs_raise_no_alarm(tmp_path) -> None:
    for seed in range(5):
        run = tmp_path / str(seed)
        run.mkdir()
        images = scans(24, 36, 40, sigma=1.0)[seed:]
        eye, toy = RunWatch(Shelf(images), list(range(len(images))), settings("cva"), run, 40), Learner()
        for step in range(0, 41, 10):
            eye.look(toy, step)
            toy.train_on()
        assert not [e for e in runfolder.read_events(run) if e["state"] in ("collapsed", "random", "unknown")]


def test_too_few_scans_do_not_stop_a_run(tmp_path) -> None:
    eye = RunWatch(Shelf(scans(5, 36, 40)), list(range(5)), settings(), tmp_path, 40)
    assert eye.look(Toy(2), 0) == "not watched: agreement needs at least 8 scans, there are 5"
    off = RunWatch(Shelf(scans(9, 36, 40)), list(range(9)), settings(watch=0), tmp_path, 40)
    assert off.look(Toy(2), 0) == "" and not off.due(40)
