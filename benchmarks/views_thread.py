"""Does it pay to make views in a thread that computes alone?

Question:  how long is a training step while the next views are made, if their operations spread over all cores, and if they stay
           in their own thread (train.loop.alone)?
Command:   python benchmarks/views_thread.py
Duration:  about two minutes; the machine must be otherwise quiet.
How:       24 phantoms of 48^3, the default recipe in float32, all cores; both ways alternate in one process, medians over the
           steps of a round, ratio within a round.
"""

import copy
import csv
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

from headwater import recipes
from headwater.scans import phantom
from headwater.scans.passport import look
from headwater.scans.prepare import prepare
from headwater.train import loop

ROUNDS, STEPS, SIDE = 4, 14, 48


def main() -> None:
    """Measures, prints, writes benchmarks/results/views_thread_DATE.csv."""
    folder = Path(tempfile.mkdtemp())
    store = prepare(look(*phantom.write(folder, 24, (SIDE,) * 3, 0)), folder / "store")
    chosen = store.split("train")
    settings = replace(recipes.default((SIDE,) * 3, False, "cva", len(chosen)), precision="fp32")
    student, objective = loop.assemble(settings, store)
    teacher, optimizer = copy.deepcopy(student).requires_grad_(False), loop.optimizer_for(student, 1e-4, 0.0)

    def seconds(apart: bool) -> tuple[float, float]:
        """Median of a step, and the share of the time that it waited for views."""
        took, waited = [], 0.0
        with ThreadPoolExecutor(1) as ahead:
            if apart:
                loop.alone(ahead)
            given = (store, chosen, settings, student.backbone, objective.masked)
            coming = ahead.submit(loop.views_at, 0, *given)
            for step in range(STEPS):
                asked = time.perf_counter()
                views = coming.result()
                waited += time.perf_counter() - asked
                coming = ahead.submit(loop.views_at, step + 1, *given)
                loop.step(student, teacher, objective, optimizer, views, 1e-4, 0.9, settings)
                took.append(time.perf_counter() - asked)
        return statistics.median(took[1:]), waited / sum(took)

    rows = []
    for round in range(ROUNDS):
        (together, wait), (apart, wait_apart) = seconds(False), seconds(True)
        rows.append({"round": round, "cores": len(os.sched_getaffinity(0)), "together_s": together, "apart_s": apart})
        rows[-1] |= {"ratio": together / apart, "waiting_together": wait, "waiting_apart": wait_apart}
        print({key: round_of(value) for key, value in rows[-1].items()})
    path = Path(__file__).parent / "results" / f"views_thread_{date.today()}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"a step takes {statistics.median(r['ratio'] for r in rows):.2f} times as long where views spread over all cores")


def round_of(value: float) -> float:
    """Four digits are enough."""
    return round(value, 4)


if __name__ == "__main__":
    main()
