"""UNet: the plain encoder. Its parity with nnU-Net's PlainConvUNet is in test_nnunet."""

import pytest
import torch

from headwater.backbones.decoder import Decoder
from headwater.backbones.unet import UNet
from headwater.errors import InputError


@pytest.mark.parametrize("size", [(17, 12), (9, 14, 11)], ids=str)
def test_shapes_and_gradients(size):
    torch.manual_seed(0)
    backbone = UNet(len(size), 2, (4, 6, 8), (1, 2, 2))
    decoder = Decoder(backbone, 3, (2, 1))
    f = backbone(torch.randn(2, 2, *size))
    assert f.tokens.shape[-1] == f.pooled.shape[-1] == backbone.dim == 18
    (decoder(f).square().sum() + f.pooled.square().sum()).backward()
    for name, p in [*backbone.named_parameters(), *decoder.named_parameters()]:
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_layers_are_what_was_asked_for():
    backbone = UNet(2, 1, (4, 6), (1, 3), 2, kernels=[1, (3, 5)], strides=[1, (2, 4)])
    first, second = backbone.stages
    assert [len(first), len(second)] == [1, 3]
    assert [m.conv.kernel_size for m in second] == [(3, 5)] * 3
    assert [m.conv.stride for m in second] == [(2, 4), (1, 1), (1, 1)]


def test_every_stage_needs_a_convolution():
    with pytest.raises(InputError, match="at least one"):
        UNet(2, 1, (4, 8), (0, 1))
