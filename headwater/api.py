"""The commands as functions: what the command line and Python share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater import runfolder
from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.request import Request
from headwater.session import begin, borrow, comparing, existing, look, reopen, resolve, sitting, wanted
from headwater.settings import Settings

__all__ = [
    "Request",
    "adapt",
    "against",
    "borrow",
    "compare",
    "distribution",
    "export",
    "keep",
    "look",
    "observe",
    "panel",
    "predict",
]
__all__ += ["pretrain", "probe", "rank", "report", "run"]


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


def pretrain(request: Request, progress: Progress | None = None, command: str = "") -> Path:
    """A backbone from unlabelled scans, with the watch on. Returns the run folder."""
    progress = progress or Silent()
    run, store = begin(request, progress)
    settings = resolve(request, run, store, progress)
    with sitting(run, settings, command):
        _pretrain(run, store, settings, progress)
    return run


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
        run = existing(model, "state/pretrain.safetensors", "headwater pretrain SCANS")
        return observation.of_run(run, *reopen(run), progress, command, classes)
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


def probe(
    model: Path | str,
    images: Path | str,
    targets: Path | str | None = None,
    labels: Path | str | None = None,
    classes: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """What frozen features tell of classes, numbers and masks, beside the network untrained, pixels, chance (probing.py)."""
    from headwater import probing

    return probing.probe(model, images, targets, labels, classes, **how)


def rank(
    models: Sequence[Path | str], images: Path | str, *, seed: int = 0, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Checkpoints of one kind of network, without labels, best first: [{"model", "rank", "scores"}] (ranking.py)."""
    from headwater import ranking

    return ranking.rank(models, images, seed=seed, progress=progress)


def adapt(run: Path | str, progress: Progress | None = None, command: str = "") -> dict[str, Any]:
    """Scratch, frozen and fine-tuned at several label counts, with intervals. Returns the summary."""
    run = existing(run, "state/pretrain.safetensors", "headwater pretrain SCANS")
    store, settings = reopen(run)
    if not settings.adapt.counts:
        raise InputError(f"{run} was made without masks to adapt with. Start a run with --labels MASKS.")
    with sitting(run, settings, command):
        return _adapt(run, store, settings, progress or Silent())


def _adapt(run: Path, store: Any, settings: Settings, progress: Progress) -> dict[str, Any]:
    from headwater.transfer import adapt as transfer

    return transfer.run(store, settings, run / "adapt", run / "state" / "pretrain.safetensors", progress)


def compare(
    given: Request | Path | str, *, twice: bool = False, progress: Progress | None = None, command: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Networks under equal data, preprocessing, augmentation and steps, then equal time; "no difference" is an answer.

    given: a request, or a run folder whose scans and settings are used. twice: the first network against itself (A/A).
    Returns: the run folder, and the summary that RUN/compare/summary.json holds. Raises: InputError without masks on both sides.
    """
    from headwater.transfer import compare as transfer
    from headwater.transfer import even

    progress = progress or Silent()
    if isinstance(given, Request):
        even.names(wanted(given))  # a network that does not exist is said before anything is looked at
        run, store = begin(given, progress)
        settings = comparing(given, store)
    else:
        run = existing(given, "settings.json", "headwater pretrain SCANS --labels MASKS")
        store, settings = reopen(run)
    with sitting(run, settings, command):
        summary = transfer.run(store, settings, run / ("compare-twice" if twice else "compare"), progress, twice)
    return run, summary


def predict(model: Path | str, scans: Path | str, out: Path | str, **how: Any) -> list[dict[str, Any]]:
    """Masks for new scans, in the geometry of their files (transfer/predict.py has what it can be told). Returns a row a scan."""
    from headwater.transfer import predict as transfer

    rows = transfer.predict(model, scans, out, **how)
    told = ("file", "written", "fault", "voxels", "ml", "novelty", "words")
    return [{name: row.get(name) for name in told} for row in rows]


def export(run: Path | str, to: str, out: Path | str | None = None, *, what: str = "", replace: bool = False) -> Any:
    """What a run trained, as files that others read, with a model card (transfer/export)."""
    from headwater.transfer import export as transfer

    return transfer.export(run, to, out, what=what, replace=replace)


def against(
    run: Path | str, scans: Path | str, *, show_identifiers: bool = False, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """How far each scan is from what a run's backbone has seen: {"name", "percentile" (0 to 100), "sentence"}, newest first."""
    from dataclasses import asdict

    from headwater.transfer import novelty

    run = existing(run, "state/pretrain.safetensors", "headwater pretrain SCANS")
    rows = [asdict(row) for row in novelty.scored(run, Path(scans), show_identifiers=show_identifiers, progress=progress)]
    return sorted(rows, key=lambda row: (row["percentile"] != row["percentile"], -row["percentile"]))


def report(run: Path | str) -> Path:
    """Writes the run's one offline page; returns its path."""
    from headwater.report import conclusions, page

    run = existing(run, "passport.json", "headwater look SCANS --out RUN")
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
