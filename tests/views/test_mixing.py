"""Mixing two scans: ranks by sorting, and Fourier mixing by a whole FFT, as oracles."""

import numpy as np
import pytest
import torch

from headwater.errors import InputError
from headwater.views.mixing import bend_histogram_, match_histogram_, mix_fourier_


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[(80, 90), (22, 20, 24)])
def size(request):
    return request.param


def test_matched_all_the_way_the_histogram_is_the_others(size):
    x, other = drawn(2, *size), drawn(2, *size, seed=1) ** 3 + 2
    out = match_histogram_(x.clone(), other, 1.0).flatten(1)
    order = x.flatten(1).argsort(1)
    wanted = other.flatten(1).sort(1).values  # voxel of rank k takes the other's value of rank k
    error = (out.gather(1, order) - wanted).abs()
    spread = other.flatten(1).std(1, keepdim=True)
    assert error.median() < 0.01 * spread.min() and (error.mean(1) < 0.03 * spread[:, 0]).all()
    assert (out.gather(1, order).diff(dim=1) >= -1e-6).all()
    assert torch.allclose(out.mean(1), wanted.mean(1), atol=0.05) and torch.allclose(out.std(1), wanted.std(1), rtol=0.03)


def test_part_of_the_way_is_a_straight_line(size):
    x, other = drawn(1, *size), 3 * drawn(1, 30, 31, seed=1).abs()  # of any size, also 2D for 3D
    full = match_histogram_(x.clone(), other, 1.0)
    assert torch.allclose(match_histogram_(x.clone(), other, 0.3), x + 0.3 * (full - x), atol=1e-5)
    assert torch.equal(match_histogram_(x.clone(), other, 0.0), x)
    assert torch.allclose(match_histogram_(x.clone(), x, 1.0), x, atol=0.02)


def test_bent_histogram_is_the_piecewise_linear_map(size):
    x = drawn(2, *size)
    out = bend_histogram_(x.clone(), 1.0, seed=4)
    axes = tuple(range(1, x.ndim))
    assert torch.allclose(out.amin(axes), x.amin(axes), atol=1e-5) and torch.allclose(out.amax(axes), x.amax(axes), atol=1e-5)
    for before, after in zip(x.flatten(1), out.flatten(1), strict=True):
        order = before.argsort()
        assert (after[order].diff() >= -1e-5).all()
        place = (before - before.min()) / (before.max() - before.min()) * 8
        for piece in range(8):  # within a piece of the range the map is a line
            inside = (place > piece + 0.01) & (place < piece + 0.99)
            if inside.sum() > 2:
                a, b = before[inside].double().numpy(), after[inside].double().numpy()
                assert np.abs(np.polyval(np.polyfit(a, b, 1), a) - b).max() < 1e-4
    assert torch.equal(out, bend_histogram_(x.clone(), 1.0, seed=4))
    assert not torch.equal(out, bend_histogram_(x.clone(), 1.0, seed=5))
    assert torch.equal(bend_histogram_(x.clone(), 0.0, seed=4), x)


def by_fft(x, other, reach):
    """Yang and Soatto's swap by whole transforms, the constant kept."""
    out = []
    for mine, theirs in zip(x, other, strict=True):
        coefficients = np.fft.fftshift(np.fft.fftn(mine))
        amplitude, phase = np.abs(coefficients), np.angle(coefficients)
        middle = tuple(n // 2 for n in mine.shape)
        window = tuple(slice(m - reach, m + reach + 1) for m in middle)
        constant = amplitude[middle]
        amplitude[window] = np.abs(np.fft.fftshift(np.fft.fftn(theirs)))[window]
        amplitude[middle] = constant
        out.append(np.fft.ifftn(np.fft.ifftshift(amplitude * np.exp(1j * phase))).real)
    return np.stack(out)


@pytest.mark.parametrize("shape", [(20, 22), (17, 15, 18), (9, 12)])
def test_fourier_mixing_agrees_with_a_whole_fft(shape):
    x, other = drawn(2, *shape).double(), drawn(2, *shape, seed=1).double() + 3
    for beta in (0.12, 0.3, 0.45):
        wanted = by_fft(x.numpy(), other.numpy(), int(beta * min(shape)))
        assert np.abs(mix_fourier_(x.clone(), other, beta).numpy() - wanted).max() < 1e-12
        assert np.abs(mix_fourier_(x.float(), other.float(), beta).numpy() - wanted).max() < 1e-5


def test_fourier_mixing_keeps_the_mean_and_can_be_nothing(size):
    x, other = drawn(1, *size) - 0.2, drawn(1, *size, seed=1)
    assert abs(mix_fourier_(x.clone(), other, 0.2).mean() - x.mean()) < 1e-5
    assert torch.equal(mix_fourier_(x.clone(), other, 0.001), x)
    assert torch.allclose(mix_fourier_(x.clone(), x, 0.2), x, atol=1e-5)


def test_constant_channels_stay_finite(size):
    flat, other = torch.full((1, *size), 0.4), drawn(1, *size)
    assert torch.equal(match_histogram_(flat.clone(), other, 0.5), flat)
    assert torch.equal(bend_histogram_(flat.clone(), 0.5, 0), flat)
    matched = match_histogram_(other.clone(), flat, 1.0)
    assert torch.allclose(matched, flat, atol=1e-5)
    assert mix_fourier_(flat.clone(), other, 0.1).isfinite().all()


def test_faults_name_what_differs():
    x = drawn(1, 12, 12)
    with pytest.raises(InputError, match="equal channels"):
        match_histogram_(x, drawn(2, 12, 12), 0.5)
    with pytest.raises(InputError, match="share from 0"):
        bend_histogram_(x, 1.5, 0)
    with pytest.raises(InputError, match="such as 0.05"):
        mix_fourier_(x, x, 0.5)
    with pytest.raises(InputError, match="cut both to one size"):
        mix_fourier_(x, drawn(1, 12, 14), 0.1)
