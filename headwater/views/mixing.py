"""A scan that takes on part of another's look: its histogram, or its amplitudes at low frequencies."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError
from headwater.streams import numpy_stream

BINS = 1024  # of a histogram, over the range of one channel
KNOTS = 8  # pieces of a random monotone map
TINY = 1e-7


def match_histogram_(x: Float[Tensor, "C *S"], other: Float[Tensor, "K *T"], share: float) -> Float[Tensor, "C *S"]:
    """Each channel goes `share` of the way to the value of equal rank in the other scan's channel, in place.

    At 1 mean and standard deviation are the other's, at 0 its own. Order of the voxels is kept. Ranks are those of a histogram of
    1024 bins, interpolated linearly, so that values are exact to about a bin.

    Raises:  InputError if share is not in [0, 1] or the channels differ.
    """
    _check_share(share)
    if x.shape[0] != other.shape[0]:
        raise InputError(
            f"Histograms of {x.shape[0]} and {other.shape[0]} channels cannot be mixed: give scans of equal channels."
        )
    for channel, target in zip(x, other, strict=True):
        (low, high), (bottom, top) = _range(channel), _range(target)
        if high - low < TINY:
            continue
        ranks, wanted = _cumulative(channel, low, high), _cumulative(target, bottom, top)
        _shift_(channel, np.interp(ranks, wanted, np.linspace(bottom, top, BINS + 1)), low, high, share)
    return x


def bend_histogram_(x: Float[Tensor, "C *S"], share: float, seed: int) -> Float[Tensor, "C *S"]:
    """Each channel goes `share` of the way to its value under a random monotone map of its range onto itself, in place.

    Eight linear pieces whose heights are Dirichlet(1) distributed. The order of the voxels and the range are kept; mean and
    standard deviation change.

    Raises:  InputError if share is not in [0, 1].
    """
    _check_share(share)
    for channel, heights in zip(x, numpy_stream(seed, "histogram").dirichlet(np.ones(KNOTS), x.shape[0]), strict=True):
        low, high = _range(channel)
        if high - low < TINY:
            continue
        knots = low + (high - low) * np.append(0, heights.cumsum())
        values = np.interp(np.linspace(0, KNOTS, BINS + 1), np.arange(KNOTS + 1), knots)
        _shift_(channel, values, low, high, share)
    return x


def mix_fourier_(x: Float[Tensor, "C *S"], other: Float[Tensor, "K *T"], beta: float) -> Float[Tensor, "C *S"]:
    """Amplitudes of the lowest frequencies become the other crop's, phases stay, in place.

    Up to floor(beta * shortest edge) cycles per crop on every axis, all but the constant: the mean stays, since below a mean of 0
    an amplitude has no meaning for a z-scored crop. The standard deviation follows the other's. Only the frequencies that change
    are computed, by small matrix products.

    Raises:  InputError if beta is not in [0, 0.5) or the shapes differ.
    Source:  Yang and Soatto 2020 (arXiv 2004.05498), 0.01 to 0.09 there; they swap the constant too.
    """
    if not 0 <= beta < 0.5:
        raise InputError(
            f"Fourier mixing up to {beta} of the crop's edge: give a share from 0 (none) to below 0.5, such as 0.05."
        )
    if x.shape != other.shape:
        raise InputError(f"Crops of shape {tuple(x.shape)} and {tuple(other.shape)} cannot be mixed: cut both to one size.")
    reach = int(beta * min(x.shape[1:]))
    if reach == 0:
        return x
    mine, theirs = _low(x, reach), _low(other, reach)
    change = torch.polar(theirs.abs(), mine.angle()) - mine
    change[(slice(None), 0, *(reach,) * (x.ndim - 2))] = 0
    for n in x.shape[1:-1]:
        change = torch.tensordot(change, _waves(n, reach, x).conj() / n, ([2], [0]))
    n = x.shape[-1]
    back = _waves(n, reach, x)[reach:].conj() * (2 / n)  # twice: the negative half mirrors the positive
    back[0] /= 2
    pairs = torch.view_as_real(change.movedim(1, -1).contiguous()).flatten(-2)
    return x.add_(pairs @ torch.stack([back.real, -back.imag], 1).flatten(0, 1))


def _low(x: Tensor, reach: int) -> Tensor:
    """Fourier coefficients, (C, 0..reach of the last axis, -reach..reach of the first, of the second ...)."""
    waves = torch.view_as_real(_waves(x.shape[-1], reach, x)[reach:])  # (reach + 1, n, 2)
    out = torch.view_as_complex((x @ waves.movedim(1, 0).flatten(1)).unflatten(-1, (reach + 1, 2)))
    for n in x.shape[1:-1]:
        out = torch.tensordot(out, _waves(n, reach, x), ([1], [1]))  # the contracted axis comes back as the last
    return out


def _waves(n: int, reach: int, like: Tensor) -> Tensor:
    """exp(-2 pi i k t / n), (2 reach + 1, n)."""
    turns = np.outer(np.arange(-reach, reach + 1), np.arange(n)) % n / n
    kind = torch.complex128 if like.dtype == torch.float64 else torch.complex64
    return torch.from_numpy(np.exp(-2j * np.pi * turns)).to(like.device, kind)


def _shift_(x: Tensor, values: np.ndarray, low: float, high: float, share: float) -> None:
    """Values at BINS + 1 even points of the range, interpolated linearly, mixed in by their share."""
    gain = torch.from_numpy(values - np.linspace(low, high, BINS + 1)).to(x)
    cell, at = _cells(x, low, high)
    flat = cell.flatten()
    base, slope = gain[:-1].index_select(0, flat), gain.diff().index_select(0, flat)
    x.add_(base.addcmul_(slope, at.sub_(cell).flatten()).view(x.shape), alpha=share)


def _cells(x: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The bin of each voxel, and its place counted in bins."""
    at = (x - low).mul_(BINS / (high - low)).clamp_(0, BINS)
    return at.int().clamp_(max=BINS - 1), at


def _cumulative(x: Tensor, low: float, high: float) -> np.ndarray:
    """Share of the voxels below each of BINS + 1 even points of the range, rising a little even where there are none."""
    even = np.linspace(0, 1, BINS + 1)
    if high - low < TINY:
        return even
    counts = torch.bincount(_cells(x, low, high)[0].flatten(), minlength=BINS).double().cpu().numpy()  # faster than histc
    return TINY * even + (1 - TINY) * np.append(0, counts.cumsum() / counts.sum())


def _range(x: Tensor) -> tuple[float, float]:
    low, high = x.aminmax()
    return float(low), float(high)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"Histogram mixing by {share}: give a share from 0 (none) to 1 (all the way).")
