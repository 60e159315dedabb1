"""Closed forms of interacting tokens: what simulations, and other rooms' null curves, are compared with.

SA is softmax attention on the unit sphere, x_i' = P_{x_i} sum_j softmax_j(beta <x_i, x_j>) x_j; USA divides by n instead of the
softmax sum. Everything is float64. Derivations: docs/guide/flow-derivations.md. Growth around the uniform state: onset.py;
normalisation schemes: norms.py.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.integrate import quad, solve_ivp
from scipy.special import betainc, expit
from scipy.stats import binom

Kind = Literal["SA", "USA"]
Numbers = float | Sequence[float] | np.ndarray
TIGHT = dict(rtol=1e-12, atol=1e-13, method="DOP853")


def _check_angle(g: Numbers, n: int) -> None:
    if n < 2 or np.any(~np.isfinite(g)) or np.any(np.asarray(g) <= -1 / (n - 1)) or np.any(np.asarray(g) > 1):
        raise ValueError(f"{n} tokens cannot share the cosine {g}; give n >= 2 and -1/(n-1) < g <= 1.")


def common_angle_rate(g: Numbers, n: int, beta: float, kind: Kind = "SA") -> np.ndarray:
    """dg/dt of the cosine g shared by all pairs of n equiangular tokens, -1/(n-1) < g <= 1, any real beta.

    SA: 2 (1-g) ((n-1) g + 1) / (e^{beta (1-g)} + n - 1). USA: (2/n) e^{beta g} (1-g) ((n-1) g + 1), inf beyond float64.
    Source: Geshkovski, Letrouit, Polyanskiy, Rigollet, "A mathematical perspective on transformers", Theorem 6.8.
    """
    _check_angle(g, n)
    g = np.asarray(g, dtype=float)
    shape = 2 * (1 - g) * ((n - 1) * g + 1)
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "SA":
            return np.asarray(shape / (np.exp(beta * (1 - g)) + n - 1))
        return np.where(shape == 0, 0.0, shape / n * np.exp(beta * g))


def _gap(s: Numbers, n: int) -> np.ndarray:
    """1-g at s = log((g + 1/(n-1)) / (1-g)), the coordinate in which the common angle moves without stiffness."""
    return np.asarray(n / (n - 1) * expit(-np.asarray(s)))


def _coordinate(g: float, n: int) -> float:
    return float(np.log(g + 1 / (n - 1)) - np.log1p(-g))


def common_angle_gap(t: Numbers, n: int, beta: float, g0: float = 0.0, kind: Kind = "SA") -> np.ndarray:
    """1-g(t), accurate to about 1e-10 relative however small; t >= 0 in any order, -1/(n-1) < g0 <= 1.

    In s = log((g + 1/(n-1))/(1-g)) the equation reads s' = 2n/(e^{beta(1-g)} + n - 1) for SA and s' = 2 e^{beta g} for USA.
    """
    _check_angle(g0, n)
    times, back = np.unique(np.atleast_1d(np.asarray(t, dtype=float)), return_inverse=True)
    if not np.isfinite(times).all() or times[0] < 0:
        raise ValueError("Times of the common-angle curve must be finite and not negative.")
    if g0 == 1.0:
        return np.zeros(np.shape(t))

    def rate(_: float, s: np.ndarray) -> np.ndarray:
        gap = _gap(s, n)
        return 2 * n / (np.exp(np.minimum(beta * gap, 700)) + n - 1) if kind == "SA" else 2 * np.exp(beta * (1 - gap))

    if times[-1] == 0:
        return np.full(np.shape(t), 1 - g0)
    found = solve_ivp(rate, (0.0, times[-1]), [_coordinate(g0, n)], t_eval=times, **TIGHT)
    if not found.success or not np.isfinite(found.y).all():
        raise ValueError(f"The common-angle curve cannot be followed to t={times[-1]:g} at beta={beta:g}: {found.message}")
    return _gap(found.y[0], n)[back].reshape(np.shape(t))


def common_angle(t: Numbers, n: int, beta: float, g0: float = 0.0, kind: Kind = "SA") -> np.ndarray:
    """g(t): the cosine shared by all pairs of n tokens that start equiangular at g0 (orthonormal: 0). See common_angle_gap."""
    return np.asarray(1 - common_angle_gap(t, n, beta, g0, kind))


def time_to_reach(g: float, n: int, beta: float, g0: float = 0.0, kind: Kind = "SA") -> float:
    """Time at which the common cosine passes g, g0 <= g < 1; inf where it exceeds float64 (SA, beta (1-g0) beyond 700).

    SA: int_{g0}^{g} (e^{beta(1-u)} + n - 1) / (2 (1-u) ((n-1)u + 1)) du; USA: int n e^{-beta u} / (same) du; by quadrature in s.
    """
    _check_angle(g0, n)
    if not g0 <= g < 1:
        raise ValueError(f"The common cosine starts at {g0} and never reaches {g}; ask for g0 <= g < 1.")
    low, high = _coordinate(g0, n), _coordinate(g, n)
    top = beta * (1 - g0) if kind == "SA" else -beta * g0  # largest exponent at g0 when beta > 0
    top = max(top, beta * (1 - g) if kind == "SA" else -beta * g)

    def weight(s: float) -> float:
        exponent = beta * _gap(s, n) - (0.0 if kind == "SA" else beta)
        return float(np.exp(exponent - top))

    near = [low + (high - low) * f for f in (1e-3, 1e-2, 0.1, 0.5)]
    area = quad(weight, low, high, epsabs=0, epsrel=1e-11, limit=400, points=near)[0] if high > low else 0.0
    with np.errstate(over="ignore"):
        scaled = area * float(np.exp(np.float64(top)))
    return (scaled + (n - 1) * (high - low)) / (2 * n) if kind == "SA" else scaled / 2


def terminal_rate(beta: float, kind: Kind = "SA") -> float:
    """Rate at which 1-g decays once tokens nearly agree: 2 for SA, 2 e^beta for USA, whatever n."""
    return 2.0 if kind == "SA" else 2.0 * float(np.exp(beta))


def merging_time(g0: float, g1: float, beta: float) -> float:
    """Time in which two tokens (or two equal tight clusters) go from cosine g0 to g1 under SA.

    T = int_{g0}^{g1} (e^{beta(1-g)} + 1) / (2 (1-g^2)) dg, -1 < g0 <= g1 < 1: the common-angle time of n = 2.
    """
    return time_to_reach(g1, 2, beta, g0)


def merging_slope(beta: float, g0: float) -> float:
    """Leading slope d log T / d beta = 1 - g0 - 1/beta of the merging time for large beta.

    Laplace's method leaves -2 g0 / ((1-g0^2) beta^2) + O(beta^-3) out: at g0 = 0.5, beta = 10 that
    term is 3 %, and the slope itself 10 % off (1.4 % at 20).
    """
    return 1 - g0 - 1 / beta


def gaussian_flow(t: float, mean: np.ndarray, cov: np.ndarray, V: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d) and covariance (d, d) at time t of a Gaussian of tokens under softmax attention without normalisation.

    m' = V (I + S A) m, S' = V S A S + (V S A S)^T, where A = K^T Q acts on the token that looks. Raises ValueError when the
    covariance blows up before t. Source: Castin et al., "A unified perspective on the dynamics of deep transformers" (2025).
    """
    mean, cov, V, A = (np.asarray(a, dtype=float) for a in (mean, cov, V, A))
    d = len(mean)
    if cov.shape != (d, d) or V.shape != (d, d) or A.shape != (d, d):
        raise ValueError(f"A mean of {d} numbers needs covariance, V and A of shape ({d}, {d}).")

    def rate(_: float, y: np.ndarray) -> np.ndarray:
        m, S = y[:d], y[d:].reshape(d, d)
        grow = V @ S @ A @ S
        return np.concatenate([V @ (m + S @ A @ m), (grow + grow.T).ravel()])

    def blown(_: float, y: np.ndarray) -> float:
        return 1e12 * (1 + np.abs(cov).max()) - np.abs(y).max()

    blown.terminal = True
    found = solve_ivp(rate, (0.0, t), np.concatenate([mean, cov.ravel()]), events=blown, **TIGHT)
    if not found.success or len(found.t_events[0]):
        raise ValueError(f"The Gaussian blows up at about t={found.t[-1]:.6g}, before t={t:g}; ask for an earlier time.")
    return found.y[:d, -1], found.y[d:, -1].reshape(d, d)


def gaussian_variance(t: Numbers, variance: float, strength: float) -> np.ndarray:
    """Variance of a 1-D Gaussian of tokens, s0 / (1 - 2 VA s0 t), with strength = V A; inf from the blow-up on."""
    left = 1 - 2 * strength * variance * np.asarray(t, dtype=float)
    return np.where(left > 0, variance / np.where(left > 0, left, 1.0), np.inf)


def gaussian_blow_up(variance: float, strength: float) -> float:
    """Time 1 / (2 VA s0) at which the 1-D variance becomes infinite; inf if V A <= 0."""
    return 1 / (2 * strength * variance) if strength > 0 else float("inf")


def noci_similarity(layers: Numbers, n: int, scale: float = 1.0, spread: float = 1.0) -> np.ndarray:
    """Mean dot product over mean squared norm of n tokens after uniform attention with residual scale and iid values.

    rho_L = (u-1)/(u+n-1), u = (1 + scale^2 spread^2)^L, orthonormal start, values W of variance spread^2/d. The ratio of
    means, not the mean of ratios. scale = 1/sqrt(L) gives u -> e^{spread^2} < inf. Setting: Noci et al. 2022.
    """
    grown = np.asarray(layers, dtype=float) * np.log1p((scale * spread) ** 2)
    return np.asarray(-np.expm1(-grown) / (1 + (n - 1) * np.exp(-grown)))


def long_context_cosine(n: Numbers, c: float, rho: float) -> np.ndarray:
    """Cosine between two outputs of softmax attention over n equiangular tokens (cosine rho >= 0) with beta = c log n.

    Outputs are ~ (w-1) x_i + sum_k x_k with w = n^{c(1-rho)}. Stable for any n >= 2, c.
    """
    n = np.asarray(n, dtype=float)
    power = np.log(n) * max(c * (1 - rho), 1.0)  # everything divided by this largest scale, squared
    own = np.exp(np.log(n) * c * (1 - rho) - power) - np.exp(-power)
    one = np.exp(-power)
    total = (1 + (n - 1) * rho) * one
    both = 2 * own * total + (n * one) * total
    return np.asarray((own**2 * rho + both) / (own**2 + both))


def long_context_limit(c: float, rho: float) -> float:
    """Limit of long_context_cosine for n -> infinity: 1, 4 rho/(1+3 rho) or rho for c (1-rho) below, at or above 1 (0 < rho < 1).

    Away from the critical value the error falls as n^{-|c(1-rho)-1|}, which is slow. At rho = 0 the threshold is c = 1/2.
    """
    critical = 1.0 if rho > 0 else 0.5
    if np.isclose(c * (1 - rho), critical, rtol=0, atol=1e-12):
        return 4 * rho / (1 + 3 * rho) if rho > 0 else 0.5
    return 1.0 if c * (1 - rho) < critical else float(rho)


def wendel_probability(n: int, d: int) -> float:
    """Probability 2^{-(n-1)} sum_{k<d} C(n-1, k) that n uniform points on S^{d-1} lie in some open hemisphere (Wendel 1962)."""
    if n < 1 or d < 1:
        raise ValueError(f"Wendel's probability needs n >= 1 points and d >= 1, not n={n}, d={d}.")
    return float(binom.cdf(d - 1, n - 1, 0.5))


def cap(angle: float, d: int) -> float:
    """Share of the area of S^{d-1} within the given angle (radians, 0 to pi) of a point: angle/pi (d=2), sin^2(angle/2) (d=3)."""
    if d < 2 or not 0 <= angle <= np.pi:
        raise ValueError(f"A cap needs d >= 2 and an angle between 0 and pi, not d={d}, angle={angle}.")
    half = 0.5 * float(betainc((d - 1) / 2, 0.5, np.sin(angle) ** 2))
    return half if angle <= np.pi / 2 else 1 - half


def renyi_centres(angle: float, d: int, n: int | None = None) -> float:
    """Expected number of strong Renyi centres among n uniform tokens: no earlier token (centre or not) within the angle.

    (1 - (1-cap)^n) / cap, 1/cap for n -> infinity (None): pi/angle on the circle, 1/sin^2(angle/2) on S^2. Under causal
    attention angle = c beta^{-1/2} counts the metastable clusters (Karagodin, Polyanskiy, Rigollet 2024).
    """
    area = cap(angle, d)
    if area == 0:
        raise ValueError("Renyi centres need a positive angle.")
    return (1.0 if n is None else float(-np.expm1(n * np.log1p(-area))) if area < 1 else 1.0) / area


def bipolar_rate(ratio: float, beta: float, share: float = 0.5) -> float:
    """Fastest growth rate, in units of lambda_1 > 0, of a perturbation of two clusters at +-phi_1; negative: stable.

    ratio = lambda_2/lambda_1 (the other eigenvalues of V, real parts), share = fraction of tokens at +phi_1. With
    a = sigma(2 beta + logit share), c = sigma(2 beta - logit share): relative modes 1-2a, 1-2c; common modes the eigenvalues of
    [[ratio a - (2a-1), ratio (1-a)], [ratio (1-c), ratio c - (2c-1)]]. Equal shares: stable iff ratio < tanh(beta).
    beta stands for beta <Q phi_1, K phi_1> when Q^T K is not I.
    """
    if not 0 < share < 1:
        raise ValueError(f"Both poles need tokens: share must lie strictly between 0 and 1, not {share}.")
    logit = np.log(share / (1 - share))
    a, c = expit(2 * beta + logit), expit(2 * beta - logit)
    move = np.array([[ratio * a - (2 * a - 1), ratio * (1 - a)], [ratio * (1 - c), ratio * c - (2 * c - 1)]])
    return float(max(1 - 2 * a, 1 - 2 * c, np.linalg.eigvals(move).real.max()))


def bipolar_stable(ratio: float, beta: float, share: float = 0.5) -> bool:
    """Whether two clusters at +-phi_1 persist: lambda_2/lambda_1 < tanh(beta) for equal shares. See bipolar_rate."""
    return bipolar_rate(ratio, beta, share) < 0
