"""One step of each fixed-step method, on the sphere and in flat space. A step of negative length goes back in time."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.sphere import exponential, project

Velocity = Callable[[float, Tensor], Tensor]
METHODS = ("euler", "exponential", "rk4", "normalise", "verlet")


class StepError(ValueError):
    """Integration cannot go on. Attributes: t (time reached), step (length tried), reason."""

    def __init__(self, t: float, step: float, reason: str):
        super().__init__(f"cannot integrate beyond t={t:.10g} with a step of {step:.3g}: {reason}")
        self.t, self.step, self.reason = t, step, reason


def identity(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
    """x, where flat space needs no projection."""
    return x


def inside(v: Velocity, t: float, h: float) -> tuple[float, float]:
    """Ends of a step from t. If v jumps in time, moved into the step by some units in the last place: taken from inside."""
    if not getattr(v, "breaks", ()):
        return t, t + h
    sliver = math.copysign(4 * math.ulp(max(abs(t), abs(t + h))), h)
    return t + sliver, t + h - sliver


def euler(v: Velocity, t: float, h: float, x: Tensor, onto: Callable[[Tensor], Tensor]) -> Tensor:
    """x + h v, projected. Order 1."""
    return onto(x + h * v(inside(v, t, h)[0], x))


def exponential_euler(v: Velocity, t: float, h: float, x: Tensor, onto: Callable[[Tensor], Tensor]) -> Tensor:
    """Along the geodesic with the velocity at the start. Order 1; sphere only."""
    return exponential(x, h * v(inside(v, t, h)[0], x))


def rk4(v: Velocity, t: float, h: float, x: Tensor, onto: Callable[[Tensor], Tensor]) -> Tensor:
    """The classical fourth-order Runge-Kutta step, every stage and the result projected. Order 4.

    On the sphere it is the flat method for x -> v(x / |x|), whose flow keeps |x|: the projections do not lower the order.
    """
    start, end = inside(v, t, h)
    one = v(start, x)
    two = v(t + h / 2, onto(x + h / 2 * one))
    three = v(t + h / 2, onto(x + h / 2 * two))
    four = v(end, onto(x + h * three))
    return onto(x + h / 6 * (one + 2 * two + 2 * three + four))


def add_and_normalise(v: Velocity, t: float, h: float, x: Tensor, onto: Callable[[Tensor], Tensor]) -> Tensor:
    """normalise(x + h A), A before it is made tangent: a layer of a post-norm network. Order 1; sphere only.

    Moves by h / (1 + h <x, A>) along P A: a change of clock beside the curvature.
    """
    return project(x + h * v.ambient(inside(v, t, h)[0], x))


def verlet(v: Velocity, t: float, h: float, x: Tensor, onto: Callable[[Tensor], Tensor]) -> Tensor:
    """Leapfrog for x = (y, z): half a step of z, a step of y, half a step of z. Order 2, reversible, flat space.

    v has drift(t, z), the velocity of y, and force(t, y), that of z.
    """
    start, end = inside(v, t, h)
    y, z = x.chunk(2, -1)
    z = z + h / 2 * v.force(start, y)
    y = y + h * v.drift(t + h / 2, z)
    z = z + h / 2 * v.force(end, y)
    return torch.cat((y, z), -1)


def step_of(method: str, v: Velocity, space: str) -> Callable[[float, float, Tensor], Tensor]:
    """The step (t, h, x) -> x of a method in a space. Raises ValueError where the two, or the velocity, do not fit."""
    forms = {"euler": euler, "exponential": exponential_euler, "rk4": rk4, "normalise": add_and_normalise, "verlet": verlet}
    if method not in forms:
        raise ValueError(f"integrate: no method {method!r}: use one of {METHODS} or 'adaptive'")
    if space not in ("sphere", "flat"):
        raise ValueError(f"integrate: space {space!r}: use 'sphere' or 'flat'")
    needs = {"exponential": "sphere", "normalise": "sphere", "verlet": "flat"}.get(method, space)
    if needs != space:
        raise ValueError(f"integrate: method {method!r} needs space {needs!r}, the velocity lives in {space!r}")
    parts = {"normalise": ("ambient",), "verlet": ("drift", "force")}.get(method, ())
    lacking = [part for part in parts if not hasattr(v, part)]
    if lacking:
        raise ValueError(
            f"integrate: method {method!r} needs a velocity with {' and '.join(lacking)}; {type(v).__name__} has none"
        )
    onto = project if space == "sphere" else identity
    return lambda t, h, x: forms[method](v, t, h, x, onto)
