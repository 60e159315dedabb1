"""Few labels, three starts, the same everything else: is pretraining worth it on these scans?"""

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwater import runfolder
from headwater.errors import InputError
from headwater.interrupt import Interrupted, wishes
from headwater.progress import Progress, Silent
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.transfer import examples, scores, segment


@dataclass(frozen=True)
class Job:
    """One network to train and score: an arm, on the first `count` labels of a draw."""

    draw: int
    count: int
    arm: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"draw{self.draw}-labels{self.count}-{self.arm}"


def trainable(store: Store) -> list[int]:
    """Scans whose masks may be learned from."""
    held = set(store.split("test"))
    return [i for i in store.labelled if i not in held]


def testable(store: Store) -> list[int]:
    """Scans to be scored on."""
    return [i for i in store.labelled if i in set(store.split("test"))]


def drawn(store: Store, draw: int, count: int, seed: int) -> list[int]:
    """The labelled scans of a draw, the first of each subject: larger counts contain the smaller ones."""
    pool = list({store.subjects[i]: i for i in reversed(trainable(store))}.values())[::-1]
    order = numpy_stream(seed, "draw", draw).permutation(len(pool))
    return [pool[i] for i in order[:count]]


def jobs(settings: Settings) -> list[Job]:
    """All of them, one whole draw after the other, so that a run that ends early has whole draws."""
    return [Job(d, c, a) for d in range(settings.adapt.draws) for c in settings.adapt.counts for a in segment.ARMS]


def run(store: Store, settings: Settings, folder: Path, pretrained: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Trains and scores every job that is not done yet, then writes scores.csv, summary.json and examples.

    Returns: the summary. Raises: Interrupted when asked to stop; finished jobs are kept.
             InputError without a labelled scan to learn from and one to test on.
    """
    progress = progress or Silent()
    tests = testable(store)
    if not tests or not trainable(store):
        raise InputError("Adapting needs at least one labelled scan to learn from and one to test on: give more masks.")
    folder.mkdir(parents=True, exist_ok=True)
    todo = jobs(settings)
    with wishes() as stop, progress.track("Adapting", len(todo) * settings.adapt.steps) as advance:
        for job in todo:
            path = folder / "jobs" / f"{job.name}.npz"
            if path.exists():
                advance(settings.adapt.steps)
                continue
            note = f"{job.count} label{'s' * (job.count > 1)}, {job.arm}, draw {job.draw + 1} of {settings.adapt.draws}"
            advance(0, note)
            do(job, store, settings, path, pretrained, tests, partial(_tick, advance, stop, note))
    return conclude(store, settings, folder, tests)


def _tick(advance: Callable[..., None], stop: Callable[[], bool], note: str) -> None:
    """One step done; a wish to stop ends the job at once, for a whole job is quickly done again."""
    advance(1, note)
    if stop():
        raise Interrupted(f"Adapting stopped in {note}")


def do(job: Job, store: Store, settings: Settings, path: Path, pretrained: Path, tests: list[int], advance: Any) -> None:
    """One job; writes the Dice of each test scan and structure, and the predictions."""
    few = drawn(store, job.draw, job.count, settings.seed)
    network = segment.fit(job.arm, store, few, settings, pretrained, ("adapt", job.draw, job.count), advance)
    rows, slices = [], {}
    for n, i in enumerate(tests):
        prediction, truth = segment.predict(network, store.image(i), settings.adapt.patch, settings.precision), store.label(i)
        skipped = torch.as_tensor(np.asarray(truth) >= store.classes)  # voxels that do not count
        true = torch.as_tensor(np.array(truth)).long().masked_fill(skipped, 0)
        rows.append(scores.dice(prediction.long().masked_fill(skipped, 0), true, store.classes))
        slices[f"mask{n}"] = examples.plane(prediction.numpy(), truth)

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            np.savez_compressed(file, dice=np.stack(rows), **slices)

    runfolder.write_whole(path, write)


def conclude(store: Store, settings: Settings, folder: Path, tests: list[int]) -> dict[str, Any]:
    """From the finished jobs to scores.csv, summary.json, examples.npz and examples.json."""
    dice = {job: np.load(folder / "jobs" / f"{job.name}.npz")["dice"] for job in jobs(settings)}
    names = [store.subjects[i] for i in tests]
    structures = store.names[1:]
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["count", "draw", "arm", "subject", "structure", "dice"])
    for job, values in dice.items():
        for subject, row in zip(names, values, strict=True):
            for structure, value in zip(structures, row, strict=True):
                rows.writerow([job.count, job.draw, job.arm, subject, structure, f"{value:.4f}"])
    runfolder.write_text(folder / "scores.csv", table.getvalue())
    summary = summarise(dice, settings, structures, names)
    runfolder.write_json(folder / "summary.json", summary)
    best = max(summary["table"], key=lambda row: row["mean"] if np.isfinite(row["mean"]) else -1)
    shown = Job(0, best["count"], best["arm"])
    examples.write(store, folder, folder / "jobs" / f"{shown.name}.npz", tests, _mean(dice[shown], 1), asdict(shown))
    return summary


def summarise(
    dice: dict[Job, np.ndarray], settings: Settings, structures: tuple[str, ...], subjects: list[str]
) -> dict[str, Any]:
    """Means with intervals by count and arm, and paired gains over scratch, in 0..1; scans of one subject are averaged first."""
    adapt, table, gains = settings.adapt, [], []
    for count in adapt.counts:
        by_arm = {
            arm: np.stack([dice[Job(d, count, arm)] for d in range(adapt.draws)]) for arm in segment.ARMS
        }  # (draws, subjects, K)
        means = {arm: by_subject(_mean(values, 2), subjects) for arm, values in by_arm.items()}
        for arm, values in by_arm.items():
            whole = scores.interval(means[arm], settings.seed, bounds=(0.0, 1.0))
            each = [by_subject(values[:, :, k], subjects) for k in range(len(structures))]
            parts = {name: float(_mean(v, (0, 1))) for name, v in zip(structures, each, strict=True)}
            table.append(
                {"count": count, "arm": arm, "mean": whole.mean, "low": whole.low, "high": whole.high, "per_structure": parts}
            )
        for arm in segment.ARMS[1:]:
            gain = scores.interval(means[arm] - means["scratch"], settings.seed, bounds=(-1.0, 1.0))
            gains.append(
                {
                    "count": count,
                    "arm": arm,
                    "gain": gain.mean,
                    "low": gain.low,
                    "high": gain.high,
                    "sentence": gain_sentence(count, arm, gain),
                }
            )
    return {
        "counts": list(adapt.counts),
        "arms": list(segment.ARMS),
        "draws": adapt.draws,
        "test_subjects": len(set(subjects)),
        "steps": adapt.steps,
        "table": table,
        "gains": gains,
    }


def by_subject(means: np.ndarray, subjects: list[str]) -> np.ndarray:
    """(draws, scans) -> (draws, subjects)."""
    owners = {name: [i for i, s in enumerate(subjects) if s == name] for name in dict.fromkeys(subjects)}
    return np.stack([_mean(means[:, mine], 1) for mine in owners.values()], axis=1)


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray | np.floating:
    """Mean over structures or scans that have a value; nan where there is none."""
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
