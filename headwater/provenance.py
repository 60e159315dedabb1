"""What is needed to repeat a run."""

import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from headwater import runfolder
from headwater.device import machine, peak_memory
from headwater.settings import Settings

PACKAGES = ("headwater", "torch", "numpy", "monai", "scipy", "nibabel")


def write(run: Path, settings: Settings, command: str, commit: str, seconds: float) -> None:
    """provenance.json after a sitting that began at `commit`; minutes add up over the sittings of a resumed run."""
    path = run / "provenance.json"
    before = runfolder.read_json(path) if path.exists() else {}
    runfolder.write_json(
        path,
        {
            "command": before.get("command") or command,
            "versions": versions(),
            "commit": commit,
            "machine": asdict(machine()),
            "seed": settings.seed,
            "minutes": before.get("minutes", 0.0) + seconds / 60,
            "peak_memory_gib": max(before.get("peak_memory_gib", 0.0), peak_memory()),
            "finished": time.strftime("%Y-%m-%d %H:%M"),
        },
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Of Headwater's own checkout; empty when it is installed without one."""
    here = Path(__file__).parent
    asked = ["git", "-C", str(here), "log", "-1", "--format=%H", "--", "."]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
