"""A recipe gives settings that fit the scans."""

from math import prod

import pytest

from headwater import recipes

SHAPES = [(36, 50, 35), (24, 24, 24), (512, 512, 300), (160, 160, 12), (64, 64), (1024, 768), (17, 90), (128, 128, 1), (8, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("accelerated", [False, True])
def test_lengths_fit_each_other(shape, accelerated):
    told = recipes.default(shape, accelerated)
    parent, crop, patch = told.views.parent, told.views.crop, told.adapt.patch
    assert len(parent) == len(crop) == len(patch) == len(shape)
    for p, c, a in zip(parent, crop, patch, strict=True):
        assert c <= p and c % 8 == 0 and p % 8 == 0 and a % 8 == 0 and c >= 16
    assert 4 <= told.pretrain.batch <= 32 and 2 <= told.adapt.batch <= 16
    if not accelerated:
        assert told.backbone.size == "nano" and told.adapt.batch * prod(patch) <= 2 * 64**3
