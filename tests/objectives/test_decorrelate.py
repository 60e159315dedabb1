"""Decorrelation against numpy's covariance, and what each term forbids."""

import numpy as np
import pytest
import torch

from headwater import backbones, objectives
from headwater.errors import InputError
from headwater.objectives import Network
from headwater.objectives.decorrelate import covariance_term, rows_of, variance_term
from headwater.views import Views


def test_terms_equal_numpy():
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1.0, 2.0, 0.9, 0.01])
    rows[:, 1] += 2 * rows[:, 0]
    table = np.cov(rows.double().numpy(), rowvar=False)
    off = table - np.diag(np.diag(table))
    assert np.isclose(covariance_term(rows).item(), (off**2).sum() / 6, rtol=1e-4)
    exact = np.maximum(0, 1 - np.sqrt(np.diag(table) + 1e-4)).mean()
    assert np.isclose(variance_term(rows).item(), exact, rtol=1e-5)


def test_what_the_terms_forbid():
    flat, turned = torch.ones(8, 4), torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(1)))[0]
    assert abs(variance_term(flat).item() - 0.99) < 1e-6  # silent channels: 1 - sqrt(1e-4)
    white = (turned - turned.mean(0)) * 20
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    assert covariance_term(white) < 1e-5 and variance_term(1.1 * white) == 0
    assert covariance_term(white[:, :1].expand(-1, 4)) > 2.9  # one channel four times: 12 covariances of 1 over 4 channels


def test_gradients_are_true():
    rows = torch.randn(7, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(covariance_term, rows)
    assert torch.autograd.gradcheck(variance_term, 0.5 * rows)


def test_parts_by_hand():
    torch.manual_seed(0)
    backbone = backbones.build("resenc", "nano", 1, 2)
    objective = objectives.build("vicreg", width=16, pooled=1.0, dense=0.0)
    student = Network(backbone, objective.heads(backbone))
    x = torch.randn(2, 5, 1, 16, 16)
    views = Views(x, torch.tensor([[0.0, 1.0]] * 2).expand(2, 5, 2, 2))
    loss, parts = objective(student, None, views)
    first, second = student.heads["expander"](student(x.flatten(0, 1)).pooled).double().detach().numpy().reshape(2, 5, 16)
    tables = [np.cov(z, rowvar=False) for z in (first, second)]
    assert np.isclose(parts["invariance"].item(), ((first - second) ** 2).mean(), rtol=1e-3)
    exact = sum(np.maximum(0, 1 - np.sqrt(np.diag(t) + 1e-4)).mean() for t in tables) / 2
    assert np.isclose(parts["variance"].item(), exact, rtol=1e-3)
    exact = sum((t**2).sum() - (np.diag(t) ** 2).sum() for t in tables) / 16
    assert np.isclose(parts["covariance"].item(), exact, rtol=1e-3)
    weighed = 25 * parts["invariance"] + 25 * parts["variance"] + parts["covariance"]
    assert torch.isclose(loss, weighed, rtol=1e-5)


def test_rows_leave_out_what_is_not_seen():
    z = torch.arange(2 * 2 * 1 * 3.0).view(2, 2, 1, 3)  # V B D O
    seen = torch.tensor([[True, False, True], [False, True, True]])
    assert rows_of(z, None).shape == (2, 6, 1)
    assert rows_of(z, seen)[..., 0].tolist() == [[0, 2, 4, 5], [6, 8, 10, 11]]


def test_faults():
    objective = objectives.build("vicreg", width=8)
    backbone = backbones.build("resenc", "nano", 1, 2, seed=0)
    student = Network(backbone, objective.heads(backbone))
    with pytest.raises(InputError, match="pretrain.batch=2"):
        objective(student, None, Views(torch.zeros(2, 1, 1, 16, 16), torch.zeros(2, 1, 2, 2)))
    with pytest.raises(InputError, match="one is above 0"):
        objectives.build("vicreg", invariance=0.0, variance=0.0, covariance=0.0)
