"""Divergence: closed form, derivatives, finite differences and random probes say the same."""

import numpy as np
import pytest
import torch

from headwater.flow import sphere
from headwater.flow.divergence import attention_divergence, divergence, hutchinson, mean_and_error, rademacher
from headwater.flow.field import at
from headwater.flow.kernels import KERNELS
from headwater.flow.schemes import Normed
from headwater.flow.terms import Learned, Parabolic, Sum, perceptron
from headwater.flow.velocity import Attention, Kuramoto


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def differences(v, t: float, x: torch.Tensor, of: str, h: float = 1e-4) -> torch.Tensor:
    """Along geodesics in an orthonormal tangent frame (flat: the axes), one token at a time, order 4."""
    B, N, D = x.shape
    found, around = torch.zeros(B, N, dtype=x.dtype), getattr(v, "space", "flat") == "sphere"
    for b in range(B):
        for i in range(N):
            frame = torch.eye(D, dtype=x.dtype)
            if around:
                frame = torch.linalg.svd(x[b, i][None])[2][1:]
            for e in frame:
                total = 0.0
                for factor, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
                    y, s = x.clone(), torch.tensor(factor * h, dtype=x.dtype)
                    y[b, i] = s.cos() * x[b, i] + s.sin() * e if around else x[b, i] + s * e
                    moved = at(v, t, y, x if of == "field" else y)
                    total = total + weight * float(moved[b, i].detach() @ e)
                found[b, i] += total / (12 * h)
    return found


def velocities() -> list:
    Q, K, V, W = drawn(0, 2, 2, 3), drawn(1, 2, 2, 3), drawn(2, 2, 3, 3), drawn(3, 3, 3)
    layer = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    return [
        Attention(2.0),
        Attention(2.0, normalised=False),
        Attention(1.5, Q, K, V),
        Attention(1.5, Q, K, V, normalised=False, mask="causal"),
        Attention(1.5, Q[0], K[0], mask=1),
        Attention(0.7, V=V, mask="causal"),
        Attention(1.2, W, None, W.T, space="flat"),
        Attention(1.2, Q, K, V, space="flat", normalised=False),
        Attention(3.0, kernel="cosine", Q=W),
        Attention(1.0, kernel="sigmoid"),
        Attention(1.0, kernel="linear"),
        perceptron(layer),
        Sum(Attention(1.0), perceptron(layer)),
        Parabolic(drawn(4, 5, 3)),
    ]


@pytest.mark.parametrize("of", ["field", "flow"])
@pytest.mark.parametrize("v", velocities(), ids=lambda v: f"{type(v).__name__}-{getattr(v, 'kernel', '')}")
def test_prediction_33_sphere_divergence(v, of):
    x = sphere.uniform(4, 3, random(5), batch=2)
    expected = differences(v, 0.2, x, of)
    assert (divergence(v, 0.2, x, of=of) - expected).abs().max() < 1e-9
    assert (divergence(v, 0.2, x, of=of, closed=False, memory=100) - expected).abs().max() < 1e-9


def test_prediction_33_the_ambient_trace_is_wrong_by_twice_the_pull():
    x, v = sphere.uniform(9, 4, random()), Attention(3.0)

    def ambient(y: torch.Tensor) -> torch.Tensor:  # y - <x, y> x, not extended by y / |y|
        m = (3.0 * y @ x[0].T).softmax(-1) @ x[0]
        return m - (m @ y) * y

    trace = torch.stack([torch.func.jacrev(ambient)(y).trace() for y in x[0]])
    pull = sphere.inner(x, v.ambient(0.0, x))[0, :, 0]
    assert torch.allclose(trace - divergence(v, 0.0, x)[0], -2 * pull, atol=1e-12)


def test_prediction_33_closed_form_by_mean_and_covariance():
    x, beta = sphere.uniform(7, 5, random(1)), 4.0
    p = (beta * x[0] @ x[0].T).softmax(-1)
    for i in range(7):
        m = p[i] @ x[0]
        cov = (x[0] - m).T @ torch.diag(p[i]) @ (x[0] - m)
        P = torch.eye(5, dtype=torch.float64) - torch.outer(x[0, i], x[0, i])
        expected = beta * (P @ cov).trace() - 4 * x[0, i] @ m
        assert abs(divergence(Attention(beta), 0.0, x)[0, i] - expected) < 1e-13
    own = divergence(Attention(beta), 0.0, x, of="flow") - divergence(Attention(beta), 0.0, x)
    assert torch.allclose(own[0], 4 * p.diagonal(), atol=1e-13)


def test_flow_is_the_trace_of_the_whole_jacobian():
    v, x = Attention(1.5, space="flat", V=drawn(0, 3, 3), fused=False), drawn(1, 1, 5, 3)
    whole = torch.func.jacfwd(lambda y: v(0.0, y))(x).reshape(15, 15)
    assert torch.allclose(divergence(v, 0.0, x, of="flow").sum(), whole.trace(), atol=1e-12)


def test_kuramoto_by_hand():
    angle = drawn(0, 2, 6)
    x = sphere.circle(angle)
    difference = (angle[..., :, None] - angle[..., None, :]).cos().mean(-1)
    v = Kuramoto(1.7, drawn(1, 6))
    assert torch.allclose(divergence(v, 0.0, x), -1.7 * difference, atol=1e-14)
    assert torch.allclose(divergence(v, 0.0, x, of="flow"), -1.7 * (difference - 1 / 6), atol=1e-14)


def test_a_rotation_of_the_sphere_changes_nothing():
    x, R = sphere.uniform(8, 4, random(2), batch=2), torch.linalg.qr(drawn(3, 4, 4))[0]
    for v in (Attention(2.0), Attention(2.0, kernel="sigmoid")):
        assert torch.allclose(divergence(v, 0.0, x @ R.T), divergence(v, 0.0, x), atol=1e-13)


def test_nothing_leaves_the_sphere():
    """The integral of the divergence of the field of a fixed cloud over all of S^2 vanishes (exact quadrature)."""
    height, weight = np.polynomial.legendre.leggauss(40)
    turn = np.arange(80) * np.pi / 40
    ring = np.sqrt(1 - height**2)[:, None]
    points = np.stack((ring * np.cos(turn), ring * np.sin(turn), np.broadcast_to(height[:, None], (40, 80))), -1)
    points, weight = torch.from_numpy(points.reshape(1, -1, 3)), torch.from_numpy(np.repeat(weight, 80))
    cloud = sphere.uniform(5, 3, random(4))[0]
    field = Learned(lambda t, y: (3.0 * y @ cloud.T).softmax(-1) @ cloud, space="sphere")
    field.tokenwise = True
    found = divergence(field, 0.0, sphere.project(points))[0]
    assert abs(float(found @ weight)) < 1e-10 < float(found.abs() @ weight)


@pytest.mark.parametrize("of", ["field", "flow"])
def test_hutchinson_is_unbiased_with_the_error_it_tells(of):
    v, x = Attention(2.0), sphere.uniform(6, 4, random(6), batch=3)
    samples = hutchinson(v, 0.0, x, rademacher(4000, x, random(7)), of=of)
    mean, error = mean_and_error(samples)
    off = (mean - divergence(v, 0.0, x, of=of)) / error
    assert off.abs().max() < 4 and 0.5 < off.square().mean() < 1.8
    total, error = mean_and_error(samples.sum(-1))
    assert ((total - divergence(v, 0.0, x, of=of).sum(-1)) / error).abs().max() < 3


def test_hutchinson_has_the_variance_of_the_formula():
    v, x = Parabolic(drawn(3, 6, 4)), drawn(2, 1, 1, 4)
    S = torch.func.jacfwd(lambda y: v(0.0, y[None, None])[0, 0])(x[0, 0])
    S = (S + S.T) / 2
    expected = 4 * S.triu(1).square().sum()
    samples = hutchinson(v, 0.0, x, rademacher(20000, x, random(8)))
    assert abs(samples.var() / expected - 1) < 0.04


def test_gradients_flow_through():
    x = sphere.uniform(5, 3, random(9)).requires_grad_()
    V = drawn(0, 3, 3).requires_grad_()
    v = Attention(1.5, V=V)
    by_form, by_moves = (
        torch.autograd.grad(divergence(v, 0.0, x, closed=closed).square().sum(), (x, V)) for closed in (True, False)
    )
    assert torch.allclose(sphere.tangent(x, by_form[0]), sphere.tangent(x, by_moves[0]), atol=1e-12)
    assert torch.allclose(by_form[1], by_moves[1], atol=1e-12) and by_form[1].abs().max() > 0.01


def test_a_network_that_has_no_forward_mode():
    first, last = torch.nn.Linear(4, 6).double(), torch.nn.Linear(6, 4).double()

    def fused(t, y):
        q = first(y)[:, None]
        return last(torch.nn.functional.scaled_dot_product_attention(q, q, q)[:, 0])

    v, x = Learned(fused), drawn(1, 2, 3, 4)
    found = divergence(v, 0.0, x, of="flow")
    for b in range(2):
        whole = torch.autograd.functional.jacobian(lambda y: v(0.0, y[None])[0], x[b]).reshape(12, 12)  # noqa: B023
        assert torch.allclose(found[b].sum(), whole.trace(), atol=1e-12)


def test_pre_norm_by_differences():
    v, x = Normed(Attention(1.0, fused=False), "pre"), 2 * drawn(0, 1, 3, 3)
    assert torch.allclose(divergence(v, 0.0, x, of="flow"), differences(v, 0.0, x, "flow"), atol=1e-8)


def test_single_precision_and_large_beta():
    x = sphere.uniform(40, 3, random(10))
    exact = divergence(Attention(2.0), 0.0, x)
    single = divergence(Attention(2.0), 0.0, x.float())
    assert single.dtype == torch.float32 and (single - exact).abs().max() < 1e-5
    assert torch.isfinite(divergence(Attention(1e6), 0.0, x)).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_batch_members_do_not_meet(kernel):
    x, v = sphere.uniform(5, 3, random(11), batch=3), Attention(1.0, kernel=kernel)
    assert torch.allclose(divergence(v, 0.0, x)[1:2], divergence(v, 0.0, x[1:2]), atol=1e-14)


def test_mistakes():
    x = sphere.uniform(5, 3, random(12))
    with pytest.raises(ValueError, match="off the unit sphere"):
        divergence(Attention(1.0), 0.0, 2 * x)
    with pytest.raises(ValueError, match="'field' or 'flow'"):
        divergence(Attention(1.0), 0.0, x, of="both")
    with pytest.raises(ValueError, match="no closed form"):
        attention_divergence(Attention(1.0, kernel="relu"), 0.0, x)
    with pytest.raises(ValueError, match="2 or more"):
        rademacher(1, x, random())
    with pytest.raises(ValueError, match="one probe"):
        mean_and_error(x[:1])
    with pytest.raises(ValueError, match="probes"):
        hutchinson(Attention(1.0), 0.0, x, torch.ones(4, 1, 2, 3, dtype=x.dtype))
    rough = Learned(lambda t, y: y.abs().sqrt())
    with pytest.raises(ValueError, match="NaN or infinity in the derivative"):
        divergence(rough, 0.0, torch.zeros(1, 1, 3, dtype=x.dtype))
