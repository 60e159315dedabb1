"""Which labelled scans each network learns from, and what in the masks stands in the way, in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headwater.errors import InputError
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.transfer.task import Task

NAMED = 3  # examples of a trouble that are named


@dataclass(frozen=True)
class Job:
    """One network to train and score: an arm, on the first `count` labels of a draw, for the `seed`-th time."""

    draw: int
    count: int
    arm: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return f"draw{self.draw}-labels{self.count}-{self.arm}" + (f"-seed{self.seed}" if self.seed else "")

    @property
    def key(self) -> tuple[int | str, ...]:
        """Of its random numbers: the same for every arm."""
        return ("adapt", self.draw, self.count, *((self.seed,) if self.seed else ()))


def trainable(store: Store) -> list[int]:
    """Scans whose masks may be learned from."""
    held = set(store.split("test"))
    return [i for i in store.labelled if i not in held]


def testable(store: Store) -> list[int]:
    """Scans to be scored on."""
    return [i for i in store.labelled if i in set(store.split("test"))]


def pool(store: Store) -> list[int]:
    """The first scan of each subject that may be learned from."""
    return list({store.subjects[i]: i for i in reversed(trainable(store))}.values())[::-1]


def drawn(store: Store, draw: int, count: int, seed: int) -> list[int]:
    """The labelled scans of a draw, the first of each subject: larger counts contain the smaller ones."""
    there = pool(store)
    order = numpy_stream(seed, "draw", draw).permutation(len(there))
    return [there[i] for i in order[:count]]


def unlabelled(store: Store, taken: list[int], tests: Sequence[str] = ()) -> list[int]:
    """Scans of the training part that show nobody of `tests` and are not taken: their masks, if any, stay unread."""
    return [i for i in store.split("train") if i not in set(taken) and store.subjects[i] not in set(tests)]


def jobs(settings: Settings) -> list[Job]:
    """All of them, one whole draw after the other, so that a run that ends early has whole draws."""
    adapt = settings.adapt
    return [
        Job(d, c, arm, seed)
        for d in range(adapt.draws)
        for c in adapt.counts
        for seed in range(adapt.seeds)
        for arm in adapt.arms
    ]


def structures(store: Store, settings: Settings) -> dict[str, tuple[int, ...]]:
    """What is scored: the classes of each region (`adapt.regions`), or each class for itself."""
    regions = Task.of(store, settings).regions
    if regions:
        return dict(zip(settings.adapt.regions, regions, strict=True))
    return {name: (k,) for k, name in enumerate(store.names) if k}


def shown(store: Store, scans: list[int]) -> dict[int, set[int]]:
    """The classes that each scan's mask has, background left out."""
    return {i: {int(k) for k in np.unique(store.label(i)) if 0 < k < store.classes} for i in scans}


def possible(store: Store, settings: Settings) -> tuple[Settings, list[str]]:
    """Settings with the counts of labels that there are, and what is to be known about the masks, in sentences.

    Raises: InputError where there is nothing to learn from or nothing to test on: no masks, or none that show anything.
    """
    train, tests, counts = trainable(store), testable(store), settings.adapt.counts
    if not tests or not train:
        lacking = "test on" if train else "learn from"
        there = f"{len(train)} to learn from and {len(tests)} to test on"
        raise InputError(f"Adapting needs a labelled scan to {lacking}, of another subject: there are {there}; give more masks.")
    there = len(pool(store))
    kept, words = tuple(c for c in counts if c <= there) or (there,), []
    if kept != counts:
        left = ", ".join(str(c) for c in counts if c > there)
        words.append(f"{left} labels were asked for, {_subjects(there)} with labels are there to learn from: left out.")
    if there == 1:
        words.append("One labelled subject to learn from: every draw is the same, which labels were drawn nobody can tell.")
    if len({store.subjects[i] for i in tests}) == 1:
        words.append("One test subject: what is found says nothing about others, so there are no intervals.")
    settings = replace(settings, adapt=replace(settings.adapt, counts=kept))
    return settings, words + _masks(store, settings, train, tests)


def unseen(store: Store, settings: Settings) -> list[str]:
    """Structures that no mask to learn from has: nobody could find them, so they are not scored."""
    known = set().union(*shown(store, trainable(store)).values())
    return [name for name, classes in structures(store, settings).items() if not known & set(classes)]


def _masks(store: Store, settings: Settings, train: list[int], tests: list[int]) -> list[str]:
    """What the masks lack."""
    learned, tested, words = shown(store, train), shown(store, tests), []
    for role, masks in (("learn from", learned), ("test on", tested)):
        empty = [store.records[i]["name"] for i, classes in masks.items() if not classes]
        if len(empty) == len(masks):
            raise InputError(f"No mask to {role} shows any structure, such as {empty[0]}: are these the right masks?")
        if empty:
            words.append(f"{len(empty)} of {len(masks)} masks to {role} show no structure ({_some(empty)}).")
    known, asked = set().union(*learned.values()), set().union(*tested.values())
    for name, classes in structures(store, settings).items():
        if not asked & set(classes):
            words.append(f"No test scan shows {name}: it has no score.")
        elif not known & set(classes):
            values = ", ".join(str(store.values[k]) for k in classes)
            words.append(f"Only masks of test scans show {name} (value {values}): nobody can learn it, so it is not scored.")
    lacking: dict[str, list[str]] = {}
    for draw in range(settings.adapt.draws):
        for count in settings.adapt.counts:
            there = set().union(*(learned[i] for i in drawn(store, draw, count, settings.seed)))
            for k in sorted(known - there):
                where = f"draw {draw + 1} with {count} label{'s' * (count > 1)}"
                lacking.setdefault(store.names[k], []).append(where)
    for name, where in lacking.items():
        words.append(f"No scan drawn shows {name} in {_some(where)}: no arm can find it there, which counts as missed.")
    return words


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _subjects(count: int) -> str:
    return f"{count} subject{'s' * (count != 1)}"
