"""Trajectories: oracles, events, memory, gradients, faults, and the predictions that need a flow."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from headwater.flow import sphere
from headwater.flow.integrate import cluster_reached, solve
from headwater.flow.steps import StepError
from headwater.flow.terms import Learned, Noise
from headwater.flow.velocity import Attention


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def test_flat_flow_against_scipy():
    V = drawn(0, 3, 3)
    v, x = Attention(0.8, V=V, space="flat"), drawn(1, 1, 5, 3)

    def slope(t, y):
        y = y.reshape(5, 3)
        weight = np.exp(0.8 * y @ y.T)
        return ((weight / weight.sum(1, keepdims=True)) @ y @ V.numpy().T).ravel()

    exact = solve_ivp(slope, (0, 1), x.numpy().ravel(), rtol=1e-12, atol=1e-12, method="DOP853", t_eval=(0, 0.3, 1))
    found = solve(v, x, (0.0, 0.3, 1.0), step=0.005)
    assert np.abs(found.states.reshape(3, 15).numpy() - exact.y.T).max() < 1e-8
    assert found.times.tolist() == [0.0, 0.3, 1.0] and torch.equal(found.end, found.states[-1])
    assert found.steps == 60 + 140 and not found.stopped


def test_permutations_and_rotations_pass_through_the_flow():
    v, x = Attention(2.0), sphere.uniform(12, 3, random())
    R, order = torch.linalg.qr(drawn(1, 3, 3))[0], torch.randperm(12, generator=random(2))
    for method in ("euler", "exponential", "rk4", "normalise"):
        end = solve(v, x, (0.0, 2.0), method=method, step=0.1).end
        assert torch.allclose(solve(v, x @ R.T, (0.0, 2.0), method=method, step=0.1).end, end @ R.T, atol=1e-13)
        assert torch.allclose(solve(v, x[:, order], (0.0, 2.0), method=method, step=0.1).end, end[:, order], atol=1e-13)
        assert (torch.linalg.vector_norm(end, dim=-1) - 1).abs().max() < 1e-15


def test_single_precision_follows_double():
    v, x = Attention(2.0), sphere.uniform(12, 3, random())
    one, two = (solve(v, x.to(kind), (0.0, 3.0), step=0.05).end for kind in (torch.float32, torch.float64))
    assert one.dtype == torch.float32 and (one - two).abs().max() < 1e-5


def test_only_what_is_asked_for_is_kept():
    calls = []

    def save(t, x):
        calls.append(t)
        return v.energy(x)

    v, x = Attention(2.0), sphere.uniform(12, 3, random(), batch=2)
    found = solve(v, x, (0.0, 1.0, 2.0), step=0.01, save=save)
    assert calls == [0.0, 1.0, 2.0] and found.states.shape == (3, 2) and found.end.shape == x.shape


def test_event_stops_when_the_cluster_is_reached():
    v, x = Attention(1.0), sphere.uniform(6, 8, random())
    found = solve(v, x, (0.0, 5.0, 50.0), step=0.05, event=cluster_reached(1e-4))
    assert found.stopped and 0 < float(found.times[-1]) < 50 and found.states.shape[0] == len(found.times)
    before = solve(v, x, (0.0, float(found.times[-1]) - 0.05), step=0.05).end
    assert float(sphere.spread(found.end)) < 1e-4 <= float(sphere.spread(before))
    again = solve(v, found.end, (0.0, 1.0), step=0.05, event=cluster_reached(1e-4))
    assert again.stopped and again.times.tolist() == [0.0] and torch.equal(again.end, found.end)
    adaptive = solve(v, x, (0.0, 50.0), method="adaptive", event=cluster_reached(1e-4))
    assert adaptive.stopped and float(sphere.spread(adaptive.end)) < 1e-4


@pytest.mark.parametrize("method", ["rk4", "normalise", "adaptive"])
@pytest.mark.parametrize("checkpoint", [1, 4])
def test_gradients_through_the_steps_with_and_without_checkpoints(method, checkpoint):
    V = torch.nn.Parameter(torch.eye(3, dtype=torch.float64) + 0.1 * drawn(0, 3, 3))
    x = sphere.uniform(5, 3, random()).requires_grad_()
    weight = drawn(1, 3, 1, 5, 3)

    def loss(**options):
        found = solve(Attention(1.5, V=V), x, (0.0, 0.7, 1.0), method=method, step=0.1, tolerance=1e-6, **options)
        return (found.states * weight).sum()

    plain, kept = (torch.autograd.grad(loss(checkpoint=c), (x, V)) for c in (0, checkpoint))
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in zip(plain, kept, strict=True))
    change, h = drawn(2, 3, 3), 1e-6
    with torch.no_grad():
        V += h * change
        up = loss()
        V -= 2 * h * change
        down = loss()
        V += h * change
    assert abs(float((up - down) / (2 * h) - (plain[1] * change).sum())) < 1e-7


def saved_for_backward(checkpoint: int) -> int:
    """Bytes of distinct storage that the graph of a long flow holds."""
    held = {}

    def pack(x):
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    x = sphere.uniform(50, 3, random()).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        solve(Attention(1.0), x, (0.0, 8.0), step=0.1, checkpoint=checkpoint)
    return sum(held.values())


def test_checkpoints_bound_the_memory_of_the_graph():
    assert saved_for_backward(20) < saved_for_backward(0) / 20


def test_noise_with_checkpoints_draws_the_same_kicks():
    x = sphere.uniform(5, 3, random()).requires_grad_()
    ends = []
    for checkpoint in (0, 3):
        own = random(7)
        end = solve(
            Attention(1.0), x, (0.0, 1.0), method="euler", step=0.1, noise=Noise(5.0), generator=own, checkpoint=checkpoint
        ).end
        ends += [(end, torch.autograd.grad(end[0, 0, 0], x)[0], own.get_state())]
    assert all(torch.allclose(a.double(), b.double(), atol=1e-14) for a, b in zip(*ends, strict=True))


def test_faults_are_named():
    v, x = Attention(1.0), sphere.uniform(4, 3, random())
    blow = Learned(lambda t, x: x**2)  # y' = y^2 leaves every bound at t = 1 / y
    faults = [
        (lambda: solve(v, x * 1.1, (0.0, 1.0), step=0.1), "off the unit sphere"),
        (lambda: solve(v, x * math.nan, (0.0, 1.0), step=0.1), "NaN"),
        (lambda: solve(v, x, (0.0, 1.0)), "step=None"),
        (lambda: solve(v, x, (0.0, 1.0), step=-0.1), "step=-0.1"),
        (lambda: solve(v, x, (0.0,), step=0.1), "two or more"),
        (lambda: solve(v, x, (0.0, 1.0, 0.5), step=0.1), "all rising or all falling"),
        (lambda: solve(v, x, (0.0, math.inf), step=0.1), "finite times"),
        (lambda: solve(v, x, (0.0, 1.0), step=0.1, noise=Noise(1.0)), "generator"),
        (lambda: solve(v, x, (1.0, 0.0), step=0.1, method="euler", noise=Noise(1.0), generator=random()), "backward"),
        (lambda: solve(blow, x.new_ones(1, 2, 3), (0.0, 9.0), step=0.5), "cannot integrate beyond t=.*NaN"),
    ]
    for act, word in faults:
        with pytest.raises(ValueError, match=word):
            act()
    with pytest.raises(StepError) as error:
        solve(Learned(lambda t, x: x**3), x.new_ones(1, 2, 3), (0.0, 9.0), method="euler", step=0.5)
    assert 0 < error.value.t <= 9 and error.value.step == 0.5 and "finite" in error.value.reason


def common_angle(n: int, beta: float, normalised: bool, times: np.ndarray) -> np.ndarray:
    """g(t) from g(0) = 0 by the equation of the theory, to 13 digits."""

    def slope(t, g):
        clock = math.exp(beta) + (n - 1) * math.exp(beta * g[0]) if normalised else n
        return [2 * math.exp(beta * g[0]) * (1 - g[0]) * ((n - 1) * g[0] + 1) / clock]

    return solve_ivp(slope, (0, times[-1]), [0.0], t_eval=times, rtol=1e-13, atol=1e-14, method="DOP853").y[0]


def orthonormal(n: int, beta: float, normalised: bool, times, step: float) -> torch.Tensor:
    """Inner products of all pairs along the flow from an orthonormal start: (T, pairs)."""
    frame = torch.linalg.qr(drawn(8, n + 2, n + 2))[0][None, :n]
    above = torch.triu_indices(n, n, 1)
    keep = lambda t, x: (x[0] @ x[0].T)[above[0], above[1]]  # noqa: E731
    return solve(Attention(beta, normalised=normalised), frame, times, step=step, save=keep).states


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_prediction_01_common_angle_of_softmax_attention(beta):
    times = np.linspace(0, 2, 5)
    pairs = orthonormal(12, beta, True, times, 0.005)
    assert (pairs.amax(1) - pairs.amin(1)).max() < 1e-13
    assert np.abs(pairs[:, 0].numpy() - common_angle(12, beta, True, times)).max() < 1e-8


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_prediction_02_common_angle_of_unnormalised_attention(beta):
    times = np.linspace(0, 1.5, 4) if beta < 1 else np.linspace(0, 0.8, 4)
    pairs = orthonormal(12, beta, False, times, 0.03 * math.exp(-beta))
    assert (pairs.amax(1) - pairs.amin(1)).max() < 1e-13
    assert np.abs(pairs[:, 0].numpy() - common_angle(12, beta, False, times)).max() < 1e-8


@pytest.mark.parametrize("normalised", [True, False])
def test_prediction_03_terminal_rate(normalised):
    """1 - g decays at 2 (SA) and 2 e^beta (USA); fitted between 1 - g = 1e-2 and 1e-4 by chord lengths."""
    beta = 1.0
    rate = 2 if normalised else 2 * math.exp(beta)
    frame = torch.eye(8, dtype=torch.float64)[None]
    gap = lambda t, x: sphere.one_minus_cosine(x[0, 0], x[0, 1])  # noqa: E731
    times = torch.linspace(0, 24 / rate, 400)
    found = solve(Attention(beta, normalised=normalised), frame, times, step=0.1 / rate, save=gap)
    inside = (found.states < 1e-2) & (found.states > 1e-4)
    slope = np.polyfit(found.times[inside].numpy(), found.states[inside].log().numpy(), 1)[0]
    assert int(inside.sum()) > 20 and abs(-slope / rate - 1) < 0.01


def cross_ratio(x: torch.Tensor) -> torch.Tensor:
    """|x_i - x_j| |x_k - x_l| / (|x_i - x_k| |x_j - x_l|) of successive fours of tokens."""
    i, j, k, m = x[0].reshape(-1, 4, x.shape[-1]).unbind(1)
    return (i - j).norm(dim=-1) * (k - m).norm(dim=-1) / ((i - k).norm(dim=-1) * (j - m).norm(dim=-1))


def test_prediction_08_cross_ratios_are_conserved_without_temperature():
    """beta = 0: x_i' = P_{x_i} m with m the mean, a conformal (Moebius) flow of the sphere, so chord cross-ratios stay.

    d/dt |x_i - x_j|^2 = -2 d/dt <x_i, x_j> = -(<m, x_i> + <m, x_j>) |x_i - x_j|^2: log chords change by -(m_i + m_j) / 2, a sum
    over tokens that cancels in the ratio.
    """
    for d in (2, 5):
        x = sphere.uniform(24, d, random(d))
        for beta, changes in ((0.0, False), (1.0, True)):
            end = solve(Attention(beta), x, (0.0, 2.0), step=0.02).end
            worst = float((cross_ratio(end) / cross_ratio(x) - 1).abs().max())
            assert worst > 1e-2 if changes else worst < 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_prediction_09_hemisphere_is_kept_and_one_cluster_forms(seed):
    """d >= n: an open hemisphere holds the start; its margin never falls, for any Q and K when V = I, and one cluster forms."""
    x = sphere.uniform(8, 9, random(seed))
    v = Attention(1.0, Q=drawn(seed + 10, 4, 9), K=drawn(seed + 20, 4, 9))
    keep = lambda t, x: torch.tensor(sphere.hemisphere_margin(x[0])[0])  # noqa: E731
    found = solve(v, x, torch.arange(0, 30, 0.5), step=0.25, save=keep)
    assert found.states[0] > 0 and found.states.diff().min() > -1e-10
    assert float(sphere.spread(found.end)) < 1e-10


def test_prediction_11_negative_identity_spreads_to_barycentre_zero():
    found = solve(Attention(1.0, V=-torch.eye(4, dtype=torch.float64)), sphere.uniform(24, 4, random()), (0.0, 60.0), step=0.2)
    assert float(found.end.mean(1).norm()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_prediction_12_causal_tokens_all_end_at_the_first(seed):
    v = Attention(1.0, Q=drawn(seed, 3, 3) / 2, K=drawn(seed + 5, 3, 3) / 2, mask="causal")
    x = sphere.uniform(10, 3, random(seed))
    end = solve(v, x, (0.0, 400.0), step=0.25).end
    assert float(sphere.distance(end, x[:, :1]).max()) < 1e-6
    assert torch.allclose(end[:, 0], x[:, 0], atol=1e-14)


@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0])
def test_prediction_22_radius_bound_without_normalisation(scale):
    """V = -I, Q'K = I in flat space: no token goes beyond max(|x_i(0)|, sqrt(2 n)), and in the end tokens shrink."""
    x = scale * drawn(0, 3, 16, 3)
    v = Attention(1.0, V=-torch.eye(3, dtype=torch.float64), space="flat")
    radius = lambda t, x: x.norm(dim=-1).amax(1)  # noqa: E731
    found = solve(v, x, torch.linspace(0, 20, 81), method="adaptive", tolerance=1e-6, save=radius).states
    assert (found <= found[0].clamp_min(math.sqrt(2 * 16)) + 1e-9).all()
    assert (found[-1] < found[0]).all()


@pytest.mark.slow
def test_prediction_35_reversibility_before_and_after_collapse():
    """There and back: 1e-8 before collapse. After, what is rounded away is multiplied by e^t on the way back."""
    v, x = Attention(1.0), sphere.uniform(10, 10, random())
    errors = {}
    for span, h in ((2.0, 0.05), (26.0, 0.1), (29.0, 0.1), (32.0, 0.1)):
        ahead = solve(v, x, (0.0, span), step=h).end
        errors[span] = float((solve(v, ahead, (span, 0.0), step=h).end - x).norm())
    assert errors[2.0] < 1e-8
    slope = np.polyfit((26, 29, 32), [math.log(errors[s]) for s in (26.0, 29.0, 32.0)], 1)[0]
    assert 0.7 < slope < 1.3, errors
