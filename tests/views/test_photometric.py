"""Single changes in place: closed forms of what each does to values, mean and standard deviation."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from headwater.errors import InputError
from headwater.views.photometric import bias_field_, contrast_, cut_out_, gamma_, noise_, normal, rician_


@pytest.fixture(params=[(24, 28), (12, 10, 14)])
def x(request):
    return torch.randn(2, *request.param, generator=torch.Generator().manual_seed(0))


def moments(x):
    axes = tuple(range(1, x.ndim))
    return x.double().mean(axes), x.double().std(axes, correction=0)


def test_noise_adds_its_variance():
    x = torch.zeros(1, 40, 40, 40)
    assert noise_(x, 0.3, 5) is x
    mean, sd = moments(x)
    assert abs(mean) < 0.006 and abs(sd - 0.3) < 0.003


def test_normal_values_are_gaussian_white_and_repeat():
    values = normal((3, 5, 7001), 2, "test").double()
    n = values.numel()
    assert kstest(values.flatten().numpy(), "norm").pvalue > 0.01
    assert abs(values.mean()) < 4 / n**0.5 and abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    flat = values.flatten()
    for lag in (1, 2, 3, 4, 7001):  # four values come from one word of the generator
        assert abs((flat[:-lag] * flat[lag:]).mean()) < 4 / n**0.5
    assert torch.equal(normal((6,), 2, "test"), normal((2, 3), 2, "test").flatten())
    assert not torch.equal(normal((6,), 2, "test"), normal((6,), 2, "other"))
    even = normal((1 << 20,), 0, "all").unique()
    assert torch.allclose(even, -even.flip(0), atol=0.2) and 4 < even.max() < 4.4


def test_rician_noise_is_rayleigh_in_the_background_and_gaussian_far_above():
    sd = 0.2
    for signal in (0.0, 0.3, 8.0):
        x = torch.full((1, 64, 64, 32), -1.0 + signal)
        x[0, 0, 0, 0] = -1.0  # the lowest value: where the magnitude is zero
        magnitude = rician_(x, sd, 3)[0].double() + 1.0
        assert abs((magnitude**2).mean() - signal**2 - 2 * sd**2) < 0.01 * (1 + signal**2) * sd  # second moment of Rice's law
        if signal == 0:
            assert abs(magnitude.mean() - sd * (np.pi / 2) ** 0.5) < 0.002
            assert abs(magnitude.var() - (2 - np.pi / 2) * sd**2) < 0.001
        if signal == 8.0:
            assert abs(magnitude.flatten()[1:].std() - sd) < 0.002


def test_gamma_agrees_with_its_definition_in_double(x):
    for values in (x, x.clamp_min(0)):  # also with a plain background
        for power in (0.2, 0.7, 1.5, 4.0):
            wanted = []
            for channel in values.double().numpy():
                bent = ((channel - channel.min()) / np.ptp(channel)) ** power
                wanted.append((bent - bent.mean()) / bent.std() * channel.std() + channel.mean())
            assert np.allclose(gamma_(values.clone(), power).numpy(), np.stack(wanted), rtol=1e-5, atol=1e-5)


def test_gamma_keeps_the_moments_of_a_crop_far_from_zero():
    x = 500 + torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(1))
    before, after = moments(x), moments(gamma_(x, 1.4))
    assert abs(before[0] - after[0]) < 1e-3 and abs(before[1] / after[1] - 1) < 1e-3


def test_contrast_is_a_line_through_the_mean_cut_at_the_range(x):
    mean = x.mean(tuple(range(1, x.ndim)), keepdim=True)
    low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)
    for factor in (0.75, 1.25):
        line = mean + factor * (x - mean)
        out = contrast_(x.clone(), factor)
        for channel, wanted, a, b in zip(out, line, low, high, strict=True):
            assert torch.allclose(channel, wanted.clamp(a, b), atol=1e-6)


def test_bias_field_is_smooth_positive_and_of_its_spread(x):
    flat = torch.ones_like(x)
    flat[(slice(None), *(0,) * (x.ndim - 1))] = 0.0  # the lowest value stays where it is
    field = bias_field_(flat, 0.2, 11)
    assert torch.equal(field[0], field[1]) and field[(0, *(0,) * (x.ndim - 1))] == 0
    log = field[0].flatten()[1:].double().log()
    assert abs(log.mean()) < 0.02 and abs(log.std() - 0.2) < 0.02
    for axis in range(x.ndim - 1):  # a polynomial of order 3: its fourth differences vanish
        line = field[0].double().log().movedim(axis, 0)
        rest = torch.diff(line.flatten(1)[:, 1:], n=4, dim=0)
        assert rest.abs().max() < 1e-4


def test_bias_field_does_not_depend_on_the_grid():
    fine, coarse = torch.ones(1, 40, 40), torch.ones(1, 20, 20)
    for field in (fine, coarse):
        field[0, 0, 0] = 0.0
    fine, coarse = bias_field_(fine, 0.3, 2), bias_field_(coarse, 0.3, 2)
    pooled = torch.nn.functional.avg_pool2d(fine[None], 2)[0]
    assert (pooled - coarse)[0, 1:, 1:].abs().max() < 0.03  # pooled: steep at the corners


def test_cut_out_is_one_box_inside(x):
    shape = np.asarray(x.shape[1:])
    firsts = set()
    for seed in range(20):
        hidden = cut_out_(x.clone(), 0.3, seed)[0] == 0
        where = hidden.nonzero()
        box = (where.amax(0) - where.amin(0) + 1).numpy()
        assert (box == np.rint(0.3 * shape)).all() and hidden.sum() == box.prod()
        firsts.add(tuple(where.amin(0).tolist()))
    assert len(firsts) > 10
    assert not cut_out_(x.clone(), 1.0, 0).any()
    with pytest.raises(InputError, match="such as 0.3"):
        cut_out_(x, 1.2, 0)


@pytest.mark.parametrize("change", [noise_, rician_, bias_field_, cut_out_])
def test_a_seed_gives_its_field_again_in_place(x, change):
    first, again, other = (change(x.clone(), 0.3, seed) for seed in (4, 4, 5))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert change(x, 0.3, 4) is x and torch.equal(x, first)


@pytest.mark.parametrize("change", [rician_, bias_field_, cut_out_, noise_])
def test_nothing_at_zero(x, change):
    assert torch.allclose(change(x.clone(), 0.0, 1), x, atol=1e-6)
    assert torch.allclose(gamma_(x.clone(), 1.0), x, atol=1e-5) and torch.allclose(contrast_(x.clone(), 1.0), x, atol=1e-6)


def test_constant_crops_stay():
    flat = torch.full((1, 6, 7), 0.3)
    for out in (gamma_(flat.clone(), 1.4), contrast_(flat.clone(), 1.2), bias_field_(flat.clone(), 0.2, 0)):
        assert torch.allclose(out, flat, atol=1e-6)


@pytest.mark.parametrize("power", [0.7, 1.4])
def test_gamma_and_contrast_agree_with_monai(x, power):
    """An independent implementation, channel by channel; its spread is that of n - 1, and it adds 1e-7 to the range."""
    transforms = pytest.importorskip("monai.transforms")
    for channel in x:
        bent = torch.as_tensor(transforms.AdjustContrast(power, retain_stats=True)(channel[None].clone()))
        assert torch.allclose(gamma_(channel[None].clone(), power), bent, atol=1e-4)
        line = torch.as_tensor(transforms.ScaleIntensityFixedMean(factor=power - 1, preserve_range=True)(channel[None].clone()))
        assert torch.allclose(contrast_(channel[None].clone(), power), line, atol=1e-5)
