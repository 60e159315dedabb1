"""Latent prediction: one network says what another makes of the part it does not see; nobody is pushed apart."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones import refill
from headwater.backbones.features import Backbone, Features
from headwater.errors import InputError
from headwater.objectives.align import mean_of, same_places
from headwater.objectives.network import Network, Views, on_map, predictor, projector


def check_weights(name: str, *weights: float) -> None:
    """Raises InputError unless all weights are 0 or more and one is above."""
    if min(weights) < 0 or not any(weights):
        raise InputError(f"Weights {weights} of {name}: each is 0 or more and one is above 0, such as 1 and 1.")


def both_levels(
    head: nn.Module, features: Features, views: Views, stride: tuple[int, ...], cells: int, wanted: dict[str, float]
) -> dict[str, Float[Tensor, "V B E O"]]:
    """What a head makes of whole scans ("pooled", one place) and of the places all views share ("dense"), where wanted (> 0)."""
    made = {}
    if wanted["pooled"]:
        made["pooled"] = head(features.pooled).unflatten(0, views.x.shape[:2])[..., None]
    if wanted["dense"]:
        made["dense"] = same_places(on_map(head, features.map), views, stride, cells)
    return made


def inside(views: Views, level: str) -> Bool[Tensor, "B O"] | None:
    """Which places of a level lie inside every view; None: all."""
    return views.valid.flatten(1) if level == "dense" and views.valid is not None else None


@dataclass(frozen=True)
class LatentPrediction:
    """From one view, what the teacher makes of the other: of the whole scan (pooled) and of every shared place (dense).

    2 - 2 cosine each, between the student's projection and prediction and the teacher's projection. Nothing keeps scans apart:
    the predictor, the slow teacher and the gradient that stops at it are what prevents collapse.

    width: of projector and predictor. cells: per axis of the shared box. pooled, dense: weights. guarded: False takes the
    guards away (the student is its own teacher, with gradient and without predictor), which collapses: the way to see what they
    are for.
    Source: BYOL (Grill et al. 2006.07733); the dense part as in PixPro (2011.10043) without its propagation.
    """

    masked: ClassVar[bool] = False
    width: int = 256
    cells: int = 7
    pooled: float = 1.0
    dense: float = 1.0
    guarded: bool = True

    def __post_init__(self):
        check_weights("byol", self.pooled, self.dense)

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """Projector and predictor."""
        heads = {"projector": projector(backbone.dim, self.width)}
        return nn.ModuleDict(heads | ({"predictor": predictor(self.width)} if self.guarded else {}))

    def __call__(self, student: Network, teacher: Network, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts."""
        x, stride, wanted = views.x.flatten(0, 1), student.backbone.stride, {"pooled": self.pooled, "dense": self.dense}
        guide = teacher if self.guarded else student
        answer = nn.Sequential(*(student.heads[name] for name in ("projector", "predictor") if name in student.heads))
        said = both_levels(answer, student(x), views, stride, self.cells, wanted)
        with torch.set_grad_enabled(not self.guarded):
            true = both_levels(guide.heads["projector"], guide(x), views, stride, self.cells, wanted)
        parts = {}
        for level, mine in said.items():
            cosines = F.cosine_similarity(mine.float(), true[level].float().flip(0), dim=2)  # (V, B, O)
            parts[level] = 2 - 2 * mean_of(cosines, inside(views, level))
        loss = sum(wanted[level] * part for level, part in parts.items())
        return loss, {level: part.detach() for level, part in parts.items()}


@dataclass(frozen=True)
class MaskedLatentPrediction:
    """From the part of a view that is not hidden, the teacher's tokens of the part that is.

    The teacher sees the whole view; its tokens are normalised over their channels and are the target (smooth L1) at hidden
    cells. The student's tokens are refilled to the whole grid (dropped ones come from a small transformer that knows their
    places) and mapped linearly.

    guarded: False lets the student be its own teacher, with gradient, and leaves the normalisation out, which collapses.
    Source: I-JEPA (Assran et al. 2301.08243) with one mask per view; blocks as large as views.mask_block says.
    """

    masked: ClassVar[bool] = True
    guarded: bool = True

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """Refill of dropped tokens and a linear map."""
        last = nn.Linear(backbone.dim, backbone.dim)
        nn.init.trunc_normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)
        return nn.ModuleDict({"refill": refill(backbone), "predictor": last})

    def __call__(self, student: Network, teacher: Network, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its part. Raises InputError if the views are not masked."""
        if views.keep is None or views.keep.all():
            raise InputError("No token is masked, so there is nothing to predict: set views.mask_ratio=0.75.")
        x, keep = views.x.flatten(0, 1), views.keep.flatten(0, 1)
        said = student.heads["predictor"](student.heads["refill"](student(x, keep)).tokens).float()
        with torch.set_grad_enabled(not self.guarded):
            true = (teacher if self.guarded else student)(x).tokens.float()
        if self.guarded:
            true = F.layer_norm(true, true.shape[-1:])
        loss = F.smooth_l1_loss(said, true, reduction="none").mean(-1)[~keep.flatten(1)].mean()
        return loss, {"prediction": loss.detach()}
