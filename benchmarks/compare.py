"""Verdicts of `headwater compare`: how often a method is found better than itself, and how often a real gain is found.

Command:  python benchmarks/compare.py simulate [--tables 400] [--run RUN/compare]   (no training; a minute)
          python benchmarks/compare.py table RUN [--name NAME]                       (rows of a finished comparison)
Printed last time: see the newest files benchmarks/results/compare_*.csv

simulate draws tables of scores: test subjects, methods on subjects, trainings, and the rest, each with its variance: ASSUMED,
that with one thing changed at a time, and those of real scores where a finished run is given. Every A/A table holds methods that
are equally good: "false" is the share of tables with any verdict better or worse, "false pairs" the share of pairs. "power" is
the share of tables whose second method, better by two Dice points, is found better.
"""

import argparse
import csv
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headwater import runfolder
from headwater.streams import numpy_stream
from headwater.transfer.verdicts import judge, noise

RESULTS = Path(__file__).parent / "results"
ASSUMED = {"subject": 0.04, "method": 0.014, "seed": 0.006, "rest": 0.02}  # spreads in Dice
PLANTED, SUBJECTS, DELTA = 0.02, 40, 0.01
WORLDS = {  # what each changes of what is assumed
    "assumed": {},
    "steady trainings": {"seed": 0.0},
    "trainings differ most": {"seed": 0.015, "rest": 0.01},
    "skewed subjects": {"skew": 1.0},
    "one method three times as unsteady": {"unsteady": 3.0},
}


def spreads(folder: Path) -> dict[str, float]:
    """Standard deviations of the parts of real scores: of RUN/compare at equal steps, or of RUN/adapt at its most labels, where
    draws stand for trainings (they also differ in their labels, so trainings alone differ by less) and two arms for methods."""
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    if "draw" in rows[0]:
        most = max(rows, key=lambda row: int(row["count"]))["count"]
        kept = [(r["arm"], r["draw"], r) for r in rows if r["count"] == most and r["arm"] in ("scratch", "fine-tuned")]
    else:
        steps = str(runfolder.read_json(folder / "summary.json")["table"][0]["steps"])
        kept = [(r["method"], r["seed"], r) for r in rows if r["steps"] == steps and r["attention"] == "as trained"]
    values: dict[tuple[str, str, str], list[float]] = {}
    for method, seed, row in kept:
        values.setdefault((method, seed, row["subject"]), []).append(float(row["dice"]))
    methods, seeds, who = (sorted({key[i] for key in values}) for i in range(3))
    table = np.array([[[np.nanmean(values[m, s, w]) for w in who] for s in seeds] for m in methods])
    return parts(table[:, :, np.isfinite(table).all((0, 1))])


def parts(table: np.ndarray) -> dict[str, float]:
    """Spreads of (methods, seeds, subjects): subject, method x subject, seed within method, rest."""
    m, r, s = table.shape
    by_seed, by_method = table.mean(2, keepdims=True), table.mean(1, keepdims=True)
    inner = table - by_seed - by_method + table.mean((1, 2), keepdims=True)
    rest = (inner**2).sum() / (m * (r - 1) * (s - 1))
    seed = noise(list(table)).variance - rest / s
    crossed = by_method - by_method.mean(2, keepdims=True) - by_method.mean(0, keepdims=True) + by_method.mean()
    method = (crossed**2).sum() / ((m - 1) * (s - 1)) - rest / r
    subject = table.mean((0, 1)).var(ddof=1) - max(0.0, method) / m - rest / (m * r)
    found = {"subject": subject, "method": method, "seed": seed, "rest": rest}
    return {name: float(max(0.0, value)) ** 0.5 for name, value in found.items()}


def drawn(rng: np.random.Generator, told: Mapping[str, float], methods: int, seeds: int, gain: float) -> dict[str, np.ndarray]:
    """One table of scores; the second method is better by `gain`."""

    def noise_of(*shape: int) -> np.ndarray:
        return rng.exponential(1.0, shape) - 1 if told.get("skew") else rng.standard_normal(shape)

    unsteady = np.ones((methods, 1, 1))
    unsteady[1] = told.get("unsteady", 1.0)
    scores = 0.8 + told["subject"] * noise_of(1, 1, SUBJECTS) + told["method"] * noise_of(methods, 1, SUBJECTS)
    scores = scores + told["seed"] * unsteady * rng.standard_normal((methods, seeds, 1))
    scores = scores + told["rest"] * noise_of(methods, seeds, SUBJECTS)
    scores[1] += gain
    return {f"m{i}": one for i, one in enumerate(scores)}


def simulated(told: Mapping[str, float], methods: int, seeds: int, tables: int, world: str) -> dict[str, object]:
    """Shares of false verdicts and of found gains, over so many tables each."""
    rng = numpy_stream(0, "benchmark", world, methods, seeds)
    pairs = [(f"m{i}", "m0") for i in range(1, methods)]
    clear = ("better", "worse")
    false = [[j.verdict in clear for j in judge(drawn(rng, told, methods, seeds, 0.0), pairs, DELTA)] for _ in range(tables)]
    found = [judge(drawn(rng, told, methods, seeds, PLANTED), pairs, DELTA)[0] for _ in range(tables)]
    width = float(np.median([j.interval.high - j.interval.low for j in found]) / 2)
    return {
        "world": world, "methods": methods, "seeds": seeds, "subjects": SUBJECTS, "tables": tables,
        "false": np.mean([any(one) for one in false]), "false pairs": np.mean(false),
        "power": np.mean([j.verdict == "better" for j in found]), "half width (points)": 100 * width,
        **{f"sd {name}": told[name] for name in ASSUMED},
    }  # fmt: skip


def simulate(tables: int, run: Path | None) -> list[dict[str, object]]:
    """All worlds, two and five methods, two and three trainings."""
    worlds, rows = {name: ASSUMED | changes for name, changes in WORLDS.items()}, []
    if run is not None:
        worlds = {f"measured, {run.parent.name}/{run.name}": spreads(run)} | worlds
    for world, told in worlds.items():
        for methods in (2, 5):
            for seeds in (2, 3):
                rows.append(simulated(told, methods, seeds, tables, world))
                print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    return rows


def table(run: Path) -> list[dict[str, object]]:
    """Rows of a finished comparison: means and costs, with the verdict against the first."""
    summary = runfolder.read_json(run / "compare" / "summary.json")
    pairs = {(p["method"], p["regime"]): p for p in summary["pairs"]}
    keys = ("gain", "low", "high", "verdict")
    return [
        row | {f"against first: {key}": pairs.get((row["method"], row["regime"]), {}).get(key, "") for key in keys}
        for row in summary["table"]
    ]


def main() -> None:
    """Prints, and writes a dated CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("what", choices=("simulate", "table"))
    asked.add_argument("run", type=Path, nargs="?", help="a run folder with a finished comparison")
    asked.add_argument("--run", dest="measured", type=Path, help="RUN/compare or RUN/adapt, whose scores tell the variances")
    asked.add_argument("--tables", type=int, default=400)
    asked.add_argument("--name", default="")
    given = asked.parse_args()
    rows = simulate(given.tables, given.measured) if given.what == "simulate" else table(given.run)
    about = {"machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
    path = RESULTS / f"compare_{given.name or given.what}_{about['date']}.csv"
    with open(path, "w", newline="") as file:
        written = csv.DictWriter(file, [*rows[0], *about], lineterminator="\n")
        written.writeheader()
        rounded = [{k: round(float(v), 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
        written.writerows([row | about for row in rounded])
    print(path)


if __name__ == "__main__":
    main()
