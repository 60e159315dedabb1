"""Few labels, several starts, the same everything else: is pretraining worth it on these scans?"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headwater import runfolder
from headwater.interrupt import Interrupted, wishes
from headwater.progress import Progress, Silent
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.transfer import borrowed, draws, examples, final, leakage, outcome, segment, surface
from headwater.transfer.draws import Job, drawn, jobs, testable, trainable
from headwater.transfer.outcome import by_subject, gain_sentence, summarise

__all__ = ["Job", "by_subject", "conclude", "do", "drawn", "gain_sentence", "jobs", "run", "summarise", "testable", "trainable"]

LOOKED = 20  # labelled scans of which pieces are counted, to see whether structures come in several


def run(
    store: Store, settings: Settings, folder: Path, pretrained: Path | None, progress: Progress | None = None
) -> dict[str, Any]:
    """Trains and scores every job that is not done yet, then writes scores.csv, summary.json, examples and the segmenter to use.

    pretrained: the state of pretraining; None where no arm needs one.
    Returns: the summary. Raises: Interrupted when asked to stop; finished jobs are kept.
             InputError without a labelled scan to learn from and one to test on, or where their masks show nothing.
    """
    progress = progress or Silent()
    settings, words = draws.possible(store, settings)
    tests, todo = testable(store), jobs(settings)
    runfolder.private_folder(folder)
    with wishes() as stop, progress.track("Adapting", len(todo) * settings.adapt.steps + final.steps(settings)) as advance:
        for job in todo:
            path = folder / "jobs" / f"{job.name}.npz"
            if path.exists():
                advance(settings.adapt.steps)
                continue
            note = f"{job.count} label{'s' * (job.count > 1)}, {job.arm}, draw {job.draw + 1} of {settings.adapt.draws}"
            advance(0, note)
            do(job, store, settings, path, pretrained, tests, partial(_tick, advance, stop, note))
        summary = conclude(store, settings, folder, tests, words)
        note = f"the segmenter to use, {summary['choice']['arm']}"
        advance(0, note)
        tick = partial(_tick, advance, stop, note)
        summary["model"] = final.train(summary["choice"]["arm"], store, settings, folder, pretrained, tick)
    summary["leakage"] = leakage.found(store, folder.parent, borrowed.origin(folder.parent))
    runfolder.write_json(folder / "summary.json", summary)
    return summary


def _tick(advance: Callable[..., None], stop: Callable[[], bool], note: str) -> None:
    """One step done; a wish to stop ends the job at once, for a whole job is quickly done again."""
    advance(1, note)
    if stop():
        raise Interrupted(f"Adapting stopped in {note}")


def do(
    job: Job, store: Store, settings: Settings, path: Path, pretrained: Path | None, tests: list[int], advance: Callable[[], None]
) -> None:
    """One job; writes all measures of each test scan and structure (scans, K), and a slice of each prediction."""
    few = drawn(store, job.draw, job.count, settings.seed)
    rest = draws.unlabelled(store, few)
    network = segment.fit(job.arm, store, few, settings, pretrained, job.key, advance, rest)
    asked = tuple(draws.structures(store, settings).values())
    counted = surface.several(store, tuple(trainable(store)[:LOOKED]), asked)
    rows, slices = [], {}
    for n, i in enumerate(tests):
        prediction, truth = segment.predict(network, store.image(i), settings), np.asarray(store.label(i))
        skipped = truth >= store.classes  # voxels that do not count
        masks = [np.where(skipped, 0, mask) for mask in (prediction, truth)]
        rows.append(surface.measure(*masks, asked, store.spacing, counted))
        slices[f"mask{n}"] = examples.plane(prediction, truth)
    found = {name: np.stack([row[name] for row in rows]) for name in surface.MEASURES}

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            np.savez_compressed(file, **found, **slices)

    runfolder.write_whole(path, write)


def conclude(
    store: Store, settings: Settings, folder: Path, tests: list[int], words: list[str] | tuple[str, ...] = ()
) -> dict[str, Any]:
    """From the finished jobs to scores.csv, summary.json, examples.npz and examples.json; words: said of the masks."""
    asked = draws.structures(store, settings)
    lost = [list(asked).index(name) for name in draws.unseen(store, settings)]
    results = {job: _read(folder / "jobs" / f"{job.name}.npz", lost) for job in jobs(settings)}
    runfolder.write_text(folder / "scores.csv", outcome.table(results, store, tests, list(asked)))
    summary = summarise(results, settings, tuple(asked), [store.subjects[i] for i in tests])
    allowed = surface.tolerance(store.spacing)
    bare = store.unit != "mm" and allowed == 1
    far = f"one {store.unit.removesuffix('s')}" if bare else f"{allowed:.3g} {store.unit}, one voxel"
    said = f"NSD allows surfaces to be off by {far}; NSD and HD95 are MONAI's."
    summary |= {"tolerance": allowed, "unit": store.unit, "words": [*words, *summary["words"], said]}
    runfolder.write_json(folder / "summary.json", summary)
    best = max(summary["table"], key=lambda row: row["mean"] if np.isfinite(row["mean"]) else -1)
    shown = Job(0, best["count"], best["arm"])
    means = outcome.mean(results[shown]["dice"], 1)
    about = {"draw": shown.draw, "count": shown.count, "arm": shown.arm}
    examples.write(store, folder, folder / "jobs" / f"{shown.name}.npz", tests, means, about)
    return summary


def _read(path: Path, lost: list[int]) -> dict[str, np.ndarray]:
    """All measures of a job; those of structures that nobody could learn are nan."""
    with np.load(path, allow_pickle=False) as saved:
        found = {name: saved[name].copy() for name in surface.MEASURES}
    for values in found.values():
        values[:, lost] = np.nan
    return found
