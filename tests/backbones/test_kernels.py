"""Kernels of heads against their formulas, written dense, one query at a time in float64, and against those of `flow`."""

import math

import pytest
import torch

from headwater.backbones.kernels import COSINE_BETA, KERNELS, attend, first_beta, per_head
from headwater.backbones.positions import angles, coordinates, rotate
from headwater.errors import InputError
from headwater.flow import kernels as flow

GRID, HEADS = (3, 4), 3
every = pytest.mark.parametrize("kernel", KERNELS)


def drawn(n=12, width=8, heads=HEADS, seed=0):
    """q, k, v, one beta per head and a bias, float64, each wants a gradient."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, heads, n, width)] * 3 + [(heads, 1, 1), (1, heads, n, n)]
    out = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    out[3] = out[3].abs() * 0.3 + 0.1
    return [x.requires_grad_() for x in out]


def by_hand(kernel, q, k, v, beta, turn=None, bias=None):
    """One number after another: the weights of query i are a list over keys j."""
    images = []
    for b in range(q.shape[0]):
        heads = []
        for h in range(q.shape[1]):
            at, rows, n = beta[h, 0, 0], [], k.shape[2]
            for i in range(n):
                weights, total = [], 0
                for j in range(n):
                    a, c = q[b, h, i], k[b, h, j]
                    if kernel == "linear":
                        phi = [torch.where(x > 0, x + 1, x.exp()) for x in (a * at.sqrt(), c * at.sqrt())]
                        total = total + phi[0] @ phi[1]
                        weights.append(turned(phi[0], turn, i) @ turned(phi[1], turn, j))
                        continue
                    if kernel == "cosine":
                        a, c = (x / (x @ x + 1e-6).sqrt() for x in (a, c))
                    s = at * (turned(a, turn, i) @ turned(c, turn, j)) + (0 if bias is None else bias[0, h, i, j])
                    if kernel == "sigmoid":
                        weights.append(1 / (1 + n * (-s).exp()))
                    elif kernel == "relu":
                        weights.append(torch.maximum(s, s * 0) / n)
                    else:
                        weights.append(s.exp())
                        total = total + s.exp()
                total = total if kernel in ("softmax", "cosine", "linear") else 1
                rows.append(sum(w / total * v[b, h, j] for j, w in enumerate(weights)))
            heads.append(torch.stack(rows))
        images.append(torch.stack(heads))
    return torch.stack(images)


def turned(x, turn, place):
    """Pair k = entries (k, P + k) as a complex number, times exp(i angle)."""
    if turn is None:
        return x
    pairs = turn.shape[-1]
    z = torch.complex(x[:pairs], x[pairs : 2 * pairs]) * torch.exp(1j * turn[place])
    return torch.cat([z.real, z.imag, x[2 * pairs :]])


def agree(first, second, wanted, atol):
    """The same numbers, and the same gradients with respect to everything that has one."""
    torch.testing.assert_close(first, second, atol=atol, rtol=atol)
    weight = torch.randn(first.shape, generator=torch.Generator().manual_seed(9), dtype=first.dtype)
    ours, theirs = (torch.autograd.grad((y * weight).sum(), wanted) for y in (first, second))
    for a, b in zip(ours, theirs, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, atol=atol, rtol=atol)


@every
@pytest.mark.parametrize("turning", [False, True])
def test_formula(kernel, turning):
    q, k, v, beta, bias = drawn()
    turn = angles(coordinates(GRID), 8).double() if turning else None
    cos, sin = (None, None) if turn is None else (turn.cos()[None, None], turn.sin()[None, None])
    bias = None if kernel == "linear" else bias
    wanted = [x for x in (q, k, v, beta, bias) if x is not None]
    agree(attend(q, k, v, beta, kernel, cos, sin, bias), by_hand(kernel, q, k, v, beta, turn, bias), wanted, 1e-10)


@every
def test_as_in_the_room_of_flow(kernel):
    """One temperature for all heads there, one per head here."""
    q, k, v, *_ = drawn()
    beta = torch.full((1, 1, 1), 0.4, dtype=torch.float64)
    tolerance = 1e-5 if kernel == "cosine" else 1e-10  # its epsilon is ours alone
    agree(attend(q, k, v, beta, kernel), flow.attend(q, k, v, beta=0.4, kernel=kernel), [q, k, v], tolerance)


def test_sigmoid_heads_start_with_weights_that_sum_to_about_one():
    """Which is what -log n is for: without it the sum grows with the number of tokens."""
    v, beta = torch.ones(1, 1, 1000, 4), torch.ones(1, 1, 1)
    zero = torch.zeros(1, 1, 1000, 4)
    torch.testing.assert_close(attend(zero, zero, v, beta, "sigmoid"), v * 1000 / 1001)


@every
def test_half_precision(kernel):
    q, k, v, beta, _ = drawn(n=60)
    exact = attend(q, k, v, beta, kernel)
    y = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), beta.float(), kernel)
    assert y.dtype == torch.bfloat16 and (y.double() - exact).norm() < 0.02 * exact.norm()


@every
def test_blank_images_and_huge_scores_have_finite_gradients(kernel):
    """A crop of zeros gives zero queries and keys: what divides them must not blow up on the way back."""
    for factor in (0.0, 300.0):
        q, k, v, beta, _ = (x.detach().float() for x in drawn())
        inputs = [(x * factor).requires_grad_() for x in (q, k, v)]
        y = attend(*inputs, beta, kernel)
        grads = torch.autograd.grad(y.square().sum() + y.sum(), inputs)
        assert torch.isfinite(y).all() and all(torch.isfinite(g).all() for g in grads)
        if not factor:
            assert max(g.abs().max() for g in grads) < 1e4


@every
def test_the_order_of_keys_does_not_matter(kernel):
    q, k, v, beta, _ = drawn()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(attend(q, k[:, :, order], v[:, :, order], beta, kernel), attend(q, k, v, beta, kernel))


def test_kernels_differ():
    q, k, v, beta, _ = drawn()
    answers = [attend(q, k, v, beta, kernel) for kernel in KERNELS]
    for i, a in enumerate(answers):
        assert all((a - b).norm() > 0.05 * a.norm() for b in answers[:i])


def test_kernel_of_every_head():
    assert per_head("relu", 3) == ("relu",) * 3
    assert per_head(("relu", "softmax"), 2) == ("relu", "softmax")
    assert per_head("mixed", 5) == KERNELS and per_head("mixed", 2) == KERNELS[:2]
    for heads in (5, 6, 12, 16):
        named = per_head("mixed", heads)
        counts = [named.count(kernel) for kernel in KERNELS]
        assert max(counts) - min(counts) <= 1 and sorted(named, key=KERNELS.index) == list(named)


@pytest.mark.parametrize(
    ("kernels", "heads", "words"),
    [
        ("sotfmax", 4, "no head kernel 'sotfmax': use 'softmax'"),
        (("softmax", "lineer"), 2, "use 'linear'"),
        (("softmax", "relu"), 3, r"2 head kernels for 3 heads: .* \('softmax', 'relu', 'softmax'\)"),
        ((), 1, r"0 head kernels for 1 heads: .* \('softmax',\)"),
        (("relu",) * 3, 2, r"3 head kernels for 2 heads: .* \('relu', 'relu'\)"),
    ],
)
def test_heads_that_cannot_be(kernels, heads, words):
    with pytest.raises(InputError, match=words):
        per_head(kernels, heads)


def test_first_temperature():
    assert first_beta("softmax", 64) == pytest.approx(1 / math.sqrt(64)) and first_beta("cosine", 64) == COSINE_BETA


def test_linear_heads_never_hold_a_matrix_of_weights():
    """20 000 tokens would need 1.6 GB."""
    q = torch.randn(1, 1, 20_000, 8, generator=torch.Generator().manual_seed(0))
    y = attend(q, q, torch.ones_like(q), torch.ones(1, 1, 1), "linear")
    torch.testing.assert_close(y, torch.ones_like(q), atol=1e-4, rtol=0)


def test_turned_linear_heads_are_divided_by_what_stays_positive():
    """Rotated features may have products below zero; the sum that divides does not see the rotation."""
    q, k, v, beta, _ = drawn()
    turn = angles(coordinates(GRID), 8).double()[None, None] * 30
    y = attend(q, k, v, beta, "linear", turn.cos(), turn.sin())
    phi_q, phi_k = (torch.nn.functional.elu(x * beta.sqrt()) + 1 for x in (q, k))
    weights = rotate(phi_q, turn.cos(), turn.sin()) @ rotate(phi_k, turn.cos(), turn.sin()).mT
    assert weights.min() < 0
    torch.testing.assert_close(y, weights @ v / (phi_q @ phi_k.mT).sum(-1, keepdim=True))
