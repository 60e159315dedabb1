"""Whole scans through a frozen backbone: tiles cover each voxel once, vectors are those of the backbone, thin scans pass."""

import math

import numpy as np
import pytest
import torch

from headwater.backbones import build
from headwater.transfer.frozen import large_enough, resting, summary, tiles


@pytest.mark.parametrize(
    ("size", "stride", "most"), [((35, 50, 36), (4, 4, 4), 200), ((512, 300), (4, 4), 900), ((7, 7), (4, 4), 9)]
)
def test_tiles_cover_each_voxel_once_and_hold_few_tokens(size, stride, most):
    count = np.zeros(size, int)
    for part in tiles(size, stride, most):
        count[part] += 1
        assert all(one.start % s == 0 for one, s in zip(part, stride, strict=True))
        assert math.prod(-(-(one.stop - one.start) // s) for one, s in zip(part, stride, strict=True)) <= most
    assert (count == 1).all()


def test_one_tile_where_all_fits():
    assert list(tiles((40, 40, 40), (4, 4, 4))) == [(slice(0, 40),) * 3]


@pytest.mark.parametrize("family", ["resenc", "vit", "swin"])
def test_the_vector_is_that_of_the_backbone(family):
    backbone = resting(build(family, ndim=2, seed=0))
    image = np.random.default_rng(0).standard_normal((1, 40, 37)).astype(np.float16)
    with torch.no_grad():
        seen = backbone(torch.from_numpy(image.astype(np.float32))[None])
    spread = (seen.tokens[0].std(0, correction=0) + 1e-6).log()
    torch.testing.assert_close(summary(backbone, image), torch.cat([seen.pooled[0], spread]), rtol=1e-4, atol=1e-5)
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())


def test_thin_scans_are_continued_and_large_ones_cut(monkeypatch):
    backbone = resting(build("resenc", ndim=2, seed=0))
    assert large_enough(torch.zeros(1, 3, 40), backbone).shape[2:] == (16, 40)
    assert summary(backbone, np.ones((1, 2, 3), np.float32)).isfinite().all()
    image = np.random.default_rng(1).standard_normal((1, 64, 40)).astype(np.float32)
    monkeypatch.setattr("headwater.transfer.frozen.tiles", lambda size, stride: tiles(size, stride, 80))
    cut = summary(backbone, image)
    halves = [summary(backbone, image[:, :32]), summary(backbone, image[:, 32:])]
    torch.testing.assert_close(cut, sum(halves) / 2)
