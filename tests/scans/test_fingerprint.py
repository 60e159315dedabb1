"""A scan in a few kilobytes: closed forms of what leaves a fingerprint as it is."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from headwater.scans.fingerprint import GRID, NEAR, finer, fingerprint, neighbours, spectra, standard, taper
from headwater.scans.phantom import phantom

SHAPES = [(48, 40), (28, 30, 26)]


def scan(shape: tuple[int, ...], index: int = 0) -> np.ndarray:
    return phantom(0, index, shape)[0][None]


def area_means(array: np.ndarray, g: int) -> np.ndarray:
    """Oracle: every voxel repeated g times along each axis, then plain means of blocks."""
    for axis in range(array.ndim):
        array = np.repeat(array, g, axis)
        n = array.shape[axis]
        array = array.reshape(*array.shape[:axis], g, n // g, *array.shape[axis + 1 :]).mean(axis + 1)
    return array


@pytest.mark.parametrize("shape", [(30, 45), (9, 14, 21)])
def test_cells_are_area_means(shape):
    array = np.random.default_rng(0).normal(size=shape)
    expected = standard(area_means(array, GRID[len(shape)]))
    for order in ("C", "F"):
        found = fingerprint(np.asarray(array, np.float32, order=order)[None])
        np.testing.assert_allclose(found, expected, atol=4e-3)  # half precision


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_spread_under_the_taper(shape):
    found = fingerprint(scan(shape)).astype(float)
    weight = taper(found.shape)
    assert found.shape == (GRID[len(shape)],) * len(shape)
    assert weight.mean() == pytest.approx(1)
    assert (found * weight).mean() == pytest.approx(0, abs=1e-3)
    assert (found**2 * weight).mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_intensities_integers_and_size_do_not_matter(shape):
    array = scan(shape)
    print_ = fingerprint(array).astype(float)
    low, high = array.min(), array.max()
    np.testing.assert_allclose(fingerprint(array * 3.5 - 700), print_, atol=5e-3)
    np.testing.assert_allclose(fingerprint(np.rint((array - low) / (high - low) * 4000).astype(np.int16)), print_, atol=1e-2)
    twice = array
    for axis in range(1, array.ndim):
        twice = np.repeat(twice, 2, axis)
    np.testing.assert_allclose(fingerprint(twice), print_, atol=5e-3)
    np.testing.assert_allclose(fingerprint(np.concatenate([array, array * 9 + 1])), print_, atol=5e-3)  # a second channel


@pytest.mark.parametrize("shape", [*SHAPES, (300, 40), (130, 30, 26)])  # the last two read only some planes
def test_flips_turn_the_thumbnail_and_leave_its_spectrum(shape):
    array = scan(shape)
    print_ = fingerprint(array)
    spectrum = spectra(print_[None])[0]
    assert np.linalg.norm(spectrum) == pytest.approx(1, abs=1e-5)
    d = len(shape)
    for flip in itertools.chain.from_iterable(itertools.combinations(range(d), k) for k in range(1, d + 1)):
        other = fingerprint(np.flip(array, [axis + 1 for axis in flip]))
        np.testing.assert_allclose(other, np.flip(print_, flip), atol=4e-3)
        np.testing.assert_allclose(spectra(other[None])[0], spectrum, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_spectra_of_copies_are_near_and_of_others_far(shape):
    array = scan(shape)
    moved = np.roll(array, 1, 1)
    near, far = (np.linalg.norm(np.diff(spectra(np.stack([fingerprint(array), fingerprint(b)])), axis=0)) for b in
                 (moved, scan(shape, 3)))  # fmt: skip
    assert near < 0.6 * far


def test_small_thin_blank_and_broken_arrays():
    rng = np.random.default_rng(0)
    for shape in [(7, 5, 3), (1, 40), (1, 1), (1, 1, 1), (2, 3, 1000)]:
        found = fingerprint(rng.normal(size=(1, *shape)).astype(np.float32))
        assert np.isfinite(found).all() and np.isfinite(spectra(found[None])).all()
        assert np.isfinite(finer(rng.normal(size=(1, *shape)).astype(np.float32))).all()
    assert not fingerprint(np.full((1, 20, 20), 1234.567, np.float32)).any()
    assert not fingerprint(np.zeros((2, 9, 9, 9), np.float32)).any()
    bad = rng.normal(size=(1, 20, 20)).astype(np.float32)
    bad[0, 3, 4], bad[0, 5, 6], bad[0, 0, 0] = np.nan, np.inf, -np.inf
    mended = np.where(np.isfinite(bad), bad, 0)
    np.testing.assert_allclose(fingerprint(bad), fingerprint(mended), atol=4e-3)
    huge = rng.uniform(1e37, 3e38, size=(1, 64, 64)).astype(np.float32)
    assert np.isfinite(fingerprint(huge)).all() and fingerprint(huge).any()


def test_another_number_of_axes_is_refused():
    for array in (np.zeros((1, 5)), np.zeros((1, 2, 3, 4, 5)), np.zeros((1, 0, 4))):
        with pytest.raises(ValueError, match="1 \\+ 2 or 1 \\+ 3"):
            fingerprint(array)


def test_finer_keeps_the_voxels_of_small_scans():
    array = scan((28, 30, 26))
    np.testing.assert_allclose(finer(array), standard(array[0]), atol=1e-4)
    assert finer(np.ones((3, 300, 50), np.float32)).shape == (96, 50)


def test_trees_find_what_all_distances_find():
    """Among many, copies are still neighbours: 2,000 random pictures, each twice, the second time with noise."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2000, 32, 32)), (0, 2, 2))
    points = np.concatenate([smooth, smooth + rng.normal(scale=0.02 * smooth.std(), size=smooth.shape)]).astype(np.float16)
    near = {tuple(pair) for pair in neighbours(list(points), 0).tolist()}
    assert sum((i, i + 2000) in near for i in range(2000)) >= 1990
    assert len(near) < 4000 * 12


def test_neighbours_of_few_are_the_nearest():
    """Up to a leaf of scans it is all distances."""
    prints = [fingerprint(scan(SHAPES[1], i)) for i in range(20)]
    points = spectra(np.stack(prints))
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(20)
    expected = {tuple(sorted((i, int(j)))) for i in range(20) for j in np.argsort(apart[i])[:2] if apart[i, j] < NEAR}
    assert {tuple(pair) for pair in neighbours(prints, 0, 0, 2).tolist()} == expected
    assert len(neighbours(prints[:1], 0)) == 0
