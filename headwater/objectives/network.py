"""What is trained: a backbone and the heads its objective asks for."""

from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones.features import Backbone, Features


class Network(nn.Module):
    """A backbone with the heads of one objective. Student and teacher are two of them; the heads are dropped downstream."""

    def __init__(self, backbone: nn.Module, heads: nn.ModuleDict):
        super().__init__()
        self.backbone, self.heads = backbone, heads
        self.cost: Tensor | None = None  # of the last forward pass, where the backbone charges for its path

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """The backbone's features."""
        features = self.backbone(x, keep)
        self.cost = getattr(features, "cost", None)
        return features

    def embed(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B E"] | None:
        """What the head that the loss reads makes of image-level features; None where the objective has no such head."""
        head = next((self.heads[name] for name in ("projector", "expander", "prototypes") if name in self.heads), None)
        return None if head is None else head(pooled)


@runtime_checkable
class Views(Protocol):
    """What an objective reads of the views of a step; headwater.views.Views is one."""

    x: Float[Tensor, "V B C *S"]
    boxes: Float[Tensor, "V B d 2"]
    keep: Bool[Tensor, "V B *G"] | None
    points: Float[Tensor, "V B *O d"] | None
    valid: Bool[Tensor, "B *O"] | None
    local: Float[Tensor, "L B C *s"] | None


@runtime_checkable
class Objective(Protocol):
    """What a backbone is asked to do without labels.

    masked: whether the student must be shown masked views; the loop masks none otherwise.
    """

    masked: ClassVar[bool]

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """The heads a network needs beside this backbone."""

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, a scalar with a gradient into the student only, and its parts without weights or gradient."""


def projector(width_in: int, width: int) -> nn.Sequential:
    """Three linear layers, batch norm after each, SiLU between.

    Source: methods of CVA (arXiv 2509.13846). Batch norm keeps no running statistics, so that a teacher, which is never
    trained, normalises by its batch as the student does.
    """
    return _initialised(
        nn.Sequential(
            nn.Linear(width_in, width, bias=False),
            _norm(width),
            nn.SiLU(),
            nn.Linear(width, width, bias=False),
            _norm(width),
            nn.SiLU(),
            nn.Linear(width, width, bias=False),
            _norm(width),
        )
    )


def predictor(width: int) -> nn.Sequential:
    """width -> width / 4 -> width with batch norm and SiLU between; the student's alone."""
    narrow = max(1, width // 4)
    return _initialised(nn.Sequential(nn.Linear(width, narrow, bias=False), _norm(narrow), nn.SiLU(), nn.Linear(narrow, width)))


def _norm(width: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(width, track_running_stats=False)


def _initialised(head: nn.Sequential) -> nn.Sequential:
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return head


def on_map(head: nn.Module, features: Float[Tensor, "B D *G"]) -> Float[Tensor, "B E *G"]:
    """A head for rows (n, D) applied to every token of a map."""
    rows = features.movedim(1, -1)
    out = head(rows.reshape(-1, features.shape[1]))
    return out.reshape(*rows.shape[:-1], -1).movedim(-1, 1)
