"""Objectives as they are and with what holds them taken away; runs of them that last seconds."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from typing import Any

import pytest
import torch
from torch import nn

from headwater import backbones, recipes
from headwater.backbones import Features
from headwater.backbones.features import Backbone
from headwater.objectives import distil
from headwater.observe.verdict import TRAINED, Verdict, verdict
from headwater.observe.look import measure
from headwater.observe.pairs import probe_views
from headwater.observe.running import chosen_from
from headwater.scans import phantom
from headwater.scans.passport import look
from headwater.scans.prepare import prepare
from headwater.scans.store import Store
from headwater.settings import Settings, change
from headwater.streams import seeded
from headwater.train import loop, state
from headwater.train.schedule import learning_rate, teacher_momentum


def bare(heads: nn.ModuleDict) -> None:
    """Nothing between the features and what is asked of them: a head would collapse in their place."""
    for name in ("projector", "predictor", "expander"):
        if name in heads:
            heads[name] = nn.Identity()


def bare_prototypes(heads: nn.ModuleDict) -> None:
    """Prototypes are directions of the features themselves."""
    sort = heads["prototypes"]
    wide = sort.mlp[0].in_features
    sort.mlp, sort.directions = nn.Identity(), nn.Parameter(torch.randn(len(sort.directions), wide))


@dataclass(frozen=True)
class Broken:
    """How an objective is made to collapse: what is wrong, its options, what becomes of its heads, settings, steps."""

    wrong: str
    options: dict[str, Any] = field(default_factory=dict)
    heads: Callable[[nn.ModuleDict], None] | None = None
    settings: tuple[str, ...] = ()
    steps: int = 60


DECAY = ("pretrain.weight_decay=300",)  # times a rate of 3e-3: nine tenths of every weight are gone at each step
BROKEN = {
    "cva": Broken("weights decay faster than they learn", settings=DECAY, steps=30),
    "mae": Broken("weights decay faster than they learn", settings=DECAY, steps=30),
    "ae": Broken("weights decay faster than they learn", settings=DECAY, steps=30),
    "denoise": Broken("weights decay faster than they learn", settings=DECAY, steps=30),
    "adversarial": Broken("weights decay faster than they learn", settings=DECAY, steps=30),
    "simclr": Broken("no negatives, no projector", {"negatives": False}, bare),
    "byol": Broken("gradient into the teacher, no predictor, no projector", {"guarded": False}, bare),
    "jepa": Broken("gradient into the teacher, targets not normalised", {"guarded": False}),
    "vicreg": Broken("no variance term, no expander", {"variance": 0.0}, bare),
    "lejepa": Broken("no gaussianity, no expander", {"weight": 0.0}, bare),
    "dino": Broken("no centring, no head", {"centring": "none"}, bare_prototypes),
    "distil": Broken("a teacher that says the same of everything", {"source": "constant"}),
}


class Constant(Backbone):
    """Says the same of every place of every image."""

    def __init__(self):
        super().__init__(2, 1, 16, 4, [16], [4])
        self.register_buffer("answer", torch.randn(16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x, keep=None):
        grid = self.grid(tuple(x.shape[2:]))
        maps = self.answer[None, :, None, None].expand(len(x), -1, *grid)
        return Features(maps.flatten(2).mT, grid, maps.mean((2, 3)), [maps], size=tuple(x.shape[2:]))


@dataclass(frozen=True)
class Run:
    """A backbone before and after, what the watch says, and the losses."""

    before: nn.Module
    after: nn.Module
    verdict: Verdict
    losses: list[float]


def train(store: Store, settings: Settings, broken: Broken | None = None, looks: int = 3) -> Run:
    """The product's loop on settings, with a watch, and with something broken if wanted."""
    chosen, steps, peak = store.split("train"), settings.pretrain.steps, settings.pretrain.learning_rate
    student, objective = loop.assemble(settings, store)
    if broken and broken.heads:
        with seeded(settings.seed, "broken"):
            broken.heads(student.heads)
    teacher = copy.deepcopy(student).requires_grad_(False)
    before = copy.deepcopy(student.backbone)
    optimizer = loop.optimizer_for(student, peak, settings.pretrain.weight_decay)
    arrays = [store.image(i) for i in chosen_from(chosen, settings.seed)]
    probe = probe_views(arrays, settings.views.crop, before.stride, seed=settings.seed)
    seen, losses = [measure(before, probe)], []
    for n in range(steps):
        views = loop.views_at(n, store, chosen, settings, student.backbone, objective.masked)
        rate = learning_rate(n, steps, peak, settings.pretrain.warmup)
        momentum = teacher_momentum(n, settings.pretrain.momentum)
        with seeded(settings.seed, "step", n):
            losses.append(loop.step(student, teacher, objective, optimizer, views, rate, momentum, settings)["loss"])
        if (n + 1) * looks // steps > n * looks // steps:
            seen.append({"step": n + 1, **measure(teacher.backbone, probe)})
    judged = verdict(seen, TRAINED[settings.pretrain.objective])
    return Run(before, teacher.backbone, judged, losses)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """320 made-up pictures of 48 x 48: 256 to learn from, 64 to test on."""
    folder = tmp_path_factory.mktemp("pictures")
    return prepare(look(*phantom.write(folder, 320, (48, 48), 0)), folder / "store")


def short(store: Store, objective: str, steps: int, batch: int, rate: float, *changes: str, **options: Any) -> Settings:
    """The recipe of an objective for these pictures, made short."""
    made = recipes.default(store.shape(0), False, objective, len(store.split("train")))
    batched = replace(made.pretrain, batch=batch, steps=steps, learning_rate=rate)
    made = replace(made, precision="fp32", pretrain=batched, objective={**made.objective, **options})
    return reduce(change, changes, made)


USUAL = (100, 8, 2e-3)  # steps, scans per step, peak rate


@pytest.fixture(scope="session")
def learn(pictures: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """learn(name): a run of an objective on a residual encoder, once in a session. "distil" learns from what "byol" ends with."""

    @cache
    def run(name: str) -> Run:
        options = {}
        if name == "distil":
            path, teacher = (
                tmp_path_factory.mktemp("teacher") / "state.safetensors",
                nn.ModuleDict({"backbone": run("byol").after}),
            )
            settings = short(pictures, "byol", *USUAL)
            state.save(path, 1, {"teacher": teacher}, backbone=loop.described(settings, pictures))
            options = {"source": str(path)}
        return train(pictures, short(pictures, name, *USUAL, **options))

    return run


@pytest.fixture
def small_vit(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Settings of a ViT of 48 channels, which no norm over space keeps from collapsing, and of views for it."""
    monkeypatch.setitem(backbones.FAMILIES["vit"].sizes, "pico", (48, 3, 3))
    return "backbone.family=vit", "backbone.size=pico", "views.crop=24,24", "views.parent=40,40"


@pytest.fixture
def collapse(pictures: Store, small_vit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], Run]:
    """collapse(name, broken): a short run of an objective on a small ViT, broken as BROKEN says or as it is."""
    other = backbones.build("resenc", "nano", 1, 2, seed=9).eval().requires_grad_(False)
    monkeypatch.setattr(distil, "frozen", lambda source, channels: Constant() if source == "constant" else other)

    def run(name: str, broken: bool) -> Run:
        how = BROKEN[name]
        options = how.options if broken else {"source": "random"} if name == "distil" else {}
        changes = small_vit + (how.settings if broken else ())
        settings = short(pictures, name, how.steps if broken else 20, 8, 3e-3, *changes, **options)
        return train(pictures, settings, how if broken else None)

    return run
