"""One scan made ready: what is done to it, and that the way back leads home."""

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans import resampling
from headwater.scans.ready import Rule, ready
from headwater.scans.scan import Scan, Source

LAS = np.array([[-1.0, 0, 0, 30], [0, 2, 0, -5], [0, 0, 1, 4], [0, 0, 0, 1]])


def made_up(shape=(30, 20, 24), affine=LAS, spaced=True, channels=1):
    """A head in air with one structure: Scan and mask."""
    rng = np.random.default_rng(0)
    array, mask = np.zeros((channels, *shape), np.float32), np.zeros(shape, np.int32)
    inner = tuple(slice(n // 4, n - n // 4) for n in shape)
    array[(slice(None), *inner)] = rng.normal(100, 20, (channels, *mask[inner].shape))
    mask[inner] = rng.integers(0, 2, mask[inner].shape) * 7
    spacing = tuple(float(np.linalg.norm(affine[:3, i])) for i in range(len(shape))) if spaced else (1.0,) * len(shape)
    return Scan(array, spacing, affine, Source(()), spaced=spaced), mask


def test_everything_at_once_and_back():
    scan, mask = made_up()
    rule = Rule((1.0, 2.0, 1.0), "RAS", "scan", 1, (0, 7))
    made = ready(scan, mask, rule)
    assert made.geometry.flips == (True, False, False) and made.geometry.size == made.image.shape[1:] == made.label.shape
    assert np.prod(made.geometry.size) < 0.9 * mask.size and made.image.dtype == np.float16
    np.testing.assert_array_equal(resampling.back(made.label, made.geometry) * 7, mask)
    corner = made.affine @ np.linalg.inv(made.geometry.matrix)
    np.testing.assert_allclose(corner, scan.affine, atol=1e-12)
    assert abs(float(made.image.astype(np.float64).mean())) < 1e-3 and abs(float(made.image.astype(np.float64).std()) - 1) < 1e-3
    inside = resampling.turn(scan.array, made.geometry.axes, made.geometry.flips)[0][
        tuple(slice(*span) for span in made.geometry.box)
    ]
    clipped = np.clip(inside, *np.percentile(inside, [0.5, 99.5]))
    np.testing.assert_allclose(made.image[0], (clipped - clipped.mean()) / clipped.std(), atol=3e-3)


def test_statistics_are_of_the_voxels_before_resampling():
    scan, _ = made_up()
    fine, coarse = (ready(scan, None, Rule(spacing, "RAS", "scan")) for spacing in ((1.0, 2.0, 1.0), (2.5, 4.0, 1.0)))
    assert fine.windows == coarse.windows and fine.geometry.size != coarse.geometry.size
    wide = ready(scan, None, Rule((1.0, 2.0, 1.0), "RAS", "set", fixed=coarse.windows))
    np.testing.assert_array_equal(wide.image, fine.image)


def test_unknown_spacing_is_neither_turned_nor_resampled_among_known():
    scan, mask = made_up(spaced=False)
    made = ready(scan, mask, Rule((3.0, 3.0, 3.0), "RAS", "scan", 1, (0, 7)))
    assert made.geometry.axes == (0, 1, 2) and made.geometry.step == (1.0,) * 3 and not any(made.geometry.flips)
    among_unknown = ready(scan, mask, Rule((2.0, 2.0, 2.0), "", "scan", 1, (0, 7)))
    assert among_unknown.geometry.step == (2.0,) * 3  # then one voxel is the unit


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures(channels):
    scan, mask = made_up((40, 50), np.diag([1.0, 1.0, 1.0, 1.0]), spaced=False, channels=channels)
    made = ready(scan, mask, Rule((1.0, 1.0), "", "scan", channels, (0, 7)))
    assert made.image.shape == (channels, 28, 34) == (channels, *made.label.shape)  # 20 x 26 and a margin of 4
    np.testing.assert_allclose(made.affine @ [0, 0, 0, 1], [6, 8, 0, 1])


def test_what_does_not_count():
    rule = Rule((1.0, 1.0), "", "scan", 1, (0, 3, 900), ignore=77)
    assert rule.classes(np.array([[0, 3, 77], [900, 3, 5]])).tolist() == [[0, 1, 255], [2, 1, 0]]
    large = Rule((1.0, 1.0), "", "scan", 1, (0, 3, 10**9), ignore=77)
    assert large.classes(np.array([[0, 3, 77], [10**9, 2, 2 * 10**9]])).tolist() == [[0, 1, 255], [2, 0, 0]]
    many = Rule((1.0, 1.0), "", "scan", 1, tuple(range(256)), ignore=300)
    assert many.classes(np.array([255, 300])).tolist() == [255, 65_535] and many.classes(np.array([1])).dtype == np.uint16
    scan, mask = made_up((40, 50), np.eye(4), spaced=False)
    made = ready(scan, np.where(mask == 7, 77, 0), Rule((0.7, 1.3), "", "scan", ignore=77))
    assert set(np.unique(made.label)) == {0, 255}


def test_another_number_of_channels_is_refused():
    scan, _ = made_up((40, 50), np.eye(4), spaced=False, channels=2)
    for channels in (1, 3):
        with pytest.raises(InputError, match="has 2 channels, the others have"):
            ready(scan, None, Rule((1.0, 1.0), "", "scan", channels))


def test_single_objects_become_one_structure():
    scan, mask = made_up()
    mask[mask > 0] = np.arange(1, (mask > 0).sum() + 1)
    made = ready(scan, mask, Rule((1.0, 2.0, 1.0), "LAS", "scan", 1, (0, 1), instances=True))
    assert set(np.unique(made.label)) == {0, 1} and (made.label > 0).sum() == (mask > 0).sum()
