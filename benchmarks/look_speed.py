"""How fast is `headwater look` beside a bare decode of the same files?

Question:  does a look, which reads, checks, measures and fingerprints every scan, keep at least 80 % of the speed of nibabel that
           only decodes them, and is a second look at an unchanged folder done in under two seconds?
Command:   python benchmarks/look_speed.py FOLDER_OF_NIFTI [--repeats 7] [--out benchmarks/results/look_speed_DATE.csv]
Duration:  about a minute for 200 hippocampus volumes.
Two ways to ask: whole processes, start and imports and all; and inside a process, once everything is imported: what decoding the files
takes against `survey`, which is all that a look does with the files themselves (catalogue and search for copies come on top, once).
All are taken in turn; nibabel decodes (`get_fdata`, and the mean, so that every voxel is touched) in one process and
in two. Last printed: see the CSV of the latest date in benchmarks/results.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

BARE = """
import sys, multiprocessing
from pathlib import Path
import nibabel

def decode(path):
    return float(nibabel.load(path).get_fdata().mean())

if __name__ == "__main__":
    paths = sorted(str(p) for p in Path(sys.argv[1]).rglob("*.nii*"))
    count = int(sys.argv[2])
    if count == 1:
        total = sum(map(decode, paths))
    else:
        with multiprocessing.Pool(count) as pool:
            total = sum(pool.imap_unordered(decode, paths, chunksize=8))
    print(len(paths), total)
"""


INSIDE = """
import sys, time
from pathlib import Path
import nibabel
from headwater.scans.layouts import understand
from headwater.scans.survey import survey

root = Path(sys.argv[1])
paths = sorted(str(p) for p in root.rglob("*.nii*"))
pairs = [(item.source, None) for item in understand(root).items]
nibabel.load(paths[0]).get_fdata(), survey(pairs[:4], None, label="")
started = time.perf_counter()
sum(float(nibabel.load(path).get_fdata().mean()) for path in paths)
bare = time.perf_counter() - started
started = time.perf_counter()
survey(pairs, None, label="")
print(bare, time.perf_counter() - started)
"""


def seconds(command: list[str], home: Path) -> float:
    """Wall clock of one whole process with a home of its own."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "HOME": str(home)})
    return time.perf_counter() - started


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--repeats", type=int, default=7)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"look_speed_{date.today()}.csv")
    told = asked.parse_args()
    with tempfile.TemporaryDirectory() as place:
        script = Path(place, "bare.py")
        script.write_text(BARE)
        inside = Path(place, "inside.py")
        inside.write_text(INSIDE)
        look = [sys.executable, "-m", "headwater", "look", str(told.folder)]
        took: dict[str, list[float]] = {"nibabel, 1 process": [], "nibabel, 2 processes": [], "first look": [], "second look": []}
        took |= {"decode, in process": [], "survey, in process": []}
        for turn in range(told.repeats + 1):  # the first warms the page cache and does not count
            home = Path(place, f"home{turn}")
            home.mkdir()
            for name, command in (
                ("nibabel, 1 process", [sys.executable, str(script), str(told.folder), "1"]),
                ("first look", look),
                ("second look", look),
                ("nibabel, 2 processes", [sys.executable, str(script), str(told.folder), "2"]),
            ):
                spent = seconds(command, home)
                if turn:
                    took[name].append(spent)
            command = [sys.executable, str(inside), str(told.folder)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "HOME": str(home)})
            for name, spent in zip(("decode, in process", "survey, in process"), map(float, done.stdout.split()), strict=True):
                took[name] += [spent] if turn else []
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    files = len(list(told.folder.rglob("*.nii*")))
    ours = {True: statistics.median(took["survey, in process"]), False: statistics.median(took["first look"])}
    told.out.parent.mkdir(parents=True, exist_ok=True)
    with open(told.out, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            [
                "what",
                "median_s",
                "min_s",
                "max_s",
                "speed of look relative to it",
                "files",
                "repeats",
                "commit",
                "machine",
                "date",
            ]
        )
        for name, values in took.items():
            middle = statistics.median(values)
            ratio = middle / ours["in process" in name]
            row = [name, f"{middle:.3f}", f"{min(values):.3f}", f"{max(values):.3f}", f"{ratio:.2f}"]
            table.writerow([*row, files, told.repeats, commit, f"{platform.machine()} {os.cpu_count()} cores", date.today()])
            print(f"{name:<22} {middle:6.2f} s  ({min(values):.2f} to {max(values):.2f})   the look is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
