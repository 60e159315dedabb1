"""One scan as a value: voxels, and where in the body they lie."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Scan:
    """Voxels with their geometry, in two or three dimensions.

    array:   (C, *S), channels first, then the file's own axes in their order. Never turned or flipped.
    spacing: mm per voxel, one number per axis of S.
    affine:  (4, 4), from the file's voxel indices (i, j, k) to mm. A picture is the slice k = 0.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray
    subject: str
    source: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis, without channels."""
        return tuple(int(n) for n in self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.array.ndim - 1

    @property
    def channels(self) -> int:
        """Values per voxel."""
        return int(self.array.shape[0])


def same_place(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two affines put a grid of `shape` at the same place in the body.

    They do if no corner moves by more than a thousandth of the grid's diagonal, nor by more than half of its
    smallest voxel: rounding passes, a shift by a voxel or a flip does not.
    """
    size = np.array([*shape, 1, 1][:3], dtype=float)
    corners = np.array(list(np.ndindex(2, 2, 2)), dtype=float) * (size - 1)  # (8, 3)
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    moved = corners @ (one - other)[:3, :3].T + (one - other)[:3, 3]
    columns = np.linalg.norm(one[:3, : len(shape)], axis=0)  # mm per voxel
    diagonal = float(np.linalg.norm(columns * size[: len(shape)]))
    return bool(np.linalg.norm(moved, axis=1).max() <= min(1e-3 * diagonal, 0.5 * float(columns.min())))
