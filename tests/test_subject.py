"""What is observed: a model, itself before training, and views of the images it is looked at through."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headwater.backbones import build
from headwater.opening import Opened, open_model
from headwater.scans.fit import Wants
from headwater.subject import of_file, of_run
from headwater.train import loop


def saved(path, **told):
    told = {"family": "resenc", "size": "nano", "patch": 4, "channels": 1, "ndim": 2} | told
    kept = {f"teacher.backbone.{name}": value for name, value in build(**told, seed=3).state_dict().items()}
    save_file(kept, path, {"headwater": json.dumps({"backbone": told})})
    return path


def test_volumes_are_cut_into_views_in_whole_tokens_and_keep_their_spacing(phantoms, tmp_path):
    seen = of_file(open_model(saved(tmp_path / "a.safetensors", ndim=3)), phantoms[0])
    assert seen.probe.views.shape == (3, 12, 1, 16, 16, 16) and seen.probe.stride == (4, 4, 4) and len(seen.spacing) == 3
    assert seen.about["images"]["used"] == 12 and seen.about["model"]["parameters"] == sum(
        p.numel() for p in seen.trained.parameters()
    )
    assert not seen.its_own and seen.step == 1 and list(seen.history) == []


def test_a_model_of_pictures_sees_the_middle_slices_of_volumes(phantoms, tmp_path):
    seen = of_file(open_model(saved(tmp_path / "a.safetensors")), phantoms[0])
    assert seen.probe.views.shape == (3, 12, 1, 16, 16) and any("middle slice" in text for text in seen.about["images"]["words"])


def test_the_stride_of_a_model_that_does_not_tell_it_is_tried(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.GELU(), torch.nn.Conv2d(8, 8, 2, 2)).eval()
    opened = Opened("plain", network, network, Wants(2, 3, (32, 32)), ())
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(9, 40, 40)))
    seen = of_file(opened, tmp_path / "images.npy")
    assert seen.probe.stride == (8, 8) and seen.probe.shift == (8, 8) and seen.probe.views.shape == (3, 9, 3, 32, 32)
    assert seen.spacing == (), "resized images have another spacing"


def test_classes_of_the_images_that_are_shown(tmp_path):
    kinds = np.array(["one", "two"])[np.arange(12) % 2]
    array = np.random.default_rng(0).normal(size=(12, 24, 24))
    array[3] = 0
    np.savez(tmp_path / "images.npz", images=array, labels=kinds)
    opened = open_model(saved(tmp_path / "a.safetensors"))
    seen = of_file(opened, tmp_path / "images.npz", classes=True)
    assert len(seen.labels) == len(seen.probe) == 11 and [kinds[int(i)] for i in seen.owners] == list(seen.labels)
    assert of_file(opened, tmp_path / "images.npz").labels is None


@pytest.mark.slow
def test_a_run_beside_its_very_start(flat, tiny, tmp_path):
    settings = tiny(2, "pretrain.steps=4", "pretrain.watch=4")
    teacher = loop.fit(flat, settings, tmp_path)
    seen = of_run(tmp_path, flat, settings)
    begun = loop.assemble(settings, flat)[0].backbone.state_dict()
    for name, value in seen.untrained.state_dict().items():
        assert torch.equal(value, begun[name]), name
    for name, value in seen.trained.state_dict().items():
        assert torch.equal(value, teacher.backbone.state_dict()[name]), name
    assert seen.its_own and seen.step == 4 and [look["step"] for look in seen.history] == [1, 2, 3]
    assert seen.probe.views.shape[1] == 10 and seen.about["model"]["step"] == 4 and seen.labels is None
    known = of_run(tmp_path, flat, settings, classes=True)
    assert known.labels == [""] * 10 and len(set(known.owners)) == 10, "phantoms have no class"
