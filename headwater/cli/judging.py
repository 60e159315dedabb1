"""Commands that spend labels: is it worth it, and which network?"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from headwater import api
from headwater.cli.options import Budget, Json, Labels, Out, Seed, Set, Show, Test, as_json, listener_for, typed
from headwater.errors import InputError


def adapt(
    scans: Annotated[Positional[Path], arg(metavar="SCANS|RUN", help="folder of scans, or a run folder")],
    /,
    labels: Labels = None,
    out: Out = None,
    test: Test = None,
    budget: Budget = None,
    seed: Seed = 0,
    set: Set = (),
    backbone: Annotated[
        Path | None, arg(metavar="RUN", help="run whose backbone is adapted to these scans; nothing is pretrained")
    ] = None,
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """Scratch, frozen (pretrained and random) and fine-tuned, with intervals; and a model to predict with."""
    listener = listener_for(json)
    given = _given(scans, api.Request(scans, labels, out, test, budget, seed, set, False, show_identifiers))
    if not isinstance(given, api.Request):
        if backbone is not None:
            raise InputError(f"{scans} is a run with a backbone of its own: name the folder of scans instead.")
        run = given
    else:
        run = api.pretrain(given, listener, typed()) if backbone is None else api.borrow(given, backbone, listener)
    summary = api.adapt(run, listener, typed())
    as_json(summary) if json else listener.adapted(summary)


def compare(
    scans: Annotated[Positional[Path], arg(metavar="SCANS|RUN", help="folder of scans, or a run folder")],
    /,
    labels: Labels = None,
    out: Out = None,
    test: Test = None,
    budget: Budget = None,
    seed: Seed = 0,
    set: Set = (),
    twice: Annotated[bool, arg(help="compare the first network with itself: what chance alone does")] = False,
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """CNN, Swin, ViT, ... under equal budget; may answer "no difference". Do you need a transformer?"""
    listener = listener_for(json)
    given = _given(scans, api.Request(scans, labels, out, test, budget, seed, set, False, show_identifiers))
    run, summary = api.compare(given, twice=twice, progress=listener, command=typed())
    page = api.report(run)
    if json:
        as_json(summary)
        return
    listener.compared(summary)
    listener.say(f"\n{page}")


def _given(scans: Path, request: api.Request) -> api.Request | Path:
    """The request, or the run folder that was named instead of scans. Raises InputError for options that a run has settled."""
    if not (scans / "settings.json").exists():
        if (scans / "passport.json").exists() and (scans / "store").is_dir():
            raise InputError(f"{scans} is a run that was not planned yet: give the command that began it again, with its scans.")
        return request
    if request.labels or request.out or request.test or request.budget is not None or request.changes:
        raise InputError(
            f"{scans} is a run with settings of its own: leave out the options, or name the folder of scans instead "
            f"(headwater adapt SCANS --labels MASKS --backbone {scans} keeps its backbone)."
        )
    return scans
