"""A small ViT that learns from pictures in memory, for benchmarks that look at a trained transformer: a minute on one core.

Pictures are 192 phantoms of 48 x 48 (`headwater.scans.phantom`), the network has 4 blocks of 6 heads on tokens of 4 x 4, and
every step is the product's own (`headwater.train.loop`).
"""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from headwater import objectives, recipes
from headwater.backbones.vit import ViT
from headwater.objectives.network import Network
from headwater.scans import phantom
from headwater.scans.normalise import normalise, window
from headwater.settings import Settings
from headwater.streams import seeded
from headwater.train import loop
from headwater.train.schedule import learning_rate, teacher_momentum

COUNT, SIDE, PATCH, WIDTH, DEPTH, HEADS = 192, 48, 4, 48, 4, 6


@dataclass(frozen=True)
class Pictures:
    """Pictures as `train.loop` asks a store for them; scanner: 0 or 1 for each."""

    arrays: tuple[np.ndarray, ...]  # (1, *S), z-scored
    scanner: tuple[int, ...]
    channels: ClassVar[int] = 1
    spacing: ClassVar[tuple[float, ...]] = (1.0, 1.0)

    def image(self, index: int) -> np.ndarray:
        return self.arrays[index]

    @property
    def tensor(self) -> torch.Tensor:
        """All of them, (n, 1, *S)."""
        return torch.from_numpy(np.stack(self.arrays))


def pictures(count: int = COUNT, seed: int = 0) -> Pictures:
    """Phantoms, clipped and z-scored as the product does; the second scanner's values are a hundred times larger."""
    raw = [phantom.phantom(seed, index, (SIDE, SIDE))[0] for index in range(count)]
    scored = tuple(normalise(image[None], (window(image),))[0].astype(np.float32) for image in raw)
    return Pictures(scored, tuple(int(image.max() > 2000) for image in raw))


def backbone(seed: int = 0) -> ViT:
    """As it is before training."""
    with seeded(seed, "weights", "small vit"):
        return ViT(2, 1, WIDTH, DEPTH, HEADS, PATCH).eval()


def trained(objective: str, steps: int, shown: Pictures, seed: int = 0, **options: object) -> ViT:
    """The same backbone after these steps of an objective with these options."""
    told = recipes.default((SIDE, SIDE), False, objective, len(shown.arrays))
    pretrain = replace(told.pretrain, batch=8, steps=steps, learning_rate=2e-3)
    settings = replace(told, seed=seed, precision="fp32", pretrain=pretrain, objective={**told.objective, **options})
    asked = objectives.build(objective, **settings.objective)
    with seeded(seed, "heads"):
        student = Network(backbone(seed), asked.heads(backbone(seed)))
    teacher, optimizer = copy.deepcopy(student), loop.optimizer_for(student, 2e-3, settings.pretrain.weight_decay)
    student.train()
    for step in range(steps):
        _step(step, student, teacher, asked, optimizer, settings, shown)
    return student.backbone.eval()


def _step(
    step: int,
    student: Network,
    teacher: Network,
    asked: objectives.Objective,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    shown: Pictures,
) -> None:
    how = settings.pretrain
    views = loop.views_at(step, shown, list(range(len(shown.arrays))), settings, student.backbone, asked.masked)
    rate, momentum = learning_rate(step, how.steps, how.learning_rate, how.warmup), teacher_momentum(step, how.momentum)
    with seeded(settings.seed, "step", step):
        loop.step(student, teacher, asked, optimizer, views, rate, momentum, settings)
