"""Elastic change: B-splines against scipy, never a fold, and an inverse."""

import numpy as np
import pytest
from scipy.interpolate import BSpline

from headwater.views.elastic import FOLD, Bend, displacement, draw_bend, undo, weights

SIZES = [(20, 30), (24, 16, 20)]


def test_weights_are_scipys_cubic_b_splines():
    at, count = np.linspace(-0.5, 31.5, 97), 7
    rows = weights(at, -0.5, 8.0, count)
    knots = np.arange(-3, count + 1) * 8.0 - 0.5
    for k in range(count):
        spline = BSpline(knots, np.eye(count)[k], 3)
        assert np.allclose(rows[:-1, k], spline(at[:-1]), atol=1e-12)
    assert np.allclose(rows.sum(1), 1) and (rows >= 0).all()
    assert np.allclose(weights(np.array([-9.0, 40.0]), -0.5, 8.0, count), rows[[0, -1]])  # held beyond the edges


@pytest.mark.parametrize("size", SIZES)
def test_displacement_is_the_tensor_product_spline(size):
    bend = draw_bend(np.random.default_rng(0), size, 0.8)
    points = np.random.default_rng(1).uniform(-1, np.array(size), (50, len(size)))
    rows = [weights(points[:, i], bend.low[i], bend.step[i], 7) for i in range(len(size))]
    letters = "abc"[: len(size)]
    expected = np.einsum(f"d{letters}," + ",".join("n" + x for x in letters) + "->nd", bend.nodes, *rows)
    assert np.allclose(displacement(bend, points), expected, atol=1e-12)
    ramp = np.stack([np.full((7,) * len(size), float(i)) for i in range(len(size))])
    assert np.allclose(displacement(Bend(ramp, bend.low, bend.step), points), np.arange(len(size)))  # constants are reproduced


@pytest.mark.parametrize("d", [2, 3])
def test_the_bound_is_where_the_worst_control_points_fold(d):
    """The largest slope that displacements within +-1 can make, over signs and places of a cell: the published constant."""
    at = np.stack(np.meshgrid(*[np.linspace(0, 1, 21)] * d, indexing="ij"), -1).reshape(-1, d)
    basis = weights(at, 0.0, 1.0, 4)  # (n, d, 4)
    slope = (weights(at + 1e-5, 0.0, 1.0, 5) - weights(at - 1e-5, 0.0, 1.0, 5))[..., :4] / 2e-5
    slope[at == 0] *= 2  # one-sided at the held edge
    worst = 0.0
    for signs in np.array(np.meshgrid(*[[-1, 1]] * d)).reshape(d, -1).T:
        total = 0.0
        for j, sign in enumerate(signs):
            factors = [slope[:, i] if i == j else basis[:, i] for i in range(d)]
            product = factors[0]
            for f in factors[1:]:
                product = (product[:, :, None] * f[:, None, :]).reshape(len(at), -1)
            total = total + sign * product
        worst = max(worst, np.abs(total).sum(1).max())
    assert worst <= FOLD[d] * 1.001 and worst > 0.98 * FOLD[d]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strength", [0.5, 0.95])
def test_it_is_undone_everywhere(size, strength):
    for seed in range(5):
        bend = draw_bend(np.random.default_rng(seed), size, strength)
        points = np.random.default_rng(9).uniform(-6, np.array(size) + 5.0, (200, len(size)))
        bent = points + displacement(bend, points)
        assert np.abs(undo(bend, bent) - points).max() < 1e-3
        assert np.abs(bent - points).max() > 0.05
        near = points + np.random.default_rng(seed).normal(size=points.shape) * 0.1
        change = np.abs(displacement(bend, near) - displacement(bend, points)).max(1)
        assert (change <= strength * np.abs(near - points).max(1) + 1e-9).all()


def test_the_worst_bend_within_the_bound_is_undone():
    bend = draw_bend(np.random.default_rng(0), (20, 20, 20), 0.95)
    extreme = Bend(np.sign(bend.nodes) * np.abs(bend.nodes).max(), bend.low, bend.step)
    points = np.random.default_rng(9).uniform(0, 19, (200, 3))
    assert np.abs(undo(extreme, points + displacement(extreme, points)) - points).max() < 1e-3
