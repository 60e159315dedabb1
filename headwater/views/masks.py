"""Which token cells a student sees."""

from math import ceil, prod

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from headwater.errors import InputError


def draw_masks(
    rng: np.random.Generator, batch: int, grid: tuple[int, ...], ratio: float = 0.75, block: int = 1
) -> Bool[Tensor, "B *G"]:
    """True where a cell is kept: random blocks of `block` cells per axis, and the same number of cells in every sample.

    round((1 - ratio) blocks) blocks stay. Where the grid is no multiple of the block, blocks at the high end are cut off and
    the last block kept may be partial, so that the number of cells is still equal: round(cells * blocks kept / blocks).

    Args:    grid: cells per axis; ratio: share that is masked, [0, 1); block: cells.
    Raises:  InputError if a value is out of range or no cell would be kept.
    """
    if not 0 <= ratio < 1:
        raise InputError(f"views.mask_ratio cannot be {ratio}: give the hidden share, from 0 to below 1, such as 0.75.")
    if block < 1:
        raise InputError(f"views.mask_block cannot be {block}: give a whole number of tokens from 1, such as 1.")
    blocks_per_axis = [ceil(g / block) for g in grid]
    blocks, cells = prod(blocks_per_axis), prod(grid)
    kept = round((1 - ratio) * blocks)
    if kept == 0:
        raise InputError(_hidden(grid, ratio, block, blocks))
    cells_kept = round(cells * kept / blocks)
    index = np.meshgrid(*(np.arange(g) // block for g in grid), indexing="ij", sparse=True)
    owner = np.ravel_multi_index(np.broadcast_arrays(*index), blocks_per_axis).ravel()  # (cells,) block of each cell
    sizes, keep = np.bincount(owner), np.empty((batch, cells), dtype=bool)
    for sample in keep:
        order = rng.permutation(blocks)
        ends = sizes[order].cumsum()
        whole = int(np.searchsorted(ends, cells_kept, side="right"))  # blocks that are kept whole
        taken = np.zeros(blocks, dtype=bool)
        taken[order[:whole]] = True
        sample[:] = taken[owner]
        if missing := cells_kept - (int(ends[whole - 1]) if whole else 0):
            sample[np.flatnonzero(owner == order[whole])[:missing]] = True
    return torch.from_numpy(keep.reshape(batch, *grid))


def _hidden(grid: tuple[int, ...], ratio: float, block: int, blocks: int) -> str:
    """What to do where every block would be hidden."""
    at_most = int(1000 * (1 - 1 / blocks)) / 1000
    smaller = next((b for b in range(block - 1, 0, -1) if round((1 - ratio) * prod(ceil(g / b) for g in grid)) > 0), None)
    said = f"views.mask_ratio={ratio:g} keeps none of the {blocks} blocks of a {' x '.join(map(str, grid))} grid: "
    if smaller is not None:
        return said + f"set views.mask_block={smaller}" + (f", or use {at_most:g} or less." if at_most > 0 else ".")
    return said + (
        f"use {at_most:g} or less, or a larger views.crop." if at_most > 0 else "enlarge views.crop to two tokens or more."
    )
