"""ViT: hidden tokens are dropped, not covered."""

import pytest
import torch

from headwater.backbones import build, refill
from headwater.backbones.features import kept_indices
from headwater.backbones.patches import patchify, unpatchify


def quarter(batch, grid):
    cells = torch.Size(grid).numel()
    order = torch.rand(batch, cells, generator=torch.Generator().manual_seed(0)).argsort(1)
    return (order < cells // 4).view(batch, *grid)


@pytest.mark.parametrize("size", [(32, 16), (8, 16, 12)], ids=str)
def test_fewer_tokens_are_processed(size):
    backbone = build("vit", "nano", 1, len(size), seed=0)
    seen = []
    parts = [backbone.embed, *(part for block in backbone.stack.blocks for part in (block.attention, block.mix))]
    for part in parts:
        part.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    x, keep = torch.randn(2, 1, *size), quarter(2, backbone.grid(size))
    f = backbone(x, keep)
    cells = keep[0].numel()
    assert seen == [cells // 4] * len(parts)
    assert f.tokens.shape[1] == cells // 4 and f.kept.shape == (2, cells // 4) and not f.pyramid
    with pytest.raises(ValueError, match="refill"):
        _ = f.map


def test_keeping_everything_changes_nothing():
    backbone = build("vit", "nano", 1, 2, seed=0)
    x = torch.randn(2, 1, 16, 12)
    full = backbone(x, torch.ones(2, 4, 3, dtype=torch.bool))
    torch.testing.assert_close(full.tokens, backbone(x).tokens)


def test_kept_indices():
    keep = quarter(3, (4, 6))
    kept = kept_indices(keep)
    assert kept.shape == (3, 6) and (kept.diff(dim=1) > 0).all()
    assert torch.equal(torch.zeros(3, 24, dtype=torch.bool).scatter(1, kept, True).view(3, 4, 6), keep)


def test_refilled_tokens_stand_at_their_places():
    """With the blocks switched off, kept tokens pass unchanged to their places and all others are the mask token."""
    backbone = build("vit", "nano", 1, 2, seed=0)
    fill = refill(backbone, 24)
    fill.stack.blocks = torch.nn.ModuleList()
    x, keep = torch.randn(2, 1, 16, 32), quarter(2, (4, 8))
    f = backbone(x, keep)
    y = fill(f)
    assert torch.equal(y.pooled, f.pooled) and y.size == (16, 32)
    hidden = fill.back(fill.norm(fill.hidden))
    for b in range(2):
        for n in range(32):
            place = (f.kept[b] == n).nonzero().flatten()
            expected = fill.back(fill.norm(fill.into(f.tokens[b, place[0]]))) if len(place) else hidden
            torch.testing.assert_close(y.tokens[b, n], expected)


def test_refilled_places_differ_by_where_they_are():
    backbone = build("vit", "nano", 1, 3, seed=0)
    torch.manual_seed(0)
    fill = refill(backbone)
    for p in fill.stack.parameters():
        torch.nn.init.normal_(p, 0, 0.2)
    keep = quarter(1, (2, 3, 4))
    tokens = fill(backbone(torch.randn(1, 1, 8, 12, 16), keep)).tokens[0, ~keep.flatten()]
    assert torch.pdist(tokens).min() > 1e-3


@pytest.mark.parametrize(("size", "patch"), [((8, 12), 4), ((4, 6, 8), 2), ((7, 9), 4), ((5, 3, 8), 2)])
def test_patches_and_back(size, patch):
    x = torch.randn(2, 3, *size)
    rows, grid = patchify(x, patch), [-(-n // patch) for n in size]
    assert rows.shape == (2, torch.Size(grid).numel(), 3 * patch ** len(size))
    whole = unpatchify(rows, grid, patch)
    inside = (slice(None), slice(None), *(slice(n) for n in size))
    assert torch.equal(whole[inside], x)
    assert whole.abs().sum() == pytest.approx(x.abs().sum().item(), rel=1e-5)  # the filling is zero
    first = (slice(None), slice(None), *(slice(patch) for _ in size))
    if all(n >= patch for n in size):
        assert torch.equal(rows[:, 0], x[first].flatten(1))


def test_embedding_is_a_convolution():
    backbone = build("vit", "nano", 2, 3, seed=0)
    x = torch.randn(1, 2, 8, 12, 4)
    kernel = backbone.embed.weight.view(192, 2, 4, 4, 4)
    expected = torch.nn.functional.conv3d(x, kernel, backbone.embed.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(backbone.embed(patchify(x, 4)), expected, atol=1e-5, rtol=1e-5)
