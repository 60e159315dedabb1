"""Tiles: where nnU-Net puts them, weighed as it weighs, the same scores as MONAI's inferer, never more memory than allowed."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from headwater.transfer import tiles


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small network that is no function of single voxels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv3d(6, 3, 3, padding=1)).eval()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 29, 16, 22)).astype(np.float16)


def gaussian(patch: tuple[int, ...]) -> np.ndarray:
    """The Gaussian by scipy's filter of one bright voxel."""
    from scipy.ndimage import gaussian_filter

    one = np.zeros(patch)
    one[tuple(p // 2 for p in patch)] = 1
    found = gaussian_filter(one, [p / 8 for p in patch], mode="constant")
    return found / found.max()


def naive(network: nn.Module, image: np.ndarray, patch: tuple[int, ...], overlap: float) -> np.ndarray:
    """Sums of weighted scores over sums of weights, in double precision, tile after tile."""
    weight, shape = gaussian(patch), image.shape[1:]
    above, below = 0, 0
    for at in itertools.product(*(tiles.starts(n, p, overlap) for n, p in zip(shape, patch, strict=True))):
        box = (slice(None), *(slice(a, a + p) for a, p in zip(at, patch, strict=True)))
        with torch.no_grad():
            one = network(torch.from_numpy(image[box].astype(np.float32))[None])[0].double().numpy()
        whole, part = np.zeros((len(one), *shape)), np.zeros(shape)
        whole[box], part[box[1:]] = one * weight, weight
        above, below = above + whole, below + part
    return above / below


@pytest.mark.parametrize(
    ("size", "patch", "overlap"), [(29, 12, 0.5), (12, 12, 0.5), (13, 12, 0.5), (100, 7, 0.9), (64, 32, 0.0)]
)
def test_tiles_are_few_even_and_cover_the_scan(size, patch, overlap):
    at = tiles.starts(size, patch, overlap)
    gaps = np.diff(at)
    assert at[0] == 0 and at[-1] == size - patch
    if len(at) > 1:
        assert gaps.max() <= np.ceil(patch * (1 - overlap)) and gaps.max() - gaps.min() <= 1
        fewer = (size - patch) / (len(at) - 2) if len(at) > 2 else np.inf
        assert fewer > patch * (1 - overlap)  # one tile less would overlap too little


def test_weights_are_nnunets_gaussian_and_sum_to_one():
    patch = (8, 9, 6)
    product = tiles.bell(8)[:, None, None] * tiles.bell(9)[:, None] * tiles.bell(6)
    np.testing.assert_allclose(product, gaussian(patch), rtol=1e-6, atol=1e-12)
    at = tiles.starts(50, 9, 0.5)
    whole = np.zeros(50)
    for start, weights in zip(at, tiles.shares(at, 9), strict=True):
        whole[start : start + 9] += weights
    np.testing.assert_allclose(whole, 1, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.5, 0.25])
def test_same_as_sums_over_sums(network, image, overlap):
    ours = tiles.scores(network, image, (12, 8, 10), channels=3, overlap=overlap)
    assert ours.dtype == np.float32 and ours.shape == (3, 29, 16, 22)
    np.testing.assert_allclose(ours, naive(network, image, (12, 8, 10), overlap), atol=2e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_same_as_monai_where_its_tiles_lie_where_ours_do(network, batch):
    from monai.inferers import sliding_window_inference

    image = np.random.default_rng(1).standard_normal((2, 24, 16, 20)).astype(np.float32)
    patch = (8, 8, 10)
    weight = torch.from_numpy(gaussian(patch)).float()
    with torch.no_grad():
        theirs = sliding_window_inference(torch.from_numpy(image)[None], patch, 2, network, roi_weight_map=weight, overlap=0.5)
    np.testing.assert_allclose(tiles.scores(network, image, patch, channels=3, batch=batch), theirs[0], atol=1e-5)


def test_a_constant_network_gives_constants_everywhere():
    values = torch.tensor([1.0, -3.0, 0.5])

    def constant(x):
        return values[:, None, None].expand(len(x), 3, *x.shape[2:])

    for shape in ((40, 17), (5, 100), (3, 3)):  # larger, mixed and smaller than the patch
        out = tiles.scores(constant, np.zeros((1, *shape), np.float32), (16, 16), channels=3, overlap=0.7)
        np.testing.assert_allclose(out, np.broadcast_to(values.numpy()[:, None, None], (3, *shape)), atol=1e-6)


def test_a_network_of_single_voxels_is_what_it_is_without_tiles(image):
    out = tiles.scores(lambda x: x**2 - 1, image, (12, 8, 40), channels=2)  # padded along the last axis
    np.testing.assert_allclose(out, image.astype(np.float32) ** 2 - 1, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 2])
def test_slabs_together_are_the_whole(network, image, axis):
    whole = tiles.scores(network, image, (12, 8, 10), channels=3)
    seen, after = np.full_like(whole, np.nan), 0
    for at, part in tiles.slabs(network, image, (12, 8, 10), channels=3, memory=1e-9, axis=axis):
        assert at == after
        after += part.shape[1 + axis]
        np.moveaxis(seen, 1 + axis, 0)[at:after] = np.moveaxis(part.numpy(), 1 + axis, 0)
    np.testing.assert_allclose(seen, whole, atol=1e-5)
    assert after == image.shape[1 + axis]


def test_mirroring_is_the_mean_over_all_flips(network, image):
    mirror, patch = (0, 2), (32, 16, 24)  # one tile
    padded = np.pad(image, [(0, 0), (1, 2), (0, 0), (1, 1)], mode="reflect").astype(np.float32)
    x, total = torch.from_numpy(padded)[None], 0
    with torch.no_grad():
        for way in ((), (2,), (4,), (2, 4)):
            total = total + network(x.flip(way)).flip(way) / 4
    expected = total[0, :, 1:30, :, 1:23].numpy()
    np.testing.assert_allclose(tiles.scores(network, image, patch, channels=3, mirror=mirror), expected, atol=1e-5)


def test_mirrored_scores_turn_with_the_scan(network, image):
    """With one tile about the middle the sums do not know left from right."""
    one = tiles.scores(network, image[:, :28], (28, 16, 22), channels=3, mirror=(0, 1, 2))
    other = tiles.scores(network, image[:, :28][:, ::-1], (28, 16, 22), channels=3, mirror=(0, 1, 2))
    np.testing.assert_allclose(one, other[:, ::-1], atol=1e-5)


def test_memory_stays_within_its_bound(tmp_path, monkeypatch):
    """What adds up tiles and what is copied for it, in bytes; a file counts nothing."""
    image = np.zeros((1, 256, 48, 48), np.float16)
    whole, slab = 4 * 8 * 256 * 48 * 48, 4 * 8 * 16 * 48 * 48
    made, real = [], tiles._zeros

    def zeros(shape, device, file, folder):
        made.append(0 if file else 4 * int(np.prod(shape)))
        return real(shape, device, file, folder)

    monkeypatch.setattr(tiles, "_zeros", zeros)

    def eight(x):
        return x.expand(-1, 8, *x.shape[2:]) + 1

    def peak(memory):
        made.clear()
        tracemalloc.start()
        for _ in tiles.slabs(eight, image, (16, 48, 48), channels=8, memory=memory / 2**30, folder=tmp_path):
            pass
        found = tracemalloc.get_traced_memory()[1] + sum(made)
        tracemalloc.stop()
        return found

    spare = 1 << 20  # one tile on its way in, single precision
    assert whole <= peak(whole) <= whole + spare
    assert slab <= peak(whole - 1) <= slab + spare
    assert peak(slab - 1) <= spare  # a file
    assert not list(tmp_path.iterdir())
    out = tiles.scores(eight, image, (16, 48, 48), channels=8, memory=slab / 2**30, folder=tmp_path)
    assert out.shape == (8, 256, 48, 48) and (out[:, ::17] == 1).all() and not list(tmp_path.iterdir())


def test_bfloat16_is_near_and_single_precision_comes_out(network, image):
    exact, short = (tiles.scores(network, image, (12, 8, 10), channels=3, precision=p) for p in ("fp32", "bf16"))
    assert short.dtype == np.float32 and 0 < np.abs(exact - short).max() < 0.05


def test_a_network_of_another_size_is_named(image):
    with pytest.raises(ValueError, match=r"gives \(2, 12, 8, 10\) for a tile, not \(3, 12, 8, 10\)"):
        tiles.scores(lambda x: x, image, (12, 8, 10), channels=3)
