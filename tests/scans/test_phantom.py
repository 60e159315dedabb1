"""Phantoms: the same for the same seed, varied, and not solved by intensity."""

import numpy as np
import pytest

from headwater.scans import look
from headwater.scans.phantom import NAMES, phantom, write

SHAPES = [(64, 72), (32, 40, 32)]


def _dice(a, b):
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def _best_band(image, truth):
    """The best Dice of any interval of intensity, with the truth known."""
    cuts = np.quantile(image, np.linspace(0, 1, 21))
    return max(_dice((image >= low) & (image <= high), truth) for i, low in enumerate(cuts) for high in cuts[i + 1 :])


@pytest.mark.parametrize("shape", SHAPES)
def test_same_seed_same_scan(shape):
    image, labels = phantom(3, 5, shape)
    assert image.shape == labels.shape == shape and image.dtype == np.float32 and labels.dtype == np.uint8
    assert np.isfinite(image).all()
    again = phantom(3, 5, shape)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(labels, again[1])
    for other in (phantom(3, 6, shape), phantom(4, 5, shape)):
        assert (other[0] != image).any() and (other[1] != labels).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_structures_are_there_touch_and_vary(shape):
    sizes = []
    for index in range(12):
        labels = phantom(0, index, shape)[1]
        sizes.append([(labels == k).mean() for k in NAMES])
        near = set()
        for axis in range(len(shape)):
            a, b = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
            near |= {frozenset(pair) for pair in zip(a[a != b].tolist(), b[a != b].tolist(), strict=True)}
        assert {frozenset((1, 2)), frozenset((0, 1))} <= near and {frozenset((1, 3)), frozenset((2, 3))} & near
    sizes = np.array(sizes)
    assert sizes.min() > 0.001 and (sizes.std(axis=0) > 0.1 * sizes.mean(axis=0)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_intensity_does_not_separate_the_structures(shape):
    bands, nearest, gap = [], [], []
    for index in range(8):
        image, labels = phantom(0, index, shape)
        bands.append([_best_band(image, labels == k) for k in NAMES])
        means = np.array([image[labels == k].mean() for k in range(4)])
        guess = np.abs(image[..., None] - means).argmin(-1)
        nearest.append([_dice(guess == k, labels == k) for k in NAMES])
        gap.append(abs(means[1] - means[2]) / image[(labels == 1) | (labels == 2)].std())
    assert np.mean(bands, axis=0).max() < 0.45 and np.mean(nearest, axis=0).max() < 0.4
    assert np.mean(gap) < 1.0  # head and tail share their tissue; shading is what differs


def test_place_tells_more_than_intensity_and_not_all():
    labels = np.stack([phantom(0, i, (32, 40, 32))[1] for i in range(20)])
    atlas = np.stack([(labels[:16] == k).mean(axis=0) for k in range(4)]).argmax(axis=0)
    overlap = np.mean([_dice(atlas == k, truth == k) for truth in labels[16:] for k in (1, 2)])
    assert 0.15 < overlap < 0.7


def test_two_scanners():
    spreads = [phantom(0, i, (40, 48, 40))[0].std() for i in range(8)]
    assert max(spreads) > 50 * min(spreads)
    with pytest.raises(ValueError, match="two or three axes"):
        phantom(0, 0, (40,))


@pytest.mark.parametrize("shape", [(24, 28), (24, 28, 24)])
def test_written_phantoms_are_read_back(tmp_path, shape):
    images, masks = write(tmp_path, 6, shape, 1, labelled=3, spacing=1.5)
    passport = look(images, masks)
    assert passport.ndim == len(shape) and passport.spacing == (1.5,) * len(shape) and passport.label_names == NAMES
    assert [e.mask is not None for e in passport.entries] == [True] * 3 + [False] * 3
    assert {v: n for v, n in passport.entries[0].labels.items()} == dict(
        zip(*(x.tolist() for x in np.unique(phantom(1, 0, shape)[1], return_counts=True)), strict=True)
    )
