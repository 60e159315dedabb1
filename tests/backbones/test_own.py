"""Our own states come back as the network that was trained, and say what else they hold."""

import pytest
import torch

from headwater import backbones
from headwater.backbones import build, load
from headwater.errors import InputError
from headwater.objectives import Network, build as objective
from headwater.train import state

TOLD = {"family": "vit", "size": "nano", "patch": 2, "channels": 2, "ndim": 2}


@pytest.fixture
def run(tmp_path):
    """A run folder with a trained network, as the loop saves it."""
    torch.manual_seed(0)
    backbone = build(**TOLD)
    teacher = Network(backbone, objective("mae").heads(backbone))
    path = tmp_path / "run" / "state" / "pretrain.safetensors"
    path.parent.mkdir(parents=True)
    state.save(path, 7, {"teacher": teacher, "student": teacher}, backbone=TOLD)
    return path, backbone


def test_comes_back_from_the_folder_and_from_the_file(run):
    path, backbone = run
    x = torch.randn(1, 2, 8, 6)
    for place in (path, path.parents[1]):
        loaded = load(place, channels=2)
        assert torch.equal(loaded.backbone(x).tokens, backbone(x).tokens)
        assert not loaded.missing and loaded.source == "Headwater"
        assert loaded.unexpected and not any(name.startswith("teacher.backbone.") for name in loaded.unexpected)
        assert len(loaded.matched) == len(backbone.state_dict())


@pytest.mark.parametrize("family", sorted(backbones.FAMILIES))
def test_every_family(family, tmp_path):
    told = TOLD | {"family": family, "patch": 4}
    backbone = build(**told, seed=5)
    path = state.save(tmp_path / "a.safetensors", 1, {"teacher.backbone": backbone}, backbone=told)
    x = torch.randn(1, 2, 12, 20)
    assert torch.equal(load(path).backbone(x).pooled, backbone(x).pooled)


def test_faults(run, tmp_path):
    path, _ = run
    with pytest.raises(InputError, match="trained with channels 2, not 1"):
        load(path, channels=1)
    with pytest.raises(InputError, match="trained with ndim 2, not 3"):
        load(path, ndim=3)
    old = state.save(tmp_path / "old.safetensors", 1, {"teacher": build(**TOLD)})
    with pytest.raises(InputError, match="does not say what network"):
        load(old)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "cut.safetensors")
