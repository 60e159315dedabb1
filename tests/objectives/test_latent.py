"""Latent prediction: distances worked out by hand, guards that guard, hidden cells alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater import backbones, objectives
from headwater.backbones import Features
from headwater.errors import InputError
from headwater.objectives import Network
from headwater.views import Views


class Answers(nn.Module):
    """A backbone that answers with a given map, whatever it sees."""

    def __init__(self, maps, stride=2):
        super().__init__()
        self.answer, self.stride = nn.Parameter(maps), (stride,) * (maps.ndim - 2)

    def forward(self, x, keep=None):
        return Features(self.answer.flatten(2).mT, self.answer.shape[2:], self.answer.flatten(2).mean(2), [self.answer])


def case(seed=0, batch=2):
    made = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2 * batch, 3, 4, 4, generator=made) for _ in range(2))
    box = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(2, batch, 2, 2)
    return student, teacher, Views(torch.zeros(2, batch, 1, 8, 8), box)


def bare(maps, **heads):
    return Network(Answers(maps), nn.ModuleDict(heads or {"projector": nn.Identity(), "predictor": nn.Identity()}))


def unit(x, axis):
    return x / x.square().sum(axis, keepdim=True).sqrt()


def test_byol_by_hand():
    """Both views whole: a cell of the map is a place; views are crossed, scans are not."""
    student, teacher, views = case()
    s, t = student.unflatten(0, (2, 2)), teacher.unflatten(0, (2, 2)).flip(0)
    dense = 2 - 2 * (unit(s, 2) * unit(t, 2)).sum(2).mean()
    pooled = 2 - 2 * (unit(s.mean((3, 4)), 2) * unit(t.mean((3, 4)), 2)).sum(2).mean()
    objective = objectives.build("byol", cells=4, pooled=0.3, dense=0.7)
    objective_parts = objective(bare(student), bare(teacher), views)[1]
    # cells of one token, sampled at two points per axis, are not the token itself: ask for one point per token instead
    centres = torch.stack(torch.meshgrid(*[(torch.arange(4) + 0.5) / 4] * 2, indexing="ij"), -1).expand(2, 2, 4, 4, 2)
    exact = Views(views.x, views.boxes, None, centres, torch.ones(2, 4, 4, dtype=torch.bool))
    loss, parts = objective(bare(student), bare(teacher), exact)
    torch.testing.assert_close(parts["dense"], dense)
    torch.testing.assert_close(parts["pooled"], pooled)
    torch.testing.assert_close(loss, 0.3 * pooled + 0.7 * dense)
    torch.testing.assert_close(objective_parts["pooled"], pooled)
    half = torch.zeros(2, 4, 4, dtype=torch.bool)
    half[0, :2], half[1, 1:] = True, True
    away = 1 - (unit(s, 2) * unit(t, 2)).sum(2)  # V B 4 4
    seen = Views(views.x, views.boxes, None, centres, half)
    torch.testing.assert_close(objective(bare(student), bare(teacher), seen)[1]["dense"], 2 * away[:, half].mean())


@pytest.mark.parametrize("name", ["byol", "jepa"])
def test_guards(name):
    """Guarded, no gradient flows to the target; unguarded it does, and the constant answer is the best one."""
    keep = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    keep[..., 0, :] = True
    for guarded in (True, False):
        objective = objectives.OBJECTIVES[name](guarded=guarded)
        torch.manual_seed(0)
        backbone = backbones.build("vit", "nano", 1, 2)
        student = Network(backbone, objective.heads(backbone))
        teacher = copy.deepcopy(student).requires_grad_(True)
        x = torch.randn(2, 2, 1, 16, 16)
        views = Views(x, torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(2, 2, 2, 2), keep)
        calls = []
        student.backbone.register_forward_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        objective(student, teacher, views)[0].backward()
        assert all(p.grad is None for p in teacher.parameters())
        assert calls == ([True] if guarded else [True, True])
    maps = torch.ones(4, 3, 4, 4)
    constant = bare(maps, projector=nn.Identity(), predictor=nn.Identity(), refill=nn.Identity())
    lost, _ = objectives.OBJECTIVES[name](guarded=False)(constant, constant, Views(torch.zeros(2, 2, 1, 8, 8), views.boxes, keep))
    assert abs(lost.item()) < 1e-6


def test_jepa_by_hand():
    """Smooth L1 to the teacher's normalised tokens, at hidden cells only."""
    student, teacher, views = case(1)
    keep = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    keep[..., 1:3, :] = True
    heads = {"refill": nn.Identity(), "predictor": nn.Identity()}
    loss, parts = objectives.build("jepa")(bare(student, **heads), bare(teacher), Views(views.x, views.boxes, keep))
    rows = teacher.flatten(2).mT
    true = (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    away = (student.flatten(2).mT - true).abs()
    bent = torch.where(away < 1, 0.5 * away.square(), away - 0.5).mean(-1)
    exact = bent[~keep.flatten(0, 1).flatten(1)].mean()
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(parts["prediction"], exact)
    changed = student.clone()
    changed[:, :, 1:3] = 9.0  # what was seen does not count
    assert torch.equal(
        objectives.build("jepa")(bare(changed, **heads), bare(teacher), Views(views.x, views.boxes, keep))[0], loss
    )
    with pytest.raises(InputError, match="mask_ratio=0.75"):
        objectives.build("jepa")(bare(student, **heads), bare(teacher), views)


def test_without_guards_all_scans_become_one_and_with_negatives_they_do_not():
    """The same steps on the same scans: the spread of pooled directions is gone, or not."""
    spread = {}
    for name, options in (("byol", {"dense": 0.0, "guarded": False}), ("simclr", {})):
        torch.manual_seed(0)
        scans = F.interpolate(torch.randn(16, 1, 4, 4), 16, mode="bilinear")
        objective = objectives.build(name, width=32, **options)
        body = nn.Sequential(nn.Conv2d(1, 16, 4, 4), nn.GELU(), nn.Conv2d(16, 16, 1))
        backbone = Convolved(body)
        heads = objective.heads(backbone)
        heads["projector"] = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32))  # batch norm would hide it
        student = Network(backbone, heads)
        teacher = copy.deepcopy(student).requires_grad_(False)
        optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
        for _ in range(150):
            x = torch.stack([scans + 0.3 * torch.randn_like(scans) for _ in range(2)])
            loss, _ = objective(student, teacher, Views(x, torch.tensor([[0.0, 1.0]] * 2).expand(2, 16, 2, 2)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                    t.lerp_(s, 0.05)
        with torch.no_grad():
            z = F.normalize(student.heads["projector"](student(scans).pooled), dim=1)
        spread[name] = (1 - z.mean(0).square().sum()).item()  # 0: all in one direction
    assert spread["byol"] < 0.02 and spread["simclr"] > 0.5


class Convolved(backbones.Backbone):
    """A few convolutions as a backbone of pictures."""

    def __init__(self, body):
        super().__init__(2, 1, 16, 4, [16], [4])
        self.body = body

    def forward(self, x, keep=None):
        maps = self.body(x)
        return Features(maps.flatten(2).mT, maps.shape[2:], maps.flatten(2).mean(2), [maps])


def test_faults():
    with pytest.raises(InputError, match="one is above 0"):
        objectives.build("byol", pooled=0.0, dense=0.0)
