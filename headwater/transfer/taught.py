"""Self-taught: the network's own running mean masks scans that have no mask, and pieces of them are laid into labelled ones."""

import copy
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headwater.device import autocast
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.train.loop import members
from headwater.transfer.batches import outside, unknown
from headwater.transfer.task import Task
from headwater.views.intensity import apply_intensity, draw_intensity
from headwater.views.spatial import draw_placements, place

BEGIN = 0.3  # share of the steps that are taught by masks alone, until the teacher knows something
SURE = 0.9  # probability from which a voxel of the teacher's mask counts
MEMORY = 0.05  # of the steps: how far back the teacher's mean reaches
BLOCK = 2 / 3  # of each edge of a patch: the piece that is exchanged


class Lesson:
    """What a self-taught training adds to any other: `batch` before each step, `learn` after it, `teacher` at the end.

    The teacher, a running mean of the student, masks unlabelled patches in a weak view (no change of grey values); the student
    sees them in a strong one. A block of each unlabelled patch takes the place of that part in a labelled one, or the
    other way about, patch by patch in turn. Voxels that the teacher is not sure of do not count. A batch keeps its size, so
    all that comes on top of a step is one pass of the teacher.
    Source: block exchange after Bai et al. 2023 (BCP, arXiv 2305.00673), threshold after Sohn et al. 2020 (FixMatch);
    here masks and pseudo masks weigh the same, voxel by voxel, and there is no training stage of its own.
    When it pays, measured once (hippocampus at 2 mm, from scratch, 300 steps, 40 test volumes): one label, 4 draws, +1.8 Dice
    points [-1.6, 5.2], most where scratch was worst (+4.6, +2.6 at 0.68, 0.74; +0.6, -0.5 at 0.77, 0.78); four labels, 2 draws,
    -0.8 [-1.8, 0.2]. No clear gain, so it is no default arm; without the threshold it lost.
    """

    def __init__(self, network: nn.Module, store: Store, unlabelled: list[int], settings: Settings, seed: int) -> None:
        self.store, self.unlabelled, self.settings, self.seed = store, list(unlabelled), settings, seed
        self.task, self.steps = Task.of(store, settings), 0
        self.teacher = copy.deepcopy(network).requires_grad_(False).eval()

    def batch(
        self, step: int, images: Float[Tensor, "B C *S"], masks: Int[Tensor, "B *S"]
    ) -> tuple[Float[Tensor, "B C *S"], Int[Tensor, "B *S"]]:
        """Images and masks of a step with pieces of unlabelled scans in them, on the device they came on."""
        if not self.unlabelled or step < BEGIN * self.settings.adapt.steps:
            return images, masks
        weak, strong, beyond = self.patches(step, len(images))
        pseudo = self.masks(weak.to(images.device)).masked_fill(beyond.to(images.device), unknown(self.store.classes))
        inside = block(tuple(images.shape[2:]), self.seed, step).to(images.device)
        even = (torch.arange(len(images), device=images.device) % 2 == 0).view(-1, *[1] * inside.ndim)
        taken = torch.where(even, inside, ~inside)  # (B, *S): where the unlabelled scan shows
        return torch.where(taken[:, None], strong.to(images.device), images), torch.where(taken, pseudo, masks)

    def patches(self, step: int, count: int) -> tuple[Float[Tensor, "B C *S"], Float[Tensor, "B C *S"], Bool[Tensor, "B *S"]]:
        """Unlabelled patches of a step, twice in the same place: as they are, changed in grey values; and what is no scan."""
        adapt, weak, strong, beyond = self.settings.adapt, [], [], []
        for k, member in enumerate(members(step, count, len(self.unlabelled), self.seed)):
            scan, stream = self.unlabelled[member], partial(numpy_stream, self.seed, "unlabelled", step, k)
            placement = draw_placements(
                stream("placement"),
                [self.store.shape(scan)],
                adapt.patch,
                rotation=adapt.rotation,
                scale=adapt.scale,
                probability=adapt.geometry,
                mirror=adapt.mirror,
                spacing=self.store.spacing,
            )[0]
            weak.append(place(self.store.image(scan), placement))
            strong.append(apply_intensity(weak[-1][None], draw_intensity(stream("intensity"), 1, adapt.intensity))[0])
            beyond.append(outside(placement, self.store.shape(scan)))
        return torch.stack(weak), torch.stack(strong), torch.stack(beyond)

    @torch.no_grad()
    def masks(self, images: Float[Tensor, "B C *S"]) -> Int[Tensor, "B *S"]:
        """The teacher's classes; voxels of which it is not sure do not count."""
        with autocast(self.settings.precision, images.device):
            scores = self.teacher(images)
        chances = self.task.probabilities(scores.float(), axis=1)  # (B, L, *S)
        found = torch.stack([torch.as_tensor(self.task.decide(one, probable=True).astype("int64")) for one in chances])
        sure = torch.maximum(chances, 1 - chances).amin(1) if self.task.regions else chances.amax(1)
        return found.to(images.device).masked_fill(sure < SURE, unknown(self.store.classes))

    @torch.no_grad()
    def learn(self, network: nn.Module) -> None:
        """The teacher moves towards the student: a plain mean at first, a running one over MEMORY of all steps later."""
        self.steps += 1
        momentum = 1 - 1 / min(self.steps + 1, max(2.0, MEMORY * self.settings.adapt.steps))
        for ours, theirs in zip(self.teacher.parameters(), network.parameters(), strict=True):
            ours.lerp_(theirs.to(ours.dtype), 1 - momentum)
        for ours, theirs in zip(self.teacher.buffers(), network.buffers(), strict=True):
            ours.copy_(theirs)


def block(shape: tuple[int, ...], seed: int, step: int) -> Tensor:
    """(*S) bool: a box of BLOCK of each edge, anywhere in a patch."""
    rng, inside = numpy_stream(seed, "block", step), torch.zeros(shape, dtype=torch.bool)
    edges = [max(1, round(BLOCK * s)) for s in shape]
    corner = [int(rng.integers(s - e + 1)) for s, e in zip(shape, edges, strict=True)]
    inside[tuple(slice(c, c + e) for c, e in zip(corner, edges, strict=True))] = True
    return inside
