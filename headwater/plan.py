"""From a budget in minutes and a measured step to the number of steps, draws and labels, each with its reason."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headwater.device import Machine, peak_memory
from headwater.errors import InputError
from headwater.runfolder import write_json
from headwater.scans.store import Store
from headwater.settings import Settings

WARMING = 0.3  # share of the budget for pretraining when there are labels to spend the rest on
FEWEST, MOST = 40, 1000  # steps of one adaptation that are worth making
DRAWS = 3  # of labels: what an interval needs at least; more when the budget allows
MARGIN = 0.93  # of the budget is planned: reading, looking at features and writing the page need the rest


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


def measure(store: Store, settings: Settings, labelled: list[int]) -> Costs:
    """Runs each kind of step for real, twice, and keeps the second (the first pays for warming up)."""
    import copy

    import torch

    from headwater.device import machine
    from headwater.observe import watch
    from headwater.train import loop

    device, chosen = machine().device, store.split("train")
    student, objective = loop.assemble(settings, store)
    student = student.to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = loop.optimizer_for(student, 0.0, 0.0)
    views = loop.views_at(0, store, chosen, settings, student.backbone).to(device)
    tried = {"auto": ["fp32", "bf16"] if machine().bf16 else ["fp32"]}.get(settings.precision, [settings.precision])
    steps = {}
    for precision in tried:
        told = replace(settings, precision=precision)
        steps[precision] = _seconds(lambda told=told: loop.step(student, teacher, objective, optimizer, views, 0.0, told), device)
    settings = replace(settings, precision=min(steps, key=steps.get))
    few = [store.image(i) for i in chosen[:16]]
    look = 0.0
    if len(few) >= 8 and settings.pretrain.watch:
        probe = watch.probe_views(few, settings.views.crop, student.backbone.stride, seed=settings.seed)
        look = _seconds(lambda: watch.measure(teacher.backbone, probe, precision=settings.precision), device, 1)
        look *= min(watch.IMAGES, len(chosen)) / len(few)
    adapt, test = {}, 0.0
    if labelled:
        adapt, test = _adaptation(store, settings, labelled, device)
    del student, teacher, optimizer
    return Costs(steps, settings.precision, look, adapt, test, peak_memory() if device.type == "cpu" else torch.cuda.max_memory_allocated() / 2**30)


def _adaptation(store: Store, settings: Settings, labelled: list[int], device: Any) -> tuple[dict[str, float], float]:
    """Seconds of one step of each arm, and of predicting one scan."""
    from headwater.transfer import segment

    images, masks = (t.to(device) for t in segment.batch_at(0, store, labelled[:1], settings, settings.seed))
    costs = {}
    for arm in segment.ARMS:
        if arm == "fine-tuned":  # the same network as from scratch
            costs[arm] = costs["scratch"]
            continue
        network = segment.untrained(arm, store, settings).to(device)
        optimizer, criterion = segment.optimizer_for(network, 0.0, 0.0), segment.criterion()
        costs[arm] = _seconds(lambda n=network, c=criterion, o=optimizer: segment.train_step(n, c, o, images, masks, 0.0, settings), device)
    image = store.image(labelled[0])
    return costs, _seconds(lambda: segment.predict(network, image, settings.adapt.patch, settings.precision), device, 1)


def _seconds(work: Callable[[], Any], device: Any, repeats: int = 2) -> float:
    """Of the last of some repeats."""
    for _ in range(repeats):
        started = time.monotonic()
        work()
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize()
    return time.monotonic() - started


def spend(settings: Settings, costs: Costs, labelled: int, tests: int) -> Settings:
    """Divides the budget; what the user has set by hand stays.

    Raises: InputError when the budget is too small for anything, with one that would do.
    """
    seconds, settings = 60 * settings.budget * MARGIN, replace(settings, precision=costs.precision)
    counts = tuple(c for c in settings.adapt.counts if c <= labelled) if costs.adapt else ()
    looks = (settings.pretrain.watch + 2) * costs.look
    training = max(0.0, (WARMING if counts else 1.0) * seconds - looks)
    steps = settings.pretrain.steps or int(training / costs.pretrain)
    if steps < 20:
        least = (20 * costs.pretrain + looks) / (60 * MARGIN * (WARMING if counts else 1.0))
        raise InputError(f"A budget of {settings.budget:g} minutes is too short for this machine: give at least --budget {least:.1f}.")
    settings = replace(settings, pretrain=replace(settings.pretrain, steps=steps))
    if not counts:
        return replace(settings, adapt=replace(settings.adapt, counts=()))
    left = seconds - steps * costs.pretrain - looks
    per_step, scoring = sum(costs.adapt.values()), len(costs.adapt) * tests * costs.test
    draws, each = settings.adapt.draws or DRAWS, settings.adapt.steps

    def affordable(draws: int, counts: tuple[int, ...]) -> int:
        return int((left / (draws * len(counts)) - scoring) / per_step)

    while not each and affordable(draws, counts) < FEWEST and (len(counts) > 2 or draws > 1):
        if len(counts) > 3 or draws == 1:
            counts = (*counts[:-2], counts[-1]) if len(counts) > 2 else counts[-1:]
        else:
            draws -= 1
    each = each or max(FEWEST, min(MOST, affordable(draws, counts)))
    if not settings.adapt.draws:
        while affordable(draws + 1, counts) >= each and draws < 10:
            draws += 1
    return replace(settings, adapt=replace(settings.adapt, counts=counts, draws=draws, steps=each))


def minutes(settings: Settings, costs: Costs, tests: int) -> tuple[float, float]:
    """Expected minutes of pretraining and of adaptation."""
    pretrain = settings.pretrain.steps * costs.pretrain + (settings.pretrain.watch + 2) * costs.look
    adapt = settings.adapt
    each = adapt.steps * sum(costs.adapt.values()) + len(costs.adapt) * tests * costs.test
    return pretrain / 60, len(adapt.counts) * adapt.draws * each / 60 if costs.adapt else 0.0


def lines(settings: Settings, costs: Costs, store: Store, machine: Machine, tests: int, parameters: float) -> list[dict[str, str]]:
    """What will be done and why, for the terminal, plan.json and the page."""
    pretraining, adapting = minutes(settings, costs, tests)
    chosen, view, adapt = settings.backbone, settings.views, settings.adapt
    where = machine.accelerator or f"{machine.cores} cores without an accelerator"
    kind = {"resenc": "residual encoder", "vit": "vision transformer"}[chosen.family]
    goal = {"cva": "consistent view alignment + masked autoencoding", "mae": "masked autoencoding"}[settings.pretrain.objective]
    rows = [
        ("backbone", f"{kind}, {chosen.size}, {parameters:.1f} M parameters", f"{where}; a CNN is the safe start with few scans"
         if chosen.family == "resenc" else f"{where}; asked for"),
        ("views", f"two crops of {_by(view.crop)} voxels out of {_by(view.parent)}", f"scans are about {_by(_median(store))} voxels"),
        ("pretrain", f"{goal}, {settings.pretrain.steps:,} steps of {settings.pretrain.batch} scans, {_minutes(pretraining)}",
         f"one step took {costs.pretrain:.2f} s here"),
    ]
    if adapt.counts:
        names = ", ".join(str(c) for c in adapt.counts)
        rows.append(("adapt", f"{names} labels x {adapt.draws} draws x {len(costs.adapt)} arms, {adapt.steps} steps each, {_minutes(adapting)}",
                     f"{tests} subjects kept for testing; the budget is {settings.budget:g} min"))
    size = (store.images.nbytes + store.labels.nbytes) / 2**30
    rows.append(("memory", f"{costs.memory:.1f} GiB", f"measured in the trial steps, {settings.precision}{_faster(costs)}; disk {size + 0.1:.1f} GiB"))
    done = time.strftime("%H:%M", time.localtime(time.time() + 60 * (pretraining + adapting) + 30))
    rows.append(("done", f"about {done}", f"{_minutes(pretraining + adapting)} of work"))
    return [{"name": name, "choice": choice, "because": because} for name, choice, because in rows]


def _faster(costs: Costs) -> str:
    """How much the chosen precision gains over the other, if there was a choice."""
    return f", {max(costs.steps.values()) / costs.pretrain:.1f}x faster than {max(costs.steps, key=costs.steps.get)} here" if len(costs.steps) > 1 else ""


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
