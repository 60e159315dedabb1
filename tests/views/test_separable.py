"""Blur against SciPy; low resolution against pooling and interpolation by torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from headwater.errors import InputError
from headwater.views.separable import blur_, low_resolution_


@pytest.fixture(params=[(16, 78), (12, 70, 14)])  # also an axis of several blocks
def x(request):
    return torch.randn(2, *request.param, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.5, 0.9, 2.0])
def test_blur_agrees_with_scipy(x, sigma):
    def filtered(values):
        return gaussian_filter(values, sigma, mode="constant", truncate=4.0, axes=tuple(range(1, x.ndim)))

    wanted = filtered(x.double().numpy()) / filtered(np.ones(x.shape))  # weights renormalised at the border
    assert np.abs(blur_(x.clone(), sigma).numpy() - wanted).max() < 1e-6


def test_blur_agrees_with_monai(x):
    transforms = pytest.importorskip("monai.transforms")
    inner = (slice(None), *(slice(4, -4) if n > 8 else slice(None) for n in x.shape[1:]))  # it pads with zeros
    wide = torch.as_tensor(transforms.GaussianSmooth(0.8, approx="sampled")(x.clone()))
    assert torch.allclose(blur_(x.clone(), 0.8)[inner], wide[inner], atol=2e-3)  # both cut the tails, not at the same place


@pytest.mark.parametrize("d", [2, 3])
def test_blur_is_a_gaussian_of_that_sigma(d):
    point = torch.zeros(1, *(15, 17, 19)[:d])
    middle = tuple(n // 2 for n in point.shape[1:])
    point[(0, *middle)] = 1.0
    out = blur_(point, 0.9)[0]
    assert abs(out.sum() - 1) < 1e-5
    for axis in range(d):
        other = tuple(a for a in range(d) if a != axis)
        profile, at = out.sum(other), torch.arange(out.shape[axis]) - middle[axis]
        assert abs((profile * at**2).sum() - 0.81) < 0.01 and abs((profile * at).sum()) < 1e-5
    assert torch.allclose(blur_(torch.ones(1, 5, 6), 1.0), torch.ones(1, 5, 6))


def test_half_the_resolution_is_pooling_and_linear_interpolation(x):
    pool, kind = (F.avg_pool2d, "bilinear") if x.ndim == 3 else (F.avg_pool3d, "trilinear")
    wanted = F.interpolate(pool(x[None], 2), scale_factor=2, mode=kind, align_corners=False)[0]
    assert torch.allclose(low_resolution_(x.clone(), 0.5), wanted, atol=1e-6)


def test_any_zoom_keeps_constants_and_inner_slopes_and_loses_detail(x):
    assert torch.allclose(low_resolution_(torch.full_like(x, 0.7), 0.63), torch.full_like(x, 0.7))
    slope = torch.arange(40.0).repeat(1, 40, 1)
    assert torch.allclose(
        low_resolution_(slope.clone(), 0.63)[..., 3:-3], slope[..., 3:-3], atol=0.5
    )  # one coarse voxel is 1.6 long
    assert abs((low_resolution_(slope.clone(), 0.63) - slope).mean()) < 1e-4
    assert low_resolution_(x.clone(), 0.9).std() > low_resolution_(x.clone(), 0.7).std() > low_resolution_(x.clone(), 0.4).std()


def test_nothing_at_the_value_that_is_off(x):
    assert torch.equal(blur_(x.clone(), 0.0), x) and torch.allclose(low_resolution_(x.clone(), 1.0), x)
    assert torch.allclose(low_resolution_(x.clone(), 1e-6), x.mean(tuple(range(1, x.ndim)), keepdim=True).expand_as(x), atol=1e-6)


def test_in_place_also_on_a_crop_of_other_strides(x):
    wanted = {change: change(x.clone(), 0.7) for change in (blur_, low_resolution_)}
    for change, value in wanted.items():
        turned = x.transpose(-1, -2).contiguous().transpose(-1, -2)
        assert change(turned, 0.7) is turned and torch.allclose(turned, value, atol=1e-6)


def test_faults_say_a_value_that_works(x):
    with pytest.raises(InputError, match="0.5 to 1 is usual"):
        blur_(x, -1.0)
    for zoom in (0.0, 1.5):
        with pytest.raises(InputError, match="such as 0.5"):
            low_resolution_(x, zoom)
