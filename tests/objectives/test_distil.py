"""Distillation from files on disk: whose features, at which places, compared how."""

import pytest
import torch

from headwater import backbones, objectives
from headwater.errors import InputError
from headwater.objectives import Network, distil
from headwater.objectives.distil import cosines, shown
from headwater.views import Views

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small DINOv2 of pictures, as transformers saves it."""
    torch.manual_seed(0)
    chosen = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4, num_channels=3
    )
    where = tmp_path_factory.mktemp("teacher")
    transformers.Dinov2Model(chosen).save_pretrained(where)
    return str(where)


def student_for(objective, ndim, seed=0):
    torch.manual_seed(seed)
    backbone = backbones.build("resenc", "nano", 1, ndim)
    return Network(backbone, objective.heads(backbone))


def views_of(*size):
    return Views(torch.randn(2, 2, 1, *size, generator=torch.Generator().manual_seed(3)), torch.zeros(2, 2, len(size), 2))


def test_pictures(folder):
    objective = objectives.build("distil", source=folder)
    student, views = student_for(objective, 2), views_of(16, 16)
    loss, parts = objective(student, None, views)
    x = views.x.flatten(0, 1)
    teacher = transformers.Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        true = teacher(x.expand(-1, 3, -1, -1)).last_hidden_state[:, 1:]
    seen = student(x)
    torch.testing.assert_close(parts["relation"], (cosines(seen.tokens) - cosines(true)).square().mean(), rtol=1e-3, atol=1e-5)
    said = student.heads["tokens"](seen.tokens)
    away = 1 - torch.cosine_similarity(said, true, dim=-1).mean()
    maps, pooled = shown(objective.teacher(student.backbone), x, seen.grid)
    torch.testing.assert_close(maps.flatten(2).mT, true, rtol=1e-3, atol=1e-4)
    whole = 1 - torch.cosine_similarity(student.heads["pooled"](seen.pooled), pooled, dim=-1).mean()
    torch.testing.assert_close(parts["feature"], (away + whole) / 2, rtol=1e-3, atol=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in student.parameters())


def test_volumes_are_shown_slice_by_slice(folder):
    objective = objectives.build("distil", source=folder)
    student = student_for(objective, 3)
    teacher = objective.teacher(student.backbone)
    x = torch.randn(2, 1, 10, 16, 12, generator=torch.Generator().manual_seed(4))
    maps, pooled = shown(teacher, x, (3, 4, 3))
    for layer, middle in enumerate((1, 5, 8)):  # of 10 slices in 3 layers
        found = teacher(x[:, :, middle])
        torch.testing.assert_close(maps[:, :, layer], found.map)
    torch.testing.assert_close(pooled, sum(teacher(x[:, :, m]).pooled for m in (1, 5, 8)) / 3)
    assert shown(teacher, x, (5, 8, 6))[0].shape == (2, 32, 5, 8, 6)
    assert objective(student, None, views_of(16, 16, 16))[0].isfinite()


def test_a_student_learns_its_teacher(folder):
    objective = objectives.build("distil", source=folder)
    student, views = student_for(objective, 2), views_of(16, 16)
    optimizer, losses = torch.optim.AdamW(student.parameters(), lr=3e-3), []
    for _ in range(30):
        loss, _ = objective(student, None, views)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_the_teacher_is_in_no_checkpoint_and_never_moves(folder):
    objective = objectives.build("distil", source=folder)
    student = student_for(objective, 2)
    assert {name.split(".")[1] for name in student.state_dict() if name.startswith("heads")} == {"tokens", "pooled"}
    assert not any(p.requires_grad for p in objective.teacher(student.backbone).parameters())


def test_faults(folder, tmp_path):
    backbone = backbones.build("resenc", "nano", 1, 2, seed=0)
    with pytest.raises(InputError, match="set objective.source"):
        objectives.build("distil").heads(backbone)
    with pytest.raises(InputError, match="does not exist"):
        objectives.build("distil", source=str(tmp_path / "nowhere")).heads(backbone)
    volumes = backbones.build("vit", "nano", 1, 3, seed=0)
    distil.frozen.cache_clear()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="give a 2D teacher"):
        patch.setattr(distil, "frozen", lambda source, channels: volumes)
        objectives.build("distil", source="volumes").heads(backbone)
