"""Attention inside windows, in 2D and 3D: shifted windows without a shift, a mask or an index.

Shifting a grid cyclically, cutting it into windows and forbidding neighbours that were far apart (Swin, Liu et al.
2103.14030) is the same as cutting the grid that stands still at other places: at shift, shift + window, ... Each box
of the cut attends within itself. Boxes of one form are attended together; there are at most 3^d forms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd

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


@lru_cache(1024)
def cuts(cells: int, window: int, shift: int) -> tuple[Cut, ...]:
    """How an axis of so many cells is cut. A window larger than the axis shrinks to it and does not shift."""
    if cells <= window:
        return (Cut(0, 1, cells, cells),)
    end = -(-cells // window) * window
    forms: list[Cut] = []
    for low, high in pairwise([0, *range(shift or window, end, window), end]):
        real, length = min(high, cells) - low, high - low
        if forms and (forms[-1].real, forms[-1].length) == (real, length):
            forms[-1] = Cut(forms[-1].start, forms[-1].count + 1, real, length)
        elif real > 0:
            forms.append(Cut(low, 1, real, length))
    return tuple(forms)


Box = tuple[Cut, ...]  # one cut per axis


@lru_cache(256)
def boxes(grid: tuple[int, ...], window: int, shift: int) -> tuple[Box, ...]:
    """All forms of windows of a grid, the last axis running fastest."""
    return tuple(product(*(cuts(n, window, shift) for n in grid)))


@lru_cache(256)
def padding(grid: tuple[int, ...], window: int, shift: int) -> tuple[int, ...]:
    """Cells to add at the high end of every axis so that the last window is whole."""
    last = [cuts(n, window, shift)[-1] for n in grid]
    return tuple(c.start + c.count * c.length - n for n, c in zip(grid, last, strict=True))


def unfold(x: Float[Tensor, "B *P H E"], box: Box, real: bool) -> Float[Tensor, "H B *Q E"]:
    """View of the windows of one form, H first: B, windows per axis, cells per axis; real cells only, or all."""
    d = len(box)
    for axis, cut in enumerate(box):
        length = cut.real if real else cut.length
        x = x.narrow(2 * axis + 1, cut.start, cut.count * length).unflatten(2 * axis + 1, (cut.count, length))
    return x.permute(2 * d + 1, 0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 2)


def gather(x: Float[Tensor, "B *P H E"], box: Box, real: bool = True) -> Float[Tensor, "H W N E"]:
    """The windows of one form as rows, in one copy: W windows of N cells."""
    view = unfold(x, box, real)
    d = len(box)
    return view.reshape(view.shape[0], view.shape[1 : d + 2].numel(), -1, view.shape[-1])


def put(x: Float[Tensor, "B *P H E"], box: Box, rows: Float[Tensor, "H W N E"], real: bool = True) -> None:
    """The inverse of gather: writes the rows where they came from."""
    view = unfold(x, box, real)
    view.copy_(rows.view(view.shape))


def crop_bias(bias: Float[Tensor, "H *W"], box: Box) -> Float[Tensor, "H N M"]:
    """What the bias (H, cells of a window per axis, the same again) is in windows of this form: offsets alone matter."""
    asked = [slice(None), *(slice(c.real) for c in box), *(slice(c.length) for c in box)]
    part = bias[tuple(asked)]
    return part.flatten(1, len(box)).flatten(2)


def attend(
    qkv: Float[Tensor, "B *P three H E"], bias: Float[Tensor, "H *W"], grid: tuple[int, ...], window: int, shift: int, scale: float
) -> Float[Tensor, "B *G C"]:
    """Softmax attention within windows, the bias added to the scores.

    Args:    qkv: queries, keys and values of the grid padded by `padding`. bias: (H, w.., w..) between the cells of a window,
             w the window or the axis where it is shorter.
    Returns: the values of the grid, C = H E.
    """
    if qkv.device.type == "cpu" and not torch.compiler.is_compiling() and not transformed():
        exact = torch.promote_types(qkv.dtype, torch.float32)
        return _Windowed.apply(qkv.to(exact), bias.to(exact), grid, window, shift, scale).to(qkv.dtype).flatten(-2)
    return plain(qkv, bias, grid, window, shift, scale)


def transformed() -> bool:
    """Whether torch.func or forward-mode derivatives look at what is computed."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def plain(
    qkv: Float[Tensor, "B *P three H E"], bias: Float[Tensor, "H *W"], grid: tuple[int, ...], window: int, shift: int, scale: float
) -> Float[Tensor, "B *G C"]:
    """The same in torch's own words: fused on a GPU, compilable, differentiable as often as wanted."""
    q, k, v = qkv.unbind(-3)
    forms, parts = boxes(grid, window, shift), []
    for box in forms:
        rows = [gather(t, box, real).transpose(0, 1) for t, real in ((q, True), (k, False), (v, False))]  # W H N E
        y = F.scaled_dot_product_attention(*rows, crop_bias(bias, box)[None].to(q.dtype), scale=scale)
        y = y.transpose(1, 2).flatten(2)  # W N C
        d, counts, cells = len(box), [c.count for c in box], [c.real for c in box]
        y = y.view(qkv.shape[0], *counts, *cells, -1)
        y = y.permute(0, *(k for axis in range(1, d + 1) for k in (axis, axis + d)), 2 * d + 1)
        parts.append(y.reshape(qkv.shape[0], *(a * b for a, b in zip(counts, cells, strict=True)), -1))
    for axis in range(len(grid), 0, -1):
        n = len(cuts(grid[axis - 1], window, shift))
        parts = [torch.cat(parts[i : i + n], axis) for i in range(0, len(parts), n)]
    return parts[0]


class _Windowed(torch.autograd.Function):
    """`plain` on a CPU, a cache's worth of windows at a time: no attention map of the whole image is ever written.

    torch's fused attention on a CPU has no gradient for the bias. Backward computes the weights again (as
    FlashAttention, Dao 2205.14135); a derivative of the backward falls back on `plain`.
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, qkv: Tensor, bias: Tensor, grid: tuple[int, ...], window: int, shift: int, scale: float) -> Tensor:
        """(B, *G, H, E)."""
        q, k, v = qkv.unbind(-3)
        out, sums = qkv.new_empty(qkv.shape[0], *grid, *qkv.shape[-2:]), []
        for box in boxes(grid, window, shift):
            keys, values = (gather(t, box, False).contiguous() for t in (k, v))
            y, logsum = softmax_rows((gather(q, box) * scale).contiguous(), keys, values, crop_bias(bias, box).contiguous())
            put(out, box, y)
            sums.append(logsum)
        ctx.save_for_backward(qkv, bias, out, *sums)
        ctx.cut, ctx.scale = (grid, window, shift), scale
        return out

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Slopes of qkv and bias."""
        qkv, bias, out, *sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            y = plain(qkv, bias, *ctx.cut, ctx.scale)
            return *torch.autograd.grad(y, (qkv, bias), slope.flatten(-2), create_graph=True), None, None, None, None
        back, back_bias = torch.zeros_like(qkv), torch.zeros_like(bias)
        (q, k, v), (bq, bk, bv) = qkv.unbind(-3), back.unbind(-3)
        for box, logsum in zip(boxes(*ctx.cut), sums, strict=True):
            g, y = gather(slope, box), gather(out, box)
            # one more column takes the log-sum from the scores, and sum(g y) from the slope of the weights
            g = torch.cat([g, -(g * y).sum(-1, keepdim=True)], -1)
            asked = torch.cat([gather(q, box) * ctx.scale, -logsum], -1)
            keys, values = (F.pad(gather(t, box, False), (0, 1), value=1.0) for t in (k, v))
            *sides, b = softmax_rows_backward(asked, keys, values, crop_bias(bias, box).contiguous(), g)
            put(bq, box, sides[0] * ctx.scale)
            put(bk, box, sides[1], False)
            put(bv, box, sides[2], False)
            part = crop_bias_view(back_bias, box)
            part.add_(b.view(part.shape))
        return back, back_bias, None, None, None, None


def crop_bias_view(bias: Tensor, box: Box) -> Tensor:
    """The part of the bias that crop_bias reads, as a view."""
    return bias[(slice(None), *(slice(c.real) for c in box), *(slice(c.length) for c in box))]


def chunks(heads: int, windows: int, area: int) -> Iterator[tuple[slice, slice]]:
    """Heads and windows to work on at once: some windows of one head, or all windows of some."""
    room = max(1, CELLS * torch.get_num_threads() // area)
    if room < windows:
        yield from ((slice(h, h + 1), slice(w, w + room)) for h in range(heads) for w in range(0, windows, room))
    else:
        some = max(1, room // windows)
        yield from ((slice(h, h + some), slice(None)) for h in range(0, heads, some))


def rows(x: Tensor, part: tuple[slice, slice]) -> Tensor:
    """Some heads and windows of H W N E as one batch: a view, for what is written there."""
    return x[part].view(-1, *x.shape[2:])


def scores(s: Tensor, q: Tensor, k: Tensor, bias: Tensor, part: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
    """q k' + bias of some heads and windows, written into the scratch s; (h w) N M, and the same as h w N M."""
    a, b = rows(q, part), rows(k, part)
    s = s[: len(a)]
    whole = s.view(-1, q[part].shape[1], *s.shape[1:])
    whole.copy_(bias[part[0], None])
    return s.baddbmm_(a, b.transpose(1, 2)), whole


def softmax_rows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k' + bias) v and the log of the sums (H W N 1); q H W N E, k and v H W M E, bias H N M."""
    h, w, n, _ = q.shape
    out, top, total = (q.new_empty(h, w, n, last) for last in (v.shape[-1], 1, 1))
    parts = list(chunks(h, w, n * k.shape[2]))
    scratch = q.new_empty(q[parts[0]].shape[:2].numel(), n, k.shape[2])
    for part in parts:
        s, _ = scores(scratch, q, k, bias, part)
        torch.amax(s, -1, keepdim=True, out=(m := rows(top, part)))
        torch.sum(s.sub_(m).exp_(), -1, keepdim=True, out=rows(total, part))
        torch.bmm(s, rows(v, part), out=rows(out, part))
    return out.div_(total), top.add_(total.log_())


def softmax_rows_backward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slopes of q, k, v and bias for slope g of the output; all carry their extra column, E + 1."""
    (h, w, n, e), m = q.shape, k.shape[2]
    back = [q.new_empty(h, w, n, e - 1), *(q.new_empty(h, w, m, e - 1) for _ in range(2))]
    parts = list(chunks(h, w, n * m))
    count = q[parts[0]].shape[:2].numel()
    scratch, slopes = (q.new_empty(count, n, m) for _ in range(2))
    back_bias = q.new_zeros(h, min(w, count), n, m)
    for part in parts:
        p, _ = scores(scratch, q, k, bias, part)
        p.exp_()
        a, b, c = (rows(t, part) for t in (q, k, g))
        torch.bmm(p.transpose(1, 2), c[..., :-1], out=rows(back[2], part))
        s = torch.bmm(c, rows(v, part).transpose(1, 2), out=slopes[: len(c)]).mul_(p)
        torch.bmm(s, b[..., :-1], out=rows(back[0], part))
        torch.bmm(s.transpose(1, 2), a[..., :-1], out=rows(back[1], part))
        wide = s.view(-1, q[part].shape[1], n, m)
        back_bias[part[0], : wide.shape[1]].add_(wide)
    return *back, back_bias.sum(1)


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
