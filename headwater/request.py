"""What a user asked for, and the run folder that it belongs to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater import runfolder
from headwater.errors import InputError

ASKED = "private/request.json"  # what was asked for, with the real paths
GENERIC = {"images", "imagestr", "scans", "data", "train", "nifti", "raw"}  # folder names that say nothing


@dataclass(frozen=True)
class Request:
    """What a user asked for, before anything was looked at."""

    scans: Path | str
    labels: Path | str | None = None
    out: Path | str | None = None
    test: Path | str | None = None
    budget: float | None = None
    seed: int = 0
    changes: tuple[str, ...] = ()
    classes: bool = False
    show_identifiers: bool = False

    def plain(self) -> dict[str, Any]:
        """As written into the run folder; two requests that are equal here belong to the same run."""
        paths = {
            name: str(Path(value).resolve()) if value else None
            for name, value in (("scans", self.scans), ("labels", self.labels), ("test", self.test))
        }
        told = {"budget": self.budget, "seed": self.seed, "changes": list(self.changes)}
        return {**paths, **told, "classes": self.classes, "show_identifiers": self.show_identifiers}


def folder_for(request: Request) -> Path:
    """The run folder: the one asked for, else runs/NAME of the same request, else the first runs/NAME-n that is free.

    Raises: InputError when the folder asked for belongs to another request.
    """
    if request.out is not None:
        if not _ours(Path(request.out), request):
            raise InputError(
                f"{request.out} holds something else (another run, or other files). Choose another --out, or remove it."
            )
        return Path(request.out)
    name = name_of(Path(request.scans), request.show_identifiers)
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if _ours(folder, request):
            return folder
        number += 1


def name_of(typed: Path, show_identifiers: bool) -> str:
    """What to call a run: as its folder of scans is called, less what could be somebody's name."""
    from headwater.scans.identifiers import known

    name = typed.parent.name if typed.name.lower() in GENERIC and typed.parent.name not in ("", "..") else typed.resolve().name
    name = name.split(".")[0] or "scans"
    return name if show_identifiers or known().name(name) == name else "scans"


def _ours(folder: Path, request: Request) -> bool:
    """Whether the folder is free or holds this very request."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return True
    if not (folder / "settings.json").exists() and (folder / "passport.json").exists():
        return True  # looked at, not begun
    return (folder / ASKED).exists() and runfolder.read_json(folder / ASKED) == runfolder.plain(request.plain())
