"""What do frozen features tell, beside the same network untrained, pixels and chance?

Question:  A nano residual encoder is pretrained for a minute on pictures by class (MedNIST, pneumoniaMNIST) or on hippocampus
           volumes. What does each reader tell from its features: class, volume, structures?
Command:   python benchmarks/probes.py DATA [--most 120] [--steps 60] [--only NAME] [--runs FOLDER] [--out FILE]
           DATA holds mednist, pneumoniamnist.npz and hippocampus. FOLDER: where the runs lie or will lie.
Duration:  some 15 minutes of one core.
Method:    headwater.probing.probe on `most` images, as `headwater probe` runs it: 5 folds of subjects (pictures name none, each
           counts as its own); intervals over subjects. Pretraining has seen some of the images probed, without
           labels: that is what it is for. Pretraining sets: 600 pictures of MedNIST, every
           sixth of pneumoniaMNIST, 160 volumes.
Printed last time: the rows of benchmarks/results/probes_*.csv: mean, low, high of the score; gain over the untrained network with
           its interval on the same subjects.
"""

import argparse
import csv
import shutil
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch
from headwater.api import pretrain
from headwater.probing import probe
from headwater.request import Request

RESULTS = Path(__file__).parent / "results"


def few_pictures(data: Path, folder: Path) -> Path:
    """A hundred pictures of each class of MedNIST, in folders by class."""
    for group in sorted(p for p in (data / "mednist").iterdir() if p.is_dir()):
        (folder / group.name).mkdir(parents=True, exist_ok=True)
        for file in sorted(group.iterdir())[::10]:
            shutil.copy(file, folder / group.name / file.name)
    return folder


def few_rays(data: Path, folder: Path) -> Path:
    """Every sixth picture of pneumoniaMNIST that is to learn from, in the same kind of file."""
    held = np.load(data / "pneumoniamnist.npz")
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "few.npz", **{name: held[name][::6] for name in ("train_images", "train_labels")})
    return folder / "few.npz"


def rows_of(name: str, found: dict) -> list[dict]:
    """A row per task, network, layer and reader."""
    rows = []
    for task in found["tasks"]:
        gains = {(g["method"], g["count"]): g for g in task["gains"] if g["over"] == "untrained"}
        for source in ("trained", "untrained", "pixels"):
            told = task.get(source)
            if told is None:
                continue
            for score in [*told["scores"], told["chance"]]:
                gain = gains.get((score["method"], score["count"]), {}) if source == "trained" else {}
                gain = gain if score["layer"] in ("features", "tokens") else {}
                numbers = {k: score[k] for k in ("mean", "low", "high")} | {k: gain.get(v) for k, v in (
                    ("gain", "gain"), ("gain low", "low"), ("gain high", "high"))}  # fmt: skip
                calibration = told["calibration"] if score["method"] == "linear" and score["count"] == 0 else {}
                last = calibration if score["layer"] in ("features", "pixels") else {}
                rows.append({
                    "data": name, "task": task["name"], "metric": task["metric"], "images": found["images"]["used"],
                    "features": source, "layer": score["layer"], "reader": score["method"], "labels": score["count"] or "all",
                    **{k: "" if v is None else round(v, 3) for k, v in numbers.items()},
                    "ECE": round(last["before"], 3) if last else "", "ECE calibrated": round(last["after"], 3) if last else "",
                })  # fmt: skip
    return rows


def main() -> None:
    """Prints sentences and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--most", type=int, default=120)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / f"probes_{date.today()}.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place, rows = args.runs or Path(tempfile.mkdtemp()), []
    here = args.data / "hippocampus"
    sets = {
        "mednist": lambda: (few_pictures(args.data, place / "pictures"), {"classes": True}),
        "pneumoniamnist": lambda: (few_rays(args.data, place / "rays"), {"classes": True}),
        "hippocampus": lambda: (here / "images", {"labels": here / "labels"}),
    }
    for name, of in sets.items():
        if args.only not in ("", name):
            continue
        images, asked = of()
        changes = (f"pretrain.steps={args.steps}", "pretrain.watch=0", "precision=fp32")
        test = here / "test.txt" if name == "hippocampus" else None
        run = place / name
        if not (run / "state" / "pretrain.safetensors").exists():
            pretrain(Request(images, out=run, test=test, budget=5.0, changes=changes))
        found = probe(run, images, most=args.most, **asked)
        for task in found["tasks"]:
            print(f"{name}: {task['sentence']}", *task["words"], sep="\n    ", flush=True)
        rows += rows_of(name, found)
    args.out.parent.mkdir(exist_ok=True)
    with open(args.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
