"""Log-density along a flow: the log-determinant of its Jacobian, closed forms, and Hutchinson with its error."""

import math

import pytest
import torch

from headwater.flow import sphere
from headwater.flow.density import log_density, push
from headwater.flow.divergence import rademacher
from headwater.flow.integrate import solve
from headwater.flow.steps import StepError
from headwater.flow.terms import Learned, Scaled, perceptron
from headwater.flow.velocity import Attention

LN_2PI = math.log(2 * math.pi)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def frame(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal basis of the tangent space at x (D,), as columns."""
    return torch.linalg.svd(x[None])[2][1:].T


def log_det(move, x: torch.Tensor, around: bool) -> torch.Tensor:
    """log |det| of the Jacobian of x (N, D) -> move(x), in tangent frames at both ends. By differentiating the solver."""
    N, D = x.shape
    J = torch.func.jacfwd(lambda y: move(sphere.project(y) if around else y))(x)
    if around:
        end = move(x)
        out, start = torch.stack([frame(p) for p in end]), torch.stack([frame(p) for p in x])
        J = torch.einsum("iab,iajc,jcd->ibjd", out, J, start)
        D = D - 1
    return torch.linalg.slogdet(J.reshape(N * D, N * D))[1]


def flows() -> list:
    V = drawn(3, 3, 3) / 2
    return [
        Attention(1.5, fused=False),
        Attention(1.0, drawn(1, 3, 3), drawn(2, 3, 3), V, normalised=False, mask="causal", fused=False),
        Attention(0.5, V=-V, space="flat", fused=False),
        Attention(1.0, V=[V, -V], duration=0.4, fused=False),
        Attention(1.0, kernel="sigmoid"),
    ]


@pytest.mark.parametrize("v", flows(), ids=["SA", "USA", "flat", "layers", "sigmoid"])
def test_prediction_34_log_det_of_the_whole_flow(v):
    x, times, step = sphere.uniform(4, 3, random(4)), (0.0, 0.9), 0.05
    done = push(v, x, 0.7, times, of="flow", step=step)
    expected = log_det(lambda y: solve(v, y[None], times, step=step).end[0], x[0], v.space == "sphere")
    assert done.logp.shape == (2, 1) and done.logp[0] == 0.7 and abs(expected) > 0.05
    assert abs(float(done.logp[-1, 0] - 0.7 + expected)) < 1e-6
    assert torch.allclose(done.trajectory.end, solve(v, x, times, step=step).end, atol=1e-6)


@pytest.mark.parametrize("space", ["sphere", "flat"])
def test_prediction_34_log_det_of_one_token_in_the_field(space):
    """A tracer that no key sees rides in the field of the cloud: its own Jacobian carries the density of the mean field."""
    N, times = 5, (0.0, 0.8)
    x, V = sphere.uniform(N, 3, random(5)), drawn(6, 3, 3) / 2
    done = push(Attention(2.0, V=V, space=space), x, torch.zeros(1, N, dtype=x.dtype), times, step=0.04)
    seen = torch.zeros(N + 1, N + 1, dtype=torch.bool)
    seen[:, :N] = True
    v = Attention(2.0, V=V, space=space, mask=seen, fused=False)
    for i in range(N):
        follow = lambda y: solve(v, torch.cat((x, y[None]), 1), times, step=0.04).end[0, N:]  # noqa: E731
        assert torch.allclose(follow(x[0, i : i + 1]), done.trajectory.end[0, i], atol=1e-6)
        assert abs(float(done.logp[-1, 0, i] + log_det(follow, x[0, i : i + 1], space == "sphere"))) < 1e-6


@pytest.mark.parametrize("of", ["field", "flow"])
@pytest.mark.parametrize("space", ["sphere", "flat"])
def test_prediction_34_hutchinson_within_its_error(of, space):
    x = sphere.uniform(5, 4, random(7), batch=4)
    v, times = Attention(1.5, V=drawn(8, 4, 4), space=space), (0.0, 0.5, 0.8)
    exact = push(v, x, 0.0, times, of=of, step=0.1)
    probed = push(v, x, 0.0, times, of=of, step=0.1, probes=rademacher(400, x, random(9)))
    off = (probed.logp - exact.logp)[1:] / probed.error[1:]
    assert (exact.error == 0).all() and (probed.logp[0] == 0).all() and (probed.error[1:] > 0).all()
    assert (off.abs() < 3).double().mean() > 0.99 and off.square().mean() < 3
    assert torch.allclose(probed.trajectory.states, exact.trajectory.states, atol=1e-13)


def test_hutchinson_has_no_error_where_the_jacobian_is_diagonal():
    v, x = Learned(lambda t, y: -y * y.new_tensor([1.0, 2.0, 3.0])), drawn(0, 4, 1, 3)
    done = push(v, x, 0.0, (0.0, 1.0), step=0.25, probes=rademacher(3, x, random()))
    assert torch.allclose(done.logp[-1], torch.full((4, 1), 6.0, dtype=x.dtype)) and (done.error < 1e-14).all()


@pytest.mark.parametrize("method", ["rk4", "adaptive"])
def test_gaussian_under_a_linear_flow(method):
    """x' = A x keeps Gaussians: N(0, S) with S' = A S + S A'. Forward at the tokens, and back from given points."""
    A, times = drawn(1, 3, 3) / 2, (0.0, 0.5, 1.0)
    v = perceptron(lambda y: y @ A.T, space="flat")
    prior = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=A.dtype), torch.eye(3, dtype=A.dtype))
    options = {"method": method, "step": 0.05 if method == "rk4" else None, "tolerance": 1e-9}
    x = drawn(2, 6, 2, 3)
    done = push(v, x, prior.log_prob(x), times, **options)
    for t, states, logp in zip(times, done.trajectory.states, done.logp, strict=True):
        E = torch.linalg.matrix_exp(A * t)
        law = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=A.dtype), E @ E.T)
        assert torch.allclose(logp, law.log_prob(states), atol=1e-6)
    found, error = log_density(v, x, prior.log_prob, times, **options)
    assert torch.allclose(found, law.log_prob(x), atol=1e-6) and (error == 0).all()
    joint, _ = log_density(v, x, lambda y: prior.log_prob(y).sum(-1), times, of="flow", **options)
    assert torch.allclose(joint, law.log_prob(x).sum(-1), atol=1e-6)


def test_pulled_to_a_pole_on_the_sphere():
    """v = P a on S^{d-1} from uniform: the density is the Poisson kernel ((1 - r^2) / |x - r a|^2)^(d-1), r = tanh(t / 2)."""
    d, t = 4, 1.3
    a = torch.zeros(d, dtype=torch.float64)
    a[0] = 1.0
    v = perceptron(lambda y: a.expand_as(y), space="sphere")
    x, r = sphere.uniform(50, d, random()), math.tanh(t / 2)
    done = push(v, x, 0.0, (0.0, t), step=0.05)
    expected = (d - 1) * ((1 - r**2) / (done.trajectory.end - r * a).square().sum(-1)).log()
    assert torch.allclose(done.logp[-1], expected, atol=1e-6)


def test_there_and_back_and_order_four():
    v, x = Attention(2.0), sphere.uniform(8, 3, random(1))
    errors = []
    reference = push(v, x, 0.0, (0.0, 1.0), method="adaptive", tolerance=1e-13)
    for step in (0.2, 0.1, 0.05):
        done = push(v, x, 0.0, (0.0, 1.0), step=step)
        errors.append(float((done.logp[-1] - reference.logp[-1]).abs().max()))
        assert (sphere.inner(done.trajectory.end, done.trajectory.end) - 1).abs().max() < 1e-14
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert min(orders) > 3.7 and max(orders) < 4.5
    back = push(v, reference.trajectory.end, reference.logp[-1], (1.0, 0.0), method="adaptive", tolerance=1e-13)
    assert back.logp[-1].abs().max() < 1e-9 and torch.allclose(back.trajectory.end, x, atol=1e-9)


def test_reversed_velocity_undoes():
    v, x = Attention(1.0, space="flat"), drawn(2, 2, 4, 3)
    there = push(v, x, 0.0, (0.0, 0.5), of="flow", step=0.05)
    again = push(Scaled(v, -1.0), there.trajectory.end, there.logp[-1], (0.0, 0.5), of="flow", step=0.05)
    assert again.logp[-1].abs().max() < 1e-6


@pytest.mark.parametrize("checkpoint", [0, 3])
@pytest.mark.parametrize("v", [Attention(1.5), Attention(1.5, kernel="sigmoid")], ids=["closed", "derivatives"])
def test_gradient_of_the_final_log_density(v, checkpoint):
    x, across = sphere.uniform(4, 3, random(3)).requires_grad_(), drawn(4, 1, 4, 3)

    def final(y: torch.Tensor) -> torch.Tensor:
        return push(v, sphere.project(y), 0.0, (0.0, 0.6), step=0.1, checkpoint=checkpoint).logp[-1].sum()

    found = (torch.autograd.grad(final(x), x)[0] * across).sum()
    with torch.no_grad():
        expected = (final(x + 1e-5 * across) - final(x - 1e-5 * across)) / 2e-5
    assert abs(float(found - expected)) < 1e-7 * abs(float(expected)) + 1e-8


def test_an_event_stops_both():
    x = sphere.uniform(6, 3, random(2))
    done = push(Attention(1.0), x, 0.0, (0.0, 5.0), step=0.1, event=lambda t, y: bool(y.shape[-1] == 3 and t > 0.95))
    assert done.trajectory.stopped and done.logp.shape == (2, 1, 6) and abs(float(done.trajectory.times[-1]) - 1.0) < 1e-12


def test_mistakes():
    x, v = sphere.uniform(4, 3, random()), Attention(1.0)
    with pytest.raises(ValueError, match="has no log-density"):
        push(v, x, 0.0, (0.0, 1.0), method="normalise", step=0.1)
    with pytest.raises(ValueError, match="needs \\(1, 4\\)"):
        push(v, x, torch.zeros(4, 1, dtype=x.dtype), (0.0, 1.0), step=0.1)
    with pytest.raises(ValueError, match="needs \\(1,\\)"):
        push(v, x, torch.zeros(1, 4, dtype=x.dtype), (0.0, 1.0), of="flow", step=0.1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        push(v, x, math.nan, (0.0, 1.0), step=0.1)
    with pytest.raises(ValueError, match="off the unit sphere"):
        push(v, 2 * x, 0.0, (0.0, 1.0), step=0.1)
    with pytest.raises(ValueError, match="positive one"):
        push(v, x, 0.0, (0.0, 1.0))
    with pytest.raises(ValueError, match="prior returned"):
        log_density(v, x, lambda y: y, (0.0, 1.0), step=0.1)
    blow = perceptron(lambda y: y**3, space="flat")
    with pytest.raises(StepError):
        push(blow, 2 * x, 0.0, (0.0, 9.0), step=0.5)
