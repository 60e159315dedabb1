"""Decoders: what they refuse, what can be replaced, and that they can learn where things are."""

import pytest
import torch
from torch import nn

from headwater.backbones import Decoder, LightHead, Reconstruction, build, refill

FAMILIES = ["resenc", "vit"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [Decoder, LightHead])
def test_head_can_be_replaced(family, kind):
    backbone = build(family, ndim=2, seed=0)
    decoder = kind(backbone, 3)
    decoder.head = nn.Conv2d(decoder.head.in_channels, 5, 1)
    assert decoder(backbone(torch.randn(1, 1, 18, 13))).shape == (1, 5, 18, 13)


@pytest.mark.parametrize("kind", [Decoder, LightHead])
def test_dropped_tokens_must_be_refilled_first(kind):
    backbone = build("vit", ndim=2, seed=0)
    keep = torch.zeros(1, 4, 4, dtype=torch.bool)
    keep[:, 1] = True
    decoder, f = kind(backbone, 3), backbone(torch.randn(1, 1, 16, 16), keep)
    with pytest.raises(ValueError, match="refill"):
        decoder(f)
    assert decoder(refill(backbone)(f)).shape == (1, 3, 16, 16)


def test_refill_has_nothing_to_do_for_resenc():
    backbone = build("resenc", ndim=2, seed=0)
    f = backbone(torch.randn(1, 1, 16, 16))
    assert refill(backbone)(f) is f


def test_size_can_be_asked_for():
    backbone = build("vit", ndim=2, seed=0)
    f = backbone(torch.randn(1, 1, 14, 15))
    assert Reconstruction(backbone, 1)(f, (16, 16)).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_patch(family, patch):
    backbone = build(family, ndim=2, patch=patch, seed=0)
    f = backbone(torch.randn(1, 1, 21, 19))
    assert Decoder(backbone, 2)(f).shape == LightHead(backbone, 2)(f).shape == (1, 2, 21, 19)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [Decoder, LightHead])
def test_learns_a_square(family, kind):
    """A few steps on one image separate a square from a disc of the same brightness."""
    torch.manual_seed(0)
    backbone = build(family, ndim=2, patch=4, seed=0)
    decoder = kind(backbone, 2)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    square, disc = (rows // 8 == 1) & (columns // 8 == 1), (rows - 22) ** 2 + (columns - 22) ** 2 < 20
    image, truth = (square | disc)[None, None].float(), square[None].long()
    optimizer = torch.optim.AdamW([*backbone.parameters(), *decoder.parameters()], 3e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(decoder(backbone(image)), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = decoder(backbone(image)).argmax(1) == 1
    assert (2 * (found & truth.bool()).sum() / (found.sum() + truth.sum())).item() > 0.9
