"""Blocks against plain arithmetic written another way: complex rotations, explicit softmax, one image and head at a time."""

import math

import pytest
import torch
from torch import nn

from headwater.backbones.attention import Attention, Block, SwiGLU
from headwater.backbones.positions import angles, coordinates, rotate
from headwater.backbones.vit import Stack
from headwater.errors import InputError


def turned(x, turn):
    """x (N, E) with pair k = entries (k, P + k) multiplied by exp(i angle)."""
    pairs = turn.shape[-1]
    z = torch.complex(x[:, :pairs], x[:, pairs : 2 * pairs]) * torch.polar(torch.ones_like(turn), turn)
    return torch.cat([z.real, z.imag, x[:, 2 * pairs :]], 1)


def plain_attention(layer, x, turn):
    out = []
    for image in x:
        q, k, v = (image @ w.T for w in layer.qkv.weight.chunk(3))
        heads = []
        for h in range(layer.heads):
            part = slice(h * q.shape[1] // layer.heads, (h + 1) * q.shape[1] // layer.heads)
            scores = turned(q[:, part], turn) @ turned(k[:, part], turn).T / math.sqrt(part.stop - part.start)
            heads.append(torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True) @ v[:, part])
        out.append(torch.cat(heads, 1) @ layer.out.weight.T + layer.out.bias)
    return torch.stack(out)


def plain_norm(layer, x):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + layer.eps) * layer.weight


def plain_block(block, x, turn):
    x = x + plain_attention(block.attention, plain_norm(block.norm_attention, x), turn)
    a, b = (plain_norm(block.norm_mix, x) @ block.mix.gate.weight.T).chunk(2, -1)
    return x + (a / (1 + torch.exp(-a)) * b) @ block.mix.out.weight.T + block.mix.out.bias


@pytest.mark.parametrize(("grid", "width", "heads"), [((3, 4), 24, 3), ((2, 3, 4), 32, 2), ((2, 2, 3), 42, 3)])
def test_stack_is_plain_arithmetic(grid, width, heads):
    torch.manual_seed(0)
    stack = Stack(len(grid), width, 2, heads).double()
    for p in stack.parameters():
        nn.init.normal_(p, 0.3, 0.3)
    x = torch.randn(2, math.prod(grid), width, dtype=torch.float64)
    turn = angles(coordinates(grid), width // heads).double()
    expected = x
    for block in stack.blocks:
        expected = plain_block(block, expected, turn)
    torch.testing.assert_close(stack(x, grid), expected, atol=1e-6, rtol=1e-6)


def test_kept_tokens_keep_their_places():
    """Tokens dropped by hand, in a network that gets their places, are what `kept` computes."""
    torch.manual_seed(0)
    stack, kept = Stack(2, 16, 1, 2), torch.tensor([[1, 4, 5], [0, 2, 3]])
    x = torch.randn(2, 3, 16)
    turn = angles(coordinates((2, 3)), 8)
    for image, places, y in zip(x, kept, stack(x, (2, 3), kept), strict=True):
        torch.testing.assert_close(y[None], plain_block(stack.blocks[0], image[None], turn[places]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("d", [2, 3])
def test_scores_depend_on_differences_of_places_alone(d):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 32, generator=generator, dtype=torch.float64)
    a, b = torch.randint(0, 20, (2, 64, d), generator=generator)
    shift = torch.randint(-50, 50, (64, d), generator=generator)

    def score(p, r):
        turns = [angles(places[None].double(), 32)[:, None] for places in (p, r)]
        left, right = (rotate(v.expand(1, 1, 64, 32), t.cos(), t.sin()) for v, t in zip((q, k), turns, strict=True))
        return (left * right).sum(-1)

    torch.testing.assert_close(score(a, b), score(a + shift, b + shift), atol=1e-4, rtol=1e-4)
    assert (score(a, b) - score(a, b + 1)).abs().max() > 0.1
    for axis in range(d):  # every axis is seen
        step = torch.zeros(d, dtype=torch.long)
        step[axis] = 1
        assert (score(a, b) - score(a, b + step)).abs().max() > 0.05


def test_rotation_keeps_lengths():
    x = torch.randn(2, 3, 12, 20)
    turn = angles(coordinates((2, 2, 3)), 20)[None, None]
    torch.testing.assert_close(rotate(x, turn.cos(), turn.sin()).norm(dim=-1), x.norm(dim=-1))


def test_coordinates_follow_the_flattened_grid():
    grid = (2, 3, 4)
    index = torch.arange(24).view(grid)
    assert all(int(index[tuple(place)]) == n for n, place in enumerate(coordinates(grid).tolist()))
    assert coordinates((5,)).shape == (5, 1)


def test_shuffled_tokens_give_shuffled_answers():
    torch.manual_seed(0)
    block, x, order = Block(24, 2), torch.randn(1, 6, 24), torch.tensor([3, 1, 0, 5, 4, 2])
    turn = angles(coordinates((2, 3)), 12)[None, None]
    shuffled = block(x[:, order], turn[:, :, order].cos(), turn[:, :, order].sin())
    torch.testing.assert_close(shuffled, block(x, turn.cos(), turn.sin())[:, order])


def test_gate_is_eight_thirds_wide():
    assert SwiGLU(192).out.in_features == 512 and SwiGLU(768).out.in_features == 2048


def test_width_that_does_not_split():
    with pytest.raises(InputError, match="use width 9"):
        Attention(10, 3)
    with pytest.raises(InputError, match="use 1 heads"):
        Stack(3, 8, 1, 4)
