"""A recipe gives settings that fit the scans."""

from math import prod

import pytest

from headwater import recipes, settings
from headwater.objectives import OBJECTIVES, build

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


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("shape", [(36, 50, 35), (128, 128)])
def test_every_objective_has_a_recipe_that_its_class_takes(objective, shape):
    told = recipes.default(shape, False, objective, 40)
    settings.check(told)
    assert told.pretrain.objective == objective and told.pretrain.batch <= 64
    made = build(objective, **told.objective)
    assert getattr(made, "prototypes", 0) <= 40 // 2
    if told.views.locals:
        assert all(16 <= s <= c for s, c in zip(told.views.local_crop, told.views.crop, strict=True))


def test_small_data_shorten_the_teachers_memory_and_thin_the_prototypes():
    """Five epochs are remembered: 160 scans in steps of 4 give 0.995, which is what was tried; few scans less."""
    assert recipes.momentum(4, 160) == 0.995
    assert recipes.momentum(4, 10) == 0.98 and recipes.momentum(4, 10**6) == 0.9995
    assert [recipes.prototypes(n) for n in (1, 4, 40, 160, 10**6)] == [2, 2, 16, 64, 4096]


def test_objectives_that_compare_scans_see_more_of_them_in_a_step():
    plain, contrast = (recipes.default((36, 50, 35), False, name, 160).pretrain.batch for name in ("mae", "simclr"))
    assert contrast == 2 * plain
