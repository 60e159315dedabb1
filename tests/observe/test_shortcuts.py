"""Features that follow the scanner or the intensities, and features that do not."""

import pytest
import torch

from headwater.observe.shortcuts import FOLDS, STRENGTHS, _predicted, intensity, of, within


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_agreement_that_is_the_scanner_vanishes_within_it():
    groups = torch.arange(60) % 4
    mark = 3 * random(4, 8)[groups]
    a, b = (mark + random(60, 8, seed=s) for s in (1, 2))
    found = within(a, b, groups, 0)
    assert found.value < found.null < 0.3
    own = random(60, 8, seed=3)
    true = within(*(mark + 2 * own + random(60, 8, seed=s) for s in (4, 5)), groups, 0)
    assert true.value > 0.6 > true.null


def test_one_group_and_lone_members_are_said():
    a = random(20, 3)
    assert "one group" in within(a, a, torch.zeros(20, dtype=torch.long), 0).why
    assert "share" in within(a, a, torch.arange(20), 0).why


def test_features_of_brightness_are_predicted_by_it():
    level = random(60, 1)
    images = random(60, 1, 8, 8, seed=1) + 2 * level[:, :, None, None]
    follows = level @ random(1, 5, seed=2) + 0.05 * random(60, 5, seed=3)
    assert intensity(follows, images).value > 0.9
    assert intensity(random(60, 5, seed=4), images).value < 0.1
    assert "too few" in intensity(follows[:10], images[:10]).why
    assert "same features" in intensity(torch.ones(60, 5), images).why


def test_what_is_not_given_is_said():
    found = of((random(30, 4), None), None, None, 0)
    assert "no images" in found["shortcut.intensity"].why and "no groups" in found["shortcut.group"].why


@pytest.mark.parametrize("seed", range(3))
def test_the_ridge_is_sklearns(seed):
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    told = random(48, 9, seed=seed).double().numpy()
    wanted = told @ random(9, 20, seed=7).double().numpy() * (1, 0.1, 0)[seed] + random(48, 20, seed=8).double().numpy()
    true = cross_val_predict(make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)), told, wanted, cv=KFold(FOLDS))
    assert _predicted(told, wanted) == pytest.approx(true, abs=1e-6)
