"""The choice between ways to attention, that it holds what it says, and Lipschitz bounds."""

import pytest
import torch

from headwater.flow import harmonics, sphere
from headwater.flow.integrate import solve
from headwater.flow.interaction import FastAttention, attend, choose, lipschitz_bound, mean_field_lipschitz_bound
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("n", "d", "beta", "tol", "drawn", "method", "words"),
    [
        (10**6, 3, 9.0, 1e-6, False, "harmonics", "degree 19"),
        (10**6, 2, 9.0, 1e-6, False, "harmonics", "time of n"),
        (10**6, 4, 9.0, 1e-6, False, "harmonics", "exact would take"),
        (100, 3, 9.0, 1e-6, False, "exact", "harmonics would take"),
        (10**5, 3, 1e4, 1e-6, False, "exact", "degree 724, above the 120"),
        (10**5, 7, 1.0, 1e-2, False, "exact", "d = 2, 3 and 4, not 7"),
        (10**5, 7, 1.0, 1e-2, True, "subsample", "random keys of 100000"),
        (10**5, 7, 1.0, 1e-8, True, "exact", "not 7"),
        (10**5, 3, 9.0, 1e-14, False, "exact", "below rounding"),
        (10**5, 3, 9.0, 1e-17, False, "exact", "nothing comes closer"),
    ],
)
def test_choice_and_reason(n, d, beta, tol, drawn, method, words):
    choice = choose(n, d, beta, tol, random=drawn)
    assert choice.method == method and words in choice.because, choice
    assert choice.cost > 0 and choice.memory < 2**31


def test_cost_of_exact_is_quadratic_and_of_harmonics_linear():
    slow, slower = choose(10**5, 9, 1.0, 1e-6), choose(10**6, 9, 1.0, 1e-6)
    fast, faster = choose(10**6, 3, 9.0, 1e-6), choose(10**7, 3, 9.0, 1e-6)
    assert slower.cost / slow.cost == pytest.approx(100, rel=0.01)
    assert faster.cost / fast.cost == pytest.approx(10, rel=0.01)
    assert faster.memory == fast.memory


@pytest.mark.parametrize(
    "given", [(0, 3, 1.0, 1e-6), (9, 1, 1.0, 1e-6), (9, 3, float("nan"), 1e-6), (9, 3, 1.0, 0.0), (9, 3, 1.0, -1.0)]
)
def test_senseless_questions(given):
    with pytest.raises(ValueError, match="choose"):
        choose(*given)


@pytest.mark.parametrize("d", [2, 3, 4, 6])
def test_every_way_agrees_with_the_exact_velocity(d):
    x, V = sphere.uniform(400, d, random(), batch=2), torch.randn(d, d, generator=random(1), dtype=torch.float64)
    wanted = Attention(3.0, V=V)
    size = float(torch.linalg.matrix_norm(V, 2))
    for method in ("auto", "exact", "harmonics") if d < 5 else ("auto", "exact"):
        v = FastAttention(3.0, V, 1e-9, method)
        assert (v(0.0, x) - wanted(0.0, x)).norm(dim=-1).max() < 1e-9 * size, method
        assert (v.ambient(0.0, x) - wanted.ambient(0.0, x)).norm(dim=-1).max() < 1e-9 * size, method
    pull, choice = attend(x, 3.0, V, 0.1, "subsample", generator=random(3), tangential=True)
    off = float((pull - wanted(0.0, x)).square().sum(-1).mean().sqrt())
    assert choice.method == "subsample" and off < 2 * choice.error * size and sphere.inner(x, pull).abs().max() < 1e-14


def test_exact_in_blocks(monkeypatch):
    from headwater.flow import interaction

    x = sphere.uniform(1000, 3, random())
    whole = attend(x, 5.0, method="exact")[0]
    monkeypatch.setattr(interaction, "SCORES", 2**12)
    assert torch.allclose(attend(x, 5.0, method="exact")[0], whole, atol=1e-14)


def test_harmonics_are_taken_for_large_clouds_and_exact_where_the_cloud_forbids():
    x = sphere.uniform(4000, 3, random())
    pull, choice = attend(x, 5.0, tol=1e-7)
    assert choice.method == "harmonics" and choice.error <= 1e-7 and "time of n" in choice.because
    pole = torch.eye(3, dtype=torch.float64)[0]
    lonely = sphere.project(torch.cat((pole + 0.05 * x[:, 1:], -pole.expand(1, 1, 3)), 1))
    pull, choice = attend(lonely, 5.0, tol=1e-11)
    assert choice.method == "exact" and "uneven" in choice.because and "rounding" in choice.because
    assert torch.allclose(pull, Attention(5.0).ambient(0.0, lonely), atol=1e-13)
    with pytest.raises(harmonics.ToleranceError, match="rounding"):
        attend(lonely, 5.0, tol=1e-11, method="harmonics")


def test_beta_too_large_for_harmonics_is_exact_and_finite():
    x = sphere.uniform(500, 3, random())
    pull, choice = attend(x, 1e5)
    assert choice.method == "exact" and "degree" in choice.because and bool(pull.isfinite().all())


def test_flow_along_the_fast_velocity():
    x0 = sphere.uniform(700, 3, random())
    fast, slow = (
        solve(v, x0, [0.0, 1.0], step=0.1).end for v in (FastAttention(4.0, tol=1e-8, method="harmonics"), Attention(4.0))
    )
    assert (fast - slow).norm(dim=-1).max() < 1e-6


def test_values_per_layer_and_learned():
    layers = [torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)]
    v, x = FastAttention(2.0, layers, duration=0.5), sphere.uniform(20, 3, random())
    assert v.breaks == (0.5,) and torch.allclose(v(0.1, x), -v(0.7, x), atol=1e-14)
    learned = FastAttention(2.0, torch.nn.Parameter(torch.eye(3, dtype=torch.float64)), method="harmonics")
    learned(0.0, x).square().sum().backward()
    assert len(list(learned.parameters())) == 1 and next(learned.parameters()).grad.abs().max() > 0


def test_faults():
    x = sphere.uniform(5, 3, random())
    with pytest.raises(ValueError, match="method 'best'"):
        attend(x, 1.0, method="best")
    with pytest.raises(ValueError, match="generator"):
        attend(x, 1.0, method="subsample")
    with pytest.raises(ValueError, match="method 'subsample'"):
        FastAttention(1.0, method="subsample")
    with pytest.raises(ValueError, match="tol"):
        FastAttention(1.0, tol=0.0)
    with pytest.raises(ValueError, match="off the unit sphere"):
        FastAttention(1.0)(0.0, 2 * x)


def stretch(x: torch.Tensor, beta: float, V: torch.Tensor) -> torch.Tensor:
    """Operator norm of the derivative of softmax attention in flat space at x (n, d)."""

    def pull(flat: torch.Tensor) -> torch.Tensor:
        y = flat.view(x.shape)
        return ((beta * y @ y.T).softmax(-1) @ y @ V.T).flatten()

    jacobian = torch.autograd.functional.jacobian(pull, x.flatten(), create_graph=x.requires_grad)
    return torch.linalg.matrix_norm(jacobian, 2)


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("n", [2, 8, 20])
def test_prediction_41_lipschitz_bounds_are_never_exceeded(beta, n):
    """Random clouds, then clouds pushed uphill to stretch as much as they can."""
    V = torch.randn(3, 3, generator=random(7), dtype=torch.float64)
    bound, field = lipschitz_bound(n, beta, V), mean_field_lipschitz_bound(beta, V)
    worst = 0.0
    for seed in range(3):
        x = sphere.uniform(n, 3, random(seed))[0]
        for _ in range(15):
            x = x.detach().requires_grad_()
            size = stretch(x, beta, V)
            worst = max(worst, float(size.detach()))
            (slope,) = torch.autograd.grad(size, x)
            x = x + 0.2 * slope / slope.norm()
            x = x / x.norm(dim=-1, keepdim=True).clamp(min=1)  # stays in the unit ball
    assert 0.01 * min(bound, field) < worst < min(bound, field)


def test_lipschitz_bounds_without_values():
    assert lipschitz_bound(4, 0.0) == pytest.approx(12**0.5)
    assert mean_field_lipschitz_bound(0.0) == 1.0 and mean_field_lipschitz_bound(1e6) == float("inf")
