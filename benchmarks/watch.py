"""What does a watch cost?

Question:  how much time does a watch take of a training at its default cadence, how much memory does it add to the peak, and how
           long is the panel of n = 2048 features of d = 768?
Command:   python benchmarks/watch.py [--steps 12] [--rounds 5] [--threads 2] [--minutes 0] [--only time]
Duration:  about five minutes on two cores.
How:       two loops: ours (the default recipe on phantoms of 48^3) and a Hugging Face ViT of 64 x 64 pixels under AdamW. Steps
           with the watch, which does not look then, and without it alternate in one process, and looks come in between, so that
           what else the machine does meets all: medians, and ratios within a round. How many steps a look takes says how seldom
           the watch looks by default, at 1 % of the time. Memory: peaks (ru_maxrss) of child processes that train the same steps,
           with three looks and without, alternating; medians. Last printed: see the CSV of the latest date in benchmarks/results.
"""

import argparse
import copy
import csv
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwater.observe.features import agreement
from headwater.observe.published import published
from headwater.observe.spectra import join, moments, variances
from headwater.observe.variance import token_variance
from headwater.observe.watch import SHARE, Watch

SIDE, PIXELS = 48, 64
Step = Callable[[int], Any]


def ours() -> tuple[nn.Module, torch.Tensor, Step]:
    """Network, probe images and a step of our own loop: default recipe, phantoms, views made within the step."""
    from headwater import recipes
    from headwater.scans import phantom
    from headwater.scans.passport import look
    from headwater.scans.prepare import prepare
    from headwater.train import loop

    folder = Path(tempfile.mkdtemp())
    store = prepare(look(*phantom.write(folder, 24, (SIDE,) * 3, 0)), folder / "store")
    chosen = store.split("train")
    settings = replace(recipes.default((SIDE,) * 3, False, "cva", len(chosen)), precision="fp32")
    student, objective = loop.assemble(settings, store)
    teacher, optimizer = copy.deepcopy(student).requires_grad_(False), loop.optimizer_for(student, 1e-4, 0.0)
    crop = settings.views.crop
    images = torch.stack([torch.from_numpy(store.image(i).astype("float32")) for i in chosen])
    images = images[(..., *(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(images.shape[2:], crop, strict=True)))]

    def step(n: int) -> None:
        views = loop.views_at(n, store, chosen, settings, student.backbone, objective.masked)
        loop.step(student, teacher, objective, optimizer, views, 1e-4, 0.9, settings)

    return student, images.repeat(96 // len(images) + 1, *(1,) * (images.ndim - 1))[:96], step


def hugging() -> tuple[nn.Module, torch.Tensor, Step]:
    """Network, probe images and a step of a plain loop around a Hugging Face ViT (4.8 million parameters), batches of 32."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
    network = ViTForImageClassification(ViTConfig(**sizes, image_size=PIXELS, patch_size=8, num_labels=10))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    images = nn.functional.interpolate(torch.randn(192, 3, 8, 8), PIXELS, mode="bilinear")
    labels = torch.arange(192) % 10

    def step(n: int) -> None:
        rows = torch.randint(0, 192, (32,))
        network(pixel_values=images[rows], labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return network, images[:96], step


LOOPS = {"ours": ours, "hugging face ViT": hugging}


def timed(do: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds it took; with time.process_time, of all cores together, which other processes hardly touch."""
    began = clock()
    do()
    return clock() - began


def share_of_time(name: str, steps: int, rounds: int) -> dict[str, float]:
    """Medians of a step without, of a step with the call that does not look, of a look; and what follows at default cadence."""
    network, images, step = LOOPS[name]()
    watch = Watch(network, images)
    assert not watch.off, watch.off
    without, beside, looks, count = [], [], [], 0
    cores: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        parts: tuple[list[float], list[float]] = ([], [])
        for _ in range(max(1, steps // 2)):
            for watched, part in enumerate(parts):
                count += 1
                part.append(timed(lambda n=count, watched=watched: (step(n), watch(n) if watched else None)))
        without.append(statistics.median(parts[0]))
        beside.append(statistics.median(parts[1]))
        looks.append(timed(lambda n=count: watch._look(n, None)))
        cores[0].append(timed(lambda n=count: step(n), time.process_time))
        cores[1].append(timed(lambda n=count: watch._look(n, None), time.process_time))
    call = timed(lambda: [watch(count + n) for n in range(1, 1001)]) / 1000
    step_cores, look_cores = (statistics.median(found) for found in cores)
    ratio = look_cores / step_cores
    found = {"step_s": statistics.median(without), "look_s": statistics.median(looks), "call_without_look_s": call}
    found |= {"step_cpu_s": step_cores, "look_cpu_s": look_cores, "look_in_steps": ratio, "every_steps": ratio / SHARE}
    return found | {"idle_share": statistics.median(b / a for a, b in zip(without, beside, strict=True)) - 1}


def run_whole(name: str, minutes: float) -> dict[str, float]:
    """A loop with a watch at its default cadence for some minutes: the share of the time that its looks took."""
    network, images, step = LOOPS[name]()
    watch = Watch(network, images)
    began, spent, count, first = time.perf_counter(), 0.0, 0, len(watch.looks)
    while time.perf_counter() - began < 60 * minutes:
        count += 1
        step(count)
        spent += timed(lambda n=count: watch(n))
    return {"share": spent / (time.perf_counter() - began), "looks": len(watch.looks) - first, "steps": count}


def child(name: str, watched: bool, steps: int) -> None:
    """Trains some steps, with a look before, amid and after or without, and prints its own peak memory in MiB."""
    network, images, step = LOOPS[name]()
    watch = Watch(network, images, every=max(1, steps // 2)) if watched else None
    for n in range(1, steps + 1):
        step(n)
        _ = watch and watch(n)
    assert watch is None or (not watch.off and len(watch.looks) == 3)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_memory(name: str, rounds: int, threads: int) -> dict[str, float]:
    """Median peaks of child processes with and without."""
    peaks: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for watched, found in peaks.items():
            command = [sys.executable, __file__, "--child", name, "--threads", str(threads), *(["--watched"] if watched else [])]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(float(done.stdout.split()[-1]))
    plain, watched = statistics.median(peaks[False]), statistics.median(peaks[True])
    return {"peak_MiB": plain, "peak_watched_MiB": watched, "extra_share": watched / plain - 1}


def panel(n: int = 2048, d: int = 768, rounds: int = 5) -> dict[str, float]:
    """Seconds of each part of the panel, medians; and n = 65,536 joined in chunks of 2048, beside one chunk."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(n, 64, generator=generator) @ torch.randn(64, d, generator=generator)
    a, b = (shared + torch.randn(n, d, generator=generator) for _ in range(2))
    tokens = a[:1024].view(64, 16, d)
    parts = {
        "agreement": lambda: agreement(a, b, seed=0),
        "published": lambda: published(torch.stack([a, b], 1)),
        "variance": lambda: token_variance(tokens),
    }
    took: dict[str, list[float]] = {name: [] for name in [*parts, "panel", "chunk"]}
    for turn in range(rounds + 1):  # the first warms up and does not count
        seconds = {name: timed(do) for name, do in parts.items()}
        seconds |= {"panel": sum(seconds.values()), "chunk": timed(lambda: join(moments(a), moments(b)))}
        for name, value in seconds.items():
            took[name] += [value] if turn else []
    found = {name: statistics.median(values) for name, values in took.items()} | {"panel_best": min(took["panel"])}
    cores = [timed(lambda: [do() for do in parts.values()], time.process_time) for _ in range(rounds)]
    found["panel_cpu"] = statistics.median(cores)

    def stream() -> None:
        joined = moments(a)
        for _ in range(31):
            joined = join(joined, moments(b))
        variances(joined)

    return found | {"streamed_65536": timed(stream)}


def main() -> None:
    """Measures, prints, writes benchmarks/results/watch_DATE.csv."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--steps", type=int, default=12)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked.add_argument("--minutes", type=float, default=0.0, help="of each loop, to measure the share of its looks as it runs")
    asked.add_argument("--only", choices=["time", "memory", "panel"])
    asked.add_argument("--loop", choices=list(LOOPS), help="this one only")
    asked.add_argument("--child", choices=list(LOOPS), help=argparse.SUPPRESS)
    asked.add_argument("--watched", action="store_true", help=argparse.SUPPRESS)
    told = asked.parse_args()
    torch.set_num_threads(told.threads)
    logging.getLogger("headwater").addHandler(logging.NullHandler())
    if told.child:
        child(told.child, told.watched, 6)
        return
    rows: list[tuple[str, str, float]] = []

    def note(what: str, found: dict[str, float]) -> None:
        for measure, value in found.items():
            rows.append((what, measure, value))
            print(f"{what:<20} {measure:<20} {value:.4g}", flush=True)

    for name in [told.loop] if told.loop else LOOPS:
        if told.only in (None, "time"):
            note(name, share_of_time(name, told.steps, told.rounds))
        if told.minutes:
            note(name, run_whole(name, told.minutes))
        if told.only in (None, "memory"):
            note(name, peak_memory(name, told.rounds, told.threads))
    if told.only in (None, "panel"):
        note("panel 2048 x 768", panel(rounds=told.rounds))
    path = Path(__file__).parent / "results" / f"watch_{date.today()}.csv"
    head = ["what", "measure", "value", "threads", "load", "machine"]
    kept = {}
    if path.exists():  # parts measured before with --only stay
        with path.open(newline="", encoding="utf-8") as file:
            kept = {(row["what"], row["measure"]): [row[name] for name in head] for row in csv.DictReader(file)}
    around = [told.threads, f"{os.getloadavg()[0]:.1f}", f"{platform.machine()} {os.cpu_count()} cores"]
    kept |= {(what, measure): [what, measure, f"{value:.5g}", *around] for what, measure, value in rows}
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *kept.values()])


if __name__ == "__main__":
    main()
