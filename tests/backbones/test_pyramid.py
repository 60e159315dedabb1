"""Stages of a network: what they promise with kernels and strides of every axis, and their tokens."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.backbones.decoder import Decoder, LightHead, Reconstruction
from headwater.backbones.pyramid import coarser, means, per_stage, spread, tokens
from headwater.backbones.resenc import ResEnc
from headwater.backbones.unet import UNet
from headwater.errors import InputError

PLAN = {"kernels": [[1, 3, 3], [1, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
both = pytest.mark.parametrize("kind", [ResEnc, UNet])


def network(kind, patch=4, **options):
    torch.manual_seed(0)
    return kind(3, 2, (4, 6, 8), (1, 2, 2), patch, **(PLAN | options))


@both
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(8, 8, 8), (9, 13, 10)], ids=str)
def test_anisotropic_maps_tokens_and_scores(kind, patch, size):
    backbone = network(kind, patch)
    assert backbone.strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    f = backbone(torch.randn(2, 2, *size))
    grid = tuple(math.ceil(n / patch) for n in size)
    for m, strides in zip(f.pyramid, backbone.strides, strict=True):
        assert m.shape[2:] == tuple(math.ceil(n / s) for n, s in zip(size, strides, strict=True))
    assert f.grid == grid and f.tokens.shape == (2, math.prod(grid), 18) and f.pooled.shape == (2, 18)
    for head in (Decoder, LightHead, Reconstruction):
        assert head(backbone, 2)(f).shape == (2, 2, *size)
    deep = Decoder(backbone, 3, deep=True)(f, deep=True)
    assert [s.shape for s in deep] == [(2, 3, *f.pyramid[i].shape[2:]) for i in range(2)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("stride", [(1, 2, 2), (1, 4, 8), (8, 2, 1)], ids=str)
def test_tokens_lie_where_their_voxels_lie(axis, stride):
    """A ramp on a map whose cells differ by axis becomes the coordinate of the token's centre."""
    shape, grid = tuple(48 // s for s in stride), (12, 12, 12)
    line = (torch.arange(shape[axis]) + 0.5) * stride[axis]
    ramp = line.view([-1 if a == axis else 1 for a in range(3)]).expand(shape)[None, None]
    found = tokens([ramp], [stride], 4, grid)[0, :, 0].view(grid).movedim(axis, 0)[:, 5, 7]
    torch.testing.assert_close(found[2:-2], ((torch.arange(12.0) + 0.5) * 4)[2:-2])


@both
@pytest.mark.parametrize("aware", [False, True])
def test_hidden_voxels_are_never_read_with_anisotropic_strides(kind, aware):
    backbone = network(kind)
    backbone.sparse = aware
    x, keep = torch.randn(2, 2, 8, 12, 9), torch.rand(2, 2, 3, 3) < 0.5
    hidden = ~spread(keep, backbone.stride, (8, 12, 9))
    a, b = backbone(x, keep), backbone(x.masked_fill(hidden, float("nan")), keep)
    assert torch.equal(a.tokens, b.tokens) and torch.isfinite(b.tokens).all()


def sparse(kind, ndim=3, **options):
    """A network whose norms have offsets, so that they show wherever they are added."""
    torch.manual_seed(0)
    options = PLAN | options if ndim == 3 else options
    backbone = kind(ndim, 2, (4, 6, 8), (1, 2, 2), **options).double()
    backbone.sparse = True
    for name, p in backbone.named_parameters():
        if "norm" in name:
            nn.init.uniform_(p, 0.5, 1.5)
    return backbone


def looped(x, part, seen, active):
    """A dense convolution, then every channel of every image normalised by the list of its visible voxels."""
    x = F.conv2d(x, part.conv.weight, None, part.conv.stride, part.conv.padding)
    y = torch.zeros_like(x)
    for b, image in enumerate(x):
        places = seen[b, 0].nonzero().tolist()
        for c, channel in enumerate(image):
            values = [float(channel[i, j]) for i, j in places]
            mean = sum(values) / len(values)
            scale = (sum((v - mean) ** 2 for v in values) / len(values) + 1e-5) ** -0.5
            for (i, j), v in zip(places, values, strict=True):
                v = (v - mean) * scale * part.norm.weight[c] + part.norm.bias[c]
                y[b, c, i, j] = v if v > 0 or not active else 0.01 * v
    return y


def cells(keep, patch, stride, size):
    """A cell is visible if a voxel of it lies in a kept token, cell by cell."""
    seen = torch.zeros(len(keep), 1, *(math.ceil(n / stride) for n in size), dtype=torch.bool)
    for b in range(len(keep)):
        for i in range(size[0]):
            for j in range(size[1]):
                seen[b, 0, i // stride, j // stride] |= keep[b, i // patch, j // patch]
    return seen


@both
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@torch.no_grad()
def test_sparse_maps_by_loops(kind, patch):
    """Every map and the pooled vector, from dense convolutions of what is visible."""
    backbone, size = sparse(kind, 2, patch=patch), (14, 19)
    x, keep = torch.randn(2, 2, *size, dtype=torch.float64), torch.rand(2, *backbone.grid(size)) < 0.4
    keep[0], keep[:, 0, 0] = False, True  # of the first image a single token
    seen = cells(keep, patch, 1, size)
    found = backbone(x.masked_fill(~seen, float("nan")), keep)
    y, pooled = x * seen, []
    if kind is ResEnc:
        y = looped(y, backbone.stem, seen, True)
    for i, stage in enumerate(backbone.stages):
        seen = cells(keep, patch, 2**i, size)
        for block in stage:
            if kind is UNet:
                y = looped(y, block, seen, True)
                continue
            short = y
            if block.stride[0] > 1:  # at the edge, what the cell has
                short = F.avg_pool2d(y, 2, ceil_mode=True)
            if not isinstance(block.shortcut, nn.Identity):
                short = looped(short, block.shortcut, seen, False)
            y = F.leaky_relu(looped(looped(y, block.first, seen, True), block.second, seen, False) + short, 0.01)
        torch.testing.assert_close(found.pyramid[i], y)
        assert not y.masked_select(~seen).any() and y.masked_select(seen).all()
        pooled.append(y.sum((2, 3)) / seen.sum((2, 3)))
    torch.testing.assert_close(found.pooled, torch.cat(pooled, 1))


@both
@pytest.mark.parametrize("size", [(9, 13, 10), (8, 8, 8)], ids=str)
def test_a_mask_that_hides_nothing_changes_nothing(kind, size):
    backbone, x = sparse(kind), torch.randn(2, 2, *size, dtype=torch.float64)
    whole, masked = backbone(x), backbone(x, torch.ones(2, *backbone.grid(size), dtype=torch.bool))
    torch.testing.assert_close(masked.tokens, whole.tokens, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(masked.pooled, whole.pooled, rtol=1e-6, atol=1e-6)
    whole, backbone.sparse = whole.tokens, False
    assert torch.equal(backbone(x).tokens, whole)


@both
@pytest.mark.parametrize("low", [False, True])
def test_next_to_nothing_visible_is_finite(kind, low):
    """One token, whose cell at the coarsest stage is one voxel, and no token at all; in float32 and under bf16 autocast."""
    backbone, x = sparse(kind).float(), 100 * torch.randn(3, 2, 8, 16, 16)
    keep = torch.rand(3, 2, 4, 4) < 0.3
    keep[1:] = False
    keep[1, 1, 2, 3] = True
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        f = backbone(x.masked_fill(~spread(keep, backbone.stride, (8, 16, 16)), float("nan")), keep)
    (f.tokens.float().square().mean() + f.pooled.square().mean()).backward()
    assert torch.isfinite(f.tokens).all() and torch.isfinite(f.pooled).all() and not f.pooled[2].any()
    assert f.pooled[:2].any(1).all()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())


@both
def test_sparse_gradients_are_those_of_differences_and_of_checkpoints(kind):
    backbone = sparse(kind).train()
    x = torch.randn(2, 2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(2, *backbone.grid((4, 9, 8))) < 0.5
    keep[:, 0, 0, 0] = True
    weights, found = torch.randn_like(backbone(x, keep).tokens), []

    def loss(x):
        return (backbone(x, keep).tokens * weights).sum()

    for again in (False, True):
        backbone.checkpointed = again
        found.append(torch.autograd.grad(loss(x), [x, *backbone.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert not found[0][0].masked_select(~spread(keep, backbone.stride, (4, 9, 8))).any()
    way = torch.randn_like(x)
    with torch.no_grad():
        slope = (loss(x + 1e-6 * way) - loss(x - 1e-6 * way)) / 2e-6
    torch.testing.assert_close((found[0][0] * way).sum(), slope, rtol=1e-5, atol=1e-6)


def test_a_coarse_cell_is_seen_by_its_part_over_the_edge():
    seen = torch.zeros(1, 1, 5, 4, dtype=torch.bool)
    seen[0, 0, 4, 1] = True
    assert coarser(seen, (2, 4))[0, 0].tolist() == [[False], [False], [True]] and coarser(seen, (1, 1)) is seen


@both
def test_velocities_lead_to_the_maps(kind):
    backbone = network(kind).double()
    x = torch.randn(1, 2, 5, 9, 10, dtype=torch.float64)
    maps, found = backbone(x).pyramid, backbone.segments(x)
    assert [len(s.velocities) for s in found] == [1, 1, 1][kind is UNet :]  # the first stage of the U-Net only widens
    ends = []
    for segment in found:
        y = segment.start
        for t, v in enumerate(segment.velocities):
            y = y + v(t, y)
        ends.append(y)
    for end in ends:
        assert any(end.shape == (1, m[0, 0].numel(), m.shape[1]) and torch.allclose(end, m.flatten(2).mT) for m in maps)


@both
def test_checkpointed_gradients_are_equal(kind):
    found = []
    for again in (False, True):
        backbone = network(kind).train()
        backbone.checkpointed = again
        backbone(torch.ones(1, 2, 4, 9, 8).cumsum(3)).tokens.square().mean().backward()
        found.append([p.grad for p in backbone.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_means_are_in_float32():
    m = torch.full((1, 2, 100, 100), 1.001, dtype=torch.bfloat16)
    assert means([m]).dtype == torch.float32
    torch.testing.assert_close(means([m]), m[:, :, 0, 0].float())


def test_numbers_per_stage_and_axis():
    assert per_stage(3, 2, 3, "kernels") == ((3, 3, 3), (3, 3, 3))
    assert per_stage([1, (1, 2)], 2, 2, "strides") == ((1, 1), (1, 2))
    with pytest.raises(InputError, match="2 strides for 3 stages"):
        per_stage([1, 2], 3, 2, "strides")
    with pytest.raises(InputError, match="one per stage and axis"):
        per_stage([[1, 2]], 1, 3, "strides")


@both
@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("use odd ones", {"kernels": 2}),
        ("powers of two", {"strides": [1, 3, 2]}),
        ("patch 3 is no stride of this network: use 2", {"patch": 3}),
        ("2 strides for 3 stages", {"strides": [1, 2]}),
    ],
)
def test_input_errors(kind, words, options):
    with pytest.raises(InputError, match=words):
        network(kind, **options)


@both
def test_blocks_and_widths_must_fit(kind):
    with pytest.raises(InputError, match="2 widths and 3 block counts"):
        kind(2, 1, (4, 8), (1, 1, 1))
    with pytest.raises(InputError, match="at least one"):
        kind(2, 1, (4, 8), (1, 0))
    with pytest.raises(InputError, match="at least 3 voxels"):
        network(kind, patch=2)(torch.zeros(1, 2, 2, 4, 4))


@both
def test_parameters_stay_contiguous(kind):
    backbone = network(kind)
    backbone(torch.randn(1, 2, 8, 16, 16)).pooled.sum().backward()
    assert all(p.is_contiguous() for p in backbone.parameters())
    assert not any(isinstance(m, nn.BatchNorm3d) for m in backbone.modules())
