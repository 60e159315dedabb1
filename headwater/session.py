"""From a request to a run folder with its plan: what every command on a run begins with."""

import time
from collections.abc import Iterator
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

LEARNED = "state/pretrain.safetensors"  # of a run folder: what pretraining ended with


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


def resolve(request: Request, run: Path, store: Any, progress: Progress, borrowed: bool = False) -> Settings:
    """The settings of the run: the recipe, the user's changes, steps and draws from a measured step. Written once, then read.

    borrowed: the backbone is another run's, so nothing is pretrained.
    """
    if (run / "settings.json").exists():
        settings = told.from_dict(Settings, runfolder.read_json(run / "settings.json"))
        rows = runfolder.read_json(run / "plan.json")["lines"]
        progress.say("Going on with the plan of before")
    else:
        from headwater import costs as measuring
        from headwater import plan
        from headwater.device import machine
        from headwater.train import loop
        from headwater.transfer import adapt

        settings, why = sized(request, store)
        labelled, tests = adapt.trainable(store), adapt.testable(store)
        if store.labelled and not (labelled and tests):
            sides = f"{len(labelled)} of the scans with masks are to learn from, {len(tests)} to test on"
            progress.say(f"{sides}: adapting needs both and is left out (--test FILE names who is tested on)")
        costs = measuring.measure(store, settings, labelled if tests else [], progress)
        settings = plan.spend(settings, costs, len(labelled), len(tests), borrowed)
        parameters = sum(p.numel() for p in loop.assemble(settings, store)[0].backbone.parameters()) / 1e6
        rows = plan.lines(settings, costs, store, machine(), len(tests), parameters, why, borrowed)
        plan.save(run, rows, costs)
        runfolder.write_json(run / "settings.json", told.to_dict(settings))
    progress.say("")
    progress.say("Plan (change any line with --set NAME=VALUE, the names in brackets)")
    for row in rows:
        progress.say(f"  {row['name']:<10} {row['choice']}")
        progress.say(f"  {'':<10}   because {row['because']}   [{row['set']}]")
    progress.say("")
    return settings


def borrow(request: Request, source: Path, progress: Progress) -> Path:
    """A run folder for other scans with a run's backbone in it, which they are prepared for. Returns the folder.

    Raises: InputError where the run has no backbone, where there is nothing to adapt to, and for scans of another kind.
    """
    import shutil

    from headwater.train import state
    from headwater.transfer import adapt, borrowed

    state_of = existing(source, LEARNED, "headwater pretrain SCANS") / LEARNED
    theirs, made = reopen(source)
    spacing = () if any(c.startswith("spacing=") for c in request.changes) else (f"spacing={','.join(map(str, theirs.spacing))}",)
    told = (f"pretrain.objective={made.pretrain.objective}", f"pretrain.steps={state.about(state_of)['step']}")
    network = tuple(f"backbone.{name}={getattr(made.backbone, name)}" for name in ("family", "size", "patch"))
    request = replace(request, changes=(*spacing, *told, *network, *request.changes))
    run, store = begin(request, progress)
    if (store.ndim, store.channels) != (theirs.ndim, theirs.channels):
        theirs_said, ours = (f"{s.ndim}D scans of {s.channels} channel{'s' * (s.channels > 1)}" for s in (theirs, store))
        raise InputError(
            f"The backbone of {source} is for {theirs_said}, these are {ours}: give scans like those it learned from."
        )
    if not adapt.trainable(store) or not adapt.testable(store):
        raise InputError("Adapting needs masks on both sides, to learn from and to test on: give --labels MASKS.")
    resolve(request, run, store, progress, borrowed=True)
    if not (run / LEARNED).exists():
        runfolder.write_whole(run / LEARNED, lambda beside: shutil.copyfile(state_of, beside))
    borrowed.note(run, source)
    return run


def sized(request: Request, store: Any) -> tuple[Settings, str]:
    """The recipe for these scans with the user's changes, before any budget is divided, and why axes are mirrored or not."""
    import numpy as np

    from headwater import recipes
    from headwater.device import machine
    from headwater.transfer import adapt, mirroring

    shape = tuple(int(n) for n in np.median([store.shape(i) for i in range(len(store))], axis=0))
    scans, why = len(store.split("train")), ""
    recipe = recipes.default(shape, bool(machine().accelerator), wanted(request).pretrain.objective, scans)
    if labelled := adapt.trainable(store):
        found = mirroring.found(store, labelled)
        recipe, why = replace(recipe, adapt=replace(recipe.adapt, mirror=found.axes)), " ".join(found.sentences)
    settings = wanted(request, recipe)
    batch = min(settings.pretrain.batch, max(2, scans))  # a scan twice in a batch is no pair of scans
    settings = replace(settings, pretrain=replace(settings.pretrain, batch=batch))
    return settings, why if settings.adapt.mirror == recipe.adapt.mirror else ""


def comparing(request: Request, store: Any) -> Settings:
    """Settings for comparing networks on these scans; nothing is pretrained, so the run folder gets none. Raises InputError
    without masks to learn from and to test on."""
    from headwater.transfer import adapt

    if not adapt.trainable(store) or not adapt.testable(store):
        raise InputError("Comparing networks needs masks on both sides, to learn from and to test on: give --labels MASKS.")
    return sized(request, store)[0]


@contextmanager
def sitting(run: Path, settings: Settings, command: str) -> Iterator[None]:
    """Notes in provenance.json what is needed to repeat the run, also when the work within is interrupted; minutes add up.
    A command that is refused is none to repeat."""
    from headwater import provenance

    started, commit = time.monotonic(), provenance.commit()
    refused = False
    try:
        yield
    except InputError:
        refused = True
        raise
    finally:
        if not refused:
            provenance.write(run, settings, command, commit, time.monotonic() - started)


def existing(run: Path | str, needed: str, remedy: str) -> Path:
    """The run folder. Raises InputError where it lacks what is needed."""
    run = Path(run)
    if not (run / needed).exists():
        raise InputError(f"{run} is not a run folder with {needed}. Make one with: {remedy}.")
    return run


def reopen(run: Path) -> tuple[Any, Settings]:
    """The prepared scans of a run and its settings."""
    from headwater.scans.store import Store

    return Store.open(run / "store"), told.from_dict(Settings, runfolder.read_json(run / "settings.json"))
