"""Complete settings for the runs that were tried: a recipe is a function from what there is to what to do."""

from math import ceil, prod

from headwater.settings import Adapt, Backbone, Pretrain, Settings, Views


def default(shape: tuple[int, ...], accelerated: bool) -> Settings:
    """Consistent view alignment with masked autoencoding on a residual encoder, sized for two cores or for one accelerator.

    Args:    shape: median voxels of the prepared scans. accelerated: a GPU is there (those sizes are not tried yet).
    Tried:   160 hippocampus volumes, two cores: README, "What it prints".
    """
    longest = (160 if accelerated else 64) if len(shape) == 3 else (512 if accelerated else 192)
    parent = tuple(_multiple(min(1.1 * n, longest), 8) for n in shape)
    crop = tuple(max(16, 8 * round(n / 1.65 / 8)) for n in parent)
    parent = tuple(max(p, c) for p, c in zip(parent, crop, strict=True))
    patch = tuple(max(16, 8 * int(0.95 * min(n, longest) / 8)) for n in shape)  # whole scans learn worse than random parts
    voxels = 80_000 * (24 if accelerated else 1)  # per step, what keeps the machine busy without making it wait
    return Settings(
        views=Views(parent=parent, crop=crop),
        backbone=Backbone(family="resenc", size="base" if accelerated else "nano"),
        pretrain=Pretrain(batch=min(32, max(4, round(voxels / prod(crop))))),
        adapt=Adapt(patch=patch, batch=min(16, max(2, round(voxels / prod(patch))))),
    )


def _multiple(length: float, of: int) -> int:
    """The next multiple at or above a length."""
    return of * max(1, ceil(length / of - 1e-9))
