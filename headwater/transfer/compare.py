"""Networks held against each other evenly, after nnU-Net Revisited (2404.09556): who is better, and can these scans tell?"""

import csv
import io
import json
import time
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater import runfolder
from headwater.errors import InputError
from headwater.interrupt import Interrupted, wishes
from headwater.progress import Progress, Silent
from headwater.scans.store import Store
from headwater.settings import Settings, to_dict
from headwater.transfer import advise, context, draws, even, leakage, scores, segment, tables
from headwater.transfer.knockout import KINDS, attends, without_attention


@dataclass(frozen=True)
class Job:
    """One network to train and score. attention: whether it may attend while it learns; knock: whether that is taken after."""

    method: str
    steps: int
    seed: int
    attention: bool = True
    knock: bool = False

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.method}-{self.steps}steps-seed{self.seed}" + ("" if self.attention else "-without")


@dataclass(frozen=True)
class Contender:
    """One way in a table: a backbone and the first of its seeds."""

    name: str
    family: str
    start: int = 0

    def jobs(self, plan: even.Plan, regime: str) -> list[Job]:
        """Its trainings in a regime; attention is knocked out where steps are equal, once for both regimes."""
        steps = plan.steps[regime][self.family]
        knock = plan.costs[self.family].attention and steps == plan.steps["steps"][self.family]
        return [Job(self.family, steps, self.start + n, knock=knock) for n in range(plan.seeds)]


def run(store: Store, settings: Settings, folder: Path, progress: Progress | None = None, twice: bool = False) -> dict[str, Any]:
    """Trains and scores what is not done yet, then writes scores.csv and summary.json.

    twice: A/A, the first method against itself under other seeds. With `compare.retrain` each transformer is trained once more,
    without attention from its first step on.
    Returns: the summary. Raises: Interrupted when asked to stop, finished jobs are kept. InputError without a scan to learn from
             and one to test on, where the budget is too small, and where methods differ in more than they should.
    """
    progress, tests, (labelled, words) = progress or Silent(), draws.testable(store), chosen(store, settings)
    runfolder.private_folder(folder)
    plan = planned(store, settings, folder, labelled, tests, twice, progress)
    first, *others = contenders(plan, twice)
    factor = {r: even.factor([_told(j, settings) for c in (first, *others) for j in c.jobs(plan, r)[:1]], _expected(r, twice))
              for r in plan.steps}  # fmt: skip
    todo = {job.name: job for r in plan.steps for c in (first, *others) for job in c.jobs(plan, r)}
    if settings.compare.retrain and not twice:
        extra = [
            replace(c.jobs(plan, "steps")[0], attention=False, knock=False) for c in others if plan.costs[c.family].attention
        ]
        todo |= {job.name: job for job in extra}
    if kept := sum(current(folder / "jobs" / f"{job.name}.npz", job, store, settings, labelled) for job in todo.values()):
        progress.say(f"{kept} of {len(todo)} trainings are done already")
    with wishes() as stop, progress.track("Comparing", sum(job.steps for job in todo.values())) as advance:
        for number, job in enumerate(todo.values(), start=1):
            path, note = folder / "jobs" / f"{job.name}.npz", f"{job.method}, training {number} of {len(todo)}"
            advance(0, note)
            if current(path, job, store, settings, labelled):
                advance(job.steps)
            else:
                do(job, store, settings, path, labelled, tests, partial(_tick, advance, stop, note))
    summary = conclude(store, settings, folder, plan, (first, *others), list(todo.values()))
    summary |= {"factor": factor["steps"], "leakage": leakage.found(store, folder.parent)}
    summary |= {"context": None, "advice": None} if twice else advised(store, settings, folder, labelled, plan, summary)
    summary["words"] = [*words, *(even.aside(settings) if twice else ()), *summary["words"]]
    runfolder.write_json(folder / "summary.json", summary)
    return summary


def _expected(regime: str, twice: bool) -> list[str]:
    """Where seconds are equal, steps follow from them."""
    return [] if twice else [even.FACTOR] + (["adapt.steps"] if regime == "time" else [])


def chosen(store: Store, settings: Settings) -> tuple[list[int], list[str]]:
    """Scans to learn from: all with masks that are not tested on, or the first `compare.labels` of a draw; and what masks lack.

    Raises: InputError where there is nothing to learn from or to test on.
    """
    count = settings.compare.labels
    told = replace(settings.adapt, counts=(count or max(1, len(draws.pool(store))),), draws=1)
    words = draws.possible(store, replace(settings, adapt=told))[1]
    return draws.drawn(store, 0, count, settings.seed) if count else draws.trainable(store), words


def contenders(plan: even.Plan, twice: bool) -> list[Contender]:
    """The first is what others are held against."""
    if twice:
        first = next(iter(plan.costs))
        return [Contender(first, first), Contender(f"{first} again", first, plan.seeds)]
    if len(plan.costs) < 2:
        why = " ".join(f"{words}." for words in plan.left_out.values())
        raise InputError(
            f"There is one method and nothing to compare it with: give two or more in compare.methods. {why}".strip()
        )
    return [Contender(name, name) for name in plan.costs]


def planned(
    store: Store, settings: Settings, folder: Path, labelled: list[int], tests: list[int], twice: bool, progress: Progress
) -> even.Plan:
    """The plan of an earlier call with the same settings, else a new one, measured; kept, for costs never come out the same."""
    path, asked = folder / "plan.json", runfolder.plain({**to_dict(settings), "store": store.version, "twice": twice})
    if path.exists() and (before := runfolder.read_json(path))["asked"] == asked:
        return even.Plan.of(before["plan"])
    progress.say("Measuring what a step of each method costs")
    considered = replace(settings, compare=replace(settings.compare, methods=settings.compare.methods[:1])) if twice else settings
    plan = even.plan(settings, *even.measure(store, considered, labelled, tests), len(tests), twice)
    runfolder.write_json(path, {"asked": asked, "plan": plan.plain()})
    return plan


def _told(job: Job, settings: Settings) -> Settings:
    """Of this training."""
    return even.method(settings, job.method, job.steps)


def made(job: Job, store: Store, settings: Settings, labelled: list[int]) -> str:
    """All that decides how a job comes out, in a few letters: a job under other settings is not mistaken for it."""
    told = to_dict(_told(job, settings))
    decides = {key: told[key] for key in ("seed", "precision", "backbone")} | {"job": asdict(job), "store": store.version}
    decides["adapt"] = {k: v for k, v in told["adapt"].items() if k not in ("counts", "draws", "seeds", "arms", "final")}
    return f"{zlib.crc32(json.dumps(runfolder.plain([decides, labelled]), sort_keys=True).encode()):08x}"


def current(path: Path, job: Job, store: Store, settings: Settings, labelled: list[int]) -> bool:
    """Whether the job was done before, under these settings."""
    if not path.exists():
        return False
    with np.load(path) as saved:
        return str(saved["made"]) == made(job, store, settings, labelled)


def _tick(advance: Callable[..., None], stop: Callable[[], bool], note: str) -> None:
    advance(1, note)
    if stop():
        raise Interrupted(f"Comparing stopped in {note}")


def do(
    job: Job, store: Store, settings: Settings, path: Path, labelled: list[int], tests: list[int], advance: Callable[[], None]
) -> None:
    """One job; writes the Dice of each test scan and structure, also without attention, and what it cost."""
    told = _told(job, settings)
    with nullcontext() if job.attention else without_attention():
        started = time.monotonic()
        with even.memory() as held:
            network = segment.fit("scratch", store, labelled, told, None, ("compare", job.seed), advance)
        seconds = time.monotonic() - started
        found = {"dice": scored(network, store, told, tests)}
    for kind in KINDS if job.knock else ():
        with without_attention(network, kind):
            found[f"dice_{kind}"] = scored(network, store, told, tests)
    found |= {"seconds": np.array(seconds), "memory": np.array(held[0]), "made": np.array(made(job, store, settings, labelled))}
    found["parameters"] = np.array(sum(p.numel() for p in network.parameters()))
    if job.seed == 0 and not attends(network):
        found["reach"] = np.array(astuple(context.reach(network, store, labelled, settings.seed)))

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            np.savez_compressed(file, **found)

    runfolder.write_whole(path, write)


def scored(network: segment.Segmenter, store: Store, settings: Settings, tests: list[int]) -> Float[np.ndarray, "scans K"]:
    """Dice of each test scan and structure; nan where the scan does not have it. Voxels that do not count are left out."""
    asked, rows = measured(store, settings), []
    for i in tests:
        truth = np.asarray(store.label(i))
        prediction = segment.predict(network, store.image(i), settings)
        rows.append(scores.overlaps(prediction, truth, list(asked.values()), store.classes))
    return np.array(rows, np.float64).reshape(len(tests), len(asked))


def measured(store: Store, settings: Settings) -> dict[str, tuple[int, ...]]:
    """Structures that are scored: those that can be learned."""
    lost = draws.unseen(store, settings)
    return {name: classes for name, classes in draws.structures(store, settings).items() if name not in lost}


def conclude(
    store: Store, settings: Settings, folder: Path, plan: even.Plan, ways: tuple[Contender, ...], done: list[Job]
) -> dict[str, Any]:
    """From the finished jobs to scores.csv and the tables."""
    tests, found = draws.testable(store), {}
    for job in done:
        with np.load(folder / "jobs" / f"{job.name}.npz") as saved:
            found[job] = dict(saved)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["method", "steps", "seed", "attention", "scan", "subject", "structure", "dice"])
    for job, saved in found.items():
        for kind, key in (("as trained" if job.attention else "never", "dice"), *((k, f"dice_{k}") for k in KINDS)):
            for i, row in zip(tests, saved.get(key, ()), strict=key in saved):
                for structure, value in zip(measured(store, settings), row, strict=True):
                    who = (store.records[i]["name"], store.subjects[i], structure, f"{value:.4f}")
                    rows.writerow([job.method, job.steps, job.seed, kind, *who])
    runfolder.write_text(folder / "scores.csv", text.getvalue())
    return tables.summarise(found, [store.subjects[i] for i in tests], plan, ways, settings)


def advised(
    store: Store, settings: Settings, folder: Path, labelled: list[int], plan: even.Plan, summary: dict[str, Any]
) -> dict[str, Any]:
    """Whether these scans need a transformer, and the context curve that the answer rests on.

    advice is None where nothing with attention was compared, or not with a network without it.
    """
    first = next(iter(plan.costs))
    if plan.costs[first].attention or not any(cost.attention for cost in plan.costs.values()):
        return {"context": None, "advice": None}
    try:
        curve = known_curve(store, settings, folder / "context.json", labelled)
    except InputError:  # too few labelled subjects: the answer rests on the rest
        curve = None
    with np.load(folder / "jobs" / f"{Job(first, plan.steps['steps'][first], 0).name}.npz") as saved:
        reach = context.Reach(*saved["reach"].tolist())
    told = {"reach": reach, "delta": settings.compare.delta}
    found = advise.advise(summary["knockout"], curve, summary["pairs"], advise.priors(store, settings), **told)
    return {"context": curve and curve.plain() | {"reach": asdict(reach)}, "advice": found.plain()}


def known_curve(store: Store, settings: Settings, path: Path, labelled: list[int]) -> context.Curve:
    """The context curve, worked out once."""
    asked = runfolder.plain([store.version, labelled, settings.seed])
    if path.exists() and (before := runfolder.read_json(path))["asked"] == asked:
        told = {k: tuple(v) if isinstance(v, list) else v for k, v in before["curve"].items()}
        return context.Curve(**{**told, "blind": tuple(tuple(pair) for pair in before["curve"]["blind"])})
    found = context.curve(store, labelled, settings.seed)
    runfolder.write_json(path, {"asked": asked, "curve": found.plain()})
    return found
