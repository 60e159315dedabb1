"""The parts of convolutional networks against torch's own, in either order in memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.backbones.convolutions import CHANNELS_LAST, CONV, ConvNorm, InstanceNorm, Residual
from headwater.backbones.convolutions import average_pool, convolve, enlarge, laid_out, per_axis

SIZES = [(9, 14), (5, 6, 7)]
sized = pytest.mark.parametrize("size", SIZES, ids=str)


@sized
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("last", [True, False])
def test_norm_is_torchs_instance_norm(size, batch, last):
    norm = InstanceNorm(6)
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
    x = torch.randn(batch, 6, *size) * 3 + 1
    x = x.to(memory_format=CHANNELS_LAST[len(size)]) if last else x
    left, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, his = norm(left), F.instance_norm(right, None, None, norm.weight, norm.bias, eps=1e-5)
    torch.testing.assert_close(mine, his, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(his)
    ours = torch.autograd.grad((mine * weights).sum(), [left, norm.weight, norm.bias])
    theirs = torch.autograd.grad((his * weights).sum(), [right, norm.weight, norm.bias])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_norm_of_a_single_voxel_is_refused():
    with pytest.raises(ValueError, match="one voxel"):
        InstanceNorm(2)(torch.zeros(3, 2, 1, 1))


@sized
def test_bias_before_a_norm_plays_no_part(size):
    torch.manual_seed(0)
    part = ConvNorm(len(size), 2, 4, bias=True)
    x = torch.randn(2, 2, *size)
    before = part(x)
    nn.init.normal_(part.conv.bias)
    after = part(x)
    torch.testing.assert_close(before, after)
    after.square().sum().backward()
    assert not part.conv.bias.grad.any() and part.conv.weight.grad.any()
    added = F.leaky_relu(F.instance_norm(part.conv(x), None, None, part.norm.weight, part.norm.bias), 0.01)
    torch.testing.assert_close(after, added, atol=1e-5, rtol=1e-4)


@sized
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("last", [True, False])
def test_convolutions_are_torchs(size, kernel, last):
    torch.manual_seed(0)
    conv = CONV[len(size)](4, 5, kernel, padding=kernel // 2, bias=False)
    x = torch.randn(2, 4, *size)
    x = x.to(memory_format=CHANNELS_LAST[len(size)]) if last else x
    torch.testing.assert_close(convolve(conv, x), conv(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (4, 2), (1, 2, 2), (2, 4, 1)], ids=str)
def test_pooling_by_axis(stride):
    whole = torch.randn(2, 3, *(8 for _ in stride))
    pool = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    torch.testing.assert_close(average_pool(whole, stride), pool(whole, stride))
    low = average_pool(whole.bfloat16(), stride)
    assert (low.float() - pool(whole, stride)).abs().max() < 0.03
    ones = average_pool(torch.ones(1, 1, *(7 for _ in stride)), stride)
    torch.testing.assert_close(ones, torch.ones(1, 1, *(-(-7 // s) for s in stride)))


def test_enlarging_by_axis():
    x = torch.arange(4.0).expand(1, 1, 3, 4)
    y = enlarge(x, (1, 2), (3, 7))
    assert y.shape == (1, 1, 3, 7)
    torch.testing.assert_close(y[0, 0, 0, 1:], torch.arange(6) * 0.5 + 0.25)


def test_residual_with_stride_by_axis():
    block = Residual(3, 4, 6, (1, 3, 3), (1, 2, 2), bias=True)
    assert block(torch.randn(2, 4, 5, 9, 6)).shape == (2, 6, 5, 5, 3)
    assert block.shortcut.conv.bias is None and block.first.conv.bias is not None


def test_layout_follows_the_size_of_the_map():
    large, small = laid_out(torch.randn(1, 4, 16, 16)), laid_out(torch.randn(1, 64, 4, 4))
    assert large.is_contiguous(memory_format=torch.channels_last) and small.is_contiguous()
    one = laid_out(torch.randn(2, 1, 8, 8))  # a single channel too, where torch takes both layouts for the same
    assert F.conv2d(one, torch.randn(3, 1, 3, 3)).is_contiguous(memory_format=torch.channels_last)
    assert per_axis(2, 3) == (2, 2, 2) and per_axis([1, 2], 2) == (1, 2)
