"""Log-density carried by particles along a flow, in any dimension: l' = -div v beside x' = v (instantaneous change of variables).

of="field": each token carries log rho(x_i) of the mean field, rho being moved by the field that the tokens make together.
of="flow": log of the joint density of all N tokens, log p_T(x(T)) = log p_0(x(0)) - log |det Dx(T)/Dx(0)|.
On the sphere densities are with respect to the surface measure. Source: Chen et al. 2018, "Neural ordinary differential
equations"; the sphere: the same with the divergence of divergence.py.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.divergence import divergence, hutchinson, mean_and_error
from headwater.flow.integrate import Event, Trajectory, solve
from headwater.flow.sphere import check_finite, check_on_sphere, project

METHODS = ("euler", "rk4", "adaptive")


class Pushed(NamedTuple):
    """What `push` returns: trajectory (states (T, B, N, D)); logp at its times, (T, B, N), or (T, B) of="flow"; error, its
    standard error from the random probes, zero where the divergence is exact. Steps of the integrator are in neither."""

    trajectory: Trajectory
    logp: Float[Tensor, "T *S"]
    error: Float[Tensor, "T *S"]


class _Carrying:
    """(x, l) -> (v, -div v), one more coordinate per token; K of them with K probes.

    On the sphere the state is kept flat and v extended as v(x / |x|), whose flow keeps |x|: the order of the method stands.
    """

    def __init__(self, v: Callable, width: int, space: str, of: str, probes: Tensor | None):
        self.v, self.width, self.inside, self.of, self.probes = v, width, space, of, probes
        self.breaks, self.space = getattr(v, "breaks", ()), "flat"

    def place(self, state: Tensor) -> Tensor:
        x = state[..., : self.width]
        return project(x) if self.inside == "sphere" else x

    def __call__(self, t: float | Tensor, state: Tensor) -> Tensor:
        x = self.place(state)
        if self.probes is None:
            thinning = divergence(self.v, t, x, of=self.of, space=self.inside).unsqueeze(-1)
        else:
            thinning = hutchinson(self.v, t, x, self.probes, of=self.of, space=self.inside).movedim(0, -1)
        return torch.cat((self.v(t, x), -thinning), -1)


def push(
    v: Callable,
    x0: Float[Tensor, "B N D"],
    logp0: Float[Tensor, "*S"] | float,
    times: Iterable,
    *,
    of: str = "field",
    probes: Float[Tensor, "K B N D"] | None = None,
    method: str = "rk4",
    step: float | None = None,
    tolerance: float = 1e-8,
    space: str | None = None,
    event: Event | None = None,
    checkpoint: int = 0,
) -> Pushed:
    """Moves tokens and their log-density from times[0] through `times` (falling: back).

    Args:   logp0: (B, N), log rho at each token; of="flow": (B,), log of the joint density; or one number for all.
            probes: signs from divergence.rademacher for Hutchinson's estimate; None is exact (D derivatives, closed form for
            softmax attention). Each probe is kept through the whole solve, where it gives an unbiased final log-density of its
            own, so the error is that of independent draws: no bookkeeping along the way.
            method: "euler" | "rk4" (need step) | "adaptive", whose tolerance then holds for l as for x. The rest is as in
            integrate.solve; on the sphere the states agree with its own to the order of the method.
    Raises: ValueError for a mistake in the call, StepError (a ValueError) where the flow cannot be followed.
    """
    space = getattr(v, "space", "flat") if space is None else space
    if method not in METHODS:
        raise ValueError(f"push: method {method!r} has no log-density: use one of {METHODS}")
    check_on_sphere(x0, "push") if space == "sphere" else check_finite(x0, "push")
    B, N, D = x0.shape
    start = torch.as_tensor(logp0, dtype=x0.dtype, device=x0.device)
    wanted = (B,) if of == "flow" else (B, N)
    if start.ndim and start.shape != wanted:
        raise ValueError(f"push: logp0 of shape {tuple(start.shape)} with of={of!r} and tokens {(B, N, D)}: needs {wanted}")
    check_finite(start, "push: logp0")
    field, columns = _Carrying(v, D, space, of, probes), 1 if probes is None else len(probes)
    state = torch.cat((x0, x0.new_zeros(B, N, columns)), -1)
    asked = None if event is None else (lambda t, s: event(t, field.place(s)))
    options = {"method": method, "step": step, "tolerance": tolerance, "event": asked, "checkpoint": checkpoint}
    done = solve(field, state, times, space="flat", **options)
    gained = done.states[..., D:]  # T B N K
    gained = (gained.sum(-2) if of == "flow" else gained).movedim(-1, 0)
    mean, error = mean_and_error(gained) if columns > 1 else (gained[0], torch.zeros_like(gained[0]))
    states = field.place(done.states)
    trajectory = Trajectory(done.times, states, states[-1], done.stopped, done.steps, done.rejected)
    return Pushed(trajectory, start + mean, error)


def log_density(
    v: Callable,
    x: Float[Tensor, "B N D"],
    prior: Callable[[Tensor], Tensor],
    times: Iterable,
    *,
    of: str = "field",
    probes: Float[Tensor, "K B N D"] | None = None,
    **options: object,
) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    """Log-density at the points x once the flow from times[0] to times[-1] has moved the law `prior`, and its standard error.

    Runs back to times[0] and reads prior(x0): (B, N) -> log-density of each token, or (B,) for of="flow". For a velocity that
    couples tokens x is the whole cloud. options: of `push`.
    """
    back = [float(t) for t in times][::-1]
    trajectory, gained, error = push(v, x, 0.0, back, of=of, probes=probes, **options)
    start = prior(trajectory.end)
    if start.shape != gained.shape[1:]:
        raise ValueError(f"log_density: prior returned {tuple(start.shape)} for of={of!r}: needs {tuple(gained.shape[1:])}")
    return start - gained[-1], error[-1]
