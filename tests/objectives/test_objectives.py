"""One contract for every objective, and each part against values worked out by hand."""

import copy
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import nn
from torch.nn.functional import interpolate

from headwater import backbones, objectives, settings
from headwater.backbones import Features
from headwater.errors import InputError
from headwater.objectives import Network, distil
from headwater.objectives.network import on_map, predictor, projector
from headwater.objectives.reconstruct import masked_huber, masked_voxels
from headwater.streams import numpy_stream
from headwater.views import Views, draw_pairs, make_views

HOW = {2: settings.Views(parent=(40, 36), crop=(24, 20)), 3: settings.Views(parent=(26, 24, 28), crop=(16, 12, 20))}


class Patches(backbones.Backbone):
    """One strided convolution; cells that are not kept are zeroed."""

    def __init__(self, ndim=2, channels=1, dim=8, patch=4):
        super().__init__(ndim, channels, dim, patch, [dim], [patch])
        self.embed = (nn.Conv2d if ndim == 2 else nn.Conv3d)(channels, dim, patch, patch)

    def forward(self, x, keep=None):
        if keep is not None:
            x = x * interpolate(keep[:, None].float(), x.shape[2:])
        maps = self.embed(x)
        return Features(maps.flatten(2).mT, maps.shape[2:], maps.flatten(2).mean(2), [maps], size=tuple(x.shape[2:]))


class Fixed(nn.Module):
    """Answers with the given map whatever it sees."""

    def __init__(self, answer, stride=2):
        super().__init__()
        self.answer, self.stride = nn.Parameter(answer), (stride,) * (answer.ndim - 2)

    def forward(self, x, keep=None):
        maps = self.answer
        return Features(maps.flatten(2).mT, maps.shape[2:], maps.flatten(2).mean(2), [maps], size=tuple(x.shape[2:]))


class Zero(nn.Module):
    """Reconstructs nothing: zeros of the image's size."""

    def forward(self, features):
        return 0.0 * interpolate(features.map[:, :1], features.size)


def bare(answer, stride=2):
    """A network that answers with a map, through heads that change nothing."""
    same = {name: nn.Identity() for name in ("projector", "predictor", "refill")}
    return Network(Fixed(answer, stride), nn.ModuleDict({**same, "reconstruction": Zero()}))


@pytest.fixture(autouse=True)
def finished(monkeypatch):
    """What a distillation called "finished" has for its teacher."""

    def frozen(source, channels):
        torch.manual_seed(9)
        return Patches(ndim=2, channels=channels, dim=12, patch=2).requires_grad_(False)

    monkeypatch.setattr(distil, "frozen", frozen)


def networks(family, name, ndim=2):
    torch.manual_seed(0)
    kind = objectives.OBJECTIVES[name]
    small = {"width": 16, "cells": 3, "source": "finished", "prototypes": 8}
    objective = kind(**{field.name: small[field.name] for field in fields(kind) if field.name in small})
    backbone = Patches(ndim) if family == "fake" else backbones.build(family, "nano", 1, ndim)
    student = Network(backbone, objective.heads(backbone))
    teacher = copy.deepcopy(student).requires_grad_(False)
    return objective, student, teacher


def smooth(rng, shape):
    """A scan whose voxels say something of their neighbours."""
    field = gaussian_filter(rng.standard_normal(shape), 2.0)
    return ((field - field.mean()) / field.std()).astype(np.float32)[None]


def views_of(ndim=2, batch=3, step=0, **changes):
    rng = np.random.default_rng(0)
    scans = [smooth(rng, HOW[ndim].parent) for _ in range(batch)]
    return make_views(scans, replace(HOW[ndim], **changes), seed=0, step=step, stride=(4,) * ndim)


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
@pytest.mark.parametrize("family, ndim", [("fake", 2), ("fake", 3), ("resenc", 2), ("vit", 2), ("resenc", 3), ("vit", 3)])
def test_contract(name, family, ndim):
    objective, student, teacher = networks(family, name, ndim)
    views = views_of(ndim, batch=2)
    before = [p.clone() for p in teacher.parameters()]
    torch.manual_seed(1)
    loss, parts = objective(student, teacher, views)
    torch.manual_seed(1)
    again, _ = objective(student, teacher, views)
    assert torch.equal(loss, again)
    assert loss.shape == () and loss.isfinite() and loss.requires_grad
    assert parts and all(p.shape == () and p.isfinite() and not p.requires_grad for p in parts.values())
    loss.backward()
    for part, p in student.named_parameters():
        unused = part.endswith("hidden") and not objective.masked  # stands for hidden tokens
        assert unused or (p.grad is not None and p.grad.isfinite().all()), part
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
def test_a_few_steps_learn(name):
    objective, student, teacher = networks("resenc" if name in ("jepa", "adversarial") else "fake", name)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    views, losses = views_of(batch=4), []
    for _ in range(25):
        loss, parts = objective(student, teacher, views)
        losses.append(parts["reconstruction"].item() if name == "adversarial" else loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_no_gradient_reaches_a_teacher_that_could_take_one():
    objective, student, teacher = networks("fake", "cva")
    objective(student, teacher.requires_grad_(True), views_of())[0].backward()
    assert all(p.grad is None for p in teacher.parameters())


def fixed_case():
    """2 scans, 2 views, maps constant in space, identity heads, an image of 0.5 with one cell of 3."""
    s = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # (V, B, D)
    t = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[3.0, 4.0], [0.0, 2.0]]])
    student, teacher = (bare(v.flatten(0, 1)[..., None, None].expand(4, 2, 2, 3).clone()) for v in (s, t))
    x = torch.full((2, 2, 1, 4, 6), 0.5)
    x[0, 0, 0, :2, :2] = 3.0
    x[:, :, :, 2:, 4:] = 100.0  # seen everywhere, so it must not count
    keep = torch.zeros(2, 2, 2, 3, dtype=torch.bool)
    keep[..., 1, 2] = True
    boxes = torch.tensor([[[[0.5, 1.0], [0.25, 1.0]]] * 2, [[[0.0, 0.5], [0.0, 0.75]]] * 2])
    return s, t, student, teacher, Views(x, boxes, keep)


def test_parts_of_consistent_views_by_hand():
    s, t, student, teacher, views = fixed_case()
    loss, parts = objectives.ConsistentViews()(student, teacher, views)
    # 4 crops x 20 masked voxels; Huber(0.5) = 0.125, Huber(3) = 2.5 on 4 voxels
    assert math.isclose(parts["reconstruction"].item(), (76 * 0.125 + 4 * 2.5) / 80, rel_tol=1e-5)
    # student view v against teacher view 1 - v: (1,0).(.6,.8), (0,1).(0,1), (0,1).(1,1)/sqrt2, (1,0).(1,0)
    assert math.isclose(parts["consistency"].item(), 2 - 2 * (0.6 + 1 + 0.5**0.5 + 1) / 4, rel_tol=1e-5)
    root = 0.5**0.5
    rows = [  # cosine with the positive, and with students and teachers of the other scan, view 0 then 1
        (0.6, [0, 1, 1, 0]),
        (1.0, [0, 1, root, 0.8]),
        (root, [1, 0, 0, 1]),
        (1.0, [1, 0, root, 0.6]),
    ]
    by_hand = [math.log(math.exp(2 * p) + sum(math.exp(2 * n) for n in others)) - 2 * p for p, others in rows]
    assert math.isclose(parts["contrast"].item(), sum(by_hand) / 4, rel_tol=1e-5)
    weights = {"reconstruction": 5, "consistency": 1, "contrast": 0.1}
    assert math.isclose(loss.item(), sum(weights[k] * parts[k].item() for k in weights), rel_tol=1e-5)


@pytest.mark.parametrize("name", ["cva", "mae"])
def test_reconstruction_counts_masked_voxels_only(name):
    *_, student, teacher, views = fixed_case()
    objective = objectives.build(name)
    base = objective(student, teacher, views)[1]["reconstruction"]
    changed = views.x.clone()
    changed[:, :, :, 2:, 4:] = -7.0  # the kept cell
    assert torch.equal(base, objective(student, teacher, replace(views, x=changed))[1]["reconstruction"])
    changed[0, 0, 0, 0, 0] = 9.0  # a masked one
    assert not torch.equal(base, objective(student, teacher, replace(views, x=changed))[1]["reconstruction"])


def test_gradient_of_masked_huber_is_zero_where_the_image_was_seen():
    prediction = torch.zeros(1, 2, 5, 7, requires_grad=True)
    keep = torch.tensor([[[True, False], [False, True]]])
    hidden = masked_voxels(keep, (3, 4), (5, 7))
    assert hidden.shape == (1, 1, 5, 7)
    assert torch.equal(hidden[0, 0], torch.tensor([[False] * 4 + [True] * 3] * 3 + [[True] * 4 + [False] * 3] * 2))
    masked_huber(prediction, torch.ones(1, 2, 5, 7), hidden).backward()
    assert torch.equal(prediction.grad != 0, hidden.expand(1, 2, 5, 7))


def test_student_sees_the_mask_and_the_teacher_does_not():
    objective, student, teacher = networks("fake", "cva")
    views, seen = views_of(), {}
    student.backbone.register_forward_pre_hook(lambda _, given: seen.update(student=given))
    teacher.backbone.register_forward_pre_hook(lambda _, given: seen.update(teacher=given))
    objective(student, teacher, views)
    assert torch.equal(seen["student"][1], views.keep.flatten(0, 1)) and seen["teacher"][1] is None
    assert torch.equal(seen["student"][0], seen["teacher"][0])


@pytest.mark.parametrize("parent, crop", [((18, 24), (10, 13)), ((20, 18, 26), (11, 10, 14))])
def test_consistency_equals_sampling_at_physical_coordinates(parent, crop):
    """Oracle: every sample point by its place in voxels, through scipy; the crops are no multiple of the stride."""
    d, stride, cells, batch = len(crop), 4, 3, 2
    grid = tuple(math.ceil(c / stride) for c in crop)
    made = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, batch, 5, *grid, generator=made) for _ in range(2))
    pairs = draw_pairs(numpy_stream(0, "crops"), batch, parent, crop, (0.3, 0.5))

    def look(maps, v, b):
        box = pairs.boxes[v, b].double().numpy()
        at = (np.arange(2 * cells) + 0.5) / (2 * cells)
        lines = [c * (low + (high - low) * at) for c, (low, high) in zip(crop, box, strict=True)]
        points = np.stack(np.meshgrid(*[line / stride - 0.5 for line in lines], indexing="ij"))  # token index from voxel edges
        seen = np.stack([map_coordinates(m.double().numpy(), points, order=1, mode="nearest") for m in maps[v, b]])
        return seen.reshape(5, *(cells, 2) * d).mean(axis=tuple(range(2, 2 * d + 1, 2))).reshape(5, -1)

    cosines = []
    for v in (0, 1):
        for b in range(batch):
            p, z = look(student, v, b), look(teacher, 1 - v, b)
            cosines.append((p * z).sum(0) / np.linalg.norm(p, axis=0) / np.linalg.norm(z, axis=0))
    views = Views(torch.zeros(2, batch, 1, *crop), pairs.boxes, torch.zeros(2, batch, *grid, dtype=torch.bool))
    pair = [bare(maps.flatten(0, 1), stride) for maps in (student, teacher)]
    parts = objectives.ConsistentViews(cells=cells)(*pair, views)[1]
    assert math.isclose(parts["consistency"].item(), 2 - 2 * np.mean(cosines), abs_tol=1e-5)


def test_heads_on_maps_and_teacher_statistics():
    head, maps = nn.Linear(3, 5), torch.randn(2, 3, 4, 5)
    assert torch.allclose(on_map(head, maps)[1, :, 2, 3], head(maps[1, :, 2, 3]), atol=1e-6)
    project = projector(6, 8)
    rows = 3 + 2 * torch.randn(64, 6)
    assert torch.equal(project(rows), project.eval()(rows)) and not list(project.buffers())
    assert torch.allclose(project(rows).mean(0), torch.zeros(8), atol=1e-4)
    assert [m.out_features for m in predictor(16) if isinstance(m, nn.Linear)] == [4, 16]


def test_faults_are_input_errors():
    objective, student, teacher = networks("fake", "cva")
    with pytest.raises(InputError, match="pretrain.batch=2"):
        objective(student, teacher, views_of(batch=1))
    for name in (n for n, kind in objectives.OBJECTIVES.items() if kind.masked):
        objective, student, teacher = networks("fake", name)
        with pytest.raises(InputError, match="mask_ratio=0.75"):
            objective(student, teacher, views_of(mask_ratio=0.0))
    with pytest.raises(InputError, match="cva, mae"):
        objectives.build("nothing")
    with pytest.raises(InputError, match="it has: width"):
        objectives.build("cva", depth=3)


def test_one_scan_is_enough_for_masked_autoencoding():
    objective, student, _ = networks("resenc", "mae")
    assert objective(student, None, views_of(batch=1))[0].isfinite()


def test_bfloat16_stays_near_float32():
    objective, student, teacher = networks("resenc", "cva")
    views = views_of()
    exact, _ = objective(student, teacher, views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = objective(student, teacher, views)
    assert rough.dtype == torch.float32 and abs(rough - exact) < 0.05 * exact
