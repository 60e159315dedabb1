"""Stages of a network: what they promise with kernels and strides of every axis, and their tokens."""

import math

import pytest
import torch
from torch import nn

from headwater.backbones.decoder import Decoder, LightHead, Reconstruction
from headwater.backbones.pyramid import means, per_stage, spread, tokens
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
def test_hidden_voxels_are_never_read_with_anisotropic_strides(kind):
    backbone = network(kind)
    x, keep = torch.randn(2, 2, 8, 12, 9), torch.rand(2, 2, 3, 3) < 0.5
    hidden = ~spread(keep, backbone.stride, (8, 12, 9))
    a, b = backbone(x, keep), backbone(x.masked_fill(hidden, float("nan")), keep)
    assert torch.equal(a.tokens, b.tokens) and torch.isfinite(b.tokens).all()


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
