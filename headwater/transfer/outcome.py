"""From the scores of finished networks to what they mean: means, gains, intervals, labels saved, the arm to use."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.transfer import curves, scores, surface
from headwater.transfer.draws import Job

Scores = Mapping[str, np.ndarray]  # by measure: (test scans, structures)


def table(results: Mapping[Job, Scores], store: Store, tests: list[int], structures: list[str]) -> str:
    """scores.csv: a row for each network, test scan and structure."""
    text = io.StringIO()
    rows = csv.writer(text)
    further = [name for name in surface.MEASURES if name != "dice"]
    rows.writerow(["count", "draw", "arm", "subject", "structure", "dice", "seed", "scan", *further])
    for job, values in results.items():
        for n, i in enumerate(tests):
            for k, structure in enumerate(structures):
                who = [job.count, job.draw, job.arm, store.subjects[i], structure, f"{values['dice'][n, k]:.4f}"]
                rest = [f"{values[name][n, k]:.4f}".removesuffix(".0000") for name in further]
                rows.writerow([*who, job.seed, store.records[i]["name"], *rest])
    return text.getvalue()


def summarise(
    results: Mapping[Job, Scores], settings: Settings, structures: tuple[str, ...], subjects: list[str]
) -> dict[str, Any]:
    """Means with intervals by count and arm, paired gains over scratch, labels saved and the arm to use; scores in 0..1, mm.

    Scans of one subject are averaged first. subjects: of each test scan.
    """
    adapt, seed = settings.adapt, settings.seed
    by_arm = {arm: _curve(results, settings, arm, subjects) for arm in adapt.arms}
    rows = [
        _row(results, settings, count, arm, structures, subjects, by_arm[arm][n])
        for n, count in enumerate(adapt.counts)
        for arm in adapt.arms
    ]
    gains = []
    for n, count in enumerate(adapt.counts):
        for arm in adapt.arms if "scratch" in adapt.arms else ():
            if arm != "scratch":
                gain = scores.interval(by_arm[arm][n] - by_arm["scratch"][n], seed, bounds=(-1.0, 1.0))
                said = {"gain": gain.mean, "low": gain.low, "high": gain.high, "sentence": gain_sentence(count, arm, gain)}
                gains.append({"count": count, "arm": arm, **said})
    advice = curves.advice(gains, settings.compare.delta)
    return {
        "counts": list(adapt.counts),
        "arms": list(adapt.arms),
        "draws": adapt.draws,
        "seeds": adapt.seeds,
        "test_subjects": len(set(subjects)),
        "steps": adapt.steps,
        "table": rows,
        "gains": gains,
        "saved": curves.saved(by_arm, adapt.counts, seed, settings.compare.delta),
        "choice": curves.choice(by_arm, adapt.counts, seed),
        "words": ([advice] if advice else []) + _control(by_arm, settings) + _missed(results),
    }


def _curve(results: Mapping[Job, Scores], settings: Settings, arm: str, subjects: list[str]) -> np.ndarray:
    """Dice (counts, draws, seeds, subjects) of an arm, the mean over structures."""
    adapt = settings.adapt
    return np.stack([by_subject(mean(_values(results, settings, c, arm, "dice"), 3), subjects) for c in adapt.counts])


def _values(results: Mapping[Job, Scores], settings: Settings, count: int, arm: str, measure: str) -> np.ndarray:
    """(draws, seeds, scans, structures) of one measure."""
    adapt = settings.adapt
    return np.stack([np.stack([results[Job(d, count, arm, s)][measure] for s in range(adapt.seeds)]) for d in range(adapt.draws)])


def _row(
    results: Mapping[Job, Scores],
    settings: Settings,
    count: int,
    arm: str,
    structures: tuple[str, ...],
    subjects: list[str],
    dice: np.ndarray,
) -> dict[str, Any]:
    """One count and arm: Dice with its interval, and all else."""
    found = {name: _values(results, settings, count, arm, name) for name in surface.MEASURES}
    row: dict[str, Any] = {"count": count, "arm": arm}
    for name, top in (("dice", 1.0), ("nsd", 1.0), ("hd95", np.inf)):
        values = dice if name == "dice" else by_subject(mean(found[name], 3), subjects)
        told = scores.interval(values, settings.seed, bounds=(0.0, top))
        keys = ("mean", "low", "high") if name == "dice" else (name, f"{name}_low", f"{name}_high")
        row |= dict(zip(keys, (told.mean, told.low, told.high), strict=True))
        each = mean(by_subject(np.moveaxis(found[name], -1, 0), subjects), (1, 2, 3))
        row["per_structure" if name == "dice" else f"per_structure_{name}"] = dict(zip(structures, each.tolist(), strict=True))
    known = np.isfinite(found["dice"])
    row["missed"] = float(found["missed"][known].mean()) if known.any() else float("nan")
    pieces = surface.pooled(found["there"], found["found"], found["false"])
    told = pieces and {"sensitivity": pieces.sensitivity, "false_positives": pieces.false, "f1": pieces.f1}
    return row | {"lesion": told}


def by_subject(means: np.ndarray, subjects: list[str]) -> np.ndarray:
    """(..., scans) -> (..., subjects)."""
    owners = {name: [i for i, s in enumerate(subjects) if s == name] for name in dict.fromkeys(subjects)}
    return np.stack([mean(means[..., mine], -1) for mine in owners.values()], axis=-1)


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray | np.floating:
    """Mean over what has a value; nan where nothing has."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def gain_sentence(count: int, arm: str, gain: scores.Interval) -> str:
    """What a gain over scratch means, in Dice points."""
    words = f"{arm} minus scratch {100 * gain.mean:+.1f} Dice points [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
    labels = f"{count} label{'s' * (count > 1)}"
    if not np.isfinite(gain.low):
        return f"With {labels} one test scan says nothing about a gain: {words}."
    return f"With {labels}: {words}" + {1: ", a gain.", -1: ", a loss.", 0: ": no evidence of a gain."}[gain.clear]


def _control(by_arm: Mapping[str, np.ndarray], settings: Settings) -> list[str]:
    """Whether a frozen backbone is better than one that never learned anything."""
    if not {"frozen", "random-frozen"} <= set(by_arm):
        return []
    better = [
        count
        for n, count in enumerate(settings.adapt.counts)
        if scores.interval(by_arm["frozen"][n] - by_arm["random-frozen"][n], settings.seed, bounds=(-1.0, 1.0)).clear > 0
    ]
    if better:
        return []
    return [
        "At no count of labels is frozen clearly better than random-frozen: the backbone may have learned nothing of use here."
    ]


def _missed(results: Mapping[Job, Scores]) -> list[str]:
    """How often the worst value stands for a distance that does not exist, and how often something was invented."""
    total = sum(int(np.isfinite(values["dice"]).sum()) for values in results.values())
    missed, invented = (int(sum(np.nansum(values[name]) for values in results.values())) for name in ("missed", "invented"))
    words = []
    if missed:
        words.append(
            f"{missed} of {total} structures were missed altogether: their Dice and NSD are 0, their HD95 the scan's diagonal."
        )
    if invented:
        words.append(f"{invented} times a structure was predicted in a scan that has none: no score holds that.")
    return words
