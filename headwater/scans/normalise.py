"""Values of a file to mean 0 and spread 1 in half precision, and back to the file's own units."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Float, Shaped

from headwater.scans.examine import moments

_MOST = 1 << 22  # percentiles of larger channels come from every k-th voxel
_CHUNK = 1 << 18  # voxels in float64 at a time
_LARGEST = 6e4  # of half precision


@dataclass(frozen=True)
class Window:
    """What one channel is mapped by: clipped to low .. high, then minus mean, over spread. In the file's units."""

    low: float
    high: float
    mean: float
    spread: float

    def plain(self) -> list[float]:
        """For JSON."""
        return list(astuple(self))


def window(channel: Shaped[np.ndarray, "..."], span: tuple[float, float] | None = None) -> Window:
    """The window of one channel: its 0.5th to 99.5th percentile, or `span`; mean and spread of what is clipped to it.

    A channel whose percentiles are equal (nearly all voxels are one value) keeps its whole range: the rare ones are the picture.
    """
    flat = channel.reshape(-1)
    low, high = span or (float(p) for p in np.percentile(flat[:: (flat.size // _MOST) | 1], [0.5, 99.5]))
    if low == high:
        low, high = float(flat.min()), float(flat.max())
    return Window(low, high, *moments(flat, low, high))


def pooled(windows: Sequence[Window], sizes: Sequence[int]) -> Window:
    """The window of several channels of one span taken together, of `sizes` voxels each."""
    share = np.array(sizes) / np.sum(sizes)
    means, spreads = np.array([w.mean for w in windows]), np.array([w.spread for w in windows])
    mean = float(share @ means)
    return Window(windows[0].low, windows[0].high, mean, float(np.sqrt(share @ (spreads**2 + (means - mean) ** 2))))


def normalise(image: Shaped[np.ndarray, "C *S"], windows: Sequence[Window]) -> tuple[Float[np.ndarray, "C *S"], float]:
    """(C, *S) float16, and the largest error of its rounding, in spreads; a channel without spread becomes 0."""
    out, worst = np.zeros(image.shape, np.float16), 0.0
    for channel, result, by in zip(image, out, windows, strict=True):
        flat, flat_result = channel.reshape(-1), result.reshape(-1)
        for i in range(0, flat.size if by.low < by.high and by.spread > 0 else 0, _CHUNK):
            part = np.clip(flat[i : i + _CHUNK].astype(np.float64), by.low, by.high)
            part -= by.mean
            part /= by.spread
            np.clip(part, -_LARGEST, _LARGEST, out=part)
            flat_result[i : i + _CHUNK] = part
            part -= flat_result[i : i + _CHUNK]
            worst = max(worst, float(part.max()), -float(part.min()))
    return out, worst


def physical(image: Shaped[np.ndarray, "C *S"], windows: Sequence[Window]) -> Float[np.ndarray, "C *S"]:
    """The way back: (C, *S) float32 in the file's units, as far as they were not clipped."""
    wide = [np.asarray(c, np.float32) * np.float32(w.spread) + np.float32(w.mean) for c, w in zip(image, windows, strict=True)]
    return np.stack(wide)
