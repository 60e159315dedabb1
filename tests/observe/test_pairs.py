"""The probe's pairs show the same places, and are always the same."""

import math

import numpy as np
import pytest
import torch
from learners import scans

from headwater.errors import InputError
from headwater.observe.pairs import Pixels, middle, probe_views, shared


@pytest.mark.parametrize("size", [(30, 26), (16, 20, 18)])
def test_shifted_tokens_lie_at_the_same_place(size: tuple[int, ...]) -> None:
    """Images that are ramps: what a token averages tells where it lies."""
    crop, stride = tuple(n // 8 * 4 for n in size), (4,) * len(size)
    arrays = [(np.indices(size)[k % len(size)] + k)[None].astype(np.float32) for k in range(9)]
    probe = probe_views(arrays, crop, stride, seed=0)
    assert all(s % t == 0 and s > 0 for s, t in zip(probe.shift, probe.stride, strict=True))
    assert probe.views.shape == (3, 9, 1, *crop) and probe.views.dtype == torch.float16
    grid = tuple(c // 4 for c in crop)
    clean = [middle(a, [c + max(s, p) for c, s, p in zip(crop, probe.shift, probe.apart, strict=True)]) for a in arrays]
    first, moved = (
        torch.from_numpy(np.stack([x[(slice(None), *(slice(b, b + c) for b, c in zip(at, crop, strict=True)))] for x in clean]))
        for at in ((0,) * len(crop), probe.shift)
    )
    there, back = shared(grid, probe, 9)
    pixels = Pixels(stride)
    assert torch.equal(pixels(first).tokens[:, there], pixels(moved).tokens[:, back])
    assert len(there) == math.prod(g - s // 4 for g, s in zip(grid, probe.shift, strict=True))


def test_views_are_fixed_hard_and_free_of_the_global_generator() -> None:
    before, arrays = torch.get_rng_state(), scans(8, 36, 50)
    probe = probe_views(arrays, (24, 32), (4, 4), seed=1)
    assert torch.equal(probe.views, probe_views(arrays, (24, 32), (4, 4), seed=1).views)
    assert not torch.equal(probe.views, probe_views(arrays, (24, 32), (4, 4), seed=2).views)
    assert probe.shift == (8, 8) and probe.apart == (12, 16)
    assert torch.equal(before, torch.get_rng_state())
    shared = probe.views[0, :, :, 8:, 8:].float() - probe.views[1, :, :, :-8, :-8].float()
    assert shared.abs().flatten(1).mean(1).min() > 0.05  # never the same look


def test_middle_is_exact_and_reflects_only_outside() -> None:
    x = np.arange(2 * 7 * 5, dtype=np.float32).reshape(2, 7, 5)
    assert np.array_equal(middle(x, (3, 3)), x[:, 2:5, 1:4])
    padded = middle(x, (7, 9))
    assert np.array_equal(padded[:, :, 2:7], x)
    assert np.array_equal(padded[:, :, 1], x[:, :, 1]) and np.array_equal(padded[:, :, 7], x[:, :, 3])
    assert middle(x[:, :1], (6, 5)).shape == (2, 6, 5)


def test_small_and_thin_crops_keep_half_of_the_tokens() -> None:
    arrays = scans(8, 12, 40)
    assert probe_views(arrays, (8, 32), (4, 4), seed=0).shift == (4, 8)
    assert probe_views(arrays, (4, 32), (4, 4), seed=0).shift == (0, 8)
    assert probe_views(arrays, (12, 32), (8, 8), seed=0).shift == (8, 8)
    assert probe_views(arrays, (8, 32), (4, 4), seed=0, shift=16).shift == (4, 16)
    with pytest.raises(InputError, match="at least 8 scans, there are 5"):
        probe_views(arrays[:5], (8, 32), (4, 4), seed=0)


@pytest.mark.parametrize("size", [(10, 7), (9, 8, 6)])
def test_pixels_of_sizes_that_are_no_multiple(size: tuple[int, ...]) -> None:
    x = torch.arange(float(math.prod(size))).reshape(1, 1, *size)
    found = Pixels((4,) * len(size))(x)
    assert found.grid == tuple(-(-n // 4) for n in size)
    assert found.tokens.shape == (1, math.prod(found.grid), 4 ** len(size))
    assert found.tokens[0, 0, 0] == 0 and found.tokens[0, -1, -1] == x.max()
    assert torch.equal(found.tokens[0, 0], x[(0, 0, *(slice(0, 4) for _ in size))].flatten())
