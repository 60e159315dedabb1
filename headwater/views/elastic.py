"""A smooth elastic change: cubic B-splines on a few control points, small enough that it never folds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

INTERVALS = 4  # between control points, per axis of the view
FOLD = {2: 2.046392675, 3: 2.479472335}  # control points displaced by less than their distance over this never fold


@dataclass(frozen=True, eq=False)
class Bend:
    """Displacement of a view's voxels, in voxels of the view: point p moves by a cubic B-spline of `nodes` at (p - low) / step.

    nodes: displacements (d, K, ..., K) of the control points, K = intervals + 3. low: voxel at which the first interval begins.
    step: voxels per interval. Beyond the intervals the value at their edge holds.
    """

    nodes: Float[np.ndarray, "d *K"]
    low: tuple[float, ...]
    step: tuple[float, ...]


def draw_bend(rng: np.random.Generator, size: tuple[int, ...], strength: float) -> Bend:
    """Control points displaced uniformly up to `strength` times what is certain not to fold.

    strength: 0 (nothing moves) to below 1. The coordinate map q + u(q) then has |u(a) - u(b)| <= strength |a - b| in the
    largest-coordinate norm, so that it has an inverse and fixed-point iteration finds it.

    Source: Choi and Lee 2000, injectivity of 2D and 3D uniform cubic B-spline functions (constants 2.046 and 2.479).
    """
    d = len(size)
    step = tuple(s / INTERVALS for s in size)
    largest = strength * min(step) / FOLD[d]
    nodes = rng.uniform(-1.0, 1.0, (d, *(INTERVALS + 3,) * d)) * largest
    return Bend(nodes, (-0.5,) * d, step)


def weights(
    at: Float[np.ndarray, "*n"], low: float | np.ndarray, step: float | np.ndarray, count: int
) -> Float[np.ndarray, "*n count"]:
    """Cubic B-spline weights of `count` control points at voxel coordinates; each row sums to 1."""
    t = np.clip((at - low) / step, 0, count - 3)
    away = np.abs(t[..., None] + 1 - np.arange(count))
    far, near = np.maximum(2 - away, 0), np.maximum(1 - away, 0)
    return (far * far * far - 4 * near * near * near) / 6


def displacement(bend: Bend, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """How far the bend moves single points (voxels of the view)."""
    count = bend.nodes.shape[1]
    rows = weights(points, np.asarray(bend.low), np.asarray(bend.step), count).swapaxes(0, 1)  # (d, n, K)
    value = np.einsum("nk,kr->nr", rows[0], np.moveaxis(bend.nodes, 0, -1).reshape(count, -1))  # in this thread alone
    for row in rows[1:]:  # (n, k, the axes left, d)
        value = np.einsum("nk,nkr->nr", row, value.reshape(*row.shape, -1))
    return value


def undo(bend: Bend, bent: Float[np.ndarray, "n d"], exact: float = 1e-4) -> Float[np.ndarray, "n d"]:
    """The points q with q + u(q) = bent, to about `exact` voxels, by fixed-point iteration."""
    points = bent
    for _ in range(400):  # contracts by the strength that was drawn, at worst
        before, points = points, bent - displacement(bend, points)
        if np.abs(points - before).max(initial=0.0) < exact / 10:
            break
    return points
