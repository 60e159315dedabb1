"""One contract for all velocities: v(t, x) keeps shape and type, is tangent, knows no order of tokens, mixes no batch members."""

from collections.abc import Callable

import pytest
import torch

from headwater.flow import sphere
from headwater.flow.kernels import KERNELS
from headwater.flow.schemes import SCHEMES, Normed
from headwater.flow.terms import Hamiltonian, Learned, Parabolic, Scaled, SecondOrder, Sum, perceptron
from headwater.flow.velocity import Attention, Kuramoto

D = 4


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer() -> Callable:
    W, b = drawn(7, D, D), drawn(8, D)
    return lambda x: (x @ W.to(x) + b.to(x)).tanh()


def members() -> dict[str, Callable]:
    """Every family that has no order of tokens, by a name for the report."""
    Q, K, V = drawn(1, 2, 3, D), drawn(2, 2, 3, D), drawn(3, 2, D, D)
    parabolic = Parabolic(drawn(4, 5, D), drawn(5, 5))
    half = Parabolic(drawn(6, 3, D // 2))
    found = {"Kuramoto": Kuramoto(1.5), "perceptron": perceptron(layer()), "Parabolic": parabolic}
    found |= {"Hamiltonian": Hamiltonian(half, half), "SecondOrder": SecondOrder(half)}
    found |= {"Learned flat": Learned(lambda t, x: x.sin() - x.mean(1, keepdim=True))}
    for kernel in KERNELS:
        for normalised in (True, False):
            for space in ("sphere", "flat"):
                name = f"Attention {kernel} {'SA' if normalised else 'USA'} {space}"
                found[name] = Attention(1.3, Q, K, V, kernel=kernel, normalised=normalised, space=space)
    found["Attention layers"] = Attention(1.0, V=[V[0], -V[0]], duration=0.5)
    found["Attention in time"] = Attention(1.0, Q=lambda t: Q[0] * (1 + t), K=K[0])
    found["Attention eager"] = Attention(2.0, fused=False)
    found["Sum"] = Sum(Attention(1.0), perceptron(layer()))
    found["Scaled"] = Scaled(Attention(1.0), lambda t: 1 / (1 + t) ** 0.5)
    for scheme in SCHEMES:
        found[f"Normed {scheme}"] = Normed(Attention(1.0), scheme, switch=0.5 if scheme == "mix" else float("inf"))
    return found


EVERY = members()


def tokens(v: Callable, n: int = 6, batch: int = 2) -> torch.Tensor:
    return sphere.uniform(n, 2 if isinstance(v, Kuramoto) else D, torch.Generator().manual_seed(0), batch=batch)


@pytest.fixture(params=EVERY, name="v")
def velocity(request: pytest.FixtureRequest) -> Callable:
    return EVERY[request.param]


@pytest.mark.parametrize("t", [0.0, 0.7])
def test_shape_type_and_space(v, t):
    x = tokens(v)
    out, single = v(t, x), v(t, x.float())
    assert v.space in ("sphere", "flat")
    assert out.shape == x.shape and out.dtype == torch.float64 and torch.isfinite(out).all()
    assert single.shape == x.shape and single.dtype == torch.float32
    assert (single - out).abs().max() < 1e-5 * max(1.0, float(out.abs().max()))
    if v.space == "sphere":
        assert sphere.inner(x, out).abs().max() < 1e-14 * max(1.0, float(out.abs().max()))


def test_time_may_be_a_tensor(v):
    x = tokens(v)
    assert torch.allclose(v(torch.tensor(0.3, dtype=x.dtype), x), v(0.3, x), atol=1e-14)


def test_no_order_of_tokens(v):
    x = tokens(v)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
    assert torch.allclose(v(0.2, x[:, order]), v(0.2, x)[:, order], atol=1e-13)


def test_batch_members_do_not_meet(v):
    x = tokens(v, batch=3)
    assert torch.allclose(v(0.2, x)[1:2], v(0.2, x[1:2]), atol=1e-14)
    assert torch.allclose(v(0.2, x[[2, 0, 1]]), v(0.2, x)[[2, 0, 1]], atol=1e-14)


def test_one_token_alone(v):
    out = v(0.2, tokens(v, n=1))
    assert out.shape[1] == 1 and torch.isfinite(out).all()


def test_nan_is_refused(v):
    x = tokens(v)
    x[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN|infinity"):
        v(0.0, x)


def test_gradients_reach_the_tokens(v):
    x = tokens(v).requires_grad_()
    found = torch.autograd.grad(v(0.1, x).square().sum(), x)[0]
    assert torch.isfinite(found).all() and found.abs().max() > 0


@pytest.mark.parametrize("beta", [1e2, 1e4, 1e8])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("space", ["sphere", "flat"])
def test_large_beta_is_finite_or_refused(kernel, space, beta):
    v = Attention(beta, kernel=kernel, space=space)
    for dtype in (torch.float64, torch.float32):
        try:
            out = v(0.0, tokens(v, n=20).to(dtype))
        except ValueError as told:
            assert "beta" in str(told)
            continue
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("kernel", ["softmax", "cosine"])
def test_overflow_without_the_sum_is_told(kernel):
    with pytest.raises(ValueError, match="largest usable beta"):
        Attention(1e4, kernel=kernel, normalised=False)(0.0, tokens(Attention()))
