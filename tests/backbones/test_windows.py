"""Windows against a loop over queries, and against MONAI's partition."""

from itertools import product

import pytest
import torch
from monai.networks.nets.swin_unetr import window_partition

from headwater.backbones import windows
from headwater.backbones.windows import Cut, attend, attended, cuts, gather, padding, scatter, sections, spread_bias

GRIDS = [((8, 8), 4), ((5, 9), 4), ((3, 10), 4), ((7, 7), 7), ((4, 5, 6), 2), ((3, 5, 7), 3), ((2, 3, 8), 3), ((1, 1, 2), 7)]
gridded = pytest.mark.parametrize(("grid", "window"), GRIDS, ids=str)
shifted = pytest.mark.parametrize("shifted", [False, True])


def drawn(grid, window, shift, heads=2, size=3, dtype=torch.float64):
    """qkv on the padded grid and a table of offsets."""
    make = torch.Generator().manual_seed(0)
    padded = [n + k for n, k in zip(grid, padding(grid, window, shift), strict=True)]
    qkv = torch.randn(2, *padded, 3, heads, size, generator=make, dtype=dtype)
    return qkv.requires_grad_(), torch.randn((2 * window - 1) ** len(grid), heads, generator=make, dtype=dtype).requires_grad_()


def label(place, cells, window, shift):
    """Window and region of a cell after Swin's cyclic shift, along one axis: who shares both may attend."""
    if cells <= window:
        return 0, 0
    padded = -(-cells // window) * window
    rolled = (place - shift) % padded
    return rolled // window, int(shift > 0 and rolled >= padded - window) + int(shift > 0 and rolled >= padded - shift)


def loop(qkv, table, grid, window, shift, scale):
    """The definition: one query after another, over the keys that share its shifted window and its region."""
    padded, reach = qkv.shape[1 : 1 + len(grid)], 2 * window - 1
    places = list(product(*map(range, padded)))
    of = {p: tuple(label(*axis, window, shift) for axis in zip(p, grid, strict=True)) for p in places}
    rows = qkv.flatten(1, len(grid))  # B P 3 H E
    answers = []
    for asked in product(*map(range, grid)):
        seen = [i for i, p in enumerate(places) if of[p] == of[asked]]
        entries = []
        for i in seen:
            entry = 0
            for a, b in zip(asked, places[i], strict=True):
                entry = entry * reach + a - b + window - 1
            entries.append(entry)
        q = rows[:, places.index(asked), 0]
        scores = torch.einsum("bhe,bkhe->bhk", q, rows[:, seen, 1]) * scale + table[entries].t()
        answers.append(torch.einsum("bhk,bkhe->bhe", scores.softmax(-1), rows[:, seen, 2]).flatten(1))
    return torch.stack(answers, 1).unflatten(1, grid)


@gridded
@shifted
def test_each_query_attends_to_its_own_shifted_window(grid, window, shifted):
    shift = window // 2 if shifted else 0
    inputs = drawn(grid, window, shift)
    qkv, table = inputs
    ours = attend(qkv, spread_bias(table, window, grid), grid, window, shift, 0.7)
    theirs = loop(qkv, table, grid, window, shift, 0.7)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    slope = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    for a, b in zip(*(torch.autograd.grad(y, inputs, slope) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)


@gridded
@shifted
def test_boxes_put_every_cell_back_where_it_was(grid, window, shifted):
    shift = window // 2 if shifted else 0
    qkv, _ = drawn(grid, window, shift)
    x = qkv.detach()[..., 0, :, :]
    forms = [cuts(n, window, shift) for n in grid]
    found = torch.full((2, *grid, 6), float("nan"), dtype=x.dtype)
    for section, box in zip(sections(qkv.detach(), forms), product(*forms), strict=True):
        place = (slice(None), *(slice(c.start, c.start + c.count * c.real) for c in box))
        assert found[place].isnan().all()  # nobody was here before
        found[place] = scatter(gather(section[..., 0, :, :], box, True), box)
    assert torch.equal(found, x[(slice(None), *(slice(n) for n in grid))].flatten(-2))


@pytest.mark.parametrize("grid", [(8, 12), (4, 8, 12)])
def test_whole_windows_are_monais(grid):
    x = torch.randn(2, *grid, 1, 5, generator=torch.Generator().manual_seed(0))
    box = tuple(Cut(0, n // 4, 4, 4) for n in grid)
    assert [tuple(cuts(n, 4, 0)) for n in grid] == [(c,) for c in box]
    assert torch.equal(gather(x, box, True)[:, 0], window_partition(x[..., 0, :], (4,) * len(grid)))


def test_cuts_of_a_shifted_axis():
    assert cuts(10, 4, 2) == [Cut(0, 1, 2, 2), Cut(2, 2, 4, 4)]  # padded to 12; the last two cells would be padding alone
    assert cuts(11, 4, 2) == [Cut(0, 1, 2, 2), Cut(2, 2, 4, 4), Cut(10, 1, 1, 2)]
    assert cuts(9, 4, 0) == [Cut(0, 2, 4, 4), Cut(8, 1, 1, 4)]
    assert cuts(4, 4, 2) == cuts(4, 7, 3) == [Cut(0, 1, 4, 4)]
    assert padding((10, 11, 3), 4, 2) == [0, 1, 0]


def test_chunks_change_nothing(monkeypatch):
    make = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(5, 2, n, 3, generator=make, dtype=torch.float64, requires_grad=True) for n in (4, 6, 6))
    bias = torch.randn(2, 4, 6, generator=make, dtype=torch.float64, requires_grad=True)
    answers = []
    for cells in (1, 100, 10**9):  # one window, some, all at a time
        monkeypatch.setattr(windows, "CELLS", cells)
        y = attended(q, k, v, bias)
        answers.append([y, *torch.autograd.grad(y.square().sum(), (q, k, v, bias))])
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, bias[None], scale=1.0)  # the path of a GPU
    answers.append([fused, *torch.autograd.grad(fused.square().sum(), (q, k, v, bias))])
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0])


def test_second_derivatives():
    qkv, table = drawn((3,), 2, 1, heads=1, size=2)
    assert torch.autograd.gradgradcheck(lambda a, b: attend(a, spread_bias(b, 2, (3,)), (3,), 2, 1, 1.0), (qkv, table))
