"""Few labels: nested draws, nobody tested on is learned from, nothing done twice, and numbers that can be computed again."""

import csv
import math
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from headwater import runfolder
from headwater.interrupt import Interrupted
from headwater.train import loop
from headwater.transfer import adapt
from headwater.transfer.scores import Interval


@pytest.fixture(scope="module")
def made(flat, tiny, tmp_path_factory):
    """A finished adaptation on pictures: (settings, state, folder, summary)."""
    settings, run = tiny(2, "adapt.arms=scratch,random-frozen,fine-tuned"), tmp_path_factory.mktemp("run")
    loop.fit(flat, settings, run)
    state = run / "state" / "pretrain.safetensors"
    return settings, state, run / "adapt", adapt.run(flat, settings, run / "adapt", state)


def table(folder) -> list[dict[str, str]]:
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_job_has_a_row_per_scan_and_structure(flat, made):
    settings, _, folder, summary = made
    rows = table(folder)
    keys = {(r["count"], r["draw"], r["arm"], r["subject"], r["structure"]) for r in rows}
    assert len(keys) == len(rows) == 2 * 2 * 3 * len(adapt.testable(flat)) * (flat.classes - 1)
    assert {r["structure"] for r in rows} == set(flat.names[1:]) and {r["arm"] for r in rows} == set(settings.adapt.arms)
    assert all(0 <= float(r["dice"]) <= 1 or r["dice"] == "nan" for r in rows)
    assert (summary["counts"], summary["draws"], summary["test_subjects"]) == ([1, 2], 2, 2)


def mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def test_the_summary_follows_from_the_scores(made):
    """Means and gains again, from the CSV, by plain loops."""
    _, _, folder, summary = made
    rows = table(folder)
    assert runfolder.read_json(folder / "summary.json") == runfolder.plain(summary)

    def per_scan(count: int, arm: str) -> dict[tuple[str, str], float]:
        mine = [r for r in rows if r["count"] == str(count) and r["arm"] == arm]
        scans = {(r["draw"], r["subject"]) for r in mine}
        return {s: mean([float(r["dice"]) for r in mine if (r["draw"], r["subject"]) == s]) for s in sorted(scans)}

    def finite(values: dict[tuple[str, str], float]) -> list[float]:
        lost = {subject for (_, subject), v in values.items() if math.isnan(v)}
        return [v for (_, subject), v in values.items() if subject not in lost]

    for row in summary["table"]:
        assert row["mean"] == pytest.approx(mean(finite(per_scan(row["count"], row["arm"]))), abs=1e-4)
        assert row["low"] <= row["mean"] <= row["high"]
        for name, value in row["per_structure"].items():
            key = (str(row["count"]), row["arm"], name)
            mine = [float(r["dice"]) for r in rows if (r["count"], r["arm"], r["structure"]) == key]
            assert value == pytest.approx(mean(mine), abs=1e-4, nan_ok=True)
    for gain in summary["gains"]:
        ours, scratch = per_scan(gain["count"], gain["arm"]), per_scan(gain["count"], "scratch")
        assert gain["gain"] == pytest.approx(mean(finite({key: ours[key] - scratch[key] for key in ours})), abs=2e-4)
        interval = Interval(gain["gain"], gain["low"], gain["high"])
        assert gain["sentence"] == adapt.gain_sentence(gain["count"], gain["arm"], interval)


def test_finished_jobs_are_not_run_again_and_a_lost_one_comes_out_the_same(flat, made, monkeypatch):
    settings, state, folder, summary = made
    done, do = [], adapt.do
    monkeypatch.setattr(adapt, "do", lambda job, *rest: done.append(job) or do(job, *rest))
    assert runfolder.plain(adapt.run(flat, settings, folder, state)) == runfolder.plain(summary) and not done
    lost = adapt.Job(1, 2, "random-frozen")
    (folder / "jobs" / f"{lost.name}.npz").unlink()
    assert runfolder.plain(adapt.run(flat, settings, folder, state)) == runfolder.plain(summary) and done == [lost]


class Impatient:
    """Presses Ctrl-C at the first step of the second job that is to do."""

    def __init__(self) -> None:
        self.notes = []

    def say(self, text: str = "") -> None:
        pass

    @contextmanager
    def track(self, label: str, total: int):
        def advance(count: int = 1, note: str = "") -> None:
            if count == 0:
                self.notes.append(note)
                if len(self.notes) == 2:
                    os.kill(os.getpid(), signal.SIGINT)

        yield advance


def test_interrupted_and_resumed_gives_the_same_summary(flat, made, tmp_path):
    settings, state, folder, summary = made
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "summary.json").unlink()
    for job in adapt.jobs(settings)[-2:]:
        (tmp_path / "jobs" / f"{job.name}.npz").unlink()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="Adapting stopped in 2 labels, fine-tuned, draw 2 of 2"):
        adapt.run(flat, settings, tmp_path, state, Impatient())
    assert signal.getsignal(signal.SIGINT) is before
    assert len(list((tmp_path / "jobs").iterdir())) == len(adapt.jobs(settings)) - 1 and not (tmp_path / "summary.json").exists()
    assert runfolder.plain(adapt.run(flat, settings, tmp_path, state)) == runfolder.plain(summary)


def test_pictures_are_whole_and_worst_first(flat, made):
    _, _, folder, summary = made
    notes = runfolder.read_json(folder / "examples.json")
    with np.load(folder / "examples.npz", allow_pickle=False) as pictures:
        shapes = {name: pictures[name].shape for name in ("image", "truth", "prediction")}
    assert len(set(shapes.values())) == 1 and shapes["image"] == (len(notes), 32, 32)
    dice = [note["dice"] for note in notes]
    assert dice == sorted(dice) and len({note["subject"] for note in notes}) == len(notes) == 2
    best = max(summary["table"], key=lambda row: row["mean"])
    assert {(note["arm"], note["count"]) for note in notes} == {(best["arm"], best["count"])}


def test_one_scan_of_each_kind_is_enough_and_said_so(flat, tiny, tmp_path):
    """One subject to learn from, one to test on, no pretraining, a network trained twice: no interval, no word of one."""
    keep = [flat.split("train")[0], flat.split("test")[0]]
    few = replace(flat, records=tuple(flat.records[i] for i in keep))
    settings = tiny(2, "adapt.arms=scratch", "adapt.steps=1", "adapt.seeds=2", "adapt.draws=1")
    summary = adapt.run(few, settings, tmp_path / "adapt", None)
    words = " ".join(summary["words"])
    assert "One labelled subject" in words and "One test subject" in words and "2 labels were asked for, 1 subject" in words
    assert summary["counts"] == [1] and summary["gains"] == [] and summary["saved"] is None
    assert all(math.isnan(row["low"]) for row in summary["table"]) and summary["choice"]["arm"] == "scratch"
    assert {r["seed"] for r in table(tmp_path / "adapt")} == {"0", "1"} and summary["model"]["validation"] == 0
    assert {p.name for p in (tmp_path / "adapt" / "jobs").iterdir()} == {
        "draw0-labels1-scratch.npz",
        "draw0-labels1-scratch-seed1.npz",
    }


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Interval(0.041, 0.019, 0.06), "With 4 labels: frozen minus scratch +4.1 Dice points [1.9, 6.0], a gain."),
        (Interval(-0.02, -0.03, -0.01), "With 4 labels: frozen minus scratch -2.0 Dice points [-3.0, -1.0], a loss."),
        (Interval(0.01, -0.01, 0.03), "With 4 labels: frozen minus scratch +1.0 Dice points [-1.0, 3.0]: no evidence of a gain."),
    ],
)
def test_what_a_gain_means(gain, said):
    assert adapt.gain_sentence(4, "frozen", gain) == said


def test_one_test_scan_says_nothing():
    said = adapt.gain_sentence(1, "fine-tuned", Interval(0.1, math.nan, math.nan))
    assert said.startswith("With 1 label one test scan says nothing") and "gain" in said
