"""Decorrelation: views agree, and no channel may be silent or repeat another."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones.features import Backbone
from headwater.errors import InputError
from headwater.objectives.contrast import across
from headwater.objectives.latent import both_levels, check_weights, inside
from headwater.objectives.network import Network, Views

FLOOR = 1e-4  # of a variance


def variance_term(rows: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """How far standard deviations of channels are below one, mean over channels: 0 (all at least 1) to 1 (all silent)."""
    return F.relu(1 - (rows.var(0) + FLOOR).sqrt()).mean()


def covariance_term(rows: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Sum of squared covariances between different channels, over the number of channels."""
    rows = rows - rows.mean(0)
    table = rows.T @ rows / (len(rows) - 1)
    return (table.square().sum() - table.diagonal().square().sum()) / rows.shape[1]


@dataclass(frozen=True)
class Decorrelation:
    """25 invariance + 25 variance + 1 covariance on expanded features, of whole scans (pooled) and of shared places (dense).

    invariance: mean squared difference between views. variance, covariance: see their terms; over the scans of a step for
    pooled features, over scans and places for dense ones, so a small batch has enough rows there. No teacher.

    width: of the expander. cells: per axis of the shared box. pooled, dense: weights of the two levels. variance: weight;
    0 leaves invariance alone with the covariance, which collapses: the way to see what the term is for.
    Source: VICReg (Bardes et al. 2105.04906), its weights; dense at the same places as in VICRegL (2210.01571).
    """

    masked: ClassVar[bool] = False
    width: int = 256
    cells: int = 7
    pooled: float = 0.5
    dense: float = 0.5
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self):
        check_weights("vicreg", self.pooled, self.dense)
        check_weights("vicreg", self.invariance, self.variance, self.covariance)

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """An expander: three linear maps, batch norm and ReLU between."""
        return nn.ModuleDict({"expander": expander(backbone.dim, self.width)})

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts. Raises InputError if a step has a single scan and pooled features count."""
        x, wanted = views.x.flatten(0, 1), {"pooled": self.pooled, "dense": self.dense}
        if self.pooled and views.x.shape[1] < 2:
            raise InputError("Variance over scans needs 2 scans per step, this batch has 1: set pretrain.batch=2 or more.")
        made = both_levels(student.heads["expander"], student(x), views, student.backbone.stride, self.cells, wanted)
        parts: dict[str, Tensor] = {}
        with torch.autocast(x.device.type, enabled=False):
            for level, z in made.items():
                for name, value in self.terms(*rows_of(z, inside(views, level))).items():
                    parts[name] = parts.get(name, 0.0) + wanted[level] * value
        loss = sum(getattr(self, name) * part for name, part in parts.items())
        return loss, {name: part.detach() for name, part in parts.items()}

    def terms(self, first: Float[Tensor, "n D"], second: Float[Tensor, "n D"]) -> dict[str, Tensor]:
        """The three terms of one level, between the rows of both views."""
        return {
            "invariance": F.mse_loss(first, second),
            "variance": (variance_term(first) + variance_term(second)) / 2,
            "covariance": covariance_term(first) + covariance_term(second),
        }


def rows_of(z: Float[Tensor, "V B D O"], seen: Bool[Tensor, "B O"] | None) -> Float[Tensor, "V n D"]:
    """One row per scan and place of every view, from all ranks; places outside a view are left out."""
    rows = across(z.float())[0].transpose(2, 3)
    return rows.flatten(1, 2) if seen is None else rows[:, across(seen[None].float())[0][0] > 0.5]


def expander(width_in: int, width: int) -> nn.Sequential:
    """Linear, batch norm and ReLU twice, then linear; batch norm keeps no running statistics (as `network.projector`)."""

    def part(inner: int) -> list[nn.Module]:
        return [nn.Linear(inner, width, bias=False), nn.BatchNorm1d(width, track_running_stats=False), nn.ReLU()]

    return nn.Sequential(*part(width_in), *part(width), nn.Linear(width, width))
