"""Moves particles along a velocity and keeps what is asked for: times chosen, memory bounded, gradients through or not."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from headwater.flow.adaptive import Controller
from headwater.flow.sphere import check_finite, check_on_sphere, spread
from headwater.flow.steps import StepError, Velocity, step_of
from headwater.flow.terms import Noise

Event = Callable[[float, Tensor], bool | Tensor]
Save = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class Trajectory:
    """What `solve` kept.

    times (T,) float64: the times asked for, cut where the event stopped. states (T, B, N, D), or (T, *what `save` returned).
    end (B, N, D): the state at times[-1]. stopped: did the event end it. steps: taken; rejected: tried in vain (adaptive).
    """

    times: Float[Tensor, "T"]
    states: Float[Tensor, "T *S"]
    end: Float[Tensor, "B N D"]
    stopped: bool
    steps: int
    rejected: int = 0


def cluster_reached(tolerance: float = 1e-6) -> Event:
    """Event: the tokens of every member of the batch agree, mean 1 - cosine over pairs below `tolerance`."""
    return lambda t, x: bool((spread(x) < tolerance).all())


def solve(
    v: Velocity,
    x0: Float[Tensor, "B N D"],
    times: Iterable,
    *,
    method: str = "rk4",
    step: float | None = None,
    tolerance: float = 1e-8,
    space: str | None = None,
    save: Save | None = None,
    event: Event | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    checkpoint: int = 0,
) -> Trajectory:
    """Integrates x' = v(t, x) from x0 at times[0] and keeps the state at each of `times`, first included.

    Args:   times: numbers, strictly rising, or strictly falling to go back. No more than these states is held.
            method: "euler" | "exponential" | "rk4" | "normalise" (add and normalise, the discrete layer) | "verlet" (pairs), of
            fixed step; "adaptive": Dormand-Prince 5(4) with error per token and step at most `tolerance` * (1 + |x|).
            step: the largest step, to 1e-6; fixed methods need it and shorten it to hit `times` and the jumps `v.breaks` exactly.
            space: "sphere" or "flat"; default v.space, else flat.
            save: keeps save(t, x) in place of x. event: asked after each step (each chunk when checkpointing); True stops.
            noise: terms.Noise, one kick after each fixed step, drawn from `generator`; needs "euler" or "exponential".
            checkpoint: steps per chunk that the backward pass computes again rather than keeps; 0 keeps all.
            Under torch.no_grad() nothing is kept for gradients.
    Raises: ValueError for a mistake in the call; StepError (a ValueError) with t, step and reason where it cannot go on.
    """
    space = getattr(v, "space", "flat") if space is None else space
    marks = _checked_times(times)
    _check_start(x0, space, noise, generator, method)
    if method == "adaptive":
        mover = Controller(v, space, tolerance, step)
    else:
        mover = _Fixed(step_of(method, v, space), step, noise, generator, max(checkpoint, 1))
    keep = save or (lambda t, x: x)
    reached, kept, x, steps = [marks[0]], [keep(marks[0], x0)], x0, 0
    stopped = event is not None and bool(event(marks[0], x0))
    again = checkpoint > 0 and torch.is_grad_enabled()
    for t, x, taken, asked in () if stopped else _moves(mover, marks, getattr(v, "breaks", ()), x0, again):
        steps += taken
        _check_state(t, x, mover.length)
        stopped = event is not None and bool(event(t, x))
        if asked or stopped:
            reached.append(t)
            kept.append(keep(t, x))
        if stopped:
            break
    reached = torch.tensor(reached, dtype=torch.float64)
    return Trajectory(reached, torch.stack(kept), x, stopped, steps, getattr(mover, "rejected", 0))


def _moves(
    mover: "Controller | _Fixed", marks: list[float], breaks: Sequence[float], x: Tensor, again: bool
) -> Iterator[tuple[float, Tensor, int, bool]]:
    """Yields time, state, steps since the last yield, and whether this time was asked for."""
    t = marks[0]
    try:
        for mark in marks[1:]:
            for leg in _legs(t, mark, breaks):
                for t, x, taken in mover.walk(t, leg, x, again):  # noqa: B020
                    yield t, x, taken, t == mark
    except StepError:
        raise
    except ValueError as error:  # of the velocity, at a stage within a step
        raise StepError(t, mover.length, str(error)) from error


class _Fixed:
    """Walks with equal steps no longer than `longest`, in chunks that the backward pass may compute again."""

    def __init__(self, one: Callable, longest: float | None, noise: Noise | None, generator: torch.Generator | None, chunk: int):
        if longest is None or not (math.isfinite(longest) and longest > 0):
            raise ValueError(f"integrate: step={longest}: methods of fixed step need a positive one")
        self.one, self.length, self.noise, self.generator, self.chunk = one, longest, noise, generator, chunk

    def walk(self, t: float, stop: float, x: Tensor, again: bool) -> Iterator[tuple[float, Tensor, int]]:
        count = max(1, math.ceil(abs(stop - t) / self.length * (1 - 1e-6)))
        ends = [t + (stop - t) * (index / count) for index in range(count)] + [stop]
        size = self.chunk if again else 1
        for first in range(0, count, size):
            piece = ends[first : first + size + 1]
            x = self._checkpointed(piece, x) if again else self._moved(piece, x, self.generator)
            yield piece[-1], x, len(piece) - 1

    def _moved(self, ends: list[float], x: Tensor, generator: torch.Generator | None) -> Tensor:
        for t, after in zip(ends, ends[1:], strict=False):
            x = self.one(t, after - t, x)
            if self.noise is not None:
                x = self.noise.kick(x, after - t, generator)
        return x

    def _checkpointed(self, ends: list[float], x: Tensor) -> Tensor:
        if self.generator is None:
            return recompute(self._moved, ends, x, None, use_reentrant=False)
        state = self.generator.get_state()

        def replayed(x: Tensor) -> Tensor:
            own = torch.Generator(self.generator.device)
            own.set_state(state)  # the backward pass draws the same kicks
            x = self._moved(ends, x, own)
            self.generator.set_state(own.get_state())
            return x

        return recompute(replayed, x, use_reentrant=False)


def _legs(start: float, stop: float, breaks: Sequence[float]) -> list[float]:
    """Where to land between two times: the jumps of the weights, then the end."""
    low, high = min(start, stop), max(start, stop)
    return [*sorted((b for b in breaks if low < b < high), reverse=stop < start), stop]


def _checked_times(times: Iterable) -> list[float]:
    marks = [float(t) for t in times]
    gaps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    if len(marks) < 2 or not all(map(math.isfinite, marks)) or not (all(g > 0 for g in gaps) or all(g < 0 for g in gaps)):
        raise ValueError(f"integrate: times {marks[:6]}: needs two or more finite times, all rising or all falling")
    return marks


def _check_start(x: Tensor, space: str, noise: Noise | None, generator: torch.Generator | None, method: str) -> None:
    if space == "sphere":
        check_on_sphere(x, "integrate")
    else:
        check_finite(x, "integrate")
    if noise is not None and (generator is None or method not in ("euler", "exponential")):
        raise ValueError("integrate: noise needs a generator and method 'euler' or 'exponential'")
    if noise is not None and noise.space != space:
        raise ValueError(f"integrate: noise lives in space {noise.space!r}, the velocity in {space!r}")


def _check_state(t: float, x: Tensor, length: float) -> None:
    if not bool(torch.isfinite(x).all()):
        raise StepError(t, length, "the state is no longer finite; take a smaller step or look for a blow-up in finite time")
