"""With attention knocked out no token looks at another, and everything else is as it was."""

import pytest
import torch
from torch import nn

from headwater.backbones import build
from headwater.backbones.attention import Attention
from headwater.backbones.swin import WindowAttention
from headwater.errors import InputError
from headwater.transfer.knockout import attends, without_attention

TRANSFORMERS = ("vit", "mixed", "continuous", "swin", "hybrid")
every = pytest.mark.parametrize("family", TRANSFORMERS)
kinds = pytest.mark.parametrize("kind", ["branch", "own"])


def loud(backbone: nn.Module) -> nn.Module:
    """Attention that matters: its output maps are large."""
    for part in backbone.modules():
        if isinstance(part, Attention | WindowAttention):
            nn.init.normal_(part.out.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return backbone.eval()


def pictures(side=24):
    return torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(1))


def of(backbone, x):
    with torch.no_grad():
        return backbone(x).pyramid[-1]


@every
@kinds
def test_the_answer_changes_within_and_is_itself_again_after(family, kind):
    backbone, x = loud(build(family, ndim=2, seed=0)), pictures()
    before = of(backbone, x)
    with without_attention(backbone, kind):
        assert not torch.allclose(of(backbone, x), before)
    assert torch.equal(of(backbone, x), before) and attends(backbone)


@pytest.mark.parametrize("family", ["vit", "mixed", "continuous"])
@kinds
def test_no_token_looks_at_another(family, kind):
    backbone, x = loud(build(family, ndim=2, seed=0)), pictures()
    other = x.clone()
    other[..., :4, :4] += 1.0  # the first token's voxels
    with without_attention(backbone, kind):
        moved = (of(backbone, other) - of(backbone, x)).abs().amax(1)[0]
    assert moved[0, 0] > 1e-3 and moved.flatten()[1:].max() == 0
    assert (of(backbone, other) - of(backbone, x)).abs().amax(1).min() > 0


@every
def test_branch_is_the_network_whose_attention_adds_nothing(family):
    """An independent way to the same: output maps of attention set to nought."""
    backbone, x = loud(build(family, ndim=2, seed=0)), pictures()
    with without_attention(backbone):
        found = of(backbone, x)
    for part in backbone.modules():
        if isinstance(part, Attention | WindowAttention):
            nn.init.zeros_(part.out.weight)
            nn.init.zeros_(part.out.bias)
    torch.testing.assert_close(found, of(backbone, x))


@pytest.mark.parametrize("family", ["vit", "continuous"])
def test_own_is_attention_of_a_grid_of_one_token(family):
    """A token alone attends to itself, so there the knock-out changes nothing (softmax; other kernels may push away)."""
    backbone = loud(build(family, ndim=2, seed=0))
    x = pictures(4)
    before = of(backbone, x)
    with without_attention(backbone, "own"):
        torch.testing.assert_close(of(backbone, x), before)


def test_swin_of_one_cell_windows_is_its_own():
    """In Swin too: where a window holds one cell, own changes nothing but branch does."""
    backbone = loud(build("swin", ndim=2, patch=2, seed=0))
    part = next(m for m in backbone.modules() if isinstance(m, WindowAttention))
    x = torch.randn(2, 1, 1, 24, generator=torch.Generator().manual_seed(0))
    before = part(x)
    with without_attention(backbone, "own"):
        torch.testing.assert_close(part(x), before)
    with without_attention(backbone):
        assert (part(x) == 0).all()


def test_networks_made_within_it_learn_without():
    with without_attention():
        backbone = build("vit", ndim=2, seed=0)
        backbone(pictures()).pooled.square().mean().backward()
    blocks = backbone.stack.blocks
    assert all(block.attention.qkv.weight.grad is None or not block.attention.qkv.weight.grad.any() for block in blocks)
    assert all(block.mix.out.weight.grad.any() for block in blocks)
    backbone.zero_grad()
    backbone(pictures()).pooled.square().mean().backward()
    assert blocks[0].attention.qkv.weight.grad.any()


def test_a_network_without_attention_and_an_unknown_kind_are_named():
    with pytest.raises(InputError, match="ResEnc has no attention"), without_attention(build("resenc", ndim=2, seed=0)):
        pass
    with pytest.raises(InputError, match="use one of branch, own"), without_attention(None, "block"):
        pass
    assert not attends(build("resenc", ndim=2, seed=0))
