"""Every file below a folder, listed once: what may be read, what leads out of it, and what the rest is."""

import json
import os
import posixpath
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from headwater.errors import InputError
from headwater.scans.readers import COMPANIONS, SUFFIXES, looks_like
from headwater.scans.scan import Fault, Source

_LARGEST = 1 << 28  # bytes of a listing that is read
_LEADS_OUT = ("leads out of the folder that was given", "copy the file into the folder, or give the folder that holds it")
_GONE = ("is listed but is not there", "put the file there, or take it off the list")
_STORES = (".zarr", ".n5", ".precomputed")  # folders that are one image


@dataclass(frozen=True, eq=False)
class Tree:
    """A folder and the files below it that are neither hidden nor elsewhere.

    root: absolute, links resolved. files: below root with "/" between folders, sorted. faults: links that lead out or nowhere,
    folders that cannot be opened, names that cannot be written down. notes: linked folders.
    """

    root: Path
    files: tuple[str, ...]
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Files that a reader is for; the second file of a pair (.img, .raw) only where its header is missing."""
        return tuple(name for name in self.files if self._is_image(name))

    def _is_image(self, name: str) -> bool:
        low = name.lower()
        if low.endswith((*SUFFIXES, *COMPANIONS)):
            return low.endswith(SUFFIXES)
        suffix = posixpath.splitext(name)[1][1:]
        return (not suffix or suffix.isdigit()) and _readable(self.root / name)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def _images(self) -> frozenset[str]:
        return frozenset(self.images)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.root / name

    def one(self, name: str) -> Source:
        """A file as a scan."""
        return Source((self.root / name,))

    def name(self, path: Path) -> str:
        """A file's name below root."""
        return path.relative_to(self.root).as_posix()

    def below(self, folder: str, names: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Files anywhere below a folder ("" is root), of all or of some (sorted) names."""
        names = self.files if names is None else names
        if not folder:
            return names
        return names[bisect_left(names, f"{folder}/") : bisect_left(names, f"{folder}0")]  # "0" follows "/"

    def images_in(self, folder: str) -> list[str]:
        """Images that lie in a folder itself."""
        return [name for name in self.below(folder, self.images) if posixpath.dirname(name) == folder]

    def places(self, file: str, depth: int = 2) -> list[str]:
        """Folders at most `depth` below root that hold a file of this name."""
        found = [posixpath.dirname(name) for name in self.files if name == file or name.endswith(f"/{file}")]
        return [folder for folder in found if _depth(folder) <= depth]

    def folders(self, name: str, depth: int = 2) -> list[str]:
        """Folders at most `depth` below root that hold a folder of this name with files in it."""
        parents = {m[1] for file in self.files if (m := re.match(rf"((?:[^/]+/){{0,{depth}}}?){re.escape(name)}/", file))}
        return sorted(parent.rstrip("/") for parent in parents)

    def find(self, text: object, folder: str, said: str) -> Source | Fault:
        """What a listing in `folder` names: a file, relative to that folder or else to root, or a folder of one DICOM series.

        said: the name of the listing, for a Fault about what is no name. Absolute names count if they lead into root.
        """
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            return Fault(said, "has an entry that names no file", "write the file's path as text", "row")
        text = _written(text.strip().replace("\\", "/"))
        if text.startswith("/") or re.match(r"[A-Za-z]:/", text):
            real = posixpath.normpath(text) if _within(posixpath.normpath(text), self.root) else os.path.realpath(text)
            text, folder = posixpath.relpath(real, self.root), ""
        ways = [posixpath.normpath(posixpath.join(way, text)) for way in dict.fromkeys((folder, ""))]
        inside = [way for way in ways if way != ".." and not way.startswith("../")]
        shown = posixpath.basename(text.rstrip("/")) if not inside else inside[0]
        if not inside:
            return Fault(shown if shown not in ("", "..") else said, *_LEADS_OUT, "escape")
        for way in inside:
            if way in self._known:
                return self.one(way)
        return self._unlisted(inside)

    def _unlisted(self, ways: list[str]) -> Source | Fault:
        """A hidden file or a folder of DICOM that a listing names, or why it cannot be used."""
        for way in ways:
            path = self.root / way
            if not os.path.exists(path):
                continue
            if not _within(os.path.realpath(path), self.root):
                return Fault(way, *_LEADS_OUT, "escape")
            if os.path.isfile(path):
                return Source((path,))
            series = [one for one in _series(path) if not one.localiser]
            if len(series) == 1:
                return series[0].source
            count = f"{len(series)} DICOM series" if series else "no DICOM series"
            return Fault(way, f"is a folder with {count}", "name a file, or a folder with one series", "row")
        return Fault(ways[0], *_GONE, "missing")


def _series(folder: Path) -> list:
    """The DICOM series in a folder."""
    from headwater.scans.formats import series

    tree = walk(folder)
    return series.group([tree.path(name) for name in tree.images])[0]


def _readable(path: Path) -> bool:
    try:
        return looks_like(path)
    except (OSError, InputError):
        return False


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0


def _within(path: str, root: Path) -> bool:
    return path == str(root) or path.startswith(f"{str(root).rstrip('/')}/")


def walk(root: Path) -> Tree:
    """Lists a folder. Links to files within it are followed; those that leave it are faults. Hidden names are left out.

    A linked folder is not entered: within root it is read where it really lies.
    """
    root = Path(os.path.realpath(root))
    files: list[str] = []
    faults: list[Fault] = []
    linked = 0
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            faults.append(Fault(_written(folder), f"cannot be opened ({error.strerror})", "check its permissions", "unreadable"))
            continue
        for entry in listed:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _written(name) != name:
                fault = "has a name that is no text (not UTF-8)"
                faults.append(Fault(_written(name), fault, "give it another name", "name"))
            elif entry.is_symlink():
                kind = _linked(root, name, faults)
                linked += kind == "folder"
                files += [name] if kind == "file" else []
            elif entry.is_dir(follow_symlinks=False) and not name.lower().endswith(_STORES):
                waiting.append(name)
            elif entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
                files.append(name)
    note = f"{linked:,} linked folder{'s' if linked > 1 else ''} not entered: read where the files really lie"
    return Tree(root, tuple(sorted(files)), tuple(sorted(faults, key=lambda f: f.file)), (note,) if linked else ())


def _linked(root: Path, name: str, faults: list[Fault]) -> str:
    """What a link leads to: "file" or "folder" within root; "" and a fault for anything else."""
    target = os.path.realpath(root / name)
    if not os.path.exists(target):
        faults.append(Fault(name, "is a link that leads nowhere", "mend the link, or remove it", "missing"))
    elif not _within(target, root):
        faults.append(Fault(name, f"is a link that {_LEADS_OUT[0]}", _LEADS_OUT[1], "escape"))
    else:
        return "folder" if os.path.isdir(target) else "file" if os.path.isfile(target) else ""
    return ""


def _written(name: str) -> str:
    """A name as text that can be written down."""
    return name.encode("utf-8", "replace").decode()


def load_json(path: Path) -> tuple[object, str]:
    """The value of a JSON file and "", or None and what is wrong with the file."""
    try:
        if path.stat().st_size > _LARGEST:
            return None, f"is larger than {_LARGEST >> 20} MiB"
        return json.loads(path.read_text(encoding="utf-8-sig")), ""
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg[0].lower()}{error.msg[1:]})"
    except UnicodeDecodeError:
        return None, "is not text in UTF-8"
    except RecursionError:
        return None, "is nested too deeply"
    except (OSError, ValueError) as error:
        return None, f"cannot be read ({getattr(error, 'strerror', None) or 'a number in it is too long'})"


def endings(names: Iterable[str]) -> str:
    """What some files end in, most frequent first, as words: 12 x .json, 3 x .txt."""
    counts = Counter(posixpath.splitext(name)[1].lower() or "no ending" for name in names)
    shown = [f"{n:,} x {suffix}" for suffix, n in counts.most_common(4)]
    return ", ".join(shown) + (" and others" if len(counts) > 4 else "")
