"""Is pretraining worth it at 1, 2, 4, 8 and 16 labels? The label-count table of a real run, as CSV.

Command:  python benchmarks/label_counts.py SCANS MASKS [--test FILE] [--budget MINUTES] [--name NAME]
Duration: the budget (30 minutes by default) on two cores.
Printed last time: see the newest file in benchmarks/results/label_counts_*.csv
"""

import argparse
import csv
import time
from pathlib import Path

from headwater import api, runfolder
from headwater.cli import Terminal

RESULTS = Path(__file__).parent / "results"


def rows(run: Path) -> list[dict[str, object]]:
    """One row per label count and arm of a finished run: mean Dice, its interval, the paired gain over scratch and its interval."""
    summary, told = runfolder.read_json(run / "adapt" / "summary.json"), runfolder.read_json(run / "provenance.json")
    gains = {(g["count"], g["arm"]): g for g in summary["gains"]}
    about = {
        "commit": told["commit"][:12],
        "machine": f"{told['machine']['cores']} cores {told['machine']['accelerator'] or told['machine']['system']}",
        "torch": told["versions"]["torch"],
        "minutes": round(told["minutes"], 1),
        "peak_memory_gib": round(told["peak_memory_gib"], 2),
        "draws": summary["draws"],
        "steps": summary["steps"],
        "test_subjects": summary["test_subjects"],
    }
    found = []
    for row in summary["table"]:
        gain = gains.get((row["count"], row["arm"]), {})
        numbers = {"dice": row["mean"], "low": row["low"], "high": row["high"]}
        numbers |= {f"dice {name}": value for name, value in row["per_structure"].items()}
        numbers |= {f"gain{end}": gain.get(key) for end, key in (("", "gain"), (" low", "low"), (" high", "high"))}
        rounded = {key: "" if value is None else f"{value:.4f}" for key, value in numbers.items()}
        found.append({"labels": row["count"], "arm": row["arm"], **rounded, **about})
    return found


def main() -> None:
    """Runs, or reads a finished run, and writes the dated CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("scans", type=Path, help="folder of scans, or a finished run folder")
    asked.add_argument("masks", type=Path, nargs="?")
    asked.add_argument("--test", type=Path)
    asked.add_argument("--budget", type=float)
    asked.add_argument("--name", default="scans")
    given = asked.parse_args()
    run = given.scans
    if not (run / "adapt" / "summary.json").exists():
        run = api.run(api.Request(given.scans, given.masks, test=given.test, budget=given.budget), Terminal()).parent
    found = rows(run)
    path = RESULTS / f"label_counts_{given.name}_{time.strftime('%Y-%m-%d')}.csv"
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(found[0]))
        table.writeheader()
        table.writerows(found)
    print(path.read_text())


if __name__ == "__main__":
    main()
