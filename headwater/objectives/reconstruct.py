"""Reconstruction: say what is behind the mask, what an image was before noise, or the image itself."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones import Reconstruction
from headwater.backbones.convolutions import crop
from headwater.backbones.features import Backbone
from headwater.errors import InputError
from headwater.objectives.network import Network, Views


def masked_voxels(keep: Bool[Tensor, "B *G"], stride: tuple[int, ...], size: tuple[int, ...]) -> Bool[Tensor, "B 1 *S"]:
    """True at the voxels of the cells that are not kept; a cell covers `stride` voxels from the low end, cut at `size`."""
    return crop(_by_cell(~keep, stride)[:, None], size)


def _by_cell(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Every value of a grid (B, *G) for all voxels of its cell, whole cells."""
    for axis, cell in enumerate(stride, start=x.ndim - len(stride)):
        x = x.repeat_interleave(cell, axis)
    return x


def masked_huber(
    prediction: Float[Tensor, "B C *S"], image: Float[Tensor, "B C *S"], hidden: Bool[Tensor, "B 1 *S"], delta: float = 1.0
) -> Float[Tensor, ""]:
    """Huber loss, mean over hidden voxels and channels; not finite if nothing is hidden."""
    hidden = hidden.expand_as(image)
    loss = F.huber_loss(prediction.float(), image.float(), reduction="none", delta=delta)
    return loss.masked_fill(~hidden, 0).sum() / hidden.sum()


def cell_normalised(image: Float[Tensor, "B C *S"], stride: tuple[int, ...]) -> Float[Tensor, "B C *S"]:
    """Every cell brought to mean 0 and variance 1 over its own voxels and channels (variance + 1e-6, uncorrected).

    A cell cut at the high end is judged by the voxels it has. Source: the normalised targets of MAE (He et al. 2111.06377).
    """
    size, axes = tuple(image.shape[2:]), range(2, image.ndim)
    pad = [k for n, s in zip(reversed(size), reversed(stride), strict=True) for k in (0, -n % s)]
    here = F.pad(torch.ones_like(image[:1, :1]), pad)

    def mean(x: Tensor) -> Tensor:
        """Of every cell over the voxels it has, (B, *G)."""
        for k, (axis, s) in enumerate(zip(axes, stride, strict=True)):
            x = x.unflatten(axis + k, (-1, s))
        inner = [1, *range(3, 2 * len(stride) + 2, 2)]
        return x.sum(inner)

    count = mean(here) * image.shape[1]
    middle = mean(F.pad(image, pad)) / count
    away = image - crop(_by_cell(middle, stride)[:, None], size)
    power = mean(F.pad(away.square(), pad)) / count
    return away * crop(_by_cell((power + 1e-6).rsqrt(), stride)[:, None], size)


def spectral_distance(prediction: Float[Tensor, "B C *S"], image: Float[Tensor, "B C *S"]) -> Float[Tensor, ""]:
    """Mean modulus of the difference of two images' orthonormal Fourier transforms.

    The sum of squares would be that of the voxels (Parseval); the modulus itself weighs the many weak high frequencies that
    a voxel loss leaves blurred. It is the plain term (alpha = 0) of the focal frequency loss (Jiang et al. 2012.12821).
    """
    away = torch.fft.rfftn((prediction - image).float(), dim=tuple(range(2, image.ndim)), norm="ortho")
    return (away.real.square() + away.imag.square() + 1e-12).sqrt().mean()


def masked_part(views: Views, stride: tuple[int, ...]) -> Bool[Tensor, "B 1 *S"]:
    """Which voxels of the views (V and B flattened into one axis) the student must reconstruct.

    Raises:  InputError if the views are not masked.
    """
    if views.keep is None or views.keep.all():
        raise InputError("No voxel is masked, so there is nothing to reconstruct: set views.mask_ratio=0.75.")
    return masked_voxels(views.keep.flatten(0, 1), stride, tuple(views.x.shape[3:]))


@dataclass(frozen=True)
class MaskedAutoencoding:
    """Huber loss (delta 1) between the student's reconstruction and the unmasked views, on masked voxels only.

    normalised: targets are normalised cell by cell (`cell_normalised`): structure counts, brightness does not.
    spectral: weight of `spectral_distance`, taken on the image whose hidden voxels are the prediction; 0 for none.
    Parts: reconstruction, and spectral where asked for. The teacher is not used.
    Source: He et al. 2022 (2111.06377); Huber as in CVA (2509.13846).
    """

    masked: ClassVar[bool] = True
    normalised: bool = False
    spectral: float = 0.0

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """A decoder to voxels."""
        return nn.ModuleDict({"reconstruction": Reconstruction(backbone, backbone.channels)})

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts. Raises InputError if the views are not masked."""
        stride = student.backbone.stride
        hidden = masked_part(views, stride)
        x = views.x.flatten(0, 1)  # (VB, C, *S)
        made = student.heads["reconstruction"](student(x, views.keep.flatten(0, 1))).float()
        target = cell_normalised(x, stride) if self.normalised else x
        parts = {"reconstruction": masked_huber(made, target, hidden)}
        loss = parts["reconstruction"]
        if self.spectral:
            parts["spectral"] = spectral_distance(torch.where(hidden, made, target), target)
            loss = loss + self.spectral * parts["spectral"]
        return loss, {name: part.detach() for name, part in parts.items()}


@dataclass(frozen=True)
class Autoencoding:
    """The control without a mask: Huber loss (delta 1) between the reconstruction and the whole view, with noise taken away.

    noise: standard deviation of Gaussian noise on the z-scored input; 0 is plain autoencoding, above it is denoising
    (Vincent et al. 2008). Whatever an objective is worth must show beside this one.
    """

    masked: ClassVar[bool] = False
    noise: float = 0.0

    def __post_init__(self):
        if self.noise < 0:
            raise InputError(
                f"Noise of {self.noise} standard deviations cannot be added: set objective.noise=0.5, or 0 for none."
            )

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """A decoder to voxels."""
        return nn.ModuleDict({"reconstruction": Reconstruction(backbone, backbone.channels)})

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its part."""
        x = views.x.flatten(0, 1)
        seen = x + self.noise * torch.randn_like(x) if self.noise else x
        loss = F.huber_loss(student.heads["reconstruction"](student(seen)).float(), x.float())
        return loss, {"reconstruction": loss.detach()}


@dataclass(frozen=True)
class Denoising(Autoencoding):
    """Autoencoding with noise as strong as half the image."""

    noise: float = 0.5
