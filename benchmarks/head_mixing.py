"""Do heads with different kernels in one layer help a vision transformer? Against their matched control, on real data.

Question:  softmax, sigmoid, relu, linear and cosine heads in every layer, or all softmax with the same parameters: which heads
           repeat each other less, and whose frozen features can be read better?
Command:   python benchmarks/head_mixing.py DATA [--seeds 3] [--steps N] [--threads 2] [--quick] [--out FILE]
           DATA: a folder with images/ and labels/ of volumes (hippocampus), or with a folder of grey pictures per class (mednist)
Duration:  five to six minutes per data set on two idle cores; --quick: under a minute, and says nothing.
Method:    a ViT of width 160, 6 layers, 10 heads; masked autoencoding (75 %) for equally many steps on the same views; both arms
           of a seed start from the same numbers. Heads are compared by their outputs before fusion on held-out images: debiased
           linear CKA (Song et al. 2012, Kornblith et al. 2019) of every pair of heads in a layer, and the effective number of
           heads, the participation ratio of the eigenvalues of the CKA matrix: 10 for heads that have nothing in common, 1 for
           copies. Null: the same network before training.
           Probes on frozen features, logistic regression. Volumes: which structure holds most of a token's cell, balanced
           accuracy per held-out subject. Pictures: which class, from 10 labels each, share right per picture over 5 draws of the
           labels. Nulls: the untrained network, and the raw voxels. Differences are paired; 95 % intervals: over seeds by
           Student's t (heads), over seeds and subjects crossed (probes, headwater.transfer.scores.interval).
Printed last time: the last row of the newest benchmarks/results/head_mixing_*.csv.
"""

import argparse
import csv
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from headwater.backbones import ViT
from headwater.backbones.attention import Style
from headwater.backbones.kernels import per_head
from headwater.backbones.patches import patchify
from headwater.objectives import MaskedAutoencoding, Network
from headwater.observe.heads import debiased_cka
from headwater.settings import Views
from headwater.streams import numpy_stream, seeded
from headwater.train.loop import members, optimizer_for
from headwater.train.schedule import learning_rate
from headwater.transfer.scores import interval
from headwater.views import make_views

RESULTS = Path(__file__).parent / "results"
SIZE = (160, 6, 10)  # width, depth, heads: two heads per kernel
BATCH, RATE = 4, 1e-3  # scans per step, two crops each; peak learning rate
TOKENS, MOST = 4, 200  # for the comparison of heads: tokens per image, images
LABELS, DRAWS = 10, 5  # labels per class of pictures, and how often they are drawn
ARMS = {"mixed": Style(kernels="mixed"), "softmax": Style(kernels="mixed").control()}


@dataclass(frozen=True)
class Task:
    """A data set: scans to learn from, images (n, 1, *S) and answers for the probe, and which of them are held out."""

    name: str
    scans: list[np.ndarray]
    how: Views
    patch: int
    images: Tensor
    answers: Tensor  # (n, N) a structure per token, or (n,) a class
    test: np.ndarray  # (n,) held out

    @property
    def ndim(self) -> int:
        return self.images.ndim - 2


def volumes(folder: Path, quick: bool) -> Task:
    """Volumes with masks, prepared as Headwater does; the middle 24 x 40 x 24 voxels of each are probed."""
    from headwater.observe.pairs import middle
    from headwater.scans.passport import look
    from headwater.scans.prepare import prepare

    test = folder / "test.txt"
    passport = look(folder / "images", folder / "labels", test=test if test.exists() else None)
    with tempfile.TemporaryDirectory() as place:
        store = prepare(passport, place)
        held, taught, side = store.split("test"), store.split("train"), (24, 40, 24)
        probed = [*taught[:: 16 if quick else 4], *held[:: 5 if quick else 1]]
        scans = [np.array(store.image(i), np.float32) for i in taught]
        images = torch.stack([torch.from_numpy(middle(np.array(store.image(i), np.float32), side)) for i in probed])
        masks = [middle(np.array(store.label(i), np.float32)[None], side) for i in probed]
        one_hot = torch.stack([torch.from_numpy(mask) == k for mask in masks for k in range(store.classes)]).float()
    share = patchify(one_hot, 4).mean(-1).unflatten(0, (len(probed), -1))  # n K N
    how = Views(parent=(32, 32, 24), crop=(24, 24, 16))
    return Task("volumes", scans, how, 4, images, share.argmax(1), np.array([i in set(held) for i in probed]))


def pictures(folder: Path, quick: bool) -> Task:
    """Grey pictures in folders of classes, z-scored, constant ones left out; 70 % of each teach, 60 others are held out."""
    from PIL import Image

    taught, held = (20, 10) if quick else (60, 60)
    scans, images, answers, test = [], [], [], []
    for label, place in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
        read = [np.asarray(Image.open(path).convert("L"), np.float32) for path in sorted(place.iterdir())]
        read = [((a - a.mean()) / a.std())[None] for a in read if a.std() > 1]
        cut = int(0.7 * len(read))
        own = [*read[:cut][-taught:], *read[cut:][:held]]
        scans += read[:cut]
        images += own
        answers += [label] * len(own)
        test += [False] * taught + [True] * held
    how = Views(parent=(64, 64), crop=(48, 48), overlap=(0.45, 0.8))
    return Task("pictures", scans, how, 8, torch.from_numpy(np.stack(images)), torch.tensor(answers), np.array(test))


def network(task: Task, style: Style, seed: int) -> Network:
    """Backbone and decoder before training: one seed, one set of numbers in both arms."""
    with seeded(seed, "weights"):
        backbone = ViT(task.ndim, 1, *SIZE, patch=task.patch, style=style)
    with seeded(seed, "heads"):
        return Network(backbone, MaskedAutoencoding().heads(backbone))


def pretrain(net: Network, task: Task, seed: int, steps: int) -> tuple[float, float]:
    """Masked autoencoding; returns the mean loss of the last tenth, and seconds per step without the making of views."""
    objective, optimizer = MaskedAutoencoding(), optimizer_for(net, RATE, 0.05)
    losses, spent = [], 0.0
    for step in range(steps):
        scans = [task.scans[i] for i in members(step, BATCH, len(task.scans), seed)]
        views = make_views(scans, task.how, seed=seed, step=step, stride=net.backbone.stride)
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, RATE, 0.1)
        loss, _ = objective(net, None, views)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        spent += time.perf_counter() - start
    return float(np.mean(losses[-max(1, steps // 10) :])), spent / steps


@contextmanager
def listening(backbone: ViT) -> Iterator[list[Tensor]]:
    """What each layer's heads say (B, N, D), side by side as they go into the output map, in order of depth."""
    said: list[Tensor] = []
    hooks = [
        block.attention.out.register_forward_pre_hook(lambda module, given: said.append(given[0]))
        for block in backbone.stack.blocks
    ]
    yield said
    for hook in hooks:
        hook.remove()


@torch.inference_mode()
def features(backbone: ViT, images: Tensor) -> Tensor:
    """Tokens (n, N, D) of all images."""
    return torch.cat([backbone.eval()(batch).tokens for batch in images.split(8)])


@torch.inference_mode()
def head_matrices(backbone: ViT, images: Tensor) -> np.ndarray:
    """(layers, H, H) debiased CKA between the heads' outputs at TOKENS random tokens of MOST images, evenly spaced."""
    rng, parts = numpy_stream(0, "places"), []
    for batch in images[:: max(1, len(images) // MOST)].split(8):
        with listening(backbone.eval()) as said:
            count = backbone(batch).tokens.shape[1]
            where = torch.from_numpy(rng.integers(0, count, (len(batch), TOKENS)))[..., None]
            parts.append(torch.stack([layer.gather(1, where.expand(-1, -1, layer.shape[-1])).flatten(0, 1) for layer in said]))
    layers = torch.cat(parts, 1).double()  # L n D
    return np.stack([debiased_cka(layer.unflatten(1, (backbone.heads, -1)).transpose(0, 1)).numpy() for layer in layers])


def redundancy(matrix: np.ndarray, kernels: tuple[str, ...]) -> dict[str, float]:
    """Mean CKA of all pairs of heads, of pairs of one kernel and of others, and the effective number of heads."""
    same = np.array([[a == b for b in kernels] for a in kernels])
    pairs = ~np.eye(len(matrix), dtype=bool)
    return {
        "cka": float(matrix[pairs].mean()),
        "cka_same_kernel": float(matrix[pairs & same].mean()),
        "cka_other_kernel": float(matrix[~same].mean()),
        "effective_heads": float(np.trace(matrix) ** 2 / (matrix**2).sum()),
    }


def classifier(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on standardised features, classes weighted equally."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)).fit(x, y).predict


def probe(task: Task, tokens: Tensor, seed: int) -> np.ndarray:
    """A score per held-out subject, or per held-out picture."""
    x, y, rng = tokens.numpy(), task.answers.numpy(), numpy_stream(seed, "probe")
    taught, held = np.flatnonzero(~task.test), np.flatnonzero(task.test)
    if task.answers.ndim == 1:
        pooled, right = x.mean(1), np.zeros(len(held))
        for _ in range(DRAWS):
            some = np.concatenate([rng.choice(taught[y[taught] == k], LABELS, replace=False) for k in np.unique(y)])
            right += (classifier(pooled[some], y[some])(pooled[held]) == y[held]) / DRAWS
        return right
    flat, answer = x[taught].reshape(-1, x.shape[-1]), y[taught].ravel()
    some = np.concatenate(
        [rng.choice(at := np.flatnonzero(answer == k), min(2000, len(at)), replace=False) for k in np.unique(answer)]
    )
    predict = classifier(flat[some], answer[some])
    found = predict(x[held].reshape(-1, x.shape[-1])).reshape(len(held), -1)
    return np.array([np.mean([(f[a == k] == k).mean() for k in np.unique(a)]) for f, a in zip(found, y[held], strict=True)])


def over_seeds(differences: list[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; not a number from one seed."""
    mean, n = float(np.mean(differences)), len(differences)
    reach = student.ppf(0.975, n - 1) * np.std(differences, ddof=1) / n**0.5 if n > 1 else float("nan")
    return mean, mean - reach, mean + reach


def arm(task: Task, name: str, seed: int, steps: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows of one training run, and the probe's scores after it."""
    net, held = network(task, ARMS[name], seed), task.images[torch.from_numpy(task.test)]
    kernels = per_head("mixed", SIZE[2])  # in the control the same pairs of heads are compared
    before, first = head_matrices(net.backbone, held), probe(task, features(net.backbone, task.images), seed)
    loss, seconds = pretrain(net, task, seed, steps)
    after, last = head_matrices(net.backbone, held), probe(task, features(net.backbone, task.images), seed)
    whole = {"data": task.name, "seed": seed, "arm": name, "steps": steps, "loss": loss, "seconds_per_step": seconds}
    rows = []
    for layer, (a, b) in enumerate(zip(after, before, strict=True), start=1):
        null = {f"{key}_untrained": value for key, value in redundancy(b, kernels).items()}
        rows.append(whole | {"layer": layer} | redundancy(a, kernels) | null)
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key.startswith(("cka", "effective"))}
    return [*rows, whole | {"layer": "mean"} | means | {"probe": last.mean(), "probe_untrained": first.mean()}], last


def answer(task: Task, means: dict[str, list[dict[str, Any]]], scores: dict[str, np.ndarray], raw: float) -> dict[str, Any]:
    """What came out, in numbers and one sentence."""
    gaps = {
        key: over_seeds([a[key] - b[key] for a, b in zip(means["mixed"], means["softmax"], strict=True)])
        for key in ("cka", "effective_heads")
    }
    found = interval(scores["mixed"] - scores["softmax"], 0, bounds=(-1, 1))
    gaps["probe"] = (found.mean, found.low, found.high)
    mean = {
        name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if isinstance(rows[0][key], float)}
        for name, rows in means.items()
    }
    m, s = mean["mixed"], mean["softmax"]

    def gap(key: str) -> str:
        middle, low, high = gaps[key]
        clear = "more" if low > 0 else "less" if high < 0 else "no clear difference"
        return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}], {clear}"

    def pair(key: str) -> str:
        return f"{m[key]:.3f} and {s[key]:.3f}"

    sentence = (
        f"{task.name}, {len(means['mixed'])} seeds, {means['mixed'][0]['steps']} steps, mixed heads and all softmax: "
        f"CKA {pair('cka')} (untrained {pair('cka_untrained')}; difference {gap('cka')}), "
        f"effective heads of {SIZE[2]} {pair('effective_heads')} (untrained {pair('effective_heads_untrained')}; "
        f"difference {gap('effective_heads')}), probe {pair('probe')} (untrained {pair('probe_untrained')}, "
        f"raw voxels {raw:.3f}; difference {gap('probe')}); "
        f"loss {m['loss']:.4f} and {s['loss']:.4f}; a step of mixed heads takes "
        f"{m['seconds_per_step'] / s['seconds_per_step']:.2f} times as long."
    )
    numbers = {
        f"{key}_{end}": value for key, three in gaps.items() for end, value in zip(("gap", "low", "high"), three, strict=True)
    }
    return {"data": task.name, "arm": "answer", **numbers, "note": sentence}


def main() -> None:
    """Trains both arms for every seed, prints a line each and the sentence, and writes the CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", type=Path)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--steps", type=int, default=0, help="of training; default 300 for volumes, 400 for pictures")
    asked.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--out", type=Path)
    given = asked.parse_args()
    torch.set_num_threads(given.threads)
    started = time.perf_counter()
    volumetric = (given.data / "images").is_dir()
    task = (volumes if volumetric else pictures)(given.data, given.quick)
    steps, seeds = (8, 2) if given.quick else (given.steps or (300 if volumetric else 400), given.seeds)
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    raw = probe(task, patchify(task.images, task.patch) if volumetric else task.images.flatten(1)[:, None], 0).mean()
    rows, means, scores = [], {name: [] for name in ARMS}, {name: [] for name in ARMS}
    for seed in range(seeds):
        for name in ARMS:
            found, last = arm(task, name, seed, steps)
            rows += found
            means[name].append(found[-1])
            scores[name].append(last)
            print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found[-1].items()}, flush=True)
    rows.append(answer(task, means, {name: np.stack(some) for name, some in scores.items()}, raw))
    print(rows[-1]["note"])
    about = {
        "threads": given.threads,
        "commit": commit,
        "machine": f"{platform.machine()} {os.cpu_count()} cores",
        "date": str(date.today()),
    }
    about["minutes"] = f"{(time.perf_counter() - started) / 60:.1f}"
    out = given.out or RESULTS / f"head_mixing_{task.name}_{'quick_' if given.quick else ''}{date.today()}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(key for row in rows for key in row))
    with open(out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*names, *about])
        table.writeheader()
        for row in rows:
            table.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} | about)


if __name__ == "__main__":
    main()
