"""Tails: seen where they are, not seen where they are not, and hidden by random directions."""

import numpy as np
import pytest

from headwater.scans.distribution import gaussianity
from headwater.scans.distribution.finding import beside
from headwater.scans.distribution.gaussianity import directions, gaussianity as measure, kurtosis, l_kurtosis, powers
from headwater.streams import numpy_stream

UNITS = np.repeat(np.arange(20), 100)


def by_name(patches, key: str = "x") -> dict:
    return {f.name: f for f in measure(patches, numpy_stream(0, key))[0]}


def side(finding) -> int:
    return beside(finding.value, finding.interval, finding.null)


def test_kurtosis_is_scipys():
    from scipy.stats import kurtosis as oracle

    values = numpy_stream(0, "k").gamma(2, size=(500, 3))
    assert np.allclose(kurtosis(powers(values).sum(axis=0)), oracle(values, axis=0))
    some = values[:, 0] > 1  # a draw of other scans has another mean
    assert np.allclose(kurtosis(powers(values)[some].sum(axis=0)), oracle(values[some], axis=0))


def test_l_kurtosis_is_the_textbook_one():
    rng = numpy_stream(0, "l")
    ones = np.ones(40000)
    truth = {"normal": 0.1226, "laplace": 0.2357, "uniform": 0.0}  # Hosking 1990
    for name, value in truth.items():
        assert l_kurtosis(getattr(rng, name)(size=40000), ones) == pytest.approx(value, abs=0.01)


def test_l_kurtosis_does_not_mind_one_outlier_and_weights_are_copies():
    rng = numpy_stream(1, "l")
    values = rng.standard_normal(2000)
    hot = np.append(values, 50.0)
    ones = np.ones(2001)
    assert kurtosis(powers(hot[:, None]).sum(axis=0))[0] > 100
    assert l_kurtosis(hot, ones) < 0.18
    weights = rng.integers(1, 4, 2001).astype(float)
    assert l_kurtosis(hot, weights) == pytest.approx(
        l_kurtosis(np.repeat(hot, weights.astype(int)), np.ones(int(weights.sum()))), abs=1e-6
    )


def test_random_directions_hide_what_neighbour_differences_show(as_patches):
    """The trap: Laplace voxels (excess kurtosis 3) through random projections of 256 of them read 3 / 256."""
    rng = numpy_stream(0, "trap")
    flat = rng.laplace(size=(4000, 256))
    random = flat @ (rng.standard_normal((256, 20)) / 16)
    assert abs(np.median(kurtosis(powers(random).sum(axis=0)))) < 0.15
    found = directions(flat.reshape(-1, 1, 16, 16))
    assert np.median(kurtosis(powers(found["intensity"]).sum(axis=0))) == pytest.approx(3, abs=0.8)
    assert np.median(kurtosis(powers(found["neighbour"]).sum(axis=0))) == pytest.approx(1.5, abs=0.5)  # half: of two voxels


@pytest.mark.parametrize("shape", [(8, 8), (4, 4, 4), (16, 1)])
def test_gaussian_fields_read_gaussian(shape, field, as_patches):
    rng = numpy_stream(3, "gauss", str(shape))
    flat = np.stack([field(shape, -2.0, (1.0,) * len(shape), rng).ravel() for _ in range(2000)])
    found = by_name(as_patches(flat + 0.1 * rng.standard_normal(flat.shape), UNITS, shape))
    assert [side(f) for f in found.values()] == [0] * 5
    assert all("cannot be told" in f.sentence and f.null.low < 0.13 < 0.3 for f in found.values())


def haar_basis(n: int) -> np.ndarray:
    """(n, n) orthonormal Haar basis, one row each."""
    if n == 1:
        return np.ones((1, 1))
    half = haar_basis(n // 2)
    return np.concatenate([np.kron(half, [1, 1]), np.kron(np.eye(n // 2), [1, -1])]) / np.sqrt(2)


def test_sparse_wavelets_are_seen_in_wavelets(as_patches):
    rng = numpy_stream(4, "haar")
    basis = np.kron(haar_basis(8), haar_basis(8))
    found = by_name(as_patches(rng.laplace(size=(2000, 64)) @ basis, UNITS, (8, 8)))
    assert side(found["tails of wavelet details"]) == 1 and "heavier tails" in found["tails of wavelet details"].sentence
    assert side(found["shape of wavelet details"]) == 1


def test_a_mixture_of_contrasts_is_reported_as_it_is(as_patches):
    """Every scan Gaussian, contrasts that differ: heavy tails all the same."""
    rng = numpy_stream(5, "scales")
    contrast = np.exp(rng.standard_normal(20))[UNITS][:, None]
    found = by_name(as_patches(contrast * rng.standard_normal((2000, 16)), UNITS, (4, 4)))
    assert side(found["tails of differences of neighbouring voxels"]) == 1
    assert "contrast that differs between places or scans" in found["tails of differences of neighbouring voxels"].sentence


def test_two_values_have_light_tails(as_patches):
    rng = numpy_stream(6, "two")
    found = by_name(as_patches(rng.integers(0, 2, (2000, 16)) + 0.05 * rng.standard_normal((2000, 16)), UNITS, (4, 4)))
    assert (
        found["tails of single voxels"].value == pytest.approx(-2, abs=0.1)
        and "lighter tails" in found["tails of single voxels"].sentence
    )


def test_tails_of_few_samples_are_in_the_null(as_patches):
    """With 60 patches kurtosis scatters widely: the null says so."""
    rng = numpy_stream(7, "few")
    few = by_name(as_patches(rng.standard_normal((60, 16)), np.arange(60) % 20, (4, 4)))
    many = by_name(as_patches(rng.standard_normal((2000, 16)), UNITS, (4, 4)))
    width = [f["tails of single voxels"].null.high - f["tails of single voxels"].null.low for f in (few, many)]
    assert width[0] > 3 * width[1]


def test_plots_and_degenerate_patches(as_patches):
    rng = numpy_stream(8, "plots")
    findings, plots = measure(as_patches(rng.standard_normal((2000, 16)), UNITS, (4, 4)), numpy_stream(0, "x"))
    assert [p.name for p in plots] == [f"histogram {family}" for family in gaussianity.FAMILIES]
    for plot in plots:
        assert max(plot.series[0].y) == pytest.approx(max(plot.series[1].y), rel=0.25)
    for patches in (
        as_patches(np.ones((10, 4)), np.zeros(10, int), (2, 2)),
        as_patches(rng.standard_normal((200, 1)), UNITS[:200], (1, 1)),
    ):
        found = by_name(patches)
        assert (
            found["tails of wavelet details"].value is None and "cannot be measured" in found["tails of wavelet details"].sentence
        )
        assert len(found) == 5
