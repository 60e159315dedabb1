"""What the steps of a run cost on this machine, measured: seconds and memory, before anything long begins."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from headwater.device import available_memory, peak_memory
from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.scans.store import Store
from headwater.settings import Settings

SAFE = 0.8  # of the free memory is used at most
SMALLEST = 2  # scans in a batch; contrast needs two


@dataclass(frozen=True)
class Costs:
    """Measured seconds: one pretraining step (by precision, and the better), one look of the watch, one adaptation step by arm,
    a test scan (their mean); GiB at the peak, and GiB that were free when measuring began; and the batch that fits."""

    steps: dict[str, float]
    precision: str
    look: float
    adapt: dict[str, float]
    test: float
    memory: float
    free: float
    batch: int

    @property
    def pretrain(self) -> float:
        """Seconds of a pretraining step at the chosen precision."""
        return self.steps[self.precision]


def measure(store: Store, settings: Settings, labelled: list[int], progress: Progress | None = None) -> Costs:
    """Runs each kind of step for real, a few times; the batch shrinks first where the memory would not do.

    Raises: InputError where not even the smallest batch fits into memory, before it is tried.
    """
    import copy

    from headwater.device import machine
    from headwater.train import loop

    device, chosen, free = machine().device, store.split("train"), available_memory()
    student, objective = loop.assemble(settings, store)
    student = student.to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = loop.optimizer_for(student, 0.0, 0.0)

    made: dict[int, Any] = {}  # views by batch: a run makes them beside the steps, which wait for less than a hundredth

    def step(precision: str, settings: Settings) -> None:
        if (batch := settings.pretrain.batch) not in made:
            made.clear()
            made[batch] = loop.views_at(0, store, chosen, settings, student.backbone, objective.masked).to(device)
        loop.step(student, teacher, objective, optimizer, made[batch], 0.0, 1.0, replace(settings, precision=precision))

    tried = {"auto": ["fp32", "bf16"] if machine().bf16 else ["fp32"]}.get(settings.precision, [settings.precision])
    with (progress or Silent()).track("Measuring", len(tried) + 3) as advance:
        batch = fitting(lambda n: step(tried[0], _of(settings, n)), settings.pretrain.batch, free, lambda: used(device))
        settings = _of(settings, batch)
        advance(1)
        steps = {}
        for precision in tried:
            steps[precision] = _seconds(partial(step, precision, settings), device, 2 if precision == tried[0] else 1)
            advance(1)
        return _all_costs(store, settings, labelled, steps, teacher, device, advance, free)


def _of(settings: Settings, batch: int) -> Settings:
    return replace(settings, pretrain=replace(settings.pretrain, batch=batch))


def used(device: Any) -> float:
    """GiB used at the peak so far, where the networks are."""
    import torch

    return peak_memory() if device.type == "cpu" else torch.cuda.max_memory_allocated() / 2**30


def fitting(step: Callable[[int], Any], batch: int, free: float, peak: Callable[[], float]) -> int:
    """The largest batch up to `batch` that fits into SAFE of the free memory (GiB), told from one step of the smallest.

    What a step of the smallest batch adds to the peak is taken to grow with the batch, which is more than it does: weights
    and optimiser are in it. Raises: InputError where the smallest batch takes more than there is.
    """
    smallest = min(SMALLEST, batch)
    before = peak()
    try:
        step(smallest)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise InputError(_too_large(free)) from error
    each = max(0.0, peak() - before) / smallest
    if not each or each * batch <= SAFE * free:
        return batch
    fits = int(SAFE * free / each)
    if fits < smallest:
        raise InputError(_too_large(free))
    return fits


def _too_large(free: float) -> str:
    remedy = "choose smaller crops or a smaller backbone (--set views.crop=..., --set backbone.size=nano)"
    return f"One step needs more than the {free:.1f} GiB of memory that are free: {remedy}."


def _all_costs(
    store: Store,
    settings: Settings,
    labelled: list[int],
    steps: dict[str, float],
    network: Any,
    device: Any,
    advance: Any,
    free: float,
) -> Costs:
    """What else a run does, at the precision that pays."""
    from headwater.observe import look as looking
    from headwater.observe.pairs import IMAGES, probe_views

    quickest = min(steps, key=lambda p: steps[p] * (1 if p == "fp32" else 1.1))  # bf16 has to pay for its rounding
    settings = replace(settings, precision=quickest)
    chosen = store.split("train")
    few = [store.image(i) for i in chosen[:16]]
    look = 0.0
    if len(few) >= 8 and settings.pretrain.watch:
        probe = probe_views(few, settings.views.crop, network.backbone.stride, seed=settings.seed)
        look = _seconds(lambda: looking.look(network, probe, precision=settings.precision), device, 1)
        look *= min(IMAGES, len(chosen)) / len(few)
    advance(1)
    adapt, test = {}, 0.0
    if labelled:
        adapt, test = _adaptation(store, settings, labelled, device)
    advance(1)
    return Costs(steps, settings.precision, look, adapt, test, used(device), free, settings.pretrain.batch)


def _adaptation(store: Store, settings: Settings, labelled: list[int], device: Any) -> tuple[dict[str, float], float]:
    """Seconds of one step of each arm, and of predicting a test scan, in the mean over them."""
    from headwater.transfer import batches, draws, segment, taught

    costs: dict[str, float] = {}
    same = {"fine-tuned": "scratch", "random-frozen": "frozen", "frozen": "random-frozen"}  # networks that do the same work
    for arm in settings.adapt.arms:
        if same.get(arm) in costs:
            costs[arm] = costs[same[arm]]
            continue
        network = segment.untrained(arm, store, settings).to(device)
        optimizer, loss = segment.optimizer_for(network, 0.0, 0.0), network.task.loss().to(device)
        lesson = taught.Lesson(network, store, labelled[:1], settings, settings.seed) if arm == "self-taught" else None

        def step(network: Any = network, optimizer: Any = optimizer, loss: Any = loss, lesson: Any = lesson) -> None:
            images, masks = (t.to(device) for t in batches.batch_at(0, store, labelled[:1], settings, settings.seed))
            if lesson is not None:
                images, masks = lesson.batch(settings.adapt.steps, images, masks)
            segment.train_step(network, loss, optimizer, images, masks, 0.0, settings)
            if lesson is not None:
                lesson.learn(network)

        costs[arm] = _seconds(step, device)
    largest = max(labelled, key=lambda i: store.image(i).size)  # for memory's sake
    seconds = _seconds(lambda: segment.predict(network, store.image(largest), settings), device, 1)
    return costs, seconds * segment.usual(store, settings, draws.testable(store) or labelled, largest)


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
