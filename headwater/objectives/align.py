"""Consistent view alignment: tokens of the same place agree between two views of a scan."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones import Reconstruction, refill
from headwater.backbones.features import Backbone
from headwater.objectives.contrast import nt_xent
from headwater.objectives.network import Network, Views, on_map, predictor, projector
from headwater.objectives.reconstruct import masked_huber, masked_part


def align(
    features: Float[Tensor, "B D *G"], boxes: Float[Tensor, "B d 2"], out: int | tuple[int, ...], samples: int = 2
) -> Float[Tensor, "B D *O"]:
    """What a feature map shows inside a box, on a regular grid of `out` cells per axis.

    Token i of an axis with G tokens has its centre at (i + 0.5) / G. Every cell is the mean of `samples` points per axis, each
    interpolated linearly; beyond the outermost token centres the outermost value holds. Linear interpolation on a box along
    the axes factors, so each axis is one small matrix product, in array order: nothing is gathered, no axis can be swapped.

    Args:    boxes: (start, stop) per axis in array order, relative to the map, edges in [0, 1].
    Returns: float32, differentiable in `features`.
    Source:  RoIAlign (He et al. 2017, 1703.06870) in d dimensions, as CVA (2509.13846) uses it.
    """
    grid = features.shape[2:]
    cells = (out,) * len(grid) if isinstance(out, int) else out
    with torch.autocast(features.device.type, enabled=False):
        x = features.float()
        for axis, (tokens, count) in enumerate(zip(grid, cells, strict=True)):
            weight = _weights(boxes[:, axis].float(), tokens, count, samples)  # (B, out, G)
            x = x.movedim(axis + 2, -1)
            x = torch.bmm(x.flatten(1, -2), weight.mT).reshape(*x.shape[:-1], count).movedim(-1, axis + 2)
    return x


def _weights(edges: Float[Tensor, "B 2"], tokens: int, cells: int, samples: int) -> Float[Tensor, "B cells tokens"]:
    """How much each token of an axis counts in each cell: hat functions around the sample points, averaged per cell."""
    points = (torch.arange(cells * samples, device=edges.device) + 0.5) / (cells * samples)
    at = edges[:, :1] + (edges[:, 1:] - edges[:, :1]) * points  # (B, points) in [0, 1]
    at = (at * tokens - 0.5).clamp(0, tokens - 1)  # token index
    hats = (1 - (at[..., None] - torch.arange(tokens, device=edges.device)).abs()).clamp_min(0)
    return hats.unflatten(1, (cells, samples)).mean(2)


def on_tokens(
    boxes: Float[Tensor, "B d 2"], size: tuple[int, ...], grid: tuple[int, ...], stride: tuple[int, ...]
) -> Float[Tensor, "B d 2"]:
    """Boxes relative to a crop of `size` voxels made relative to its token grid, which may reach beyond the crop's high end."""
    share = [n / (g * s) for n, g, s in zip(size, grid, stride, strict=True)]
    return boxes * torch.tensor(share, device=boxes.device, dtype=boxes.dtype)[:, None]


def dense_consistency(student: Float[Tensor, "2 B D *O"], teacher: Float[Tensor, "2 B D *O"]) -> Float[Tensor, ""]:
    """2 - 2 mean cosine between aligned maps, student view v against teacher view 1 - v; 0 (equal) to 4 (opposite)."""
    return 2 - 2 * F.cosine_similarity(student.float(), teacher.detach().float().flip(0), dim=2).mean()


@dataclass(frozen=True)
class ConsistentViews:
    """5 reconstruction + 1 consistency + 0.1 contrast: a masked student against an unmasked teacher that sees the other view.

    reconstruction: Huber on masked voxels. consistency: cosine between projected token maps of the shared box, aligned cell by
    cell. contrast: NT-Xent between pooled features. Projector and predictor serve both; the teacher has no predictor.

    width: of projector and predictor (2048 in the paper). cells: per axis of the shared box; samples: points per cell and axis.
    Source: Vaish et al. 2025 (2509.13846). Departures: boxes and tokens in the same axis order (the public code swaps axes),
    points at the middle of their cells, batch statistics in the teacher's batch norms.
    """

    width: int = 256
    cells: int = 7
    samples: int = 2
    temperature: float = 0.5
    reconstruction: float = 5.0
    consistency: float = 1.0
    contrast: float = 0.1

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        """Projector, predictor, refill of dropped tokens, decoder to voxels."""
        return nn.ModuleDict(
            {
                "projector": projector(backbone.dim, self.width),
                "predictor": predictor(self.width),
                "refill": refill(backbone),
                "reconstruction": Reconstruction(backbone, backbone.channels),
            }
        )

    def __call__(self, student: Network, teacher: Network, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its three parts. Raises InputError if the views are not masked or the batch is a single scan."""
        count, stride, size = views.x.shape[:2], student.backbone.stride, tuple(views.x.shape[3:])
        hidden = masked_part(views, stride)
        x = views.x.flatten(0, 1)  # (VB, C, *S), view 0 first
        seen = student(x, views.keep.flatten(0, 1))
        project, predict = student.heads["projector"], student.heads["predictor"]
        answer = nn.Sequential(project, predict)
        tokens, pooled = on_map(answer, student.heads["refill"](seen).map), answer(seen.pooled)
        with torch.no_grad():
            whole = teacher(x)
            target, target_pooled = on_map(teacher.heads["projector"], whole.map), teacher.heads["projector"](whole.pooled)
        boxes = on_tokens(views.boxes.flatten(0, 1), size, whole.grid, stride)
        aligned = [align(m, boxes, self.cells, self.samples).unflatten(0, count) for m in (tokens, target)]
        parts = {
            "reconstruction": masked_huber(student.heads["reconstruction"](seen), x, hidden),
            "consistency": dense_consistency(*aligned),
            "contrast": nt_xent(pooled.unflatten(0, count), target_pooled.unflatten(0, count), self.temperature),
        }
        loss = sum(getattr(self, name) * part for name, part in parts.items())
        return loss, {name: part.detach() for name, part in parts.items()}
