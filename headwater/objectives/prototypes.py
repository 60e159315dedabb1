"""Self-distillation: student and teacher must sort views, and the places in them, into the same prototypes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones import refill
from headwater.backbones.features import Backbone
from headwater.errors import InputError
from headwater.objectives.contrast import across
from headwater.objectives.network import Network, Views

CENTRING = ("sinkhorn", "centre", "none")
ROUNDS = 3  # of Sinkhorn


class Prototypes(nn.Module):
    """Rows to scores: three linear maps with GELU between, then cosines with `count` learned directions.

    centres: running means of the teacher's scores, of whole scans and of places; only centring by "centre" reads them.
    """

    def __init__(self, width_in: int, width: int, count: int):
        super().__init__()
        narrow = max(16, width // 4)
        self.mlp = nn.Sequential(
            nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, narrow)
        )
        self.directions = nn.Parameter(torch.randn(count, narrow))
        self.register_buffer("centres", torch.zeros(2, count))
        for part in self.mlp:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, rows: Float[Tensor, "*n D"]) -> Float[Tensor, "*n K"]:
        """Cosines, float32."""
        with torch.autocast(rows.device.type, enabled=False):
            return F.normalize(self.mlp(rows.float()), dim=-1) @ F.normalize(self.directions, dim=-1).T


def sinkhorn(scores: Float[Tensor, "n K"], temperature: float) -> Float[Tensor, "n K"]:
    """Assignments of rows to prototypes: each row sums to one, and all prototypes get nearly equal shares of all ranks' rows.

    Source: SwAV (Caron et al. 2006.09882), algorithm 1; in logarithms.
    """
    every, first = across(scores[None])
    log = every[0] / temperature
    for _ in range(ROUNDS):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return log[first : first + len(scores)].exp()


@dataclass(frozen=True)
class SelfDistillation:
    """DINO on whole scans and iBOT on places: cross entropy between the student's and the teacher's sorting into prototypes.

    pooled: student view v (and every local crop) against teacher view 1 - v (locals: both). dense: the student's tokens at the
    cells hidden from it against the teacher's tokens there, of the same view; the same prototypes for both.
    The teacher's scores are made sharp by its temperature and kept spread by `centring`: "sinkhorn" (equal shares within a
    step), "centre" (a running mean is subtracted), or "none", which collapses: the way to see what it is for.

    prototypes: how many; fewer than there are images (recipes do this). width: of the head. warm, sharp: temperatures of
    student and teacher. pooled, dense: weights.
    Source: DINO (Caron et al. 2104.14294), iBOT (Zhou et al. 2111.07832), Sinkhorn as in DINOv2 (2304.07193).
    """

    masked: ClassVar[bool] = True
    prototypes: int = 64
    width: int = 256
    warm: float = 0.1
    sharp: float = 0.05
    centring: str = "sinkhorn"
    momentum: float = 0.9
    pooled: float = 1.0
    dense: float = 1.0

    def __post_init__(self):
        if self.centring not in CENTRING:
            raise InputError(f"There is no centring {self.centring!r}: set objective.centring to one of {', '.join(CENTRING)}.")
        if self.prototypes < 2:
            raise InputError(f"{self.prototypes} prototypes cannot tell anything apart: set objective.prototypes=64.")
        if not 0 < self.sharp <= self.warm:
            raise InputError(f"The teacher's temperature {self.sharp} must be above 0 and at most the student's {self.warm}.")

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """Prototypes, and the refill of dropped tokens."""
        return nn.ModuleDict({"prototypes": Prototypes(backbone.dim, self.width, self.prototypes), "refill": refill(backbone)})

    def __call__(self, student: Network, teacher: Network, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts. Raises InputError if the views are not masked."""
        if views.keep is None or views.keep.all():
            raise InputError("No token is masked, so there is no place to sort: set views.mask_ratio=0.75.")
        x, keep, count = views.x.flatten(0, 1), views.keep.flatten(0, 1), views.x.shape[:2]
        sort, seen = student.heads["prototypes"], student(x, keep)
        hidden = ~keep.flatten(1)
        with torch.no_grad():
            whole = teacher(x)
            guide = teacher.heads["prototypes"]
            pooled = self.assigned(guide(whole.pooled), sort, 0).unflatten(0, count)
            dense = self.assigned(guide(whole.tokens[hidden]), sort, 1)
        said = [(v, sort(part)) for v, part in enumerate(seen.pooled.unflatten(0, count))]
        if views.local is not None:
            said += [(None, sort(student(part).pooled)) for part in views.local]
        pairs = [(answer, pooled[w]) for v, answer in said for w in range(len(pooled)) if w != v]
        parts = {
            "pooled": sum(self.distance(*pair) for pair in pairs) / len(pairs),
            "dense": self.distance(sort(student.heads["refill"](seen).tokens[hidden]), dense),
        }
        loss = self.pooled * parts["pooled"] + self.dense * parts["dense"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def assigned(self, scores: Float[Tensor, "n K"], sort: Prototypes, level: int) -> Float[Tensor, "n K"]:
        """The teacher's assignments; moves the centre of this level (0 pooled, 1 dense), which the student keeps."""
        if self.centring == "sinkhorn":
            return sinkhorn(scores, self.sharp)
        if self.centring == "none":
            return F.softmax(scores / self.sharp, -1)
        target = scores - sort.centres[level]
        if sort.training:
            sort.centres[level].lerp_(across(scores[None])[0][0].mean(0), 1 - self.momentum)
        return F.softmax(target / self.sharp, -1)

    def distance(self, scores: Float[Tensor, "n K"], target: Float[Tensor, "n K"]) -> Float[Tensor, ""]:
        """Cross entropy, mean over rows."""
        return -(target * F.log_softmax(scores / self.warm, -1)).sum(-1).mean()
