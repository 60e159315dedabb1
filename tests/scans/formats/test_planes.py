"""Stacks of planes: order, affine, refusals."""

import numpy as np
import pytest

from headwater.scans.formats.planes import flat, normal, parallel, plane, scatter, stack
from headwater.scans.scan import Source, UnreadableError

HERE = Source.of("made-up.dcm")
TURNED = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]


def made(k, turned=TURNED, gap=2.0, shift=0.0, order=(), thickness=2.0):
    row, column = turned[:, 0], turned[:, 1]
    position = np.array([5.0, -3, 8]) + k * gap * np.cross(row, column) + k * shift * column
    return plane(tuple(position), (*row, *column), (0.7, 0.9), thickness, order)


def test_order_and_affine_are_those_that_made_them():
    order = np.random.default_rng(0).permutation(9)
    found = stack(HERE, [made(k) for k in order])
    assert found.index.shape == (1, 9) and [order[i] for i in found.index[0]] == list(range(9))
    np.testing.assert_array_equal(found.slot, order)
    for k, r, c in np.ndindex(2, 2, 2):
        lps = np.array(made(8 * k).position) + 0.7 * r * TURNED[:, 1] + 0.9 * c * TURNED[:, 0]
        np.testing.assert_allclose((found.affine @ [8 * k, r, c, 1])[:3], lps * [-1, -1, 1], atol=1e-9)
    assert found.spacing == (2.0, 0.7, 0.9) and found.notes == ()


def test_channels_are_ranked_by_their_order():
    found = stack(HERE, [made(k, order=(t,)) for t in (2, 0, 1) for k in (1, 0)])
    np.testing.assert_array_equal(found.index, [[3, 2], [5, 4], [1, 0]])


def test_one_plane_is_flat():
    affine, spacing = flat(stack(HERE, [made(0, thickness=4.0)]))
    assert spacing == (0.7, 0.9)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [0.7, 0.9, 4.0])


@pytest.mark.parametrize(
    ("planes", "match"),
    [
        ([made(k) for k in (0, 1, 2, 4)], "slices 3 and 4 of 4 are 4 mm apart where others are 2 mm"),
        ([made(k) for k in (0, 1, 1.4, 2, 3, 4)], "uneven distances"),
        ([made(0), made(1), made(1)], "uneven series: slice 1 of 2 is there 1 times"),
        ([made(0), made(1, turned=TURNED[:, [1, 2, 0]])], "different directions"),
        ([made(k, shift=k) for k in range(6)], "one straight line"),
    ],
)
def test_what_is_no_stack_is_refused(planes, match):
    with pytest.raises(UnreadableError, match=match):
        stack(HERE, planes)


def test_side_by_side_is_refused():
    beside = plane((100.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0), (1.0, 1.0), 1.0, ())
    with pytest.raises(UnreadableError, match="side by side"):
        stack(HERE, [plane((0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0), (1.0, 1.0), 1.0, ()), beside])


def test_tilt_keeps_the_affine_and_tells_the_angle():
    found = stack(HERE, [made(k, shift=2 * np.tan(np.radians(20))) for k in range(5)])
    assert found.notes == ("gantry tilt: 20.0 degrees, kept as a sheared affine",)
    assert found.spacing[0] == pytest.approx(2 / np.cos(np.radians(20)), abs=1e-5)


@pytest.mark.parametrize("apart", [2.0, 0.0, 3.3])
def test_scatter_leaves_out_slices(apart):
    found = scatter(HERE, [made(k) for k in (7, 2, 2, 3)], apart)
    np.testing.assert_array_equal(found.slot, [5, 0, 0, 1])
    assert found.index.shape == (0, 6) and found.spacing[0] == pytest.approx(2.0)
    with pytest.raises(UnreadableError, match="uneven distances"):
        scatter(HERE, [made(k) for k in (0, 1, 2.5)], 2.0)


def test_scatter_does_not_drift_over_many_slices():
    many = [made(k, gap=1.003) for k in range(0, 600, 2)]
    np.testing.assert_array_equal(scatter(HERE, many, 1.0).slot, np.arange(0, 600, 2))


@pytest.mark.parametrize(
    "numbers",
    [((0, 0), (1, 0, 0, 0, 1, 0), (1, 1)), ((0, 0, 0), (1, 0, 0, 1, 0, 0), (1, 1)), ((0, 0, 0), (2, 0, 0, 0, 1, 0), (1, 1)),
     ((0, 0, 0), (1, 0, 0, 0, 1, 0), (1, 0)), ((0, 0, 0), (), (1, 1)), ((0, 0, 0), (1, 0, 0, 0, 1, 0), ())],
)  # fmt: skip
def test_nonsense_is_no_plane(numbers):
    assert plane(*numbers, 1.0, ()) is None


def test_directions():
    np.testing.assert_allclose(normal((1, 0, 0, 0, 2, 0)), [0, 0, 1])
    assert parallel(made(0), made(3)) and not parallel(made(0), made(0, turned=-TURNED))
