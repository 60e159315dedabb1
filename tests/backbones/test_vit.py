"""ViT: hidden tokens are dropped, not covered; registers stay inside; and it is the ViT of others where the style says so."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headwater.backbones import ViT, build, refill
from headwater.backbones.attention import Style
from headwater.backbones.features import kept_indices
from headwater.backbones.patches import patchify, unpatchify
from headwater.errors import InputError

STYLES = {
    "plain": Style(),
    "mixed": Style(kernels="mixed", registers=2),
    "peri": Style(place="peri", qk_norm=True, positions="sinusoidal", registers=1, pooled="class"),
    "ngpt": Style(place="ngpt", kernels=("softmax", "cosine"), registers=1),
    "post": Style(norm="layer", place="post", mix="gelu", qkv_bias=True, positions="learned", reach=(2, 3)),
    "relative": Style(positions="relative", layer_scale=0.1, reach=3, drop_path=0.2),
}
every_style = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)


def vit(style=Style(), ndim=2, patch=4, seed=0):
    """Small, its weights large enough to be felt."""
    torch.manual_seed(seed)
    heads = len(style.kernels) if isinstance(style.kernels, tuple) else 5
    backbone = ViT(ndim, 2, 12 * heads, 3, heads, patch, style)
    for name, p in backbone.named_parameters():
        if p.ndim > 1 and "table" not in name:
            torch.nn.init.normal_(p, 0, 0.1)
    return backbone


def images(*size, batch=2):
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1))


def quarter(batch, grid):
    cells = torch.Size(grid).numel()
    order = torch.rand(batch, cells, generator=torch.Generator().manual_seed(0)).argsort(1)
    return (order < cells // 4).view(batch, *grid)


def gradients(backbone, x, keep=None):
    backbone.zero_grad(set_to_none=True)
    torch.manual_seed(3)  # the steps drop_path leaves out
    f = backbone(x, keep)
    (f.tokens.square().mean() + (f.pooled * torch.linspace(-1, 1, backbone.dim)).sum()).backward()
    return f, {name: p.grad for name, p in backbone.named_parameters()}


def theirs_to_ours(state, depth):
    """Names of Hugging Face's ViT in ours; the class token with its place is a register."""
    where = state["embeddings.position_embeddings"][0]
    ours = {
        "embed.weight": state["embeddings.patch_embeddings.projection.weight"].flatten(1),
        "embed.bias": state["embeddings.patch_embeddings.projection.bias"],
        "stack.registers": state["embeddings.cls_token"][0] + where[:1],
        "stack.positions.table": where[1:],
    }
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        for i in range(depth):
            layer, block = f"layers.{i}", f"stack.blocks.{i}"
            parts = [state[f"{layer}.attention.{one}_proj.{kind}"] for one in "qkv"]
            ours[f"{block}.attention.qkv.{kind}"] = torch.cat(parts)
            ours[f"{block}.attention.out.{kind}"] = state[f"{layer}.attention.o_proj.{kind}"]
            ours[f"{block}.norm_attention.{kind}"] = state[f"{layer}.layernorm_before.{kind}"]
            ours[f"{block}.norm_mix.{kind}"] = state[f"{layer}.layernorm_after.{kind}"]
            ours[f"{block}.mix.into.{kind}"] = state[f"{layer}.mlp.fc1.{kind}"]
            ours[f"{block}.mix.out.{kind}"] = state[f"{layer}.mlp.fc2.{kind}"]
    return ours


@pytest.mark.slow  # transformers takes seconds to import
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_it_is_the_vit_of_transformers(positions):
    """Outputs, gradients of every weight and of the image, from copied weights; a picture that is not square."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=[12, 16],
        patch_size=4,
        num_channels=2,
        layer_norm_eps=1e-12,
    )
    theirs = ViTModel(config, add_pooling_layer=False).eval()
    style = {"norm": "layer", "epsilon": 1e-12, "mix": "gelu", "hidden": 40, "qkv_bias": True, "registers": 1, "pooled": "class"}
    ours = ViT(2, 2, 24, 2, 3, 4, Style(positions=positions, reach=(3, 4), **style)).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, 0.05, 0.2)
    if positions == "sinusoidal":
        waves = ours.stack.positions.add(torch.zeros(1, 12, 24), (3, 4), None)
        theirs.embeddings.position_embeddings.data[:, 1:] = waves
    weights = theirs_to_ours(theirs.state_dict(), 2)
    fixed = {"stack.positions.table"} - set(ours.state_dict())
    ours.load_state_dict({name: p for name, p in weights.items() if name not in fixed})

    x, weight, seen = images(12, 16), torch.randn(2, 13, 24, generator=torch.Generator().manual_seed(5)), []
    for run in (lambda y: theirs(y).last_hidden_state, lambda y: (f := ours(y)) and torch.cat([f.pooled[:, None], f.tokens], 1)):
        y = x.clone().requires_grad_()
        out = run(y)
        (out * weight).sum().backward()
        seen.append((out, y.grad))
    torch.testing.assert_close(seen[1][0], seen[0][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[1][1], seen[0][1], atol=1e-5, rtol=1e-5)
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    grads["embeddings.cls_token"] = torch.zeros(1, 1, 24)  # the sum of two parameters: either has its gradient
    expected = theirs_to_ours(grads, 2)
    for name, p in ours.named_parameters():
        scale = expected[name].abs().max()
        torch.testing.assert_close(p.grad / scale, expected[name] / scale, atol=1e-5, rtol=1e-5)


# tokens that are dropped


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


@every_style
def test_hidden_voxels_are_never_read(style):
    backbone, x = vit(style).eval(), images(8, 12)
    keep = torch.tensor([[[1, 0, 1], [0, 1, 0]], [[0, 1, 1], [0, 0, 1]]], dtype=torch.bool)
    poisoned = x.clone()
    for b, i, j in (~keep).nonzero().tolist():
        poisoned[b, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = float("nan")
    seen, blind = backbone(x, keep), backbone(poisoned, keep)
    assert torch.equal(seen.tokens, blind.tokens) and torch.equal(seen.pooled, blind.pooled)
    assert torch.isfinite(blind.tokens).all() and seen.tokens.shape == (2, 3, backbone.dim)


def test_what_is_dropped_does_not_change_the_places_of_the_rest():
    """With no attention between tokens, a kept token is what it is among all."""
    backbone = vit(Style(positions="learned", reach=4))
    for block in backbone.stack.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    x, keep = images(16, 12), quarter(2, (4, 3))
    few, all_of_them = backbone(x, keep), backbone(x)
    for b in range(2):
        torch.testing.assert_close(few.tokens[b], all_of_them.tokens[b, few.kept[b]])


# what stays inside


@pytest.mark.parametrize("registers", [0, 1, 4])
@pytest.mark.parametrize("pooled", ["mean", "class"])
def test_registers_are_never_in_features(registers, pooled):
    if pooled == "class" and not registers:
        return
    backbone, x = vit(Style(registers=registers, pooled=pooled)), images(8, 12)
    f, rows = backbone(x), []
    backbone.norm.register_forward_hook(lambda module, inputs, output: rows.append(output))
    backbone(x)
    assert f.tokens.shape[1] == math.prod(f.grid) == 6 and rows[0].shape[1] == 6 + registers
    assert torch.equal(f.tokens, rows[0][:, registers:]) and f.pyramid[0].shape[2:] == f.grid
    torch.testing.assert_close(f.pooled, rows[0][:, 0] if pooled == "class" else f.tokens.mean(1))
    if registers:  # but tokens do read them
        backbone.stack.registers.data += 1
        assert (backbone(x).tokens - f.tokens).norm() > 1e-3


# contracts, in every style


@every_style
def test_segments_are_the_network(style):
    backbone, x = vit(style).eval(), images(7, 11)
    (segment,) = backbone.segments(x)
    tokens, whole = segment.start, []
    for block in backbone.stack.blocks:
        block.register_forward_hook(lambda module, inputs, output: whole.append(output))
    f = backbone(x)
    own = whole.copy()
    for depth, velocity in enumerate(segment.velocities):
        tokens = tokens + velocity(float(depth), tokens)
        torch.testing.assert_close(tokens, own[depth], atol=1e-5, rtol=1e-5)
    assert segment.grid == f.grid and len(segment.velocities) == 3
    torch.testing.assert_close(backbone.norm(tokens)[:, style.registers :], f.tokens, atol=1e-5, rtol=1e-5)


@every_style
def test_checkpointed_gradients_are_the_same(style):
    backbone, x = vit(style), images(8, 12)
    keep = torch.tensor([[[1, 0, 1], [0, 1, 0]], [[0, 1, 1], [0, 0, 1]]], dtype=torch.bool)
    for mask in (None, keep):
        backbone.checkpointed = False
        f, plain = gradients(backbone, x, mask)
        backbone.checkpointed = True
        runs = []
        hook = backbone.stack.blocks[0].register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        g, again = gradients(backbone, x, mask)
        hook.remove()
        assert len(runs) == 2 and torch.equal(f.tokens, g.tokens)
        for name, grad in plain.items():
            torch.testing.assert_close(again[name], grad, msg=name)


@every_style
def test_every_weight_learns(style):
    _, grads = gradients(vit(style), images(9, 12))
    for name, grad in grads.items():
        assert grad is not None and torch.isfinite(grad).all() and grad.abs().max() > 0, name


COMPILED = """
import torch
from test_vit import STYLES, gradients, images, vit
for style in STYLES.values():
    torch._dynamo.reset()
    backbone, x = vit(style).eval(), images(8, 12)
    f, plain = gradients(backbone, x)
    g, grads = gradients(torch.compile(backbone, fullgraph=True, backend="eager"), x)
    torch.testing.assert_close(g.tokens, f.tokens)
    for name, grad in plain.items():
        torch.testing.assert_close(grads["_orig_mod." + name], grad, atol=1e-5, rtol=1e-4)
"""


@pytest.mark.slow
def test_one_graph():
    """torch.compile without a break, forward and backward, in every style. The compiler cannot read the checks of shapes that
    tests run under: hence a process of its own."""
    here = Path(__file__).parent
    path = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("error")  # a norm of mixed precisions leaves torch's fast path with a warning
@every_style
def test_bfloat16(style):
    backbone, x = vit(style).eval(), images(8, 12)
    exact = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        f, grads = gradients(backbone, x)
    assert f.pooled.dtype == f.tokens.dtype == torch.float32
    assert (f.tokens - exact.tokens).norm() < 0.05 * exact.tokens.norm()
    assert all(torch.isfinite(g).all() for g in grads.values())


@every_style
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_blank_and_bright_images(style, scale):
    """An image of zeros (all tokens zero, no bias) or far out of range: finite numbers and gradients."""
    f, grads = gradients(vit(style), scale * images(8, 12))
    assert torch.isfinite(f.tokens).all() and torch.isfinite(f.pooled).all()
    assert all(torch.isfinite(g).all() and g.abs().max() < 1e6 for g in grads.values())


def test_two_and_three_dimensions_are_one_code():
    """A volume one token thick, its weights those of a picture: the same tokens, rotary aside."""
    flat, solid = vit(Style(positions="none")), vit(Style(positions="none"), ndim=3, patch=4)
    state = flat.state_dict()
    state["embed.weight"] = (state["embed.weight"].unflatten(1, (2, 1, 16)).expand(-1, -1, 4, -1) / 4).flatten(1)
    solid.load_state_dict(state)
    x = images(8, 12)
    y = x[:, :, None].expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(solid(y).tokens, flat(x).tokens, atol=1e-5, rtol=1e-5)


def test_state_survives_a_file(tmp_path):
    style = STYLES["mixed"]
    first, other, x = vit(style), vit(style, seed=1), images(8, 12)
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(first(x).tokens, other(x).tokens)


def test_patches_that_are_taken():
    assert ViT(2, 2, 24, 1, 2, 14)(images(20, 28)).grid == (2, 2)
    for patch, nearest in ((0, "2"), (3, "2"), (5, "4"), (12, "8"), (-4, "2")):
        with pytest.raises(InputError, match=f"patch {patch} is no power of two: use {nearest}"):
            ViT(2, 1, 24, 1, 2, patch)
    with pytest.raises(InputError, match="use 2 heads, or width 9"):
        ViT(2, 1, 10, 1, 3)


def test_unequal_masks_are_refused():
    keep = torch.ones(2, 2, 2, dtype=torch.bool)
    keep[0, 0, 0] = False
    with pytest.raises(InputError, match="3 to 4 tokens"):
        vit()(images(8, 8), keep)
