"""Does the percentile of a scan among those learned from tell scans that are unlike them?

Question:  A residual encoder is pretrained on the 160 hippocampus volumes that are not in test.txt. How are the percentiles of
           the 40 others distributed, and how well does novelty tell them from changed copies of themselves and from other scans?
Command:   python benchmarks/novelty.py DATA [--run RUN] [--steps 49] [--copies 16] [--out FILE]
           DATA: the folder that holds hippocampus and spine. RUN: a finished run on the same split, instead of a new one.
Duration:  some 5 minutes of one core, the run included.
Method:    Summary and Gaussian of headwater.flow.novelty as `familiar` uses them (its flow stayed at the Gaussian in all three
           members here). Changed copies: of the prepared volume, normalised again as a file would be. AUROC: changed against
           unchanged test scans by the log-density; interval: bootstrap over scans (2,000 draws), 95 %. expected: a test scan
           is as likely above as below the middle, and one in twenty is above 95. features: of the trained backbone, of the same
           one with fresh weights, and "pixels": the volume brought to 8 x 8 x 8.
Printed last time: the rows of benchmarks/results/novelty_*.csv.
"""

import argparse
import csv
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from headwater.api import pretrain
from headwater.backbones import build
from headwater.backbones.own import load_own, state_of, words
from headwater.flow.novelty import DIMS, FOLDS, PATH, Summary
from headwater.flow.paths import Gaussian
from headwater.request import Request
from headwater.scans import phantom
from headwater.scans.readers import read
from headwater.scans.ready import Rule, ready
from headwater.scans.scan import Scan, Source
from headwater.scans.store import Store
from headwater.streams import numpy_stream, torch_stream
from headwater.transfer.frozen import resting, summary
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

RESULTS = Path(__file__).parent / "results"


def prepared(volume: np.ndarray, rule: Rule) -> np.ndarray:
    """As if the volume came in a file of 1 mm."""
    scan = Scan(np.ascontiguousarray(volume[None], np.float32), (1.0,) * 3, np.eye(4), Source((Path("made.nii"),)))
    return ready(scan, None, rule).image


def changed(volumes: list[np.ndarray], rng: np.random.Generator) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Names of changes and the volumes they make."""

    def noisy(share: float) -> list[np.ndarray]:
        return [v + rng.normal(0, share, v.shape) for v in volumes]

    yield "noise of 0.2 spreads", noisy(0.2)
    yield "noise of 0.35 spreads", noisy(0.35)
    yield "blur of 0.7 voxels", [gaussian_filter(v, 0.7) for v in volumes]
    yield "blur of 1.2 voxels", [gaussian_filter(v, 1.2) for v in volumes]
    yield "ghost of 35 %", [v + 0.35 * np.roll(v, v.shape[1] // 2, 1) for v in volumes]
    yield "mirrored left to right", [v[::-1] for v in volumes]
    yield "mirrored front to back", [v[:, ::-1] for v in volumes]
    yield "two axes swapped", [v.transpose(1, 0, 2) for v in volumes]
    yield "half of the volume", [v[:, : v.shape[1] // 2] for v in volumes]
    yield "contrast inverted", [-v for v in volumes]
    yield "made-up anatomy", [phantom.phantom(3, i, (36, 50, 36))[0] for i in range(len(volumes))]


def spine(folder: Path, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Parts of 35 x 50 x 35 voxels of the spinal cord images."""
    made, whole = [], [read(next(folder.glob(f"{name}.nii*"))).array[0] for name in ("t1/t1w", "t2/t2", "t2s/t2s")]
    while len(made) < count:
        one = whole[len(made) % len(whole)]
        size = [min(a, b) for a, b in zip(one.shape, (35, 50, 35), strict=True)]
        at = [int(rng.integers(0, a - b + 1)) for a, b in zip(one.shape, size, strict=True)]
        part = one[tuple(slice(a, a + b) for a, b in zip(at, size, strict=True))]
        made += [part] if part.std() > 0 else []
    return made


def densities(features: torch.Tensor) -> list[tuple[Summary, Gaussian, torch.Tensor]]:
    """The members of a Density whose flow stays at its start, in closed form, and the samples each sets aside."""
    order = torch.randperm(len(features), generator=torch_stream(0, "familiar"))
    parts, members = order.tensor_split(FOLDS), []
    for k, aside in enumerate(parts):
        kept = torch.cat([part for j, part in enumerate(parts) if j != k])
        told = Summary.fit(features[kept], DIMS)
        normal = Gaussian.fit(PATH, told(features[kept]))
        members.append((told, normal, normal.log_density(PATH.end, told(features[aside]))))
    return members


def judged(members: list, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Minus log-density, and percentile."""
    value, share = np.zeros(len(x)), np.zeros(len(x))
    for told, normal, aside in members:
        here = normal.log_density(PATH.end, told(x))
        value -= here.numpy() / len(members)
        share += (100 * ((aside[None] > here[:, None]).sum(1) + 0.5) / (len(aside) + 1)).numpy() / len(members)
    return value, share


def auroc(known: np.ndarray, new: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """With its bootstrap interval."""

    def area(a: np.ndarray, b: np.ndarray) -> float:
        return float((a[:, None] < b).mean() + (a[:, None] == b).mean() / 2)

    rng = numpy_stream(seed, "auroc")
    drawn = [area(rng.choice(known, len(known)), rng.choice(new, len(new))) for _ in range(2000)]
    return area(known, new), *np.quantile(drawn, [0.025, 0.975]).tolist()


def table(source: str, learned: torch.Tensor, features: dict[str, torch.Tensor]) -> list[dict]:
    """A row for each set of scans, the first of which are the held-out ones."""
    members, rows = densities(learned), []
    found = {name: judged(members, x) for name, x in features.items()}
    known = next(iter(found.values()))[0]
    for name, (values, shares) in found.items():
        area = (float("nan"),) * 3 if values is known else auroc(known, values)
        rows.append({
            "features": source, "scans": name, "count": len(values), "mean percentile": round(float(shares.mean()), 1),
            "above 95": round(float((shares > 95).mean()), 3), "AUROC": round(area[0], 3), "low": round(area[1], 3),
            "high": round(area[2], 3), "learned from": len(learned),
        })  # fmt: skip
        print(" ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    """Prints the table and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--steps", type=int, default=49)
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS / f"novelty_{date.today()}.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    here = args.data / "hippocampus"
    changes = (f"pretrain.steps={args.steps}", "pretrain.watch=0", "precision=fp32")
    run = args.run or pretrain(Request(here / "images", labels=here / "labels", test=here / "test.txt", changes=changes))
    store, rng = Store.open(run / "store"), np.random.default_rng(0)
    rule, tests = Rule.of(store), store.split("test")
    sets = {"held-out scans": [store.image(i) for i in tests]}
    raw = [np.asarray(store.image(i)[0], np.float32) for i in tests[: args.copies]]
    for name, volumes in [*changed(raw, rng), ("spinal cord", spine(args.data / "spine", args.copies, rng))]:
        sets[name] = [prepared(v, rule) for v in volumes]
    learned = [store.image(i) for i in store.split("train")]
    trained = resting(load_own(state_of(run)).backbone)
    fresh = resting(build(**words(state_of(run))["backbone"], seed=0))

    def coarse(image: np.ndarray) -> torch.Tensor:
        return interpolate(torch.from_numpy(image.astype(np.float32))[None], size=(8, 8, 8), mode="trilinear").flatten()

    readers = {"trained": lambda x: summary(trained, x), "untrained": lambda x: summary(fresh, x), "pixels": coarse}
    rows = []
    for source, reads in readers.items():
        features = {name: torch.stack([reads(image) for image in images]).double() for name, images in sets.items()}
        rows += table(source, torch.stack([reads(image) for image in learned]).double(), features)
    args.out.parent.mkdir(exist_ok=True)
    with open(args.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
