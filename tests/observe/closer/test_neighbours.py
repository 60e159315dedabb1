"""Neighbours against sklearn, and how often they share a label against what is known."""

import math

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from headwater.observe.closer.neighbours import neighbours, shared


def cloud(n: int = 60, d: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_as_sklearn_finds_them():
    x = cloud() + 7
    got = neighbours(x, 5)
    centred = (x.double() - x.double().mean(0)).numpy()
    apart, index = NearestNeighbors(n_neighbors=6, metric="cosine").fit(centred).kneighbors(centred)
    assert np.array_equal(got.index.numpy(), index[:, 1:])
    np.testing.assert_allclose(got.cosine.numpy(), 1 - apart[:, 1:], atol=1e-9)


def test_rotation_scale_and_shift_change_nothing():
    turn = torch.linalg.qr(cloud(10, 10, 3))[0]
    assert torch.equal(neighbours(cloud()).index, neighbours(3 * cloud() @ turn + 5).index)


def test_owners_are_not_their_own_neighbours():
    owners = torch.arange(60) // 3
    x = cloud(20).repeat_interleave(3, 0) + 0.01 * cloud(60, 10, 1)
    alone, apart = neighbours(x, 2), neighbours(x, 2, owners)
    assert bool((owners[alone.index] == owners[:, None]).all()) and not bool((owners[apart.index] == owners[:, None]).any())
    few = neighbours(x[:4], 3, torch.tensor([0, 0, 0, 1]))
    assert few.index.tolist() == [[3, -1, -1], [3, -1, -1], [3, -1, -1], few.index[3].tolist()]
    assert bool(few.cosine[0, 1:].isnan().all())


def test_what_is_shared_and_what_chance_shares():
    labels = torch.arange(60) % 3
    told = shared(neighbours(10 * torch.eye(3)[labels] + cloud(60, 3), 5), labels)
    assert told.value > 0.99 and abs(told.null - 19 / 59) < 1e-12 and told.why == ""
    blind = [shared(neighbours(cloud(seed=s), 5), labels).value - 19 / 59 for s in range(10)]
    assert abs(float(np.mean(blind))) < 0.03


def test_false_alarms_are_one_in_twenty():
    """Copies of a patient are alike in features and label, and are no evidence."""
    owners, alarms = torch.arange(60) // 3, 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x = cloud(20, seed=seed).repeat_interleave(3, 0) + 0.3 * cloud(60, seed=seed + 1000)
        labels = torch.randint(0, 2, (20,), generator=generator)[owners]
        alarms += shared(neighbours(x, 5, owners), labels, owners).why == ""
    assert alarms <= 6  # binomial with 1 in 20: more in one of a hundred


def test_labels_that_belong_to_owners():
    """Chance is among those who may be neighbours; unknown labels are left out."""
    owners = torch.arange(60) // 3
    labels = owners % 2
    told = shared(neighbours(cloud(), 5, owners), labels, owners)
    assert abs(told.null - 27 / 57) < 1e-12 and "no more than chance" in told.why
    unknown = labels.clone()
    unknown[:30] = -1
    found = shared(neighbours(cloud(), 5, owners), unknown, owners)
    assert abs(found.null - (12 * 15 + 15 * 12) / 30 / 27) < 0.05


def test_what_cannot_be_told_is_said():
    assert "same features" in neighbours(torch.ones(9, 3)).why
    broken = cloud()
    broken[3] = math.nan
    assert "1 of 60" in neighbours(broken).why and math.isnan(shared(neighbours(broken), torch.arange(60) % 2).value)
    assert "nothing to tell apart" in shared(neighbours(cloud()), torch.zeros(60, dtype=torch.long)).why
    assert neighbours(torch.ones(2, 3)).why
