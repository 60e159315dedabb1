"""Distillation: a student learns what a finished network makes of the same images."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones.convolutions import LINEAR
from headwater.backbones.features import Backbone
from headwater.backbones.loading import load
from headwater.errors import InputError
from headwater.objectives.latent import check_weights
from headwater.objectives.network import Network, Views

RELATED = 256  # places per image whose relations are compared


@lru_cache(maxsize=2)
def frozen(source: str, channels: int) -> Backbone:
    """The teacher of a file or folder, never trained; kept in memory, in no checkpoint."""
    return load(source, channels=channels).backbone.eval().requires_grad_(False)


@torch.no_grad()
def shown(teacher: Backbone, x: Float[Tensor, "B C *S"], grid: tuple[int, ...]) -> tuple[Float[Tensor, "B E *G"], Tensor]:
    """The teacher's tokens brought to the student's grid by linear interpolation, and its pooled features (B, E).

    A teacher of pictures sees volumes slice by slice: the middle slice of every layer of the student's grid along the first
    axis; pooled features are the mean over slices.
    """
    if teacher.ndim == x.ndim - 2:
        found = teacher(x)
        maps, pooled = found.map.float(), found.pooled.float()
    else:
        depth, layers = x.shape[2], grid[0]
        middles = ((torch.arange(layers, device=x.device) + 0.5) * depth / layers).long().clamp_max(depth - 1)
        found = teacher(x[:, :, middles].transpose(1, 2).flatten(0, 1))
        maps = found.map.float().unflatten(0, (len(x), layers)).transpose(1, 2)  # B E layers h w
        pooled = found.pooled.float().unflatten(0, (len(x), layers)).mean(1)
    if tuple(maps.shape[2:]) != tuple(grid):
        maps = F.interpolate(maps, size=tuple(grid), mode=LINEAR[len(grid)], align_corners=False)
    return maps, pooled


@dataclass(frozen=True)
class Distillation:
    """feature + relation: the student's tokens and pooled features point where a frozen teacher's do.

    feature: 1 - cosine between linearly mapped student features and the teacher's, mean of tokens and of pooled features.
    relation: mean squared difference of the cosines between all places of an image (RELATED of them at most), which needs no map
    and asks only what resembles what. No view is compared with another, and nothing is asked for that the teacher does not know.

    source: a file or folder that `backbones.load` reads, 3D or 2D; a 2D teacher sees slices. feature, relation: weights.
    Source: FitNets (Romero et al. 1412.6550), relational knowledge distillation (Park et al. 1904.05068).
    """

    masked: ClassVar[bool] = False
    source: str = ""
    feature: float = 1.0
    relation: float = 1.0

    def __post_init__(self):
        check_weights("distil", self.feature, self.relation)

    def teacher(self, backbone: Backbone) -> Backbone:
        """The frozen network. Raises InputError if there is none, or none for such images."""
        if not self.source:
            raise InputError("Distillation needs a teacher: set objective.source to a file or folder of weights.")
        teacher = frozen(self.source, backbone.channels)
        if teacher.ndim > backbone.ndim:
            raise InputError(f"{self.source} is a network of volumes, these images are pictures: give a 2D teacher.")
        return teacher.to(next(backbone.parameters()).device)

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """Linear maps from the student's features to the teacher's."""
        width = self.teacher(backbone).dim
        return nn.ModuleDict({name: nn.Linear(backbone.dim, width) for name in ("tokens", "pooled")})

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts; the student's slow copy is not used."""
        x = views.x.flatten(0, 1)
        seen = student(x)
        maps, pooled = shown(self.teacher(student.backbone), x, seen.grid)
        tokens = maps.flatten(2).mT  # B N E
        said = [(student.heads["tokens"](seen.tokens), tokens), (student.heads["pooled"](seen.pooled), pooled)]
        some = torch.randperm(tokens.shape[1], device=x.device)[:RELATED]
        parts = {
            "feature": sum(1 - F.cosine_similarity(a.float(), b, dim=-1).mean() for a, b in said) / 2,
            "relation": (cosines(seen.tokens[:, some]) - cosines(tokens[:, some])).square().mean(),
        }
        loss = self.feature * parts["feature"] + self.relation * parts["relation"]
        return loss, {name: part.detach() for name, part in parts.items()}


def cosines(rows: Float[Tensor, "B n D"]) -> Float[Tensor, "B n n"]:
    """Between all rows of an image, float32."""
    with torch.autocast(rows.device.type, enabled=False):
        rows = F.normalize(rows.float(), dim=-1)
        return rows @ rows.mT
