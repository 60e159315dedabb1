"""Photometric changes: each against its closed form, and nothing where it is off."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.intensity import FURTHER, RANGES, IntensityParameters, apply_intensity, apply_intensity_, draw_intensity

OFF = {"noise": 0.0, "blur": 0.0, "brightness": 1.0, "contrast": 1.0, "gamma": 1.0, "inverted_gamma": 1.0, "seed": 0}
NEW = {"rician": 0.0, "resolution": 1.0, "bias": 0.0, "histogram": 0.0, "fourier": 0.0, "cutout": 0.0}
EVERY = dict.fromkeys(RANGES, 1.0)


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


def test_further_changes_are_off_unless_asked_for_and_move_no_other_draw():
    assert set(FURTHER) == set(NEW)
    for name, off in NEW.items():  # as the watch makes them, without naming any
        assert np.array_equal(getattr(only(3), name), np.full(3, off))
    plain = draw_intensity(numpy_stream(0, "i"), 500)
    asked = draw_intensity(numpy_stream(0, "i"), 500, changes=dict.fromkeys(FURTHER, 0.5))
    for name, off in NEW.items():
        assert (getattr(plain, name) == off).all() and (getattr(asked, name) != off).any()
    for name in OFF:
        assert np.array_equal(getattr(plain, name), getattr(asked, name))


def test_the_draws_of_earlier_runs_are_the_same():
    p = draw_intensity(numpy_stream(7, "record"), 2, 1.0)
    rng = numpy_stream(7, "record")
    variance, noisy = rng.uniform(0, 0.1, 2), rng.random(2) < 0.1  # the record: value first, then its chance, in this order
    sigma, blurred = rng.uniform(0.5, 1, 2), rng.random(2) < 0.2
    assert np.array_equal(p.noise, np.where(noisy, variance**0.5, 0)) and np.array_equal(p.blur, np.where(blurred, sigma, 0))
    for name, low, high, chance in [
        ("brightness", 0.75, 1.25, 0.15),
        ("contrast", 0.75, 1.25, 0.15),
        ("gamma", np.log(0.7), np.log(1.5), 0.3),
        ("inverted_gamma", np.log(0.7), np.log(1.5), 0.1),
    ]:
        value, on = rng.uniform(low, high, 2), rng.random(2) < chance
        assert np.allclose(getattr(p, name), np.where(on, np.exp(value) if "gamma" in name else value, 1))
    rng.random((len(FURTHER), 2, 2))
    assert np.array_equal(p.seed, rng.integers(0, 2**62, 2))


def test_chances_of_further_changes_and_their_ranges():
    chances = dict(zip(NEW, (0.1, 0.15, 0.2, 0.25, 0.3, 0.35), strict=True))
    p = draw_intensity(numpy_stream(0, "i"), 20000, changes=chances | {"gamma": 0.0})
    ranges = {"rician": (0.05, 0.3), "resolution": (0.5, 1), "bias": (0.05, 0.3), "histogram": (0.2, 0.8)}
    ranges |= {"fourier": (0.01, 0.09), "cutout": (0.2, 0.4)}
    for name, (low, high) in ranges.items():
        on = getattr(p, name)[getattr(p, name) != NEW[name]]
        assert abs(len(on) / 20000 - chances[name]) < 0.012 and on.min() >= low and on.max() <= high
    assert (p.gamma == 1).all()
    strong = draw_intensity(numpy_stream(0, "i"), 200, 50.0, changes=EVERY)
    assert strong.histogram.max() <= 1 and strong.fourier.max() < 0.5 and strong.cutout.max() <= 1 and strong.resolution.min() > 0


def test_everything_on_is_finite_repeatable_and_leaves_the_input(x):
    batch = torch.cat([x, 2 * x + 1, -x])
    others, before = batch.flip(0), batch.clone()
    drawn = draw_intensity(numpy_stream(3, "i"), 3, changes=EVERY)
    params = replace(drawn, fourier=np.full(3, 0.2))  # of so few voxels the drawn shares are less than one cycle
    out = apply_intensity(batch, params, others)
    assert out.isfinite().all() and torch.equal(batch, before) and torch.equal(out, apply_intensity(batch, params, others))
    one = IntensityParameters(**{k: v[1:2] for k, v in vars(params).items()})
    assert torch.equal(out[1:2], apply_intensity(batch[1:2], one, others[1:2]))  # independent of its neighbours
    for name in [n for n in vars(params) if n != "seed"]:  # each of them takes part
        off = (OFF | NEW)[name]
        assert not torch.equal(out, apply_intensity(batch, replace(params, **{name: np.full(3, off)}), others))


def test_the_order_is_fixed_by_a_product_of_single_changes(x):
    steps = [{"bias": 0.2}, {"noise": 0.2}, {"rician": 0.1}, {"blur": 0.7}, {"brightness": 1.2}, {"contrast": 0.8}]
    steps += [{"resolution": 0.6}, {"inverted_gamma": 0.8}, {"gamma": 1.3}, {"cutout": 0.3}]
    wanted = x
    for step in steps:
        wanted = apply_intensity(wanted, only(seed=5, **step))
    together = {name: value for step in steps for name, value in step.items()}
    assert torch.allclose(apply_intensity(x, only(seed=5, **together)), wanted, atol=1e-5)


def test_histogram_follows_the_other_scan_or_a_random_map(x):
    other = 3 * x.roll(5, -1) + 1
    matched = apply_intensity(x, only(histogram=1.0), other)
    assert torch.allclose(matched, 3 * x + 1, atol=0.1)
    bent = apply_intensity(x, only(histogram=1.0, seed=2))
    assert torch.allclose(bent.amax(), x.amax(), atol=1e-5) and not torch.allclose(bent, x, atol=0.1)


def test_views_of_other_strides_and_types_are_changed_alike(x):
    params = only(noise=0.2, blur=0.8, contrast=1.2, gamma=1.2, resolution=0.7, bias=0.2, histogram=0.5)
    wanted = apply_intensity(x, params)
    turned = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(apply_intensity(turned, params), wanted)
    assert torch.allclose(apply_intensity(x.double(), params).float(), wanted, atol=1e-4)
    assert apply_intensity_(turned, params) is turned and torch.allclose(turned, wanted, atol=1e-5)
    asked = x.clone().requires_grad_()
    assert not apply_intensity(asked, params).requires_grad and torch.equal(asked, x)


def test_faults_of_further_changes_say_what_to_give(x):
    with pytest.raises(InputError, match="no change of intensity called 'sharpen'"):
        draw_intensity(numpy_stream(0, "i"), 1, changes={"sharpen": 0.1})
    with pytest.raises(InputError, match="share from 0 to 1"):
        draw_intensity(numpy_stream(0, "i"), 1, changes={"bias": 1.1})
    with pytest.raises(InputError, match="give `others`"):
        apply_intensity(x, only(fourier=0.2))
    with pytest.raises(InputError, match="one of that shape each"):
        apply_intensity(x, only(fourier=0.2), x[..., 1:])
