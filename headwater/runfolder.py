"""The run folder as an interface: plain files, each complete or absent, readable by their owner only."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater.errors import Unwritable


def plain(value: Any) -> Any:
    """JSON's own types only; what is not finite becomes null, for JSON has no NaN."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def write_whole(path: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a file beside `path`, then renames it: a reader sees all of it or none."""
    path = Path(path)
    private_folder(path.parent)
    beside = path.with_name(
        f".{path.name}.{os.getpid()}.part{path.suffix}"
    )  # numpy adds an ending of its own where there is none
    try:
        write(beside)
        os.chmod(beside, 0o600)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def private_folder(folder: Path) -> Path:
    """A folder that exists afterwards; the parts of its path that did not are for their owner only.

    Raises: Unwritable where there can be none.
    """
    folder = Path(folder)
    try:
        for part in reversed([folder, *folder.parents]):
            if not part.exists():
                part.mkdir(mode=0o700, exist_ok=True)
    except OSError as fault:
        raise Unwritable(f"{folder} cannot be made ({fault.strerror}): give another place to write to (--out).") from fault
    if not folder.is_dir():
        raise Unwritable(f"{folder} is a file and no folder: give another place to write to (--out).")
    return folder


def write_text(path: Path, text: str) -> Path:
    """A whole UTF-8 file."""
    return write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """A whole JSON file a person can read."""
    return write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The file's value."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def append_event(folder: Path, event: dict[str, Any]) -> None:
    """One line at the end of events.jsonl."""
    with open(Path(folder) / "events.jsonl", "ab+", opener=_owner_only) as file:
        torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write(("\n" if torn else "").encode() + json.dumps(plain(event), ensure_ascii=False).encode() + b"\n")


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of events.jsonl; a line torn by a kill is left out."""
    path = Path(folder) / "events.jsonl"
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        events += [event] if isinstance(event, dict) else []
    return events
