"""What do adapt and compare say of three real sets: brain MR, electron microscopy, pictures of nuclei?

Command:  python benchmarks/transfer.py DATA --out DIR [--only NAME] [--adapt MINUTES] [--compare MINUTES] [--set ...]
          DATA holds hippocampus/, fibsem/ and nuclei/; runs and pages stay in DIR and are gone on with.
Duration: the budgets, 12 and 10 minutes a set by default, on two cores.
Printed last time: the newest benchmarks/results/transfer_*.csv

fibsem: the volume with masks is cut into 125 blocks of 50 voxels; the mask is 1 where a voxel and a face neighbour belong to
different bodies. The last layer of blocks is tested on, the layer before it is left out, so that nothing tested on borders on
what was learned from. The volume without masks is cut alike and only pretrained on.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np

from headwater import api, provenance, runfolder
from headwater.terminal import Terminal

RESULTS = Path(__file__).parent / "results"
EDGE = 50  # voxels of a block
HEAD = ("arm", "labels", "mean", "low", "high", "nsd", "hd95", "gain", "gain_low", "gain_high", "sentence")


def blocks(data: Path, folder: Path) -> tuple[Path, Path, Path]:
    """The microscopy as blocks: folders of images and masks, and a file of the names to test on."""
    import tifffile

    images, masks, names = folder / "images", folder / "labels", []
    for place in (images, masks):
        place.mkdir(parents=True, exist_ok=True)
    for sample in ("sample1", "sample2"):
        volume = tifffile.imread(data / f"{sample}.tif")
        bodies = tifffile.imread(data / "sample2_labels.tif") if sample == "sample2" else None
        rim = None if bodies is None else boundary(bodies)
        for at in np.ndindex(*(n // EDGE for n in volume.shape)):
            if rim is not None and at[0] == volume.shape[0] // EDGE - 2:
                continue  # between what is learned from and what is tested on
            name, part = f"{sample}_{at[0]}{at[1]}{at[2]}", tuple(slice(EDGE * i, EDGE * (i + 1)) for i in at)
            tifffile.imwrite(images / f"{name}.tif", volume[part])
            if rim is not None:
                tifffile.imwrite(masks / f"{name}.tif", rim[part])
                names += [name] if at[0] == volume.shape[0] // EDGE - 1 else []
    listed = folder / "test.txt"
    listed.write_text("\n".join(names) + "\n")
    return images, masks, listed


def boundary(bodies: np.ndarray) -> np.ndarray:
    """1 where a voxel differs from a face neighbour."""
    found = np.zeros(bodies.shape, bool)
    for axis in range(bodies.ndim):
        low, high = ([slice(None)] * bodies.ndim for _ in range(2))
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        differs = bodies[tuple(low)] != bodies[tuple(high)]
        found[tuple(low)] |= differs
        found[tuple(high)] |= differs
    return found.astype(np.uint8)


def request(name: str, data: Path, out: Path, kind: str, minutes: float, changes: list[str]) -> api.Request:
    """What is asked of a set."""
    if name == "fibsem":
        folder = out / "blocks"
        known = (folder / "images", folder / "labels", folder / "test.txt")
        images, masks, test = known if known[2].exists() else blocks(data / name, folder)
    else:
        images, masks = data / name / "images", data / name / "labels"
        test = data / name / "test.txt" if (data / name / "test.txt").exists() else None
    return api.Request(images, masks, out / f"{name}-{kind}", test, minutes, changes=tuple(changes))


def adapted(run: Path) -> list[dict[str, Any]]:
    """A row for each count and start."""
    summary = runfolder.read_json(run / "adapt" / "summary.json")
    gains = {(g["count"], g["arm"]): g for g in summary["gains"]}
    found = []
    for row in summary["table"]:
        gain = gains.get((row["count"], row["arm"]), {})
        found.append({
            "arm": row["arm"], "labels": row["count"], **{k: row[k] for k in ("mean", "low", "high", "nsd", "hd95")},
            **{k: gain.get(v) for k, v in (("gain", "gain"), ("gain_low", "low"), ("gain_high", "high"))},
        })  # fmt: skip
    said = [summary[key]["sentence"] for key in ("saved", "choice", "model") if summary.get(key)]
    return [*found, {"arm": "all", "labels": f"{summary['draws']} draws of {summary['steps']} steps", "sentence": " ".join(said)}]


def compared(run: Path) -> list[dict[str, Any]]:
    """A row for each network and budget."""
    summary = runfolder.read_json(run / "compare" / "summary.json")
    pairs = {(p["method"], p["regime"]): p for p in summary["pairs"]}
    found = []
    for row in summary["table"]:
        pair = pairs.get((row["method"], row["regime"]), {})
        found.append({
            "arm": row["method"], "labels": f"equal {row['regime']}: {row['steps']} steps, {row['seconds']:.0f} s",
            **{k: row[k] for k in ("mean", "low", "high")},
            **{k: pair.get(v) for k, v in (("gain", "gain"), ("gain_low", "low"), ("gain_high", "high"))},
            "sentence": pair.get("verdict"),
        })  # fmt: skip
    said = [summary[key]["sentence"] for key in ("suitability", "advice") if summary.get(key)]
    return [*found, {"arm": "all", "labels": f"{summary.get('seeds')} seeds", "sentence": " ".join(said)}]


def main() -> None:
    """Runs what is not done, prints, writes a CSV for each set and command."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", type=Path)
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--only", choices=("hippocampus", "fibsem", "nuclei"))
    asked.add_argument("--adapt", type=float, default=12.0)
    asked.add_argument("--compare", type=float, default=10.0)
    asked.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    given = asked.parse_args()
    for name in [given.only] if given.only else ("hippocampus", "fibsem", "nuclei"):
        for kind, minutes in (("adapt", given.adapt), ("compare", given.compare)):
            if not minutes:
                continue
            wanted, listener = request(name, given.data, given.out, kind, minutes, given.set), Terminal()
            if kind == "adapt":
                run = api.run(wanted, listener).parent
            else:
                run = api.compare(wanted, progress=listener)[0]
                api.report(run)
            about = {"commit": provenance.commit()[:12], "minutes": minutes}
            rows = [{**row, **about} for row in (adapted if kind == "adapt" else compared)(run)]
            path = RESULTS / f"transfer_{name}_{kind}_{time.strftime('%Y-%m-%d')}.csv"
            with open(path, "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, [*HEAD, *about])
                table.writeheader()
                table.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
            print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
