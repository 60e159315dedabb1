"""Infinitely many tokens on the sphere: d/dt rho + div(rho v[rho]) = Laplacian rho / kappa, by spherical harmonics.

v[rho](x) = strength P_x int w(<x, y>) y rho(y) dy / Z(x), Z = int w(<x, y>) rho(y) dy for SA and 1 for USA; w(s) = e^{beta s},
or any zonal weight. P_x w(<x, y>) y is the gradient of W(<x, y>), W' = w, and by Funk and Hecke int W(<x, y>) Y_l(y) dy =
W_l Y_l: the integrals are products of coefficients, exact to rounding. The flux is multiplied out on a grid fine enough that no
product of three harmonics is aliased, and tested against gradients of harmonics, so that mass is kept exactly. Time: Runge-Kutta
of order 4 with the noise as integrating factor (Lawson 1967). circle.py and two_sphere.py bring the harmonics.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.sphere import uniform

Density = Callable[[Tensor], Tensor]
MOST = 1_000_000  # steps that a solve may need
SPAN = 1e-12  # smallest over largest softmax sum Z that double precision still tells apart


@dataclass(frozen=True)
class Evolution:
    """A solved density. times (T,); coefficients (T, ...) of the harmonics; at each time: mass, lowest value on the grid, tail =
    largest coefficient in the highest eighth of the degrees relative to that of the mean. resolved: False if cut early."""

    field: "MeanField"
    times: np.ndarray
    coefficients: np.ndarray
    mass: np.ndarray
    lowest: np.ndarray
    tail: np.ndarray
    resolved: bool
    steps: int

    def density(self, x: Float[Tensor, "*S D"], index: int = -1) -> Float[Tensor, "*S"]:
        """rho at points of the sphere, at times[index], in float64."""
        return self.field.density(self.coefficients[index], x)

    def sample(self, n: int, generator: torch.Generator, *, batch: int = 1, index: int = -1) -> Float[Tensor, "B N D"]:
        """n independent points of law rho at times[index] for each member of the batch."""
        return self.field.sample(self.coefficients[index], n, generator, batch=batch)


class Unresolved(ValueError):
    """The harmonics at hand no longer hold the density. Attributes: t, reason, evolution (the part that is resolved, or None)."""

    def __init__(self, t: float, reason: str, evolution: Evolution | None):
        super().__init__(
            f"mean field: not resolved at t={t:.6g}: {reason};"
            " take more degrees, or particles that carry log-density (density.push)"
        )
        self.t, self.reason, self.evolution = t, reason, evolution


class MeanField(ABC):
    """The mean field on S^{d-1}; Circle and TwoSphere are its two forms.

    Args:   beta: inverse temperature; not looked at if `weight` is given. degrees: the highest harmonic L that is kept.
            kind: "SA" (softmax sum) | "USA". kappa: Brownian noise sqrt(2 / kappa) per particle; None is none.
            strength: V = strength * identity; -1 repels. weight: w(s) on [-1, 1] in place of e^{beta s}; positive for SA.
            tail: highest degrees above this (relative) count as unresolved. The error of the density is of its order.
    """

    width = 0  # d

    def __init__(
        self,
        beta: float = 1.0,
        degrees: int = 64,
        *,
        kind: str = "SA",
        kappa: float | None = None,
        strength: float = 1.0,
        weight: Callable[[np.ndarray], np.ndarray] | None = None,
        tail: float = 1e-6,
    ):
        if kind not in ("SA", "USA") or degrees < 4 or not math.isfinite(beta) or not math.isfinite(strength):
            raise ValueError(
                f"mean field: kind={kind!r}, degrees={degrees}, beta={beta}: use SA or USA, 4 or more, finite numbers"
            )
        if (kappa is not None and not kappa > 0) or not 0 < tail < 1:
            raise ValueError(f"mean field: kappa={kappa}, tail={tail}: needs positive kappa and a tail in (0, 1)")
        if kind == "USA" and weight is None and abs(beta) > 700:
            raise ValueError(f"mean field: e^beta overflows for USA at beta={beta:g}: use SA, or |beta| up to 700")
        self.beta, self.degrees, self.kind, self.kappa, self.tail = float(beta), degrees, kind, kappa, tail
        own = weight is None
        scale = math.exp(abs(beta)) if own and kind == "USA" else 1.0  # taken out of the weight, so that it stays within 1
        with np.errstate(all="ignore"):  # looked at below
            zonal = self.zonal((lambda s: np.exp(beta * s - abs(beta))) if own else weight)  # degrees 0 .. L + 1
        if not np.isfinite(zonal).all():
            raise ValueError("mean field: the weight is not finite on all of [-1, 1]")
        l, d = np.arange(degrees + 1), self.width
        self.sums = zonal[:-1]  # w_l
        self.pulls = np.zeros(degrees + 1)  # W_l = (w_{l-1} - w_{l+1}) / (2 l + d - 2), by parts
        self.pulls[1:] = strength * scale * (zonal[:-2] - zonal[2:]) / (2 * l[1:] + d - 2)
        self.laplace = l * (l + d - 2.0)

    def rates(self) -> np.ndarray:
        """Growth rates of degrees 0 .. L around the uniform density: l (l + d - 2) (W_l / w_0 - 1 / kappa); USA: W_l / area.

        Put rho = rho_0 (1 + a Y_l): v = grad(W_l rho_0 a Y_l) / Z_0 with Z_0 = w_0 rho_0 (USA: 1), and to first order
        a' Y_l = -div v = l (l + d - 2) W_l (rho_0 / Z_0) a Y_l. `onset.growth_rates` has the closed forms.
        """
        still = self.pulls / (self.sums[0] if self.kind == "SA" else self.area())
        return self.laplace * (still - (0.0 if self.kappa is None else 1 / self.kappa))

    def start(self, rho: Density) -> np.ndarray:
        """Coefficients of a density given as a function of points (*S, D) -> (*S), scaled to mass 1."""
        values = rho(self.points()).detach().double().numpy()
        if values.shape != tuple(self.points().shape[:-1]):
            raise ValueError(f"mean field: the starting density maps points (*S, {self.width}) to {values.shape}; needs (*S)")
        if not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
            raise ValueError("mean field: the starting density must be finite, nowhere negative and not zero")
        c = self.analyse(values)
        return c / self.mass(c)

    def solve(
        self, rho: Density | np.ndarray, times: Iterable[float], *, step: float | None = None, partial: bool = False
    ) -> Evolution:
        """The density at `times` (rising) from rho at times[0], a function of points or coefficients.

        step: the largest; shortened to half a grid cell per step (Courant) and a twentieth of the fastest growth time.
        Raises: Unresolved when the tail of the spectrum, a negative density or the range of Z shows that the density has outgrown
        the degrees; partial=True returns what is resolved, at its last time, with resolved=False.
        """
        marks = [float(t) for t in times]
        if len(marks) < 1 or not all(map(math.isfinite, marks)) or any(b <= a for a, b in zip(marks, marks[1:], strict=False)):
            raise ValueError(f"mean field: times {marks[:6]}: needs finite, strictly rising ones")
        if step is not None and not step > 0:
            raise ValueError(f"mean field: step={step}: needs a positive one")
        c, t, kept, steps, reason = self.start(rho) if callable(rho) else np.array(rho), marks[0], [], 0, ""
        if self.by_degree(c).shape[0] != self.degrees + 1:
            raise ValueError(f"mean field: coefficients of shape {c.shape} for degrees up to {self.degrees}")
        for mark in marks:
            while True:
                slope, speed, seen = self._slope(c)
                reason = self._trouble(seen)
                if reason or t == mark:
                    break
                h, left = self._step(mark - t, speed, step)
                steps += 1
                if steps + left > MOST:
                    raise ValueError(f"mean field: needs about {steps + left:.0f} steps to t={mark:g}: shorten the time")
                c, t = self._moved(c, slope, h), (mark if left == 1 else t + h)
            if reason and not (partial and kept):
                raise Unresolved(t, reason, self._evolution(kept, False, steps) if kept else None)
            if reason:
                break
            kept.append((t, c, *seen[:3]))
        return self._evolution(kept, not reason, steps)

    def sample(self, c: np.ndarray, n: int, generator: torch.Generator, *, batch: int = 1) -> Float[Tensor, "B N D"]:
        """Independent points of the density with coefficients c, by rejection from uniform."""
        top, have, kept = 1.02 * float(self.values(c).max()), 0, []
        while have < batch * n:
            x = uniform(max(1024, 2 * (batch * n - have)), self.width, generator)[0]
            level = top * torch.rand(len(x), generator=generator, dtype=torch.float64, device=generator.device)
            kept.append(x[level < self.density(c, x)])
            have += len(kept[-1])
        return torch.cat(kept)[: batch * n].view(batch, n, self.width)

    def area(self) -> float:
        """Surface of S^{d-1}."""
        return 2 * math.pi ** (self.width / 2) / math.gamma(self.width / 2)

    def _evolution(self, kept: list, resolved: bool, steps: int) -> Evolution:
        times, c, mass, lowest, tail = (np.array(part) for part in zip(*kept, strict=True))
        return Evolution(self, times, c, mass, lowest, tail, resolved, steps)

    def _slope(self, c: np.ndarray) -> tuple[np.ndarray, float, tuple[float, ...]]:
        """Change of c by the flow alone, the largest speed, and (mass, lowest, tail, largest, smallest Z over largest)."""
        with np.errstate(all="ignore"):  # _trouble judges what comes out
            rho, v, z = self.on_grid(c)
            v = v / z if self.kind == "SA" else v
            span = float(z.min() / z.max()) if self.kind == "SA" else 1.0
            size = np.abs(self.by_degree(c))
            seen = (self.mass(c), float(rho.min()), float(size[-max(1, self.degrees // 8) :].max() / size[0].max()))
            slope, speed = self.flux(rho * v), float(np.sqrt((v * v).sum(0)).max())
            return slope, speed, (*seen, float(rho.max()), span)

    def _trouble(self, seen: tuple[float, ...]) -> str:
        _, lowest, tail, largest, span = seen
        if not all(map(math.isfinite, seen)):
            return "the density is not finite"
        if span < SPAN:
            return (
                f"softmax sums lose positivity or span more than 1e12 over the sphere (beta={self.beta:g}): too much for doubles"
            )
        if tail > self.tail:
            return f"degrees up to {self.degrees} leave a tail of {tail:.2g}, above {self.tail:.2g}"
        if lowest < -10 * self.tail * largest:
            return f"the density falls to {lowest:.2g}"
        return ""

    def _step(self, left: float, speed: float, step: float | None) -> tuple[float, int]:
        fastest = np.abs(self.laplace * self.pulls).max() / (self.sums[0] if self.kind == "SA" else self.area())
        limit = min(0.5 / max(self.degrees * speed, 1e-300), 0.05 / max(fastest, 1e-300), step or math.inf)
        count = max(1, math.ceil(left / limit * (1 - 1e-9)))
        return left / count, count

    def _moved(self, c: np.ndarray, a: np.ndarray, h: float) -> np.ndarray:
        half = 1.0 if self.kappa is None else self.spread(np.exp(-self.laplace * h / (2 * self.kappa)))
        b = self._slope(half * (c + h / 2 * a))[0]
        d = self._slope(half * c + h / 2 * b)[0]
        e = self._slope(half * half * c + h * half * d)[0]
        return half * half * (c + h / 6 * a) + h / 3 * half * (b + d) + h / 6 * e

    @abstractmethod
    def zonal(self, weight: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """w_l of degrees 0 .. L + 1: int w(<x, y>) Y_l(y) dy = w_l Y_l(x)."""

    @abstractmethod
    def points(self) -> Float[Tensor, "*G D"]:
        """The grid."""

    @abstractmethod
    def analyse(self, values: np.ndarray) -> np.ndarray:
        """Coefficients of a function given on the grid."""

    @abstractmethod
    def values(self, c: np.ndarray) -> np.ndarray:
        """The density on the grid."""

    @abstractmethod
    def on_grid(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """On the grid: rho, pull (components, *grid) before division by Z, and Z up to a factor shared with the pull."""

    @abstractmethod
    def flux(self, flow: np.ndarray) -> np.ndarray:
        """int <rho v, grad Y*> of each harmonic: coefficients of -div(rho v). flow (components, *grid)."""

    @abstractmethod
    def density(self, c: np.ndarray, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
        """rho at points of the sphere."""

    @abstractmethod
    def mass(self, c: np.ndarray) -> float:
        """int rho."""

    @abstractmethod
    def by_degree(self, c: np.ndarray) -> np.ndarray:
        """Coefficients with the degree on the first axis."""

    @abstractmethod
    def spread(self, per_degree: np.ndarray) -> np.ndarray:
        """One number per degree, to multiply coefficients with."""
