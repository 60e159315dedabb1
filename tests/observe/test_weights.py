"""Weights that moved, that did not, and a teacher that is the student."""

import copy
import math

import torch
from torch import nn

from headwater.observe.weights import apart, change, sample


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(300, 40), nn.Linear(40, 3))


def test_change_is_relative_and_zero_at_rest():
    model = network()
    then = sample(model)
    assert change(sample(model), then).value == 0 == change(then, None).value
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    assert math.isclose(change(sample(model), then).value, 0.5, rel_tol=1e-5)


def test_other_parameters_and_nan_are_said():
    model = network()
    then = sample(model)
    assert "other parameters" in change(sample(nn.Linear(2, 2)), then).why
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    assert "NaN" in change(sample(model), then).why


def test_an_aliased_teacher_is_told_from_a_copy_and_a_stranger():
    student = network()
    assert "same tensors" in apart(student, student).why
    half = nn.Sequential(student[0], copy.deepcopy(student[1]))
    assert not apart(student, half).why
    same = apart(student, copy.deepcopy(student))
    assert same.value == 0 and not same.why
    assert apart(student, network(1)).value > 0.5
    assert "no parameters" in apart(student, nn.Linear(300, 2)).why
