"""Prototypes used or not, the loss of a uniform output, and whether features beat what was there before."""

import math

import numpy as np
import pytest
import torch

from headwater.observe.reuse import prototype_use, reuse_gain, uniform_gap

RNG = np.random.default_rng(8)


def test_the_loss_that_people_report_is_a_uniform_output() -> None:
    assert abs(uniform_gap(8.317765, 4096).value) < 1e-3
    assert uniform_gap(7.9, 4096).value < -0.4 and uniform_gap(7.9, 4096).null == 0
    uniform = torch.zeros(1, 4096)
    loss = torch.nn.functional.cross_entropy(uniform, uniform.softmax(-1))
    assert abs(uniform_gap(float(loss), 4096).value) < 1e-5


def test_use_by_loops() -> None:
    rows = RNG.random(size=(5, 7))
    mean = np.mean([row / row.sum() for row in rows], 0)
    expected = math.exp(-sum(p * math.log(p) for p in mean)) / 7
    assert prototype_use(torch.from_numpy(rows)).value == pytest.approx(expected)


def test_use_at_its_ends() -> None:
    one = torch.zeros(50, 64)
    one[:, 3] = 1
    found = prototype_use(one)
    assert found.value == pytest.approx(1 / 64) and found.null > 0.3
    assert prototype_use(torch.full((50, 64), 1 / 64)).value == pytest.approx(1)
    assert prototype_use(torch.eye(64)).value == pytest.approx(1)


def test_few_sharp_rows_are_not_taken_for_one_prototype() -> None:
    """64 images cannot use 1 % of 65536 prototypes: the null says so."""
    rows = torch.zeros(64, 65536)
    rows[torch.arange(64), torch.from_numpy(RNG.choice(65536, 64, replace=False))] = 1
    found = prototype_use(rows)
    assert found.value < 0.01 and found.value == pytest.approx(found.null, rel=0.05)


def test_use_says_why_not() -> None:
    bad = torch.ones(4, 5)
    bad[2, 1] = math.nan
    assert "1 of 4 rows" in prototype_use(bad).why
    assert "probabilities" in prototype_use(torch.zeros(4, 5)).why
    assert "probabilities" in prototype_use(torch.ones(0, 5)).why
    assert math.isnan(prototype_use(-torch.ones(4, 5)).value)


N = 240
ANSWERS = torch.from_numpy(RNG.integers(0, 3, N))
SIGNAL = np.eye(3)[ANSWERS] * 2.0
HIDDEN = torch.from_numpy(np.concatenate([0.4 * SIGNAL, 3 * RNG.normal(size=(N, 60))], 1) @ RNG.normal(size=(63, 500)))
SEEN = torch.from_numpy(np.concatenate([SIGNAL + RNG.normal(size=(N, 3)), 0.3 * RNG.normal(size=(N, 13))], 1))
BLIND = torch.from_numpy(RNG.normal(size=(N, 16)))


def test_learned_features_gain_over_both() -> None:
    found = reuse_gain(SEEN, BLIND, HIDDEN, ANSWERS)
    assert found.accuracy.value > 0.75 and found.accuracy.null == pytest.approx(1 / 3)
    for number in (found.over_untrained, found.over_pixels):
        assert number.low > 0.2 and number.low < number.value < number.high and not number.why
    assert found == reuse_gain(SEEN, BLIND, HIDDEN, ANSWERS)


def test_features_that_learned_nothing_or_less() -> None:
    same = reuse_gain(SEEN, SEEN, SEEN @ torch.ones(16, 40).double().tril(), ANSWERS).over_untrained
    assert same.value == same.low == same.high == 0 and "no evidence" in same.why
    other = torch.from_numpy(RNG.normal(size=(N, 16)))
    chance = reuse_gain(other, BLIND, HIDDEN, ANSWERS).over_untrained
    assert chance.low < 0 < chance.high and "no evidence" in chance.why
    worse = reuse_gain(BLIND, SEEN, HIDDEN, ANSWERS)
    assert worse.over_untrained.high < 0 and worse.accuracy.low < 1 / 3 < worse.accuracy.high


def test_accuracy_by_loops() -> None:
    z, answers = SEEN[:40].numpy(), ANSWERS[:40].numpy()
    x = z - z.mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = np.zeros(40)
    for i in range(40):
        others = sorted((j for j in range(40) if j != i), key=lambda j: -(x[i] @ x[j]))[:5]
        votes = np.zeros(3)
        for j in others:
            votes[answers[j]] += math.exp(x[i] @ x[j] / 0.07)
        right[i] = votes.argmax() == answers[i]
    expected = np.mean([right[answers == c].mean() for c in range(3)])
    found = reuse_gain(SEEN[:40], SEEN[:40], HIDDEN[:40], ANSWERS[:40], neighbours=5)
    assert found.accuracy.value == pytest.approx(expected)


def test_rotation_scale_and_shift_change_nothing() -> None:
    turn = torch.from_numpy(np.linalg.qr(RNG.normal(size=(16, 16)))[0])
    moved = reuse_gain(9 * SEEN @ turn + 4, BLIND, 2 * HIDDEN + 1, ANSWERS)
    assert moved.accuracy.value == reuse_gain(SEEN, BLIND, HIDDEN, ANSWERS).accuracy.value


def test_images_of_one_patient_do_not_vote_for_each_other() -> None:
    """Features that only tell patients apart look perfect unless owners are given."""
    owners = torch.arange(N) // 6
    answers = torch.from_numpy(RNG.integers(0, 2, N // 6))[owners]
    patient = torch.from_numpy(RNG.normal(size=(N // 6, 16)))[owners] + 0.1 * BLIND
    fooled = reuse_gain(patient, BLIND, HIDDEN, answers, neighbours=5)
    found = reuse_gain(patient, BLIND, HIDDEN, answers, owners, neighbours=5)
    assert fooled.accuracy.value == 1 and found.accuracy.value < 0.75
    width = found.over_untrained.high - found.over_untrained.low
    assert width > 1.5 * (fooled.over_untrained.high - fooled.over_untrained.low)


def test_gain_says_why_not() -> None:
    bad = SEEN.clone()
    bad[0] = math.nan
    assert "1 of 240" in reuse_gain(bad, BLIND, HIDDEN, ANSWERS).accuracy.why
    assert "too few" in reuse_gain(SEEN[:5], BLIND[:5], HIDDEN[:5], ANSWERS[:5]).over_pixels.why
    assert "1 class" in reuse_gain(SEEN, BLIND, HIDDEN, torch.zeros(N, dtype=torch.long)).over_pixels.why
    collapsed = reuse_gain(torch.ones(N, 16), BLIND, HIDDEN, ANSWERS).accuracy
    assert collapsed.value == pytest.approx(1 / 3, abs=0.1)
