"""The fast way to the same linear interpolation: scipy and torch's own sampling are the oracles."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates

from headwater.views import resample
from headwater.views.resample import linear, nearest, read


def factors(shape, size, seed=0):
    """Coordinates inside a block: a constant, slopes, and something curved along axis 0."""
    rng, d = np.random.default_rng(seed), len(shape)
    left = np.stack([np.ones(size[0]), np.linspace(-1, 1, size[0]), np.cos(np.arange(size[0]))], 1)
    right = rng.uniform(-1, 1, (d, 3, *size[1:]))
    right[:, 0] *= 0.2
    peak = np.abs(np.einsum("nk,dk...->dn...", left, right)).reshape(d, -1).max(1)
    half = (np.array(shape) - 1.03) / 2
    right *= (half / peak).reshape(d, *(1,) * d)
    right[:, 0] += (half + 0.015).reshape(d, *(1,) * (d - 1))
    return torch.from_numpy(left).float(), torch.from_numpy(right).float()


CASES = [((13, 17), (9, 11)), ((30, 9), (5, 40)), ((13, 17, 11), (9, 8, 10)), ((40, 33, 37), (31, 70, 9)), ((2, 3, 2), (3, 4, 5))]


@pytest.mark.parametrize("shape, size", CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_linear_and_nearest_are_scipys(shape, size, channels):
    block = torch.randn(channels, *shape, generator=torch.Generator().manual_seed(0))
    left, right = factors(shape, size)
    at = torch.einsum("nk,dk...->dn...", left.double(), right.double()).numpy()
    out, near = linear(block, left, right), nearest(block, left, right)
    assert out.shape == near.shape == (channels, *size) and out.is_contiguous()
    for c in range(channels):
        expected = map_coordinates(block[c].double().numpy(), at, order=1, mode="nearest")
        assert np.abs(out[c].numpy() - expected).max() < 1e-3
        index = tuple(np.rint(a.astype(np.float32)).astype(int) for a in at)
        assert (near[c].numpy() == block[c].numpy()[index]).mean() > 0.999  # but for ties


def test_bricks_change_nothing_that_counts(monkeypatch):
    block = torch.randn(2, 24, 28, 26, generator=torch.Generator().manual_seed(0))
    left, right = factors((24, 28, 26), (20, 22, 18))
    whole = linear(block, left, right)
    monkeypatch.setattr(resample, "BRICK", 700)
    monkeypatch.setattr(resample, "SIDE", 7)
    assert torch.allclose(linear(block, left, right), whole, atol=1e-3)
    assert len(list(resample._bricks((20, 22, 18)))) == 20 // 5 * 4


def test_rows_of_a_large_volume_stay_exact():
    """160 voxels per axis: coordinates to 1e-3 voxel, against torch's sampling in 3D of the same smooth picture."""
    n = 160
    at = torch.arange(n, dtype=torch.float64)
    ramp = (at[:, None, None] + at[:, None] + at).float()[None]
    left, right = factors((n, n, n), (20, 30, 40), seed=3)
    expected = torch.einsum("nk,dk...->dn...", left.double(), right.double())
    assert (linear(ramp, left, right)[0] - expected.sum(0)).abs().max() < 3e-3
    grid = torch.stack([(2 * a + 1) / n - 1 for a in expected], -1).flip(-1).float()[None]
    assert torch.allclose(linear(ramp, left, right), F.grid_sample(ramp[None], grid, align_corners=False)[0], atol=3e-3)


@pytest.mark.parametrize(
    "shape, first, size", [((9,), (-20,), (50,)), ((7, 9), (-6, 2), (20, 3)), ((5, 1, 6), (2, -3, 20), (3, 9, 4))]
)
@pytest.mark.parametrize("padding, name", [("reflect", "reflect"), ("zero", "constant")])
def test_blocks_far_outside_are_numpys_pad(shape, first, size, padding, name):
    array = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float16)
    before = [max(0, -f) for f in first]
    after = [max(0, f + s - n) for f, s, n in zip(first, size, shape, strict=True)]
    padded = np.pad(array, [(0, 0), *zip(before, after, strict=True)], mode=name).astype(np.float32)
    expected = padded[(slice(None), *(slice(f + b, f + b + s) for f, b, s in zip(first, before, size, strict=True)))]
    out = read(array, list(first), size, False, padding, [0])
    assert out.dtype == torch.float32 and np.array_equal(out.numpy(), expected[:, ::-1])
    assert torch.equal(out, read(torch.from_numpy(array), list(first), size, False, padding, [0]))
    labels = read((array > 0).astype(np.uint8), list(first), size, True, padding)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("high", range(6))
@pytest.mark.parametrize("low", range(6))
def test_margins_as_wide_as_reflection_goes_are_numpys_pad(low, high):
    scan = np.arange(2 * 6 * 5, dtype=np.float32).reshape(2, 6, 5)
    found = read(scan, [-low, 0], (6 + low + high, 5), False, "reflect")
    assert np.array_equal(found.numpy(), np.pad(scan, ((0, 0), (low, high), (0, 0)), mode="reflect"))


def test_the_scan_is_left_as_it_was():
    scan = torch.randn(1, 8, 8)
    block = read(scan, [1, 1], (4, 4), False, "reflect")
    block.zero_()
    assert scan.abs().min() > 0
