"""How long does one self-attention step of n tokens on the sphere S^2 take, by harmonics and by its peers?

Question:  beta = 9: is a step of a million tokens, with errors of at most 1e-6 against the exact sum, done within one second and 2 GiB
           on two cores? Does time rise as n from 10^3 to 10^7 (slope 1 +- 0.1)? From which n on does it beat exact fused attention?
Command:   python benchmarks/particles.py [--largest 1e7] [--repeats 5] [--out benchmarks/results/particles_DATE.csv]
Duration:  about 5 minutes on two idle cores; up to 20 where they are shared.
Method:    a step is the tangent velocity of all tokens. Every (method, n) runs in a process of its own, which first warms up: peak memory
           is that process's, Python and torch included (about 0.25 GiB). Wall and processor seconds are of whole steps, smallest and
           median of the repeats: on a shared machine the smallest says what the code needs, processor seconds / 2 the least it can take.
           Errors: pull = sum_j A_ij x_j against the dense sum in float64 at 200 tokens, relative to its length, and the same for the
           tangent velocity, which is far shorter. Peers compute in float32, where they are fastest; harmonics in float64.
Printed last time: see the end of the newest benchmarks/results/particles_*.csv; its last lines answer the question.
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
BETA = 9.0
LIMITS = {"naive softmax": 16384, "pykeops": 65536, "torch fused": 65536}  # beyond: out of memory, minutes per step
SIZES = (1000, 2000, 4000, 10_000, 16_384, 65_536, 100_000, 1_000_000, 10_000_000)


def step_of(method: str, tol: float):  # noqa: ANN201
    """A function from tokens (1, N, 3) to tangent velocities."""
    import torch
    from headwater.flow.interaction import attend
    from headwater.flow.sphere import tangent

    if method == "harmonics":
        return lambda x: attend(x, BETA, tol=tol, method="harmonics", tangential=True)[0]
    if method == "naive softmax":
        return lambda x: tangent(x, (BETA * x @ x.mT).softmax(-1) @ x)
    if method == "torch fused":
        from torch.nn.functional import scaled_dot_product_attention as fused

        return lambda x: tangent(x, fused(BETA * x[None], x[None], x[None], scale=1.0)[0])
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)

    def keops(x: torch.Tensor) -> torch.Tensor:
        i, j = LazyTensor(x[0][:, None, :].contiguous()), LazyTensor(x[0][None, :, :].contiguous())
        return tangent(x, (BETA * (i | j)).sumsoftmaxweight(j, dim=1)[None])

    return keops


def one(method: str, n: int, repeats: int, tol: float) -> dict[str, float]:
    """Times, errors and peak memory of one method at one size, in this process."""
    import torch
    from headwater.flow import sphere

    torch.set_num_threads(2)
    x = sphere.uniform(n, 3, torch.Generator().manual_seed(0))
    given = x if method == "harmonics" else x.float()
    with torch.inference_mode():
        step = step_of(method, tol)
        step(given[:, : min(n, 2000)])
        for _ in range(2 if n <= 100_000 else 0):
            found = step(given)
        wall, spent = [], []
        for _ in range(repeats):
            clock, worked = time.perf_counter(), time.process_time()
            found = step(given)
            wall.append(time.perf_counter() - clock)
            spent.append(time.process_time() - worked)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        some = torch.randperm(n, generator=torch.Generator().manual_seed(1))[:200]
        pulls = torch.stack([(BETA * (x[0] @ x[0, i])).softmax(0) @ x[0] for i in some])
        wanted = sphere.tangent(x[0, some], pulls)
        off = (found[0, some].double() - wanted).norm(dim=-1)
        # the radial part of the pull is left out by the step: its error is measured through the untangled pull for harmonics
        error = float((off / pulls.norm(dim=-1)).max())
        if method == "harmonics" and n <= 1_000_000:
            from headwater.flow.harmonics import attend

            answer = attend(x, BETA, tol=tol)
            error = float(((answer.pull[0, some] - pulls).norm(dim=-1) / pulls.norm(dim=-1)).max())
    return {
        "min_s": min(wall),
        "median_s": statistics.median(wall),
        "max_s": max(wall),
        "processor_s": min(spent),
        "error_pull": error,
        "error_velocity": float((off / wanted.norm(dim=-1)).max()),
        "error_velocity_median": float((off / wanted.norm(dim=-1)).median()),
        "peak_gib": peak,
    }


def measured(method: str, n: int, repeats: int, tol: float) -> dict[str, object]:
    """One row, from a process of its own; a peer that fails says why in its row."""
    code = [sys.executable, __file__, "--one", method, "--n", str(n), "--repeats", str(repeats), "--tol", str(tol)]
    try:
        done = subprocess.run(code, capture_output=True, text=True, timeout=900)
        row = (
            json.loads(done.stdout.splitlines()[-1])
            if done.returncode == 0
            else {"note": (done.stderr or "failed").strip()[-200:]}
        )
    except subprocess.TimeoutExpired:
        row = {"note": "more than 900 s"}
    return {
        "method": method,
        "n": n,
        "tol": tol if method == "harmonics" else "",
        "repeats": repeats,
        "load": f"{os.getloadavg()[0]:.1f}",
        **row,
    }


def slope(points: list[tuple[int, float]]) -> float:
    """Least-squares slope of log time against log n."""
    xs, ys = zip(*((math.log10(n), math.log10(t)) for n, t in points), strict=True)
    x, y = statistics.fmean(xs), statistics.fmean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def crossover(ours: dict[int, float], theirs: dict[int, float]) -> str:
    """The n at which two curves meet, by lines in the log-log plane."""
    both = sorted(set(ours) & set(theirs))
    gaps = [(n, math.log(theirs[n] / ours[n])) for n in both]
    if gaps[0][1] > 0:
        return f"below {both[0]}"
    for (a, low), (b, high) in zip(gaps, gaps[1:], strict=False):
        if low <= 0 < high:
            return f"{math.exp(math.log(a) - low * (math.log(b / a)) / (high - low)):.0f}"
    return f"above {both[-1]}"


def told(rows: list[dict[str, object]]) -> list[str]:
    """The answers, in words."""
    answers = []
    fused = {row["n"]: row for row in rows if row["method"] == "torch fused" and "min_s" in row}
    for tol in sorted({row["tol"] for row in rows if row["method"] == "harmonics"}, reverse=True):
        ours = {row["n"]: row for row in rows if row["tol"] == tol and "min_s" in row}
        decades = [n for n in ours if n in (1000, 10_000, 100_000, 1_000_000, 10_000_000)]
        for clock in ("min_s", "processor_s"):
            found = slope([(n, ours[n][clock]) for n in decades]) if len(decades) > 1 else math.nan
            meet = crossover(*({n: row[clock] for n, row in curve.items()} for curve in (ours, fused)))
            answers.append(
                f"tol {tol:g}, by {clock}: slope {found:.3f} over n = {decades[0]} to {decades[-1]}; meets torch fused at n = {meet}"
            )
        if 1_000_000 in ours:
            row = ours[1_000_000]
            answers.append(
                f"tol {tol:g}, a million tokens: {row['min_s']:.2f} s (median {row['median_s']:.2f}, processor {row['processor_s']:.2f}), "
                f"error of the pull {row['error_pull']:.1e}, of the velocity {row['error_velocity']:.1e} "
                f"(median {row['error_velocity_median']:.1e}), peak {row['peak_gib']:.2f} GiB"
            )
    return answers


def main() -> None:
    """Measures everything, prints a line each and the answers, and writes the CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--largest", type=float, default=1e7)
    asked.add_argument("--repeats", type=int, default=5)
    asked.add_argument("--out", type=Path, default=RESULTS / f"particles_{date.today()}.csv")
    for hidden, kind in (("--one", str), ("--n", int), ("--tol", float)):
        asked.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.n, given.repeats, given.tol)))
        return
    ways = [("harmonics", 1e-6), ("harmonics", 1e-9), ("torch fused", 0.0), ("naive softmax", 0.0)]
    rows: list[dict[str, object]] = []
    if importlib.util.find_spec("pykeops"):
        ways.append(("pykeops", 0.0))
    else:
        rows.append({"method": "pykeops", "note": "not installed"})
    place = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place).stdout.strip()
    about = {
        "beta": BETA,
        "threads": 2,
        "commit": commit,
        "machine": f"{platform.machine()} {os.cpu_count()} cores",
        "date": str(date.today()),
    }
    for n in SIZES:
        for method, tol in ways:
            if n > min(given.largest, LIMITS.get(method, math.inf)):
                continue
            repeats = (
                1
                if n > 1_000_000 or (method == "pykeops" and n > 20_000)
                else min(given.repeats, 3)
                if n > 20_000
                else 4 * given.repeats
            )
            rows.append(measured(method, n, repeats if method == "harmonics" or n < 60_000 else min(repeats, 2), tol))
            print({key: f"{value:.3g}" if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
    answers = told(rows)
    print("\n".join(answers))
    names = list(dict.fromkeys(key for row in rows for key in row)) + ["note"] * all("note" not in row for row in rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with open(given.out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*names, *about])
        table.writeheader()
        for row in rows:
            table.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} | about)
        for answer in answers:
            table.writerow({"method": "answer", "note": answer} | about)


if __name__ == "__main__":
    main()
