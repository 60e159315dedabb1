"""Dormand-Prince 5(4): steps of the length that the tolerance allows, on the sphere and in flat space."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from headwater.flow.sphere import project
from headwater.flow.steps import StepError, identity, inside

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (  # Dormand & Prince 1980; the last row is the result of order 5, whose velocity starts the next step
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # order 5 less order 4
MOST = 100_000  # steps tried before giving up


class Controller:
    """Chooses steps so that the error of each, per token, stays within tolerance * (1 + |x|); PI control (Hairer II.4).

    `length` is the step in use, `rejected` counts steps that were too long. Raises StepError when no step will do.
    """

    def __init__(self, v: Callable, space: str, tolerance: float, longest: float | None):
        if not (math.isfinite(tolerance) and tolerance > 0) or (longest is not None and not longest > 0):
            raise ValueError(f"integrate: tolerance={tolerance}, step={longest}: both must be positive")
        if space not in ("sphere", "flat"):
            raise ValueError(f"integrate: space {space!r}: use 'sphere' or 'flat'")
        self.v, self.onto = v, project if space == "sphere" else identity
        self.tolerance, self.longest = tolerance, longest or math.inf
        self.length, self.rejected, self.before, self.tried = 0.0, 0, 1.0, 0
        self.reason = "unknown"

    def walk(self, t: float, stop: float, x: Tensor, again: bool) -> Iterator[tuple[float, Tensor, int]]:
        """Yields (t, x, 1) after each accepted step, the last at exactly `stop`."""
        least = 10 * torch.finfo(x.dtype).eps
        if self.tolerance < least:
            raise ValueError(f"integrate: tolerance {self.tolerance:g} cannot be met in {x.dtype}: use {least:.1g} or more")
        sign = math.copysign(1.0, stop - t)
        first = self.v(inside(self.v, t, stop - t)[0], x)
        self.length = self.length or self._first_length(x, first, abs(stop - t))
        while t != stop:
            left = abs(stop - t)
            length = min(self.length, self.longest)
            last = length >= left * (1 - 1e-9)  # no sliver is left over
            length = left if last else length
            h = stop - t if last else sign * length
            self._check(t, h)
            call = (t, h, x, first)
            moved, velocity, error = recompute(self._tried, *call, use_reentrant=False) if again else self._tried(*call)
            size = float(error)
            if not math.isfinite(size) or size > 1:
                self.rejected += 1
                shrink = 0.1 if not math.isfinite(size) else max(0.2, 0.9 * size**-0.2)
                self.reason = "not finite" if not math.isfinite(size) else f"{size:.3g} times the tolerance"
                self.length = length * shrink
                continue
            growth = min(5.0, max(0.2, 0.9 * max(size, 1e-10) ** -0.14 * self.before**0.08))
            self.before = max(size, 1e-4)
            self.length = (
                max(self.length, length * growth) if last else length * growth
            )  # a cut step says nothing against the rest
            t, x, first = (stop if last else t + h), moved, velocity
            yield t, x, 1

    def _check(self, t: float, h: float) -> None:
        self.tried += 1
        if abs(h) <= 16 * math.ulp(max(abs(t), abs(h))) or t + h == t:
            raise StepError(t, h, f"the step has shrunk to rounding and its error is still {self.reason}: blow-up or a jump?")
        if self.tried > MOST:
            raise StepError(t, h, f"{MOST} steps did not reach the end: loosen the tolerance or shorten the time")

    def _first_length(self, x: Tensor, velocity: Tensor, span: float) -> float:
        """A step that moves no token by more than about tolerance^(1/5) of its size."""
        speed = float((_length(velocity) / (1 + _length(x))).max())
        if not math.isfinite(speed):
            raise StepError(math.nan, 0.0, "the velocity at the start is not finite")
        return min(span, self.longest, self.tolerance**0.2 / max(speed, 1e-12))

    def _tried(self, t: float, h: float, x: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: the new state, the velocity there, and the largest error over tokens in units of the tolerance."""
        found, end = [first], inside(self.v, t, h)[1]
        for node, row in zip(NODES[1:], STAGES, strict=True):
            state = x + h * sum(a * k for a, k in zip(row, found, strict=True) if a)
            if not bool(torch.isfinite(state).all()):
                return x, first, torch.tensor(math.inf)
            state = self.onto(state)
            found.append(self.v(end if node == 1 else t + node * h, state))
        with torch.no_grad():
            error = h * sum(e * k for e, k in zip(ERROR, found, strict=True) if e)
            allowed = self.tolerance * (1 + torch.maximum(_length(x), _length(state)))
            worst = (_length(error) / allowed).max()
        return state, found[-1], worst


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.detach(), dim=-1)
