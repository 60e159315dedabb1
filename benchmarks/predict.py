"""How fast is the sliding window, and how much memory does it take, beside MONAI's inferer and nnU-Net's predictor?

Question:  is `transfer.tiles` at least as fast as MONAI's SlidingWindowInferer and nnU-Net's nnUNetPredictor at equal overlap
           with the same network, with equal output to 1e-4, and does its memory keep to the setting?
Command:   python benchmarks/predict.py [--nnunet ENV/bin/python] [--rounds 5] [--threads 1] [--out results/predict_DATE.csv]
Peers:     MONAI beside us; nnU-Net v2 in an environment of its own, whose Python is given (same PyTorch), else left out.
Duration:  about five minutes.
How:       every contender is a process of its own that holds the network (traced, the same file for all) and one random
           volume; tiles of 32 x 32 x 32 overlap by half, on sizes where the grids of all three are one; one tile at a time,
           single precision, no mirroring. Rounds go from one to the next in an order that turns; a ratio is the median
           over rounds of the ratio within a round. memory: how far the most resident memory rose while predicting, MiB, beside
           what the result takes by itself.
Networks:  "residual encoder" (ours, nano, 3 classes): what a user waits for. "one convolution" (40 classes): what tiles cost.
Equal:     to MONAI with our Gaussian handed to it (its own is centred half a voxel off and cut at 1e-3), to nnU-Net as it is
           (it adds up in half precision) and with its sums in single precision, there also at an odd size.
Printed last time (a quiet machine, headwater is x times as fast): residual encoder: MONAI 1.01, with a buffer 1.05, nnU-Net
           1.06; one convolution: 1.16, 1.39, 1.46 (in slabs still 1.12 times faster, +0 MiB for a result of 90). Largest
           difference 1.2e-6; 0.5 to nnU-Net as it is. Newest: benchmarks/results/predict_*.csv.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

PATCH = (32, 32, 32)
NETWORKS = {  # classes, size, and a size at which MONAI's grid is another
    "residual encoder": (3, (64, 64, 48), (50, 41, 40)),
    "one convolution": (40, (96, 96, 64), (90, 71, 50)),
}
OURS, SLABS = "headwater", "headwater in slabs"
CONTENDERS = (OURS, SLABS, "MONAI", "MONAI with a buffer", "nnU-Net")
Predict = Callable[[torch.Tensor], torch.Tensor]


def ours(network: torch.nn.Module, classes: int, memory: float) -> Predict:
    """transfer.tiles; with less memory than the result takes, every slab is handed on and here dropped, as predict does."""
    from headwater.transfer import tiles

    if memory > 1:
        return lambda x: torch.from_numpy(tiles.scores(network, x.numpy(), PATCH, channels=classes, memory=memory))

    def predict(x: torch.Tensor) -> torch.Tensor:
        most = 4 * classes * PATCH[0] * x[0, 0].numel() / 2**30
        parts = tiles.slabs(network, x.numpy(), PATCH, channels=classes, memory=most)
        return torch.stack([part.mean() for _, part in parts])

    return predict


def monai(network: torch.nn.Module, classes: int, buffered: bool, weight: torch.Tensor | None = None) -> Predict:
    """Its inferer with Gaussian weights that are made once, or with those given."""
    from monai.inferers import SlidingWindowInferer, sliding_window_inference

    how = {"buffer_steps": 1, "buffer_dim": 0} if buffered else {}
    window = SlidingWindowInferer(PATCH, 1, 0.5, mode="gaussian", cache_roi_weight_map=True, **how)

    @torch.inference_mode()
    def predict(x: torch.Tensor) -> torch.Tensor:
        if weight is not None:
            return sliding_window_inference(x[None], PATCH, 1, network, 0.5, roi_weight_map=weight)[0]
        return window(x[None], network)[0]

    return predict


def nnunet(network: torch.nn.Module, classes: int, single: bool = False) -> Predict:
    """Its predictor, told of patch and classes as a plan would; single: its sums in single precision."""
    from types import SimpleNamespace

    from nnunetv2.inference import predict_from_raw_data as source

    predictor = source.nnUNetPredictor(0.5, True, False, False, torch.device("cpu"), allow_tqdm=False)
    predictor.network, predictor.allowed_mirroring_axes = network, None
    predictor.configuration_manager = SimpleNamespace(patch_size=PATCH)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)

    def predict(x: torch.Tensor) -> torch.Tensor:
        if not single:
            return predictor.predict_sliding_window_return_logits(x)
        half, gaussian = torch.half, source.compute_gaussian
        torch.half, source.compute_gaussian = torch.float32, partial(gaussian, dtype=torch.float32)
        try:
            return predictor.predict_sliding_window_return_logits(x)
        finally:
            torch.half, source.compute_gaussian = half, gaussian

    return predict


def contender(name: str, network: torch.nn.Module, classes: int) -> Predict:
    """By its name."""
    if name in (OURS, SLABS):
        return ours(network, classes, 8.0 if name == OURS else 0.0)
    return nnunet(network, classes) if name == "nnU-Net" else monai(network, classes, "buffer" in name)


def volume(size: tuple[int, ...]) -> torch.Tensor:
    """The same in every process."""
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))


def resident(most: bool) -> float:
    """MiB of this process now, or the most it ever had."""
    import resource

    if most:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def worker(name: str, traced: Path, which: str, threads: int) -> None:
    """Predicts whenever a line comes in, and says how long it took; "equal FOLDER" writes what is to be compared."""
    torch.set_num_threads(threads)
    network = torch.jit.load(traced).eval()
    classes, size, _ = NETWORKS[which]
    predict, x = contender(name, network, classes), volume(size)
    with torch.inference_mode():
        for _ in range(3):
            network(x[None, :, : PATCH[0], : PATCH[1], : PATCH[2]])  # what the network takes by itself
    before = resident(most=True)
    predict(x)
    print(json.dumps({"memory": resident(most=True) - before}), flush=True)
    for line in sys.stdin:
        word, _, folder = line.strip().partition(" ")
        started, worked = time.perf_counter(), time.process_time()
        if word == "equal":
            compare(name, network, which, Path(folder), predict)
        else:
            predict(x)
        print(json.dumps({"wall": time.perf_counter() - started, "worked": time.process_time() - worked}), flush=True)


def compare(name: str, network: torch.nn.Module, which: str, folder: Path, predict: Predict) -> None:
    """Results on disk: of both sizes where the tiles lie alike."""
    from scipy.ndimage import gaussian_filter

    classes, size, odd = NETWORKS[which]

    if name == OURS:
        found = {"all": predict(volume(size)), "odd": predict(volume(odd))}
    elif name == "MONAI":
        one = np.zeros(PATCH)
        one[tuple(p // 2 for p in PATCH)] = 1
        weight = gaussian_filter(one, [p / 8 for p in PATCH], mode="constant")
        found = {"all": monai(network, classes, False, torch.from_numpy(weight / weight.max()).float())(volume(size))}
    else:
        exact = nnunet(network, classes, single=True)
        found = {"as it is": predict(volume(size)), "all": exact(volume(size)), "odd": exact(volume(odd))}
    for key, value in found.items():
        np.save(folder / f"{name}-{key}.npy", value.float().numpy())


def traced(network: str, classes: int, folder: Path) -> Path:
    """The network as a file that any PyTorch runs."""
    torch.manual_seed(0)
    if network == "one convolution":
        made = torch.nn.Conv3d(1, classes, 3, padding=1)
    else:
        from headwater import backbones
        from headwater.backbones.decoder import Decoder
        from headwater.transfer.segment import Segmenter

        backbone = backbones.build("resenc", "nano", 1, 3, 8, seed=0)
        made = Segmenter(backbone, Decoder(backbone, classes), frozen=False)
    path = folder / f"{network}.pt"
    with torch.no_grad():
        torch.jit.trace(made.eval(), torch.randn(1, 1, *PATCH), check_trace=False).save(str(path))
    return path


def race(network: str, rounds: int, threads: int, pythons: dict[str, str], folder: Path) -> tuple[list[dict], dict[str, float]]:
    """Rows of one network, and the largest differences."""
    classes, size, _ = NETWORKS[network]
    file = traced(network, classes, folder)
    running = {}
    for name, python in pythons.items():
        call = [python, __file__, "--worker", name, str(file), network, "--threads", str(threads)]
        running[name] = subprocess.Popen(
            call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )
    ask = partial(_ask, running)
    memory = {name: _answer(running[name])["memory"] for name in running}
    took: dict[str, list[dict]] = {name: [] for name in running}
    order = list(running)
    for n in range(rounds):
        for name in order[n % len(order) :] + order[: n % len(order)]:
            took[name].append(ask(name, "go"))
    for name in running:
        if name in (OURS, "MONAI", "nnU-Net"):
            ask(name, f"equal {folder}")
    for process in running.values():
        process.stdin.close()
        process.wait()
    rows = []
    for name, spent in took.items():
        walls = [one["wall"] for one in spent]
        rows.append({
            "network": network, "contender": name, "threads": threads, "median_s": f"{statistics.median(walls):.3f}",
            "min_s": f"{min(walls):.3f}", "max_s": f"{max(walls):.3f}",
            "headwater is x times as fast": f"{_ratio(spent, took[OURS], 'wall'):.3f}",
            "the same by the processor": f"{_ratio(spent, took[OURS], 'worked'):.3f}",
            "memory_mib": f"{memory[name]:.0f}", "result_mib": f"{4 * classes * np.prod(size) / 2**20:.0f}",
        })  # fmt: skip
    return rows, differences(folder)


def _answer(process: subprocess.Popen) -> dict:
    for line in process.stdout:
        if line.startswith("{"):  # nnU-Net greets
            return json.loads(line)
    raise RuntimeError(f"{process.args[3]} ended early")


def _ask(running: dict[str, subprocess.Popen], name: str, word: str) -> dict:
    running[name].stdin.write(f"{word}\n")
    running[name].stdin.flush()
    return _answer(running[name])


def _ratio(above: list[dict], below: list[dict], clock: str) -> float:
    return statistics.median(a[clock] / b[clock] for a, b in zip(above, below, strict=True))


def differences(folder: Path) -> dict[str, float]:
    """The largest difference of ours to each of the others."""
    found = {}
    for other, key, what in (("MONAI", "all", "MONAI, same weights"), ("nnU-Net", "as it is", "nnU-Net as it is"),
                             ("nnU-Net", "all", "nnU-Net in single precision"),
                             ("nnU-Net", "odd", "nnU-Net in single precision, odd size")):  # fmt: skip
        if (file := folder / f"{other}-{key}.npy").exists():
            mine = np.load(folder / f"{OURS}-{'odd' if key == 'odd' else 'all'}.npy")
            found[what] = float(np.abs(mine - np.load(file)).max())
            file.unlink()
    return found


def main() -> None:
    """Measures everything, prints a line each and the answers, and writes the CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--threads", type=int, default=1)
    asked.add_argument("--nnunet", default="", help="the Python of an environment with nnunetv2")
    asked.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"predict_{date.today()}.csv")
    asked.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    told = asked.parse_args()
    if told.worker:
        worker(told.worker[0], Path(told.worker[1]), told.worker[2], told.threads)
        return
    pythons = {name: sys.executable for name in CONTENDERS if name != "nnU-Net"}
    if told.nnunet and subprocess.run([told.nnunet, "-c", "import nnunetv2"], capture_output=True).returncode == 0:
        pythons["nnU-Net"] = told.nnunet
    else:
        print("nnU-Net is left out: give --nnunet the Python of an environment that has it")
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here).stdout.strip()
    about = {"rounds": told.rounds, "torch": torch.__version__, "commit": commit, "date": str(date.today())}
    about |= {"machine": f"{platform.machine()} {os.cpu_count()} cores"}
    rows, answers = [], []
    for network in told.networks:
        load = f"{os.getloadavg()[0]:.1f}"
        with tempfile.TemporaryDirectory() as folder:
            found, apart = race(network, told.rounds, told.threads, pythons, Path(folder))
        rows += [row | {"load": load} for row in found]
        for row in found:
            print("  ".join(f"{value!s:<20}" for value in row.values()), flush=True)
        answers += [f"{network}: largest difference to {what} {value:.1e} (goal 1e-4)" for what, value in apart.items()]
        write(told.out, rows, answers, about)
    print("\n".join(answers))


def write(out: Path, rows: list[dict], answers: list[str], about: dict[str, object]) -> None:
    """What is known so far."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*rows[0], *about, "answer"])
        table.writeheader()
        table.writerows(row | about for row in rows)
        table.writerows({"answer": answer} | about for answer in answers)


if __name__ == "__main__":
    main()
