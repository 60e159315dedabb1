"""Does the watch name what is wrong with a run, how soon, and how often does it accuse a healthy one?

Question:  Runs with a failure planted in them, trained for real: is the cause named, and how long after the onset? Healthy runs
           of every objective: how many are ever called anything but healthy, weak or unknown?
Command:   python benchmarks/planted.py [DATA] --out FOLDER [--seeds 0-6] [--only NAME ...] [--minutes N] [--csv FILE]
           [--reference FILE]
           DATA: a folder that may hold hippocampus/ and mednist/. FOLDER keeps the looks of each run; what is there is not
           trained again, so a stopped call goes on where it was, and verdicts are always made anew from the looks.
Duration:  three to fifteen seconds of one core a run, about twenty-five minutes for all of seven seeds. Judging: seconds.
Method:    The runs are those of planted_runs.py: pictures of 48 x 48, a ViT of 48 channels and 4 layers or a small residual
           encoder, 100 steps (mae and dino 200, adversarial 150) of the product's own step. Looks: observe.look at the student
           through 64 images, before the first step and LOOKS times over the run. Of a failing run the training ends AFTER its
           onset. Runs that are equal up to the onset share that part.
           Every prefix of the looks is judged. A cause counts as named if it is the verdict's at the last look. Delay: from the
           onset to the first look from which the right cause is named, as a share of the run's steps. A false alarm is a healthy
           run with a cause or with the state collapsed, random or miswired at any look.
           Rules and thresholds of headwater.observe.verdict were set on seeds 0 and 1; figures that count are of the others.
Printed last time: benchmarks/results/planted_*.csv, docs/guide/watch.md.
"""

import argparse
import copy
import csv
import json
import math
import os
import platform
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import planted_runs as runs
import torch
from headwater.objectives import OBJECTIVES
from headwater.observe.look import Start, look
from headwater.observe.pairs import Probe, probe_views
from headwater.observe.verdict import TRAINED, verdict
from headwater.runfolder import write_text

RESULTS = Path(__file__).parent / "results"
LOOKS, HEALTHY_LOOKS = 20, 10  # over a whole run
AFTER = 0.4  # of the steps, from the onset on
CALIBRATED = 2  # seeds that rules were set on
ALARMS = ("collapsed", "random", "miswired")


# looks ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Eye:
    """Looks at one run, and what they saw."""

    probe: Probe
    told: dict[str, Any]
    start: Start | None
    seen: list[dict[str, Any]]

    def see(self, run: runs.Run) -> None:
        """One more look."""
        now = {"step": run.done, "teacher": run.teacher} | ({"loss": run.loss} if run.done else {})
        found, self.start = look(run.student, self.probe, start=self.start, **now, **self.told)
        self.seen.append({**found.plain(), "of": run.steps})


def eye_of(run: runs.Run) -> Eye:
    """For the first images of a run; groups and the number of prototypes are told where they are known."""
    pictures = run.pictures
    shown = pictures.arrays[: runs.SHOWN]
    probe = probe_views(shown, run.settings.views.crop, run.student.backbone.stride, seed=0)
    told: dict[str, Any] = {}
    if pictures.groups:
        told["groups"] = torch.tensor(pictures.groups[: len(shown)])
    if count := getattr(run.objective, "prototypes", 0):
        told["prototypes"] = count
    return Eye(probe, told, None, [])


def watched(run: runs.Run, eye: Eye, looks: int, kind: runs.Kind | None, after: float = AFTER) -> None:
    """Trains on from where a run is, with looks."""
    for _ in runs.going(run, looks, kind, after):
        eye.see(run)


def trunk(key: tuple, run: runs.Run, onset: int, shared: dict) -> tuple[runs.Run, Eye]:
    """A run up to its onset, with its looks; trained once for all that are equal up to there. Only the newest are kept."""
    if key not in shared:
        for old in [k for k in shared if k[0] != key[0]]:
            del shared[old]
        eye = eye_of(run)
        eye.see(run)
        while run.done < onset:
            run.step()
            if runs.due(run, LOOKS):
                eye.see(run)
        shared[key] = run, eye
    return copy.deepcopy(shared[key])


def plant(name: str, pictures: runs.Pictures, seed: int, shared: dict) -> tuple[list[dict], int]:
    """Looks at a failing run, and the step of the onset."""
    kind, run = runs.KINDS[name], runs.planted(name, pictures, seed)
    onset = runs.onset_of(kind, run)
    if onset == 0:
        eye = eye_of(run)
    else:
        key = (seed, kind.objective, onset, str(kind.style), kind.depth, kind.scene, kind.rate, str(kind.options))
        run, eye = trunk(key, run, onset, shared)
    watched(run, eye, LOOKS, kind)
    return eye.seen, onset


def grow(name: str, pictures: runs.Pictures, backbone: str, seed: int) -> list[dict]:
    """Looks at a healthy run."""
    run = runs.healthy(name, pictures, backbone, seed)
    eye = eye_of(run)
    watched(run, eye, HEALTHY_LOOKS, None)
    return eye.seen


BACKBONES = ("resenc", "vit", "plain")


def planned(
    sets: dict[str, runs.Pictures], seeds: Sequence[int], only: Sequence[str]
) -> Iterator[tuple[str, str, str, str, int]]:
    """(planted or healthy, name, data, backbone, seed), seed by seed. Healthy runs take phantoms and the real sets in turn."""
    names, real = list(sets), list(sets)[1:]
    for seed in seeds:
        for name in runs.KINDS:
            if not only or name in only:
                yield "planted", name, "phantoms", runs.KINDS[name].backbone, seed
        data = real[seed // 2 % len(real)] if seed % 2 and real else "phantoms"
        for place, name in enumerate(OBJECTIVES):
            if not only or name in only:
                turn = (seed + place + names.index(data)) % len(BACKBONES)
                yield "healthy", name, data, "resenc" if name == "dino" else BACKBONES[turn], seed


def place_of(out: Path, what: str, name: str, data: str, backbone: str, seed: int) -> Path:
    """Where the looks of a run are kept."""
    return out / f"{what}-{name}-{data}-{backbone}-s{seed}.jsonl"


def saved(out: Path, what: str, name: str, data: str, backbone: str, seed: int, seen: list[dict], onset: int | None) -> Path:
    """The looks of a run in its file, a line each."""
    return write_text(
        place_of(out, what, name, data, backbone, seed), "".join(json.dumps({**one, "onset": onset}) + "\n" for one in seen)
    )


def train(sets: dict[str, runs.Pictures], out: Path, seeds: Sequence[int], only: Sequence[str], until: float) -> None:
    """Trains what is missing, until the time is up."""
    shared: dict = {}
    for what, name, data, backbone, seed in planned(sets, seeds, only):
        path = place_of(out, what, name, data, backbone, seed)
        if path.exists():
            continue
        if time.monotonic() > until:
            print("time is up", flush=True)
            return
        began = time.process_time()
        if what == "planted":
            seen, onset = plant(name, sets[data], seed, shared)
        else:
            seen, onset = grow(name, sets[data], backbone, seed), None
        saved(out, what, name, data, backbone, seed, seen, onset)
        print(f"{path.name}: {len(seen)} looks, {time.process_time() - began:.1f} s", flush=True)


# verdicts ---------------------------------------------------------------------------------------------------------------------


def judge(path: Path) -> dict[str, Any]:
    """A row: what a run was, what it is called at its end, and what it was called on the way."""
    what, name, data, backbone, seed = path.stem.split("-")
    looks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    objective = name if what == "healthy" else runs.KINDS[name].objective
    said = [verdict(looks[: n + 1], TRAINED.get(objective, ("pooled", "dense"))) for n in range(len(looks))]
    row = {"what": what, "kind": name, "data": data, "backbone": backbone, "seed": int(seed[1:]), "looks": len(looks)}
    row |= {"state": said[-1].state, "cause": said[-1].cause, "sentence": said[-1].sentence}
    steps, onset = looks[-1]["of"], looks[-1]["onset"]
    if what == "healthy":
        alarms = [(look["step"], one) for look, one in zip(looks, said, strict=True) if one.cause or one.state in ALARMS]
        row["alarms"] = len(alarms)
        row["alarm"] = f"{alarms[0][1].state} {alarms[0][1].cause}".strip() if alarms else ""
        row["at"] = alarms[0][0] / steps if alarms else math.nan
        return row
    right = [one.cause in runs.KINDS[name].cause for one in said]
    first = next((n for n, _ in enumerate(right) if all(right[n:])), None)
    early = [one.cause for look, one in zip(looks, said, strict=True) if look["step"] <= onset and onset and one.cause]
    row["named"] = int(right[-1])
    row["delay"] = math.nan if first is None else max(0, looks[first]["step"] - onset) / steps
    row["alarm"] = next(
        (
            f"{one.state} {one.cause}"
            for look, one in zip(looks, said, strict=True)
            if look["step"] > onset and (one.cause or one.state in ALARMS)
        ),
        "",
    )
    row["early"] = " ".join(dict.fromkeys(early))
    return row


def confusion(rows: list[dict[str, Any]]) -> str:
    """Kinds against named causes, counts over seeds (Markdown); right ones in bold."""
    rows = [row for row in rows if row["what"] == "planted"]
    named = Counter((row["kind"], row["cause"] or row["state"]) for row in rows)
    lines = ["| Planted | what is wrong | runs | named | right | delay |", "|---|---|---|---|---|---|"]
    for kind, about in runs.KINDS.items():
        mine = [row for row in rows if row["kind"] == kind]
        if not mine:
            continue
        said = [(cause, count) for (k, cause), count in named.most_common() if k == kind]
        cells = ", ".join(f"**{cause} {count}**" if cause in about.cause else f"{cause} {count}" for cause, count in said)
        delays = [row["delay"] for row in mine if row["named"]]
        delay = f"{np.median(delays):.0%}, at most {max(delays):.0%}" if delays else ""
        lines.append(f"| {kind} | {about.wrong} | {len(mine)} | {cells} | {sum(r['named'] for r in mine)} | {delay} |")
    return "\n".join(lines)


def accused(rows: list[dict[str, Any]]) -> str:
    """Healthy runs that were ever accused, per objective and data (Markdown): runs with an alarm of all runs."""
    rows = [row for row in rows if row["what"] == "healthy"]
    sets = list(dict.fromkeys(row["data"] for row in rows))
    lines = [f"| Objective | {' | '.join(sets)} | accused of | at the end |", "|---" * (len(sets) + 3) + "|"]
    for name in [n for n in OBJECTIVES if any(row["kind"] == n for row in rows)]:
        mine = [row for row in rows if row["kind"] == name]
        cells = []
        for data in sets:
            here = [row for row in mine if row["data"] == data]
            cells.append(f"{sum(bool(row['alarms']) for row in here)} of {len(here)}" if here else "")
        of = ", ".join(f"{a} {n}" for a, n in Counter(row["alarm"] for row in mine if row["alarm"]).items())
        end = ", ".join(f"{s} {n}" for s, n in Counter(row["state"] for row in mine).most_common())
        lines.append(f"| `{name}` | {' | '.join(cells)} | {of} | {end} |")
    return "\n".join(lines)


def told(rows: list[dict[str, Any]], name: str) -> str:
    """Both tables and the sums of some seeds, as text."""
    planted, healthy = ([row for row in rows if row["what"] == what] for what in ("planted", "healthy"))
    soon = [row for row in planted if row["named"] and row["delay"] <= 0.1 + 1e-9]
    ended = [row for row in healthy if row["cause"] or row["state"] in ALARMS]
    lines = [f"## {name}", "", confusion(rows), "", accused(rows), ""]
    named, early = sum(row["named"] for row in planted), sum(bool(row["early"]) for row in planted)
    ever = sum(bool(row["alarms"]) for row in healthy)
    lines.append(
        f"Named rightly: {named} of {len(planted)}, {len(soon)} of them within a tenth of training after the onset; {early} were "
        f"given a cause before it. Accused: {ever} of {len(healthy)} healthy runs at some look, {len(ended)} at the end."
    )
    return "\n".join(lines)


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """All verdicts, with commit, machine and day."""
    root = Path(__file__).parents[1]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    about = {"commit": commit, "day": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    names = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*names, *about], restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in (row | about).items()})


# reference --------------------------------------------------------------------------------------------------------------------

SHARES = [round(0.1 * k, 1) for k in range(11)]
LESS, OVER = "less its own start", "over its own start"
RISING = ("similarity", "locality", "variance.image", "variance.position", "entropy.low", "entropy.high")
CURVES = {f"{level}.{key}": OVER for level in ("pooled", "dense") for key in ("rank", "spread")}
CURVES |= {"pooled.reliability": LESS, "dense.reliability": LESS, "heads.effective": OVER, "rankme": OVER}
CURVES |= dict.fromkeys(RISING, LESS)


def curve(looks: list[dict], name: str) -> list[float]:
    """A number at each of SHARES of a run, beside its own start; nan where it cannot be had."""
    level, _, key = name.partition(".")
    found = [
        one.get(level, {}).get(key) if level in ("pooled", "dense") else one["panel"].get(name, {}).get("value") for one in looks
    ]
    values = np.array([math.nan if v is None else v for v in found], float)
    values = values - values[0] if CURVES[name] == LESS else values / values[0] if values[0] else values * math.nan
    return np.interp(SHARES, [one["step"] / one["of"] for one in looks], values).tolist()


def reference(out: Path) -> dict[str, Any]:
    """Healthy bands: 10th, 50th and 90th percentile of each curve, of each objective and of all."""
    curves: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(out.glob("healthy-*.jsonl")):
        looks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name in CURVES:
            found = curve(looks, name)
            if np.isfinite(found).all():
                for objective in (path.stem.split("-")[1], "every objective"):
                    curves[objective][name].append(found)
    bands: dict[str, dict[str, Any]] = {}
    for objective in [*OBJECTIVES, "every objective"]:
        bands[objective] = {}
        for name, some in curves[objective].items():
            if len(some) > 1:
                parts = np.percentile(np.array(some), (10, 50, 90), axis=0)
                rounded = ([float(f"{v:.3g}") for v in part] for part in parts)
                bands[objective][name] = {**dict(zip(("low", "middle", "high"), rounded, strict=True)), "runs": len(some)}
    about = "Healthy runs of benchmarks/planted.py: small networks on small pictures, 100 to 200 steps. Percentiles 10, 50, 90."
    return {"about": about, "shares": SHARES, "how": CURVES, "bands": bands}


def main() -> None:
    """Trains what is missing, judges all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0-6")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is begun after these; 0: only judge")
    parser.add_argument("--csv", type=Path, default=None)
    parser.add_argument("--reference", type=Path, default=None, help="write the healthy bands to this file")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.minutes > 0:
        torch.set_num_threads(1)
        train(runs.pictures_in(asked.data), asked.out, seeds, asked.only, time.monotonic() + 60 * asked.minutes)
    rows = [judge(path) for path in sorted(asked.out.glob("*-s*.jsonl"))]
    rows = [row for row in rows if row["seed"] in seeds and (not asked.only or row["kind"] in asked.only)]
    by = defaultdict(list)
    for row in rows:
        by["Seeds that rules were set on" if row["seed"] < CALIBRATED else "Seeds that count"].append(row)
    print("\n\n".join(told(some, name) for name, some in sorted(by.items())))
    if asked.reference:
        write_text(asked.reference, json.dumps(reference(asked.out), separators=(",", ":")) + "\n")
    if asked.csv:
        write_rows(rows, asked.csv)


if __name__ == "__main__":
    main()
