"""Adjoint gradients against gradients through the steps, finite differences of the flow and torchdiffeq."""

import pytest
import torch

from headwater.flow import sphere
from headwater.flow.adjoint import solve_adjoint
from headwater.flow.integrate import solve
from headwater.flow.steps import StepError
from headwater.flow.terms import Learned
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def parameter(seed: int, *shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(drawn(seed, *shape) / 2)


TIMES = (0.0, 0.4, 1.0)


@pytest.mark.parametrize("space", ["sphere", "flat"])
@pytest.mark.parametrize("method", ["rk4", "adaptive"])
def test_agrees_with_gradients_through_the_steps(space, method):
    V, Q = [parameter(0, 3, 3), parameter(1, 3, 3)], parameter(2, 2, 3)
    v = Attention(1.2, Q=Q, K=drawn(3, 2, 3), V=V, space=space, duration=0.6)  # jumps inside
    x = (sphere.uniform(5, 3, random(), batch=2) if space == "sphere" else drawn(4, 2, 5, 3)).requires_grad_()
    weight, options = drawn(5, 3, 2, 5, 3), {"method": method, "step": 0.02, "tolerance": 1e-10}
    wanted = (x, Q, *V)
    through = torch.autograd.grad((solve(v, x, TIMES, **options).states * weight).sum(), wanted)
    adjoint = torch.autograd.grad((solve_adjoint(v, x, TIMES, **options) * weight).sum(), wanted)
    if space == "sphere":  # along the radius nothing is defined
        through = (sphere.tangent(x, through[0]), *through[1:])
        assert sphere.inner(x, adjoint[0]).abs().max() < 1e-14
    for a, b in zip(adjoint, through, strict=True):
        assert (a - b).abs().max() < 1e-6 * b.abs().max()


def test_on_the_sphere_it_is_the_slope_along_geodesics():
    v, x, h = Attention(1.5), sphere.uniform(4, 3, random()), 1e-5
    weight, u = drawn(1, 1, 4, 3), sphere.tangent(x, drawn(2, 1, 4, 3))
    y = x.clone().requires_grad_()
    loss = (solve_adjoint(v, y, (0.0, 1.0), step=0.02)[-1] * weight).sum()
    (gradient,) = torch.autograd.grad(loss, y)
    up, down = ((solve(v, sphere.exponential(x, s * u), (0.0, 1.0), step=0.02).end * weight).sum() for s in (h, -h))
    assert abs(float((up - down) / (2 * h) - (gradient * u).sum())) < 1e-8


def test_agrees_with_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    V, x = parameter(0, 3, 3), drawn(1, 1, 5, 3).requires_grad_()
    v, weight = Attention(0.9, V=V, space="flat"), drawn(2, 3, 1, 5, 3)
    times = torch.tensor(TIMES, dtype=torch.float64)
    theirs = torchdiffeq.odeint_adjoint(v, x, times, rtol=1e-11, atol=1e-11, method="dopri5", adjoint_params=(V,))
    ours = solve_adjoint(v, x, TIMES, method="adaptive", tolerance=1e-11)
    assert (ours - theirs).abs().max() < 1e-9
    expected = torch.autograd.grad((theirs * weight).sum(), (x, V))
    found = torch.autograd.grad((ours * weight).sum(), (x, V))
    assert all((a - b).abs().max() < 1e-8 * b.abs().max() for a, b in zip(found, expected, strict=True))


def test_backward_in_time_and_learned_fields():
    layer = torch.nn.Linear(3, 3).double()
    v, x = Learned(lambda t, x: torch.tanh(layer(x)) * (1 + t)), drawn(0, 1, 4, 3).requires_grad_()
    given = {"step": 0.02}
    one = torch.autograd.grad(solve(v, x, (1.0, 0.0), **given).end.square().sum(), (x, layer.weight))
    two = solve_adjoint(v, x, (1.0, 0.0), parameters=list(layer.parameters()), **given)[-1].square().sum()
    two = torch.autograd.grad(two, (x, layer.weight))
    assert all((a - b).abs().max() < 1e-7 for a, b in zip(one, two, strict=True))


def test_memory_does_not_grow_with_the_number_of_steps():
    held = []
    x = sphere.uniform(20, 3, random()).requires_grad_()

    def pack(kept):
        held[-1] += kept.numel()
        return kept

    for step in (0.1, 0.005):
        held.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            solve_adjoint(Attention(1.0), x, (0.0, 1.0), step=step)
    assert held[0] == held[1] == 2 * x.numel()


def test_a_collapse_that_cannot_be_run_back_is_refused_not_wrong():
    x = sphere.uniform(6, 6, random()).requires_grad_()
    out = solve_adjoint(Attention(1.0), x, (0.0, 40.0), step=0.2)
    with pytest.raises(StepError, match="save more times or use solve with checkpoint"):
        out.sum().backward()
    with pytest.raises(ValueError, match="'rk4' or 'adaptive'"):
        solve_adjoint(Attention(1.0), x, (0.0, 1.0), method="euler", step=0.1)
