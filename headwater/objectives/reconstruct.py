"""Masked autoencoding: say what is behind the mask."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones import Reconstruction
from headwater.backbones.features import Backbone
from headwater.errors import InputError
from headwater.objectives.network import Network, Views


def masked_voxels(keep: Bool[Tensor, "B *G"], stride: tuple[int, ...], size: tuple[int, ...]) -> Bool[Tensor, "B 1 *S"]:
    """True at the voxels of the cells that are not kept; a cell covers `stride` voxels from the low end, cut at `size`."""
    hidden = ~keep
    for axis, (cell, length) in enumerate(zip(stride, size, strict=True), start=1):
        hidden = hidden.repeat_interleave(cell, axis).narrow(axis, 0, length)
    return hidden[:, None]


def masked_huber(
    prediction: Float[Tensor, "B C *S"], image: Float[Tensor, "B C *S"], hidden: Bool[Tensor, "B 1 *S"], delta: float = 1.0
) -> Float[Tensor, ""]:
    """Huber loss, mean over hidden voxels and channels; not finite if nothing is hidden."""
    hidden = hidden.expand_as(image)
    loss = F.huber_loss(prediction.float(), image.float(), reduction="none", delta=delta)
    return loss.masked_fill(~hidden, 0).sum() / hidden.sum()


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

    Part: reconstruction. The teacher is not used.
    Source: He et al. 2022 (2111.06377); Huber as in CVA (2509.13846).
    """

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """A decoder to voxels."""
        return nn.ModuleDict({"reconstruction": Reconstruction(backbone, backbone.channels)})

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its part. Raises InputError if the views are not masked."""
        hidden = masked_part(views, student.backbone.stride)
        x = views.x.flatten(0, 1)  # (VB, C, *S)
        loss = masked_huber(student.heads["reconstruction"](student(x, views.keep.flatten(0, 1))), x, hidden)
        return loss, {"reconstruction": loss.detach()}
