"""Commands that make something: a run, a backbone, a page."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from headwater import api, runfolder
from headwater.cli.options import (
    Budget,
    Classes,
    Json,
    Labels,
    Objective,
    Out,
    Run,
    Scans,
    Seed,
    Set,
    Show,
    Test,
    as_json,
    asked,
    finish,
    listener_for,
    typed,
)


def run(
    scans: Scans,
    /,
    labels: Labels = None,
    out: Out = None,
    test: Test = None,
    budget: Budget = None,
    seed: Seed = 0,
    objective: Objective = None,
    set: Set = (),
    classes: Classes = False,
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """The main job: look, pretrain, observe, adapt, report."""
    listener = listener_for(json)
    request = api.Request(scans, labels, out, test, budget, seed, asked(objective, set), classes, show_identifiers)
    page = api.run(request, listener, command=typed())
    finish(page.parent, page, json, listener)


def pretrain(
    scans: Scans,
    /,
    labels: Labels = None,
    out: Out = None,
    test: Test = None,
    budget: Budget = None,
    seed: Seed = 0,
    objective: Objective = None,
    set: Set = (),
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """A backbone, with the watch on. Masks, if given, are kept for `adapt`."""
    listener = listener_for(json)
    request = api.Request(scans, labels, out, test, budget, seed, asked(objective, set), False, show_identifiers)
    folder = api.pretrain(request, listener, typed())
    watched = [e for e in runfolder.read_events(folder) if e.get("event") == "watch"]
    if json:
        as_json({"run": str(folder), "watch": watched[-1] if watched else None})
    else:
        listener.say(f"\n{folder / 'state' / 'pretrain.safetensors'}")


def report(run: Run, /, json: Json = False) -> None:
    """One offline HTML file."""
    finish(run, api.report(run), json, listener_for(json))


def demo(
    out: Annotated[Path, arg(metavar="RUN", help="where to put phantoms and run")] = Path("headwater-demo"),
    budget: Annotated[float, arg(metavar="MINUTES")] = 3.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The main job on built-in phantoms: a few CPU minutes."""
    from headwater.scans.phantom import write

    listener = listener_for(json)
    if not (out / "scans" / "dataset.json").exists():
        listener.say("Making 48 phantoms: two made-up scanners, three structures")
        write(out / "scans", 48, (32, 40, 32), seed)
    request = api.Request(
        out / "scans" / "images", out / "scans" / "labels", out / "run", None, budget, seed, ("adapt.counts=1,4",)
    )
    page = api.run(request, listener, command=typed())
    finish(page.parent, page, json, listener)


def doctor(json: Json = False) -> None:
    """What this machine can do."""
    from dataclasses import asdict

    from headwater.device import machine
    from headwater.provenance import versions

    found = {**asdict(machine()), **versions()}
    if json:
        as_json(found)
    else:
        print("\n".join(f"  {name:<14} {value}" for name, value in found.items()))
