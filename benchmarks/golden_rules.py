"""Which numbers see a network that gives every picture the same, and which see one that gives every picture a random answer?

Question:  RankMe, agreement of two views and directions that agree, on features whose fault is known and on small trained
           networks: which of them tells collapse and randomness from health?
Command:   python benchmarks/golden_rules.py [--steps 300] [--figures FOLDER] [--out FOLDER]
Duration:  about three minutes on one core that does nothing else.
Method:    Made: 1,024 pictures of 128 numbers, a signal with a power-law spectrum and 30 % of noise of its own in each view, then
           spoilt. Networks: benchmarks/small_vit.py, 64 phantoms. Hard views: headwater.observe.pairs.of_images, level dense
           (tokens at the same place, 8 voxels apart) and pooled. Easy views: the same picture with 5 % of noise, pooled. byol
           without its guards is made to collapse. chance: 95th percentile of permuted pairs.
Printed last time: benchmarks/results/golden_rules_*.csv. RankMe 113 of 128 for noise and for health; agreement 0.00 and 0.71.
"""

import argparse
import csv
import os
import platform
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import small_vit
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from headwater.observe.features import Agreement, agreement
from headwater.observe.look import look
from headwater.observe.pairs import of_images
from headwater.observe.published import rankme

RESULTS, FIGURES = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs" / "guide" / "figures"
PICTURES, WIDTH, SHOWN = 1024, 128, 64
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#6E6E6E"
LOOK = {"font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
LOOK |= {"svg.hashsalt": "headwater"}


def made() -> dict[str, tuple[Tensor, Tensor]]:
    """Two views of features whose fault is known, by name."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    turn = torch.linalg.qr(draw(WIDTH, WIDTH))[0]
    scales = torch.arange(1, WIDTH + 1, dtype=torch.float64) ** -0.4
    signal = draw(PICTURES, WIDTH) * scales
    noise = 0.65 * draw(2, PICTURES, WIDTH) * scales  # 30 % of the variance
    healthy = signal + noise
    few = healthy * (torch.arange(WIDTH) < 3)
    half = torch.where(torch.arange(WIDTH) % 2 == 0, healthy, draw(2, PICTURES, WIDTH) * scales)
    cases = {
        "healthy": healthy,
        "one vector for all": 1 + 1e-6 * draw(2, PICTURES, WIDTH),
        "three directions": few,
        "noise": draw(2, PICTURES, WIDTH) * scales,
        "half of it noise": half,
        "healthy, far from 0": healthy + 50,
    }
    return {name: tuple(x @ turn) for name, x in cases.items()}


@torch.no_grad()
def networks(steps: int) -> list[dict[str, Any]]:
    """A row for each small network and level."""
    shown = small_vit.pictures()
    images, start = shown.tensor[:SHOWN], small_vit.backbone()
    probe = of_images(images, (small_vit.PATCH,) * 2, seed=0)
    with torch.enable_grad():
        trained = {name: small_vit.trained(name, steps, shown) for name in ("mae", "cva")}
        trained["byol without guards"] = small_vit.trained("byol", steps, shown, guarded=False)
    rows = [row("before training, easy views", "pooled", *easy(start, images))]
    for name, model in {"before training": start, **{f"after {name}": model for name, model in trained.items()}}.items():
        seen, _ = look(model, probe)
        for level in ("pooled", "dense"):
            numbers = seen.levels[level]
            rank = seen.panel["rankme"].value
            rows.append({"case": name, "kind": "network", "level": level, "rankme": rank} | {k: numbers[k] for k in KEPT})
            rows[-1]["of"] = small_vit.WIDTH
    return rows


KEPT = ("reliability", "null95", "rank", "rank_null95", "spread")


def easy(model: nn.Module, images: Tensor) -> tuple[Agreement, float]:
    """Views that differ by 5 % of noise."""
    noise = 0.05 * torch.randn(2, *images.shape, generator=torch.Generator().manual_seed(1))
    a, b = (model(images + part).pooled for part in noise)
    return agreement(a, b, seed=0), rankme(a)


def row(case: str, level: str, found: Agreement, rank: float) -> dict[str, Any]:
    kept = {name: getattr(found, name) for name in KEPT}
    return {"case": case, "kind": "network", "level": level, "rankme": rank, "of": small_vit.WIDTH} | kept


def draw(rows: list[dict[str, Any]]) -> Figure:
    """A line per case; grey: what chance gives."""
    names = list(dict.fromkeys(row["case"] for row in rows))[::-1]
    figure = Figure((10, 0.9 + 0.29 * len(names)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for entry in rows:
        y, kind = names.index(entry["case"]), entry["level"]
        colour, mark = (ORANGE, "s") if kind == "dense" else (BLUE, "o")
        panels[0].plot(entry["rankme"] / entry["of"], y, "o", color=BLUE, markersize=5)
        for axes, key, null in ((panels[1], "reliability", "null95"), (panels[2], "rank", "rank_null95")):
            up = y + (0.14 if kind == "dense" else -0.14 if entry["kind"] == "network" else 0)
            chance = max(0.0, entry[null]) if np.isfinite(entry[null]) else 0.0
            axes.plot((0, chance), (up, up), color="#CCCCCC", linewidth=5, solid_capstyle="butt")
            if np.isfinite(entry[key]):
                axes.plot(entry[key], up, mark, color=colour, markersize=5)
    border = sum(row["kind"] == "network" for row in rows if row["level"] == "pooled") - 0.5
    for axes, label in zip(panels, ("RankMe over the width", "agreement of two views", "directions that agree"), strict=True):
        axes.axhline(border, color=GREY, linewidth=0.8)
        axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        axes.set(xlabel=label, ylim=(-0.6, len(names) - 0.4))
    panels[0].set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1.05))
    panels[1].set(xlim=(-0.08, 1.05))
    panels[2].set(xlim=(-0.8, None))
    for mark, colour, name in (("o", BLUE, "pooled"), ("s", ORANGE, "dense (tokens)")):
        panels[2].plot([], [], mark, color=colour, markersize=5, label=name)
    panels[2].plot([], [], color="#CCCCCC", linewidth=5, label="chance")
    figure.legend(*panels[2].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def main() -> None:
    """Measures, prints, draws and writes."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--steps", type=int, default=300)
    asked.add_argument("--figures", type=Path, default=FIGURES)
    asked.add_argument("--out", type=Path, default=RESULTS)
    given = asked.parse_args()
    started, rows = time.monotonic(), []
    for name, (a, b) in made().items():
        found = agreement(a, b, seed=0)
        rows.append(row(name, "pooled", found, rankme(a)) | {"kind": "made", "of": WIDTH})
    rows += networks(given.steps)
    for one in rows:
        numbers = " ".join(f"{key} {one[key]:.3g}" for key in ("rankme", *KEPT))
        print(f"{one['kind']:8}{one['case']:30}{one['level']:8}{numbers}")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **LOOK}):
        path = given.figures / "golden_rules.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(rows).savefig(path, metadata={"Date": None})
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    about = {"steps": given.steps, "commit": commit, "machine": f"{platform.machine()} {os.cpu_count()} cores"}
    about |= {"seconds": round(time.monotonic() - started)}
    given.out.mkdir(parents=True, exist_ok=True)
    with open(given.out / f"golden_rules_{date.today()}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *about])
        writer.writeheader()
        for one in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in one.items()} | about)


if __name__ == "__main__":
    main()
