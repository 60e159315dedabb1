"""What becomes of many thousand damaged files and lists?

Question:  is every one of them read or refused in a sentence, without a crash, a hang, an escape from its folder or memory filled?
Command:   python benchmarks/fuzz_scans.py [--cases 3000] [--out benchmarks/results/fuzz_scans_DATE.csv]
Duration:  a minute or two. The cases are those of tests/scans/mutants.py, tried by tests/scans/trial.py in processes of 2 GiB.
Last printed: see the CSV of the latest date in benchmarks/results.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
FAMILIES = ("nifti", "mgh", "dicom", "pictures", "tiff", "arrays", "itk", "lists")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--cases", type=int, default=3000)
    asked.add_argument("--first", type=int, default=100_000)
    asked.add_argument("--out", type=Path, default=HERE / "results" / f"fuzz_scans_{date.today()}.csv")
    told = asked.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    told.out.parent.mkdir(parents=True, exist_ok=True)
    with open(told.out, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["family", "cases", "read", "refused", "wrong", "memory grown, MiB", "commit", "date"])
        for family in FAMILIES:
            command = [sys.executable, str(HERE.parent / "tests/scans/trial.py"), family]
            command += [str(told.first), str(told.first + told.cases)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if done.returncode:
                row = [family, told.cases, "", "", f"ended: {done.stderr.splitlines()[-1:]}", ""]
            else:
                found = json.loads(done.stdout)
                counts = found["counts"]
                row = [
                    family,
                    told.cases,
                    counts.get("read", 0),
                    counts.get("refused", 0),
                    len(found["wrong"]),
                    found["grown"] >> 20,
                ]
                print(*found["wrong"][:3], sep="\n", end="\n" if found["wrong"] else "")
            print("{:<10} {:>6} cases: {:>6} read, {:>6} refused, {} wrong, memory grew by {} MiB".format(*row))
            table.writerow([*row, commit, date.today()])


if __name__ == "__main__":
    main()
