"""Correlation length: closed forms come back in mm."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from headwater.scans.distribution.correlation import autocorrelation, correlation, crossing, of_scan
from headwater.scans.distribution.patches import Sample
from headwater.streams import numpy_stream


def measured(samples: list[Sample], mm: str = "mm") -> tuple:
    found = [of_scan(s, numpy_stream(0, "scan", i)) for i, s in enumerate(samples)]
    (finding,), plots = correlation(found, np.arange(len(found)), len(found), mm, numpy_stream(0, "all"))
    return finding, plots


def smooth(shape, sigma, spacing, count=6) -> list[Sample]:
    """White noise smoothed by a Gaussian of sigma mm: autocorrelation exp(-r^2 / 4 sigma^2), 1/e at 2 sigma."""
    rng = numpy_stream(0, "smooth", str(shape))
    noise = (rng.standard_normal(shape) for _ in range(count))
    step = [sigma / s for s in spacing]
    return [Sample(gaussian_filter(n, step, mode="wrap")[None].astype(np.float32), spacing) for n in noise]


@pytest.mark.parametrize(
    "shape, spacing, sigma",
    [
        ((128, 128), (1.0, 1.0), 2.0),
        ((40, 48, 40), (1.0, 1.0, 1.0), 1.5),
        ((128, 128), (0.25, 0.25), 1.0),
        ((96, 64, 48), (0.5, 1.0, 1.0), 1.5),
    ],
)
def test_smoothed_noise_reaches_two_sigma(shape, spacing, sigma):
    finding, _ = measured(smooth(shape, sigma, spacing))
    assert finding.value == pytest.approx(2 * sigma, rel=0.12)
    assert finding.null.value < max(spacing) and finding.interval[0] <= finding.value <= finding.interval[1]
    assert "Voxels are alike" in finding.sentence


def test_length_is_in_mm():
    one = smooth((64, 64), 2.0, (1.0, 1.0))
    a, b = measured(one)[0], measured([Sample(s.array, (3.0, 3.0)) for s in one])[0]
    assert b.value == pytest.approx(3 * a.value) and b.null.value == pytest.approx(3 * a.null.value, rel=0.05)


def test_white_noise_says_little():
    finding, _ = measured([Sample(numpy_stream(i, "w").standard_normal((1, 64, 64)), (1.0, 1.0)) for i in range(6)])
    assert finding.value == pytest.approx(1 - np.exp(-1), abs=0.03) and "tells little about its neighbour" in finding.sentence


def test_one_scan_of_white_noise_is_no_find():
    for seed in range(4):
        finding, _ = measured([Sample(numpy_stream(seed, "lone").standard_normal((1, 64, 64)), (1.0, 1.0))])
        assert "tells little" in finding.sentence and finding.null.high >= 1


def test_scans_too_small_for_their_structure_say_so():
    ramp = np.linspace(0, 1, 32)[:, None] * np.ones(32)
    rows = [Sample((ramp + 0.01 * numpy_stream(i, "r").standard_normal((32, 32)))[None], (1.0, 1.0)) for i in range(6)]
    assert "at least" in measured(rows)[0].sentence
    shared = np.linspace(0, 1, 6)[None] * np.ones((2, 1))  # lag 1 along two rows: alike for ever
    finding, _ = measured([Sample(shared[None], (1.0, 50.0))])
    assert finding.value is None or np.isfinite(finding.value)


def test_autocorrelation_of_a_wave():
    wave = np.cos(2 * np.pi * np.arange(400) / 16)[None, :, None] * np.ones((1, 1, 3))
    lag, r = autocorrelation(wave, 0)
    assert lag[:5].tolist() == [0, 1, 2, 3, 4] and r[0] == 1
    assert np.allclose(r, np.cos(2 * np.pi * lag / 16), atol=0.02)


def test_crossing_between_lags():
    assert crossing(np.array([0.0, 2.0]), np.array([1.0, 0.0])) == pytest.approx(2 * (1 - np.exp(-1)))
    assert crossing(np.array([0.0, 2.0]), np.array([1.0, 0.9])) == float("inf")


def test_a_middle_without_contrast():
    """Of a large scan only the middle is looked at."""
    array = np.zeros((1, 1300, 1300), np.float32)
    array[0, 0, :600] = 1
    finding, plots = measured([Sample(array, (1.0, 1.0))])
    assert finding.value is None and "contrast" in finding.sentence and plots == []
