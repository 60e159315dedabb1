"""Every scan looked at once, on several threads, in bounded memory; what was seen before and did not change is not read again."""

import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from headwater.progress import Progress, Silent
from headwater.runfolder import write_whole
from headwater.scans.examine import Seen, examine
from headwater.scans.identifiers import cache_folder
from headwater.scans.scan import LIMIT, Source

_FORMAT = 1
_UNPACKED = 16  # bytes in memory for a byte on disk, all copies counted


class Memory:
    """What was seen of a collection of files, kept for the next look. Files that changed in size or time are forgotten."""

    def __init__(self, *roots: Path | None):
        place = "\n".join([str(_FORMAT), *(str(root) for root in roots)])
        self.file = cache_folder() / f"{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"
        self.seen = self._load()

    def _load(self) -> dict[str, tuple[list, Seen]]:
        """Key -> stamps and what was seen; nothing if there is no whole file."""
        try:
            with np.load(self.file, allow_pickle=False) as kept:
                rows, prints = json.loads(kept["rows"].tobytes()), {d: kept[f"prints{d}"] for d in (2, 3)}
            return {
                key: (stamps, Seen.of(value, None if at is None else prints[at[0]][at[1]])) for key, stamps, value, at in rows
            }
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile):
            return {}

    def find(self, scan: Source, mask: Source | None) -> Seen | None:
        """What was seen of this scan with this mask, if no file changed since."""
        kept = self.seen.get(_key(scan, mask))
        return kept[1] if kept is not None and kept[0] == _stamps(scan, mask) else None

    def keep(self, pairs: Sequence[tuple[Source, Source | None]], seen: Sequence[Seen]) -> None:
        """Writes what was seen, whole; a folder that cannot be written to is no fault."""
        rows, prints = [], {2: [], 3: []}  # pictures and volumes have fingerprints of their own size
        for (scan, mask), one in zip(pairs, seen, strict=True):
            at = None
            if one.fingerprint is not None:
                kind = one.fingerprint.ndim
                at = (kind, len(prints[kind]))
                prints[kind].append(one.fingerprint)
            rows.append((_key(scan, mask), _stamps(scan, mask), one.plain(), at))
        stacks = {f"prints{d}": np.array(some, np.float16) for d, some in prints.items()}
        stacks["rows"] = np.frombuffer(json.dumps(rows).encode(), np.uint8)
        try:
            write_whole(self.file, lambda beside: _save(beside, **stacks))
        except OSError:
            return


def _save(path: Path, **arrays: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def _key(scan: Source, mask: Source | None) -> str:
    both = [scan] if mask is None else [scan, mask]
    return hashlib.sha256("\n".join(f"{s.part}:{[str(f) for f in s.files]}" for s in both).encode("utf-8", "replace")).hexdigest()


def _stamps(scan: Source, mask: Source | None) -> list[list[int]]:
    """Size and time of every file; [0, 0] for one that is gone."""
    stamps = []
    for file in scan.files + (mask.files if mask else ()):
        try:
            told = os.stat(file)
            stamps.append([told.st_size, told.st_mtime_ns])
        except OSError:
            stamps.append([0, 0])
    return stamps


class Gate:
    """Lets work through while what it needs, in bytes, fits; work larger than all there is goes alone."""

    def __init__(self, room: int):
        self.room, self.left, self.changed = room, room, threading.Condition()

    @contextmanager
    def hold(self, needed: int) -> Iterator[None]:
        """Waits for room, and gives it back."""
        needed = min(needed, self.room)
        with self.changed:
            self.changed.wait_for(lambda: self.left >= needed)
            self.left -= needed
        try:
            yield
        finally:
            with self.changed:
                self.left += needed
                self.changed.notify_all()


def room() -> int:
    """Bytes that looking may use: a quarter of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return LIMIT


def survey(
    pairs: Sequence[tuple[Source, Source | None]], memory: Memory | None = None, *, label: str, progress: Progress = Silent()
) -> list[Seen]:
    """What each scan with its mask holds, in the order of `pairs`. label: of the bar."""
    from threadpoolctl import threadpool_limits

    seen: list[Seen | None] = [memory.find(*pair) if memory else None for pair in pairs]
    todo = [i for i, one in enumerate(seen) if one is None]
    gate, workers = Gate(room()), min(8, max(2, os.cpu_count() or 2))

    def work(some: list[int]) -> list[tuple[int, Seen]]:
        done = []
        for i in some:
            size = sum(stamp[0] for stamp in _stamps(*pairs[i]))
            with gate.hold(_UNPACKED * size):
                done.append((i, examine(*pairs[i])))
        return done

    size = max(1, min(16, len(todo) // (4 * workers)))
    chunks = iter([todo[i : i + size] for i in range(0, len(todo), size)])
    one_each = threadpool_limits(1)  # threads of linear algebra within our threads would only wait for each other
    with one_each, progress.track(label, total=len(pairs)) as advance, ThreadPoolExecutor(workers) as pool:
        advance(len(pairs) - len(todo))
        running = {pool.submit(work, some) for _, some in zip(range(2 * workers), chunks, strict=False)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    for i, one in future.result():
                        seen[i] = one
                        advance(1)
                running |= {pool.submit(work, some) for _, some in zip(done, chunks, strict=False)}
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
    if memory is not None and todo:
        memory.keep(pairs, seen)
    return seen
