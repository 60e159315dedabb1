"""Attention as a velocity: equations, symmetries, faults, energy."""

import math

import pytest
import torch

from headwater.flow import sphere
from headwater.flow.integrate import solve
from headwater.flow.kernels import KERNELS
from headwater.flow.velocity import Attention, InTime, Kuramoto


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def rotation(d: int, seed: int = 3) -> torch.Tensor:
    return torch.linalg.qr(drawn(seed, d, d))[0]


def test_softmax_with_heads_against_loops():
    Q, K, V, x = drawn(0, 2, 3, 4), drawn(1, 2, 3, 4), drawn(2, 2, 4, 4), sphere.uniform(5, 4, random(3), batch=2)
    found, one = Attention(1.3, Q, K, V)(0.0, x), x[1]
    for i in range(5):
        pull = torch.zeros(4, dtype=torch.float64)
        for h in range(2):
            raw = torch.stack([torch.exp(1.3 * (Q[h] @ one[i]) @ (K[h] @ one[j])) for j in range(5)])
            pull += sum(raw[j] / raw.sum() * V[h] @ one[j] for j in range(5))
        assert torch.allclose(found[1, i], pull - (pull @ one[i]) * one[i], atol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalised", [True, False])
def test_tangent_and_equivariant(kernel, normalised):
    v, x = Attention(2.0, kernel=kernel, normalised=normalised), sphere.uniform(30, 5, random(), batch=2)
    out = v(0.0, x)
    assert sphere.inner(x, out).abs().max() < 1e-15 * max(1.0, float(out.abs().max()))
    order = torch.randperm(30, generator=random(1))
    assert torch.allclose(v(0.0, x[:, order]), out[:, order], atol=1e-14)
    if kernel != "linear":  # its feature map acts on coordinates, so it has no rotations
        R = rotation(5)
        assert torch.allclose(v(0.0, x @ R.T), out @ R.T, atol=1e-13)
    single = v(0.0, x.float())
    assert single.dtype == torch.float32 and (single - out).abs().max() < 3e-6 * max(1.0, float(out.abs().max()))


@pytest.mark.parametrize("mask", ["causal", 2])
def test_a_mask_hides(mask):
    x, place = sphere.uniform(8, 3, random()), torch.arange(8)
    moved = x.clone()
    moved[0, 7] = -moved[0, 7]
    blind = place < 7 if mask == "causal" else place < 5
    v = Attention(1.5, mask=mask)
    assert torch.equal(v(0.0, x)[0, blind], v(0.0, moved)[0, blind])
    assert not torch.equal(v(0.0, x)[0, ~blind], v(0.0, moved)[0, ~blind])


def test_weights_in_time_constant_per_layer_and_function():
    x, V = sphere.uniform(6, 3, random()), [drawn(s, 3, 3) for s in range(3)]
    layered = Attention(1.0, V=V, duration=0.5)
    assert layered.breaks == (0.5, 1.0)
    for t, layer in ((-1.0, 0), (0.0, 0), (0.499, 0), (0.5, 1), (1.0, 2), (9.0, 2)):
        assert torch.equal(layered(t, x), Attention(1.0, V=V[layer])(t, x))
    turning = Attention(1.0, Q=lambda t: V[0] + t * V[1])
    assert torch.equal(turning(0.3, x), Attention(1.0, Q=V[0] + 0.3 * V[1])(0.0, x))


def test_parameters_are_found_and_learn():
    V = torch.nn.Parameter(torch.eye(3, dtype=torch.float64))
    v = Attention(1.0, V=[V, drawn(0, 3, 3)], Q=torch.nn.Parameter(drawn(1, 2, 3)), K=drawn(2, 2, 3))
    assert len(list(v.parameters())) == 2
    v(0.0, sphere.uniform(4, 3, random())).square().sum().backward()
    assert V.grad.abs().max() > 0


@pytest.mark.parametrize("fused", [True, False])
def test_derivatives_reverse_and_forward(fused):
    v, x = Attention(1.2, fused=fused), sphere.uniform(5, 3, random())

    def extended(y: torch.Tensor) -> torch.Tensor:
        return v(0.0, sphere.project(y))

    direction, h = drawn(1, 1, 5, 3), 1e-6
    slope = (extended(x + h * direction) - extended(x - h * direction)) / (2 * h)
    reverse = torch.autograd.functional.jacobian(extended, x).flatten(3).flatten(0, 2) @ direction.flatten()
    assert torch.allclose(reverse, slope.flatten(), atol=1e-8)
    if not fused:
        forward = torch.func.jvp(extended, (x,), (direction,))[1]
        batched = torch.func.vmap(lambda u: torch.func.jvp(extended, (x,), (u,))[1])(direction[None])[0]
        assert torch.allclose(forward, slope, atol=1e-8) and torch.allclose(batched, forward, atol=1e-15)


def test_bad_input_is_named():
    x = sphere.uniform(4, 3, random())
    faults = [
        (lambda: Attention(1.0)(0.0, 1.1 * x), "off the unit sphere"),
        (lambda: Attention(1.0)(0.0, math.nan * x), "NaN"),
        (lambda: Attention(1.0, space="flat")(0.0, math.inf * x), "NaN or infinity"),
        (lambda: Attention(1.0)(0.0, x[..., :1]), "width 2"),
        (lambda: Attention(1.0, V=torch.eye(4).double())(0.0, x), "V: shape"),
        (lambda: Attention(1.0, V=torch.ones(2, 3).double())(0.0, x), "V: maps"),
        (lambda: Attention(1.0, Q=torch.ones(2, 3).double())(0.0, x), "do not match"),
        (lambda: Attention(math.nan), "finite"),
        (lambda: Attention(-1.0, kernel="linear"), "linear"),
        (lambda: Attention(1.0, kernel="tanh"), "kernel"),
        (lambda: Attention(1.0, mask="window"), "mask"),
        (lambda: Attention(1.0, mask=torch.zeros(4, 4, dtype=torch.bool)), "True in each row"),
        (lambda: Attention(1.0, V=[]), "empty"),
        (lambda: InTime(torch.tensor([[math.nan]])), "NaN"),
        (lambda: Attention(1e4, normalised=False)(0.0, x), "largest usable beta"),
        (lambda: Attention(1e4).energy(x), "largest usable"),
    ]
    for act, word in faults:
        with pytest.raises(ValueError, match=word):
            act()


def test_kuramoto_is_attention_at_beta_zero_and_the_equation_of_the_angles():
    theta, omega = 6 * torch.rand(2, 9, generator=random(), dtype=torch.float64), drawn(1, 9)
    x = sphere.circle(theta)
    for normalised in (True, False):
        assert torch.allclose(Attention(0.0, normalised=normalised)(0.0, x), Kuramoto()(0.0, x), atol=1e-15)
    v = Kuramoto(1.7, omega)(0.0, x)
    rate = x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0]
    expected = omega - 1.7 * (theta[:, :, None] - theta[:, None]).sin().mean(-1)
    assert torch.allclose(rate, expected, atol=1e-14)
    assert torch.allclose(Kuramoto().order(x) ** 2, 1 - sphere.spread(x), atol=1e-15)


def test_kuramoto_locks_where_theory_says():
    """Two oscillators: the difference settles at asin(2 w / coupling) for frequencies +-w, coupling > 2 w."""
    v, x = Kuramoto(1.0, torch.tensor([0.3, -0.3], dtype=torch.float64)), sphere.circle(torch.zeros(1, 2, dtype=torch.float64))
    theta = sphere.angle(solve(v, x, (0.0, 60.0), step=0.1).end)[0]
    assert abs(float(theta[0] - theta[1]) - math.asin(0.6)) < 1e-10


def rates(v: Attention, x: torch.Tensor) -> torch.Tensor:
    """dE/dt as the dissipation identity gives it."""
    size = v(0.0, x).square().sum(-1)
    if not v.normalised:
        return size.mean(1)
    z = (v.beta * x @ x.transpose(1, 2)).exp().sum(-1)
    return (z * size).sum(1) / x.shape[1] ** 2


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("beta", [0.5, 2.0, 5.0])
def test_prediction_06_dissipation_identity(normalised, beta):
    """grad_i E = P sum_j e^{beta s_ij} x_j / n^2, that is Z_i x_i' / n^2 (SA) or x_i' / n (USA). dE/dt sums <grad_i E, x_i'>."""
    v, x, h = Attention(beta, normalised=normalised), sphere.uniform(20, 3, random(), batch=3), 1e-3 * math.exp(-beta)
    later, earlier = (solve(v, x, (0.0, s), step=h).end for s in (h, -h))
    later2, earlier2 = (solve(v, x, (0.0, s), step=h).end for s in (2 * h, -2 * h))
    slope = (8 * (v.energy(later) - v.energy(earlier)) - (v.energy(later2) - v.energy(earlier2))) / (12 * h)
    assert (slope / rates(v, x) - 1).abs().max() < 1e-7
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(v.energy(y).sum(), y)
    assert ((gradient * v(0.0, x)).sum((1, 2)) / rates(v, x) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("normalised", [True, False])
def test_prediction_07_energy_rises_for_identity_and_falls_for_its_negative(normalised):
    A = drawn(4, 3, 3)
    A = A @ A.T / torch.linalg.matrix_norm(A @ A.T, 2)  # Q'K = A symmetric, of norm 1: USA moves at most at e^beta
    identity, h = torch.eye(3, dtype=torch.float64), 0.05 if normalised else 0.2 * math.exp(-2)
    x = sphere.uniform(24, 3, random(1), batch=2)
    for sign in (1.0, -1.0):
        for Q, V in ((None, sign * identity), (A, sign * A)):
            v = Attention(2.0, Q=Q, V=V, normalised=normalised)
            energies = solve(v, x, torch.arange(101) * h, step=h, save=lambda t, x, v=v: v.energy(x)).states
            steps = sign * energies.diff(dim=0)
            assert steps.min() > -1e-12
            assert steps.sum(0).min() > 1e-2  # and does move
    v = Attention(2.0, V=rotation(3), normalised=normalised)  # the caveat: V is not +-Q'K, so E is no Lyapunov function
    y = sphere.uniform(24, 3, random(1), batch=50).requires_grad_()
    (gradient,) = torch.autograd.grad(v.energy(y).sum(), y)
    slopes = (gradient * v(0.0, y)).sum((1, 2))
    assert slopes.min() < 0 < slopes.max()


def test_energy_of_dirac_and_of_beta_zero():
    x = sphere.uniform(1, 3, random()).expand(1, 7, 3)
    assert torch.allclose(Attention(3.0).energy(x), torch.tensor([math.exp(3) / 6], dtype=torch.float64))
    y = sphere.uniform(7, 3, random())
    small = Attention(1e-6).energy(y) - 1 / 2e-6  # e^{beta s} / (2 beta) less its constant
    assert torch.allclose(Attention(0.0).energy(y), small, atol=1e-5)
