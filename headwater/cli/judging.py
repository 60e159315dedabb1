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
    show_identifiers: Show = False,
    json: Json = False,
) -> None:
    """Scratch, frozen and fine-tuned at several label counts, with intervals."""
    listener = listener_for(json)
    run = scans
    if (scans / "settings.json").exists():
        if labels or out or test or budget is not None or set:
            raise InputError(
                f"{scans} is a run with settings of its own: leave out the options, or name the folder of scans instead."
            )
    else:
        request = api.Request(scans, labels, out, test, budget, seed, set, False, show_identifiers)
        run = api.pretrain(request, listener, typed())
    summary = api.adapt(run, listener, typed())
    if json:
        as_json(summary)
        return
    for row in summary["table"]:
        listener.say(f"  {row['count']:>3} labels  {row['arm']:<11} Dice {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    for gain in summary["gains"]:
        listener.say(f"  {gain['sentence']}")
