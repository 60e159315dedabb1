"""Blocks against plain arithmetic written another way and against torch's own layers; heads that differ; how weights start."""

import math

import pytest
import torch
from torch import nn

from headwater.backbones.attention import GELU, INITIAL, MIXES, Attention, Block, Style, SwiGLU, initialise
from headwater.backbones.kernels import KERNELS, LARGEST_BETA, attend
from headwater.backbones.norms import EPSILON
from headwater.backbones.positions import angles, coordinates
from headwater.backbones.vit import Stack
from headwater.errors import InputError


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def awake(module):
    """Every weight far from where it starts: gains and biases too."""
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, 0.3, 0.3)
    return module


def turned(x, turn):
    """x (N, E) with pair k = entries (k, P + k) multiplied by exp(i angle), angles in float32 as in the network."""
    pairs = turn.shape[-1]
    z = torch.complex(x[:, :pairs], x[:, pairs : 2 * pairs]) * torch.complex(turn.cos(), turn.sin())
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
    a, b = (plain_norm(block.norm_mix, x) @ block.mix.gate.weight.T + block.mix.gate.bias).chunk(2, -1)
    return x + (a / (1 + torch.exp(-a)) * b) @ block.mix.out.weight.T + block.mix.out.bias


@pytest.mark.parametrize(("grid", "width", "heads"), [((3, 4), 24, 3), ((2, 3, 4), 32, 2), ((2, 2, 3), 42, 3)])
def test_stack_is_plain_arithmetic(grid, width, heads):
    """The default style: fused softmax, rotary, RMSNorm before, SwiGLU. Forward and backward."""
    stack = awake(Stack(len(grid), width, 2, heads).double())
    x = drawn(2, math.prod(grid), width, dtype=torch.float64).requires_grad_()
    turn = angles(coordinates(grid), width // heads)
    expected = x
    for block in stack.blocks:
        expected = plain_block(block, expected, turn)
    wanted = [x, *stack.parameters()]
    y, weight = stack(x, grid), drawn(*x.shape, seed=1, dtype=torch.float64)
    torch.testing.assert_close(y, expected, atol=1e-9, rtol=1e-9)
    for ours, theirs in zip(*(torch.autograd.grad((z * weight).sum(), wanted) for z in (y, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_kept_tokens_keep_their_places():
    """Tokens dropped by hand, in a network that gets their places, are what `kept` computes."""
    torch.manual_seed(0)
    stack, kept = Stack(2, 16, 1, 2), torch.tensor([[1, 4, 5], [0, 2, 3]])
    x = torch.randn(2, 3, 16)
    turn = angles(coordinates((2, 3)), 8)
    for image, places, y in zip(x, kept, stack(x, (2, 3), kept), strict=True):
        torch.testing.assert_close(y[None], plain_block(stack.blocks[0], image[None], turn[places]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("bias", [True, False])
def test_torch_has_the_same_layer(first, bias):
    """Layer norm, GELU and biases are torch.nn.TransformerEncoderLayer, norm before or after the sum; forward and backward."""
    style = Style(norm="layer", place="pre" if first else "post", mix="gelu", qkv_bias=True, positions="none", hidden=40)
    ours = awake(Block(24, 3, style))
    theirs = nn.TransformerEncoderLayer(24, 3, 40, 0.0, "gelu", EPSILON, batch_first=True, norm_first=first)
    names = {
        "attention.qkv.weight": "self_attn.in_proj_weight",
        "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.out": "self_attn.out_proj",
        "mix.into": "linear1",
        "mix.out": "linear2",
        "norm_attention": "norm1",
        "norm_mix": "norm2",
    }

    def renamed(name):
        old = next(old for old in names if name.startswith(old))
        return name.replace(old, names[old])

    theirs.load_state_dict({renamed(name): p for name, p in ours.state_dict().items()})
    if not bias:
        for module in (ours.attention.qkv.bias, theirs.self_attn.in_proj_bias):
            nn.init.zeros_(module)
    results = []
    for block in (ours, theirs):
        x = drawn(2, 7, 24).requires_grad_()
        y = block(x)
        (y * drawn(2, 7, 24, seed=1)).sum().backward()
        results.append((y, x.grad, {name: p.grad for name, p in block.named_parameters()}))
    (y, dx, grads), (y_, dx_, grads_) = results
    torch.testing.assert_close(y, y_, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dx, dx_, atol=1e-5, rtol=1e-5)
    assert len(grads) == len(grads_)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, grads_[renamed(name)], atol=2e-5, rtol=1e-5)


def test_without_biases_of_queries_keys_and_values():
    """The same layer with and without: a bias of zero is no bias."""
    torch.manual_seed(0)
    bare, biased = Attention(24, 3), Attention(24, 3, Style(qkv_bias=True))
    assert bare.qkv.bias is None
    biased.load_state_dict(bare.state_dict() | {"qkv.bias": torch.zeros(72)})
    x = drawn(1, 5, 24)
    torch.testing.assert_close(bare(x), biased(x))


MIXED = ("relu", "softmax", "cosine", "relu", "linear", "sigmoid")  # in no order, one of them twice


@pytest.mark.parametrize("kernels", [MIXED, ("softmax",) * 6, "mixed"], ids=["tuple", "softmax", "mixed"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_heads_that_differ_are_themselves(kernels, qk_norm):
    """Every head alone, by its kernel, brought to one scale and put at its place. Forward and backward, float64."""
    layer = awake(Attention(48, 6, Style(kernels=kernels, normed=True, qk_norm=qk_norm)).double())
    layer.log_beta.data = torch.linspace(-1, 1, 6).double()
    x, turn = drawn(2, 5, 48, dtype=torch.float64).requires_grad_(), angles(coordinates((1, 5)), 8).double()
    cos, sin = turn.cos()[None, None], turn.sin()[None, None]
    q, k, v = (part.unflatten(-1, (6, 8)) for part in (x @ layer.qkv.weight.T).chunk(3, -1))
    if qk_norm:
        q, k = plain_norm(layer.norm_q, q), plain_norm(layer.norm_k, k)
    heads = []
    for h in range(6):
        mine = [z[:, :, h].unsqueeze(1) for z in (q, k, v)]
        y = attend(*mine, layer.log_beta[h].exp().view(1, 1, 1), layer.kernels[h], cos, sin)[:, 0]
        heads.append(y / (y.square().mean(-1, keepdim=True) + 1e-8).sqrt() * layer.norm_heads.gain[h])
    expected = torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias
    y, weight, wanted = layer(x, cos, sin), drawn(2, 5, 48, seed=1, dtype=torch.float64), [x, *layer.parameters()]
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-10)
    for ours, theirs in zip(*(torch.autograd.grad((z * weight).sum(), wanted) for z in (y, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)


def test_relative_bias_reaches_the_right_head():
    layer = awake(Attention(32, 4, Style(kernels=("sigmoid", "softmax", "sigmoid", "relu"))).double())
    x, bias = drawn(1, 5, 32, dtype=torch.float64), drawn(1, 4, 5, 5, seed=1, dtype=torch.float64)
    for h in range(4):
        silent = layer.norm_heads.gain.data.clone()
        layer.norm_heads.gain.data.zero_()[h] = silent[h]  # this head alone speaks
        one = torch.zeros_like(bias)
        one[:, h] = bias[:, h]
        torch.testing.assert_close(layer(x, bias=one), layer(x, bias=bias))
        assert (layer(x, bias=bias) - layer(x)).norm() > 1e-3
        layer.norm_heads.gain.data = silent


def test_all_softmax_heads_are_one_fused_call(monkeypatch):
    calls, fused = [], nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(args[0].shape)
        return fused(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counted)
    x = drawn(2, 5, 24)
    for style in (Style(), Style(kernels="softmax", qk_norm=True), Style(kernels=("softmax",) * 3), Style(normed=True)):
        Attention(24, 3, style)(x)
    assert calls == [(2, 3, 5, 8)] * 4


@pytest.mark.parametrize("kernels", ["mixed", "sigmoid", MIXED])
def test_the_matched_control(kernels):
    """Same names, same shapes, same first weights; only temperatures of cosine heads start elsewhere."""
    style = Style(kernels=kernels, place="peri", registers=2, layer_scale=0.1, qk_norm=True)
    stacks = []
    for one in (style, style.control()):
        torch.manual_seed(0)
        stacks.append(Stack(2, 48, 2, 6, one))
    ours, control = (stack.state_dict() for stack in stacks)
    assert [(name, p.shape) for name, p in ours.items()] == [(name, p.shape) for name, p in control.items()]
    assert sum(p.numel() for p in stacks[0].parameters()) == sum(p.numel() for p in stacks[1].parameters())
    assert all(torch.equal(p, control[name]) for name, p in ours.items() if not name.endswith("log_beta"))
    assert set(stacks[1].blocks[0].attention.kernels) == {"softmax"}
    x = drawn(1, 4, 48)
    assert not torch.allclose(stacks[0](x, (2, 2)), stacks[1](x, (2, 2)))
    assert style.control().control() == style.control()


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_weight_of_every_kernel_learns(kernel):
    block = Block(24, 3, Style(kernels=kernel, normed=True))
    (block(drawn(2, 6, 24)) * drawn(2, 6, 24, seed=1)).sum().backward()
    for name, p in block.named_parameters():
        assert torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


def test_temperature_has_a_ceiling():
    layer, x = Attention(16, 2, Style(kernels="cosine")), drawn(1, 5, 16)
    layer.log_beta.data.fill_(math.log(LARGEST_BETA))
    y = layer(x)
    layer.log_beta.data.fill_(20.0)
    assert torch.allclose(layer(x), y, atol=1e-5) and torch.isfinite(layer(1e4 * x)).all()


def test_shuffled_tokens_give_shuffled_answers():
    torch.manual_seed(0)
    block, x, order = Block(24, 2), torch.randn(1, 6, 24), torch.tensor([3, 1, 0, 5, 4, 2])
    turn = angles(coordinates((2, 3)), 12)[None, None]
    shuffled = block(x[:, order], turn[:, :, order].cos(), turn[:, :, order].sin())
    torch.testing.assert_close(shuffled, block(x, turn.cos(), turn.sin())[:, order])


def test_feed_forward_parts_cost_the_same():
    assert SwiGLU(192).out.in_features == 512 and SwiGLU(768).out.in_features == 2048
    gated, plain = (sum(p.numel() for p in MIXES[name](768).parameters()) for name in ("swiglu", "gelu"))
    assert gated == pytest.approx(plain, rel=1e-3)
    assert SwiGLU(8, 10).gate.out_features == 20 and GELU(8, 10).into.out_features == 10


# how weights start


def test_small_branches_at_the_start():
    """Whatever the depth, a stack starts as the identity plus a little: the sum of steps does not grow with depth."""
    x, grid, moved = drawn(2, 24, 96), (4, 6), []
    for depth in (2, 16):
        torch.manual_seed(0)
        moved.append(((Stack(2, 96, depth, 4)(x, grid) - x).norm() / x.norm()).item())
    assert 0 < moved[1] < 0.5 and moved[1] < 3 * moved[0]


def test_orthogonal_heads_start_in_different_subspaces():
    block = Block(32, 4)
    initialise(block, 3, "orthogonal")
    for weight in block.attention.qkv.weight.chunk(3):
        torch.testing.assert_close(weight @ weight.T, torch.eye(32), atol=1e-5, rtol=0)
    out = block.attention.out.weight
    torch.testing.assert_close(out @ out.T, torch.eye(32) / 6, atol=1e-5, rtol=0)
    assert block.mix.out.weight.std() < 0.02


def test_mimetic_products_look_like_those_of_trained_networks():
    """W_q' W_k of a head near the identity, W_out W_v near minus the identity: on the diagonal, that is."""
    torch.manual_seed(0)
    block = Block(48, 2)
    initialise(block, 3, "mimetic")
    q, k, v = block.attention.qkv.weight.detach().chunk(3)
    product = block.attention.out.weight.detach() @ v
    diagonal = product.diagonal().mean()
    assert diagonal == pytest.approx(-0.4, abs=0.1) and product.flatten()[1:].view(47, 49)[:, :-1].std() < 0.1
    for query, key in zip(q.chunk(2), k.chunk(2), strict=True):
        score = query.T @ key  # of half the rank: about half the diagonal or more
        assert score.diagonal().mean() > 0.25 > 2 * score.flatten()[1:].view(47, 49)[:, :-1].std()


@pytest.mark.parametrize("initial", INITIAL)
@pytest.mark.parametrize("place", ["pre", "ngpt"])
def test_first_weights_are_drawn_from_torchs_generator_and_learn(initial, place):
    stacks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        stacks.append(Stack(2, 24, 2, 3, Style(initial=initial, place=place)))
    x = drawn(2, 6, 24)
    first, again, other = (stack(x, (2, 3)) for stack in stacks)
    assert torch.equal(first, again) and not torch.allclose(first, other)
    (first * drawn(2, 6, 24, seed=1)).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in stacks[0].parameters())


# settings that cannot be


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernels": "sofmax"}, "no head kernel 'sofmax': use 'softmax'"),
        ({"kernels": ("softmax", "rely")}, "use 'relu'"),
        ({"positions": "rotory"}, "no positions 'rotory': use 'rotary'"),
        ({"norm": "batch"}, "no norm 'batch': use"),
        ({"place": "prepost"}, "no place 'prepost': use"),
        ({"mix": "gelus"}, "use 'gelu'"),
        ({"initial": "zero"}, "no initial 'zero': use"),
        ({"pooled": "max"}, "no pooled 'max': use"),
        ({"pooled": "class"}, "use registers=1"),
        ({"positions": "relative", "kernels": "mixed"}, "linear heads .* use positions='rotary'"),
        ({"place": "ngpt", "layer_scale": 0.1}, "use layer_scale=0"),
        ({"drop_path": 1.0}, "use 0 to 0.9"),
        ({"registers": -1}, "0 or more"),
        ({"epsilon": 0.0}, "epsilon is positive"),
    ],
)
def test_style_refuses(settings, words):
    with pytest.raises(InputError, match=words) as error:
        Style(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("width", "heads", "words"),
    [(10, 3, "use 2 heads, or width 9"), (96, 10, "use 8 heads, or width 100"), (8, 0, "use 1 heads"), (6, 40, "use 6 heads")],
)
def test_width_that_does_not_split(width, heads, words):
    with pytest.raises(InputError, match=words):
        Attention(width, heads)


def test_heads_and_their_kernels_match():
    with pytest.raises(InputError, match="2 head kernels for 3 heads"):
        Attention(24, 3, Style(kernels=("softmax", "relu")))
