"""The command line: one function per command; parses, calls, prints."""

import contextlib
import json as jsons
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from headwater import api, runfolder
from headwater.errors import InputError, Unhealthy
from headwater.interrupt import Interrupted
from headwater.terminal import Quiet, Terminal

Scans = Annotated[Positional[Path], arg(metavar="SCANS", help="folder of scans")]
Labels = Annotated[Path | None, arg(metavar="MASKS", help="folder of masks, named as their scans")]
Out = Annotated[Path | None, arg(metavar="RUN", help="run folder (default: runs/NAME)")]
Test = Annotated[
    Path | None, arg(metavar="FILE", help="names of subjects to keep for testing, one a line (default: a fifth, drawn)")
]
Budget = Annotated[float | None, arg(metavar="MINUTES", help="time to spend (default: 30)")]
Seed = Annotated[int, arg(help="of everything random")]
Objective = Annotated[
    str | None, arg(metavar="NAME", help="what to learn from: cva (default), mae, dino, ... (a wrong name lists all)")
]
Set = Annotated[
    tuple[str, ...],
    UseAppendAction,
    arg(name="set", metavar="NAME=VALUE", help="change lines of the plan, such as pretrain.batch=4 (settings.json has all)"),
]
Classes = Annotated[bool, arg(help="take folders (or the labels in an .npz or table) as classes")]
Show = Annotated[bool, arg(help="show real names of files and subjects, in everything that is written as well")]
Json = Annotated[bool, arg(help="print the result as JSON, and nothing else")]
Run = Annotated[Positional[Path], arg(metavar="RUN", help="run folder")]


UNHEALTHY = ("collapsed", "random", "miswired")  # exit code 3
MANY = 20  # lines of what was set aside that are printed


def _listener(json: bool) -> Terminal:
    return Quiet() if json else Terminal()


def _asked(objective: str | None, changes: tuple[str, ...]) -> tuple[str, ...]:
    """The changes of the plan, with the objective among them."""
    return changes if objective is None else (f"pretrain.objective={objective}", *changes)


def _finish(run: Path, page: Path, json: bool, listener: Terminal) -> None:
    """The verdicts and where the page is."""
    sentences = runfolder.read_json(run / "verdicts.json")["sentences"]
    if json:
        print(jsons.dumps({"run": str(run), "report": str(page), "verdicts": sentences}, indent=1))
        return
    listener.say("")
    listener.say("What this means")
    for sentence in sentences:
        listener.say(f"  {sentence['text']}")
        if sentence["detail"]:
            listener.say(f"    {sentence['detail']}")
    listener.say("")
    listener.say(str(page))


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
    listener = _listener(json)
    request = api.Request(scans, labels, out, test, budget, seed, _asked(objective, set), classes, show_identifiers)
    page = api.run(request, listener, command=_command())
    _finish(page.parent, page, json, listener)


def look(
    scans: Scans,
    /,
    labels: Labels = None,
    test: Test = None,
    out: Out = None,
    seed: Seed = 0,
    distribution: Annotated[bool, arg(help="also measure how the voxels are distributed (some seconds more)")] = False,
    classes: Classes = False,
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """The data passport: what is here, what is broken, what it needs."""
    listener = _listener(json)
    passport = api.look(
        scans, labels, test=test, seed=seed, classes=classes, show_identifiers=show_identifiers, progress=listener
    )
    found = api.distribution(passport, seed, listener) if distribution else None
    if out is not None:
        if (out / "settings.json").exists():
            raise InputError(f"{out} holds a run. Choose another --out for the passport.")
        page = api.keep(passport, found, out)
    if json:
        shown = passport.plain() | ({"distribution": found.plain()} if found else {})
        print(jsons.dumps(runfolder.plain(shown), indent=1))
        return
    for sentence in passport.sentences():
        listener.say(f"  {sentence}")
    aside = [fault for fault in passport.quarantine if fault["kind"] != "copy"]
    for fault in aside[:MANY]:
        listener.say(f"  set aside: {fault['file']}: {fault['fault']}; {fault['remedy']}.")
    if len(aside) > MANY:
        listener.say(f"  and {len(aside) - MANY:,} more set aside (--json, or passport.json with --out, has all)")
    for sentence in found.sentences() if found else ():
        listener.say(f"  {sentence}")
    if out is not None:
        listener.say(f"\n{page}")


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
    listener = _listener(json)
    request = api.Request(scans, labels, out, test, budget, seed, _asked(objective, set), False, show_identifiers)
    folder = api.pretrain(request, listener, _command())
    watched = [e for e in runfolder.read_events(folder) if e.get("event") == "watch"]
    if json:
        print(jsons.dumps({"run": str(folder), "watch": watched[-1] if watched else None}, indent=1))
    else:
        listener.say(f"\n{folder / 'state' / 'pretrain.safetensors'}")


def observe(
    model: Annotated[Positional[Path], arg(metavar="MODEL", help="run folder, .safetensors, .pt, .pth, or Hugging Face folder")],
    images: Annotated[
        Positional[Path | None], arg(metavar="IMAGES", help="folder, .npy, .npz or table of images (of a run: its own scans)")
    ] = None,
    /,
    out: Annotated[
        Path | None, arg(metavar="DIR", help="where to write (default: RUN/observations, or runs/observe-MODEL)")
    ] = None,
    rank: Annotated[
        tuple[Path, ...], UseAppendAction, arg(metavar="OTHER", help="rank MODEL and these by what they gained, without a page")
    ] = (),
    classes: Classes = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Any checkpoint: stable, random or collapsed, and why. Exit code 3 if collapsed, random or miswired."""
    listener = _listener(json)
    if rank:
        if images is None:
            raise InputError("Ranking needs images that all models look at: headwater observe MODEL IMAGES --rank OTHER.")
        rows = api.rank((model, *rank), images, seed=seed, progress=listener)
        print(jsons.dumps(runfolder.plain(rows), indent=1)) if json else listener.ranked(rows)
        return
    found = api.observe(model, images, out=out, classes=classes, seed=seed, progress=listener, command=_command())
    print(jsons.dumps(runfolder.plain(found), indent=1)) if json else listener.observed(found, api.panel(found))
    if found.get("verdict", {}).get("state") in UNHEALTHY:
        sys.exit(3)


def adapt(
    scans: Annotated[Positional[Path], arg(metavar="SCANS|RUN", help="folder of scans, or a run folder")],
    /,
    labels: Labels = None,
    out: Out = None,
    test: Test = None,
    budget: Budget = None,
    seed: Seed = 0,
    set: Set = (),
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """Scratch, frozen and fine-tuned at several label counts, with intervals."""
    listener = _listener(json)
    run = scans
    if (scans / "settings.json").exists():
        if labels or out or test or budget is not None or set:
            raise InputError(
                f"{scans} is a run with settings of its own: leave out the options, or name the folder of scans instead."
            )
    else:
        request = api.Request(scans, labels, out, test, budget, seed, set, False, show_identifiers)
        run = api.pretrain(request, listener, _command())
    summary = api.adapt(run, listener, _command())
    if json:
        print(jsons.dumps(runfolder.plain(summary), indent=1))
        return
    for row in summary["table"]:
        listener.say(f"  {row['count']:>3} labels  {row['arm']:<11} Dice {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    for gain in summary["gains"]:
        listener.say(f"  {gain['sentence']}")


def report(run: Run, /, json: Json = False) -> None:
    """One offline HTML file."""
    _finish(run, api.report(run), json, _listener(json))


def demo(
    out: Annotated[Path, arg(metavar="RUN", help="where to put phantoms and run")] = Path("headwater-demo"),
    budget: Annotated[float, arg(metavar="MINUTES")] = 3.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The main job on built-in phantoms: a few CPU minutes."""
    from headwater.scans.phantom import write

    listener = _listener(json)
    if not (out / "scans" / "dataset.json").exists():
        listener.say("Making 48 phantoms: two made-up scanners, three structures")
        write(out / "scans", 48, (32, 40, 32), seed)
    request = api.Request(
        out / "scans" / "images", out / "scans" / "labels", out / "run", None, budget, seed, ("adapt.counts=1,4",)
    )
    page = api.run(request, listener, command=_command())
    _finish(page.parent, page, json, listener)


def doctor(json: Json = False) -> None:
    """What this machine can do."""
    from dataclasses import asdict

    from headwater.device import machine
    from headwater.provenance import versions

    found = {**asdict(machine()), **versions()}
    print(
        jsons.dumps(runfolder.plain(found), indent=1)
        if json
        else "\n".join(f"  {name:<14} {value}" for name, value in found.items())
    )


COMMANDS = {f.__name__: f for f in (run, look, pretrain, observe, adapt, report, demo, doctor)}


def _command() -> str:
    """What was typed, under names that may be shown."""
    from headwater.scans.identifiers import known

    shown = known("--show-identifiers" in sys.argv)
    typed = []
    for word in sys.argv[1:]:
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        typed.append(option + equals + (shown.folder(Path(value)) if "/" in value or Path(value).exists() else value))
    return shlex.join(["headwater", *typed])


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; a user's mistake is one sentence and exit code 2, a wish to stop is 130. What it writes is the owner's."""
    os.umask(0o077)
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(command, name=name)
    try:
        app.cli(
            prog="headwater",
            description="Pretrain on your own scans. Watch every token. Know whether it was worth it.",
            args=arguments,
        )
    except InputError as fault:
        print(fault, file=sys.stderr)
        sys.exit(2)
    except Unhealthy as fault:
        print(fault, file=sys.stderr)
        sys.exit(3)
    except (Interrupted, KeyboardInterrupt) as wish:
        print(f"\n{str(wish) or 'Stopped'}. The same command goes on from there.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.exit(1)
