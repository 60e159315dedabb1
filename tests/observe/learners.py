"""Scans and backbones that stand for a run's, for the tests of the watch; not a test itself."""

from types import SimpleNamespace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn


def scans(count: int, *size: int, sigma: float = 2.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = [gaussian_filter(rng.normal(size=[n + i % 3 for n in size]), sigma) for i in range(count)]
    return [(x / x.std())[None].astype(np.float16) for x in made]


class Toy(nn.Module):
    """A convolutional backbone with what a watch may meet: dropout, batch norm, a frozen part in evaluation mode."""

    def __init__(self, ndim: int, stride: int = 4, width: int = 12):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if ndim == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.stride = (stride,) * ndim
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(conv(1, width, stride, stride), norm(width), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        x = self.layers(x)
        return SimpleNamespace(tokens=x.flatten(2).transpose(1, 2), grid=tuple(x.shape[2:]), pooled=x.flatten(2).mean(2))


def moved(module: nn.Module) -> nn.Module:
    """The module with weights a little elsewhere, as after a step of training."""
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1 + 1e-3)
    return module


class Output(Toy):
    """Whatever `change` makes of the tokens and the pooled vector."""

    def __init__(self, change) -> None:
        super().__init__(2)
        self.change = change

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        f = super().forward(x)
        return SimpleNamespace(tokens=self.change(f.tokens), grid=f.grid, pooled=self.change(f.pooled))


class Shelf:
    """As much of a store as the watch asks for."""

    def __init__(self, images: list[np.ndarray]):
        self.images, self.spacing = images, (1.0,) * (images[0].ndim - 1)

    def image(self, i: int) -> np.ndarray:
        return self.images[i]


class Learner(Output):
    """Before training its features are mostly a hash of the input's noise; training takes that part away."""

    def __init__(self) -> None:
        super().__init__(self.blur)
        self.noise = 4.0

    def blur(self, x: torch.Tensor) -> torch.Tensor:
        seed = int(x.double().sum() * 1e6) % 2**31
        return x + self.noise * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    def train_on(self) -> None:
        self.noise *= 0.7
        moved(self)
