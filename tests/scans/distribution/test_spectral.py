"""Slope of the power spectrum: known slopes come back, in mm, whatever the voxel."""

import numpy as np
import pytest

from headwater.scans.distribution.patches import Sample
from headwater.scans.distribution.spectral import fine_axes, of_scan, radial, slope_of, spectrum
from headwater.streams import numpy_stream


def measured(samples: list[Sample]) -> tuple:
    found = [of_scan(s, numpy_stream(0, "scan", i)) for i, s in enumerate(samples)]
    (finding,), plots = spectrum(found, np.arange(len(found)), len(found), "mm", numpy_stream(0, "all"))
    return finding, plots


def scans(field, shape, slope, spacing, count=8, large=2, seed=0) -> list[Sample]:
    """Cut from fields twice as large, so that opposite edges are no neighbours."""
    rng = numpy_stream(seed, "field", str(slope), str(shape))
    cut = tuple(slice(0, n) for n in shape)
    whole = tuple(n * large for n in shape)
    return [Sample(field(whole, slope, spacing, rng)[cut][None].astype(np.float32), spacing) for _ in range(count)]


@pytest.mark.parametrize(
    "shape, spacing, count",
    [((64, 64), (1.0, 1.0), 20), ((28, 28), (0.5, 0.5), 60), ((32, 40, 32), (1.0, 1.0, 1.0), 6), ((64, 96), (1.0, 0.5), 25)],
)
@pytest.mark.parametrize("slope", [0.0, -2.0, -3.0])
def test_known_slopes_come_back(shape, spacing, count, slope, field):
    finding, _ = measured(scans(field, shape, slope, spacing, count))
    assert finding.value == pytest.approx(slope, abs=0.25)
    assert finding.interval[0] < finding.value < finding.interval[1]
    assert finding.null.low - 0.1 < 0 < finding.null.high + 0.1
    assert ("white noise" in finding.sentence) == (slope == 0) and ("Coarse" in finding.sentence) == (slope < 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_anisotropic_voxels_are_seen_in_mm(axis):
    """One wave of 0.2 cycles per mm lies at 0.2 whichever axis it runs along, on voxels of 0.5 x 1 x 1.25 mm."""
    spacing = (0.5, 1.0, 1.25)
    mm = np.meshgrid(*(np.arange(n) * s for n, s in zip((48, 32, 24), spacing, strict=True)), indexing="ij")
    frequency, power = radial(np.cos(2 * np.pi * 0.2 * mm[axis])[None], spacing)
    assert frequency[power.argmax()] == pytest.approx(0.2, abs=0.03)
    assert frequency.max() <= 0.5 / 1.25  # whole shells only


def test_the_slope_has_no_unit_and_the_band_has(field):
    one = scans(field, (48, 48), -2.5, (1.0, 1.0), count=5)
    ten = [Sample(s.array, (10.0, 10.0)) for s in one]
    a, b = (measured(s)[0] for s in (one, ten))
    assert a.value == pytest.approx(b.value, abs=1e-6)
    assert of_scan(one[0], numpy_stream(0, "x")).band[0] == pytest.approx(10 * of_scan(ten[0], numpy_stream(0, "x")).band[0])


def test_fine_structure_may_carry_more_power(field):
    finding, _ = measured(scans(field, (64, 64), 1.0, (1.0, 1.0), 20))
    assert finding.value == pytest.approx(1, abs=0.2) and "sharpening" in finding.sentence


def test_one_wave_lies_where_it_is():
    x = np.arange(64) * 0.5
    wave = np.cos(2 * np.pi * 0.25 * x)[:, None] * np.ones(64)
    frequency, power = radial(wave[None], (0.5, 0.5))
    assert frequency[power.argmax()] == pytest.approx(0.25, abs=0.03)


def test_edges_of_the_window_do_not_leak(field):
    """Without a taper the jump between opposite edges flattens a steep spectrum to about -2.5."""
    finding, _ = measured(scans(field, (128, 128), -4.0, (1.0, 1.0), 10))
    assert finding.value == pytest.approx(-4, abs=0.3)


def test_exact_power_law_is_a_perfect_line():
    frequency = np.linspace(0.02, 0.5, 30)
    slope, band = slope_of(frequency, 3 * frequency**-2.2, (64, 64), (1.0, 1.0))
    assert slope == pytest.approx(-2.2) and 0.045 < band[0] < band[1] <= 0.35


def test_thick_slices_are_a_stack():
    assert fine_axes((320, 320, 11), (0.5, 0.5, 7.5)) == [0, 1]
    assert fine_axes((64, 64, 64), (1.0, 1.0, 2.0)) == [0, 1, 2]
    assert fine_axes((64, 64, 64), (1.0, 1.0, 5.0)) == [0, 1]
    assert fine_axes((7, 5, 3), (1.0, 1.0, 1.0)) == []


@pytest.mark.parametrize("shape", [(7, 5, 3), (10, 300), (3, 3)])
def test_too_small_says_so(shape):
    finding, plots = measured([Sample(numpy_stream(0, "s").standard_normal((1, *shape)), (1.0,) * len(shape))])
    assert finding.value is None and "cannot be measured" in finding.sentence and plots == []


def test_plot_and_spacings_that_differ(field):
    mixed = scans(field, (32, 32), -2.0, (1.0, 1.0), count=3) + scans(field, (32, 32), -2.0, (100.0, 100.0), count=3, seed=1)
    for samples in (mixed, mixed[:1]):
        _, (plot,) = measured(samples)
        assert [s.name for s in plot.series] == ["scans", "fitted line", "white noise"] and plot.log_x and plot.log_y
        assert all(np.isfinite(s.x).all() and np.isfinite(s.y).all() and min(s.y) > 0 for s in plot.series)


def test_a_bent_spectrum_is_called_bent(field):
    rng = numpy_stream(0, "bent")
    bent = [field((96, 96), -6.0, (1.0, 1.0), rng) for _ in range(6)]
    bent = [Sample((b / b.std() + 0.05 * rng.standard_normal(b.shape))[None], (1.0, 1.0)) for b in bent]
    assert "no straight line" in measured(bent)[0].sentence
    assert "no straight line" not in measured(scans(field, (96, 96), -2.0, (1.0, 1.0), 6))[0].sentence


@pytest.mark.parametrize("seed", range(4))
def test_one_scan_of_white_noise_is_no_find(seed):
    sample = Sample(numpy_stream(seed, "lone").standard_normal((1, 64, 64)), (1.0, 1.0))
    found = of_scan(sample, numpy_stream(seed, "s"), 16)
    (finding,), _ = spectrum([found], np.zeros(1, int), 1, "mm", numpy_stream(0, "all"))
    assert finding.interval is None and "as in white noise" in finding.sentence
