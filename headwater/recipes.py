"""Complete settings for the runs that were tried: a recipe is a function from what there is to what to do."""

from dataclasses import replace
from math import ceil, prod

from headwater.settings import Adapt, Backbone, Pretrain, Settings, Views

EPOCHS = 5  # that the teacher remembers
GLOBAL = ("simclr", "byol", "vicreg", "lejepa", "dino")  # compare whole scans within a step: more and smaller views


def default(shape: tuple[int, ...], accelerated: bool, objective: str = "cva", images: int = 160) -> Settings:
    """A residual encoder under one objective, sized for two cores or for one accelerator.

    Args:    shape: median voxels of the prepared scans. accelerated: a GPU is there (those sizes are not tried yet).
             objective: its short name. images: scans to learn from.
    Tried:   160 hippocampus volumes, two cores: README, "What it prints".
    """
    longest = (160 if accelerated else 64) if len(shape) == 3 else (512 if accelerated else 192)
    parent = tuple(_multiple(min(1.1 * n, longest), 8) for n in shape)
    crop = tuple(max(16, 8 * round(n / 1.65 / 8)) for n in parent)
    parent = tuple(max(p, c) for p, c in zip(parent, crop, strict=True))
    patch = tuple(max(16, 8 * int(0.95 * min(n, longest) / 8)) for n in shape)  # whole scans learn worse than random parts
    voxels = 80_000 * (24 if accelerated else 1)  # per step, what keeps the machine busy without making it wait
    batch = min(32, max(4, round(voxels / prod(crop))))
    if objective in GLOBAL:
        batch = min(64, 2 * batch)
    settings = Settings(
        views=Views(parent=parent, crop=crop),
        backbone=Backbone(family="resenc", size="base" if accelerated else "nano"),
        pretrain=Pretrain(objective=objective, batch=batch, momentum=momentum(batch, images)),
        adapt=Adapt(patch=patch, batch=min(16, max(2, round(voxels / prod(patch))))),
    )
    if objective == "jepa":  # targets as large as a structure, not as a cell
        settings = replace(settings, views=replace(settings.views, mask_block=2, mask_ratio=0.6))
    if objective == "dino":
        small = tuple(max(16, 8 * round(c / 16)) for c in crop)
        views = replace(settings.views, mask_ratio=0.5, locals=2, local_crop=small)
        settings = replace(settings, views=views, objective={"prototypes": prototypes(images)})
    return settings


def momentum(batch: int, images: int) -> float:
    """Of the teacher, so that it remembers EPOCHS epochs: fewer scans make shorter epochs. 0.98 to 0.9995."""
    return round(min(0.9995, max(0.98, 1 - batch / (EPOCHS * max(1, images)))), 4)


def prototypes(images: int) -> int:
    """The power of two at or below half the number of scans, 2 to 4096: every prototype can have some scans of its own."""
    return min(4096, max(2, 2 ** ((images // 2).bit_length() - 1))) if images >= 4 else 2


def _multiple(length: float, of: int) -> int:
    """The next multiple at or above a length."""
    return of * max(1, ceil(length / of - 1e-9))
