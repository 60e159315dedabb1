"""Images as rows of patch voxels, and back."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def patchify(x: Float[Tensor, "B C *S"], patch: int) -> Float[Tensor, "B N E"]:
    """Cuts images into cells of patch^d voxels: N in the order of the flattened grid, E = C patch^d.

    The high end is filled with zeros (the mean of a z-scored scan), not reflected: a reflection would show a hidden
    cell's voxels to its neighbour.
    """
    size = x.shape[2:]
    if any(n % patch for n in size):
        x = F.pad(x, [k for n in reversed(size) for k in (0, -n % patch)])
    d, grid = len(size), [n // patch for n in x.shape[2:]]
    x = x.reshape(*x.shape[:2], *(k for n in grid for k in (n, patch)))  # B C g p g p ..
    cells, inner = range(2, 2 + 2 * d, 2), range(3, 3 + 2 * d, 2)
    return x.permute(0, *cells, 1, *inner).flatten(1 + d).flatten(1, d)


def unpatchify(rows: Float[Tensor, "B N E"], grid: Sequence[int], patch: int) -> Float[Tensor, "B C *S"]:
    """The inverse: rows of a full grid as images of size grid * patch."""
    d = len(grid)
    x = rows.reshape(rows.shape[0], *grid, -1, *[patch] * d)  # B g.. C p..
    order = [k for axis in range(d) for k in (1 + axis, 2 + d + axis)]
    return x.permute(0, 1 + d, *order).reshape(rows.shape[0], -1, *(n * patch for n in grid))
