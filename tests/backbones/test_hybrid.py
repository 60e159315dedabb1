"""The hybrid is a residual encoder and attention on its last map, nothing else. The contract of all backbones holds it too."""

import pytest
import torch

from headwater.backbones import Decoder, build
from headwater.backbones.attention import Block
from headwater.backbones.families import FAMILIES
from headwater.backbones.hybrid import Turn


def images(*size, batch=2):
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ndim", [2, 3])
def test_without_its_blocks_it_is_the_residual_encoder(ndim):
    hybrid, plain = build("hybrid", ndim=ndim, seed=0), build("resenc", ndim=ndim, seed=1)
    own, last = hybrid.state_dict(), len(plain.stages) - 1
    shared = {name: own[name] for name in plain.state_dict()}
    extra = set(own) - set(shared)
    assert extra and all(name.startswith(f"stages.{last}.") and ".stack." in name for name in extra)
    plain.load_state_dict(shared)
    x = images(*(24,) * ndim)
    one, other = hybrid(x).pyramid, plain(x).pyramid
    assert all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))
    assert not torch.allclose(one[-1], other[-1])
    for block in (b for b in hybrid.modules() if isinstance(b, Block)):
        torch.nn.init.zeros_(block.attention.out.weight)
        torch.nn.init.zeros_(block.mix.out.weight)
    torch.testing.assert_close(hybrid(x).pyramid[-1], other[-1])


def test_the_last_map_sees_all_of_the_image():
    """One voxel in a corner reaches the far corner of the deepest map: through the blocks, not through convolutions."""
    backbone = build("hybrid", ndim=2, seed=0).double().eval()
    turns = [part for part in backbone.modules() if isinstance(part, Turn)]
    m = torch.randn(1, 128, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    turns[0](m)[..., -1, -1].sum().backward()
    assert len(turns) == 2 and (m.grad.abs().sum(1) > 0).all()


def test_what_is_hidden_is_not_attended_to():
    backbone = build("hybrid", ndim=2, seed=0).eval()
    turn = next(part for part in backbone.modules() if isinstance(part, Turn))
    m = torch.randn(2, 128, 4, 3, generator=torch.Generator().manual_seed(0))
    seen = torch.rand(2, 1, 4, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    found = turn(m, seen)
    other = turn(torch.where(seen, m, torch.full_like(m, 7.0)), seen)
    torch.testing.assert_close(found, other)
    assert (found[~seen.expand_as(found)] == 0).all() and torch.isfinite(found).all()
    assert not torch.allclose(found[seen.expand_as(found)], turn(m)[seen.expand_as(found)])


def test_sparse_pretraining_reads_nothing_hidden():
    backbone = build("hybrid", ndim=2, seed=0).eval()
    backbone.sparse = True
    x, keep = images(32, 32), torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(3)) < 0.3
    voxels = keep[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3)
    f, blind = backbone(x, keep), backbone(x.masked_fill(~voxels, float("nan")), keep)
    assert torch.equal(f.pooled, blind.pooled) and torch.isfinite(blind.pooled).all()


def test_sizes_grow_beyond_the_residual_encoder_of_the_same_name():
    counts = []
    for size in FAMILIES["hybrid"].sizes:
        with torch.device("meta"):
            one, other = build("hybrid", size), build("resenc", size)
            assert one.widths == other.widths and Decoder(one, 2).head.weight.shape == Decoder(other, 2).head.weight.shape
        counts.append([sum(p.numel() for p in net.parameters()) for net in (one, other)])
    assert all(1 < a / b < 1.6 for a, b in counts) and counts == sorted(counts)
