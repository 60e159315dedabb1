"""Linear-cost attention against the dense sum; its bound; its cost; its gradients; its refusals."""

import math

import pytest
import torch
from scipy.special import ive
from torch.utils.flop_counter import FlopCounterMode

from headwater.flow import harmonics, sphere
from headwater.flow.harmonics import ToleranceError


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def even(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return sphere.uniform(n, d, random(seed))


def lonely(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """A tight cluster around a pole of the coordinates, and one token opposite to it: the worst for the softmax sum."""
    pole = torch.eye(d, dtype=torch.float64)[seed % d]
    return sphere.project(torch.cat((pole + 0.05 * even(n - 1, d, seed), -pole.expand(1, 1, d)), 1))


def dense(x: torch.Tensor, beta: float, V: torch.Tensor) -> torch.Tensor:
    """Written out, so that nothing is shared with the code under test."""
    weight = torch.exp(beta * (x @ x.mT) - abs(beta))
    return weight @ (x @ V.T) / weight.sum(-1, keepdim=True)


def worst(found: torch.Tensor, wanted: torch.Tensor, V: torch.Tensor) -> float:
    return float((found - wanted).norm(dim=-1).max() / torch.linalg.matrix_norm(V, 2))


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("beta", [0.0, 0.5, 9.0, -4.0])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("make", [even, lonely])
def test_prediction_37_error_within_its_bound_and_the_bound_within_the_tolerance(d, beta, tol, make):
    V = torch.randn(d, d, generator=random(3), dtype=torch.float64)
    x = make(200, d, seed=d)
    found = harmonics.attend(x, beta, V, tol)
    assert worst(found.pull, dense(x, beta, V), V) <= found.error <= tol


@pytest.mark.parametrize("d", [2, 3, 4])
def test_prediction_37_a_priori_n_times_the_tail(d):
    """At a fixed degree the relative error is at most 2 n E, as Z_i >= 1; E is the tail, and it is not far above the truth."""
    x, beta, degree = lonely(100, d), 5.0, 7
    made = harmonics.plan(d, beta, degree, x.device)
    pull, lowest = harmonics._cloud(made, x[0], None, False)
    error = worst(pull, dense(x, beta, torch.eye(d, dtype=torch.float64))[0], torch.eye(d, dtype=torch.float64))
    assert 1e-3 * 2 * 100 * made.error < error <= 2 * 100 * made.error
    assert float(lowest) >= 1 - 100 * made.error


def test_prediction_37_operations_are_linear_in_n():
    counts, sizes = [], (4000, 8000, 16000, 32000)
    harmonics.attend(even(10000, 3), 9.0)  # makes the plan
    for n in sizes:
        with FlopCounterMode(display=False) as counter:
            harmonics.attend(even(n, 3), 9.0)
        counts.append(counter.get_total_flops())
    slopes = [math.log2(b / a) for a, b in zip(counts, counts[1:], strict=False)]
    assert all(0.9 < slope < 1.1 for slope in slopes), slopes
    per_token = (counts[-1] - counts[-2]) / (sizes[-1] - sizes[-2])
    assert per_token < 12000  # (L+1)^2 functions twice, 1 moment and 4 fields, two operations each: 8000 at L = 19


def test_memory_does_not_hold_functions_of_all_tokens():
    """No array in the sums over 20000 tokens is larger than a block's, but for tokens and pulls themselves."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            done = function(*args, **(kwargs or {}))
            if isinstance(done, torch.Tensor):
                self.size = max(self.size, done.numel())
            return done

    with Largest() as seen:
        harmonics.attend(even(20000, 3), 9.0)
    assert seen.size <= harmonics.ELEMENTS


@pytest.mark.parametrize(("beta", "degree"), [(0.3, 2), (1.0, 8), (9.0, 17), (100.0, 30), (-9.0, 20), (1e4, 700)])
def test_tail_is_the_error_of_the_series(beta, degree):
    """At t = 1 every term left out is positive: the error there is the whole tail; elsewhere it is smaller."""
    t = torch.cos(torch.linspace(0, math.pi, 2001, dtype=torch.float64)).numpy()
    l = torch.arange(degree + 1).numpy()
    import numpy as np

    series = np.where(l > 0, 2.0, 1.0) * ive(l, abs(beta)) * np.sign(beta) ** l
    error = np.abs(np.exp(beta * t - abs(beta)) - np.polynomial.chebyshev.chebval(t, series)).max()
    tail = harmonics.tail(beta, degree)
    assert error <= tail + 1e-12 and (tail < 1e-10 or tail <= 1.0001 * error)
    assert harmonics.degree(beta, tail) <= degree < harmonics.degree(beta, tail * 0.999)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_rotation_and_permutation(d):
    x, turn = even(150, d), torch.linalg.qr(torch.randn(d, d, generator=random(2), dtype=torch.float64))[0]
    pull = harmonics.attend(x, 3.0, tol=1e-10).pull
    assert torch.allclose(harmonics.attend(x @ turn.T, 3.0, tol=1e-10).pull, pull @ turn.T, atol=1e-9)
    order = torch.randperm(150, generator=random(1))
    assert torch.allclose(harmonics.attend(x[:, order], 3.0, tol=1e-10).pull, pull[:, order], atol=1e-9)


def test_batch_members_do_not_meet():
    x, y = even(100, 3, 1), lonely(100, 3, 2)
    both = harmonics.attend(torch.cat((x, y)), 4.0, tol=1e-8).pull
    assert torch.allclose(both[:1], harmonics.attend(x, 4.0, tol=1e-8).pull, atol=2e-8)
    assert torch.allclose(both[1:], harmonics.attend(y, 4.0, tol=1e-8).pull, atol=2e-8)


def test_large_beta_does_not_overflow():
    """e^{2000} is no number; on the circle harmonics do not mind."""
    x, V = even(300, 2), torch.eye(2, dtype=torch.float64)
    found = harmonics.attend(x, 2000.0, tol=1e-7)
    assert worst(found.pull, dense(x, 2000.0, V), V) <= found.error <= 1e-7


def test_one_token_and_equal_tokens():
    one = even(1, 3)
    assert torch.allclose(harmonics.attend(one, 9.0, tol=1e-9).pull, one, atol=1e-9)
    same = one.expand(1, 500, 3).contiguous()
    assert torch.allclose(harmonics.attend(same, 9.0, tol=1e-9).pull, same, atol=1e-9)


def test_single_precision_in_and_out():
    x = even(300, 3).float()
    found = harmonics.attend(x, 9.0)
    wanted = dense(sphere.project(x.double()), 9.0, torch.eye(3, dtype=torch.float64))
    assert found.pull.dtype == torch.float32 and (found.pull - wanted).abs().max() < 2e-6


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("blocks", [False, True])
def test_gradients_against_the_dense_sum(d, blocks, monkeypatch):
    """Tokens sit on poles of the coordinates too, where the angles have no derivative."""
    monkeypatch.setattr(harmonics, "ELEMENTS", 2**12 if blocks else 2**18)
    n = 600 if blocks else 40
    free, V = even(n, d), torch.randn(d, d, generator=random(4), dtype=torch.float64)
    free[0, :d] = torch.eye(d, dtype=torch.float64)
    weight = torch.randn(1, n, d, generator=random(5), dtype=torch.float64)
    found = []
    for way in (lambda x, V: harmonics.attend(x, 3.0, V, 1e-11).pull, lambda x, V: dense(x, 3.0, V)):
        a, b = free.clone().requires_grad_(), V.clone().requires_grad_()
        (way(sphere.project(a), b) * weight).sum().backward()  # project takes the radial part away
        found.append((a.grad, b.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-8 * float(other.abs().max())), float((one - other).abs().max())


def test_second_derivatives():
    x = even(6, 3).requires_grad_()
    torch.autograd.gradgradcheck(lambda x: harmonics.attend(sphere.project(x), 1.0, tol=1e-11).pull, (x,), atol=1e-5)


def test_plan_made_without_gradients_serves_with_them():
    harmonics.plan.cache_clear()
    x = even(30, 3)
    with torch.inference_mode():
        harmonics.attend(x.clone(), 2.5)
    x.requires_grad_()
    harmonics.attend(x, 2.5).pull.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("x", "beta", "tol", "words"),
    [
        (even(10, 5), 1.0, 1e-6, "width 5"),
        (even(10, 3), 1e5, 1e-6, "degree"),
        (even(10, 4), 200.0, 1e-6, "degree"),
        (even(10, 3), 5.0, 1e-15, "rounding"),
        (lonely(4000, 3), 5.0, 2e-11, "rounding"),
    ],
)
def test_what_cannot_be_met_is_said(x, beta, tol, words):
    with pytest.raises(ToleranceError, match=words):
        harmonics.attend(x, beta, tol=tol)


def test_tokens_off_the_sphere():
    for bad in (2 * even(5, 3), torch.full((1, 5, 3), float("nan"), dtype=torch.float64)):
        with pytest.raises(ValueError, match="off the unit sphere|NaN"):
            harmonics.attend(bad, 1.0)
