"""Consistent view alignment: tokens of the same place agree between two views of a scan."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headwater.backbones import Reconstruction, refill
from headwater.backbones.features import Backbone
from headwater.errors import InputError
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


def sample(features: Float[Tensor, "B D *G"], points: Float[Tensor, "B *O d"]) -> Float[Tensor, "B D *O"]:
    """What a feature map shows at points that lie on no box, interpolated linearly.

    Args:    points: coordinates in array order, relative to the map, edges in [0, 1]; outside, the outermost value holds.
    Returns: float32, differentiable in `features`.
    """
    d, inner = points.shape[-1], points.shape[1:-1]
    grid = (2 * points - 1).flip(-1).reshape(len(points), -1, *[1] * (d - 1), d)  # grid_sample counts the last axis first
    with torch.autocast(features.device.type, enabled=False):
        found = F.grid_sample(features.float(), grid.float(), mode="bilinear", padding_mode="border", align_corners=False)
    return found.reshape(*features.shape[:2], *inner)


def covered(size: tuple[int, ...], grid: tuple[int, ...], stride: tuple[int, ...]) -> tuple[float, ...]:
    """Share of a token grid that lies in its crop of `size` voxels, per axis: the grid may reach beyond the high end."""
    return tuple(n / (g * s) for n, g, s in zip(size, grid, stride, strict=True))


def on_tokens(
    boxes: Float[Tensor, "B d 2"], size: tuple[int, ...], grid: tuple[int, ...], stride: tuple[int, ...]
) -> Float[Tensor, "B d 2"]:
    """Boxes relative to a crop of `size` voxels made relative to its token grid."""
    return boxes * boxes.new_tensor(covered(size, grid, stride))[:, None]


def same_places(
    maps: Float[Tensor, "VB D *G"], views: Views, stride: tuple[int, ...], cells: int, samples: int = 2
) -> Float[Tensor, "V B D O"]:
    """Token maps of all views (V and B in one axis) at the same physical places of each scan.

    Views that differ by their place alone: the cells of the box they share, `cells` per axis; other geometry: `views.points`.
    """
    count, size, grid = tuple(views.x.shape[:2]), tuple(views.x.shape[3:]), tuple(maps.shape[2:])
    if views.points is None:
        found = align(maps, on_tokens(views.boxes.flatten(0, 1), size, grid, stride), cells, samples)
    else:
        points = views.points.flatten(0, 1)
        found = sample(maps, points * points.new_tensor(covered(size, grid, stride)))
    return found.flatten(2).unflatten(0, count)


Places = Float[Tensor, "2 B D O"]
Seen = Bool[Tensor, "B O"]  # places that lie inside both views


def dense_consistency(student: Places, teacher: Places, seen: Seen | None = None) -> Float[Tensor, ""]:
    """2 - 2 mean cosine of a place's vectors, student view v against teacher view 1 - v; 0 (equal) to 4 (opposite)."""
    return 2 - 2 * mean_of(F.cosine_similarity(student.float(), teacher.detach().float().flip(0), dim=2), seen)


def dense_contrast(student: Places, teacher: Places, seen: Seen | None = None, temperature: float = 0.5) -> Float[Tensor, ""]:
    """Which place is it? Cross entropy of the own place among all places of the scan in the teacher's other view.

    Cosines over `temperature`; 0 (told apart without doubt) to, at chance, log O. Source: C-CVA of 2509.13846 applies NT-Xent to
    positions; that the negatives are the other places of the same scan is ours.
    """
    s, t = F.normalize(student.float(), dim=2), F.normalize(teacher.detach().float().flip(0), dim=2)
    scores = torch.einsum("vbdi,vbdj->vbij", s, t) / temperature
    if seen is not None:
        scores = scores.masked_fill(~seen[None, :, None], float("-inf"))
    own = scores.diagonal(dim1=2, dim2=3)
    return mean_of(scores.logsumexp(3) - own, seen)


def gram_consistency(student: Places, teacher: Places, seen: Seen | None = None) -> Float[Tensor, ""]:
    """Mean squared difference of the cosines between all places of a scan: which places are alike, not what they are.

    Source: Gram anchoring of DINOv3 (2508.10104); here between two views of one scan.
    """
    s, t = F.normalize(student.float(), dim=2), F.normalize(teacher.detach().float().flip(0), dim=2)
    away = (torch.einsum("vbdi,vbdj->vbij", s, s) - torch.einsum("vbdi,vbdj->vbij", t, t)).square()
    pairs = None if seen is None else (seen[:, :, None] & seen[:, None]).flatten(1)
    return mean_of(away.flatten(2), pairs)


def mean_of(values: Float[Tensor, "2 B O"], seen: Bool[Tensor, "B O"] | None) -> Float[Tensor, ""]:
    """Over views, scans and the places that count; those outside a view do not count."""
    if seen is None:
        return values.mean()
    return values.masked_fill(~seen, 0).sum() / (2 * seen.sum()).clamp_min(1)


CONSISTENCY = {"cosine": dense_consistency, "contrastive": dense_contrast, "gram": gram_consistency}


@dataclass(frozen=True)
class ConsistentViews:
    """5 reconstruction + 1 consistency + 0.1 contrast: a masked student against an unmasked teacher that sees the other view.

    reconstruction: Huber on masked voxels. consistency: between projected token maps at the same places of both views. contrast:
    NT-Xent between pooled features. Projector and predictor serve both; the teacher has no predictor. A part of weight 0 is
    left out.

    width: of projector and predictor (2048 in the paper). kind: of consistency, cosine | contrastive (C-CVA, weight 0.2 in the
    paper) | gram. cells: per axis of the shared box; samples: points per cell and axis.
    Source: Vaish et al. 2025 (2509.13846). Departures: boxes and tokens in the same axis order (the public code swaps axes),
    points at the middle of their cells, batch statistics in the teacher's batch norms.
    """

    masked: ClassVar[bool] = True
    width: int = 256
    kind: str = "cosine"
    cells: int = 7
    samples: int = 2
    temperature: float = 0.5
    reconstruction: float = 5.0
    consistency: float = 1.0
    contrast: float = 0.1

    def __post_init__(self):
        if self.kind not in CONSISTENCY:
            raise InputError(f"There is no kind of consistency {self.kind!r}: use one of {', '.join(CONSISTENCY)}.")
        weights = (self.reconstruction, self.consistency, self.contrast)
        if min(weights) < 0 or not any(weights):
            raise InputError(f"Weights {weights} of cva: each is 0 or more and one is above 0, such as 5, 1 and 0.1.")

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
        """Loss and its parts. Raises InputError if the views are not masked or the batch is a single scan."""
        count, stride = views.x.shape[:2], student.backbone.stride
        hidden = masked_part(views, stride)
        x = views.x.flatten(0, 1)  # (VB, C, *S), view 0 first
        seen = student(x, views.keep.flatten(0, 1))
        answer = nn.Sequential(student.heads["projector"], student.heads["predictor"])
        with torch.no_grad():
            whole = teacher(x)
        target, parts = teacher.heads["projector"], {}
        if self.reconstruction:
            parts["reconstruction"] = masked_huber(student.heads["reconstruction"](seen), x, hidden)
        if self.consistency:
            with torch.no_grad():
                there = same_places(on_map(target, whole.map), views, stride, self.cells, self.samples)
            here = on_map(answer, student.heads["refill"](seen).map)
            here = same_places(here, views, stride, self.cells, self.samples)
            parts["consistency"] = CONSISTENCY[self.kind](here, there, None if views.valid is None else views.valid.flatten(1))
        if self.contrast:
            with torch.no_grad():
                pooled = target(whole.pooled).unflatten(0, count)
            parts["contrast"] = nt_xent(answer(seen.pooled).unflatten(0, count), pooled, self.temperature)
        loss = sum(getattr(self, name) * part for name, part in parts.items())
        return loss, {name: part.detach() for name, part in parts.items()}
