"""Do the heads of a small vision transformer become alike, and is a head that resembles another one useless?

Question:  How many different heads has each layer after training, beside the same network before it? Is the effect of switching a
           head off smaller where another head of its layer gives nearly the same?
Command:   python benchmarks/heads.py [--steps 400] [--objective cva] [--seed 0] [--figures FOLDER] [--out FOLDER]
Duration:  about two minutes on one core that does nothing else.
Method:    benchmarks/small_vit.py: 4 layers of 6 heads, 192 phantoms of 48 x 48. Heads are compared on one random token of each
           of 48 pictures (headwater.observe.heads.redundancy), and switched off one at a time (headwater.observe.ablate): mean
           squared change of the pooled features over their variance between pictures. nearest: debiased CKA with the most
           similar head of the same layer. pair: the effect of switching both off at once.
           The rank correlation of nearest and effect over 24 heads has no interval: heads of one network are not independent.
Printed last time: benchmarks/results/heads_*.csv. After cva 4.6, 2.9, 3.0 and 2.8 of 6 heads (before: 2.5, 2.3, 2.5, 2.6); pairs
of nearest heads lose 1.4 to 1.7 times what their members lose one by one; rank correlation +0.69, within layers -0.6 to 0.1.
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

from headwater.observe.ablate import places, without
from headwater.observe.closer.layers import layers

RESULTS, FIGURES = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs" / "guide" / "figures"
SHOWN, LIT = 48, 3  # pictures; which of them is drawn
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#6E6E6E"
LOOK = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
LOOK |= {"image.interpolation": "nearest", "svg.hashsalt": "headwater"}


@torch.no_grad()
def pairs(model: nn.Module, images: Tensor, arrays: dict[str, np.ndarray], told: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per head: its nearest one, what is lost without it, and without both."""
    whole, made = model(images).pooled, []
    scatter = float((whole - whole.mean(0)).square().sum(1).mean())
    for i, place in enumerate(places(model, images)[0]):
        matrix = arrays[f"redundancy.{i}"] - 2 * np.eye(place.heads)
        for head in range(place.heads):
            other = int(np.nanargmax(matrix[head]))
            with without(model, place, (head, other)):
                both = float((model(images).pooled - whole).square().sum(1).mean()) / scatter
            effects = told["heads"][i]["ablation"]
            row = {"layer": i, "head": head, "other": other, "nearest": float(matrix[head, other]), "pair": both}
            row |= {"effect": effects[head]["value"], "effect_start": effects[head]["null"]}
            made.append(row | {"effect_other": effects[other]["value"]})
    return made


def draw_maps(image: np.ndarray, arrays: dict[str, np.ndarray], told: dict[str, Any]) -> Figure:
    """Where each head looks from the centre of one picture, all on one scale; entropy and effect under each."""
    count, heads = len(told["heads"]), told["heads"][0]["heads"]
    figure = Figure((1.25 * (heads + 1.25), 1.52 * count), layout="constrained")
    grid = figure.add_gridspec(count, heads + 1)
    axes = figure.add_subplot(grid[0, 0])
    axes.imshow(image, "gray")
    axes.plot(image.shape[1] // 2 + 2, image.shape[0] // 2 + 2, "+", color=ORANGE, markersize=9, markeredgewidth=1.6)
    axes.set(title="picture, query", xticks=(), yticks=())
    low, high = told["scale"]
    for i, row in enumerate(told["heads"]):
        for head in range(heads):
            axes = figure.add_subplot(grid[i, head + 1])
            shown = axes.imshow(arrays[f"heads.{i}"][LIT, head], "cividis", vmin=low, vmax=high)
            axes.set(xticks=(), yticks=(), title=f"layer {i}, head {head}" if not head else f"head {head}")
            axes.set_xlabel(f"{row['entropy'][head]['value']:.2f} · {row['ablation'][head]['value']:.3f}", fontsize=8)
    bar = figure.add_subplot(grid[1:, 0])
    bar.set_axis_off()
    figure.colorbar(shown, ax=bar, location="left", fraction=0.2, shrink=0.8, label="attention, equal attention = 1")
    return figure


def draw_redundancy(arrays: dict[str, np.ndarray], told: dict[str, Any], found: list[dict[str, Any]]) -> Figure:
    """Matrices before and after, effective heads of each layer, and what is lost without a head against its nearest one."""
    count = len(told["heads"])
    figure = Figure((10, 3.9), layout="constrained")
    grid = figure.add_gridspec(2, count + 4)
    for line, (side, words) in enumerate((("untrained.", "before"), ("", "after"))):
        for i in range(count):
            axes = figure.add_subplot(grid[line, i])
            shown = axes.imshow(arrays[f"redundancy.{side}{i}"], "cividis", vmin=0, vmax=1)
            axes.set(xticks=(), yticks=(), title=f"{words}, layer {i}")
    figure.colorbar(shown, ax=figure.axes, location="bottom", shrink=0.5, label="debiased CKA of two heads", aspect=30)
    axes = figure.add_subplot(grid[:, count : count + 2])
    after, before = ([row["effective"][key] for row in told["heads"]] for key in ("value", "null"))
    axes.plot(range(count), before, "s--", color=GREY, label="before training")
    axes.plot(range(count), after, "o-", color=BLUE, label="after")
    axes.set(xlabel="layer", ylabel="effective heads", ylim=(0, told["heads"][0]["heads"] + 0.3), xticks=range(count))
    axes.legend(loc="lower left")
    axes = figure.add_subplot(grid[:, count + 2 :])
    for name, colour, mark in (("effect", BLUE, "o"), ("pair", ORANGE, "D")):
        label = {"effect": "one head off", "pair": "both off"}[name]
        axes.plot([row["nearest"] for row in found], [row[name] for row in found], mark, color=colour, label=label, markersize=4)
    axes.set(xlabel="CKA with the nearest head", ylabel="change of the features", yscale="log")
    axes.legend(loc="lower right")
    return figure


def save(figure: Figure, path: Path) -> None:
    """SVG without a date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(path)


def main() -> None:
    """Trains, looks, prints, draws and writes."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--steps", type=int, default=400)
    asked.add_argument("--objective", default="cva")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--figures", type=Path, default=FIGURES)
    asked.add_argument("--out", type=Path, default=RESULTS)
    given = asked.parse_args()
    started, shown = time.monotonic(), small_vit.pictures()
    model, start = small_vit.trained(given.objective, given.steps, shown, given.seed), small_vit.backbone(given.seed)
    images = shown.tensor[:SHOWN]
    arrays, told = layers(model, images, untrained=start, shown=LIT + 1, seed=given.seed)
    found = pairs(model, images, arrays, told)
    for i, row in enumerate(told["heads"]):
        effect = " ".join(f"{one['value']:.3f}" for one in row["ablation"])
        now, then = (row["effective"][key] for key in ("value", "null"))
        print(f"layer {i}: {now:.2f} of {row['heads']} heads ({then:.2f} before); without each {effect}")
    rank = [np.argsort(np.argsort([row[name] for row in found])) for name in ("nearest", "effect")]
    print(f"rank correlation of similarity and effect {np.corrcoef(*rank)[0, 1]:+.2f}", *told["words"], sep="\n")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **LOOK}):
        save(draw_maps(images[LIT, 0].numpy(), arrays, told), given.figures / "heads.svg")
        save(draw_redundancy(arrays, told, found), given.figures / "redundancy.svg")
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    about = {"objective": given.objective, "steps": given.steps, "seed": given.seed, "commit": commit}
    about |= {"machine": f"{platform.machine()} {os.cpu_count()} cores", "seconds": round(time.monotonic() - started)}
    given.out.mkdir(parents=True, exist_ok=True)
    with open(given.out / f"heads_{date.today()}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*found[0], *about])
        writer.writeheader()
        for row in found:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} | about)


if __name__ == "__main__":
    main()
