"""Swin against MONAI's encoder with its weights, against the formulas of version 2, and what it refuses."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import PatchMergingV2, SwinTransformer, SwinTransformerBlock, compute_mask
from torch import nn

from headwater.backbones.swin import Block, Merge, Swin, WindowAttention
from headwater.backbones.windows import padding
from headwater.errors import InputError
from headwater.streams import seeded

EXACT = {"atol": 1e-10, "rtol": 1e-8}


def draw(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough for every part to count."""
    make = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(0, 0.2, generator=make).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return module


def images(*size, seed=1, dtype=torch.float64):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def turned(weight, width, ndim):
    """Columns of a merging map from our row-major order of neighbours to MONAI's, which in 2D is column-major."""
    return weight.unflatten(-1, (2, 2, width)).transpose(-3, -2).flatten(-3) if ndim == 2 else weight


def pairs(ours, theirs):
    """Parameters of a block of ours beside MONAI's."""
    a, b = ours.attention, theirs.attn
    yield a.table, b.relative_position_bias_table
    twins = [(a.qkv, b.qkv), (a.out, b.proj), (ours.norm_attention, theirs.norm1), (ours.norm_mix, theirs.norm2)]
    for mine, other in [*twins, (ours.mix[0], theirs.mlp.linear1), (ours.mix[2], theirs.mlp.linear2)]:
        yield from zip(mine.parameters(), other.parameters(), strict=True)


def monai(ndim, window):
    """MONAI's encoder, ours with its weights, and (parameter, how ours looks as MONAI's, MONAI's parameter)."""
    theirs = draw(SwinTransformer(2, 12, [window] * ndim, [2] * ndim, (2, 2, 2, 2), (1, 2, 3, 4), spatial_dims=ndim,
                                  downsample="mergingv2")).double()  # fmt: skip
    ours = Swin(ndim, 2, 12, (2, 2, 2, 2), (1, 2, 3, 4), window=window).double()
    layers = [theirs.layers1[0], theirs.layers2[0], theirs.layers3[0], theirs.layers4[0]]
    layers[3].downsample = None  # MONAI merges once more, for the bottom of its U-Net
    same: list[tuple[nn.Parameter, Callable, nn.Parameter]] = [
        (ours.embed.weight, lambda w: w.view(12, 2, *[2] * ndim), theirs.patch_embed.proj.weight),
        (ours.embed.bias, lambda w: w, theirs.patch_embed.proj.bias),
    ]
    for stage, layer in zip(ours.stages, layers, strict=True):
        for block, other in zip(stage, layer.blocks, strict=True):
            same += [(mine, lambda w: w, p) for mine, p in pairs(block, other)]
    for i, (merge, layer) in enumerate(zip(ours.merges, layers, strict=False)):
        for name, p in layer.downsample.named_parameters():
            same.append((merge.get_parameter(name.replace("reduction", "reduce")), lambda w, i=i: turned(w, 12 * 2**i, ndim), p))
    with torch.no_grad():
        for mine, look, p in same:  # `turned` is its own inverse, the views are undone by reshape
            mine.copy_(look(p).reshape(mine.shape) if p.ndim < 4 else p.reshape(mine.shape))
    return ours, theirs, layers, same


@pytest.mark.parametrize(
    ("size", "window"),
    [((112, 112), 7), ((113, 120), 7), ((32, 32, 32), 2), ((33, 34, 37), 2), ((33, 33), 2)],
    ids=str,
)
def test_the_encoder_is_monais(size, window):
    ours, theirs, layers, same = monai(len(size), window)
    seen = []
    for layer in layers:
        layer.blocks[-1].register_forward_hook(lambda m, a, y: seen.append(F.layer_norm(y, y.shape[-1:]).movedim(-1, 1)))
    x, y = images(1, 2, *size).requires_grad_(), images(1, 2, *size).requires_grad_()
    theirs(x)
    pyramid = ours(y).pyramid
    torch.testing.assert_close(pyramid, seen, **EXACT)
    slopes = [images(*m.shape, seed=i) for i, m in enumerate(pyramid)]
    for maps in (pyramid, seen):
        sum((m * s).sum() for m, s in zip(maps, slopes, strict=True)).backward()
    torch.testing.assert_close(y.grad, x.grad, **EXACT)
    assert len(same) == sum(1 for _ in theirs.parameters())
    for mine, look, p in same:
        torch.testing.assert_close(look(mine.grad), p.grad, **EXACT)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("grid", [(14, 14), (9, 15), (8, 9, 8), (7, 7, 7)], ids=str)
def test_a_block_is_monais(grid, shift):
    d = len(grid)
    theirs = draw(SwinTransformerBlock(8, 2, [7] * d, [shift] * d)).double()
    ours = Block(d, 8, 2, 7, shift, 1, 0.0).double()
    with torch.no_grad():
        for mine, p in pairs(ours, theirs):
            mine.copy_(p)
    whole = [-(-n // 7) * 7 for n in grid]
    shifts = [shift if n > 7 else 0 for n in grid]
    mask = compute_mask(whole, [7] * d, shifts, "cpu").double() if any(shifts) else None
    x = images(2, *grid, 8)
    y, z = ours(x), theirs(x, mask)
    torch.testing.assert_close(y, z, **EXACT)
    (y.pow(3).sum() + z.pow(3).sum()).backward()
    for mine, p in pairs(ours, theirs):
        torch.testing.assert_close(mine.grad, p.grad, **EXACT)


@pytest.mark.parametrize("grid", [(4, 6), (5, 4), (4, 6, 2), (5, 3, 1)], ids=str)
def test_merging_is_monais(grid):
    d = len(grid)
    theirs, ours = draw(PatchMergingV2(3, spatial_dims=d)).double(), Merge(d, 3).double()
    with torch.no_grad():
        ours.reduce.weight.copy_(turned(theirs.reduction.weight, 3, d))
        for mine, p in zip(ours.norm.parameters(), theirs.norm.parameters(), strict=True):
            mine.copy_(turned(p, 3, d))
    x = images(2, *grid, 3)
    torch.testing.assert_close(ours(x), theirs(x), **EXACT)


def version_two(attention, x):
    """Cosine attention within one window that holds the grid, offset by offset (2111.09883, equations 2 and 4)."""
    grid, heads, w = x.shape[1:-1], attention.heads, attention.window
    q, k, v = attention.qkv(x.flatten(1, -2)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    cosine = torch.einsum("bhne,bhme->bhnm", q, k) / (q.norm(dim=-1)[..., None] * k.norm(dim=-1)[..., None, :])
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid)).double()
    offset = (places[:, None] - places) * 8 / (w - 1)
    bias = 16 * torch.sigmoid(attention.bias(offset.sign() * torch.log2(1 + offset.abs()) / math.log2(8)))
    scores = cosine * attention.temperature.exp().clamp(max=100)[:, None] + bias.permute(2, 0, 1)
    return attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).unflatten(1, grid)


@pytest.mark.parametrize("grid", [(4, 4), (3, 4), (3, 2, 4)], ids=str)
def test_version_two_is_cosine_attention(grid):
    attention = draw(WindowAttention(len(grid), 6, 2, 4, 2, version=2)).double()
    with torch.no_grad():
        attention.temperature[:] = torch.tensor([[1.0], [9.0]])  # the second is over the limit of 100
    x = images(2, *grid, 6)
    y, z = attention(x), version_two(attention, x)
    torch.testing.assert_close(y, z, **EXACT)
    for a, b in zip(*(torch.autograd.grad(t.pow(3).sum(), attention.parameters()) for t in (y, z)), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_version_two_is_that_of_transformers():
    swinv2 = pytest.importorskip("transformers.models.swinv2.modeling_swinv2")
    config = swinv2.Swinv2Config(embed_dim=8, num_heads=[2], depths=[2], window_size=4, image_size=8, patch_size=1)
    theirs = draw(swinv2.Swinv2Layer(config, 8, (8, 8), 2)).double().eval()
    ours = Block(2, 8, 2, 4, 0, 2, 0.0).double()
    a, b = ours.attention, theirs.attention
    s = b.self
    with torch.no_grad():
        a.qkv.weight.copy_(torch.cat([s.query.weight, s.key.weight, s.value.weight]))
        a.qkv.bias.copy_(torch.cat([s.query.bias, torch.zeros(8), s.value.bias]))  # keys have no bias there
        a.temperature.copy_(s.logit_scale[..., 0])
        twins = [(a.bias, s.continuous_position_bias_mlp), (a.out, b.output.dense), (ours.norm_mix, theirs.layernorm_after)]
        twins += [(ours.norm_attention, theirs.layernorm_before), (ours.mix[0], theirs.intermediate.dense)]
        for mine, other in [*twins, (ours.mix[2], theirs.output.dense)]:
            for p, r in zip(mine.parameters(), other.parameters(), strict=True):
                p.copy_(r)
    x = images(2, 8, 8, 8)
    theirs_out = theirs(x.flatten(1, 2), (8, 8))
    theirs_out = theirs_out if isinstance(theirs_out, torch.Tensor) else theirs_out[0]
    torch.testing.assert_close(ours(x).flatten(1, 2), theirs_out, atol=1e-5, rtol=1e-5)


def nano(ndim=3, **options):
    return draw(Swin(ndim, 1, 12, (2, 2, 2), (1, 2, 4), **{"window": 3, **options}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(17, 12), (5, 6, 9), (4, 4, 4)], ids=str)
def test_segments_retrace_the_network(size, version):
    backbone = nano(len(size), version=version).eval()
    x = images(2, 1, *size, dtype=torch.float32)
    f, segments = backbone(x), backbone.segments(x)
    assert len(segments) == 3 and [len(s.velocities) for s in segments] == [2, 2, 2]
    for m, s, norm in zip(f.pyramid, segments, backbone.norms, strict=True):
        tokens = s.start
        for i, velocity in enumerate(s.velocities):
            tokens = tokens + velocity(float(i), tokens)
        assert s.grid == m.shape[2:]
        torch.testing.assert_close(norm(tokens), m.flatten(2).transpose(1, 2))


def test_checkpointed_gradients_are_equal():
    backbone, grads = nano().train(), []
    x = images(1, 1, 9, 14, 11, dtype=torch.float32)
    for backbone.checkpointed in (False, True):
        backbone.zero_grad()
        backbone(x).tokens.square().sum().backward()
        grads.append([p.grad.clone() for n, p in backbone.named_parameters() if n != "hidden"])
    torch.testing.assert_close(grads[0], grads[1])


COMPILED = """
import torch
from test_swin import images, nano
from headwater.backbones.swin import Swin
for size, version in (((9, 8), 2),):
    backbone, x, answers = Swin(len(size), 1, 6, (2,), (2,), 2, window=2, version=version), images(1, 1, *size).float(), []
    for network in (backbone, torch.compile(backbone, fullgraph=True, backend="aot_eager")):
        backbone.zero_grad()
        tokens = network(x).tokens
        tokens.square().mean().backward()
        answers.append([tokens, *(p.grad.clone() for n, p in backbone.named_parameters() if n != "hidden")])
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=1e-4)
"""


@pytest.mark.slow
def test_one_graph():
    """Version 2 under torch.compile, without a break; version 1 is in the contract. The compiler cannot read the checks of
    shapes that tests run under: hence a process of its own."""
    here = Path(__file__).parent
    path = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", [1, 2])
def test_bfloat16_is_finite_and_close(version):
    with seeded(0, "weights"):
        backbone = Swin(3, 1, 24, (2, 2), (3, 6), window=4, version=version)
    x = images(1, 1, 18, 16, 15, dtype=torch.float32)
    exact = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        f = backbone(x)
        loss = f.tokens.float().square().mean()
    loss.backward()
    assert (f.tokens - exact.tokens).norm() < 0.05 * exact.tokens.norm() and f.pooled.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for n, p in backbone.named_parameters() if n != "hidden")


@pytest.mark.parametrize("size", [(5, 6, 9), (17, 12)], ids=str)
def test_hidden_voxels_are_never_read(size):
    backbone = nano(len(size)).eval()
    x = images(1, 1, *size, dtype=torch.float32)
    keep = torch.ones(1, *backbone.grid(size), dtype=torch.bool)
    keep.view(-1)[0] = keep.view(-1)[-1] = False
    poisoned = x.clone()
    for first in (True, False):
        poisoned[(0, 0, *(slice(4) if first else slice((n - 1) // 4 * 4, None) for n in size))] = float("nan")
    f, g = backbone(poisoned, keep), backbone(x, keep)
    assert torch.equal(f.tokens, g.tokens) and torch.isfinite(f.tokens).all()
    assert not torch.equal(g.pooled, backbone(x).pooled)
    everything = torch.ones_like(keep)
    torch.testing.assert_close(backbone(x, everything).tokens, backbone(x).tokens)


def test_drop_path_rises_and_rests_at_inference():
    backbone = nano(drop_path=0.5)
    assert [b.drop for s in backbone.stages for b in s] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    x = images(4, 1, 8, 8, 8, dtype=torch.float32)
    plain = nano()
    assert torch.equal(backbone.eval()(x).pooled, plain(x).pooled)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.allclose(backbone.train()(x).pooled, plain(x).pooled)


def test_a_window_shrinks_on_a_short_axis():
    """What the shrunk window says is what a table cut to its offsets says."""
    wide, narrow = (WindowAttention(2, 6, 2, w, 0).double() for w in (5, 3))
    draw(wide)
    narrow.load_state_dict({**wide.state_dict(), "table": wide.table.view(9, 9, 2)[2:7, 2:7].reshape(25, 2)})
    x = images(1, 3, 3, 6)
    torch.testing.assert_close(wide(x), narrow(x), **EXACT)
    assert padding((3, 3), 5, 2) == [0, 0]


CASES = {
    "width 24 of stage 2 does not split into 5 heads: use 4 heads there": {"heads": (1, 5, 4)},
    "2 depths and 3 head counts": {"depths": (2, 2)},
    "at least one block and one head": {"depths": (2, 0, 2)},
    "patch 5 is no stride of this network: use 4": {"patch": 5},
    "a window of 1 cells has no neighbours: use 2 or more": {"window": 1},
    "there is no version 3 of Swin: use 1 or 2": {"version": 3},
    "drop_path 1.5 is no share": {"drop_path": 1.5},
    "cells of 0 voxels do not exist: use 2": {"cell": 0},
}


@pytest.mark.parametrize("words", CASES)
def test_settings_that_do_not_fit(words):
    with pytest.raises(InputError) as error:
        Swin(3, 1, **{"width": 12, "depths": (2, 2, 2), "heads": (1, 2, 4), **CASES[words]})
    assert words in str(error.value)


def test_an_image_smaller_than_a_token():
    with pytest.raises(InputError, match="3 x 8 x 8 are smaller than one token of 4 x 4 x 4: use at least 4 x 8 x 8"):
        nano()(torch.zeros(1, 1, 3, 8, 8))
