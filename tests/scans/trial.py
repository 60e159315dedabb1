"""Damaged files read one after the other in a process that is kept small and watched: `python trial.py FAMILY FIRST LAST`.

Prints one JSON value: how many cases were read and how many refused, in which words, what went wrong, and by how much memory
grew. It is a process of its own because a fault in a decoder may end it, and a bomb may fill its memory, which is limited.
"""

import faulthandler
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE / "layouts")]

import mutants  # noqa: E402

LIMIT = 64 << 20  # what a file may unpack to here, so that a bomb that gets through is seen and does no harm
ROOM = 2 << 30  # of addresses: protection, not a measure
PATIENCE = 120  # seconds for one case, after which the process ends with where it hung: protection as well
CANARY = b"canary in the coal mine 19540302 "
_TOUCHED = {"open": 0, "os.scandir": 0, "os.listdir": 0, "os.system": None, "subprocess.Popen": None, "pickle.find_class": None}


class Watch:
    """Notes every file and folder that is opened where nothing should be, and every program or pickle that is started."""

    def __init__(self, *allowed: Path):
        self.on, self.found = False, []
        own = [
            *allowed,
            sys.prefix,
            sys.base_prefix,
            HERE.parents[1],
            *filter(None, sys.path),
            Path.home() / ".cache",
            "/proc",
            "/dev",
            "/sys",
            "/usr",
            "/lib",
        ]
        self.allowed = tuple(os.path.realpath(place) for place in own)
        sys.addaudithook(self.hook)

    def hook(self, event: str, given: tuple) -> None:
        """Called by Python for everything it does."""
        if not self.on or event not in _TOUCHED:
            return
        place = given[0] if given else None
        if _TOUCHED[event] is None:
            self.found.append(f"{event} {place!r}")
        elif isinstance(place, (str, bytes, os.PathLike)):
            self.on = False
            real = os.path.realpath(os.fsdecode(place))
            self.on = True
            if not any(real == allowed or real.startswith(f"{allowed}/") for allowed in self.allowed):
                self.found.append(f"{event} outside: {real}")

    @contextmanager
    def case(self) -> Iterator[list[str]]:
        """What was touched meanwhile."""
        self.found, self.on = [], True
        try:
            yield self.found
        finally:
            self.on = False


def limit() -> None:
    """Small limits for this process, and for what a file may unpack to."""
    from headwater.scans import scan

    scan.LIMIT = LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def peak() -> int:
    """Bytes of memory that were held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def wrong_with(scan: object, whole: np.ndarray | None, size: int, packed: float) -> str:
    """What is wrong with a scan that was read, "" if nothing is."""
    array = scan.array
    if array.ndim not in (3, 4) or not array.size or array.dtype not in (np.float32, np.int32):
        return f"is an array {array.shape} of {array.dtype}"
    if len(scan.spacing) != scan.ndim or not all(1e-9 < step < 1e7 for step in scan.spacing):
        return f"has a spacing of {scan.spacing}"
    if scan.affine.shape != (4, 4) or not np.isfinite(scan.affine).all():
        return "has an affine that is not finite"
    if array.size > max(1, size) * packed:
        return f"has {array.size} values in a file of {size} bytes"
    if not np.isfinite(array).any():
        return "has no finite value"
    if whole is not None and (array.shape != whole.shape or not np.array_equal(array, whole, equal_nan=True)):
        return "was read as something else though its damage shows"
    return ""


def judged(seen: object) -> str:
    """What is wrong with what `examine` made of a file."""
    json.dumps(seen.plain(), allow_nan=False)
    if seen.facts is None and not seen.faults:
        return "was examined without facts and without a fault"
    for _, fault, remedy, _ in seen.faults:
        if "\n" in fault + remedy or not fault or not remedy or len(fault) > 300:
            return f"has a fault that is no sentence: {fault!r}"
        if "MemoryError" in fault or "RecursionError" in fault:
            return f"ran out of room: {fault}"
        if CANARY.decode()[:6] in fault:
            return "tells what is in another file"
    return ""


def files(family: str, first: int, last: int, place: Path) -> dict:
    """Cases of one family of formats."""
    from headwater.scans import readers
    from headwater.scans.examine import examine
    from headwater.scans.formats import series
    from headwater.scans.scan import UnreadableError

    root = place / "root"
    (place / "canary.raw").write_bytes(CANARY * 100)
    watch, good = Watch(root), {}
    for which, kind in enumerate(mutants.kinds(family)):
        source = _laid(root, kind.files, kind.name, kind.all)
        form = readers.read_labels if kind.name.startswith("seg") else readers.read
        good[which] = form(source).array
        examine(source, None)
    for other in mutants.FAMILIES:
        mutants.kinds(other) if other != "itk" else None
    counts, words, wrong, start = Counter(), Counter(), [], peak()
    for number in range(first, last):
        one = mutants.mutant(family, number, good)
        source = _laid(root, one.files, one.name, one.all)
        size = sum(map(len, one.files.values()))
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        bad = ""
        sys.stderr.write(f"{family} {number}\n")
        with watch.case() as touched:
            try:
                if family == "dicom":
                    found, faults = series.group(source.files)
                    bad = "" if found or faults else "was neither grouped nor set aside"
                as_mask = one.name.startswith("seg") or number % 5 == 0
                scan = (readers.read_labels if as_mask else readers.read)(source)
                bad = bad or wrong_with(scan, one.whole, size, one.packed)
                bad = bad or judged(examine(source, source if as_mask else None))
                counts["read"] += 1
            except UnreadableError as error:
                counts["refused"] += 1
                words[f"{one.how}: {re.sub(r'[0-9]+', '#', error.fault)[:90]}"] += 1
                bad = bad or judged(examine(source, None))
            except Exception:  # anything else is what is looked for
                bad = traceback.format_exc(limit=-4)
        bad = bad or "; ".join(touched)
        counts[one.how] += 1
        if bad:
            wrong.append(f"{family} {number} ({one.name}, {one.how}): {bad}")
            keep = os.environ.get("KEEP_WRONG")
            shutil.copytree(root, Path(keep, f"{family}{number}"), dirs_exist_ok=True) if keep else None
    faulthandler.cancel_dump_traceback_later()
    return {"counts": counts, "words": dict(words.most_common(40)), "wrong": wrong, "grown": peak() - start}


def _laid(root: Path, content: dict[str, bytes], name: str, together: bool) -> object:
    """Files written into an empty folder, as the source that names them."""
    from headwater.scans.scan import Source

    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for each, data in content.items():
        (root / each).write_bytes(data)
    return Source(tuple(sorted(root / each for each in content))) if together else Source((root / name,))


LISTS = {
    "nnunet_regions_and_ignore": "dataset.json", "nnunet_that_lists_its_cases": "dataset.json", "decathlon": "dataset.json",
    "monai_datalist": "list.json", "monai_classes": "datalist.json", "nnssl": "pretrain_data.json", "table": "scans.csv",
    "bids": "participants.tsv",
}  # fmt: skip


def lists(first: int, last: int, place: Path) -> dict:
    """Cases of damaged lists: understood, and every eighth looked at as well."""
    from corpus import CASES, volume

    from headwater.errors import InputError
    from headwater.scans import passport
    from headwater.scans.layouts import understand

    outside = volume(place / "outside/canary.nii.gz", (3, 4, 5))
    roots, files, texts = {}, {}, {}
    for case in CASES:
        if case.name in LISTS:
            roots[case.name] = place / case.name / "given"
            roots[case.name].mkdir(parents=True)
            case.write(roots[case.name])
            files[case.name] = roots[case.name] / LISTS[case.name]
            texts[case.name] = files[case.name].read_bytes()
    passport.look(roots["decathlon"])
    watch = Watch(*roots.values())
    counts, words, wrong, start = Counter(), Counter(), [], peak()
    for number in range(first, last):
        name = list(LISTS)[number % len(LISTS)]
        rng = np.random.default_rng([7, number])
        files[name].write_bytes(_list(texts[name], name, rng, str(outside)))
        root = roots[name] if rng.random() < 0.7 else files[name]
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        bad = ""
        sys.stderr.write(f"lists {number}\n")
        with watch.case() as touched:
            try:
                found = understand(root, classes=bool(number % 3 == 0))
                sources = [s for item in found.items for s in (item.source, item.mask) if s]
                out = [p for s in sources for p in s.files if not p.resolve().is_relative_to(roots[name].resolve())]
                bad = f"leads out to {out[0]}" if out else ""
                json.dumps([found.rule, *found.notes, *(str(f) for f in found.faults), *(i.name for i in found.items)]).encode()
                if number % 8 < 2 and not bad:
                    seen = passport.look(root)
                    json.dumps(seen.plain(), allow_nan=False)
                    bad = "holds the canary" if any(e.shape == (3, 4, 5) for e in seen.entries) else ""
                    counts["looked"] += 1
                counts["read"] += 1
            except InputError as error:
                counts["refused"] += 1
                words[re.sub(r"[0-9]+", "#", str(error).replace(str(place), ""))[:90]] += 1
                bad = "is told in more than a sentence" if "\n" in str(error) else ""
            except Exception:  # anything else is what is looked for
                bad = traceback.format_exc(limit=-4)
        touched = [t for t in touched if not t.endswith(f"{name}/dataset.json")]  # names of structures stand above the images
        bad = bad or "; ".join(touched)
        if bad:
            wrong.append(f"lists {number} ({name}): {bad}")
            keep = os.environ.get("KEEP_WRONG")
            shutil.copy(files[name], Path(keep, f"lists{number}_{name}")) if keep else None
    faulthandler.cancel_dump_traceback_later()
    return {"counts": counts, "words": dict(words.most_common(40)), "wrong": wrong, "grown": peak() - start}


def _list(data: bytes, name: str, rng: np.random.Generator, outside: str) -> bytes:
    if rng.random() < 0.6 and LISTS[name].endswith(".json"):
        return json.dumps(mutants.list_changed(json.loads(data), rng, outside)).encode()
    if rng.random() < 0.5 and not LISTS[name].endswith(".json"):
        lines = data.decode("utf-8-sig").splitlines()
        i, mark = int(rng.integers(0, len(lines))), ";" if ";" in lines[0] else "\t"
        cells = lines[i].split(mark)
        odd = (outside, "../../outside/canary.nii.gz", "", '"', "\0", "x" * 200_000, "scans", ".", "/", "\ufffe", "image")
        cells[int(rng.integers(0, len(cells)))] = odd[int(rng.integers(0, len(odd)))]
        lines[i] = mark.join(cells)
        return "\n".join(lines).encode()
    return (mutants.cut_off if rng.random() < 0.2 else mutants.bytes_changed)(data, rng)[0]


def main(told: list[str]) -> None:
    """One range of cases, in folders of their own."""
    family, first, last = told[0], int(told[1]), int(told[2])
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as place:
        os.environ["HOME"] = str(Path(place, "home"))
        Path(place, "home").mkdir()
        limit()
        work: Callable[..., dict] = lists if family == "lists" else lambda *rest: files(family, *rest)
        result = work(first, last, Path(place).resolve())
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
