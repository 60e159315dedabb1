"""Moments gathered in chunks, the spectrum of noise, and ranks, against numpy, scikit-learn, scikit-dimension and draws."""

import numpy as np
import pytest
import torch

from headwater.observe.spectra import (
    edge,
    entropy_rank,
    join,
    moments,
    noise,
    participation_ratio,
    singular_values,
    variances,
)

RNG = np.random.default_rng(5)


def cloud(n: int, d: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=(n, d)) @ RNG.normal(size=(d, d)) + 20 * RNG.normal(size=d))


@pytest.mark.parametrize(("n", "d"), [(60, 8), (6, 20)])
def test_chunks_give_the_moments_of_the_whole(n: int, d: int) -> None:
    z = cloud(n, d)
    whole, parts = moments(z), moments(z[:1])
    for chunk in z[1:].split(7):
        parts = join(parts, moments(chunk))
    assert parts.n == whole.n
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.scatter, whole.scatter)
    np.testing.assert_allclose(whole.scatter / (n - 1), np.cov(z.T.numpy()), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (6, 20)])
def test_spectra_are_those_of_sklearn_and_numpy(n: int, d: int) -> None:
    from sklearn.decomposition import PCA

    z = cloud(n, d)
    pca = PCA().fit(z.numpy()).explained_variance_
    np.testing.assert_allclose(variances(moments(z))[: len(pca)], pca, rtol=1e-8, atol=1e-8)
    sigma = np.linalg.svd(z.numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(moments(z)), sigma, rtol=1e-7, atol=1e-6)


def test_ranks_in_closed_form() -> None:
    even = torch.tensor([3.0, 3.0, 3.0, 0.0], dtype=torch.float64)
    assert participation_ratio(even) == pytest.approx(3) and entropy_rank(even) == pytest.approx(3)
    two = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert participation_ratio(two) == pytest.approx(16 / 10)
    assert entropy_rank(two) == pytest.approx(4 / 3**0.75)
    assert np.isnan(participation_ratio(torch.zeros(3))) and np.isnan(entropy_rank(torch.zeros(3)))


def test_participation_ratio_is_that_of_scikit_dimension() -> None:
    skdim = pytest.importorskip("skdim", exc_type=ImportError)
    z = cloud(200, 12)
    theirs = skdim.id.lPCA(ver="participation_ratio").fit(z.numpy()).dimension_
    assert participation_ratio(variances(moments(z))) == pytest.approx(theirs, rel=1e-8)


@pytest.mark.parametrize(("n", "d"), [(64, 128), (128, 128), (256, 128), (1280, 128)])
def test_noise_of_marchenko_and_pastur(n: int, d: int) -> None:
    m = min(n, d)
    drawn = np.mean([np.linalg.svd(RNG.normal(size=(n, d)), compute_uv=False) ** 2 / n for _ in range(10)], 0)
    expected = noise(m, d / n).numpy()
    assert np.all(np.diff(expected) < 0)
    assert expected.mean() == pytest.approx(max(1.0, d / n), rel=1e-3)  # the trace is shared by m values
    np.testing.assert_allclose(expected[1:-1], drawn[1:-1], atol=0.04 * max(1, d / n))
    assert expected[0] < edge(d / n) < 1.1 * drawn[0]


@pytest.mark.parametrize(("n", "q", "d"), [(300, 2, 100), (200, 4, 100)])
def test_noise_whitened_by_an_estimate(n: int, q: int, d: int) -> None:
    """Wachter's law; the edge of Marchenko and Pastur would be far too low."""
    rows = n * (q - 1)
    drawn = []
    for _ in range(8):
        between, within = np.cov(RNG.normal(size=(d, n + 1))), np.cov(RNG.normal(size=(d, rows + 1)))
        drawn.append(np.sort(np.linalg.eigvals(np.linalg.solve(within, between)).real)[::-1])
    drawn = np.mean(drawn, 0)
    expected = noise(d, d / n, d / rows).numpy()
    np.testing.assert_allclose(expected[2:], drawn[2:], rtol=0.1)
    assert edge(d / n, d / rows) == pytest.approx(drawn[0], rel=0.1)
    assert expected.mean() == pytest.approx(1 / (1 - d / rows), rel=2e-2)
    assert 1.15 * edge(d / n) < drawn[0]


def test_rankme_of_noise_is_the_known_table() -> None:
    """59, 103, 119 and 126 of 128 at n/d = 0.5, 1, 2 and 10."""
    ranks = [entropy_rank(noise(min(n, 128), 128 / n).sqrt()) for n in (64, 128, 256, 1280)]
    assert [round(r) for r in ranks] == [59, 103, 119, 126]
