"""The global part: two views of a scan are closer than views of different scans."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones.features import Backbone
from headwater.errors import InputError
from headwater.objectives.network import Network, Views, projector


def across(x: Float[Tensor, "V B *rest"]) -> tuple[Float[Tensor, "V all *rest"], int]:
    """The scans of all ranks side by side along axis 1, and where the own ones begin; gradients reach every rank's.

    One rank, or none: the tensor itself and 0. Every rank must have equally many scans.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x, 0
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()), 1), dist.get_rank() * x.shape[1]


def nt_xent(
    student: Float[Tensor, "2 B D"], teacher: Float[Tensor, "2 B D"] | None = None, temperature: float = 0.5
) -> Float[Tensor, ""]:
    """Normalised-temperature cross entropy between two views, with vectors of the own scan removed from the negatives.

    Anchor: student view v of scan i. Positive: the other view of scan i, by the teacher if there is one. Negatives: both views
    of every other scan, by the student and, if there is one, by the teacher: 2 B - 2 or 4 B - 4 of them, from all ranks.
    Cosine similarity over `temperature`; mean over the 2 B anchors; no gradient into the teacher.

    Raises:  InputError for a batch of one scan (there is nothing to tell it from).
    Source:  Chen et al. 2020 (2002.05709), equation 1; with a teacher, the form of CVA (2509.13846).
    """
    with torch.autocast(student.device.type, enabled=False):
        s = F.normalize(student.float(), dim=-1)
        t = s if teacher is None else F.normalize(teacher.detach().float(), dim=-1)
        keys, first = across(s)  # (2, all, D)
        if keys.shape[1] < 2:
            raise InputError("Telling scans apart needs 2 scans per step, this batch has 1: set pretrain.batch=2 or more.")
        if teacher is not None:
            keys = torch.cat([keys, across(t)[0]])
        anchors, batch, every = s.flatten(0, 1), s.shape[1], keys.shape[1]
        positive = (anchors * t.flip(0).flatten(0, 1)).sum(-1, keepdim=True) / temperature  # (2B, 1)
        others = anchors @ keys.flatten(0, 1).T / temperature  # (2B, 2 or 4 times all)
        scan = torch.arange(every, device=s.device)
        own = scan[first : first + batch].repeat(2)[:, None] == scan.repeat(len(keys))[None, :]
        logits = torch.cat([positive, others.masked_fill(own, float("-inf"))], 1)
        return (logits.logsumexp(1, keepdim=True) - positive).mean()


@dataclass(frozen=True)
class SimpleContrast:
    """NT-Xent between projected pooled features of two unmasked views, other scans of the step as negatives.

    width: of the projector. Part: contrast. The teacher is not used. negatives: False takes the negatives away, which
    collapses: the way to see what they are for.
    Source: SimCLR (Chen et al. 2002.05709); the projector is CVA's (`network.projector`).
    """

    masked: ClassVar[bool] = False
    width: int = 256
    temperature: float = 0.2
    negatives: bool = True

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """A projector."""
        return nn.ModuleDict({"projector": projector(backbone.dim, self.width)})

    def __call__(self, student: Network, teacher: Network | None, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its part. Raises InputError for a batch of one scan."""
        pooled = student(views.x.flatten(0, 1)).pooled
        projected = student.heads["projector"](pooled).unflatten(0, views.x.shape[:2])
        if self.negatives:
            loss = nt_xent(projected, temperature=self.temperature)
        else:
            loss = (1 - F.cosine_similarity(projected[0].float(), projected[1].float(), dim=-1).mean()) / self.temperature
        return loss, {"contrast": loss.detach()}
