"""Intensities: to mean 0 and spread 1 and back."""

import numpy as np
import pytest

from headwater.scans.normalise import normalise, physical, pooled, window


@pytest.mark.parametrize("shape", [(2, 9, 10, 8), (1, 120, 110, 100)])
def test_is_what_the_formula_says(shape):
    image = (np.random.default_rng(0).normal(size=shape) * 50 + 900).astype(np.float32)
    by = [window(channel) for channel in image]
    made, rounding = normalise(image, by)
    for channel, result, one in zip(image, made, by, strict=True):
        clipped = np.clip(channel, *np.percentile(channel, [0.5, 99.5])).astype(np.float64)
        assert (one.mean, one.spread) == (pytest.approx(clipped.mean()), pytest.approx(clipped.std()))
        exact = (clipped - clipped.mean()) / clipped.std()
        np.testing.assert_allclose(result, exact, rtol=1e-3, atol=1e-4)
        assert np.abs(result - exact).max() <= rounding + 1e-6
    assert made.dtype == np.float16 and 0 < rounding < 2**-9  # half a step of half precision below 4 is 2^-10


def test_way_back_to_the_units_of_the_file():
    image = (np.random.default_rng(1).gamma(2, 300, size=(2, 20, 30)) - 1000).astype(np.float32)
    by = [window(channel) for channel in image]
    again = physical(normalise(image, by)[0], by)
    for channel, result, one in zip(image, again, by, strict=True):
        np.testing.assert_allclose(result, np.clip(channel, one.low, one.high), atol=2e-3 * one.spread)


def test_sparse_flat_and_wild_channels():
    image = np.zeros((3, 30, 30), np.float32)
    image[0, 3, 3] = 1e6
    image[1] = 42
    image[2] = np.random.default_rng(0).normal(size=(30, 30)) * 1e30
    by = [window(channel) for channel in image]
    made, _ = normalise(image, by)
    assert np.isfinite(made).all() and made[0, 3, 3] > 1 and not made[1].any()
    assert (physical(made, by)[1] == 42).all()


def test_a_given_span_and_windows_together():
    rng = np.random.default_rng(2)
    parts = [rng.normal(10 * i, 5 + i, size=100 + 50 * i) for i in range(4)]
    windows = [window(part, (-5.0, 30.0)) for part in parts]
    every = np.clip(np.concatenate(parts), -5, 30)
    one = pooled(windows, [part.size for part in parts])
    assert one.plain() == pytest.approx([-5.0, 30.0, every.mean(), every.std()])


def test_percentiles_of_large_channels_come_from_some_voxels():
    image = np.random.default_rng(0).normal(size=(300, 256, 128)).astype(np.float32)
    one = window(image)
    np.testing.assert_allclose([one.low, one.high], np.percentile(image, [0.5, 99.5]), atol=0.01)
