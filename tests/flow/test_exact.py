"""Closed forms against quadrature, simulation and Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from headwater.flow import exact, integrate, sphere, velocity
from scipy.integrate import quad, solve_ivp
from scipy.special import exp1, expi


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def time_by_exponential_integrals(g: float, n: int, beta: float, g0: float, kind: str) -> float:
    """The same times through Ei and E1 (partial fractions), beta > 0."""
    u0, u1, w0, w1 = 1 - g0, 1 - g, g0 + 1 / (n - 1), g + 1 / (n - 1)
    near, far = expi(beta * u0) - expi(beta * u1), exp1(beta * w0) - exp1(beta * w1)
    if kind == "USA":
        return (math.exp(-beta) * near + math.exp(beta / (n - 1)) * far) / 2
    return (near + math.exp(beta * n / (n - 1)) * far + (n - 1) * math.log(w1 * u0 / (w0 * u1))) / (2 * n)


def test_prediction_04_times_to_cosine_09():
    table = {
        ("SA", 20): {0.1: 2.607, 1: 2.713, 2: 2.967, 5: 8.305},
        ("USA", 20): {0.1: 2.495, 1: 1.797, 2: 1.347, 5: 0.786},
        ("SA", 467): {0.1: 4.173, 1: 4.182, 2: 4.207, 5: 4.843},
    }
    for (kind, n), row in table.items():
        for beta, told in row.items():
            assert abs(exact.time_to_reach(0.9, n, beta, kind=kind) - told) < 1e-3


@pytest.mark.parametrize("kind", ["SA", "USA"])
def test_times_agree_with_exponential_integrals_and_with_the_curve(kind):
    for n, beta, g0, g in ((2, 3.0, -0.5, 0.9), (20, 1.0, 0.0, 0.999), (467, 8.0, 0.2, 0.9999), (5, 20.0, 0.1, 0.7)):
        found = exact.time_to_reach(g, n, beta, g0, kind)
        assert found == pytest.approx(time_by_exponential_integrals(g, n, beta, g0, kind), rel=1e-9)
        assert exact.common_angle_gap(found, n, beta, g0, kind) == pytest.approx(1 - g, rel=1e-8)
    plain = quad(lambda u: 1 / exact.common_angle_rate(u, 7, -2.0, kind), 0.0, 0.8)[0]  # repulsive inside the exponent
    assert exact.time_to_reach(0.8, 7, -2.0, kind=kind) == pytest.approx(plain, rel=1e-8)


def test_rate_of_the_common_angle_is_that_of_attention():
    for beta, normalised, kind in ((2.0, True, "SA"), (2.0, False, "USA"), (0.0, True, "SA")):
        x = torch.eye(6, dtype=torch.float64)[:5] + 0.3  # equiangular
        x = x / x.norm(dim=-1, keepdim=True)
        g = float(x[0] @ x[1])
        v = velocity.Attention(beta, normalised=normalised)(0.0, x[None])[0]
        assert exact.common_angle_rate(g, 5, beta, kind) == pytest.approx(float(v[0] @ x[1] + v[1] @ x[0]), rel=1e-12)


def test_gap_keeps_its_digits_and_order():
    late = exact.common_angle_gap([30.0, 0.0, 31.0], 20, 1.0)
    assert late[1] == 1.0 and 0 < late[2] < late[0] < 1e-20
    assert math.log(late[0] / late[2]) == pytest.approx(exact.terminal_rate(1.0), rel=1e-6)
    late = exact.common_angle_gap([5.0, 5.5], 20, 1.0, kind="USA")
    assert 2 * math.log(late[0] / late[1]) == pytest.approx(exact.terminal_rate(1.0, "USA"), rel=1e-6)
    assert exact.common_angle(np.zeros((2, 3)), 4, 1.0, 0.25).shape == (2, 3)
    assert exact.common_angle_gap(7.0, 4, 1.0, g0=1.0) == 0


@pytest.mark.slow
def test_prediction_05_concentration_in_high_dimension():
    """n=16, b=1, t=2: the largest deviation of a cosine from the common curve stays below sqrt(log d / d), slope -1/2."""
    g, dims, worst = float(exact.common_angle(2.0, 16, 1.0)), (64, 256, 1024, 4096), []
    for d in dims:
        x = sphere.uniform(16, d, batch=8, generator=stream(d))
        end = integrate.solve(velocity.Attention(1.0), x, [0.0, 2.0], step=0.1).end
        off = ((end @ end.mT) - g).abs()[:, ~torch.eye(16, dtype=torch.bool)].amax(-1)
        assert bool((off < math.sqrt(math.log(d) / d)).all()) or d == 64  # at d = 64 single draws may exceed it
        assert off.mean() < math.sqrt(math.log(d) / d)
        worst.append(float(off.mean()))
    slope = np.polyfit(np.log(dims), np.log(worst), 1)[0]
    assert abs(slope + 0.5) < 0.15, (slope, worst)


@pytest.mark.slow
def test_prediction_10_wendel_probability():
    draws = 400
    for n, d in ((6, 3), (8, 4), (5, 2)):
        inside = sum(sphere.hemisphere_margin(x)[0] > 1e-9 for x in sphere.uniform(n, d, batch=draws, generator=stream(n)))
        p = exact.wendel_probability(n, d)
        assert abs(inside / draws - p) < 3 * math.sqrt(p * (1 - p) / draws), (n, d, inside / draws, p)
    assert exact.wendel_probability(4, 4) == 1.0
    assert exact.wendel_probability(5, 3) == pytest.approx(11 / 16)


def two_token_time(g0: float, g1: float, beta: float) -> float:
    """Time of two simulated tokens on a circle from cosine g0 to g1, from their angle."""
    pull = velocity.Attention(beta)

    def rate(_: float, half: np.ndarray) -> list[float]:
        x = sphere.circle(torch.tensor([[half[0], -half[0]]], dtype=torch.float64))
        v = pull(0.0, x)[0, 0]
        return [float(v[1] * x[0, 0, 0] - v[0] * x[0, 0, 1])]

    def met(_: float, half: np.ndarray) -> float:
        return half[0] - math.acos(g1) / 2

    met.terminal = True
    top = math.exp(beta * (1 - g0)) * 10 + 100
    found = solve_ivp(rate, (0, top), [math.acos(g0) / 2], method="LSODA", rtol=1e-9, atol=1e-12, events=met)
    return float(found.t_events[0][0])


@pytest.mark.slow
def test_prediction_16_slope_of_the_merging_time():
    """log T of two simulated tokens against beta within 2 % of 1-g0-1/b, and T itself within 1e-5 of the integral.

    beta (1-g0) stays below 22: beyond, the pull of the other token drowns in the rounding of the own one.
    """
    for g0, beta in ((0.0, 10.0), (0.0, 18.0), (0.5, 24.0), (0.5, 38.0)):
        found = [two_token_time(g0, 0.95, b) for b in (beta, beta + 2)]
        assert found == pytest.approx([exact.merging_time(g0, 0.95, b) for b in (beta, beta + 2)], rel=1e-5)
        slope = math.log(found[1] / found[0]) / 2
        assert slope == pytest.approx(exact.merging_slope(beta + 1, g0), rel=0.02)


def test_merging_slope_misses_its_next_term_away_from_right_angles():
    """At g0 = 0.5 the next term is 3 % at b = 10: -2 g0 / ((1-g0^2) b^2) mends that; within 2 % from b = 20 on."""

    def slope(b: float) -> float:
        return math.log(exact.merging_time(0.5, 0.95, b + 0.01) / exact.merging_time(0.5, 0.95, b - 0.01)) / 0.02

    assert abs(slope(10) / exact.merging_slope(10, 0.5) - 1) > 0.02
    assert slope(20) == pytest.approx(exact.merging_slope(20, 0.5) - 1 / 0.75 / 400, rel=0.01)
    assert slope(20) == pytest.approx(exact.merging_slope(20, 0.5), rel=0.02)
    assert exact.merging_time(0.0, 0.9, 400.0) > 1e160 and exact.merging_time(-0.5, 0.9, 600.0) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("V, tolerance", [(-1.0, 3e-4), (1.0, 1e-2)])
def test_prediction_23_gaussian_flow_of_4000_quantiles(V, tolerance):
    """x' = V sum softmax(x x_j) x_j keeps a Gaussian; V = +1 only well before its blow-up, since tails are cut."""
    n, variance, mean, t = 4000, 0.5, 0.3, 0.4 if V > 0 else 1.0
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    x = (mean + math.sqrt(variance) * quantiles)[None, :, None]
    v = velocity.Attention(1.0, V=torch.full((1, 1), V, dtype=torch.float64), space="flat", fused=False)
    end = integrate.solve(v, x, [0.0, t], step=t / 5, space="flat").end[0, :, 0]
    m, cov = exact.gaussian_flow(t, np.array([mean]), np.array([[variance]]), np.array([[V]]), np.array([[1.0]]))
    assert cov[0, 0] == pytest.approx(float(exact.gaussian_variance(t, variance, V)), rel=1e-9)
    assert m[0] == pytest.approx(mean * math.exp(V * t) / math.sqrt(1 - 2 * V * variance * t), rel=1e-9)
    assert float(end.var(unbiased=False)) == pytest.approx(cov[0, 0], rel=tolerance)
    assert float(end.mean()) == pytest.approx(m[0], rel=tolerance)


def test_gaussian_velocity_is_affine_in_any_dimension():
    """One right-hand side: the softmax mean over a large Gaussian cloud is m + S A x, with A = K^T Q on the looking token."""
    n, Q, K, V = 200_000, torch.randn(2, 3, generator=stream(1)), torch.randn(2, 3, generator=stream(2)), torch.eye(3)
    Q, K, V = 0.5 * Q.double(), 0.5 * K.double(), V.double()
    root = torch.randn(3, 3, generator=stream(3)).double() * 0.5
    m = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
    cloud = m + torch.randn(n, 3, generator=stream(4), dtype=torch.float64) @ root.T
    x = torch.tensor([0.5, 0.3, -0.7], dtype=torch.float64)
    seen = torch.softmax(cloud @ (K.T @ (Q @ x)), 0) @ cloud
    assert torch.allclose(seen, m + (root @ root.T) @ (K.T @ Q) @ x, atol=0.01)
    with pytest.raises(ValueError, match="blows up at about t=0.5,"):
        exact.gaussian_flow(0.6, np.ones(1), np.eye(1), np.eye(1), np.eye(1))
    assert exact.gaussian_blow_up(1.0, 1.0) == 0.5 and exact.gaussian_blow_up(1.0, -1.0) == math.inf
    assert exact.gaussian_variance(0.5, 1.0, 1.0) == math.inf


@pytest.mark.parametrize("c, rho", [(0.7, 0.3), (1.0, 0.3), (2.5, 0.3), (0.5, 0.6), (4.0, 0.6), (1.5, 0.0), (0.2, 0.0)])
def test_prediction_26_long_context_limits(c, rho):
    """The formula against a dense softmax at small n, and its approach to the limit at rate n^{-|c(1-rho)-1|}."""
    n = 40
    gram = torch.full((n, n), rho, dtype=torch.float64) + (1 - rho) * torch.eye(n, dtype=torch.float64)
    x = torch.linalg.cholesky(gram)
    A = torch.softmax(c * math.log(n) * gram, -1) @ x
    assert exact.long_context_cosine(n, c, rho) == pytest.approx(float(A[0] @ A[1] / A[0].norm() / A[1].norm()), rel=1e-12)
    sizes = np.array([1e3, 1e4, 1e5, 1e6, 1e7])
    error = np.abs(exact.long_context_cosine(sizes, c, rho) - exact.long_context_limit(c, rho))
    speed = abs(c * (1 - rho) - 1) if rho else 1 - 2 * c if c < 0.5 else min(c, 2 * c - 1)
    assert (error <= 8 * sizes**-speed).all(), error * sizes**speed
    assert (np.diff(error) < 0).all()


def test_long_context_at_the_critical_value():
    for rho in (0.3, 0.6):
        c = 1 / (1 - rho)
        assert exact.long_context_cosine(1e7, c, rho) == pytest.approx(4 * rho / (1 + 3 * rho), abs=1e-5)
        assert exact.long_context_limit(c, rho) == pytest.approx(4 * rho / (1 + 3 * rho))
    assert np.round(exact.long_context_cosine(1e5, np.float64(1.0), 0.3), 3) == 0.998
    assert exact.long_context_cosine(1e300, 50.0, 0.3) == pytest.approx(0.3)


@pytest.mark.parametrize("root", [False, True])
def test_prediction_28_noci_closed_form(root):
    """60 random nets of 12 layers of uniform attention with skips: ratio of means within 10 %."""
    n, d, layers, spread, g = 20, 256, 12, 1.0, stream(7)
    scale = 1 / math.sqrt(layers) if root else 1.0
    dots = norms = 0.0
    for _ in range(60):
        x = torch.eye(n, d, dtype=torch.float64)
        for _ in range(layers if root else 5):
            W = spread * torch.randn(d, d, generator=g, dtype=torch.float64) / math.sqrt(d)
            x = x + scale * x.mean(0, keepdim=True) @ W
        gram = x @ x.T
        dots += float((gram.sum() - gram.trace()) / (n * (n - 1)))
        norms += float(gram.trace() / n)
    told = exact.noci_similarity(layers if root else 5, n, scale, spread)
    assert dots / norms == pytest.approx(told, rel=0.1)
    assert exact.noci_similarity(10**6, n, 1e-3) == pytest.approx((math.e - 1) / (math.e - 1 + n), rel=1e-5)
    assert exact.noci_similarity(10**6, n) == pytest.approx(1.0)


def renyi_count(x: torch.Tensor, angle: float) -> torch.Tensor:
    """Strong centres of sequences x (B, N, D): tokens farther than angle from every earlier token."""
    close = torch.triu((x @ x.mT) > math.cos(angle), 1)  # earlier row, later column
    return (~close.any(1)).sum(1)


@pytest.mark.parametrize("d, angle, limit", [(2, 0.3, math.pi / 0.3), (3, 0.5, 1 / math.sin(0.25) ** 2), (4, 0.7, None)])
def test_prediction_40_strong_renyi_count(d, angle, limit):
    draws, n = 300, 400
    count = renyi_count(sphere.uniform(n, d, batch=draws, generator=stream(d)), angle).double()
    told = exact.renyi_centres(angle, d, n)
    assert abs(float(count.mean()) - told) < 3 * float(count.std()) / math.sqrt(draws)
    assert exact.renyi_centres(angle, d) == pytest.approx(limit or 1 / exact.cap(angle, d))
    assert told == pytest.approx(exact.renyi_centres(angle, d), rel=0.01)  # saturated at n = 400
    if d == 3:  # the other constant once noted, 1/(3 sin^2), is far outside
        assert abs(float(count.mean()) - limit / 3) > 30 * float(count.std()) / math.sqrt(draws)


def test_caps():
    points = sphere.uniform(200_000, 5, generator=stream(5))[0]
    for angle in (0.8, 1.9):
        assert exact.cap(angle, 5) == pytest.approx(float((points[:, 0] > math.cos(angle)).double().mean()), abs=0.004)
    assert exact.cap(math.pi, 3) == pytest.approx(1.0) and exact.cap(0.4, 3) == pytest.approx(math.sin(0.2) ** 2)


def two_poles(n: int, d: int, share: float, size: float, seed: int) -> torch.Tensor:
    """Tokens near +-e_1 with a share at +, off by about `size`."""
    sign = torch.where(torch.arange(n) < round(share * n), 1.0, -1.0).double()
    x = size * torch.randn(n, d, generator=stream(seed), dtype=torch.float64)
    x[:, 0] = sign
    return sphere.project(x[None])


def pole_rate(follow, ratio: float, beta: float, share: float, t: float) -> float:
    """Late growth rate of the distance from +-e_1, simulated with V = diag(1, ratio)."""
    V = torch.diag(torch.tensor([1.0, ratio], dtype=torch.float64))
    x = two_poles(20, 2, share, 1e-7, 3)
    late = follow(x, [0.0, t / 2, t], 0.1, beta, V)
    return float((late[2][..., 1].norm() / late[1][..., 1].norm()).log() / (t / 2))


@pytest.mark.parametrize(
    "ratio, beta, share", [(0.2, 1.0, 0.5), (0.9, 1.0, 0.5), (0.5, 1.5, 0.8), (-0.5, 0.6, 0.7), (0.7, 0.5, 0.6)]
)
def test_bipolar_rate_is_the_simulated_one(follow, ratio, beta, share):
    told = exact.bipolar_rate(ratio, beta, share)
    assert pole_rate(follow, ratio, beta, share, 40.0 if told > 0 else 80.0) == pytest.approx(told, abs=0.01)


@pytest.mark.slow
def test_prediction_19_bipolar_iff_tanh(follow):
    """Balanced tokens 1e-3 from +-e_1: they return for lambda_2/lambda_1 = tanh b - .03 and leave for + .03, for several b."""
    for beta in (0.3, 0.7, 1.2):
        for side in (-0.03, 0.03):
            V = torch.diag(torch.tensor([1.0, math.tanh(beta) + side, 0.1], dtype=torch.float64))
            end = follow(two_poles(12, 3, 0.5, 1e-3, 1), [0.0, 400.0], 0.1, beta, V)[-1, 0]
            poles = bool((end[:6, 0] > 0.999).all() and (end[6:, 0] < -0.999).all())
            assert poles == (side < 0) == exact.bipolar_stable(math.tanh(beta) + side, beta)
    assert not exact.bipolar_stable(0.0, 0.3, 0.7) and exact.bipolar_stable(0.0, 0.5, 0.7)  # |logit| < 2 b


def test_what_cannot_be_is_refused():
    for call, words in (
        (lambda: exact.common_angle_rate(-0.6, 3, 1.0), "cannot share"),
        (lambda: exact.common_angle_gap(-1.0, 3, 1.0), "not negative"),
        (lambda: exact.time_to_reach(0.1, 3, 1.0, 0.2), "never reaches"),
        (lambda: exact.time_to_reach(1.0, 3, 1.0), "never reaches"),
        (lambda: exact.wendel_probability(0, 3), "Wendel"),
        (lambda: exact.cap(4.0, 3), "angle"),
        (lambda: exact.renyi_centres(0.0, 3), "positive angle"),
        (lambda: exact.bipolar_rate(0.1, 1.0, 1.0), "share"),
        (lambda: exact.gaussian_flow(0.1, np.ones(2), np.eye(3), np.eye(2), np.eye(2)), "shape"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
