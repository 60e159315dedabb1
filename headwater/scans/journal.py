"""Scans appended to flat files one by one, each with a line that says so: a kill costs the scan at hand and no other."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

LINES = "scans.jsonl"
FILES = ("images", "labels")
_CHUNK = 1 << 22  # bytes


def whole(place: Path) -> list[dict[str, Any]]:
    """Records whose bytes lie in the files as they were written, in order; what follows the last of them is cut off."""
    records, ends, good = [], [0, 0], 0
    if not all((place / name).exists() for name in (LINES, *FILES)):
        return records
    with open(place / LINES, "rb+") as lines, open(place / FILES[0], "rb+") as images, open(place / FILES[1], "rb+") as labels:
        for line in lines.readlines():
            try:
                record = json.loads(line)
                sizes, found = record["bytes"], _sum_of_facts(record)
                for file, size in zip((images, labels), sizes, strict=True):
                    found = _sum_of(file, size, found)
                right = line.endswith(b"\n") and found == record["crc"]
            except (ValueError, KeyError, TypeError, IndexError):
                right = False
            if not right:
                break
            records.append(record)
            ends = [end + size for end, size in zip(ends, sizes, strict=True)]
            good += len(line)
        lines.truncate(good)
        images.truncate(ends[0])
        labels.truncate(ends[1])
    return records


def _sum_of_facts(record: dict[str, Any]) -> int:
    """CRC-32 of a record without its own."""
    return zlib.crc32(json.dumps({key: value for key, value in record.items() if key != "crc"}).encode())


def _sum_of(file: Any, size: int, start: int) -> int:
    """CRC-32 of the next `size` bytes of a file, going on from `start`; -1 if it has fewer."""
    while size:
        part = file.read(min(size, _CHUNK))
        if not part:
            return -1
        start, size = zlib.crc32(part, max(start, 0)), size - len(part)
    return start


class Writer:
    """Appends scans to the files of a folder, readable by their owner only. A context; on a clean end all is on the disk."""

    def __init__(self, place: Path):
        self.files = [open(place / name, "ab", buffering=0, opener=_owner_only) for name in (*FILES, LINES)]

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            for file in self.files if kind is None else ():
                os.fsync(file.fileno())
        finally:
            for file in self.files:
                file.close()

    def add(self, record: dict[str, Any], image: np.ndarray, label: np.ndarray | None) -> dict[str, Any]:
        """Writes the arrays, then the line that they are there. Returns the record with its places (in numbers, not bytes)."""
        starts, data = [], []
        for array, file in zip((image, label), self.files, strict=False):
            starts.append(None if array is None else file.seek(0, os.SEEK_END) // array.itemsize)
            data.append(memoryview(b"" if array is None else np.ascontiguousarray(array)).cast("B"))
        places = {"image_at": starts[0], "label_at": starts[1], "bytes": [len(piece) for piece in data]}
        record = json.loads(json.dumps({**record, **places}))  # tuples become lists, as they will when read
        crc = _sum_of_facts(record)
        for piece in data:
            crc = zlib.crc32(piece, crc)
        record["crc"] = crc
        for file, piece in zip(self.files, [*data, json.dumps(record).encode() + b"\n"], strict=True):
            _write(file, memoryview(piece))
        return record


def _write(file: Any, piece: memoryview) -> None:
    """All of it: the system may take less at a time."""
    while len(piece):
        piece = piece[file.write(piece) :]


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
