"""Photometric changes of z-scored crops: parameters are drawn first and applied later, so they can be repeated."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError
from headwater.views.mixing import bend_histogram_, match_histogram_, mix_fourier_
from headwater.views.photometric import bias_field_, contrast_, cut_out_, gamma_, noise_, rician_
from headwater.views.separable import blur_, low_resolution_

RANGES = {  # chance, least and greatest number drawn, value that changes nothing; their order is part of every run's record
    "noise": (0.1, 0.0, 0.1, 0.0),  # variance
    "blur": (0.2, 0.5, 1.0, 0.0),
    "brightness": (0.15, 0.75, 1.25, 1.0),
    "contrast": (0.15, 0.75, 1.25, 1.0),
    "gamma": (0.3, np.log(0.7), np.log(1.5), 1.0),  # log
    "inverted_gamma": (0.1, np.log(0.7), np.log(1.5), 1.0),  # log
    "rician": (0.0, 0.05, 0.3, 0.0),
    "resolution": (0.0, 0.5, 1.0, 1.0),
    "bias": (0.0, 0.05, 0.3, 0.0),
    "histogram": (0.0, 0.2, 0.8, 0.0),
    "fourier": (0.0, 0.01, 0.09, 0.0),
    "cutout": (0.0, 0.2, 0.4, 0.0),
}
FURTHER = tuple(name for name, (chance, *_) in RANGES.items() if chance == 0)  # changes that happen only where they are asked for
CHANCES, LOW, HIGH, OFF = (column[:, None] for column in np.array(list(RANGES.values())).T)
LARGEST = {"histogram": 1.0, "fourier": 0.49, "cutout": 1.0}  # whatever the strength


@dataclass(frozen=True, eq=False)
class IntensityParameters:
    """One value per crop (B,); the value that changes nothing means "off". What is not given is off for all.

    noise: standard deviation (0 off). blur: sigma in voxels (0 off). brightness, contrast: factors (1 off).
    gamma, inverted_gamma: exponents (1 off). seed: of whatever is random in that crop (noise, field, map, place of the box).
    rician: standard deviation (0 off). resolution: zoom in (0, 1] (1 off). bias: standard deviation of the field's log (0 off).
    histogram: share of the way (0 off). fourier: share of the edge (0 off). cutout: the box's edge over the crop's (0 off).
    """

    noise: np.ndarray
    blur: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    gamma: np.ndarray
    inverted_gamma: np.ndarray
    seed: np.ndarray
    rician: np.ndarray | None = None
    resolution: np.ndarray | None = None
    bias: np.ndarray | None = None
    histogram: np.ndarray | None = None
    fourier: np.ndarray | None = None
    cutout: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in FURTHER:
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self.seed), RANGES[name][-1]))

    @property
    def mixes(self) -> bool:
        """Whether another scan can take part."""
        return bool(self.histogram.any() or self.fourier.any())


def draw_intensity(
    rng: np.random.Generator, batch: int, strength: float = 1.0, changes: Mapping[str, float] | None = None
) -> IntensityParameters:
    """Independent parameters for `batch` crops.

    Chances and ranges at strength 1: noise 0.1, variance U(0, 0.1); blur 0.2, sigma U(0.5, 1); brightness 0.15, U(0.75, 1.25);
    contrast 0.15, U(0.75, 1.25); inverted gamma 0.1 and gamma 0.3, log-uniform in 0.7..1.5. FURTHER, off unless `changes` gives a
    chance: rician U(0.05, 0.3); resolution U(0.5, 1); bias U(0.05, 0.3); histogram U(0.2, 0.8); fourier U(0.01, 0.09), which
    needs other scans when it is applied; cutout U(0.2, 0.4). No chance moves what is drawn for another change.
    strength multiplies noise, blur, bias and shares and is the power of the factors: 0 changes nothing; the chances stay.

    Args:    changes: chances by name, of any of these. Names not given keep the chance above.
    Raises:  InputError if strength is negative or a change is unknown or its chance is not in [0, 1].
    Source:  nnU-Net's augmentation as used by Vaish et al. 2025 (arXiv 2509.13846); Gaussian noise only.
    """
    if not 0 <= strength < float("inf"):
        raise InputError(f"Strength of the intensity changes is {strength}: give 0 (none) or more; 1 is usual.")
    uniform, chance = rng.random((len(RANGES), 2, batch)), CHANCES  # all at once: drawing is a part of a small view's time
    if changes:
        _check(changes)
        chance = np.array([changes.get(name, usual) for name, (usual, *_) in RANGES.items()])[:, None]
    value = LOW + (HIGH - LOW) * uniform[:, 0]
    value[0] = np.sqrt(value[0])
    value[4:6] = np.exp(value[4:6])
    value = np.where(uniform[:, 1] < chance, value, OFF)
    value = np.where(OFF == 1, value**strength, strength * value)
    drawn = dict(zip(RANGES, value, strict=True))
    for name, largest in LARGEST.items():
        np.minimum(drawn[name], largest, out=drawn[name])
    return IntensityParameters(**drawn, seed=rng.integers(0, 2**62, batch))


def apply_intensity(
    x: Float[Tensor, "B C *S"], params: IntensityParameters, others: Float[Tensor, "N K *T"] | None = None
) -> Float[Tensor, "B C *S"]:
    """`apply_intensity_` on a copy: the input is left as it was."""
    return apply_intensity_(x.detach().clone(memory_format=torch.contiguous_format), params, others)


@torch.no_grad()
def apply_intensity_(
    x: Float[Tensor, "B C *S"], params: IntensityParameters, others: Float[Tensor, "N K *T"] | None = None
) -> Float[Tensor, "B C *S"]:
    """Each crop changed in place by its own parameters, whatever the rest of the batch; a crop pays only for what is on.

    In this order: Fourier mixing, histogram, bias field, noise, Rician noise, blur, brightness, contrast, low resolution,
    inverted gamma, gamma, cut-out. What each does to the mean and standard deviation of a z-scored crop is said where it is
    defined; brightness multiplies both.

    Args:    others: crops of other scans whose amplitudes and histograms are mixed in; without them the histogram follows a
             random monotone map instead.
    Raises:  InputError for Fourier mixing without `others`, or others of another shape.
    """
    if others is not None and others.shape != x.shape:
        raise InputError(
            f"Crops are {tuple(x.shape)} and the others to mix with {tuple(others.shape)}: give one of that shape each."
        )
    given = {name: of.tolist() for name, of in vars(params).items()}
    for b, crop in enumerate(x):
        _change_(crop, {name: of[b] for name, of in given.items()}, None if others is None else others[b])
    return x


def _change_(x: Tensor, value: dict[str, float], other: Tensor | None) -> None:
    """One crop (C, *S), changed in place."""
    seed = int(value["seed"])

    def on(name: str) -> bool:
        return value[name] != RANGES[name][-1]

    if on("fourier"):
        if other is None:
            raise InputError("Fourier mixing needs crops of other scans: give `others`, or leave its chance at 0.")
        mix_fourier_(x, other, value["fourier"])
    if on("histogram"):
        if other is None:
            bend_histogram_(x, value["histogram"], seed)
        else:
            match_histogram_(x, other, value["histogram"])
    if on("bias"):
        bias_field_(x, value["bias"], seed)
    if on("noise"):
        noise_(x, value["noise"], seed)
    if on("rician"):
        rician_(x, value["rician"], seed)
    if on("blur"):
        blur_(x, value["blur"])
    if on("brightness"):
        x.mul_(value["brightness"])
    if on("contrast"):
        contrast_(x, value["contrast"])
    if on("resolution"):
        low_resolution_(x, value["resolution"])
    if on("inverted_gamma"):
        gamma_(x.neg_(), value["inverted_gamma"]).neg_()
    if on("gamma"):
        gamma_(x, value["gamma"])
    if on("cutout"):
        cut_out_(x, value["cutout"], seed)


def _check(changes: Mapping[str, float]) -> None:
    for name, chance in changes.items():
        if name not in RANGES:
            raise InputError(f"There is no change of intensity called {name!r}. There are: {', '.join(RANGES)}.")
        if not 0 <= chance <= 1:
            raise InputError(f"The chance of {name} is {chance}: give a share from 0 to 1.")
