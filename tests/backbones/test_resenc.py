"""ResEnc against the network it follows, and its tokens."""

import pytest
import torch
from torch import nn

from headwater.backbones import ResEnc, pyramid
from headwater.backbones.convolutions import ConvNorm, average_pool, convolve, enlarge, InstanceNorm

WIDTHS, BLOCKS = (4, 6, 8), (1, 3, 2)


def reference(ndim):
    encoders = pytest.importorskip("dynamic_network_architectures.building_blocks.residual_encoders")
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[ndim]
    return encoders.ResidualEncoder(
        2,
        len(WIDTHS),
        WIDTHS,
        conv,
        3,
        (1, 2, 2),
        BLOCKS,
        norm_op=norm,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"negative_slope": 0.01},
        return_skips=True,
    )


def pairs(ours, theirs):
    """Our ConvNorms beside theirs, in order."""
    yield ours.stem, theirs.stem.convs[0]
    for stage, other in zip(ours.stages, theirs.stages, strict=True):
        for block, twin in zip(stage, other.blocks, strict=True):
            yield block.first, twin.conv1
            yield block.second, twin.conv2
            if not isinstance(block.shortcut, nn.Identity):
                yield block.shortcut, twin.skip[-1]


@pytest.mark.parametrize("size", [(16, 24), (8, 16, 12)], ids=str)
def test_is_nnunets_residual_encoder(size):
    torch.manual_seed(0)
    ours, theirs = ResEnc(len(size), 2, WIDTHS, BLOCKS), reference(len(size))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        for a, b in pairs(ours, theirs):
            a.conv.weight.copy_(b.conv.weight)
            a.norm.weight.copy_(b.norm.weight.normal_())
            a.norm.bias.copy_(b.norm.bias.normal_())
    x = torch.randn(2, 2, *size)
    left, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, his = ours(left).pyramid, theirs(right)
    weights = [torch.randn_like(m) for m in mine]
    for a, b in zip(mine, his, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for maps in (mine, his):
        sum((m * w).mean() for m, w in zip(maps, weights, strict=True)).backward()
    torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-5)
    for a, b in pairs(ours, theirs):
        torch.testing.assert_close(a.conv.weight.grad, b.conv.weight.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.norm.weight.grad, b.norm.weight.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.norm.bias.grad, b.norm.bias.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_norm_is_instance_norm(ndim):
    ours, theirs = InstanceNorm(5), (nn.InstanceNorm2d, nn.InstanceNorm3d)[ndim - 2](5, affine=True)
    x = torch.randn(2, 5, *(7, 4, 3)[:ndim]) * 3 + 1
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (3, 5, 8)], ids=str)
def test_pooling_is_the_mean_of_each_cell(size):
    x = torch.randn(2, 3, *size)
    pool = (nn.AvgPool2d, nn.AvgPool3d)[len(size) - 2](2, 2, ceil_mode=True)
    torch.testing.assert_close(average_pool(x, 2), pool(x))
    torch.testing.assert_close(average_pool(torch.ones(1, 1, *size), 4), torch.ones(1, 1, *(-(-n // 4) for n in size)))
    whole = torch.randn(1, 1, *(8 for _ in size))
    torch.testing.assert_close(average_pool(whole, 8).squeeze(), whole.mean())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tokens_lie_where_their_voxels_lie(axis):
    """A ramp pooled or enlarged to the token grid is the coordinate of the token's centre, on every axis."""
    ramp = torch.arange(48.0).add(0.5).view([-1 if a == axis else 1 for a in range(3)]).expand(48, 48, 48)[None, None]
    centres = (torch.arange(12.0) + 0.5) * 4
    for stride in (1, 2, 4, 8, 16):
        at_stride = average_pool(ramp, stride)
        tokens = average_pool(at_stride, 4 // stride) if stride <= 4 else enlarge(at_stride, stride // 4, (12, 12, 12))
        line = tokens[0, 0].movedim(axis, 0)[:, 5, 7]
        torch.testing.assert_close(line[2:-2], centres[2:-2])


def test_tokens_are_only_made_when_asked_for(monkeypatch):
    calls = []
    made = pyramid.tokens
    monkeypatch.setattr(pyramid, "tokens", lambda *a: calls.append(1) or made(*a))
    f = ResEnc(2, 1, WIDTHS, BLOCKS)(torch.randn(1, 1, 16, 16))
    assert not calls
    assert f.tokens is f.tokens and len(calls) == 1


THIN = [((2, 4, 5), 1), ((2, 2, 2), 1), ((7, 1, 3), 2), ((5, 3, 1), 2), ((8, 6, 4), 2)]


@pytest.mark.parametrize(("size", "stride"), THIN, ids=str)
def test_bfloat16_gradients_of_thin_maps(size, stride):
    """oneDNN gets some of these wrong, up to corrupted memory."""
    torch.manual_seed(0)
    layer = ConvNorm(3, 16, 16, 3, stride, active=False)
    for _ in range(4):
        x, grads = torch.randn(2, 16, *size), []
        for low in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                y = convolve(layer.conv, x)
            weights = torch.linspace(-1, 1, y.numel()).view_as(y)
            grads.append(torch.autograd.grad((y.float() * weights).sum(), layer.conv.weight)[0])
        assert (grads[1] - grads[0]).norm() < 0.02 * grads[0].norm()
