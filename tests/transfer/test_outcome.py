"""What is said of scores: recomputed by plain means; identical arms differ by nothing."""

import csv
import io

import numpy as np
import pytest
from headwater.transfer import draws, outcome, surface

SUBJECTS = ["u", "v", "v", "w", "x"]  # two scans of one


def results(settings, seed: int = 0, **better) -> dict:
    """Random scores of each job, of 5 scans and 2 structures; better: by arm what is added to its Dice."""
    made, rng = {}, np.random.default_rng(seed)
    for job in draws.jobs(settings):
        values = {name: rng.uniform(0.3, 0.6, (5, 2)) for name in surface.MEASURES}
        values["dice"] = values["dice"] + better.get(job.arm.replace("-", "_"), 0.0)
        values |= {name: np.zeros((5, 2)) for name in ("missed", "invented")}
        made[job] = values | {name: np.full((5, 2), np.nan) for name in ("there", "found", "false")}
    return made


def test_identical_arms_gain_exactly_nothing(tiny):
    settings = tiny(2, "adapt.arms=scratch,frozen,fine-tuned,self-taught", "adapt.seeds=2")
    one = next(iter(results(settings).values()))
    summary = outcome.summarise({job: one for job in draws.jobs(settings)}, settings, ("a", "b"), SUBJECTS)
    assert len(summary["gains"]) == 2 * 3
    for gain in summary["gains"]:
        assert (gain["gain"], gain["low"], gain["high"]) == (0.0, 0.0, 0.0)
        assert gain["sentence"].endswith(": no evidence of a gain.")
    assert summary["choice"]["arm"] == "scratch" and summary["saved"]["verdict"] == "none"
    assert any(words.startswith("Do not pretrain") for words in summary["words"])


def test_means_are_means_over_structures_scans_subjects_trainings_and_draws(tiny):
    settings = tiny(2, "adapt.seeds=2")
    made = results(settings)
    summary = outcome.summarise(made, settings, ("a", "b"), SUBJECTS)
    assert [(r["count"], r["arm"]) for r in summary["table"]] == [(c, arm) for c in (1, 2) for arm in settings.adapt.arms]
    for row in summary["table"]:
        mine = [values for job, values in made.items() if (job.count, job.arm) == (row["count"], row["arm"])]
        for key, name in (("mean", "dice"), ("nsd", "nsd"), ("hd95", "hd95")):
            each = [np.array([v[name][0], v[name][1:3].mean(0), v[name][3], v[name][4]]).mean() for v in mine]
            assert row[key] == pytest.approx(np.mean(each)) and len(mine) == 4
        assert row["low"] < row["mean"] < row["high"] and row["nsd_low"] < row["nsd"] < row["nsd_high"]
        assert row["lesion"] is None and row["missed"] == 0 and set(row["per_structure_hd95"]) == {"a", "b"}
    assert (summary["seeds"], summary["draws"], summary["test_subjects"]) == (2, 2, 4)


def test_a_planted_gain_is_told(tiny):
    settings = tiny(2)
    summary = outcome.summarise(results(settings, fine_tuned=0.3), settings, ("a", "b"), SUBJECTS)
    gains = {(g["count"], g["arm"]): g for g in summary["gains"]}
    assert gains[1, "fine-tuned"]["gain"] == pytest.approx(0.3, abs=0.15) and "a gain." in gains[2, "fine-tuned"]["sentence"]
    assert summary["choice"]["arm"] == "fine-tuned" and not any("Do not" in words for words in summary["words"])


def test_without_scratch_there_are_no_gains(tiny):
    settings = tiny(2, "adapt.arms=fine-tuned")
    summary = outcome.summarise(results(settings), settings, ("a", "b"), SUBJECTS)
    assert summary["gains"] == [] and summary["saved"] is None and summary["choice"]["arm"] == "fine-tuned"


def test_pieces_missed_and_invented_are_counted(tiny):
    settings = tiny(2, "adapt.arms=scratch", "adapt.counts=1", "adapt.draws=1")
    made = results(settings)
    values = next(iter(made.values()))
    values["there"][:, 0], values["found"][:, 0], values["false"][:, 0] = 4, 3, 1
    values["missed"][2, 1], values["invented"][3, 1] = 1, 1
    values["dice"][3, 1] = np.nan
    summary = outcome.summarise(made, settings, ("a", "b"), SUBJECTS)
    row = summary["table"][0]
    assert row["lesion"] == {"sensitivity": 0.75, "false_positives": 1.0, "f1": pytest.approx(30 / 40)}
    assert row["missed"] == pytest.approx(1 / 9)
    words = " ".join(summary["words"])
    assert "1 of 9 structures were missed altogether" in words and "1 times a structure was predicted" in words


def test_a_structure_without_scores_is_left_out(tiny):
    settings = tiny(2)
    made = results(settings)
    for values in made.values():
        for measure in values.values():
            measure[:, 1] = np.nan
    summary = outcome.summarise(made, settings, ("a", "b"), SUBJECTS)
    row = summary["table"][0]
    assert row["mean"] == pytest.approx(row["per_structure"]["a"]) and np.isnan(row["per_structure"]["b"])


def test_a_backbone_no_better_than_chance_is_named(tiny):
    settings = tiny(2)
    said = "frozen clearly better than random-frozen"
    alike = outcome.summarise(results(settings), settings, ("a", "b"), SUBJECTS)["words"]
    assert any(said in words for words in alike)
    better = outcome.summarise(results(settings, frozen=0.3), settings, ("a", "b"), SUBJECTS)["words"]
    assert not any(said in words for words in better)


def test_the_table_has_a_row_per_network_scan_and_structure(flat, tiny):
    settings, tests = tiny(2), draws.testable(flat)
    made = {job: {name: values[:2] for name, values in found.items()} for job, found in results(settings).items()}
    rows = list(csv.DictReader(io.StringIO(outcome.table(made, flat, tests, ["a", "b"]))))
    assert len(rows) == len(draws.jobs(settings)) * 2 * 2 and list(rows[0])[:6] == [
        "count",
        "draw",
        "arm",
        "subject",
        "structure",
        "dice",
    ]
    assert set(surface.MEASURES) <= set(rows[0]) and rows[0]["there"] == "nan" and rows[0]["missed"] == "0"
    first = made[draws.jobs(settings)[0]]
    assert (
        float(rows[1]["hd95"]) == pytest.approx(first["hd95"][0, 1], abs=1e-4)
        and rows[0]["scan"] == flat.records[tests[0]]["name"]
    )
