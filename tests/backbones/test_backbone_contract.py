"""What every backbone promises, for all families, in 2D and 3D, at sizes that do not divide."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headwater.backbones import FAMILIES, Decoder, LightHead, Reconstruction, build, refill
from headwater.errors import InputError

SIZES = [(17, 12), (16, 16), (9, 14, 11), (8, 8, 12), (5, 6, 9)]
FAMILY = sorted(FAMILIES)
every = pytest.mark.parametrize("family", FAMILY)
sized = pytest.mark.parametrize("size", SIZES, ids=str)


def images(size, batch=2, channels=2):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def half(backbone, size, batch=2):
    """Keeps about half the cells, other ones in each image."""
    cells = math.prod(backbone.grid(size))
    order = torch.rand(batch, cells, generator=torch.Generator().manual_seed(2)).argsort(1)
    return (order < (cells + 1) // 2).view(batch, *backbone.grid(size))


def voxels(keep, stride, size):
    """Cells to voxels, one cell after another."""
    mask = torch.zeros(keep.shape[0], 1, *size, dtype=torch.bool)
    for b, *cell in keep.nonzero().tolist():
        mask[(b, 0, *(slice(c * s, c * s + s) for c, s in zip(cell, stride, strict=True)))] = True
    return mask


@every
@sized
@pytest.mark.parametrize("patch", [2, 4])
def test_features(family, size, patch):
    backbone = build(family, "nano", 2, len(size), patch, seed=0)
    f = backbone(images(size))
    grid = tuple(math.ceil(n / patch) for n in size)
    assert f.grid == backbone.grid(size) == grid and f.size == size and f.kept is None
    assert f.tokens.shape == (2, math.prod(grid), backbone.dim) and f.pooled.shape == (2, backbone.dim)
    assert f.map.shape == (2, backbone.dim, *grid)
    assert torch.equal(f.map.flatten(2).transpose(1, 2), f.tokens)
    assert len(f.pyramid) == len(backbone.widths) == len(backbone.strides)
    for m, width, strides in zip(f.pyramid, backbone.widths, backbone.strides, strict=True):
        assert m.shape == (2, width, *(math.ceil(n / s) for n, s in zip(size, strides, strict=True)))
    assert all(torch.isfinite(t).all() for t in (f.tokens, f.pooled, *f.pyramid))


@every
@sized
def test_hidden_voxels_are_never_seen(family, size):
    backbone = build(family, "nano", 2, len(size), seed=0).eval()
    x, keep = images(size), half(backbone, size)
    poisoned = x.masked_fill(~voxels(keep, backbone.stride, size), float("nan"))
    seen, blind = backbone(x, keep), backbone(poisoned, keep)
    assert torch.equal(seen.tokens, blind.tokens) and torch.equal(seen.pooled, blind.pooled)
    assert torch.isfinite(blind.tokens).all()
    assert not torch.equal(seen.pooled, backbone(x).pooled)
    image = Reconstruction(backbone, 2)(blind)
    assert image.shape == x.shape and torch.isfinite(image).all()
    whole = refill(backbone)(blind)
    assert whole.tokens.shape[:2] == (2, math.prod(whole.grid)) and whole.kept is None
    assert whole.map.shape == (2, backbone.dim, *backbone.grid(size))


@every
@sized
def test_every_parameter_learns(family, size):
    backbone = build(family, "nano", 2, len(size), seed=0)
    heads = torch.nn.ModuleList([Decoder(backbone, 3), LightHead(backbone, 3), Reconstruction(backbone, 2)])
    x, keep = images(size), half(backbone, size)
    f = backbone(x)
    outputs = [heads[0](f), heads[1](f), heads[2](backbone(x, keep))]
    assert [o.shape for o in outputs] == [(2, 3, *size), (2, 3, *size), (2, 2, *size)]
    sum((o * torch.randn_like(o)).sum() for o in outputs).backward()
    for name, p in [*backbone.named_parameters(), *heads.named_parameters()]:
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


@every
@sized
def test_bfloat16(family, size):
    backbone = build(family, "nano", 2, len(size), seed=0)
    decoder, image = Decoder(backbone, 3), Reconstruction(backbone, 2)
    x = images(size)
    exact = backbone(x).pyramid[0]
    with torch.autocast("cpu", torch.bfloat16):
        f = backbone(x)
        loss = decoder(f).float().square().mean() + image(backbone(x, half(backbone, size))).float().square().mean()
    loss.backward()
    assert torch.isfinite(loss) and f.pooled.dtype == torch.float32
    assert torch.isfinite(f.tokens).all() and (f.pyramid[0] - exact).norm() < 0.05 * exact.norm()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())


def rows(maps):
    return [m.flatten(2).transpose(1, 2) for m in maps]


@every
@pytest.mark.parametrize("size", [(17, 12), (9, 14, 11)], ids=str)
def test_blocks_are_velocities(family, size):
    """Summing up what the blocks add leads from the start of a segment to a map of the pyramid, but for a last norm."""
    backbone = build(family, "small", 2, len(size), seed=0).double().eval()
    x = images(size).double()
    pyramid, norms = rows(backbone(x).pyramid), getattr(backbone, "norms", [getattr(backbone, "norm", None)])
    segments = backbone.segments(x)
    assert sum(len(s.velocities) for s in segments) >= 3
    for segment in segments:
        tokens = segment.start
        for t, velocity in enumerate(segment.velocities):
            change = velocity(t, tokens)
            assert change.shape == tokens.shape and change.abs().max() > 0
            tokens = tokens + change
        assert tokens.shape[1] == math.prod(segment.grid)
        ends = [tokens, *(norm(tokens) for norm in norms if norm is not None and norm.weight.numel() == tokens.shape[-1])]
        assert any(end.shape == m.shape and torch.allclose(end, m, rtol=1e-9, atol=1e-11) for end in ends for m in pyramid)


@every
@pytest.mark.parametrize("size", [(16, 12), (9, 14, 11)], ids=str)
def test_blocks_computed_again_give_the_same_gradients(family, size):
    found = []
    for again in (False, True):
        backbone = build(family, "nano", 2, len(size), seed=0).train()
        backbone.checkpointed = again
        x = images(size).requires_grad_()
        backbone(x, half(backbone, size)).tokens.square().mean().backward()
        found.append([x.grad, *(p.grad for p in backbone.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


COMPILED = """
import sys
import torch
from headwater.backbones import build
size = (9, 14, 11)
backbone = build(sys.argv[1], "nano", 2, len(size), seed=0)
x = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(1))
def forward(x):
    f = backbone(x)
    return f.tokens, f.pooled
compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
found = compiled(x)
for a, b in zip(found, forward(x), strict=True):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
sum(t.square().mean() for t in found).backward()
assert all(torch.isfinite(p.grad).all() for p in backbone.parameters() if p.grad is not None)
"""


@pytest.mark.slow
@every
def test_compiles_in_one_graph(family):
    """torch.compile traces the whole forward and backward pass without a break, in a process without the checks of shapes that
    tests run under, which the compiler cannot read."""
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    given = [sys.executable, "-c", COMPILED, family]
    done = subprocess.run(given, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@every
@pytest.mark.parametrize("ndim", [2, 3])
def test_weights_are_a_function_of_the_seed_and_survive_a_file(family, ndim, tmp_path):
    state = torch.get_rng_state()
    first, again, other = (build(family, "nano", 1, ndim, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    x = images((9,) * ndim, channels=1)
    y = first(x).tokens
    assert torch.equal(y, again(x).tokens) and torch.equal(y, first(x).tokens) and not torch.allclose(y, other(x).tokens)
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(y, other(x).tokens)


@every
def test_an_image_does_not_depend_on_its_batch(family):
    backbone = build(family, "nano", 1, 3, seed=0)
    x = images((9, 10, 11), channels=1)
    torch.testing.assert_close(backbone(x).tokens[1:], backbone(x[1:]).tokens)


@every
@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_larger_sizes(family, size):
    with torch.device("meta"):  # shapes only, nothing is allocated or computed
        backbone = build(family, size, 1, 2)
        f = backbone(torch.empty(1, 1, 64, 64))
        assert f.tokens.shape == (1, 256, backbone.dim) and f.pooled.shape == (1, backbone.dim)
        assert Decoder(backbone, 3)(f).shape == (1, 3, 64, 64)


@every
def test_input_errors_say_what_to_do(family):
    backbone = build(family, "nano", 1, 3, seed=0)
    cases = {
        "build it with channels=2": lambda: backbone(torch.zeros(1, 2, 8, 8, 8)),
        "build it with ndim=2": lambda: backbone(torch.zeros(1, 1, 8, 8)),
        "use at least 8 x 4 x 4": lambda: backbone(torch.zeros(1, 1, 8, 3, 2)),
        "the mask is 1 x 2 x 2 x 3, images of 8 x 8 x 8 need 1 x 2 x 2 x 2": lambda: backbone(
            torch.zeros(1, 1, 8, 8, 8), torch.ones(1, 2, 2, 3, dtype=torch.bool)
        ),
        "use one of nano, small, base, large": lambda: build(family, "huge"),
        "use one of resenc, unet, vit": lambda: build("transformer"),
        "use 2 or 3": lambda: build(family, ndim=4),
        "use 1 or more": lambda: build(family, channels=0),
        "patch 0": lambda: build(family, patch=0),
        "use 4": lambda: build(family, patch=5),
    }
    for words, call in cases.items():
        with pytest.raises(InputError) as error:
            call()
        assert words in str(error.value)


def test_resenc_refuses_what_it_cannot_normalise():
    with pytest.raises(InputError, match="at least 9 voxels"):
        build("resenc", seed=0)(torch.zeros(1, 1, 8, 8, 8))


def test_vit_refuses_unequal_masks():
    keep = torch.ones(2, 2, 2, dtype=torch.bool)
    keep[0, 0, 0] = False
    with pytest.raises(InputError, match="3 to 4 tokens"):
        build("vit", ndim=2, seed=0)(torch.zeros(2, 1, 8, 8), keep)
    with pytest.raises(InputError, match="0 to 0 tokens"):
        build("vit", ndim=2, seed=0)(torch.zeros(2, 1, 8, 8), torch.zeros_like(keep))
