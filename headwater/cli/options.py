"""What the commands can be told, and how they answer."""

import json as jsons
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from headwater import runfolder
from headwater.terminal import Quiet, Terminal

Scans = Annotated[Positional[Path], arg(metavar="SCANS", help="folder of scans")]
Labels = Annotated[Path | None, arg(metavar="MASKS", help="folder of masks, named as their scans")]
Out = Annotated[Path | None, arg(metavar="RUN", help="run folder", help_behavior_hint="(default: runs/NAME)")]
Test = Annotated[
    Path | None,
    arg(metavar="FILE", help="names of subjects to keep for testing, one a line", help_behavior_hint="(default: a fifth, drawn)"),
]
Budget = Annotated[float | None, arg(metavar="MINUTES", help="time to spend", help_behavior_hint="(default: 30)")]
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


def listener_for(json: bool) -> Terminal:
    """Words and bars; on standard error where standard output is for a program."""
    return Quiet() if json else Terminal()


def as_json(value: Any) -> None:
    """The result for programs."""
    print(jsons.dumps(runfolder.plain(value), indent=1))


def asked(objective: str | None, changes: tuple[str, ...]) -> tuple[str, ...]:
    """The changes of the plan, with the objective among them."""
    return changes if objective is None else (f"pretrain.objective={objective}", *changes)


def finish(run: Path, page: Path, json: bool, listener: Terminal) -> None:
    """The verdicts and where the page is."""
    sentences = runfolder.read_json(run / "verdicts.json")["sentences"]
    if json:
        as_json({"run": str(run), "report": str(page), "verdicts": sentences})
        return
    listener.say("")
    listener.say("What this means")
    for sentence in sentences:
        listener.say(f"  {sentence['text']}")
        if sentence["detail"]:
            listener.say(f"    {sentence['detail']}")
    listener.say("")
    listener.say(str(page))


def typed() -> str:
    """What was typed, under names that may be shown."""
    from headwater.scans.identifiers import known

    shown = known("--show-identifiers" in sys.argv)
    words = []
    for word in sys.argv[1:]:
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        words.append(option + equals + (shown.folder(Path(value)) if "/" in value or Path(value).exists() else value))
    return shlex.join(["headwater", *words])
