"""Embeddings that agree between views and fill space like a Gaussian: no teacher, no negatives, one number to weigh."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones.features import Backbone
from headwater.errors import InputError
from headwater.objectives.contrast import across
from headwater.objectives.decorrelate import expander, rows_of
from headwater.objectives.latent import both_levels, check_weights, inside
from headwater.objectives.network import Network, Views

FARTHEST, KNOTS = 4.0, 33  # of the integral over frequencies; the weight has fallen to 3e-4 there


def epps_pulley(x: Float[Tensor, "n M"]) -> Float[Tensor, " M"]:
    """Distance of each column from a standard normal sample: n times the weighted integral of |phi_n - phi|^2.

    phi_n(t) is the sample's characteristic function, phi(t) = exp(-t^2 / 2) the normal's, the weight exp(-t^2 / 2) / sqrt(2 pi);
    trapezoids on KNOTS points of 0..FARTHEST, doubled. Smooth, and its gradient is bounded for any outlier.
    Source: Epps & Pulley, Biometrika 70, 723 (1983); as a regulariser LeJEPA (Balestriero & LeCun 2511.08544).
    """
    t = torch.linspace(0, FARTHEST, KNOTS, device=x.device, dtype=x.dtype)
    normal = torch.exp(-t.square() / 2)
    weight = torch.full_like(t, 2 * FARTHEST / (KNOTS - 1)) * normal / (2 * torch.pi) ** 0.5
    weight[0] /= 2
    weight[-1] /= 2
    turned = x[..., None] * t  # (n, M, knots)
    away = (turned.cos().mean(0) - normal).square() + turned.sin().mean(0).square()
    return len(x) * (away * weight).sum(-1)


def sliced_gaussianity(rows: Float[Tensor, "n D"], slices: int) -> Float[Tensor, ""]:
    """Mean `epps_pulley` over random directions: 0 only for N(0, I) (Cramer & Wold).

    Directions are new at each call, from torch's generator.
    """
    directions = F.normalize(torch.randn(rows.shape[1], slices, device=rows.device, dtype=rows.dtype), dim=0)
    return epps_pulley(rows @ directions).mean()


@dataclass(frozen=True)
class GaussianEmbedding:
    """(1 - weight) prediction + weight gaussianity, on embeddings of whole scans (pooled) and of shared places (dense).

    prediction: mean squared distance of a view's embedding from the mean of the views. gaussianity: how far the embeddings of
    each view are from a standard normal, on `slices` random directions (`sliced_gaussianity`). Gradients flow everywhere.

    width: of the embedding, small since a batch of n rows can fill few directions. cells: per axis of the shared box. pooled,
    dense: weights of the two levels. weight: of gaussianity; 0 leaves the prediction alone, which collapses.
    Source: LeJEPA (2511.08544), which leaves the 1 / sqrt(2 pi) of the statistic out: its 0.02 is 0.05 here; the dense level
    is ours.
    """

    masked: ClassVar[bool] = False
    width: int = 64
    cells: int = 5
    pooled: float = 0.5
    dense: float = 0.5
    weight: float = 0.05
    slices: int = 256

    def __post_init__(self):
        check_weights("lejepa", self.pooled, self.dense)
        if not 0 <= self.weight < 1:
            raise InputError(
                f"The weight of gaussianity cannot be {self.weight}: set objective.weight=0.05, or another share of 1."
            )

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """An embedding: three linear maps, batch norm and ReLU between."""
        return nn.ModuleDict({"expander": expander(backbone.dim, self.width)})

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts. Raises InputError if a step has a single scan and pooled features count."""
        x, wanted = views.x.flatten(0, 1), {"pooled": self.pooled, "dense": self.dense}
        if self.pooled and views.x.shape[1] < 2:
            raise InputError("A distribution over scans needs 2 scans per step, this batch has 1: set pretrain.batch=2 or more.")
        made = both_levels(student.heads["expander"], student(x), views, student.backbone.stride, self.cells, wanted)
        parts = {"prediction": x.new_zeros(()), "gaussianity": x.new_zeros(())}
        with torch.autocast(x.device.type, enabled=False):
            for level, z in made.items():
                rows = rows_of(z, inside(views, level))
                parts["prediction"] = parts["prediction"] + wanted[level] * (rows - rows.mean(0)).square().mean()
                gaussian = sum(sliced_gaussianity(view, self.slices) for view in rows) / len(rows)
                alone = across(z)[0].shape[1] / rows.shape[1]  # places of one scan are no independent samples
                parts["gaussianity"] = parts["gaussianity"] + wanted[level] * alone * gaussian
        loss = (1 - self.weight) * parts["prediction"] + self.weight * parts["gaussianity"]
        return loss, {name: part.detach() for name, part in parts.items()}
