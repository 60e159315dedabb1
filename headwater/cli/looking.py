"""Commands that look: at scans, at a model."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from headwater import api
from headwater.cli.options import Classes, Json, Labels, Out, Scans, Seed, Show, Test, as_json, listener_for, typed
from headwater.errors import InputError

UNHEALTHY = ("collapsed", "random", "miswired")  # exit code 3
MANY = 20  # lines of what was set aside that are printed


def look(
    scans: Scans,
    /,
    labels: Labels = None,
    test: Test = None,
    out: Out = None,
    seed: Seed = 0,
    distribution: Annotated[bool, arg(help="also measure how the voxels are distributed (some seconds more)")] = False,
    classes: Classes = False,
    against: Annotated[
        Path | None, arg(metavar="RUN", help="how far each scan is from what this run's backbone has seen, and nothing else")
    ] = None,
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """The data passport: what is here, what is broken, what it needs."""
    listener = listener_for(json)
    if against is not None:
        rows = api.against(against, scans, show_identifiers=show_identifiers, progress=listener)
        as_json(rows) if json else listener.beside(rows, MANY)
        if all(row["percentile"] != row["percentile"] for row in rows):  # nan: none of them could be told
            sys.exit(2)
        return
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
        as_json(shown)
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


def observe(
    model: Annotated[Positional[Path], arg(metavar="MODEL", help="run folder, .safetensors, .pt, .pth, or Hugging Face folder")],
    images: Annotated[
        Positional[Path | None], arg(metavar="IMAGES", help="folder, .npy, .npz or table of images (of a run: its own scans)")
    ] = None,
    /,
    out: Annotated[
        Path | None,
        arg(metavar="DIR", help="where to write", help_behavior_hint="(default: RUN/observations, or runs/observe-MODEL)"),
    ] = None,
    rank: Annotated[
        tuple[Path, ...], UseAppendAction, arg(metavar="OTHER", help="rank MODEL and these by what they gained, without a page")
    ] = (),
    classes: Classes = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Any checkpoint: stable, random or collapsed, and why. Exit code 3 if collapsed, random or miswired."""
    listener = listener_for(json)
    if rank:
        if images is None:
            raise InputError("Ranking needs images that all models look at: headwater observe MODEL IMAGES --rank OTHER.")
        rows = api.rank((model, *rank), images, seed=seed, progress=listener)
        as_json(rows) if json else listener.ranked(rows)
        return
    found = api.observe(model, images, out=out, classes=classes, seed=seed, progress=listener, command=typed())
    as_json(found) if json else listener.observed(found, api.panel(found))
    if found.get("verdict", {}).get("state") in UNHEALTHY:
        sys.exit(3)


def probe(
    model: Annotated[Positional[Path], arg(metavar="MODEL", help="run folder, .safetensors, .pt, .pth, or Hugging Face folder")],
    images: Annotated[Positional[Path], arg(metavar="IMAGES", help="folder, .npz or table of images")],
    /,
    targets: Annotated[
        Path | None, arg(metavar="TABLE", help=".csv with a column of files or subjects, and one for each target")
    ] = None,
    labels: Labels = None,
    classes: Classes = False,
    most: Annotated[int, arg(metavar="N", help="images at most")] = 300,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """What frozen features tell of classes, numbers or masks: beside the same network untrained, pixels and chance."""
    listener = listener_for(json)
    found = api.probe(model, images, targets, labels, classes, most=most, seed=seed, progress=listener)
    if json:
        as_json(found)
        return
    for word in (*found["model"]["words"], *found["words"]):
        listener.say(f"  {word}")
