"""A learned distance: a critic tells imagined tokens from seen ones, and the student tries to leave it nothing to tell."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwater.backbones import Reconstruction, refill
from headwater.backbones.features import Backbone
from headwater.errors import InputError
from headwater.objectives.network import Network, Views
from headwater.objectives.reconstruct import masked_huber, masked_part


class Reversed(torch.autograd.Function):
    """The same value with a gradient of minus `strength`: who reads it learns, who made it unlearns (Ganin 1409.7495)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        """x."""
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """The slope turned round."""
        return -ctx.strength * slope, None


@dataclass(frozen=True)
class Adversarial:
    """Masked autoencoding, and tokens imagined at hidden cells that a critic cannot tell from the teacher's tokens there.

    The critic (two linear maps on tokens normalised over their channels) minimises its cross entropy; the gradient reaches the
    student reversed, `strength` times. Distillation compares each answer with its target by a fixed distance; here the distance
    is learned and compares distributions only. Nothing in it forbids that student and teacher agree on one point: what does is
    the reconstruction, so its weight cannot be 0.

    strength: of the reversed gradient. width: of the critic. Parts: reconstruction; critic, ln 2 where it cannot tell at all.
    Source: Goodfellow et al. 1406.2661, with the reversal of Ganin & Lempitsky 1409.7495 in place of alternation.
    """

    masked: ClassVar[bool] = True
    strength: float = 0.1
    width: int = 128

    def __post_init__(self):
        if self.strength < 0:
            raise InputError(f"A reversed gradient of strength {self.strength} helps the critic: set objective.strength=0.1.")

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """A decoder to voxels, the refill of dropped tokens, the critic."""
        critic = nn.Sequential(nn.Linear(backbone.dim, self.width), nn.LeakyReLU(0.2), nn.Linear(self.width, 1))
        decoder = Reconstruction(backbone, backbone.channels)
        return nn.ModuleDict({"reconstruction": decoder, "refill": refill(backbone), "critic": critic})

    def __call__(self, student: Network, teacher: Network, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts. Raises InputError if the views are not masked."""
        voxels = masked_part(views, student.backbone.stride)
        x, keep = views.x.flatten(0, 1), views.keep.flatten(0, 1)
        seen, hidden = student(x, keep), ~keep.flatten(1)
        with torch.no_grad():
            true = teacher(x).tokens[hidden]
        made = Reversed.apply(student.heads["refill"](seen).tokens[hidden], self.strength)
        scores = [student.heads["critic"](F.layer_norm(t.float(), t.shape[-1:])).float() for t in (true, made)]
        parts = {
            "reconstruction": masked_huber(student.heads["reconstruction"](seen), x, voxels),
            "critic": (F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()) / 2,
        }
        return parts["reconstruction"] + parts["critic"], {name: part.detach() for name, part in parts.items()}
