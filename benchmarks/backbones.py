"""How fast are the backbones beside their peers, and beside what the machine can do?

Question:  forward plus backward, same shapes, parameters and threads, peers in the same run. Is ResEnc with its decoder at least
           1.5x nnU-Net's network as nnU-Net trains it on a CPU? Swin at least 3x MONAI's SwinUNETR encoder? A ViT step with 75 %
           of its tokens hidden at least 3x the whole one? Does a ViT of size base run forward at 60 % of the rate of bare matrix
           products?
Command:   python benchmarks/backbones.py [--threads 2] [--rounds 7] [--quick] [--only PART ...] [--out FILE]
           python benchmarks/backbones.py --sizes: parameters of all families at all sizes, for the guide
Duration:  about ten minutes on two idle cores; a minute with --quick, whose tiny shapes say that it runs, nothing about speed.
Method:    all ways of a part run once per round, in an order that turns by one from round to round; medians over rounds; ratio:
           the peer's median over ours. Weights are copied and outputs compared first, in float32. nnU-Net trains on a CPU in
           float32, not compiled, with deep supervision (nnUNetTrainer: autocast and torch.compile are for CUDA); its bf16 row
           shows what that alone would give it. Floating-point operations are counted product by product: two per multiply-add,
           attention 4 N^2 D per block. The rate they are held against is measured in the same rounds: the same shapes as bare
           torch.mm, and 2048 x 2048 x 2048; the larger of the two counts.
Printed last time: the rows with a verdict in the newest benchmarks/results/backbones_*.csv.
"""

import argparse
import csv
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"
PARTS = ("resenc", "swin", "masking", "rate", "families")
GOALS = {"resenc": 1.5, "swin": 3.0, "masking": 3.0, "rate": 0.6}
Way = Callable[[], object]


def clock(ways: dict[str, Way], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of every way in every round, by the clock and of the processor, after one round that does not count."""
    names, seconds = list(ways), {name: [] for name in ways}
    for r in range(rounds + 1):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            gc.collect()
            start, worked = time.perf_counter(), time.process_time()
            ways[name]()
            if r:
                seconds[name].append((time.perf_counter() - start, time.process_time() - worked))
    return seconds


def train_step(net: nn.Module, maps: Callable[[nn.Module], list[Tensor]], bf16: bool = False) -> Way:
    """Forward and backward of the mean square of all maps."""

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = maps(net)
        sum(m.float().square().mean() for m in found).backward()
        net.zero_grad(set_to_none=True)

    return step


def gradient(net: nn.Module, maps: Callable[[nn.Module], list[Tensor]], bf16: bool = False) -> tuple[Tensor, Tensor]:
    """All maps in a row, and the gradient of all parameters for a fixed cotangent."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = maps(net)
    noise = torch.Generator().manual_seed(1)
    sum((m.float() * torch.randn(m.shape, generator=noise)).mean() for m in found).backward()
    grads = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    net.zero_grad(set_to_none=True)
    return torch.cat([m.detach().float().flatten() for m in found]), grads


def apart(a: Tensor, b: Tensor) -> float:
    """Length of the difference over the length of b."""
    return float((a - b).norm() / b.norm())


def count(net: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in net.parameters())


def told(part: str, seconds: dict[str, list[tuple[float, float]]], peer: str, **more: object) -> list[dict[str, Any]]:
    """One row per way; ratios: the peer's median over its own, by the clock and by processor time (less shaken by load)."""
    middle = {name: [statistics.median(kind) for kind in zip(*taken, strict=True)] for name, taken in seconds.items()}
    return [
        {
            "part": part,
            "case": name,
            "median_ms": 1e3 * middle[name][0],
            "min_ms": 1e3 * min(wall for wall, _ in taken),
            "max_ms": 1e3 * max(wall for wall, _ in taken),
            "processor_ms": 1e3 * middle[name][1],
            "ratio": middle[peer][0] / middle[name][0],
            "processor_ratio": middle[peer][1] / middle[name][1],
            **more,
        }
        for name, taken in seconds.items()
    ]


def verdict(part: str, name: str, value: float, note: str) -> dict[str, Any]:
    """The row that says whether the goal is met."""
    met = "met" if value >= GOALS[part] else "missed"
    return {"part": part, "case": f"answer: {name}", "ratio": value, "goal": GOALS[part], "verdict": met, "note": note}


def resenc(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """ResEnc and U-Net decoder against dynamic_network_architectures, from one nnU-Net plan."""
    from peers import resenc_pair  # beside this file

    plan = {"widths": (8, 16, 32), "blocks": (1, 2, 2)} if quick else {"widths": (32, 64, 128, 256), "blocks": (1, 3, 4, 6)}
    size = (2, 1, 16, 24, 16) if quick else (2, 1, 40, 56, 40)  # nnU-Net's patch for hippocampus
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    ours, theirs = resenc_pair(**plan)
    exact, grads = gradient(ours, lambda net: net(x))
    peer, peer_grads = gradient(theirs, lambda net: net(x))
    rounded, rounded_grads = gradient(ours, lambda net: net(x), bf16=True)
    peer_rounded, peer_rounded_grads = gradient(theirs, lambda net: net(x), bf16=True)
    note = (
        f"{count(ours)} and {count(theirs)} parameters; outputs differ by {apart(exact, peer):.1e} in float32; bf16 from "
        f"float32: outputs {apart(rounded, exact):.1e} (nnU-Net's own {apart(peer_rounded, peer):.1e}), "
        f"gradient {apart(rounded_grads, grads):.1e} ({apart(peer_rounded_grads, peer_grads):.1e})"
    )
    ways = {}
    for bf16 in (False, True):
        kind = "bf16" if bf16 else "float32"
        ways[f"nnU-Net {kind}"] = train_step(theirs, lambda net: net(x), bf16)
        ways[f"headwater {kind}"] = train_step(ours, lambda net: net(x), bf16)
    rows = told("resenc", clock(ways, rounds), "nnU-Net float32", parameters=count(ours), shape="x".join(map(str, size)))
    best = max((row for row in rows if row["case"].startswith("headwater")), key=lambda row: row["ratio"])
    return [*rows, verdict("resenc", f"{best['case']} against nnU-Net float32", best["ratio"], note)]


def swin(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Swin against the encoder of MONAI's SwinUNETR, without its last merging, which has no counterpart here."""
    from peers import stage_of, swin_pair

    size = (1, 1, 32, 32, 32) if quick else (1, 1, 64, 64, 64)
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    ours, theirs = swin_pair(12 if quick else 24)
    stage = 1 if quick else 2  # the last whose grid holds a window: in a smaller one MONAI takes the biases of other offsets
    exact, _ = gradient(ours, lambda net: [net(x).pyramid[stage]])
    peer, _ = gradient(theirs, lambda net: [stage_of(net, x, stage)])
    note = (
        f"{count(ours)} and {count(theirs)} parameters (ours: a hidden token, and norms with a gain, more); "
        f"maps of stage {stage + 1} differ by {apart(exact, peer):.1e}"
    )
    ways = {}
    for bf16 in (False, True):
        kind = "bf16" if bf16 else "float32"
        ways[f"MONAI {kind}"] = train_step(theirs, lambda net: list(net(x)), bf16)
        ways[f"headwater {kind}"] = train_step(ours, lambda net: net(x).pyramid, bf16)
    rows = told("swin", clock(ways, rounds), "MONAI float32", parameters=count(ours), shape="x".join(map(str, size)))
    same = next(row for row in rows if row["case"] == "headwater float32")
    return [*rows, verdict("swin", "float32 against float32", same["ratio"], note)]


def masking(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """A ViT step with three quarters of the tokens hidden against the whole one."""
    from headwater.backbones import build
    from headwater.streams import numpy_stream
    from headwater.views import draw_masks

    net = build("vit", "nano" if quick else "small", seed=0)
    side = 24 if quick else 40
    x = torch.randn(2, 1, side, side, side, generator=torch.Generator().manual_seed(0))
    keep = draw_masks(numpy_stream(0, "masks"), 2, net.grid(x.shape[2:]), 0.75)
    ways = {
        "whole": train_step(net, lambda n: [n(x).tokens]),
        "75 % hidden": train_step(net, lambda n: [n(x, keep).tokens]),
    }
    rows = told("masking", clock(ways, rounds), "whole", parameters=count(net), shape=f"2x1x{side}^3, patch 4")
    return [
        *rows,
        verdict("masking", "75 % hidden", rows[1]["ratio"], f"{int(keep[0].sum())} of {keep[0].numel()} tokens, float32"),
    ]


def products(net: nn.Module, tokens: int) -> list[tuple[int, int, int]]:
    """Rows, inner and columns of every matrix product of a ViT's forward pass of one image but those of attention."""
    return [(tokens, part.in_features, part.out_features) for part in net.modules() if isinstance(part, nn.Linear)]


def rate(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """A ViT's forward pass in GFLOP/s beside the rate of bare products."""
    from torch.utils.flop_counter import FlopCounterMode

    from headwater.backbones import build

    net, side = build("vit", "nano" if quick else "base", seed=0).eval(), 24 if quick else 40
    x = torch.randn(1, 1, side, side, side, generator=torch.Generator().manual_seed(0))
    tokens = (side // 4) ** 3
    shapes = products(net, tokens)
    linear = sum(2 * n * k * m for n, k, m in shapes)
    whole = linear + len(net.stack.blocks) * 4 * tokens**2 * net.dim
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(x)
    counted = counter.get_total_flops()  # torch leaves out attention where it has no formula for the processor's kernel
    assert counted in (linear, whole), (counted, linear, whole)
    pairs = {shape: (torch.randn(shape[0], shape[1]), torch.randn(shape[1], shape[2])) for shape in set(shapes)}
    square = torch.randn(2048, 2048)

    @torch.inference_mode()
    def forward(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            net(x)

    ways = {
        "forward float32": lambda: forward(False),
        "forward bf16": lambda: forward(True),
        "its products, bare": lambda: [torch.mm(*pairs[shape]) for shape in shapes],
        "2048 x 2048 x 2048": lambda: torch.mm(square, square),
    }
    work = {"forward float32": whole, "forward bf16": whole, "its products, bare": linear, "2048 x 2048 x 2048": 2 * 2048**3}
    rows = told("rate", clock(ways, rounds), "forward float32", parameters=count(net), shape=f"1x1x{side}^3, patch 4")
    for row in rows:
        row |= {
            "gflop": work[row["case"]] / 1e9,
            "gflop_s": work[row["case"]] / 1e6 / row["median_ms"],
            "ratio": "",
            "processor_ratio": "",
        }
    mine, _, same, cube = (row["gflop_s"] for row in rows)
    note = f"{mine:.0f} GFLOP/s of {same:.0f} (same shapes) and {cube:.0f} (2048 cubed); {whole / 1e9:.1f} GFLOP, {tokens} tokens"
    return [*rows, verdict("rate", "forward float32", mine / max(same, cube), note)]


def family(name: str, rounds: int) -> dict[str, Any]:
    """One step of a family in this process: time, parameters, and how far memory rises above the built network."""
    import resource

    from headwater.backbones import build

    net = build(name, "nano", seed=0)
    x = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    before = float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    step = train_step(net, lambda n: [n(x).tokens])
    step()
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before
    taken = clock({name: step}, rounds)
    return told("families", taken, name, parameters=count(net), memory_mib=rise, shape="2x1x32^3")[0] | {
        "ratio": "",
        "processor_ratio": "",
    }


def families(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """All families at size nano, each in a process of its own."""
    from headwater.backbones import FAMILIES

    rows = []
    for name in FAMILIES:
        code = [sys.executable, __file__, "--family", name, "--rounds", str(rounds), "--threads", str(torch.get_num_threads())]
        done = subprocess.run(code, capture_output=True, text=True)
        worked = done.returncode == 0
        rows.append(
            json.loads(done.stdout.splitlines()[-1])
            if worked
            else {"part": "families", "case": name, "note": done.stderr.strip()[-200:]}
        )
    return rows


def units() -> str:
    """What the processor has for bf16, which decides whether bf16 is faster or slower than float32 here."""
    told = Path("/proc/cpuinfo")
    flags = told.read_text() if told.exists() else ""
    return "AMX" if "amx_bf16" in flags else "bf16 dot products, no AMX" if "avx512_bf16" in flags else "no bf16"


def sizes() -> list[str]:
    """Rows of a Markdown table: millions of parameters of every family at every size, 3D, one channel, patch 4."""
    from headwater.backbones import FAMILIES, build

    lines = []
    for name, family in FAMILIES.items():
        with torch.device("meta"):
            counts = [f"{count(build(name, size)) / 1e6:.1f}" for size in family.sizes]
        lines.append(f"| `{name}` | {' / '.join(counts)} |")
    return lines


def shown(row: dict[str, Any]) -> str:
    """A row in a line."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if v != "")


def main() -> None:
    """Measures, prints a line each, and writes the CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked.add_argument("--rounds", type=int, default=7)
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked.add_argument("--out", type=Path)
    asked.add_argument("--sizes", action="store_true", help="only say how many parameters each family has at each size")
    asked.add_argument("--family", help=argparse.SUPPRESS)
    given = asked.parse_args()
    torch.set_num_threads(given.threads)
    if given.family:
        print(json.dumps(family(given.family, given.rounds)))
        return
    if given.sizes:
        print("\n".join(sizes()))
        return
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    about = {
        "threads": given.threads,
        "rounds": given.rounds,
        "torch": torch.__version__,
        "commit": commit,
        "machine": f"{platform.machine()} {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, {units()}",
        "date": str(date.today()),
    }
    rows: list[dict[str, Any]] = []
    for part in given.only:
        load = f"{os.getloadavg()[0]:.1f}"
        try:
            found = globals()[part](given.rounds, given.quick)
        except ImportError as error:
            found = [{"part": part, "case": "not run", "note": str(error)}]
        rows += [row | {"load": load} for row in found]
        print("\n".join(shown(row) for row in found), flush=True)
    out = given.out or RESULTS / f"backbones_{'quick_' if given.quick else ''}{date.today()}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(key for row in rows for key in row))
    with open(out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*names, *about])
        table.writeheader()
        for row in rows:
            table.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} | about)
    print(
        "\n".join(
            f"{row['part']}: {row['ratio']:.2f} against {row['goal']}, {row['verdict']}" for row in rows if "verdict" in row
        )
    )


if __name__ == "__main__":
    main()
