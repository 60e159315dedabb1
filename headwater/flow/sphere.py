"""The unit sphere S^{d-1}: projection, tangent space, geodesics, and whether points share an open hemisphere."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 1e-6  # how far from 1 the length of a token may be


def _readable(x: Tensor) -> bool:
    """False inside torch.func.vmap and while compiling, where values cannot be looked at."""
    if torch.compiler.is_compiling():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return False
        x = torch._C._functorch.get_unwrapped(x)
    return True


def inner(x: Float[Tensor, "... D"], y: Float[Tensor, "... D"]) -> Float[Tensor, "... 1"]:
    """<x, y> along the last axis, which is kept with size 1."""
    return (x * y).sum(-1, keepdim=True)


def project(x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """x / |x|, the nearest point of the sphere. Raises ValueError at zero and at NaN or infinity."""
    scale = x.detach().abs().amax(-1, keepdim=True)  # so that squares neither overflow nor vanish
    if _readable(scale) and not bool(((scale > 0) & torch.isfinite(scale)).all()):
        what = "zero" if bool(torch.isfinite(scale).all()) else "NaN or infinity"
        raise ValueError(f"project: {what} among the {tuple(x.shape)} tokens has no direction: take such tokens out")
    x = x / scale
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def tangent(x: Float[Tensor, "*S D"], y: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """P_x y = y - <x, y> x, the part of y along the sphere at x (|x| = 1)."""
    return y - inner(x, y) * x


def check_on_sphere(x: Float[Tensor, "*S D"], where: str = "sphere") -> None:
    """Raises ValueError if a token is not finite or its length is off 1 by more than 1e-6 (8 machine epsilons if that is more).

    Looks at nothing inside torch.func.vmap or torch.compile, where values cannot be read.
    """
    if x.shape[-1] < 2:
        raise ValueError(f"{where}: tokens of width {x.shape[-1]}; a sphere needs width 2 or more")
    if not _readable(x):
        return
    off = (torch.linalg.vector_norm(x.detach(), dim=-1) - 1).abs()
    worst = float(off.max()) if off.numel() else 0.0
    if not math.isfinite(worst):
        raise ValueError(f"{where}: NaN or infinity among the {tuple(x.shape)} tokens")
    if worst > max(TOLERANCE, 8 * torch.finfo(x.dtype).eps):
        raise ValueError(f"{where}: a token is off the unit sphere by {worst:.2g}: pass sphere.project(x)")


def check_finite(x: Tensor, where: str) -> None:
    """Raises ValueError at NaN or infinity, where values can be read."""
    if _readable(x) and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{where}: NaN or infinity among the {tuple(x.shape)} tokens")


def one_minus_cosine(x: Float[Tensor, "*#S D"], y: Float[Tensor, "*#S D"]) -> Float[Tensor, "..."]:
    """1 - <x, y> as |x - y|^2 / 2: keeps its digits when points nearly agree. 0 to 2."""
    return (x - y).square().sum(-1) / 2


def distance(x: Float[Tensor, "*#S D"], y: Float[Tensor, "*#S D"]) -> Float[Tensor, "..."]:
    """Geodesic distance, 0 to pi, as 2 atan2(|x - y|, |x + y|): accurate for near and for opposite points."""
    return 2 * torch.atan2(torch.linalg.vector_norm(x - y, dim=-1), torch.linalg.vector_norm(x + y, dim=-1))


def spread(x: Float[Tensor, "*B N D"]) -> Float[Tensor, "*B"]:
    """Mean of 1 - cosine over all pairs of tokens (self included), in time of n: 0 when all agree, at most 1.

    Is the mean of |x_i - mean|^2, so it keeps its digits near agreement.
    """
    return (x - x.mean(-2, keepdim=True)).square().sum(-1).mean(-1)


def exponential(x: Float[Tensor, "*S D"], u: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """The point reached from x along the geodesic with tangent velocity u after unit time. Smooth at u = 0."""
    square = inner(u, u)
    small = square < 1e-4
    length = torch.where(small, torch.ones_like(square), square).sqrt()  # the branch not taken must stay finite
    cosine = torch.where(small, 1 - square / 2 * (1 - square / 12 * (1 - square / 30)), length.cos())
    sine = torch.where(small, 1 - square / 6 * (1 - square / 20 * (1 - square / 42)), length.sin() / length)
    return project(cosine * x + sine * u)


def logarithm(x: Float[Tensor, "*S D"], y: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """The tangent u at x with exponential(x, u) = y and |u| <= pi. Raises ValueError for exactly opposite points."""
    near, far = y - x, y + x
    below, above = inner(near, near), inner(far, far)  # squared chords to y and to -y
    if _readable(above) and bool((above == 0).any()):
        raise ValueError("logarithm: opposite points are joined by no single shortest path: move one of them")
    across = torch.where(below < above, tangent(x, near), tangent(x, far))  # P_x y without cancellation
    small = below < 1e-5
    chord = torch.where(small, torch.ones_like(below), below)
    angle = 2 * torch.atan2(chord.sqrt(), above.sqrt())
    ratio = torch.where(small, 1 + below / 6 + below**2 / 30, 2 * angle / (chord * above).sqrt())  # angle / sin(angle)
    return ratio * across


def uniform(
    n: int, d: int, generator: torch.Generator, *, batch: int = 1, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "B N D"]:
    """n independent uniform points of S^{d-1} for each member of the batch: (batch, n, d), on the generator's device."""
    if d < 2 or n < 1 or batch < 1:
        raise ValueError(f"uniform: n={n} points, batch={batch}, d={d}: needs n, batch >= 1 and d >= 2")
    drawn = torch.randn(batch, n, d, generator=generator, dtype=torch.float64, device=generator.device)
    return project(drawn).to(dtype)


def circle(angle: Float[Tensor, "*S"]) -> Float[Tensor, "*S 2"]:
    """Angles as points (cos, sin) of S^1."""
    return torch.stack((angle.cos(), angle.sin()), -1)


def angle(x: Float[Tensor, "*S 2"]) -> Float[Tensor, "*S"]:
    """Angle of points of S^1, in (-pi, pi]."""
    return torch.atan2(x[..., 1], x[..., 0])


def hemisphere_margin(x: Float[Tensor, "N D"]) -> tuple[float, Float[Tensor, "D"]]:
    """How well the points share an open hemisphere: (margin, w), the largest min_i <w, x_i> over |w|_inf <= 1.

    A linear programme (HiGHS). Positive if and only if an open hemisphere holds all points, with pole w / |w|; else 0.
    For any fixed w a nonnegative min_i <w, x_i> cannot fall under softmax attention with V = I, hence neither can the margin.
    """
    from scipy.optimize import linprog

    points = x.detach().cpu().double().numpy()
    if not np.isfinite(points).all():
        raise ValueError(f"hemisphere_margin: NaN or infinity among the {points.shape} points")
    n, d = points.shape
    done = linprog(  # unknowns w (d) and m: maximise m with m - <w, x_i> <= 0
        np.append(np.zeros(d), -1.0),
        A_ub=np.column_stack((-points, np.ones(n))),
        b_ub=np.zeros(n),
        bounds=[(-1, 1)] * d + [(0, None)],
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if done.status != 0:
        raise ValueError(f"hemisphere_margin: the linear programme for {n} points in {d} dimensions failed: {done.message}")
    pole = np.clip(done.x[:d], -1, 1)
    margin = max(float((points @ pole).min()), 0.0)  # measured, not as the solver rounds it
    return margin, torch.as_tensor(pole, dtype=x.dtype, device=x.device)
