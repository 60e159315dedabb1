"""From a budget in minutes and a measured step to the number of steps, draws and labels, each with its reason."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from headwater.device import Machine, peak_memory
from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.runfolder import write_json
from headwater.scans.store import Store
from headwater.settings import Pretrain, Settings

WARMING = 0.3  # share of the budget for pretraining when there are labels to spend the rest on
FEWEST, MOST = 40, 1000  # steps of one adaptation that are worth making
SHORTEST = 20  # steps of pretraining that are worth making
LOOKING = 0.15  # share of pretraining that the watch may take
DRAWS = 3  # of labels: what an interval needs at least; more when the budget allows
MARGIN = 0.9  # of the budget is planned: reading, looking at features and writing the page need the rest


@dataclass(frozen=True)
class Costs:
    """Measured seconds: one pretraining step (by precision, and the better), one look of the watch, one adaptation step by arm,
    one test scan; and GiB at the peak."""

    steps: dict[str, float]
    precision: str
    look: float
    adapt: dict[str, float]
    test: float
    memory: float

    @property
    def pretrain(self) -> float:
        """Seconds of a pretraining step at the chosen precision."""
        return self.steps[self.precision]


def measure(store: Store, settings: Settings, labelled: list[int], progress: Progress | None = None) -> Costs:
    """Runs each kind of step for real, a few times."""
    import copy

    from headwater.device import machine
    from headwater.train import loop

    device, chosen = machine().device, store.split("train")
    student, objective = loop.assemble(settings, store)
    student = student.to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = loop.optimizer_for(student, 0.0, 0.0)

    def step(precision: str) -> None:
        views = loop.views_at(0, store, chosen, settings, student.backbone).to(device)
        loop.step(student, teacher, objective, optimizer, views, 0.0, 1.0, replace(settings, precision=precision))

    tried = {"auto": ["fp32", "bf16"] if machine().bf16 else ["fp32"]}.get(settings.precision, [settings.precision])
    with (progress or Silent()).track("Measuring", len(tried) + 2) as advance:
        steps = {}
        for precision in tried:
            steps[precision] = _seconds(partial(step, precision), device, 2 if precision == tried[0] else 1)
            advance(1)
        return _all_costs(store, settings, labelled, steps, teacher, device, advance)


def _all_costs(
    store: Store, settings: Settings, labelled: list[int], steps: dict[str, float], network: Any, device: Any, advance: Any
) -> Costs:
    """What else a run does, at the precision that pays."""
    import torch

    from headwater.observe import watch

    quickest = min(steps, key=lambda p: steps[p] * (1 if p == "fp32" else 1.1))  # bf16 has to pay for its rounding
    settings = replace(settings, precision=quickest)
    chosen = store.split("train")
    few = [store.image(i) for i in chosen[:16]]
    look = 0.0
    if len(few) >= 8 and settings.pretrain.watch:
        probe = watch.probe_views(few, settings.views.crop, network.backbone.stride, seed=settings.seed)
        look = _seconds(lambda: watch.measure(network.backbone, probe, precision=settings.precision), device, 1)
        look *= min(watch.IMAGES, len(chosen)) / len(few)
    advance(1)
    adapt, test = {}, 0.0
    if labelled:
        adapt, test = _adaptation(store, settings, labelled, device)
    advance(1)
    memory = peak_memory() if device.type == "cpu" else torch.cuda.max_memory_allocated() / 2**30
    return Costs(steps, settings.precision, look, adapt, test, memory)


def _adaptation(store: Store, settings: Settings, labelled: list[int], device: Any) -> tuple[dict[str, float], float]:
    """Seconds of one step of each arm, and of predicting one scan."""
    from headwater.transfer import segment

    costs: dict[str, float] = {}
    for arm in segment.ARMS:
        if arm == "fine-tuned":  # the same network as from scratch
            costs[arm] = costs["scratch"]
            continue
        network = segment.untrained(arm, store, settings).to(device)
        optimizer, criterion = segment.optimizer_for(network, 0.0, 0.0), segment.criterion()

        def step(network: Any = network, optimizer: Any = optimizer, criterion: Any = criterion) -> None:
            images, masks = (t.to(device) for t in segment.batch_at(0, store, labelled[:1], settings, settings.seed))
            segment.train_step(network, criterion, optimizer, images, masks, 0.0, settings)

        costs[arm] = _seconds(step, device)
    image = store.image(labelled[0])
    return costs, _seconds(lambda: segment.predict(network, image, settings.adapt.patch, settings.precision), device, 1)


def _seconds(work: Callable[[], Any], device: Any, repeats: int = 2) -> float:
    """The median of some repeats after one that warms up."""
    took = []
    for _ in range(repeats + 1):
        started = time.monotonic()
        work()
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        took.append(time.monotonic() - started)
    return statistics.median(took[1:])


def spend(settings: Settings, costs: Costs, labelled: int, tests: int) -> Settings:
    """Divides the budget; what the user has set by hand stays.

    Raises: InputError when the budget is too small for anything, with one that would do.
    """
    settings = replace(settings, precision=costs.precision)
    counts = tuple(c for c in settings.adapt.counts if c <= labelled) if costs.adapt else ()
    if costs.adapt and not counts:
        raise InputError(
            f"There are {labelled} labelled scans to learn from, fewer than any of the label counts {settings.adapt.counts}: "
            f"give more masks, or --set adapt.counts=1,{labelled}."
        )
    seconds = 60 * settings.budget * MARGIN
    settings = _pretraining(settings, costs, WARMING if counts else 1.0)
    if not counts:
        return replace(settings, adapt=replace(settings.adapt, counts=()))
    return _adapting(settings, costs, counts, tests, seconds - _pretraining_seconds(settings, costs))


def _pretraining_seconds(settings: Settings, costs: Costs) -> float:
    return settings.pretrain.steps * costs.pretrain + (settings.pretrain.watch + 2) * costs.look


def _pretraining(settings: Settings, costs: Costs, share: float) -> Settings:
    """Steps and looks that fit a share of the budget; looks take at most LOOKING of it, unless set by hand."""
    seconds, told = share * 60 * settings.budget * MARGIN, settings.pretrain
    if told.watch == Pretrain().watch and costs.look:
        told = replace(told, watch=max(2, min(told.watch, int(LOOKING * seconds / costs.look) - 2)))
    looks = (told.watch + 2) * costs.look
    steps = told.steps or int((seconds - looks) / costs.pretrain)
    if steps < SHORTEST and not told.steps:
        raise InputError(_too_short(settings, (SHORTEST * costs.pretrain + 4 * costs.look) / ((1 - LOOKING) * share)))
    return replace(settings, pretrain=replace(told, steps=steps))


def _adapting(settings: Settings, costs: Costs, counts: tuple[int, ...], tests: int, left: float) -> Settings:
    """Steps, draws and label counts that fit what is left: fewer counts first, then fewer draws, never under FEWEST steps."""
    told, per_step = settings.adapt, sum(costs.adapt.values())
    scoring = len(costs.adapt) * tests * costs.test

    def steps(draws: int, counts: tuple[int, ...]) -> int:
        return int((left / (draws * len(counts)) - scoring) / per_step)

    thinner = [counts] + [(*counts[: n - 1], counts[-1]) for n in range(len(counts) - 1, 1, -1)]
    options = [(draws, c) for draws in ([told.draws] if told.draws else range(DRAWS, 0, -1)) for c in thinner]
    options += [(options[-1][0], counts[:1])]
    if told.steps:
        draws, counts, each = options[0][0], counts, told.steps
    else:
        found = next(((d, c) for d, c in options if steps(d, c) >= FEWEST), None)
        if found is None:
            draws = options[-1][0]
            raise InputError(_too_short(settings, (draws * (FEWEST * per_step + scoring)) / (1 - WARMING)))
        draws, counts = found
        while not told.draws and steps(draws + 1, counts) >= MOST and draws < 10:
            draws += 1
        each = min(MOST, steps(draws, counts))
    return replace(settings, adapt=replace(told, counts=counts, draws=draws, steps=each))


def _too_short(settings: Settings, needed: float) -> str:
    least = ceil(10 * needed / (60 * MARGIN) + 0.5) / 10
    return f"A budget of {settings.budget:g} minutes is too short for this machine: give at least --budget {least:.1f}."


def minutes(settings: Settings, costs: Costs, tests: int) -> tuple[float, float]:
    """Expected minutes of pretraining and of adaptation."""
    pretrain = _pretraining_seconds(settings, costs)
    adapt = settings.adapt
    each = adapt.steps * sum(costs.adapt.values()) + len(costs.adapt) * tests * costs.test
    return pretrain / 60, len(adapt.counts) * adapt.draws * each / 60 if costs.adapt else 0.0


def lines(
    settings: Settings, costs: Costs, store: Store, machine: Machine, tests: int, parameters: float
) -> list[dict[str, str]]:
    """What will be done and why, for the terminal, plan.json and the page."""
    pretraining, adapting = minutes(settings, costs, tests)
    chosen, view, adapt = settings.backbone, settings.views, settings.adapt
    where = machine.accelerator or f"{machine.cores} cores and no accelerator"
    kind = {"resenc": "residual encoder", "vit": "vision transformer"}[chosen.family]
    goal = {"cva": "consistent view alignment + masked autoencoding", "mae": "masked autoencoding"}[settings.pretrain.objective]
    rows = [
        (
            "backbone",
            f"{kind}, {chosen.size}, {parameters:.1f} M parameters",
            f"there are {where}" + ("; a CNN is the safe start with few scans" if chosen.family == "resenc" else ""),
        ),
        (
            "views",
            f"two crops of {_by(view.crop)} voxels out of {_by(view.parent)}",
            f"half of the scans are {_by(_median(store))} voxels or less",
        ),
        (
            "pretrain",
            f"{goal}, {settings.pretrain.steps:,} steps of {settings.pretrain.batch} scans, {_minutes(pretraining)}",
            f"one step took {costs.pretrain:.2f} s here",
        ),
    ]
    if adapt.counts:
        names = ", ".join(str(c) for c in adapt.counts)
        rows.append(
            (
                "adapt",
                f"{names} labels x {adapt.draws} draws x {len(costs.adapt)} arms, {adapt.steps} steps each, {_minutes(adapting)}",
                f"the budget is {settings.budget:g} min, and {tests} scans are kept for testing",
            )
        )
    size = (store.images.nbytes + store.labels.nbytes) / 2**30
    rows.append(
        (
            "memory",
            f"{costs.memory:.1f} GiB",
            f"the trial steps in {settings.precision} took that{_faster(costs)}; disk {size + 0.1:.1f} GiB",
        )
    )
    done = time.strftime("%H:%M", time.localtime(time.time() + 60 * (pretraining + adapting) + 30))
    rows.append(("done", f"about {done}", f"this is {_minutes(pretraining + adapting)} of work"))
    return [{"name": name, "choice": choice, "because": because} for name, choice, because in rows]


def _faster(costs: Costs) -> str:
    """How much the chosen precision gains over the other, if there was a choice."""
    others = {precision: seconds for precision, seconds in costs.steps.items() if precision != costs.precision}
    return "".join(f" ({p} would take {s / costs.pretrain:.2f}x as long here)" for p, s in others.items())


def save(run: Path, rows: list[dict[str, str]], costs: Costs) -> None:
    """plan.json"""
    from dataclasses import asdict

    write_json(run / "plan.json", {"lines": rows, "costs": asdict(costs)})


def _median(store: Store) -> tuple[int, ...]:
    import numpy as np

    return tuple(int(n) for n in np.median([store.shape(i) for i in range(len(store))], axis=0))


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _minutes(value: float) -> str:
    return f"{value:.0f} min" if value >= 9.5 else f"{value:.1f} min"
