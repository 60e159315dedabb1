"""The mean field on the circle S^1 by Fourier series, and the picture of it beside particles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow import sphere
from headwater.flow.continuity import Density, Evolution, MeanField
from headwater.flow.density import push
from headwater.flow.velocity import Attention


@final
class Circle(MeanField):
    """Coefficients c_k, k = 0 .. L, of rho(theta) = sum_k c_k e^{ik theta}, c_{-k} = conj c_k; density per radian.

    Multiplied out on 4 L angles. Everything else: MeanField.
    """

    width = 2

    def zonal(self, weight: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """int w(cos) cos(k theta), by the trapezoid rule, which is exact to rounding for a smooth weight."""
        count = max(4096, 8 * self.degrees)
        values = np.asarray(weight(np.cos(np.arange(count) * 2 * np.pi / count)), dtype=float)
        return np.fft.rfft(values).real[: self.degrees + 2] * 2 * np.pi / count

    def points(self) -> Float[Tensor, "G 2"]:
        """4 L equal steps around the circle."""
        return sphere.circle(torch.arange(4 * self.degrees, dtype=torch.float64) * (torch.pi / (2 * self.degrees)))

    def analyse(self, values: np.ndarray) -> np.ndarray:
        return np.fft.rfft(values)[: self.degrees + 1] / (4 * self.degrees)

    def values(self, c: np.ndarray) -> np.ndarray:
        return np.fft.irfft(c, 4 * self.degrees) * 4 * self.degrees

    def on_grid(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pull = self.values(1j * np.arange(self.degrees + 1) * self.pulls * c)
        return self.values(c), pull[None], self.values(self.sums * c)

    def flux(self, flow: np.ndarray) -> np.ndarray:
        return -1j * np.arange(self.degrees + 1) * self.analyse(flow[0])

    def density(self, c: np.ndarray, x: Float[Tensor, "*S 2"]) -> Float[Tensor, "*S"]:
        angle, k = sphere.angle(x.detach().double()).flatten().cpu().numpy(), np.arange(1, self.degrees + 1)
        parts = np.array_split(angle, max(1, angle.size * self.degrees // 2**21))  # 32 MiB at a time
        found = [c[0].real + 2 * (np.exp(1j * part[:, None] * k) @ c[1:]).real for part in parts]
        return torch.from_numpy(np.concatenate(found)).view(x.shape[:-1]).to(x.device)

    def mass(self, c: np.ndarray) -> float:
        return float(2 * np.pi * c[0].real)

    def by_degree(self, c: np.ndarray) -> np.ndarray:
        return c

    def spread(self, per_degree: np.ndarray) -> np.ndarray:
        return per_degree


@dataclass(frozen=True)
class Comparison:
    """What the picture "density against particles" shows, at times (T,).

    angles (G,) and density (T, G): the mean field. particles (T, N): angles of the particles; carried (T, N): the density that
    each has carried along. mismatch (T,): root mean square of carried / density - 1 at the particles. evolution: all of it.
    """

    times: np.ndarray
    angles: np.ndarray
    density: np.ndarray
    particles: np.ndarray
    carried: np.ndarray
    mismatch: np.ndarray
    evolution: Evolution


def two_humps(x: Float[Tensor, "*S 2"]) -> Float[Tensor, "*S"]:
    """A smooth start for pictures: (1 + cos(theta) / 2 + cos(2 theta) / 3) / 2 pi."""
    return (1 + x[..., 0] / 2 + (2 * x[..., 0] ** 2 - 1) / 3) / (2 * torch.pi)


def against_particles(
    times: list[float],
    n: int,
    generator: torch.Generator,
    *,
    beta: float = 4.0,
    kind: str = "SA",
    degrees: int = 256,
    rho: Density = two_humps,
    step: float = 0.05,
) -> Comparison:
    """Solves the mean field and n random particles that carry log-density from the same start. Raises Unresolved as it does.

    The mismatch falls as n^{-1/2}: the cloud stands for its law with that error.
    """
    field = Circle(beta, degrees, kind=kind)
    evolution = field.solve(rho, times)
    x0 = field.sample(evolution.coefficients[0], n, generator)
    with torch.no_grad():
        done = push(Attention(beta, normalised=kind == "SA"), x0, evolution.density(x0, 0).log(), times, method="rk4", step=step)
    grid = torch.linspace(-torch.pi, torch.pi, 721, dtype=torch.float64)
    density = np.stack([evolution.density(sphere.circle(grid), k).numpy() for k in range(len(times))])
    carried = done.logp[:, 0].exp().numpy()
    there = np.stack([evolution.density(x[0], k).numpy() for k, x in enumerate(done.trajectory.states)])
    mismatch = np.sqrt(np.square(carried / there - 1).mean(-1))
    places = sphere.angle(done.trajectory.states[:, 0]).numpy()
    return Comparison(evolution.times, grid.numpy(), density, places, carried, mismatch, evolution)
