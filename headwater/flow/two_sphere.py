"""The mean field on the sphere S^2 by spherical harmonics."""

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import eval_legendre, sph_legendre_p_all
from torch import Tensor

from headwater.flow.continuity import MeanField


@final
class TwoSphere(MeanField):
    """Coefficients a[m, l], 0 <= m <= l <= L, of rho = sum_l sum_{|m| <= l} a_lm Y_lm (orthonormal, scipy's sign), a_{l,-m} =
    (-1)^m conj a_lm; density per unit area of the sphere.

    Quadrature: Gauss-Legendre in height and equal steps around, (3 L + 1) / 2 by 3 L + 1 or a little more: exact for products of
    three harmonics. Tables take 24 L^3 bytes or so (L = 128: 50 MiB). Everything else: MeanField.
    """

    width = 3

    def zonal(self, weight: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """2 pi int w(s) P_l(s) ds by Gauss-Legendre."""
        self._tables()
        s, area = np.polynomial.legendre.leggauss(4 * self.degrees + 200)
        l = np.arange(self.degrees + 2)
        return 2 * np.pi * eval_legendre(l[:, None], s) @ (area * np.asarray(weight(s), dtype=float))

    def _tables(self) -> None:
        L, rows = self.degrees, 3 * self.degrees // 2 + 1
        self.round = 3 * L + 1 + (L + 1) % 2  # even
        height, area = np.polynomial.legendre.leggauss(rows)
        self.colatitude, self.sine = np.arccos(height), np.sqrt(1 - height**2)
        tables = sph_legendre_p_all(L, L, self.colatitude, diff_n=1)[:, :, : L + 1]  # Y_lm at longitude 0: l, m, latitude
        self.legendre, self.slope = (np.ascontiguousarray(table.transpose(1, 2, 0)) for table in tables)  # m, latitude, l
        self.area_weights = area * 2 * np.pi / self.round
        self.turn = 1j * np.arange(L + 1)[:, None] / self.sine  # im / sin: derivative along the circle of latitude

    def points(self) -> Float[Tensor, "lat lon 3"]:
        """The grid, (latitudes, longitudes, 3)."""
        turn = np.arange(self.round) * 2 * np.pi / self.round
        ring = self.sine[:, None] * np.stack((np.cos(turn), np.sin(turn)))[:, None]
        tall = np.broadcast_to(np.cos(self.colatitude)[:, None], ring[0].shape)
        return torch.from_numpy(np.stack((ring[0], ring[1], tall), -1))

    def _rows(self, table: np.ndarray, c: np.ndarray) -> np.ndarray:
        """sum_l table[m, lat, l] c[m, l]: (m, lat), as a real product."""
        pair = np.ascontiguousarray(c).view(float).reshape(*c.shape, 2)
        return np.ascontiguousarray(table @ pair).view(complex)[..., 0]

    def _around(self, rows: np.ndarray) -> np.ndarray:
        """Fourier sums over m of (m, lat): (lat, lon)."""
        return np.fft.irfft(rows.T, self.round) * self.round

    def _tested(self, table: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """sum_lat table[m, lat, l] rows[m, lat]: (m, l)."""
        pair = np.ascontiguousarray(rows).view(float).reshape(*rows.shape, 2)
        return np.ascontiguousarray(table.transpose(0, 2, 1) @ pair).view(complex)[..., 0]

    def _fourier(self, values: np.ndarray) -> np.ndarray:
        """Quadrature-weighted Fourier coefficients of (lat, lon): (m, lat)."""
        return (np.fft.rfft(values)[:, : self.degrees + 1] * self.area_weights[:, None]).T

    def analyse(self, values: np.ndarray) -> np.ndarray:
        return self._tested(self.legendre, self._fourier(values))

    def values(self, c: np.ndarray) -> np.ndarray:
        return self._around(self._rows(self.legendre, c))

    def on_grid(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        potential = self.pulls * c
        south, east = self._rows(self.slope, potential), self.turn * self._rows(self.legendre, potential)
        z = self.values(self.sums * c) if self.kind == "SA" else np.ones(1)
        return self.values(c), np.stack((self._around(south), self._around(east))), z

    def flux(self, flow: np.ndarray) -> np.ndarray:
        south, east = self._fourier(flow[0]), self.turn.conj() * self._fourier(flow[1])
        return self._tested(self.slope, south) + self._tested(self.legendre, east)

    def density(self, c: np.ndarray, x: Float[Tensor, "*S 3"]) -> Float[Tensor, "*S"]:
        L, flat = self.degrees, x.detach().double().reshape(-1, 3).cpu().numpy()
        both = np.where(np.arange(L + 1) == 0, 1.0, 2.0)[:, None] * c  # m and -m together
        found = []
        for part in np.array_split(flat, max(1, len(flat) * 2 * L**2 // 2**22)):  # 64 MiB at a time
            down, east = np.arctan2(np.hypot(part[:, 0], part[:, 1]), part[:, 2]), np.arctan2(part[:, 1], part[:, 0])
            Y = sph_legendre_p_all(L, L, down)[0, :, : L + 1]  # l, m, point
            rows = np.matmul(both[:, None], Y.transpose(1, 0, 2))[:, 0]  # m, point
            found.append((rows * np.exp(1j * np.arange(L + 1)[:, None] * east)).real.sum(0))
        return torch.from_numpy(np.concatenate(found)).view(x.shape[:-1]).to(x.device)

    def mass(self, c: np.ndarray) -> float:
        return float(np.sqrt(4 * np.pi) * c[0, 0].real)

    def by_degree(self, c: np.ndarray) -> np.ndarray:
        return c.T

    def spread(self, per_degree: np.ndarray) -> np.ndarray:
        return per_degree[None]
