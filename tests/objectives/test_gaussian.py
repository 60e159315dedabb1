"""The Gaussian regulariser against its closed form, and what it tells from a Gaussian."""

import math

import pytest
import torch

from headwater import backbones, objectives
from headwater.errors import InputError
from headwater.objectives import Network
from headwater.objectives.gaussian import epps_pulley, sliced_gaussianity
from headwater.views import Views


def exact(x):
    """The integral done by hand: cosines of differences against the weight are Gaussians again."""
    n = len(x)
    pairs = torch.exp(-(x[:, None] - x[None, :]).square() / 2).sum() / n**2
    single = torch.exp(-x.square() / 4).sum() * 2 / n / math.sqrt(2)
    return n * (pairs - single + 1 / math.sqrt(3))


@pytest.mark.parametrize("n, scale, shift", [(2, 1.0, 0.0), (30, 1.0, 0.0), (30, 0.3, 1.0), (200, 2.0, -1.0)])
def test_equals_its_closed_form(n, scale, shift):
    x = shift + scale * torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    ours = epps_pulley(x)
    for column, value in zip(x.T, ours, strict=True):
        assert math.isclose(value.item(), exact(column).item(), rel_tol=2e-3, abs_tol=2e-4)
    x.requires_grad_()
    slope = torch.autograd.grad(epps_pulley(x).sum(), x)[0]
    true = torch.stack([torch.autograd.grad(exact(c), x)[0] for c in x.T]).sum(0)
    torch.testing.assert_close(slope, true, rtol=1e-2, atol=1e-3)


def test_tells_a_gaussian_from_what_is_none():
    made = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    rows = torch.randn(500, 8, generator=made)
    good = sliced_gaussianity(rows, 64)
    for bad in (0 * rows, rows[:, :1].expand(-1, 8), 3 * rows, rows + 2, rows.sign() * 8**0.5 * (torch.arange(8) == 0)):
        assert sliced_gaussianity(bad, 64) > 5 * good


def test_weight_and_parts_add_up():
    torch.manual_seed(0)
    backbone = backbones.build("resenc", "nano", 1, 2)
    objective = objectives.build("lejepa", width=8, weight=0.2, dense=0.0, pooled=1.0)
    student = Network(backbone, objective.heads(backbone))
    x = torch.randn(2, 6, 1, 16, 16)
    loss, parts = objective(student, None, Views(x, torch.tensor([[0.0, 1.0]] * 2).expand(2, 6, 2, 2)))
    assert torch.isclose(loss, 0.8 * parts["prediction"] + 0.2 * parts["gaussianity"], rtol=1e-5)
    z = student.heads["expander"](student(x.flatten(0, 1)).pooled).unflatten(0, (2, 6))
    assert torch.isclose(parts["prediction"], (z[0] - z[1]).square().mean() / 4, rtol=1e-4)


def test_descent_makes_a_gaussian_of_a_point():
    torch.manual_seed(0)
    rows = (1e-2 * torch.randn(128, 4)).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        sliced_gaussianity(rows, 32).backward()
        optimizer.step()
    table = rows.detach().T.cov()
    assert rows.detach().mean(0).abs().max() < 0.15 and (table - torch.eye(4)).abs().max() < 0.3


def test_faults():
    with pytest.raises(InputError, match="objective.weight=0.05"):
        objectives.build("lejepa", weight=1.0)
    objective = objectives.build("lejepa", width=8)
    backbone = backbones.build("resenc", "nano", 1, 2, seed=0)
    student = Network(backbone, objective.heads(backbone))
    with pytest.raises(InputError, match="pretrain.batch=2"):
        objective(student, None, Views(torch.zeros(2, 1, 1, 16, 16), torch.zeros(2, 1, 2, 2)))
