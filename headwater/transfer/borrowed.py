"""Whose backbone a run has: its own, or that of another run, whose scans it then learned from."""

from pathlib import Path

from headwater import runfolder

NOTE = Path("private") / "backbone.json"  # of a run folder


def note(run: Path, source: Path) -> None:
    """Keeps that the backbone of `run` is from `source`."""
    runfolder.write_json(run / NOTE, {"run": str(source.resolve())})


def origin(run: Path) -> Path | None:
    """The run folder that the backbone was pretrained in, often `run` itself; None where that is no longer there."""
    if not (run / NOTE).is_file():
        return run if (run / "store").is_dir() else None
    return origin(Path(runfolder.read_json(run / NOTE)["run"]))
