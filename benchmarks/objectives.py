"""Which way of learning without labels gives the better features, for the same minutes on the same scans?

Question:  All objectives of headwater.objectives under one budget: how much better than the same network before training can a
           frozen probe read which structure a token lies on? Do two views of a scan agree more, and in how many directions? What
           does a step cost, and does it wait for its views?
Command:   python benchmarks/objectives.py [DATA] [--seconds 20] [--steps N] [--seeds 1] [--threads 2] [--only NAME ...] [--quick]
           [--out FOLDER]
           On phantoms (160 of 32 x 32 x 32 voxels, made on the spot) and, where given, on DATA, a folder with images/, labels/
           and perhaps test.txt (hippocampus). --steps: equally many steps for all, in place of equally many seconds.
Duration:  about 12 minutes on two idle cores with DATA, half of that without; --quick: two minutes, and says nothing.
Method:    Headwater's own run: look, prepare, the recipe of each objective (it sets batch, momentum, prototypes, masks), and
           train.loop.fit with the watch before and after. How many steps --seconds buy is found from a few timed steps. All
           objectives of a seed start from the same backbone. distil: its teacher is what mae made in the same run, so that it has
           had two budgets in all.
           Probe: which structure holds most of a token's cell (background is one), by logistic regression on frozen tokens of
           8 labelled scans, mean of 3 draws of them; balanced accuracy per held-out subject. gain: minus the same backbone
           before training; beside_ae: minus plain autoencoding, the control. 95 % intervals over subjects, paired
           (headwater.transfer.scores.interval), and over seeds where there are several. With one seed nothing is said about
           another draw of the first weights.
           Nulls: the untrained backbone and the voxels themselves. reliability, rank, null95 (chance): headwater.observe,
           hard view pairs of scans of the training part. waiting: share of the steps' time. loss: means of the first and of
           the last tenth; losses of different objectives cannot be compared.
Printed last time: the rows of benchmarks/results/objectives_*.csv.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from headwater import recipes, runfolder
from headwater.backbones.patches import patchify
from headwater.device import machine
from headwater.objectives import OBJECTIVES
from headwater.observe.look import measure
from headwater.observe.pairs import Pixels, middle, probe_views
from headwater.observe.running import chosen_from
from headwater.scans import phantom
from headwater.scans.passport import look
from headwater.scans.prepare import prepare
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.train import loop
from headwater.transfer.adapt import by_subject
from headwater.transfer.scores import interval
from torch import Tensor, nn

RESULTS, FIGURES = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs" / "guide" / "figures"
PHANTOMS, HELD, SIDE = 160, 64, 32  # phantoms, how many of them are held out, and their side
LARGEST = 48  # the longest side of what is probed
POOL, LEARNT, DRAWS, ROWS = 24, 8, 3, 1000  # labelled scans at hand, those a probe learns from, draws, tokens per structure
TIMED = 6  # steps, the first two of which do not count
NULLS = ("untrained", "pixels")
LEVELS, KEPT = ("dense", "pooled"), ("reliability", "null95", "error", "rank", "rank_null95", "spread")


@dataclass(frozen=True)
class Task:
    """A data set as prepared, and the probe's images (n, C, *S), a structure per token (n, N), and which are held out."""

    name: str
    store: Store
    images: Tensor
    answers: np.ndarray
    test: np.ndarray  # (n,) bool
    subjects: list[str]  # of the held-out ones

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in np.median([self.store.shape(i) for i in range(len(self.store))], axis=0))


def task_of(name: str, images: Path, labels: Path, test: Any, folder: Path, quick: bool) -> Task:
    """Looked at and prepared; the middle of each labelled scan is probed. test: as passport.look has it."""
    store = prepare(look(images, labels, test=test), folder)
    patch, labelled = Settings().backbone.patch, set(store.labelled)
    median = np.median([store.shape(i) for i in range(len(store))], axis=0)
    side = tuple(min(LARGEST, patch * int(n // patch)) for n in median)
    held, taught = ([i for i in store.split(part) if i in labelled] for part in ("test", "train"))
    taught = taught[:: max(1, len(taught) // (LEARNT if quick else POOL))]
    held = held[:: 4 if quick and len(held) > 20 else 1]
    probed = [*taught, *held]
    shown = torch.stack([torch.from_numpy(middle(store.image(i), side)) for i in probed])
    masks = [middle(store.label(i)[None], side) for i in probed]
    share = torch.stack([torch.from_numpy(mask == k) for mask in masks for k in range(store.classes)]).float()
    answers = patchify(share, patch).mean(-1).unflatten(0, (len(probed), -1)).argmax(1)  # n K N -> n N
    names = [store.subjects[i] for i in held]
    return Task(name, store, shown, answers.numpy(), np.array([False] * len(taught) + [True] * len(held)), names)


def settings_for(task: Task, objective: str, seed: int, steps: int, **options: str) -> Settings:
    """The recipe of an objective with its steps; the watch looks before and after."""
    images = len(task.store.split("train"))
    told = recipes.default(task.shape, bool(machine().accelerator), objective, images)
    batch = min(told.pretrain.batch, max(2, images))  # as the product does
    pretrain = replace(told.pretrain, batch=batch, steps=steps, watch=1, save=max(1, steps))
    return replace(told, seed=seed, pretrain=pretrain, objective={**told.objective, **options})


def seconds_per_step(task: Task, settings: Settings, folder: Path) -> float:
    """Of a few steps, views made ahead as in a run."""
    short = replace(settings, pretrain=replace(settings.pretrain, steps=TIMED, watch=0))
    loop.fit(task.store, short, runfolder.private_folder(folder))
    return statistics.median(e["seconds"] for e in steps_of(folder)[2:])


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The events of a run's steps."""
    return [e for e in runfolder.read_events(run) if e.get("event") == "step"]


@torch.inference_mode()
def tokens_of(backbone: nn.Module, images: Tensor) -> np.ndarray:
    """Tokens (n, N, D) of all images."""
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    return torch.cat([backbone.eval()(batch.to(device)).tokens.float().cpu() for batch in images.split(8)]).numpy()


def probe(task: Task, tokens: np.ndarray, seed: int) -> np.ndarray:
    """Balanced accuracy per held-out subject, of the structures it has."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng, taught, truth = numpy_stream(seed, "probe"), np.flatnonzero(~task.test), task.answers[task.test]
    held, scans = tokens[task.test].reshape(-1, tokens.shape[-1]), np.zeros(len(truth))
    for _ in range(DRAWS):
        chosen = rng.choice(taught, min(LEARNT, len(taught)), replace=False)
        x, y = tokens[chosen].reshape(-1, tokens.shape[-1]), task.answers[chosen].ravel()
        places = [np.flatnonzero(y == k) for k in np.unique(y)]
        some = np.concatenate([rng.choice(at, min(ROWS, len(at)), replace=False) for at in places])
        reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300))
        found = reader.fit(x[some], y[some]).predict(held).reshape(truth.shape)
        right = [np.mean([(f[t == k] == k).mean() for k in np.unique(t)]) for f, t in zip(found, truth, strict=True)]
        scans += np.array(right) / DRAWS
    return by_subject(scans[None], task.subjects)[0]


def agreement(seen: dict[str, Any]) -> dict[str, float]:
    """What the watch saw, a name per level and number."""
    return {f"{level}_{key}": float(seen[level][key]) for level in LEVELS for key in KEPT}


def nulls(task: Task, seed: int) -> dict[str, tuple[dict[str, Any], np.ndarray]]:
    """Row and scores of the untrained backbone and of the voxels, both under the views of every run's watch."""
    settings = settings_for(task, "mae", seed, 1)
    backbone = loop.assemble(settings, task.store)[0].backbone.to(machine().device)
    arrays = [task.store.image(i) for i in chosen_from(task.store.split("train"), seed)]
    eye = probe_views(arrays, settings.views.crop, backbone.stride, seed=seed)
    pixels = Pixels(backbone.stride)
    both = {"untrained": backbone, "pixels": pixels}
    return {name: (agreement(measure(net, eye)), probe(task, tokens_of(net, task.images), seed)) for name, net in both.items()}


def trained(task: Task, settings: Settings, run: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Row and scores of one run."""
    started = time.monotonic()
    backbone = loop.fit(task.store, settings, runfolder.private_folder(run)).backbone
    whole = time.monotonic() - started
    events, steps = runfolder.read_events(run), steps_of(run)
    seen = [e for e in events if e.get("event") == "watch"][-1]
    took = [e["seconds"] for e in steps]
    waited = next(e["waiting"] for e in events if e.get("event") == "pretrained") * whole  # its share counts the watch's looks
    losses, tenth = [e["loss"] for e in steps], max(1, len(steps) // 10)
    parts = {name: float(np.mean([e["parts"][name] for e in steps[-tenth:]])) for name in steps[-1]["parts"]}
    row = {
        "steps": len(steps),
        "batch": settings.pretrain.batch,
        "seconds": sum(took),
        "seconds_per_step": statistics.median(took),
        "waiting": min(1.0, waited / sum(took)),
        "loss_first": float(np.mean(losses[:tenth])),
        "loss_last": float(np.mean(losses[-tenth:])),
        "parts_last": json.dumps({name: float(f"{value:.4g}") for name, value in parts.items()}),
    }
    return row | agreement(seen) | {"state": seen["state"]}, probe(task, tokens_of(backbone, task.images), settings.seed)


def compare(task: Task, names: list[str], seeds: int, seconds: float, steps: int, folder: Path) -> list[dict[str, Any]]:
    """A row per objective and null: means over seeds, and the probe beside the untrained network and beside the control."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    scores: dict[str, list[np.ndarray]] = defaultdict(list)
    for seed in range(seeds):
        found = nulls(task, seed)
        for name in [*NULLS, *names]:
            if name in found:
                row, score = found[name]
            else:
                run = folder / f"{name}_{seed}"
                options = {"source": str(folder / f"mae_{seed}")} if name == "distil" else {}
                told = settings_for(task, name, seed, steps, **options)
                if not steps:
                    each = seconds_per_step(task, told, folder / f"{name}_{seed}_timed")
                    told = settings_for(task, name, seed, max(TIMED, round(seconds / each)), **options)
                row, score = trained(task, told, run)
            rows[name].append(row)
            scores[name].append(score)
            print(f"{task.name} seed {seed}: {name} reads {np.nanmean(score):.3f}", flush=True)
    return [
        {"data": task.name, "objective": name, "seeds": seeds} | mean_of(some) | judged(scores, name)
        for name, some in rows.items()
    ]


def mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers averaged over seeds; words that differ are all named."""
    made = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        words = isinstance(values[0], str)
        made[key] = " / ".join(dict.fromkeys(values)) if words else float(np.mean(values))
    return made


def judged(scores: dict[str, list[np.ndarray]], name: str) -> dict[str, float]:
    """The probe, and how far it is above the untrained network and the control, with intervals."""
    own = np.stack(scores[name])
    made = {"probe": float(np.nanmean(own)), "subjects": own.shape[1]}
    for label, other in (("gain", "untrained"), ("beside_ae", "ae")):
        if other != name and other in scores:
            found = interval(own - np.stack(scores[other]), 0, bounds=(-1, 1))
            made |= {label: found.mean, f"{label}_low": found.low, f"{label}_high": found.high}
    return made


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as the guide shows them (Markdown); agreement and directions: dense, pooled."""
    heads = ("Objective", "steps", "ms a step", "waiting", "loss", "probe", "gain over untrained", "beside `ae`")
    heads += ("agreement", "directions", "the watch says")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]

    def number(row: dict[str, Any], key: str, form: str) -> str:
        return format(row[key], form) if key in row else ""

    def span(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:+.3f} [{row[f'{key}_low']:+.3f}, {row[f'{key}_high']:+.3f}]" if key in row else ""

    for row in rows:
        cells = [row["objective"] if row["objective"] in NULLS else f"`{row['objective']}`", number(row, "steps", ".0f")]
        cells += [f"{1000 * row['seconds_per_step']:.0f}" if "steps" in row else "", number(row, "waiting", ".1%")]
        cells += [f"{row['loss_first']:.3g} to {row['loss_last']:.3g}" if "steps" in row else "", f"{row['probe']:.3f}"]
        cells += [span(row, "gain"), span(row, "beside_ae")]
        cells += [
            ", ".join(f"{row[f'{level}_{key}']:{form}}" for level in LEVELS)
            for key, form in (("reliability", ".2f"), ("rank", ".0f"))
        ]
        lines.append(f"| {' | '.join([*cells, row.get('state', '')])} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> Path:
    """Gain of the probe with its interval, agreement and directions, a line per objective; dashed: the untrained network."""
    import matplotlib
    from matplotlib.figure import Figure

    blue, orange, grey = "#0072B2", "#E69F00", "#6E6E6E"
    look = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "headwater"}
    look |= {"legend.frameon": False, "axes.titlesize": 9.5}
    start = next(row for row in rows if row["objective"] == "untrained")
    shown = sorted((row for row in rows if row["objective"] not in NULLS), key=lambda row: row["gain"])
    names, at = [row["objective"] for row in shown], np.arange(len(shown))
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **look}):
        figure = Figure((10, 0.6 + 0.3 * len(shown)), layout="constrained")
        first, second, third = figure.subplots(1, 3, sharey=True)
        for y, row in zip(at, shown, strict=True):
            colour = grey if row["objective"] in ("ae", "denoise") else blue  # the controls
            first.plot((row["gain_low"], row["gain_high"]), (y, y), color=colour, linewidth=1.6)
            first.plot(row["gain"], y, "o", color=colour, markersize=5)
        first.axvline(0, color=grey, linestyle="--", linewidth=1)
        first.set(
            yticks=at, yticklabels=names, xlabel="gain of the probe over the untrained network", ylim=(-0.6, len(shown) - 0.4)
        )
        for axes, key, label in ((second, "reliability", "agreement of two views"), (third, "rank", "directions that agree")):
            for level, colour, mark in (("dense", blue, "o"), ("pooled", orange, "s")):
                axes.plot([row[f"{level}_{key}"] for row in shown], at, mark, color=colour, markersize=5, label=level)
                axes.axvline(start[f"{level}_{key}"], color=colour, linestyle="--", linewidth=1)
            axes.set(xlabel=label)
            axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        second.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    return path


def save(rows: list[dict[str, Any]], path: Path, about: dict[str, Any]) -> None:
    """The CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, *about])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} | about)


def main() -> None:
    """Runs all objectives on all data, writes CSVs and figures, prints the tables."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", type=Path, nargs="?")
    asked.add_argument("--seconds", type=float, default=20.0, help="of training, for each objective")
    asked.add_argument("--steps", type=int, default=0, help="for each objective, in place of seconds")
    asked.add_argument("--seeds", type=int, default=1)
    asked.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked.add_argument("--only", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--out", type=Path, help="folder of CSVs and figures")
    given = asked.parse_args()
    torch.set_num_threads(given.threads)
    wanted = {*given.only, *(["mae"] if "distil" in given.only else [])}  # its teacher
    names, steps = [name for name in OBJECTIVES if name in wanted], 4 if given.quick else given.steps
    ending = "_quick" * given.quick + "_part" * (names != list(OBJECTIVES))
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    about = {"budget": f"{steps} steps" if steps else f"{given.seconds:g} s", "threads": given.threads, "commit": commit}
    about |= {
        "machine": f"{platform.machine()} {os.cpu_count()} cores {machine().accelerator}".strip(),
        "date": str(date.today()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        count, held = (24, 6) if given.quick else (PHANTOMS, HELD)
        made = phantom.write(Path(scratch) / "made", count, (SIDE,) * 3)
        tasks: list[tuple[str, Path, Path, Any]] = [("phantoms", *made, [f"phantom_{i:03d}" for i in range(count - held, count)])]
        if given.data:
            test = given.data / "test.txt"
            tasks.append((given.data.name, given.data / "images", given.data / "labels", test if test.exists() else None))
        for name, images, labels, test in tasks:
            folder, started = Path(scratch) / name, time.monotonic()
            task = task_of(name, images, labels, test, folder / "store", given.quick)
            rows = compare(task, names, given.seeds, given.seconds, steps, folder)
            minutes = {"minutes": f"{(time.monotonic() - started) / 60:.1f}"}
            save(rows, (given.out or RESULTS) / f"objectives_{name}{ending}.csv", about | minutes)
            if given.out or not ending:
                draw(rows, (given.out or FIGURES) / f"objectives_{name}{ending}.svg")
            scans = f"{len(task.store.split('train'))} scans to learn from, {len(set(task.subjects))} subjects held out"
            print(f"\n{name}: {about['budget']} each, {scans}, {minutes['minutes']} minutes\n\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
