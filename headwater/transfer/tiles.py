"""Scores of a scan of any size from a network that sees tiles: evenly spread, weighted by a Gaussian, in bounded memory.

Tiles lie and weigh as in nnU-Net (Isensee et al. 2021): spread evenly, deviation an eighth of the patch, logits averaged. They
form a grid and the Gaussian is a product over axes, so that the weights can be made to sum to 1 beforehand, axis by axis: no map
of weights is kept and nothing is divided at the end. Planes that no later tile touches are handed on at once.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from headwater.device import autocast

Network = Callable[[Tensor], Tensor]


def starts(size: int, patch: int, overlap: float) -> list[int]:
    """First voxel of each tile along an axis: as few as overlap by this share of the patch, spread evenly from end to end."""
    count = math.ceil((size - patch) / max(1.0, patch * (1 - overlap))) + 1
    return [round((size - patch) / (count - 1) * i) for i in range(count)] if count > 1 else [0]


def bell(patch: int) -> Float[np.ndarray, "p"]:
    """Gaussian about voxel patch // 2 with an eighth of the patch as deviation, 1 at its peak."""
    return np.exp(-0.5 * ((np.arange(patch) - patch // 2) / (patch / 8)) ** 2)


def shares(places: Sequence[int], patch: int) -> Float[np.ndarray, "n p"]:
    """Weights of each tile along an axis; those of all tiles at a voxel sum to 1."""
    whole, one = np.zeros(places[-1] + patch), bell(patch)
    for at in places:
        whole[at : at + patch] += one
    return np.stack([one / whole[at : at + patch] for at in places]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where tiles lie. size: of the scan, padded to the patch where it is smaller; lead: voxels padded in front of it."""

    shape: tuple[int, ...]
    size: tuple[int, ...]
    lead: tuple[int, ...]
    patch: tuple[int, ...]
    places: tuple[list[int], ...]
    weights: tuple[Tensor, ...]

    @classmethod
    def of(cls, shape: Sequence[int], patch: Sequence[int], overlap: float, device: torch.device) -> "Grid":
        """The grid for a scan of this shape."""
        size = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
        lead = tuple((n - s) // 2 for n, s in zip(size, shape, strict=True))
        places = tuple(starts(n, p, overlap) for n, p in zip(size, patch, strict=True))
        weights = tuple(torch.from_numpy(shares(at, p)).to(device) for at, p in zip(places, patch, strict=True))
        return cls(tuple(shape), size, lead, tuple(patch), places, weights)

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return math.prod(map(len, self.places))

    def box(self, tile: Sequence[int]) -> tuple[slice, ...]:
        """What a tile covers. tile: its number along each axis."""
        return tuple(slice(at[i], at[i] + p) for at, i, p in zip(self.places, tile, self.patch, strict=True))

    def weight(self, tile: Sequence[int]) -> Float[Tensor, "*p"]:
        """The share a tile has at each of its voxels."""
        product = torch.ones((), device=self.weights[0].device)
        for along, i in zip(self.weights, tile, strict=True):
            product = product[..., None] * along[i]
        return product


def longest(shape: Sequence[int], patch: Sequence[int]) -> int:
    """The axis along which slabs of tiles are thinnest."""
    return max(range(len(patch)), key=lambda axis: shape[axis] / patch[axis])


def slabs(
    network: Network,
    image: Shaped[np.ndarray, "C *S"],
    patch: Sequence[int],
    *,
    channels: int,
    overlap: float = 0.5,
    mirror: Sequence[int] = (),
    precision: str = "fp32",
    device: torch.device | None = None,
    batch: int = 1,
    memory: float = 2.0,
    folder: Path | None = None,
    axis: int = 0,
) -> Iterator[tuple[int, Float[Tensor, "L *T"]]]:
    """Finished scores as they come: (first plane, scores of some planes along `axis`), in order, together the whole scan.

    What is handed out is on the processor and overwritten by the next: use or copy it. Arguments as of `scores`. What adds up
    tiles holds all planes if those take at most `memory` GiB, else as many as a tile has, else (still too many) it is a file.
    """
    device = device or _device_of(network)
    grid = Grid.of(image.shape[1:], patch, overlap, device)
    if grid.size != grid.shape:
        around = [(0, 0), *((a, n - s - a) for a, n, s in zip(grid.lead, grid.size, grid.shape, strict=True))]
        image = np.pad(image, around, mode="reflect")  # as in training
    rest = [n for i, n in enumerate(grid.size) if i != axis]
    plane = 4 * channels * math.prod(rest)
    whole = plane * grid.size[axis] <= memory * 2**30
    held = grid.size[axis] if whole else grid.patch[axis]
    sums = _zeros((channels, held, *rest), device, plane * held > memory * 2**30, folder).movedim(1, 1 + axis)
    others = [range(len(places)) for i, places in enumerate(grid.places) if i != axis]
    rows, inside = grid.places[axis], [slice(a, a + n) for a, n in zip(grid.lead, grid.shape, strict=True)]
    for row, at in enumerate(rows):
        tiles = [(*inner[:axis], row, *inner[axis:]) for inner in itertools.product(*others)]
        for k in range(0, len(tiles), batch):
            _add(sums, network, image, grid, tiles[k : k + batch], mirror, precision, device, axis, 0 if whole else at)
        if whole and row < len(rows) - 1:
            continue
        done = grid.size[axis] if whole else (rows[row + 1] if row < len(rows) - 1 else grid.size[axis]) - at
        inside[axis] = slice(grid.lead[axis], grid.lead[axis] + min(done, grid.shape[axis]))  # padded axes have one row
        yield 0 if whole else at, sums[(slice(None), *inside)].cpu()
        if row < len(rows) - 1:
            _forward(sums, done, axis)


def scores(
    network: Network,
    image: Shaped[np.ndarray, "C *S"],
    patch: Sequence[int],
    *,
    channels: int,
    overlap: float = 0.5,
    mirror: Sequence[int] = (),
    precision: str = "fp32",
    device: torch.device | None = None,
    batch: int = 1,
    memory: float = 2.0,
    folder: Path | None = None,
) -> Float[np.ndarray, "L *S"]:
    """Logits of every voxel of one scan.

    network: (B, C, *patch) to (B, L, *patch), in evaluation mode. image: as trained on; reflected up to the patch if smaller.
    channels: L. overlap: share of the patch, 0 to below 1, that neighbours have in common at least. mirror: axes of *S; the mean
    over all 2^n ways of flipping them is taken. device: where the network is, found out if None. batch: tiles at a time.
    memory: GiB; results that take more lie in a file without a name in `folder` (the system's own if None) and go with the array.
    """
    given = {"overlap": overlap, "mirror": mirror, "precision": precision, "device": device, "batch": batch}
    given |= {"memory": memory, "folder": folder}
    shape = (channels, *image.shape[1:])
    out = None
    for at, part in slabs(network, image, patch, channels=channels, axis=0, **given):
        if part.shape == shape:
            return part.numpy()
        if out is None:
            out = _zeros(shape, torch.device("cpu"), 4 * math.prod(shape) > memory * 2**30, folder).numpy()
        out[:, at : at + part.shape[1]] = part
    return out


def _device_of(network: Network) -> torch.device:
    """Where a network's weights are; the processor for one without."""
    weights = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((w.device for w in weights), torch.device("cpu"))


def _zeros(shape: Sequence[int], device: torch.device, file: bool, folder: Path | None) -> Tensor:
    """Zeros in memory, or in a file without a name that is gone when nobody holds it."""
    if file:
        with tempfile.TemporaryFile(dir=folder) as opened:
            return torch.from_numpy(np.memmap(opened, np.float32, "w+", shape=tuple(shape)))
    return torch.zeros(tuple(shape), device=device)  # numpy's huge pages take now 0.02 s, now 0.35 s for 90 MiB


@torch.inference_mode()
def _add(
    sums: Tensor, network: Network, image: np.ndarray, grid: Grid, tiles: list[tuple[int, ...]], mirror: Sequence[int],
    precision: str, device: torch.device, axis: int, base: int,
) -> None:  # fmt: skip
    """Adds the weighted scores of some tiles to sums, whose first plane along `axis` is `base`."""
    cut = np.stack([image[(slice(None), *grid.box(tile))] for tile in tiles], dtype=np.float32, casting="unsafe")
    found = _mirrored(network, torch.from_numpy(cut).to(device), mirror, precision)
    if found.shape[1:] != (len(sums), *grid.patch):
        raise ValueError(f"the network gives {tuple(found.shape[1:])} for a tile, not {(len(sums), *grid.patch)}")
    for tile, one in zip(tiles, found, strict=True):
        box = list(grid.box(tile))
        box[axis] = slice(box[axis].start - base, box[axis].stop - base)
        sums[(slice(None), *box)].addcmul_(one.to(sums.device), grid.weight(tile).to(sums.device))


def _mirrored(network: Network, x: Tensor, mirror: Sequence[int], precision: str) -> Tensor:
    """The mean of the network's scores over all ways of flipping these axes, in single precision."""
    ways = [way for n in range(len(mirror) + 1) for way in itertools.combinations([axis + 2 for axis in mirror], n)]
    total = None
    with autocast(precision, x.device):
        for way in ways:
            one = network(x.flip(way) if way else x).float()
            one = one.flip(way) if way else one
            total = one if total is None else total + one  # not in place: a network may hand back what it was given
    return total / len(ways) if len(ways) > 1 else total


def _forward(sums: Tensor, done: int, axis: int) -> None:
    """Moves planes that are not finished to the front, one at a time, and empties the rest."""
    planes = sums.movedim(1 + axis, 0)
    for i in range(len(planes) - done):
        planes[i] = planes[i + done]
    planes[len(planes) - done :] = 0
