"""Eigen-images against sklearn's PCA, curves against rebuilding and against noise."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from headwater.errors import InputError
from headwater.observe.closer.eigenimages import eigen_images, rebuilt


def linear(n: int = 40, size: tuple[int, ...] = (1, 6, 7), rank: int = 3, noise: float = 0.05, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(rank, *size, generator=generator)
    return (
        torch.einsum("nk,k...->n...", torch.randn(n, rank, generator=generator), few)
        + 3
        + noise * torch.randn(n, *size, generator=generator)
    )


@pytest.mark.parametrize("n, size", [(40, (1, 6, 7)), (90, (2, 4, 5)), (12, (1, 5, 4, 3))])
def test_as_sklearn_finds_them(n, size):
    x = linear(n, size)
    got, flat = eigen_images(x, 4), x.flatten(1).double().numpy()
    told = PCA(min(n - 1, flat.shape[1]), svd_solver="full").fit(flat)
    np.testing.assert_allclose(got.explained.numpy(), told.explained_variance_ratio_[:4], rtol=1e-4)
    for ours, theirs in zip(got.pictures.flatten(1).numpy()[:3], told.components_, strict=False):
        assert abs(float(ours @ theirs)) > 1 - 1e-4 and ours[np.abs(ours).argmax()] > 0
    np.testing.assert_allclose(got.mean.flatten().numpy(), told.mean_, atol=1e-5)
    assert len(got.error) == min(n - 1, flat.shape[1]) + 1 and float(got.error[0]) == 1 and float(got.error[-1]) < 1e-6


def test_the_curve_is_what_rebuilding_leaves_out():
    x = linear()
    got = eigen_images(x, 5)
    for k in range(6):
        missing = (rebuilt(got, x, k) - x).square().sum() / (x - x.mean(0)).square().sum()
        assert float(got.error[k]) == pytest.approx(float(missing), abs=1e-5)


def test_unseen_images_against_sklearn_and_few_pictures_that_suffice():
    x = linear(60)
    got = eigen_images(x)
    flat = x.flatten(1).double().numpy()
    told = PCA(3, svd_solver="full").fit(flat[::2])
    away = flat[1::2] - told.mean_
    missing = np.square(away - (away @ told.components_.T) @ told.components_).sum() / np.square(away).sum()
    assert float(got.unseen[3]) == pytest.approx(missing, rel=1e-4)
    assert got.needed()[0] <= 3 and got.needed()[1] is None  # 29 pictures of noise of 42 pixels do not reach 90 %


def test_noise_lies_on_its_null():
    """In closed form: what a flat spectrum leaves out, of images fitted on (Marchenko and Pastur) and of others."""
    x = torch.randn(101, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    got = eigen_images(x)
    assert float((got.error - got.null).abs().max()) < 0.02
    assert float((got.unseen - got.unseen_null).abs().max()) < 0.02


def test_owners_are_seen_or_unseen():
    """Every image twice: with its twin among the fitted it is no longer unseen."""
    x = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
    alone, owned = eigen_images(x), eigen_images(x, owners=torch.arange(80) // 2)
    assert float(alone.unseen[-1]) < 1e-6 and float(owned.unseen[19]) > 0.3


def test_degenerate_images():
    same = eigen_images(torch.ones(5, 1, 3, 3))
    assert "same" in same.why and bool(same.explained.isnan().all()) and len(same.unseen) == 1
    broken = linear()
    broken[1] = math.nan
    assert "1 of 40" in eigen_images(broken).why and bool(eigen_images(broken).error.isfinite().all())
    assert "owners" in eigen_images(linear(), owners=torch.zeros(40, dtype=torch.long)).why
    with pytest.raises(InputError, match="two finite images"):
        eigen_images(linear(1))
