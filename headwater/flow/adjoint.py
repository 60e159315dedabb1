"""Gradients of a flow by the continuous adjoint: memory of the saved states only, however many steps are taken.

a' = -(dv/dx)' a and g' = -(dv/dparameters)' a are run backward beside x itself (Pontryagin 1962; Chen 2018). On the sphere v is
extended as v(x / |x|), which keeps |x|, so the flat equations hold as they stand; the gradient returned is its tangent part.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.flow.integrate import solve
from headwater.flow.sphere import project, tangent
from headwater.flow.steps import StepError, identity


def solve_adjoint(
    v: Callable,
    x0: Float[Tensor, "B N D"],
    times: Iterable,
    *,
    method: str = "rk4",
    step: float | None = None,
    tolerance: float = 1e-8,
    space: str | None = None,
    parameters: Sequence[Tensor] | None = None,
    drift: float = 1e-3,
) -> Float[Tensor, "T B N D"]:
    """States at `times` as `integrate.solve` gives them, with gradients to x0 and to the parameters of v by the adjoint.

    Args:   method: "rk4" or "adaptive", both ways. parameters: what v depends on; default v.parameters(). What is in neither
            gets no gradient.
            drift: x is run backward from each saved state; if it misses the one before by more than this (relative), as it does
            after a long collapse (errors grow like e^t backward), StepError is raised: save more times, or use `solve` with
            checkpoint. Differentiates once, not twice.
    """
    if method not in ("rk4", "adaptive"):
        raise ValueError(f"solve_adjoint: method {method!r}: use 'rk4' or 'adaptive'; for others differentiate through solve")
    space = getattr(v, "space", "flat") if space is None else space
    if parameters is None:
        parameters = list(v.parameters()) if isinstance(v, nn.Module) else []
    chosen = tuple(p for p in parameters if p.requires_grad)
    marks = [float(t) for t in times]
    options = {"method": method, "step": step, "tolerance": tolerance}
    return _Adjoint.apply((v, marks, options, space, drift), x0, *chosen)


class _Augmented:
    """(x, a, g) -> (v, -(dv/dx)' a, -(dv/dp)' a), in one row."""

    space = "flat"

    def __init__(self, v: Callable, shape: torch.Size, parameters: Sequence[Tensor], onto: Callable):
        self.v, self.shape, self.parameters, self.onto = v, shape, parameters, onto
        self.breaks = getattr(v, "breaks", ())

    def __call__(self, t: float, row: Tensor) -> Tensor:
        size = self.shape.numel()
        with torch.enable_grad():
            x = row[0, 0, :size].view(self.shape).detach().requires_grad_()
            out = self.v(t, self.onto(x))
            wanted = (x, *self.parameters)
            found = torch.autograd.grad(out, wanted, row[0, 0, size : 2 * size].view(self.shape), allow_unused=True)
        found = [torch.zeros_like(p) if f is None else f for p, f in zip(wanted, found, strict=True)]
        return torch.cat([out.detach().flatten(), *(-f.flatten().to(x.dtype) for f in found)])[None, None]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: tuple, x0: Tensor, *parameters: Tensor) -> Tensor:
        v, marks, options, space, _ = call
        with torch.no_grad():
            states = solve(v, x0, marks, space=space, **options).states
        ctx.call = call
        ctx.save_for_backward(states, *parameters)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        states, *parameters = ctx.saved_tensors
        v, marks, options, space, drift = ctx.call
        onto = project if space == "sphere" else identity
        field = _Augmented(v, states.shape[1:], parameters, onto)
        a = gradient[-1]
        g = torch.zeros(sum(p.numel() for p in parameters), dtype=a.dtype, device=a.device)
        size = a.numel()
        for last in range(len(marks) - 1, 0, -1):
            row = torch.cat((states[last].flatten(), a.flatten(), g))[None, None]
            end = solve(field, row, (marks[last], marks[last - 1]), **options).end[0, 0]
            missed = float((end[:size].view_as(a) - states[last - 1]).norm() / states[last - 1].norm())
            if missed > drift:
                reason = f"run backward, x misses the saved state by {missed:.2g}: save more times or use solve with checkpoint"
                raise StepError(marks[last - 1], marks[last - 1] - marks[last], reason)
            a, g = end[size : 2 * size].view_as(a) + gradient[last - 1], end[2 * size :]
        a = tangent(states[0], a) if space == "sphere" else a
        sizes = [p.numel() for p in parameters]
        return None, a, *(part.view_as(p).to(p) for part, p in zip(g.split(sizes), parameters, strict=True))
