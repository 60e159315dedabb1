"""One scan laid over another: closed forms of flips, shifts, stretches and contrast."""

import numpy as np
import pytest
from scipy import ndimage

from headwater.scans.alignment import REACH, Match, glance, match
from headwater.scans.fingerprint import GRID, fingerprint
from headwater.scans.phantom import phantom


def scan(shape: tuple[int, ...], index: int = 0) -> np.ndarray:
    return phantom(0, index, shape)[0]


CASES = [((64, 56), 32), ((30, 34, 28), 16)]


@pytest.mark.parametrize("shape, cells", CASES)
def test_a_scan_is_itself_in_every_flip_and_scale(shape, cells):
    image = scan(shape)
    for flip in [(), (0,), tuple(range(len(shape)))]:
        found = match(image, np.flip(image, flip) * 40 + 7, cells)
        assert found.residual < 1e-6 and found.flipped == flip
        np.testing.assert_allclose(found.shift, 0, atol=1e-4)


@pytest.mark.parametrize("shape, cells", CASES)
def test_the_shift_is_found(shape, cells):
    """A window moved by two voxels in a larger scan: the share of the field of view is known."""
    large = ndimage.gaussian_filter(scan(tuple(n + 4 for n in shape)), 1.5)
    here = large[tuple(slice(0, n) for n in shape)]
    there = large[(slice(2, 2 + shape[0]), *(slice(0, n) for n in shape[1:]))]
    found = match(here, there, cells)
    assert found.residual < 0.005
    assert found.shift[0] == pytest.approx(2 / shape[0], rel=0.1)
    np.testing.assert_allclose(found.shift[1:], 0, atol=0.2 / min(shape))
    np.testing.assert_allclose(found.stretch, 0, atol=0.01)
    assert "moved along axis 0" in found.words()


@pytest.mark.parametrize("shape, cells", CASES)
def test_the_stretch_is_found(shape, cells):
    """One voxel cut from each side of the first axis."""
    image = ndimage.gaussian_filter(scan(shape), 1.5)
    found = match(image, image[1:-1], cells)
    assert found.residual < 0.005
    assert found.stretch[0] == pytest.approx(-2 / shape[0], rel=0.15)


@pytest.mark.parametrize("shape, cells", CASES)
def test_contrast_is_looked_through_and_others_are_not(shape, cells):
    image = scan(shape)
    scaled = (image - image.min()) / np.ptp(image)
    assert match(image, scaled**0.7, cells).residual < 0.01
    assert match(image, scan(shape, 1), cells).residual > 0.15


@pytest.mark.parametrize("shape, cells", CASES)
def test_a_glance_is_the_regression_at_rest(shape, cells):
    """On half the cells, as `match` would begin there; a hopeless pair is left at it."""
    prints = [fingerprint(scan(shape, i)[None]) for i in range(5)]
    prints.append(np.flip(prints[0], 0))
    firsts, seconds = np.array([0, 0, 1, 2, 0]), np.array([1, 4, 3, 4, 5])
    found = glance(prints, firsts, seconds)
    for residual, i, j in zip(found, firsts, seconds, strict=True):
        one = match(prints[i], prints[j], cells // 2)
        assert residual >= one.residual - 1e-4
        if residual > 0.2:
            assert residual == pytest.approx(one.residual, abs=1e-3)
    assert found[-1] < 1e-4 and found[0] > 0.2
    assert len(glance(prints, firsts[:0], seconds[:0])) == 0


def test_blank_and_tiny_scans_share_nothing_and_stay_finite():
    image = scan((40, 40))
    assert match(image, np.zeros((40, 40)), 32).residual == 1
    assert match(np.ones((40, 40)), image, 32).residual == 1
    rng = np.random.default_rng(0)
    for shape in [(7, 5, 3), (1, 40), (2, 2)]:
        found = match(rng.normal(size=shape), rng.normal(size=shape), GRID[len(shape)])
        assert 0 <= found.residual <= 1 and np.all(np.abs(found.shift) <= REACH) and np.isfinite(found.stretch).all()
    prints = [np.zeros((32, 32), np.float16), fingerprint(image[None])]
    np.testing.assert_allclose(glance(prints, np.array([0, 1]), np.array([1, 0])), 1)


def test_words():
    assert Match(0.0, (), (0.0, 0.0), (0.0, 0.0)).words() == "in place"
    assert Match(0.0, (0, 1), (0.03, 0.0), (0.0, 0.02)).words() == (
        "flipped along axes 0, 1 and moved along axis 0 and cropped or stretched"
    )
