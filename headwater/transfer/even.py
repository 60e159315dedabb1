"""What makes a comparison even: contenders that differ in one setting, and as many steps or as many seconds for each."""

import os
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headwater.backbones import FAMILIES
from headwater.device import machine, peak_memory
from headwater.errors import InputError
from headwater.scans.store import Store
from headwater.settings import Settings, to_dict
from headwater.transfer import segment
from headwater.transfer.knockout import attends

MARGIN = 0.9  # of the budget is planned
SEEDS = 3  # trainings of each; two where three would be too short
ENOUGH, MOST = 40, 1000  # steps worth making; and beyond which more trainings are worth more
FEWEST = 8  # steps below which there is nothing to compare
REGIMES = ("steps", "time")
FACTOR = "backbone.family"  # the one setting in which methods differ


@dataclass(frozen=True)
class Cost:
    """Measured: seconds of a step and of predicting a test scan (mean); parameters; whether there is attention to knock out."""

    step: float
    test: float
    parameters: int
    attention: bool


@dataclass(frozen=True)
class Plan:
    """Steps of each method by regime, trainings of each, and seconds that each has in the regime of equal time.

    left_out: methods that cannot run on these scans, and why. words: what a reader should know of it.
    """

    costs: dict[str, Cost]
    left_out: dict[str, str]
    seeds: int
    steps: dict[str, dict[str, int]]
    seconds: float
    words: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Plan":
        """From JSON."""
        costs = {name: Cost(**one) for name, one in value["costs"].items()}
        return cls(**{**value, "costs": costs, "words": tuple(value["words"])})


def method(settings: Settings, family: str, steps: int) -> Settings:
    """The settings of one training: another backbone of the same size, and its steps."""
    return replace(settings, backbone=replace(settings.backbone, family=family), adapt=replace(settings.adapt, steps=steps))


def names(settings: Settings) -> list[str]:
    """The families to compare. Raises: InputError for one that does not exist, and for none."""
    asked = list(dict.fromkeys(settings.compare.methods))
    if unknown := [name for name in asked if name not in FAMILIES]:
        raise InputError(f"compare.methods: there is no backbone family {unknown[0]!r}: use some of {', '.join(FAMILIES)}.")
    if not asked:
        raise InputError("compare.methods names nothing: give backbones, such as resenc,swin,vit.")
    return asked


def measure(store: Store, settings: Settings, labelled: list[int], tests: list[int]) -> tuple[dict[str, Cost], dict[str, str]]:
    """Cost of each method, by three real steps and one scan; and those that cannot run here, with the reason.

    Raises: InputError where the first method, which all others are held against, cannot.
    """
    costs, left_out = {}, {}
    for name in names(settings):
        try:
            costs[name] = _cost(store, method(settings, name, 3), labelled, tests)
        except (InputError, ValueError, RuntimeError, MemoryError) as fault:  # too small for its windows, too large for memory
            if not costs:
                raise InputError(f"{name} cannot run on these scans ({fault}): put another first in compare.methods.") from fault
            left_out[name] = f"{name} is left out: {str(fault).splitlines()[0] if str(fault) else type(fault).__name__}"
    return costs, left_out


def _cost(store: Store, settings: Settings, labelled: list[int], tests: list[int]) -> Cost:
    """Median of the steps after the first, which warms up."""
    marks: list[float] = []
    network = segment.fit("scratch", store, labelled, settings, None, ("compare", "cost"), lambda: marks.append(time.monotonic()))
    started = time.monotonic()
    largest = max(tests, key=lambda i: store.image(i).size)  # for memory's sake
    segment.predict(network, store.image(largest), settings)
    test = (time.monotonic() - started) * segment.usual(store, settings, tests, largest)
    step = statistics.median(b - a for a, b in zip(marks, marks[1:], strict=False))
    return Cost(max(step, 1e-6), test, sum(p.numel() for p in network.parameters()), attends(network))


def plan(settings: Settings, costs: dict[str, Cost], left_out: dict[str, str], tests: int, twice: bool = False) -> Plan:
    """Divides the budget; what the user has set by hand stays.

    Steps: as many for each. Time: each has the seconds that the first takes for these steps, measured; so the first is trained
    once for both. twice: the first alone, trained twice as often.
    Raises: InputError when the budget is too small, with one that would do.
    """
    first = next(iter(costs))
    told, seconds = settings.compare, 60 * settings.budget * MARGIN
    each = {first: costs[first]} if twice else costs
    networks = {name: 2 - (name == first and not twice) for name in each}
    per_step = 2 * costs[first].step if twice else sum(c.step for c in each.values()) + (len(each) - 1) * costs[first].step
    knocked = {name: 2 * (c.attention and not twice) for name, c in each.items()}
    scoring = tests * sum((networks[name] + knocked[name]) * c.test for name, c in each.items())

    def affordable(seeds: int) -> int:
        return int((seconds / seeds - scoring) / per_step)

    seeds, steps = told.seeds or SEEDS, told.steps
    if not told.seeds:
        if not steps and affordable(SEEDS) < ENOUGH:
            seeds = 2
        while not steps and affordable(seeds + 1) >= MOST and seeds < 10:
            seeds += 1
    if not steps and (steps := affordable(seeds)) < FEWEST:
        least = seeds * (FEWEST * per_step + scoring) / (60 * MARGIN)
        raise InputError(
            f"A budget of {settings.budget:g} minutes is too short to compare {len(each)} methods: "
            f"give at least --budget {least + 0.1:.1f}, or fewer in compare.methods."
        )
    by_time = {name: max(1, round(steps * costs[first].step / c.step)) for name, c in each.items()}
    regimes = {"steps": dict.fromkeys(each, steps)} | ({} if twice else {"time": by_time | {first: steps}})
    return Plan(costs, left_out, seeds, regimes, steps * costs[first].step, _words(seeds, steps, told.seeds > 0))


def aside(settings: Settings) -> tuple[str, ...]:
    """What A/A leaves out of what was asked for."""
    first, *others = names(settings)
    lost = others + ["compare.retrain"] * settings.compare.retrain
    return (f"{first} is compared with itself: {', '.join(lost)} left out.",) if lost else ()


def _words(seeds: int, steps: int, by_hand: bool) -> tuple[str, ...]:
    """What the numbers mean for the reader."""
    often, long = "once" if seeds == 1 else f"{seeds} times", f"{steps:,} step{'s' * (steps > 1)}"
    said = [f"Each method is trained {often} for {long}, all from scratch; nothing is tuned for any of them."]
    if seeds < SEEDS:
        why = "as you asked" if by_hand else f"three would have fewer than {ENOUGH} steps each"
        many = f"{seeds} trainings of each ({why}): intervals are wide."
        said.append(many if seeds > 1 else f"One training of each ({why}): no intervals.")
    if steps < ENOUGH:
        said.append(
            f"{long} {'are few' if steps > 1 else 'is little'}: this compares how methods begin to learn, not what they end with."
        )
    return tuple(said)


def differs(one: Settings, other: Settings) -> list[str]:
    """Names of all settings in which two runs differ, such as backbone.family."""
    ours, theirs = (dict(_flat(to_dict(s))) for s in (one, other))
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def factor(trainings: Sequence[Settings], expected: Sequence[str] = (FACTOR,)) -> dict[str, Any]:
    """What the trainings of a table differ in: {"differs", "sentence"}.

    Raises: InputError where any two differ in a setting that was not expected.
    """
    found = sorted({name for other in trainings[1:] for name in differs(trainings[0], other)})
    if more := [name for name in found if name not in expected]:
        raise InputError(
            f"The methods differ in more than {' and '.join(expected) or 'their seeds'}: also in {', '.join(more)}. "
            "Give all of them the same, or the comparison says nothing."
        )
    same = "scans, preprocessing, batches, augmentation, optimiser, decoder rule and seeds are the same"
    words = f"Methods differ in {' and '.join(found)} alone: {same}." if found else "Trainings differ in their seeds alone."
    return {"differs": found, "sentence": words}


@contextmanager
def memory() -> Iterator[list[float]]:
    """A list whose one number is, afterwards, the most GiB held within: of the accelerator, or of this process, all included."""
    found, ended = [0.0], threading.Event()
    if machine().device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield found
        found[0] = torch.cuda.max_memory_allocated() / 2**30
        return

    def look() -> None:
        while not ended.wait(0.02):
            found[0] = max(found[0], _held())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found[0] = max(found[0], _held())


def _held() -> float:
    """GiB this process holds now; the most it ever held where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (OSError, ValueError):
        return peak_memory()
