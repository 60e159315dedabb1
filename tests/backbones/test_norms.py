"""Norms as geometry, the four places as formulas, and steps that are sometimes left out."""

import math

import pytest
import torch
from torch import nn

from headwater.backbones.attention import Block, Style
from headwater.backbones.norms import HeadNorm, add, drop_path, norm_of, unit
from headwater.backbones.vit import Stack


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_rms_is_the_nearest_point_of_the_sphere():
    x = drawn(50, 12)
    y = norm_of("rms", 12, 1e-12).double()(x)
    torch.testing.assert_close(y.norm(dim=-1), torch.full((50,), math.sqrt(12), dtype=torch.float64))
    torch.testing.assert_close(norm_of("rms", 12, 1e-12).double()(7 * x), y)
    others = torch.nn.functional.normalize(drawn(200, 12, seed=1), dim=-1) * math.sqrt(12)
    assert ((x - y).norm(dim=-1) <= torch.cdist(x, others).min(1).values).all()


def test_layer_removes_the_mean_first():
    x, norm = drawn(5, 12), norm_of("layer", 12, 1e-3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)


def test_unit():
    x = drawn(20, 6)
    torch.testing.assert_close(unit(x), x / x.norm(dim=-1, keepdim=True), atol=1e-5, rtol=1e-5)
    zero = torch.zeros(3, 6, requires_grad=True)
    unit(zero).sum().backward()
    assert torch.equal(unit(zero), zero) and zero.grad.abs().max() <= 1001
    assert unit(drawn(4, 6, dtype=torch.float32).bfloat16()).dtype == torch.bfloat16
    big = torch.full((1, 4), 1e30, dtype=torch.bfloat16)
    assert torch.isfinite(unit(big / 1e15)).all()


def test_heads_of_all_scales_come_out_alike():
    y, norm = drawn(2, 4, 9, 8), HeadNorm(4, 8).double()
    nn.init.normal_(norm.gain)
    scales = torch.tensor([1e-2, 1.0, 30.0, 1e4], dtype=torch.float64).view(4, 1, 1)
    torch.testing.assert_close(norm(y * scales), norm(y), atol=1e-3, rtol=1e-3)
    row = y[1, 2, 3]
    torch.testing.assert_close(norm(y)[1, 2, 3], row / row.square().mean().add(1e-8).sqrt() * norm.gain[2, 0])
    assert norm(y.bfloat16()).dtype != torch.bfloat16  # summed exactly


def test_drop_path_keeps_the_mean_and_leaves_out_whole_images():
    torch.manual_seed(0)
    y = drop_path(torch.ones(20_000, 2, 3), 0.3)
    kinds = y.flatten(1)
    assert (kinds == kinds[:, :1]).all()  # all of an image or nothing of it
    assert set(kinds[:, 0].tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.3))}
    assert y.mean().item() == pytest.approx(1, abs=4 * math.sqrt(0.3 / 0.7 / 20_000))
    x = torch.ones(2, 3)
    assert drop_path(x, 0.0) is x


def test_a_dropped_step_is_no_step_and_costs_no_gradient():
    torch.manual_seed(0)
    x = torch.full((64, 2), float("inf"), requires_grad=True)
    y = drop_path(x, 0.9)
    assert (y == 0).any() and not torch.isnan(y).any()
    y[y == 0].sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_drop_path_grows_with_depth_and_rests_in_eval():
    stack = Stack(2, 16, 4, 2, Style(drop_path=0.3))
    assert [block.drop for block in stack.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    torch.manual_seed(0)
    plain = Stack(2, 16, 4, 2)
    plain.load_state_dict(stack.state_dict())
    x = drawn(8, 6, 16, dtype=torch.float32)
    assert torch.equal(stack.eval()(x, (2, 3)), plain(x, (2, 3)))
    stack.train()
    assert not torch.equal(stack(x, (2, 3)), stack(x, (2, 3)))


def test_a_step_in_every_place():
    x, scale, after = drawn(2, 5, 8), drawn(8, seed=1), norm_of("rms", 8).double()
    norm, matrix = norm_of("rms", 8).double(), drawn(8, 8, seed=2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(after.weight)

    def part(z):
        return z @ matrix

    def length_one(z):
        return z / z.norm(dim=-1, keepdim=True)

    x_unit = length_one(x)
    target = length_one(x_unit @ matrix)
    cases = [
        (add(x, part, norm), x + norm(x) @ matrix),
        (add(x, part, norm, scale=scale), x + scale * (norm(x) @ matrix)),
        (add(x, part, norm, place="post"), norm(x + x @ matrix)),
        (add(x, part, norm, place="peri", after=after), x + after(norm(x) @ matrix)),
        (
            add(x_unit, part, nn.Identity(), place="ngpt", scale=scale),
            length_one(x_unit + scale.abs() * (target - x_unit)),
        ),
    ]
    for ours, formula in cases:
        torch.testing.assert_close(ours, formula, atol=1e-5, rtol=1e-5)


def test_ngpt_tokens_never_leave_the_sphere():
    stack, x = Stack(3, 24, 3, 2, Style(place="ngpt", registers=2)), drawn(2, 12, 24, dtype=torch.float32) * 5
    seen = []
    for block in stack.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    stack(x, (2, 3, 2))
    assert len(seen) == 6
    for tokens in seen:
        torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 14), atol=1e-4, rtol=0)
    assert (seen[-1] - seen[0]).norm() > 0.1  # and they do move
    assert all(torch.equal(b.scale_attention, torch.full((24,), 1 / 3)) for b in stack.blocks)


def test_what_a_block_of_each_place_has():
    def names(**style):
        return {name.split(".")[0] for name, _ in Block(8, 2, Style(**style)).named_parameters()} - {"attention", "mix"}

    assert names() == names(place="post") == {"norm_attention", "norm_mix"}
    assert names(place="peri") == {"norm_attention", "norm_mix", "after_attention", "after_mix"}
    assert names(place="ngpt") == {"scale_attention", "scale_mix"}
    assert names(layer_scale=0.1) == {"norm_attention", "norm_mix", "scale_attention", "scale_mix"}
    scaled = Block(8, 2, Style(layer_scale=0.1))
    assert torch.equal(scaled.scale_mix, torch.full((8,), 0.1))


def test_layer_scale_starts_a_block_near_the_identity():
    torch.manual_seed(0)
    x = drawn(1, 6, 16, dtype=torch.float32)
    step = [(Block(16, 2, Style(layer_scale=scale))(x) - x).norm() for scale in (1e-5, 1e-1)]
    assert 0 < step[0] < 1e-3 * step[1].clamp_min(0.1)


def test_a_blank_patch_does_not_blow_up_the_sphere():
    """All tokens zero: with no bias anywhere the gradients stay finite and within reach of a step."""
    stack, x = Stack(2, 16, 2, 2, Style(place="ngpt", kernels="mixed")), torch.zeros(1, 6, 16, requires_grad=True)
    y = stack(x, (2, 3))
    (y * drawn(1, 6, 16, dtype=torch.float32)).sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in stack.parameters())
