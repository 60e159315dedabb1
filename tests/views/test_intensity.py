"""Photometric changes: each against its closed form, and nothing where it is off."""

import numpy as np
import pytest
import torch

from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.intensity import IntensityParameters, apply_intensity, blur, draw_intensity

OFF = {"noise": 0.0, "blur": 0.0, "brightness": 1.0, "contrast": 1.0, "gamma": 1.0, "inverted_gamma": 1.0, "seed": 0}


def only(batch=1, **change):
    return IntensityParameters(**{k: np.full(batch, v) for k, v in {**OFF, **change}.items()})


@pytest.fixture(params=[(16, 18), (12, 10, 14)])
def x(request):
    return torch.randn(1, 2, *request.param, generator=torch.Generator().manual_seed(0))


def test_off_changes_nothing(x):
    assert torch.equal(apply_intensity(x, only()), x)
    many = x.expand(64, *x.shape[1:])
    assert torch.equal(apply_intensity(many, draw_intensity(numpy_stream(0, "i"), 64, 0.0)), many)


def test_brightness_and_contrast(x):
    assert torch.allclose(apply_intensity(x, only(brightness=1.2)), 1.2 * x)
    weak = apply_intensity(x, only(contrast=0.8))
    axes = tuple(range(2, x.ndim))
    assert torch.allclose(weak.mean(axes), x.mean(axes), atol=1e-5)
    assert torch.allclose(weak.std(axes), 0.8 * x.std(axes), atol=1e-5)
    strong = apply_intensity(x, only(contrast=1.2))
    assert strong.max() <= x.max() and strong.min() >= x.min()


def test_gammas_keep_mean_and_spread_and_order(x):
    axes = tuple(range(2, x.ndim))
    for change in ({"gamma": 1.4}, {"inverted_gamma": 0.7}):
        out = apply_intensity(x, only(**change))
        assert torch.allclose(out.mean(axes), x.mean(axes), atol=1e-5) and torch.allclose(out.std(axes), x.std(axes), atol=1e-5)
        assert torch.equal(out[0, 0].flatten().argsort(), x[0, 0].flatten().argsort())
    inverted = apply_intensity(x, only(inverted_gamma=1.3))
    assert torch.allclose(inverted, -apply_intensity(-x, only(gamma=1.3)), atol=1e-6)


def test_noise_has_its_spread_and_repeats(x):
    a, b = apply_intensity(x, only(noise=0.3, seed=7)), apply_intensity(x, only(noise=0.3, seed=7))
    assert torch.equal(a, b) and abs((a - x).std() - 0.3) < 0.03
    assert not torch.equal(a, apply_intensity(x, only(noise=0.3, seed=8)))


@pytest.mark.parametrize("d", [2, 3])
def test_blur_is_a_gaussian_of_that_sigma(d):
    point = torch.zeros(1, *(15, 17, 19)[:d])
    middle = tuple(n // 2 for n in point.shape[1:])
    point[(0, *middle)] = 1.0
    out = blur(point, 0.9)[0]
    assert abs(out.sum() - 1) < 1e-5
    for axis in range(d):
        other = tuple(a for a in range(d) if a != axis)
        profile, at = out.sum(other), torch.arange(out.shape[axis]) - middle[axis]
        assert abs((profile * at**2).sum() - 0.81) < 0.01 and abs((profile * at).sum()) < 1e-5
    assert torch.allclose(blur(torch.ones(1, 5, 6), 1.0), torch.ones(1, 5, 6))


def test_chances_and_ranges():
    p = draw_intensity(numpy_stream(0, "i"), 20000)
    for name, chance, low, high in [
        ("noise", 0.1, 0, 0.1**0.5),
        ("blur", 0.2, 0.5, 1),
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("gamma", 0.3, 0.7, 1.5),
        ("inverted_gamma", 0.1, 0.7, 1.5),
    ]:
        values = getattr(p, name)
        on = values[values != OFF[name]]
        assert abs(len(on) / 20000 - chance) < 0.01 and on.min() >= low and on.max() <= high


def test_a_crop_does_not_depend_on_its_neighbours(x):
    batch = torch.cat([x, 2 * x, -x])
    params = draw_intensity(numpy_stream(3, "i"), 3, 2.0)
    one = IntensityParameters(**{k: v[1:2] for k, v in vars(params).items()})
    assert torch.equal(apply_intensity(batch, params)[1:2], apply_intensity(batch[1:2], one))


def test_constant_crops_stay_finite_and_bad_strength_is_refused():
    flat = torch.full((1, 1, 6, 6), 0.3)
    assert torch.allclose(apply_intensity(flat, only(gamma=1.4, contrast=1.2, inverted_gamma=0.8)), flat, atol=1e-5)
    with pytest.raises(InputError, match="1 is usual"):
        draw_intensity(numpy_stream(0, "i"), 1, -1.0)
