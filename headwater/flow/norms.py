"""Normalisation as speed: where the norm sits decides how fast equiangular tokens agree.

Tokens x_i = r theta_i, theta_i on the sphere, theta_i' = P_{theta_i} A_i / s, A_i the softmax attention of the thetas (V = I),
s by scheme: post 1; pre r with r' = <theta, A>; peri r |A| with r' = <theta, A>/|A|; ngpt |A|/alpha. mix is post until a switch,
then pre. Source of the schemes as speeds: Karagodin et al., "Normalization in attention dynamics" (2025).
"""

from typing import Literal

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import expit

from headwater.flow.exact import TIGHT, Numbers, common_angle_rate

Scheme = Literal["post", "pre", "peri", "ngpt", "mix"]


def attention_of_equiangular(g: float, n: int, beta: float) -> tuple[float, float]:
    """(<theta_i, A_i>, |A_i|) of softmax attention over n tokens of common cosine g; stable for any beta."""
    other = float(expit(beta * (g - 1) + np.log(n - 1)))  # weight of all other tokens together
    own, each = 1 - other, other / (n - 1)
    along = own + other * g
    square = own**2 + 2 * own * other * g + each * other * (1 + (n - 2) * g)
    return along, float(np.sqrt(square))


def speeds(scheme: Scheme, g: float, r: float, n: int, beta: float, alpha: float = 1.0) -> tuple[float, float]:
    """(s, r'): the divisor of the angular speed and the growth of the radius at common cosine g and radius r > 0.

    For mix this is the second (pre) phase; its first is post. Raises ValueError for an unknown scheme or r <= 0.
    """
    if not r > 0:
        raise ValueError(f"The radius of the tokens must be positive, not {r}.")
    along, size = attention_of_equiangular(g, n, beta)
    found = {"post": (1.0, 0.0), "pre": (r, along), "peri": (r * size, along / size), "ngpt": (size / alpha, 0.0)}
    found["mix"] = found["pre"]
    if scheme not in found:
        raise ValueError(f"No normalisation scheme {scheme!r}; choose one of {', '.join(found)}.")
    return found[scheme]


def initial_speed(scheme: Scheme, n: int, beta: float, r0: float = 1.0, alpha: float = 1.0) -> float:
    """g'(0) of orthogonal tokens.

    post, mix: 2/(e^b+n-1); pre: 2/(r0 (e^b+n-1)); peri: 2/(r0 sqrt(e^{2b}+n-1)); ngpt: 2 alpha/sqrt(e^{2b}+n-1).
    """
    if scheme in ("post", "mix", "pre"):
        return 2 / (np.exp(beta) + n - 1) / (r0 if scheme == "pre" else 1.0)
    if scheme in ("peri", "ngpt"):
        return 2 / np.sqrt(np.exp(2 * beta) + n - 1) * (alpha if scheme == "ngpt" else 1 / r0)
    raise ValueError(f"No normalisation scheme {scheme!r}; choose post, pre, peri, ngpt or mix.")


def terminal_law(scheme: Scheme, alpha: float = 1.0) -> tuple[Literal["exponential", "power"], float]:
    """How 1-g ends: ("exponential", rate) for e^{-rate t}, or ("power", 2) for t^{-2}."""
    if scheme in ("post", "ngpt"):
        return "exponential", 2.0 if scheme == "post" else 2.0 * alpha
    speeds(scheme, 0.0, 1.0, 2, 0.0)  # an unknown name fails here
    return "power", 2.0


def normalised_gap(
    t: Numbers, scheme: Scheme, n: int, beta: float, *, g0: float = 0.0, r0: float = 1.0, alpha: float = 1.0, switch: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(1-g, r) at times t >= 0 from the coupled equation g' = common_angle_rate / s, r' by scheme; mix switches at time `switch`.

    Solved in log(1-g), so that 1-g keeps its relative accuracy (about 1e-9).
    """
    times, back = np.unique(np.atleast_1d(np.asarray(t, dtype=float)), return_inverse=True)
    if times[0] < 0 or not np.isfinite(times).all():
        raise ValueError("Times must be finite and not negative.")

    def rate(_: float, y: np.ndarray, phase: str) -> list[float]:
        gap = float(np.exp(y[0]))
        s, grow = speeds(phase, 1 - gap, y[1], n, beta, alpha)
        close = 2 * ((n - 1) * (1 - gap) + 1) / (np.exp(min(beta * gap, 700.0)) + n - 1)  # g' / (1-g)
        return [-close / s, grow]

    common_angle_rate(g0, n, beta)  # checks g0
    found, start, state = np.empty((2, len(times))), 0.0, np.array([np.log1p(-g0), float(r0)])
    parts = [("post", min(switch, times[-1])), ("pre", times[-1])] if scheme == "mix" else [(scheme, times[-1])]
    for phase, stop in parts:
        inside = (times >= start) & (times <= stop)
        if stop > start:
            asked = np.append(times[inside], stop)
            solved = solve_ivp(rate, (start, stop), state, t_eval=np.unique(asked), args=(phase,), **TIGHT)
            found[:, inside] = solved.y[:, : inside.sum()]
            state, start = solved.y[:, -1], stop
        elif inside.any():
            found[:, inside] = state[:, None]
    shape = np.shape(t)
    return np.exp(found[0][back]).reshape(shape), found[1][back].reshape(shape)
