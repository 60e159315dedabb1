"""Fields whose truth is known, in two and three dimensions."""

from collections.abc import Callable

import numpy as np
import pytest

from headwater.scans.distribution.patches import Patches


def power_law(shape: tuple[int, ...], slope: float, spacing: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """(*S) Gaussian field whose power goes as |f|^slope (cycles per mm)."""
    every = np.meshgrid(*(np.fft.fftfreq(n, s) for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in every))
    radius.flat[0] = 1
    amplitude = radius ** (slope / 2)
    amplitude.flat[0] = 0
    return np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * amplitude).real


def of(flat: np.ndarray, unit: np.ndarray, shape: tuple[int, ...]) -> Patches:
    """Vectors (n, d) as patches of a shape with d voxels."""
    return Patches(flat.reshape(len(flat), 1, *shape).astype(np.float32), np.asarray(unit), int(max(unit)) + 1)


@pytest.fixture(scope="session")
def field() -> Callable[..., np.ndarray]:
    """power_law(shape, slope, spacing, rng)."""
    return power_law


@pytest.fixture(scope="session")
def as_patches() -> Callable[..., Patches]:
    """of(flat, unit, shape)."""
    return of
