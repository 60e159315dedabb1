"""Networks compared: equal batches, resumed as they were, numbers that can be computed again, and a method beside itself."""

import csv
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from headwater import runfolder
from headwater.errors import InputError
from headwater.interrupt import Interrupted
from headwater.settings import change
from headwater.transfer import compare, context, even, segment

ASKED = ("compare.methods=resenc,vit", "compare.seeds=2", "compare.steps=3", "compare.labels=3", "compare.retrain=true")


@pytest.fixture(scope="module")
def made(flat, tiny, tmp_path_factory):
    """A finished comparison on pictures: (settings, folder, summary)."""
    settings, folder = tiny(2, *ASKED), tmp_path_factory.mktemp("run") / "compare"
    return settings, folder, compare.run(flat, settings, folder)


def table(folder) -> list[dict[str, str]]:
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_training_is_there_once(made, flat):
    _, folder, summary = made
    plan = runfolder.read_json(folder / "plan.json")["plan"]
    steps = {"resenc": 3, "vit": plan["steps"]["time"]["vit"]}
    named = {f"{name}-{n}steps-seed{s}.npz" for name, s, n in (("resenc", 0, 3), ("resenc", 1, 3), ("vit", 0, 3), ("vit", 1, 3))}
    named |= {f"vit-{steps['vit']}steps-seed{s}.npz" for s in range(2)} | {"vit-3steps-seed0-without.npz"}
    assert {p.name for p in (folder / "jobs").iterdir()} == named
    assert (summary["methods"], summary["regimes"], summary["seeds"]) == (["resenc", "vit"], ["steps", "time"], 2)
    assert summary["factor"]["differs"] == ["backbone.family"] and summary["test_subjects"] == 2
    assert [(r["method"], r["regime"], r["steps"]) for r in summary["table"]] == [
        ("resenc", "steps", 3), ("vit", "steps", 3), ("resenc", "time", 3), ("vit", "time", steps["vit"])
    ]  # fmt: skip
    for row in summary["table"]:
        assert row["seconds"] > 0 and row["memory_gib"] > 0 and row["parameters"] > 4e5 and row["trials"] == 0
    assert runfolder.read_json(folder / "summary.json") == runfolder.plain(summary)
    assert any("3 steps are few" in words for words in summary["words"]) and summary["leakage"] == []
    assert "tell" in summary["suitability"]["sentence"]


def test_the_summary_follows_from_the_scores(made):
    """Means, gains and changes again, from the CSV, by plain loops."""
    _, folder, summary = made
    rows = table(folder)

    def subject(method, steps, seed, kind, who):
        found = [float(r["dice"]) for r in rows if (r["method"], r["steps"], r["seed"], r["attention"], r["subject"])
                 == (method, str(steps), str(seed), kind, who)]  # fmt: skip
        return np.nanmean(found)

    who = sorted({r["subject"] for r in rows})
    for row in summary["table"]:
        each = [subject(row["method"], row["steps"], s, "as trained", w) for s in range(2) for w in who]
        assert row["mean"] == pytest.approx(np.mean(each), abs=1e-4)
    means = {(r["method"], r["regime"]): r["mean"] for r in summary["table"]}
    for pair in summary["pairs"]:
        assert pair["gain"] == pytest.approx(means["vit", pair["regime"]] - means["resenc", pair["regime"]], abs=1e-9)
        assert pair["low"] <= pair["gain"] <= pair["high"] and pair["verdict"] in (
            "better",
            "worse",
            "no difference",
            "cannot tell",
        )
        assert "resenc" in pair["sentence"] and f"{100 * pair['gain']:+.1f} Dice points" in pair["sentence"]
    (knocked,) = summary["knockout"]
    assert knocked["method"] == "vit" and "attention" in knocked["sentence"]
    for kind, told in (("branch", knocked), ("own", knocked["own"])):
        change = [subject("vit", 3, s, kind, w) - subject("vit", 3, s, "as trained", w) for s in range(2) for w in who]
        assert told["change"] == pytest.approx(np.mean(change), abs=1e-4) and told["low"] <= told["change"] <= told["high"]
    never = np.mean([subject("vit", 3, 0, "never", w) for w in who]) - means["vit", "steps"]
    assert knocked["retrained"]["change"] == pytest.approx(never, abs=1e-4)


def test_all_methods_see_the_same_batches(flat, tiny, tmp_path, monkeypatch):
    seen, train_step, fit = {}, segment.train_step, segment.fit

    def noted(arm, store, labelled, settings, pretrained, key, advance=lambda: None, unlabelled=()):
        told = []
        monkeypatch.setattr(segment, "train_step", lambda n, c, o, x, y, rate, s: told.append((x, y, rate)) or 0.0)
        seen[settings.backbone.family, key[-1], settings.adapt.steps] = told
        return fit(arm, store, labelled, settings, pretrained, key, advance)

    settings = tiny(2, *ASKED)
    monkeypatch.setattr(segment, "fit", noted)
    monkeypatch.setattr(segment, "predict", lambda network, image, settings: np.zeros(image.shape[1:], np.uint8))
    compare.run(flat, settings, tmp_path / "compare")
    for seed in range(2):
        ours, theirs = seen["resenc", seed, 3], seen["vit", seed, 3]
        assert len(ours) == len(theirs) == 3
        for (x, y, rate), (x2, y2, rate2) in zip(ours, theirs, strict=True):
            assert torch.equal(x, x2) and torch.equal(y, y2) and rate == rate2
    assert not torch.equal(seen["resenc", 0, 3][0][0], seen["resenc", 1, 3][0][0])
    assert train_step is not segment.train_step


def test_done_is_done_and_a_lost_job_comes_out_the_same(flat, made, monkeypatch):
    settings, folder, summary = made
    done, do = [], compare.do
    monkeypatch.setattr(compare, "do", lambda job, *rest: done.append(job) or do(job, *rest))

    def without_clock(found):
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "memory_gib")} for row in found["table"]]
        return runfolder.plain({**found, "table": rows, "words": []})

    again = compare.run(flat, settings, folder)
    assert runfolder.plain(again) == runfolder.plain(summary) and not done
    (folder / "jobs" / "vit-3steps-seed1.npz").unlink()
    again = compare.run(flat, settings, folder)
    assert [job.name for job in done] == ["vit-3steps-seed1"] and without_clock(again) == without_clock(summary)


def test_jobs_of_other_settings_are_not_taken_for_these(flat, made, tiny):
    settings, folder, _ = made
    labelled, job = compare.chosen(flat, settings)[0], compare.Job("resenc", 3, 0)
    path = folder / "jobs" / f"{job.name}.npz"
    assert compare.current(path, job, flat, settings, labelled)
    for other in ("adapt.learning_rate=0.1", "seed=4", "adapt.rotation=1"):
        assert not compare.current(path, job, flat, change(settings, other), labelled)
    assert not compare.current(path, job, flat, settings, labelled[:2])
    for harmless in ("compare.delta=0.02", "adapt.draws=9", "budget=3"):
        assert compare.current(path, job, flat, change(settings, harmless), labelled)


class Impatient:
    """Presses Ctrl-C at the first step of the second job."""

    def __init__(self) -> None:
        self.jobs = 0

    def say(self, text: str = "") -> None:
        pass

    @contextmanager
    def track(self, label: str, total: int):
        def advance(count: int = 1, note: str = "") -> None:
            self.jobs += count == 0
            if count == 1 and self.jobs == 2:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance


def test_interrupted_keeps_what_is_done(flat, tiny, tmp_path):
    settings = tiny(2, *ASKED[:1], "compare.seeds=1", "compare.steps=2", "compare.labels=1")
    with pytest.raises(Interrupted, match="Comparing stopped in vit, training 2 of [23]"):
        compare.run(flat, settings, tmp_path / "compare", Impatient())
    assert [p.name for p in (tmp_path / "compare" / "jobs").iterdir()] == ["resenc-2steps-seed0.npz"]
    plan = (tmp_path / "compare" / "plan.json").read_bytes()
    summary = compare.run(flat, settings, tmp_path / "compare")
    assert (tmp_path / "compare" / "plan.json").read_bytes() == plan
    assert {p["verdict"] for p in summary["pairs"]} == {"cannot tell"}, "one training each says nothing"


def test_a_method_against_itself(flat, tiny, tmp_path):
    """The real A/A, on pictures: other seeds, no difference in settings, nothing better or worse."""
    settings = tiny(2, "compare.methods=resenc,vit", "compare.seeds=2", "compare.steps=3")
    summary = compare.run(flat, settings, tmp_path / "compare-twice", twice=True)
    assert summary["methods"] == ["resenc", "resenc again"] and summary["regimes"] == ["steps"]
    assert "resenc is compared with itself: vit left out." in summary["words"]
    assert summary["factor"] == {"differs": [], "sentence": "Trainings differ in their seeds alone."}
    (pair,) = summary["pairs"]
    assert pair["verdict"] in ("cannot tell", "no difference") and summary["knockout"] == []
    assert {r["seed"] for r in table(tmp_path / "compare-twice")} == {"0", "1", "2", "3"}


def test_faults(flat, tiny, tmp_path, monkeypatch):
    bare = replace(flat, records=tuple({**record, "labelled": False} for record in flat.records))
    with pytest.raises(InputError, match="give more masks"):
        compare.run(bare, tiny(2, *ASKED), tmp_path / "a")
    with pytest.raises(InputError, match="one method and nothing to compare it with.*resenc is left out"):
        compare.run(flat, tiny(2, "adapt.patch=8,8", "compare.methods=vit,resenc", "compare.steps=1"), tmp_path / "b")
    honest = even.method
    monkeypatch.setattr(even, "method", lambda s, f, n: honest(replace(s, precision="fp32" if f == "vit" else "auto"), f, n))
    with pytest.raises(InputError, match="differ in more than backbone.family: also in precision"):
        compare.run(flat, tiny(2, *ASKED), tmp_path / "c")


def test_the_advice_rests_on_the_pilot_and_the_curve_is_worked_out_once(flat, made, tmp_path, monkeypatch):
    settings, folder, summary = made
    assert summary["context"] is None, "three labelled subjects are too few for a curve"
    pilot = [p for p in summary["pairs"] if p["method"] == "vit"]
    assert summary["advice"]["answer"] in ("CNN", "hybrid", "transformer", "cannot tell") and summary["advice"]["because"]
    if all(p["verdict"] == "cannot tell" for p in pilot):
        assert summary["advice"]["answer"] == "cannot tell"
    with np.load(folder / "jobs" / "resenc-3steps-seed0.npz") as saved:
        theoretical, effective = saved["reach"]
    assert 0 < effective < theoretical
    known = context.Curve((1.0, 2.0), (0.4, 0.3), (0.3, 0.2), (0.5, 0.4), 0.6, 2.0, (("a", "b"),), 5, 60, "Said.")
    calls = []
    monkeypatch.setattr(context, "curve", lambda *told: calls.append(told) or known)
    path = tmp_path / "context.json"
    assert compare.known_curve(flat, settings, path, [1, 2]) == known == compare.known_curve(flat, settings, path, [1, 2])
    assert len(calls) == 1
    compare.known_curve(flat, settings, path, [1, 3])
    assert len(calls) == 2
