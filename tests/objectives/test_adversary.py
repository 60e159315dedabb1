"""The critic learns, the student unlearns, by the same loss."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater import backbones, objectives
from headwater.errors import InputError
from headwater.objectives import Network
from headwater.objectives.adversary import Reversed
from headwater.views import Views


def test_reversed_turns_the_slope():
    x = torch.randn(3, requires_grad=True, dtype=torch.float64)
    y = Reversed.apply(x, 0.3)
    assert torch.equal(x, y)
    (y**3).sum().backward()
    torch.testing.assert_close(x.grad, -0.9 * x.detach() ** 2)


def case(strength=0.1):
    torch.manual_seed(0)
    objective = objectives.build("adversarial", strength=strength, width=16)
    backbone = backbones.build("vit", "nano", 1, 2)
    student = Network(backbone, objective.heads(backbone))
    keep = (torch.rand(2, 3, 16).argsort(-1) < 6).view(2, 3, 4, 4)
    return objective, student, copy.deepcopy(student), Views(torch.randn(2, 3, 1, 16, 16), torch.zeros(2, 3, 2, 2), keep)


def test_parts_by_hand():
    objective, student, teacher, views = case()
    critic = student.heads["critic"]
    loss, parts = objective(student, teacher, views)
    x, hidden = views.x.flatten(0, 1), ~views.keep.flatten(0, 1).flatten(1)
    true = teacher(x).tokens[hidden]
    made = student.heads["refill"](student(x, views.keep.flatten(0, 1))).tokens[hidden]
    rows = [F.layer_norm(t, t.shape[-1:]) for t in (true, made)]
    labels = torch.cat([torch.ones(len(true)), torch.zeros(len(made))])
    exact = F.binary_cross_entropy_with_logits(critic(torch.cat(rows))[:, 0], labels)
    torch.testing.assert_close(parts["critic"], exact)
    torch.testing.assert_close(loss, parts["reconstruction"] + exact)
    for layer in critic:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    assert math.isclose(objective(student, teacher, views)[1]["critic"].item(), math.log(2), rel_tol=1e-6)


def test_student_goes_where_the_critic_does_not_want_it():
    """The student's gradient is that of reconstruction minus `strength` times that of the critic's loss."""
    slopes = {}
    for strength in (0.0, 0.1, 0.4):
        objective, student, teacher, views = case(strength)
        objective(student, teacher, views)[0].backward()
        slopes[strength] = [p.grad for p in student.backbone.parameters()]
        critic = [p.grad for p in student.heads["critic"].parameters()]
        assert all(p.grad is None for p in teacher.parameters()) and all(g.abs().max() > 0 for g in critic)
    for none, little, much in zip(*slopes.values(), strict=True):
        torch.testing.assert_close(much - none, 4 * (little - none), rtol=1e-3, atol=1e-6)


def test_fault():
    with pytest.raises(InputError, match="objective.strength=0.1"):
        objectives.build("adversarial", strength=-1.0)
