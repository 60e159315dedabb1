"""Photometric changes of z-scored crops: parameters are drawn first and applied later, so they can be repeated."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError
from headwater.streams import torch_stream


@dataclass(frozen=True)
class IntensityParameters:
    """One value per crop (B,); the value that changes nothing means "off".

    noise: standard deviation (0 off). blur: sigma in voxels (0 off). brightness, contrast: factors (1 off).
    gamma, inverted_gamma: exponents (1 off). seed: of that crop's noise.
    """

    noise: np.ndarray
    blur: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    gamma: np.ndarray
    inverted_gamma: np.ndarray
    seed: np.ndarray


def draw_intensity(rng: np.random.Generator, batch: int, strength: float = 1.0) -> IntensityParameters:
    """Independent parameters for `batch` crops.

    Chances and ranges at strength 1: noise 0.1, variance U(0, 0.1); blur 0.2, sigma U(0.5, 1); brightness 0.15, U(0.75, 1.25);
    contrast 0.15, U(0.75, 1.25); inverted gamma 0.1 and gamma 0.3, log-uniform in 0.7..1.5.
    strength multiplies noise and blur and is the power of the factors: 0 changes nothing; the chances stay.

    Raises:  InputError if strength is negative.
    Source:  nnU-Net's augmentation as used by Vaish et al. 2025 (arXiv 2509.13846); Gaussian noise only.
    """
    if not 0 <= strength < float("inf"):
        raise InputError(f"Strength of the intensity changes is {strength}: give 0 (none) or more; 1 is usual.")

    def maybe(chance: float, value: np.ndarray, off: float) -> np.ndarray:
        return np.where(rng.random(batch) < chance, value, off)

    return IntensityParameters(
        noise=strength * maybe(0.1, np.sqrt(rng.uniform(0, 0.1, batch)), 0.0),
        blur=strength * maybe(0.2, rng.uniform(0.5, 1, batch), 0.0),
        brightness=maybe(0.15, rng.uniform(0.75, 1.25, batch), 1.0) ** strength,
        contrast=maybe(0.15, rng.uniform(0.75, 1.25, batch), 1.0) ** strength,
        gamma=maybe(0.3, np.exp(rng.uniform(np.log(0.7), np.log(1.5), batch)), 1.0) ** strength,
        inverted_gamma=maybe(0.1, np.exp(rng.uniform(np.log(0.7), np.log(1.5), batch)), 1.0) ** strength,
        seed=rng.integers(0, 2**62, batch),
    )


def apply_intensity(x: Float[Tensor, "B C *S"], params: IntensityParameters) -> Float[Tensor, "B C *S"]:
    """Noise, blur, brightness, contrast, inverted gamma, gamma, in this order; the input is left as it was.

    Contrast keeps each channel's mean and range; both gammas keep its mean and standard deviation.
    """
    out = x.clone()
    for b, crop in enumerate(out):
        if params.noise[b] != 0:
            noise = torch.randn(crop.shape, generator=torch_stream(int(params.seed[b]), "noise"))
            crop = crop + float(params.noise[b]) * noise.to(crop)
        if params.blur[b] != 0:
            crop = blur(crop, float(params.blur[b]))
        crop = crop * float(params.brightness[b])
        if params.contrast[b] != 1:
            crop = _contrast(crop, float(params.contrast[b]))
        if params.inverted_gamma[b] != 1:
            crop = -_gamma(-crop, float(params.inverted_gamma[b]))
        if params.gamma[b] != 1:
            crop = _gamma(crop, float(params.gamma[b]))
        out[b] = crop
    return out


def blur(x: Float[Tensor, "C *S"], sigma: float) -> Float[Tensor, "C *S"]:
    """Gaussian blur, sigma in voxels, one axis after the other; weights are renormalised at the border."""
    for axis in range(1, x.ndim):
        at = torch.arange(x.shape[axis], device=x.device, dtype=x.dtype)
        distance = at[:, None] - at[None, :]
        weight = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= 4 * sigma + 0.5)
        weight = weight / weight.sum(1, keepdim=True)
        x = (x.movedim(axis, -1) @ weight.T).movedim(-1, axis)
    return x


def _contrast(x: Float[Tensor, "C *S"], factor: float) -> Float[Tensor, "C *S"]:
    axes = tuple(range(1, x.ndim))
    mean, low, high = x.mean(axes, keepdim=True), x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    return ((x - mean) * factor + mean).clamp(low, high)


def _gamma(x: Float[Tensor, "C *S"], power: float) -> Float[Tensor, "C *S"]:
    axes = tuple(range(1, x.ndim))
    low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    mean, spread = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
    bent = ((x - low) / (high - low).clamp_min(1e-7)).pow(power)
    bent = bent - bent.mean(axes, keepdim=True)
    return bent * (spread / bent.std(axes, keepdim=True, correction=0).clamp_min(1e-7)) + mean
