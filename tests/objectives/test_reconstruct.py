"""Reconstruction: normalised and spectral targets, and the controls without a mask."""

import math
from dataclasses import replace

import pytest
import torch

from headwater import backbones, objectives
from headwater.errors import InputError
from headwater.objectives import Network
from headwater.objectives.reconstruct import cell_normalised, masked_huber, spectral_distance
from headwater.views import Views


@pytest.mark.parametrize("size, stride", [((8, 12), (4, 4)), ((9, 7), (4, 2)), ((5, 6, 7), (2, 3, 4))])
def test_cells_are_normalised_one_by_one(size, stride):
    """Oracle: a loop over the cells; those at the high end have fewer voxels."""
    x = 3 + 2 * torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(0))
    ours, exact = cell_normalised(x, stride), torch.empty_like(x)
    starts = [range(0, n, s) for n, s in zip(size, stride, strict=True)]
    for image, target in zip(x, exact, strict=True):
        for corner in torch.cartesian_prod(*[torch.tensor(list(r)) for r in starts]).tolist():
            cell = (slice(None), *(slice(c, c + s) for c, s in zip(corner, stride, strict=True)))
            target[cell] = (image[cell] - image[cell].mean()) / (image[cell].var(correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cell_normalised(0.1 * x - 7, stride), exact, rtol=1e-3, atol=1e-2)


def test_a_flat_cell_has_no_structure():
    assert torch.equal(cell_normalised(torch.full((1, 1, 4, 4), 5.0), (2, 2)), torch.zeros(1, 1, 4, 4))


def test_spectral_distance_by_hand_and_by_slope():
    wave = torch.cos(2 * math.pi * 2 * torch.arange(8) / 8).expand(1, 1, 8, 8)  # one frequency: two entries of 8 x 8
    n = 8 * 5  # entries rfft keeps
    assert math.isclose(spectral_distance(wave, 0 * wave).item(), 4.0 / n, rel_tol=1e-3)
    x, y = (torch.randn(1, 1, 6, 5, 4, dtype=torch.float32) for _ in range(2))
    assert torch.isclose(spectral_distance(x, y), spectral_distance(y, x))
    assert torch.isclose(spectral_distance(3 * x, 3 * y), 3 * spectral_distance(x, y), rtol=1e-4)
    x.requires_grad_()
    spectral_distance(x, y).backward()
    step = torch.zeros_like(x)
    step[0, 0, 1, 2, 3] = 1e-2
    slope = (spectral_distance(x.detach() + step, y) - spectral_distance(x.detach() - step, y)) / 2e-2
    assert math.isclose(slope.item(), x.grad[0, 0, 1, 2, 3].item(), rel_tol=0.05, abs_tol=2e-4)


def case(family="vit"):
    torch.manual_seed(0)
    backbone = backbones.build(family, "nano", 1, 2)
    x = torch.randn(2, 3, 1, 16, 16)
    keep = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    keep[..., :2, :2] = True
    return backbone, Views(x, torch.zeros(2, 3, 2, 2), keep)


def test_options_of_masked_autoencoding_add_up():
    backbone, views = case()
    plain, full = (objectives.build("mae", **o) for o in ({}, {"normalised": True, "spectral": 0.3}))
    student = Network(backbone, plain.heads(backbone))
    loss, parts = full(student, None, views)
    assert set(parts) == {"reconstruction", "spectral"}
    assert torch.isclose(loss, parts["reconstruction"] + 0.3 * parts["spectral"])
    x = views.x.flatten(0, 1)
    made = student.heads["reconstruction"](student(x, views.keep.flatten(0, 1)))
    hidden = (~views.keep).flatten(0, 1)[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3)
    exact = masked_huber(made, cell_normalised(x, (4, 4)), hidden)
    assert torch.isclose(parts["reconstruction"], exact)
    bright = replace(views, x=2 * views.x + 1)  # targets stay, what the student sees does not
    assert torch.allclose(cell_normalised(bright.x.flatten(0, 1), (4, 4)), cell_normalised(x, (4, 4)), atol=1e-3)


@pytest.mark.parametrize("family", ["vit", "resenc"])
def test_controls_see_everything(family):
    backbone, views = case(family)
    ae, denoise = objectives.build("ae"), objectives.build("denoise")
    student, seen = Network(backbone, ae.heads(backbone)), []
    backbone.register_forward_pre_hook(lambda _, given: seen.append(given))
    loss, parts = ae(student, None, views)
    assert torch.equal(seen[0][0], views.x.flatten(0, 1)) and (len(seen[0]) == 1 or seen[0][1] is None)
    assert torch.equal(loss.detach(), parts["reconstruction"]) and not ae.masked
    denoise(student, None, views)
    noise = seen[1][0] - views.x.flatten(0, 1)
    assert abs(noise.std().item() - 0.5) < 0.05 and abs(noise.mean().item()) < 0.05


def test_faults():
    with pytest.raises(InputError, match="objective.noise=0.5"):
        objectives.build("denoise", noise=-1.0)
    with pytest.raises(InputError, match="it has: normalised, spectral"):
        objectives.build("mae", noise=1.0)
