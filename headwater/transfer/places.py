"""Where masks of new scans go, what may be replaced there, and what is done already."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from headwater.errors import InputError
from headwater.runfolder import read_json, write_json
from headwater.scans import identifiers
from headwater.scans.layouts import Catalog, Item
from headwater.scans.readers import SUFFIXES
from headwater.scans.writing import ENDINGS

RECORD = "predictions.json"
_FORMAT = 1
_EVERY = 10.0  # seconds between two records on disk
_DICOM = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True, eq=False)
class Places:
    """Names of masks: those of their scans, in folders as theirs. stems: by name of the item, no two alike."""

    out: Path
    root: Path
    stems: dict[str, str]
    inputs: frozenset[Path]
    shown: identifiers.Names

    @classmethod
    def of(cls, catalog: Catalog, out: Path) -> "Places":
        """For all scans of a catalog."""
        stems = {item.name: _stem(item, catalog.layout.lower().startswith("nnu")) for item in catalog.items}
        counts = Counter(stem.lower() for stem in stems.values())
        stems = {name: stem if counts[stem.lower()] == 1 else name.replace("#", "_") for name, stem in stems.items()}
        inputs = frozenset(path.resolve() for item in catalog.items for path in item.source.files)
        return cls(Path(out), catalog.root, stems, inputs, identifiers.known(False))

    def code(self, item: Item) -> str:
        """What an item is called in the record: a salted hash of its path."""
        return self.shown.code(f"{self.root}/{item.name}", 16)

    def target(self, item: Item, kind: str) -> Path:
        """Where the mask goes."""
        return self.out / f"{self.stems[item.name]}{ENDINGS[kind]}"

    def name(self, path: Path) -> str:
        """A written file as it may be shown."""
        return self.shown.name(path.relative_to(self.out).as_posix())


def dicom(item: Item) -> bool:
    """Whether an item is DICOM by the names of its files."""
    ending = _ending(item.source.path.name)
    return ending in _DICOM or (not ending and len(item.source.files) > 1)


def _ending(name: str) -> str:
    """The longest known ending of a file's name, "" without one."""
    return max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")


def _stem(item: Item, numbered: bool) -> str:
    """The mask's name without its ending. numbered: the names of channels end in _0000. A DICOM series is named by its folder."""
    file, _, part = item.name.partition("#")
    path, ending = PurePosixPath(file), _ending(file)
    stem = path.name[: len(path.name) - len(ending)]
    if dicom(item) and len(item.source.files) > 1:
        stem = f"{stem}_segmentation" if part else "segmentation"
    elif part:
        stem = f"{stem}/{part}"
    elif numbered:
        stem = stem.removesuffix("_0000")
    return str(path.parent / stem)


class Record:
    """What was predicted into a folder: a row per scan, kept in OUT/predictions.json without names of files or people.

    stamp: of the model and what else the masks depend on. about: said in the file. ours: codes of all scans that were ever to be
    predicted into the folder, before: of those before this time. rows: by code.
    """

    def __init__(self, path: Path, stamp: str, about: dict[str, Any], codes: Iterable[str], before: Iterable[str], rows: Any):
        self.path, self.stamp, self.about = path, stamp, about
        self.before, self.rows, self.saved = frozenset(before), dict(rows), 0.0
        self.ours = {*self.before, *codes}

    @classmethod
    def open(cls, out: Path, stamp: str, codes: Iterable[str], about: dict[str, Any]) -> "Record":
        """The record of a folder, with these scans planned. Raises InputError for a predictions.json that is none."""
        path, before, rows = Path(out) / RECORD, [], {}
        if path.exists():
            try:
                told = read_json(path)
                before, rows = told["planned"], {row["id"]: row for row in told["rows"] if row.get("id")}
            except (ValueError, KeyError, TypeError, AttributeError) as fault:
                raise InputError(f"{path} is damaged: move it away, or give another folder.") from fault
        made = cls(path, stamp, about, codes, before, rows)
        made.write()
        return made

    def done(self, code: str, place: Any, mark: str) -> dict[str, Any] | None:
        """The row of a scan whose mask is there and would come out the same. place: from the kind of its mask to where it lies;
        mark: of the scan's files."""
        row = self.rows.get(code)
        if row is None or row.get("run") != self.stamp or row.get("input") != mark or not row.get("kind"):
            return None
        return row if place(row["kind"]).is_file() else None

    def kept(self, row: dict[str, Any], place: Any) -> dict[str, Any]:
        """A row of before, without what it counted where the mask was changed by hand since."""
        if row.get("sum") in (None, digest(place(row["kind"]))):
            return row
        told = "its mask was changed by hand since it was written, and is left as it is; it was not counted again"
        return row | {"voxels": {}, "ml": {}, "words": [told]}

    def refuses(self, code: str, place: Path) -> str:
        """Why a file must not be replaced, "" if it may: it is ours, and as it was written."""
        if not place.exists():
            return ""
        if code not in self.before:
            return "its mask would replace a file that was not written here; move that file away, or give another folder"
        row = self.rows.get(code)
        if row and row.get("sum") and row["sum"] != digest(place):
            return "its mask was changed after it was written, and is not replaced; move it away, or give another folder"
        return ""

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Takes a row; on disk it is within seconds."""
        self.rows[row["id"]] = row
        if time.monotonic() - self.saved > _EVERY:
            self.write()
        return row

    def write(self, aside: Iterable[dict[str, Any]] = ()) -> None:
        """All rows to disk, and those of files that are no scans."""
        rows = [*self.rows.values(), *aside]
        write_json(self.path, {"format": _FORMAT, **self.about, "planned": sorted(self.ours), "rows": rows})
        self.saved = time.monotonic()


def digest(path: Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def mark(item: Item) -> str:
    """What changes when a scan's files do: their sizes and times."""
    told = [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in item.source.files if path.is_file())]
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()
