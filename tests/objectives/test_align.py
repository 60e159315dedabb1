"""Aligned maps show the same places: coordinate ramps must agree on every axis, and must not if two axes were swapped."""

import math

import pytest
import torch
import torch.nn.functional as F

from scipy.ndimage import map_coordinates

from headwater import settings
from headwater.errors import InputError
from headwater.objectives.align import (
    CONSISTENCY,
    ConsistentViews,
    align,
    dense_consistency,
    dense_contrast,
    gram_consistency,
    on_tokens,
    same_places,
    sample,
)
from headwater.streams import numpy_stream
from headwater.views import Views, draw_pairs, make_views, take

SIZES = [((56, 72), (32, 40)), ((64, 52, 76), (36, 30, 42))]


def ramp(shape):
    """Every voxel holds its own index, one channel per axis: (d, *shape)."""
    return torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in shape], indexing="ij"))


def pair_of_ramps(parent, crop, batch=16, overlap=(0.4, 0.6)):
    pairs = draw_pairs(numpy_stream(0, "crops"), batch, parent, crop, overlap)
    return take(ramp(parent).expand(batch, *ramp(parent).shape), pairs.starts, crop), pairs


def cell_centres(starts, boxes, crop, cells):
    """Closed form: parent coordinate (voxel index) of the centre of every cell of a box, (B, d, *cells)."""
    d = len(crop)
    edges = boxes.double() * torch.tensor(crop)[:, None] + starts[..., None]  # (B, d, 2) in voxel edges
    out = []
    for k in range(d):
        at = (torch.arange(cells) + 0.5) / cells
        line = edges[:, k, :1] + (edges[:, k, 1:] - edges[:, k, :1]) * at - 0.5  # (B, cells)
        out.append(line.view(-1, *[cells if j == k else 1 for j in range(d)]).expand(-1, *[cells] * d))
    return torch.stack(out, 1)


@pytest.mark.parametrize("parent, crop", SIZES)
def test_voxel_ramps_agree_and_hold_the_true_coordinates(parent, crop):
    views, pairs = pair_of_ramps(parent, crop)
    shares = pairs.boxes[0, ..., 1] - pairs.boxes[0, ..., 0]
    assert (shares.amax(1) - shares.amin(1)).max() > 0.2  # the overlaps are unequal, else the test would see nothing
    first, second = (align(views[v], pairs.boxes[v], 5) for v in (0, 1))
    assert (first - second).abs().amax(dim=(0, *range(2, first.ndim))).max() < 1e-4  # every axis
    for v, aligned in enumerate((first, second)):
        assert torch.allclose(aligned.double(), cell_centres(pairs.starts[v], pairs.boxes[v], crop, 5), atol=1e-4)


@pytest.mark.parametrize("parent, crop", SIZES)
def test_swapped_axes_would_be_seen(parent, crop):
    views, pairs = pair_of_ramps(parent, crop)
    first, second = (align(views[v], pairs.boxes[v].flip(1), 5) for v in (0, 1))  # the fault of the public code
    apart = (first - second).abs().flatten(2).mean(2)  # (B, d) voxels
    assert apart[:, 0].mean() > 1 and apart[:, -1].mean() > 1
    if len(crop) == 3:
        assert apart[:, 1].max() < 1e-3  # the middle axis alone is right, as found there


@pytest.mark.parametrize("parent, crop", SIZES)
def test_equals_grid_sample_when_its_components_are_reversed(parent, crop):
    d, points = len(crop), 6
    pairs = draw_pairs(numpy_stream(1, "crops"), 3, parent, crop)
    features = torch.randn(3, 4, *[7 + k for k in range(d)], generator=torch.Generator().manual_seed(0))
    boxes = pairs.boxes[0]
    at, width = (torch.arange(points) + 0.5) / points, boxes[..., 1:] - boxes[..., :1]
    lines = [2 * (boxes[:, k, :1] + width[:, k] * at) - 1 for k in range(d)]
    mesh = torch.stack([torch.stack(torch.meshgrid(*[line[b] for line in lines], indexing="ij"), -1) for b in range(3)])
    pool = F.avg_pool2d if d == 2 else F.avg_pool3d
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}
    right, wrong = (pool(F.grid_sample(features, grid, **options), 2) for grid in (mesh.flip(-1), mesh))
    ours = align(features, boxes, points // 2, samples=2)
    assert torch.allclose(ours, right, atol=1e-5) and not torch.allclose(ours, wrong, atol=1e-1)


@pytest.mark.parametrize(
    "parent, crop, stride", [((72, 88), (48, 56), 2), ((72, 60, 68), (48, 40, 44), 2), ((90, 120), (62, 78), 4)]
)
def test_token_grids_agree_where_tokens_hold_their_centres(parent, crop, stride):
    d = len(crop)
    scan = ramp(parent)
    how = settings.Views(parent=parent, crop=crop, overlap=(0.5, 0.6), geometry=0.0, intensity=0.0)
    views = make_views([scan] * 8, how, seed=0, step=0)
    starts = views.x.flatten(3)[..., 0]  # (V, B, d): a crop of a ramp begins with its own start
    grid = tuple(math.ceil(c / stride) for c in crop)
    local = (ramp(grid) + 0.5) * stride - 0.5  # token centres in voxels of the crop, also of a token that reaches beyond it
    aligned = []
    for v in (0, 1):
        tokens = starts[v].view(-1, d, *[1] * d) + local
        boxes = on_tokens(views.boxes[v], crop, grid, (stride,) * d)
        aligned.append(align(tokens, boxes, 2, samples=2))
        assert torch.allclose(aligned[v].double(), cell_centres(starts[v], views.boxes[v], crop, 2), atol=1e-4)
    assert torch.allclose(*aligned, atol=1e-4)


def test_average_pooled_ramps_are_their_token_centres():
    pooled = F.avg_pool2d(ramp((8, 12))[None], 4)[0]
    assert torch.equal(pooled, (ramp((2, 3)) + 0.5) * 4 - 0.5)


def test_constant_maps_stay_and_the_border_is_held():
    boxes = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    assert torch.allclose(align(torch.full((1, 3, 4, 5), 2.5), boxes, (6, 7)), torch.full((1, 3, 6, 7), 2.5))
    ends = align(torch.tensor([[[[0.0, 1.0]] * 2]]), boxes, (1, 8), samples=1)[0, 0, 0]
    assert torch.allclose(ends, torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]), atol=1e-6)


def test_gradient_and_half_precision():
    features = torch.randn(2, 3, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    boxes = torch.tensor([[[0.25, 1.0], [0.0, 0.5]]] * 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = align(features, boxes, 3)
    assert out.dtype == torch.float32 and torch.allclose(out, align(features.detach().float(), boxes, 3), atol=1e-5)
    out.sum().backward()
    assert torch.allclose(features.grad.float().sum((2, 3)), torch.full((2, 3), 9.0), atol=0.1)  # weights of a cell sum to 1


def test_boxes_follow_a_grid_that_reaches_beyond_the_crop():
    boxes = torch.tensor([[[0.5, 1.0], [0.0, 1.0]]])
    out = on_tokens(boxes, (10, 8), (3, 2), (4, 4))
    assert torch.allclose(out, torch.tensor([[[5 / 12, 10 / 12], [0.0, 1.0]]]))


def test_sampled_points_equal_cells_whose_middles_they_are():
    """Of one sample per cell, and of scipy at any point."""
    d, features = 3, torch.randn(2, 4, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[0.1, 0.9], [0.2, 0.7], [0.0, 1.0]]] * 2)
    lines = [boxes[0, k, 0] + (boxes[0, k, 1] - boxes[0, k, 0]) * (torch.arange(3) + 0.5) / 3 for k in range(d)]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).expand(2, 3, 3, 3, d)
    assert torch.allclose(sample(features, points), align(features, boxes, 3, samples=1), atol=1e-5)
    free = torch.rand(2, 11, d, generator=torch.Generator().manual_seed(1))
    at = (free[1] * torch.tensor([5, 6, 7]) - 0.5).double().T.numpy()
    for channel, found in zip(features[1], sample(features, free)[1], strict=True):
        exact = map_coordinates(channel.double().numpy(), at, order=1, mode="nearest")
        assert torch.allclose(found.double(), torch.from_numpy(exact), atol=1e-5)


def rows(*vectors):
    """(V, 1, D, O) from O vectors per view."""
    return torch.stack([torch.tensor(v, dtype=torch.float32).T[None] for v in vectors])


def test_dense_consistency_meets_the_other_view():
    student = rows([[1, 0], [1, 0]], [[0, 2], [0, 2]])
    teacher = rows([[1, 1], [1, 1]], [[3, 4], [3, 4]])
    assert torch.isclose(dense_consistency(student, teacher), torch.tensor(2 - (0.6 + 0.5**0.5)), atol=1e-6)
    assert torch.isclose(dense_consistency(teacher.flip(0), teacher), torch.tensor(0.0), atol=1e-6)


def test_dense_contrast_by_hand():
    student, teacher = rows([[1, 0], [0, 1]], [[1, 0], [0, 1]]), rows([[1, 0], [0, 1]], [[2, 0], [0, 3]])
    assert math.isclose(dense_contrast(student, teacher, None, 0.5).item(), math.log(1 + math.exp(-2)), rel_tol=1e-5)
    same = rows([[1, 1]] * 5, [[1, 1]] * 5)
    assert math.isclose(dense_contrast(same, same).item(), math.log(5), rel_tol=1e-5)


def test_gram_consistency_asks_which_places_are_alike_only():
    made = torch.Generator().manual_seed(2)
    teacher = torch.randn(2, 3, 4, 6, generator=made)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=made))[0]
    student = torch.einsum("de,vbeo->vbdo", turn, teacher.flip(0))
    assert gram_consistency(student, teacher) < 1e-10 and dense_consistency(student, teacher) > 0.1
    by_hand = rows([[1, 0], [0, 1]], [[1, 0], [0, 1]]), rows([[1, 0], [1, 0]], [[1, 0], [1, 0]])
    assert torch.isclose(gram_consistency(*by_hand), torch.tensor(0.5))  # 2 of 4 cosines are off by one


@pytest.mark.parametrize("kind", CONSISTENCY)
def test_places_outside_a_view_do_not_count(kind):
    made = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(2, 2, 5, 6, generator=made).requires_grad_() for _ in range(2))
    seen = torch.tensor([[True, True, True, False, True, False], [True] * 6])
    loss = CONSISTENCY[kind](student, teacher, seen)
    loss.backward()
    assert teacher.grad is None and student.grad.isfinite().all() and student.grad[:, 0, :, [3, 5]].abs().max() == 0
    left = [x.detach()[:, :1, :, [0, 1, 2, 4]] for x in (student, teacher)]
    parts = [CONSISTENCY[kind](*left), CONSISTENCY[kind](student[:, 1:], teacher[:, 1:])]
    share = (16, 36) if kind == "gram" else (4, 6)
    assert torch.isclose(loss, sum(s * p for s, p in zip(share, parts, strict=True)) / sum(share), rtol=1e-5)
    exact = CONSISTENCY[kind](student.double(), teacher.double(), seen)
    step = torch.zeros_like(student.double())
    step[0, 1, 2, 3] = 1e-4
    there, back = (CONSISTENCY[kind](student.double() + s * step, teacher.double(), seen) for s in (1, -1))
    assert (
        math.isclose((there - back).item() / 2e-4, student.grad[0, 1, 2, 3].item(), rel_tol=0.05, abs_tol=1e-3) and exact == exact
    )


def test_views_of_another_geometry_meet_at_their_points():
    """View 1 is view 0 turned by 90 degrees: the points say so, and ramps agree there."""
    d, n, stride = 2, 12, 2
    field = torch.randn(1, 3, n, n, generator=torch.Generator().manual_seed(0))
    turned = field.rot90(1, (2, 3))
    at = torch.rand(1, 9, d, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    there = torch.stack([1 - at[..., 1], at[..., 0]], -1)  # rot90: row of the new is n - 1 - column of the old
    views = Views(torch.zeros(2, 1, 1, n * stride, n * stride), torch.zeros(2, 1, d, 2), None, torch.stack([at, there]))
    found = same_places(torch.cat([field, turned]), views, (stride,) * d, cells=3)
    assert found.shape == (2, 1, 3, 9) and torch.allclose(found[0], found[1], atol=1e-5)
    assert not torch.allclose(found[0], sample(turned, at), atol=1e-2)


def test_faults():
    with pytest.raises(InputError, match="cosine, contrastive, gram"):
        ConsistentViews(kind="square")
    with pytest.raises(InputError, match="one is above 0"):
        ConsistentViews(reconstruction=0.0, consistency=0.0, contrast=0.0)


def test_defaults_are_the_published_weights():
    cva = ConsistentViews()
    assert (cva.reconstruction, cva.consistency, cva.contrast, cva.temperature, cva.cells) == (5.0, 1.0, 0.1, 0.5, 7)
