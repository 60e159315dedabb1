"""Two nearest neighbours: known dimensions, an independent implementation, copies, and the bias that the null shows."""

import numpy as np
import pytest

from headwater.scans.distribution.dimension import dimension, two_nn
from headwater.streams import numpy_stream


def cube(n: int, d: int, width: int, seed: int = 0) -> np.ndarray:
    """n points, uniform in a d-dimensional cube, turned into `width` dimensions."""
    rng = numpy_stream(seed, "cube", d)
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0][:d]
    return rng.uniform(size=(n, d)) @ turn


def measured(patches):
    (finding,), plots = dimension(patches, numpy_stream(0, "d"))
    return finding, plots


@pytest.mark.parametrize("d", [1, 2, 5])
def test_cubes_have_their_dimension(d):
    found = two_nn(cube(1500, d, 12))
    assert found.dimension == pytest.approx(d, rel=0.1) and found.likelihood == pytest.approx(d, rel=0.1)
    assert abs(found.likelihood - d) < 4 * found.error + 0.05 * d
    assert found.error == pytest.approx(found.likelihood / np.sqrt(1350))


def test_gaussian_subspace_and_curved_sheet():
    rng = numpy_stream(0, "sheet")
    flat = rng.standard_normal((1500, 3)) @ rng.standard_normal((3, 50))
    assert two_nn(flat).dimension == pytest.approx(3, rel=0.12)
    angle = rng.uniform(0, 2 * np.pi, (1500, 2))
    torus = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)  # a plane rolled up in four dimensions
    assert two_nn(torus).dimension == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("points", [cube(400, 3, 10), cube(300, 8, 40, 1)])
def test_like_a_tree_and_least_squares(points):
    """The published recipe, written with other means."""
    from scipy.spatial import cKDTree

    distance = cKDTree(points).query(points, 3)[0]
    ratio = np.sort(distance[:, 2] / distance[:, 1])
    below = np.arange(1, len(points) + 1) / len(points)
    kept = int(0.9 * len(points))
    x, y = np.log(ratio[:kept]), -np.log(1 - below[:kept])
    found = two_nn(points)
    assert np.allclose(found.log_ratio, x) and np.allclose(found.exceeded, y)
    assert found.dimension == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])


@pytest.mark.parametrize("points", [cube(400, 3, 10), cube(300, 8, 40, 1)])
def test_like_scikit_dimension(points):
    skdim = pytest.importorskip("skdim.id")
    oracle = skdim.TwoNN(discard_fraction=0.1).fit(points)
    found = two_nn(points)
    assert np.allclose(np.sort(oracle.x_.ravel()), found.log_ratio, rtol=1e-6)
    off_by_one = not np.allclose(oracle.y_.ravel(), found.exceeded)  # in some releases the first rank is 0
    assert found.dimension == pytest.approx(float(oracle.dimension_), rel=0.02 if off_by_one else 1e-9)


def test_the_error_is_the_scatter_over_repeated_draws():
    """Over 60 independent samples the estimate scatters as its error says."""
    found = [two_nn(cube(300, 2, 3, seed)) for seed in range(60)]
    assert np.std([f.likelihood for f in found]) == pytest.approx(np.mean([f.error for f in found]), rel=0.35)


@pytest.mark.parametrize("change", [lambda x: 100 * x, lambda x: x + 1e4, lambda x: x[::-1], lambda x: x[:, ::-1]])
def test_scale_place_and_order_do_not_matter(change):
    points = cube(400, 3, 8)
    assert two_nn(change(points)).dimension == pytest.approx(two_nn(points).dimension, rel=1e-6)


def test_copies_count_once():
    points = cube(400, 3, 8)
    found = two_nn(np.concatenate([points, points[:150], points[:50]]))
    assert found.duplicates == 200 and found.dimension == pytest.approx(two_nn(points).dimension)
    assert two_nn(np.ones((500, 4))) is None and two_nn(points[:5]) is None
    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    assert two_nn(grid) is None  # every neighbour is as near as the next


def test_a_curved_sheet_is_below_its_gaussian_clone(as_patches):
    rng = numpy_stream(0, "curve")
    angle = rng.uniform(0, 2 * np.pi, (800, 1)) * np.arange(1, 9)
    curve = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)  # one dimension, full covariance in sixteen
    finding, plots = measured(as_patches(curve, np.arange(800) % 10, (4, 4)))
    assert finding.value < 1.5 < 6 < finding.null.value and "fewer than their covariance" in finding.sentence
    assert [p.name for p in plots] == ["neighbours", "dimension by number"]
    assert len(plots[1].series[0].x) == 3


def test_gaussian_patches_read_as_their_clones_although_far_too_low(as_patches):
    """The finite-sample bias: 64 dimensions read about 20 to 30 with 800 points, and so does the null."""
    finding, _ = measured(as_patches(numpy_stream(0, "g").standard_normal((800, 64)), np.arange(800) % 10, (8, 8)))
    assert finding.value < 45 and finding.null.low < finding.value < finding.null.high
    assert "no fewer than their covariance" in finding.sentence


def test_noise_on_a_sheet_depends_on_scale(as_patches):
    rng = numpy_stream(0, "noise")
    sheet = rng.uniform(size=(1200, 2)) @ np.eye(2, 16) + 0.012 * rng.standard_normal((1200, 16))
    finding, plots = measured(as_patches(sheet, np.arange(1200) % 10, (4, 4)))
    x, y = plots[1].series[0].x, plots[1].series[0].y
    assert x == (300.0, 600.0, 1200.0) and y[0] < y[1] < y[2] and "depends on scale" in finding.sentence


def test_patches_of_several_kinds_fit_no_line(as_patches):
    rng = numpy_stream(0, "kinds")
    flat = np.concatenate([rng.standard_normal((400, 1)) * np.ones(64), 50 + rng.standard_normal((400, 64))])
    finding, _ = measured(as_patches(flat + 0.0, np.arange(800) % 10, (8, 8)))
    assert "fits badly" in finding.sentence
    finding, _ = measured(as_patches(rng.standard_normal((800, 16)), np.arange(800) % 10, (4, 4)))
    assert "fits badly" not in finding.sentence


@pytest.mark.parametrize("flat", [np.zeros((0, 4)), np.ones((30, 4)), np.ones((300, 4)), np.arange(400.0).reshape(200, 2) % 3])
def test_nothing_to_measure(flat, as_patches):
    patches = as_patches(flat, np.zeros(max(1, len(flat)), int), (flat.shape[1], 1))
    finding, plots = measured(patches)
    assert finding.value is None and "cannot be measured" in finding.sentence and plots == []
