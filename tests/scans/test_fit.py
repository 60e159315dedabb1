"""Images as a model takes them: axes, channels, scale and size."""

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans.fit import Wants, fit


def images(*shape, n=4, seed=0, scale=50.0):
    return [a.astype(np.float32) for a in np.random.default_rng(seed).normal(100, scale, (n, *shape))]


def test_as_they_are_but_scaled():
    found, crop, words = fit(images(1, 24, 30), Wants(2, 1, stride=(4, 4)))
    assert crop == (16, 20) and found[0].shape == (1, 24, 30) and found[0].dtype == np.float32
    assert abs(found[0].mean()) < 1e-2 and abs(found[0].std() - 1) < 1e-2
    assert words == ("views of 16 x 20 are cut from images of about 24 x 30", "every image scaled to mean 0 and spread 1")


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 500, 300), (1, 40, 20)])
def test_one_size_only(shape):
    found, crop, words = fit(images(*shape), Wants(2, 3, (32, 32), (8, 8)))
    assert crop == (32, 32) and min(found[0].shape[1:]) == 48 and found[0].shape[0] == 3
    ratio = found[0].shape[1] / found[0].shape[2]
    assert ratio == pytest.approx(shape[1] / shape[2], rel=0.02)
    assert np.array_equal(found[0][0], found[0][2]) and "grey images are shown in all 3 channels" in words
    assert any("were resized to" in text for text in words)


def test_resizing_keeps_what_is_where():
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32), (1, 20, 30)).copy()
    for size in (8, 40):
        found, _, _ = fit([ramp], Wants(2, 1, (size, size)))
        row = found[0][0, found[0].shape[1] // 2]
        assert (np.diff(row[1:-1]) > 0).all() and abs(row[len(row) // 2 - 1] + row[len(row) // 2]) < 0.15


def test_volumes_for_a_model_of_pictures():
    volumes = images(1, 10, 12, 7)
    found, _, words = fit(volumes, Wants(2, 1))
    assert found[0].shape == (1, 10, 12) and np.corrcoef(found[0].ravel(), volumes[0][..., 3].ravel())[0, 1] > 0.99
    assert "middle slice" in words[0]


def test_colours_for_a_model_of_grey():
    colours = images(3, 16, 16)
    found, _, words = fit(colours, Wants(2, 1))
    assert found[0].shape[0] == 1 and np.corrcoef(found[0].ravel(), colours[0].mean(0).ravel())[0, 1] > 0.99
    assert "their mean" in words[0]


def test_the_scale_a_model_was_trained_with():
    eight_bits = [np.clip(a, 0, 255).round() for a in images(3, 24, 24)]
    found, _, words = fit(eight_bits, Wants(2, 3, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.25, 0.5)))
    for channel, (mean, deviation) in enumerate(((0.5, 0.2), (0.4, 0.25), (0.3, 0.5))):
        np.testing.assert_allclose(found[0][channel], (eight_bits[0][channel] / 255 - mean) / deviation, atol=1e-5)
    assert "preprocessor_config.json" in words[-1]


def test_large_pictures_are_made_smaller_and_large_volumes_are_cut():
    found, crop, _ = fit(images(1, 900, 700, n=2), Wants(2, 1, stride=(16, 16)))
    assert crop == (224, 224) and min(found[0].shape[1:]) == 336
    found, crop, _ = fit(images(1, 120, 110, 30, n=1), Wants(3, 1, stride=(4, 4, 4)))
    assert crop == (64, 64, 20) and found[0].shape == (1, 120, 110, 30)


@pytest.mark.parametrize(
    ("wrong", "wants", "said"),
    [
        (images(1, 16, 16), Wants(3, 1), "takes volumes and the images are pictures"),
        (images(2, 16, 16), Wants(2, 3), "takes 3 channels and the images have 2"),
        (images(1, 16, 16) + images(3, 16, 16), Wants(2), "differ in their channels"),
    ],
)
def test_what_does_not_fit(wrong, wants, said):
    with pytest.raises(InputError, match=said):
        fit(wrong, wants)
