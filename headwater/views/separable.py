"""Changes that are one small matrix per axis, in place: Gaussian blur and simulated low resolution."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError

BLOCK = 32  # rows of a banded matrix that are multiplied at a time, so that most of its zeros are skipped


def blur_(x: Float[Tensor, "C *S"], sigma: float) -> Float[Tensor, "C *S"]:
    """Gaussian blur, sigma in voxels, cut off at 4 sigma; weights are renormalised at the border.

    Of a z-scored crop the mean stays but for the border and the standard deviation falls.

    Raises:  InputError if sigma is negative.
    """
    if not 0 <= sigma < float("inf"):
        raise InputError(f"Blur of {sigma} voxels: give a sigma of 0 (none) or more; 0.5 to 1 is usual.")
    return x if sigma == 0 else _along_(x, {n: _gaussian(n, sigma) for n in set(x.shape[1:])}, int(4 * sigma + 0.5))


def low_resolution_(x: Float[Tensor, "C *S"], zoom: float) -> Float[Tensor, "C *S"]:
    """What a scan with voxels 1 / zoom as long would show, on this grid: voxels averaged, then interpolated linearly.

    round(zoom n) voxels per axis, at least one. Of a z-scored crop the mean stays but for the border and the standard deviation
    falls.

    Args:    zoom: in (0, 1]; 1 changes nothing.
    Raises:  InputError if zoom is out of range.
    Source:  nnU-Net's simulation of low resolution (Isensee et al. 2021), which takes the nearest voxel instead of the mean.
    """
    if not 0 < zoom <= 1:
        raise InputError(f"Low resolution with a zoom of {zoom}: give a factor above 0 and at most 1 (none), such as 0.5.")
    few = {n: max(1, round(zoom * n)) for n in set(x.shape[1:])}
    weights = {n: _linear(m, n) @ _average(n, m) for n, m in few.items()}
    return _along_(x, weights, max(int(2 * n / m) + 1 for n, m in few.items()))


def _gaussian(n: int, sigma: float) -> Float[np.ndarray, "n n"]:
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    near = np.exp(-0.5 * (np.arange(n) / sigma) ** 2) * (np.arange(n) <= 4 * sigma + 0.5)
    weight = near[distance]
    return weight / weight.sum(1, keepdims=True)


def _average(n: int, few: int) -> Float[np.ndarray, "few n"]:
    """Share of voxel j in the mean over [i, i + 1) n / few."""
    start, voxel = np.arange(few)[:, None] * (n / few), np.arange(n)
    return np.clip(np.minimum(start + n / few, voxel + 1) - np.maximum(start, voxel), 0, None) * (few / n)


def _linear(few: int, n: int) -> Float[np.ndarray, "n few"]:
    """Linear interpolation of `few` voxels at the centres of n over the same length; constant beyond the outer centres."""
    at = np.clip((np.arange(n) + 0.5) * (few / n) - 0.5, 0, few - 1)
    return np.clip(1 - np.abs(at[:, None] - np.arange(few)), 0, None)


def _along_(x: Float[Tensor, "C *S"], weights: dict[int, np.ndarray], reach: int) -> Float[Tensor, "C *S"]:
    """Each axis times the (n, n) matrix of its length, whose entries further than `reach` from the diagonal are 0.

    A product takes the first axis and leaves it as the last, so that after all of them the axes are where they were. To and fro
    between two buffers, since fresh memory costs as much as a product.
    """
    weight = {n: torch.from_numpy(w).to(x) for n, w in weights.items()}
    spare = torch.empty(x.shape[1:], dtype=x.dtype, device=x.device)
    for channel in x:
        now, then = channel.contiguous(), spare
        for n in x.shape[1:]:
            lines, made = now.view(n, -1), then.view(-1, n)
            for first in range(0, n, BLOCK):
                rows, near = slice(first, first + BLOCK), slice(max(first - reach, 0), first + BLOCK + reach)
                torch.mm(lines[near].T, weight[n][rows, near].T, out=made[:, rows])
            now, then = then, now
        channel.copy_(now)
    return x
