"""Linear stability of the uniform state: growth of spherical harmonics, first cluster count, critical noise.

A perturbation of the uniform density on S^{d-1} by a harmonic of degree l grows as e^{rate t} (V = Q^T K = I). SA divides by the
softmax sum, USA by n. Rates are ratios of Bessel functions; they come from a backward recursion, so neither large beta nor large
d overflows. Derivation: docs/guide/flow-derivations.md.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp

from headwater.flow.exact import Kind


def _check(d: int, beta: float) -> None:
    if d < 2 or not np.isfinite(beta) or beta < 0:
        raise ValueError(f"Growth rates around uniform need d >= 2 and a finite beta >= 0, not d={d}, beta={beta}.")


def bessel_ratios(order: float, beta: float, count: int) -> np.ndarray:
    """I_{v+1}(beta) / I_v(beta) for v = order, order+1, ..., count of them; order >= 0, beta >= 0; each lies in [0, 1).

    Backward recursion r_v = 1 / (2(v+1)/beta + r_{v+1}) (Gautschi), started from Amos' bound far above.
    """
    if beta == 0:
        return np.zeros(count)
    last = count + 40 + int(9 * np.sqrt(beta))  # an error shrinks by about e^{-(2v+1)/beta} per step
    v = order + last
    ratio = beta / (v + 1 + np.hypot(v + 1, beta))
    found = np.empty(count)
    for k in range(last - 1, -1, -1):
        ratio = 1 / (2 * (order + k + 1) / beta + ratio)
        if k < count:
            found[k] = ratio
    return found


def log_uniform_sum(d: int, beta: float) -> float:
    """log of the mean of e^{beta <x,y>} over uniform y on S^{d-1}: log(Gamma(d/2) (2/beta)^nu I_nu(beta)), nu = d/2-1."""
    _check(d, beta)
    if beta == 0:
        return 0.0
    k = np.arange(int(beta) + 200)  # the largest term lies at k <= beta/2
    terms = 2 * k * np.log(beta / 2) - gammaln(k + 1) - gammaln(k + d / 2) + gammaln(d / 2)
    return float(logsumexp(terms))


def log_growth_rates(degrees: int, d: int, beta: float, kind: Kind = "SA") -> np.ndarray:
    """log of the growth rates of degrees 1..degrees; -inf where the rate is 0 (beta = 0, degree >= 2). Never overflows."""
    _check(d, beta)
    if degrees < 1:
        raise ValueError("Ask for at least one harmonic degree.")
    l, nu = np.arange(1, degrees + 1), d / 2 - 1
    if beta == 0:
        return np.where(l == 1, np.log((d - 1) / d), -np.inf)
    rates = np.log(l * (l + d - 2.0)) + np.cumsum(np.log(bessel_ratios(nu, beta, degrees))) - np.log(beta)
    return rates if kind == "SA" else rates + log_uniform_sum(d, beta)


def growth_rates(degrees: int, d: int, beta: float, kind: Kind = "SA") -> np.ndarray:
    """Growth rates of the harmonics of degree 1..degrees around the uniform density on S^{d-1}.

    SA: l(l+d-2) I_{l+nu}(beta) / (beta I_nu(beta)), nu = d/2-1. USA: l(l+d-2) Gamma(d/2) (2/beta)^nu I_{l+nu}(beta) / beta.
    V = -I turns the sign. Raises ValueError if a USA rate leaves float64 (beta beyond about 700): use log_growth_rates.
    """
    logs = log_growth_rates(degrees, d, beta, kind)
    if logs.max() > 700:
        raise ValueError(f"Rates of USA at beta={beta:g} exceed float64; use log_growth_rates.")
    return np.exp(logs)


def first_degree(d: int, beta: float) -> int:
    """Harmonic degree that grows fastest around uniform (the same for SA and USA); about sqrt(2 beta) for large beta, d = 2."""
    return int(np.argmax(log_growth_rates(int(4 * np.sqrt(2 * beta)) + 10, d, beta))) + 1


def first_cluster_count(d: int, beta: float) -> float:
    """Expected number of clusters that form first from a nearly uniform start.

    d = 2: the fastest degree k itself (k peaks around the circle), about sqrt(2 beta). d >= 3: 1 / cap(pi/l) of the fastest
    degree l, caps of half a wavelength around each peak: a scale, not a law.
    """
    from headwater.flow.exact import cap

    fastest = first_degree(d, beta)
    return float(fastest) if d == 2 or fastest == 1 else 1 / cap(np.pi / fastest, d)


def critical_kappa(d: int, beta: float, kind: Kind = "USA") -> float:
    """kappa_c: with Brownian noise sqrt(2/kappa) the uniform state is linearly stable for kappa < kappa_c.

    USA: beta^{d/2} / (2^{d/2-1} Gamma(d/2) I_{d/2}(beta)), d at beta = 0; SA: beta I_nu/I_{nu+1}, also d at beta = 0. Degree 1
    always goes first: l(l+d-2) (Lam_l/beta - 1/kappa) and Lam_l falls with l.
    """
    return float((d - 1) * np.exp(-log_growth_rates(1, d, beta, kind)[0]))


def transition_beta(d: int) -> float:
    """beta_* of Mun and Rosenzweig (arXiv 2606.05140): I_{d/2+1}/I_{d/2}(beta_*) = 1/d.

    Up to it the noisy transition from uniform to clustered is continuous, beyond it discontinuous (recalled from the abstract).
    """
    _check(d, 0.0)
    return float(brentq(lambda beta: bessel_ratios(d / 2, beta, 1)[0] - 1 / d, 1e-9, 10.0 * d + 10))
