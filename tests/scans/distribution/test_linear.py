"""Linear codes: judged on scans they have not seen."""

import numpy as np
import pytest

from headwater.scans.distribution.linear import explained, linear, needed
from headwater.streams import numpy_stream

UNITS = np.repeat(np.arange(20), 50)


def measured(patches):
    findings, plots = linear(patches, numpy_stream(0, "pca"))
    return {f.name.split()[2]: f for f in findings}, plots


def test_like_scikit_learn():
    from sklearn.decomposition import PCA

    rng = numpy_stream(0, "sk")
    flat = rng.standard_normal((300, 12)) @ rng.standard_normal((12, 12)) + 5
    half = np.arange(300) % 2
    error = explained(flat, half)
    for k in (1, 4, 11):
        oracle = PCA(k).fit(flat[half == 0])
        back = oracle.inverse_transform(oracle.transform(flat[half == 1]))
        assert np.allclose(error[half == 1, k], ((flat[half == 1] - back) ** 2).sum(axis=1))
    assert np.allclose(error[:, 12], 0, atol=1e-9)


def test_known_rank(as_patches):
    rng = numpy_stream(0, "rank")
    flat = rng.standard_normal((1000, 5)) @ np.linalg.qr(rng.standard_normal((64, 64)))[0][:5]
    found, (plot,) = measured(as_patches(flat, UNITS, (8, 8)))
    assert found["99%"].value == 5 and found["50%"].value == 3 and found["99%"].interval == (5, 5)
    assert found["99%"].null.value > 55
    assert found["99%"].sentence.startswith("5 linear components of 64 explain 99% of the variance of scans they have not seen")
    assert plot.series[0].y[-1] == pytest.approx(1) and plot.series[1].y[-1] == pytest.approx(1, abs=0.02)


def test_white_noise_saves_nothing(as_patches):
    found, _ = measured(as_patches(numpy_stream(0, "white").standard_normal((1000, 16)), UNITS, (4, 4)))
    for finding in found.values():
        assert finding.value == pytest.approx(finding.null.value, abs=1.5) and "saves nothing" in finding.sentence


def test_components_of_one_scan_are_no_use_to_another(as_patches):
    """Every scan has a direction of its own: in the same scans one component a scan would do, in others none does."""
    rng = numpy_stream(0, "own")
    own = np.eye(64)[:20][UNITS]
    flat = own * rng.standard_normal((1000, 1)) * 5 + rng.standard_normal((1000, 64))
    found, _ = measured(as_patches(flat, UNITS, (8, 8)))
    values = np.linalg.eigvalsh(np.cov(flat.T))[::-1]
    seen = int((np.cumsum(values) < 0.5 * values.sum()).sum()) + 1
    assert found["50%"].value > seen + 5


def test_needed():
    error = np.array([10.0, 5.0, 1.0, 0.0])
    assert [float(needed(error, s)) for s in (0.5, 0.9, 0.95, 0.99)] == [1, 2, 3, 3]
    assert np.isnan(needed(np.array([10.0, 9.0]), 0.5))


def test_fewer_patches_than_voxels(as_patches):
    found, _ = measured(
        as_patches(numpy_stream(0, "few").standard_normal((60, 100)), UNITS[:60] * 0 + np.arange(60) % 6, (10, 10))
    )
    assert found["99%"].value is None and "explain less" in found["99%"].sentence


@pytest.mark.parametrize("unit", [np.zeros(100, int), np.array([0] * 95 + [1] * 5)])
def test_one_scan_is_too_few(unit, as_patches):
    found, plots = measured(as_patches(numpy_stream(0, "one").standard_normal((100, 4)), unit, (2, 2)))
    assert all(f.value is None and "cannot be measured" in f.sentence for f in found.values()) and plots == []
