"""The commands as functions: what the command line and Python share."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from headwater import runfolder
from headwater import settings as told
from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.request import ASKED, Request, folder_for
from headwater.settings import Settings


def look(
    scans: Path | str,
    labels: Path | str | None = None,
    *,
    test: Path | str | None = None,
    seed: int = 0,
    classes: bool = False,
    show_identifiers: bool = False,
    progress: Progress | None = None,
) -> Any:
    """The data passport of a folder of scans (scans.passport.Passport)."""
    from headwater.scans import passport

    for name, path in (("scans", scans), ("labels", labels), ("test", test)):
        if path is not None and not Path(path).exists():
            raise InputError(f"{path} does not exist (given as {name}). Check the path.")
    return passport.look(
        Path(scans), Path(labels) if labels else None, test=Path(test) if test else None, seed=seed, classes=classes,
        show_identifiers=show_identifiers, progress=progress or Silent(),
    )  # fmt: skip


def distribution(passport: Any, seed: int = 0, progress: Progress | None = None) -> Any:
    """How the voxels of the scans in a passport are distributed (scans.distribution.Distribution)."""
    from headwater.scans import distribution as measured
    from headwater.scans.readers import read, read_labels

    def sample(i: int) -> Any:
        entry = passport.entries[i]
        scan, mask = read(passport.scan_source(entry)), passport.mask_source(entry)
        labels = None if mask is None else read_labels(mask).array[0]
        return measured.Sample(scan.array, scan.spacing, labels, entry.group or None, entry.subject, scan.spaced)

    return measured.describe(sample, len(passport.entries), seed=seed, progress=progress or Silent())


def keep(passport: Any, distribution: Any, run: Path) -> Path:
    """Writes a passport, with the distribution if it was measured, into a run folder; returns the path of its page."""
    import numpy as np

    from headwater.scans.preview import preview

    passport.save(run / "passport.json")
    pictures = preview(passport)
    runfolder.write_whole(run / "preview.npz", lambda beside: np.savez_compressed(beside, **pictures))
    if distribution is not None:
        runfolder.write_json(run / "distribution.json", distribution.plain())
    return report(run)


def begin(request: Request, progress: Progress) -> tuple[Path, Any]:
    """Looks at the scans and prepares them in the run folder; what was done before is found again. Returns folder and store."""
    from headwater.scans.passport import Passport
    from headwater.scans.prepare import prepare
    from headwater.train.loop import objective_of

    settings = wanted(request)
    objective_of(settings)  # a name or an option that does not exist is said before anything is looked at
    run = folder_for(request)
    if (run / "settings.json").exists():
        passport = Passport.load(run / "passport.json")
    else:
        passport = look(
            request.scans, request.labels, test=request.test, seed=request.seed, classes=request.classes,
            show_identifiers=request.show_identifiers, progress=progress,
        )  # fmt: skip
        runfolder.private_folder(run)
        runfolder.write_json(run / ASKED, request.plain())
        passport.save(run / "passport.json")
    progress.say(f"What is in {passport.root}")
    for sentence in passport.sentences():
        progress.say(f"  {sentence}")
    return run, prepare(passport, run / "store", spacing=settings.spacing or None, progress=progress)


def wanted(request: Request, recipe: Settings | None = None) -> Settings:
    """The recipe with what the user changed. Raises InputError for a change that makes no sense."""
    settings = replace(
        recipe or Settings(), seed=request.seed, **({} if request.budget is None else {"budget": float(request.budget)})
    )
    for change in request.changes:
        settings = told.change(settings, change)
    told.check(settings)
    return settings


def resolve(request: Request, run: Path, store: Any, progress: Progress) -> Settings:
    """The settings of the run: the recipe, the user's changes, steps and draws from a measured step. Written once, then read."""
    if (run / "settings.json").exists():
        settings = told.from_dict(Settings, runfolder.read_json(run / "settings.json"))
        rows = runfolder.read_json(run / "plan.json")["lines"]
        progress.say("Going on with the plan of before")
    else:
        import numpy as np

        from headwater import costs as measuring
        from headwater import plan, recipes
        from headwater.device import machine
        from headwater.train import loop
        from headwater.transfer import adapt

        here = machine()
        shape = tuple(int(n) for n in np.median([store.shape(i) for i in range(len(store))], axis=0))
        scans = len(store.split("train"))
        objective = wanted(request).pretrain.objective
        settings = wanted(request, recipes.default(shape, bool(here.accelerator), objective, scans))
        labelled, tests = adapt.trainable(store), adapt.testable(store)
        if store.labelled and not (labelled and tests):
            progress.say("There are no masks on both sides, to learn from and to test on: adapting is left out")
        batch = min(settings.pretrain.batch, max(2, scans))  # a scan twice in a batch is no pair of scans
        settings = replace(settings, pretrain=replace(settings.pretrain, batch=batch))
        costs = measuring.measure(store, settings, labelled if tests else [], progress)
        settings = plan.spend(settings, costs, len(labelled), len(tests))
        parameters = sum(p.numel() for p in loop.assemble(settings, store)[0].backbone.parameters()) / 1e6
        rows = plan.lines(settings, costs, store, here, len(tests), parameters)
        plan.save(run, rows, costs)
        runfolder.write_json(run / "settings.json", told.to_dict(settings))
    progress.say("")
    progress.say("Plan (change any line with --set NAME=VALUE, the names in brackets)")
    for row in rows:
        progress.say(f"  {row['name']:<10} {row['choice']}")
        progress.say(f"  {'':<10}   because {row['because']}   [{row['set']}]")
    progress.say("")
    return settings


def pretrain(request: Request, progress: Progress | None = None, command: str = "") -> Path:
    """A backbone from unlabelled scans, with the watch on. Returns the run folder."""
    progress = progress or Silent()
    run, store = begin(request, progress)
    settings = resolve(request, run, store, progress)
    with sitting(run, settings, command):
        _pretrain(run, store, settings, progress)
    return run


@contextmanager
def sitting(run: Path, settings: Settings, command: str) -> Iterator[None]:
    """Notes in provenance.json what is needed to repeat the run, also when the work within is interrupted; minutes add up."""
    from headwater import provenance

    started, commit = time.monotonic(), provenance.commit()
    try:
        yield
    finally:
        provenance.write(run, settings, command, commit, time.monotonic() - started)


def _pretrain(run: Path, store: Any, settings: Settings, progress: Progress) -> None:
    from headwater.train import loop, state

    path = run / "state" / "pretrain.safetensors"
    if path.exists() and state.about(path)["step"] == settings.pretrain.steps:
        progress.say("Pretraining was finished before")
    else:
        loop.fit(store, settings, run, progress=progress)
    judged = [e for e in runfolder.read_events(run) if e.get("event") == "watch"]
    if judged:
        progress.say(f"  watch      {judged[-1]['sentence']}")


def observe(
    model: Path | str,
    images: Path | str | None = None,
    *,
    out: Path | str | None = None,
    classes: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """What any finished checkpoint has learned: agreement beside chance, its own start and pixels; why; heads and components.

    model: a run folder, a file of weights or a folder of Hugging Face (opening.py). images: as scans.gather takes them; of a run
    its own scans if left out. classes: folders, or the labels in an .npz or table, are classes that features may tell apart.
    Writes observe.json, closer.npz and the page observe.html into RUN/observations, else into `out` (runs/observe-NAME).
    Returns: what observe.json holds, and "report", the page's path.
    """
    from headwater import observation

    progress, model = progress or Silent(), Path(model)
    if images is None and ((model / "settings.json").exists() or not model.exists()):
        if out is not None:
            raise InputError(f"{model} keeps what is observed in itself: leave out --out, or give images too.")
        run = _existing(model, "state/pretrain.safetensors", "headwater pretrain SCANS")
        return observation.of_run(run, *_reopen(run), progress, command, classes)
    return observation.of_file(model, images, out, seed, progress, command, classes)


def panel(found: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Tables of an observation for people: agreement by level, then the numbers by theme, each row with its null and how."""
    from headwater.report import panel as tables

    levels = [
        (f"{where}, {name}", first, chance, f"different images; {rank} directions agree")
        for where, name, first, chance, rank, *_ in tables.levels(found)
    ]
    measures = [("Published", rows)] if (rows := tables.published(found)) else []
    return ([("Agreement", levels)] if levels else []) + tables.groups(found) + measures


def rank(
    models: Sequence[Path | str], images: Path | str, *, seed: int = 0, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Checkpoints of one kind of network, without labels, best first: [{"model", "rank", "scores"}] (ranking.py)."""
    from headwater import ranking

    return ranking.rank(models, images, seed=seed, progress=progress)


def adapt(run: Path | str, progress: Progress | None = None, command: str = "") -> dict[str, Any]:
    """Scratch, frozen and fine-tuned at several label counts, with intervals. Returns the summary."""
    run = _existing(run, "state/pretrain.safetensors", "headwater pretrain SCANS")
    store, settings = _reopen(run)
    if not settings.adapt.counts:
        raise InputError(f"{run} was made without masks to adapt with. Start a run with --labels MASKS.")
    with sitting(run, settings, command):
        return _adapt(run, store, settings, progress or Silent())


def _adapt(run: Path, store: Any, settings: Settings, progress: Progress) -> dict[str, Any]:
    from headwater.transfer import adapt as transfer

    return transfer.run(store, settings, run / "adapt", run / "state" / "pretrain.safetensors", progress)


def report(run: Path | str) -> Path:
    """Writes the run's one offline page; returns its path."""
    from headwater.report import conclusions, page

    run = _existing(run, "passport.json", "headwater look SCANS --out RUN")
    conclusions.write(run)
    return page.render(run)


def run(request: Request, progress: Progress | None = None, command: str = "") -> Path:
    """The main job: look, pretrain, observe, adapt, report. Returns the path of the page."""
    progress = progress or Silent()
    folder, store = begin(request, progress)
    settings = resolve(request, folder, store, progress)
    with sitting(folder, settings, command):
        _pretrain(folder, store, settings, progress)
        observe(folder, progress=progress)
        if settings.adapt.counts:
            _adapt(folder, store, settings, progress)
    return report(folder)


def _existing(run: Path | str, needed: str, remedy: str) -> Path:
    run = Path(run)
    if not (run / needed).exists():
        raise InputError(f"{run} is not a run folder with {needed}. Make one with: {remedy}.")
    return run


def _reopen(run: Path) -> tuple[Any, Settings]:
    from headwater.scans.store import Store

    return Store.open(run / "store"), told.from_dict(Settings, runfolder.read_json(run / "settings.json"))
