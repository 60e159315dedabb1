"""Attention inside windows, in 2D and 3D: shifted windows without a shift, a mask or an index.

Shifting a grid cyclically, cutting it into windows and forbidding neighbours that were far apart (Swin, Liu et al.
2103.14030) is the same as cutting the grid that stands still at other places: at shift, shift + window, ... Each box
of the cut attends within itself. Boxes of one form are attended together; there are at most 3^d forms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CELLS = 2**17  # attention weights worked on at once, per thread: what stays in a core's cache


@dataclass(frozen=True)
class Cut:
    """Windows of one form along an axis: `count` of them from `start` on, each `length` cells, the first `real` in the grid.

    What is not real is padding at the high end: it is attended to, as in Swin, but never asks.
    """

    start: int
    count: int
    real: int
    length: int


Box = tuple[Cut, ...]  # windows of one form: one cut per axis


def cuts(cells: int, window: int, shift: int) -> list[Cut]:
    """How an axis of so many cells is cut. A window larger than the axis shrinks to it and does not shift."""
    if cells <= window:
        return [Cut(0, 1, cells, cells)]
    end = -(-cells // window) * window
    forms: list[Cut] = []
    for low, high in pairwise([0, *range(shift or window, end, window), end]):
        real, length = min(high, cells) - low, high - low
        if forms and (forms[-1].real, forms[-1].length) == (real, length):
            forms[-1] = Cut(forms[-1].start, forms[-1].count + 1, real, length)
        elif real > 0:
            forms.append(Cut(low, 1, real, length))
    return forms


def padding(grid: Sequence[int], window: int, shift: int) -> list[int]:
    """Cells to add at the high end of every axis so that the last window is whole."""
    last = [cuts(n, window, shift)[-1] for n in grid]
    return [c.start + c.count * c.length - n for n, c in zip(grid, last, strict=True)]


def sections(x: Float[Tensor, "B *P three H E"], forms: Sequence[Sequence[Cut]], axis: int = 1) -> Iterator[Tensor]:
    """The part of every form of windows, the last axis running fastest. Split, not sliced: the gradient is put together once."""
    if axis > len(forms):
        yield x
    else:
        for part in x.split([cut.count * cut.length for cut in forms[axis - 1]], axis):
            yield from sections(part, forms, axis + 1)


def gather(x: Float[Tensor, "B *Q H E"], box: Box, real: bool) -> Float[Tensor, "W H N E"]:
    """The windows of a section as rows, in one copy: W windows of N cells; real cells only, or all."""
    d = len(box)
    for axis, cut in enumerate(box):
        length = cut.real if real else cut.length
        if cut.length > length:  # then it is one window, cut by the edge of the grid
            x = x.narrow(2 * axis + 1, 0, length)
        x = x.unflatten(2 * axis + 1, (cut.count, length))
    x = x.permute(0, *range(1, 2 * d, 2), 2 * d + 1, *range(2, 2 * d + 1, 2), 2 * d + 2)
    return x.reshape(x.shape[: d + 1].numel(), x.shape[d + 1], -1, x.shape[-1])


def scatter(y: Float[Tensor, "W H N E"], box: Box) -> Float[Tensor, "B *R C"]:
    """The inverse for the real cells: a piece of the grid, C = H E."""
    d, counts, cells = len(box), [c.count for c in box], [c.real for c in box]
    y = y.view(-1, *counts, y.shape[1], *cells, y.shape[-1])
    y = y.permute(0, *(k for axis in range(1, d + 1) for k in (axis, axis + d + 1)), d + 1, 2 * d + 2)
    return y.reshape(y.shape[0], *(c.count * c.real for c in box), -1)


def attend(
    qkv: Float[Tensor, "B *P three H E"],
    bias: Float[Tensor, "H *W"],
    grid: Sequence[int],
    window: int,
    shift: int,
    scale: float,
) -> Float[Tensor, "B *G C"]:
    """Softmax attention within windows, the bias added to the scores.

    Args:    qkv: queries, keys and values of the grid padded by `padding`. bias: (H, w.., w..) between the cells of a window,
             w the window or the axis where it is shorter.
    Returns: the values of the grid, C = H E.
    """
    forms = [cuts(n, window, shift) for n in grid]
    parts = []
    for section, box in zip(sections(qkv, forms), product(*forms), strict=True):
        q, k, v = section.unbind(-3)
        rows = gather(q, box, True) * scale, gather(k, box, False), gather(v, box, False)
        parts.append(scatter(attended(*rows, crop_bias(bias, box)), box))
    for axis in range(len(grid), 0, -1):
        n = len(forms[axis - 1])
        parts = [torch.cat(parts[i : i + n], axis) for i in range(0, len(parts), n)]
    return parts[0]


def attended(
    q: Float[Tensor, "W H N E"], k: Float[Tensor, "W H M E"], v: Float[Tensor, "W H M E"], bias: Float[Tensor, "H N M"]
) -> Float[Tensor, "W H N E"]:
    """softmax(q k' + bias) v. Fused on a GPU; on a CPU, where torch's fused attention has no gradient for the bias,
    some windows at a time, so that their weights are still in the cache when they are used."""
    bias = bias.to(q.dtype)
    if q.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, bias[None].expand(len(q), -1, -1, -1), scale=1.0)
    some = max(1, CELLS * torch.get_num_threads() // bias.numel())
    chunks = zip(*(t.split(some) for t in (q, k.transpose(2, 3), v)), strict=True)
    return torch.cat([torch.matmul(torch.matmul(a, b).add_(bias).softmax(-1).to(c.dtype), c) for a, b, c in chunks])


def crop_bias(bias: Float[Tensor, "H *W"], box: Box) -> Float[Tensor, "H N M"]:
    """What the bias (H, cells of a window per axis, the same again) is in windows of this form: offsets alone matter."""
    part = bias[(slice(None), *(slice(c.real) for c in box), *(slice(c.length) for c in box))]
    return part.flatten(1, len(box)).flatten(2)


def spread_bias(table: Float[Tensor, "R H"], window: int, grid: Sequence[int]) -> Float[Tensor, "H *W"]:
    """Bias between all cells of a window from a table of offsets: entry (i - j + window - 1) per axis, H first.

    A window shrunk to a short axis reads the middle of the table. (MONAI reads the first rows of the whole window's
    index there, which are other offsets unless it is the first axis that is short.)
    """
    d, reach = len(grid), 2 * window - 1
    bias = table.t().unflatten(1, (reach,) * d)
    for axis, cells in enumerate(grid, start=1):
        w = min(cells, window)
        bias = bias.narrow(axis, window - w, 2 * w - 1).unfold(axis, w, 1)
    return bias.flip(tuple(range(d + 1, 2 * d + 1)))
