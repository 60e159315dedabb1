"""The shared box is the same piece of the parent in both views, on every axis."""

import numpy as np
import pytest
import torch

from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.crops import draw_pairs, take

CASES = [((48, 60, 40), (24, 30, 20)), ((48, 60), (24, 30)), ((40, 56, 40), (24, 32, 24))]


@pytest.mark.parametrize("parent, crop", CASES)
def test_boxes_are_the_same_voxels_of_the_parent(parent, crop):
    pairs = draw_pairs(numpy_stream(0, "t"), 200, parent, crop)
    size = torch.tensor(crop).view(1, 1, -1, 1)
    inside = pairs.starts[..., None] + pairs.boxes.double() * size  # (2, B, d, 2) edges in parent voxels
    assert torch.allclose(inside[0], inside[1], atol=1e-4)
    assert torch.allclose(inside, inside.round(), atol=1e-4)
    assert (pairs.starts >= 0).all() and (pairs.starts + torch.tensor(crop) <= torch.tensor(parent)).all()
    assert (pairs.boxes[0, ..., 1] == 1).all() and (pairs.boxes[1, ..., 0] == 0).all()  # low corner, high corner


def test_overlap_follows_its_law_where_the_parent_is_large():
    pairs = draw_pairs(numpy_stream(1, "t"), 4000, (400, 400, 400), (160, 160, 160))
    edges = (pairs.boxes[0, ..., 1] - pairs.boxes[0, ..., 0]).double()  # (B, 3)
    volume = edges.prod(-1)
    assert 0.38 < volume.min() and volume.max() < 0.82 and abs(volume.mean() - 0.6) < 0.01
    share = edges.log() / volume.log()[:, None]  # Dirichlet(1, 1, 1): mean 1/3, standard deviation sqrt(1/18)
    assert torch.allclose(share.mean(0), torch.full((3,), 1 / 3).double(), atol=0.02)
    assert torch.allclose(share.std(0), torch.full((3,), (1 / 18) ** 0.5).double(), atol=0.02)
    assert abs((edges[:, 0] - edges[:, 2]).abs().mean() - 0.143) < 0.01  # the published law's axis difference


def test_a_short_parent_raises_the_overlap_to_what_fits():
    pairs = draw_pairs(numpy_stream(2, "t"), 100, (24, 26, 60), (24, 24, 24), overlap=(0.1, 0.2))
    edges = pairs.boxes[0, ..., 1] - pairs.boxes[0, ..., 0]
    assert (edges[:, 0] == 1).all() and (edges[:, 1] >= 22 / 24 - 1e-6).all() and edges[:, 2].min() < 0.5


def test_union_reaches_both_ends_of_the_parent():
    starts = draw_pairs(numpy_stream(3, "t"), 2000, (60, 60), (20, 20)).starts
    assert starts[0].min() == 0 and starts[1].max() == 40


@pytest.mark.parametrize("parent, crop", CASES)
def test_take_copies_the_voxels_that_the_starts_name(parent, crop):
    ramp = torch.stack(torch.meshgrid(*[torch.arange(p).float() for p in parent], indexing="ij"))  # (d, *P)
    pairs = draw_pairs(numpy_stream(4, "t"), 3, parent, crop)
    views = take(ramp.expand(3, *ramp.shape), pairs.starts, crop)
    assert views.shape == (2, 3, len(parent), *crop)
    corner = views.flatten(3)[..., 0]
    assert torch.equal(corner, pairs.starts.float())
    for b in range(3):
        boxes = (pairs.boxes[:, b] * torch.tensor(crop)[:, None]).round().long()
        shared = [views[v, b][(slice(None), *(slice(*e) for e in boxes[v].tolist()))] for v in (0, 1)]
        assert shared[0].numel() > 0 and torch.equal(shared[0], shared[1])


def test_same_stream_same_pairs():
    a, b = (draw_pairs(numpy_stream(5, 1, 2, "crops"), 4, (30, 30), (20, 20)) for _ in range(2))
    assert torch.equal(a.starts, b.starts) and torch.equal(a.boxes, b.boxes)
    assert not torch.equal(a.starts, draw_pairs(numpy_stream(5, 1, 3, "crops"), 4, (30, 30), (20, 20)).starts)


def test_errors_name_a_value_that_works():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="views.crop to at most 20,16"):
        draw_pairs(rng, 1, (20, 30), (24, 16))
    with pytest.raises(InputError, match="same number of axes"):
        draw_pairs(rng, 1, (20, 30), (10, 10, 10))
    with pytest.raises(InputError, match="views.overlap .* 0.4,0.8"):
        draw_pairs(rng, 1, (20, 30), (10, 10), overlap=(0.9, 0.1))
    with pytest.raises(InputError, match="reaches outside"):
        take(torch.zeros(1, 1, 10, 10), torch.tensor([[[5, 0]]]), (6, 6))
