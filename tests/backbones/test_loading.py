"""One door for all files: what it knows, what it refuses, in one sentence each."""

import json

import pytest
import torch
from foreign import HEADS, dynamic, hugging, images, nnunet_file, plan, timm_names
from safetensors.torch import save_file

from headwater.backbones.loading import load
from headwater.errors import InputError


def test_a_vit_and_a_convolutional_encoder_come_through_the_same_door(tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")), tmp_path / "vit.pt")
    architecture = plan()
    torch.save(nnunet_file(dynamic(architecture), {"architecture": architecture}), tmp_path / "checkpoint_final.pth")
    vit, cnn = load(str(tmp_path / "vit.pt"), heads=HEADS), load(tmp_path / "checkpoint_final.pth")
    assert (type(vit.backbone).__name__, type(cnn.backbone).__name__) == ("ViT", "ResEnc")
    for loaded in (vit, cnn):
        first, *rest = str(loaded).splitlines()
        assert first.startswith(loaded.source) and rest[0].startswith("matched: ")
        assert not torch.nn.utils.parameters_to_vector(loaded.backbone.parameters()).isnan().any()
        assert all(p.requires_grad for p in loaded.backbone.parameters())


def test_loading_leaves_the_generator_of_torch_alone(tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")), tmp_path / "vit.pt")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load(tmp_path / "vit.pt", heads=HEADS)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unknown_names_are_one_sentence(suffix, tmp_path):
    state, path = {"layer1.0.conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}, tmp_path / f"w{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    with pytest.raises(InputError, match="holds no network that is known here") as told:
        load(path)
    assert "\n" not in str(told.value) and "fc.bias" in str(told.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ndim": 4}, "use 2 or 3"),
        ({"channels": 0}, "channels 0"),
        ({"patch": -1}, "patch -1"),
        ({"heads": 0}, "heads 0"),
        ({"heads": 5}, "does not split into 5 heads"),
    ],
)
def test_options_out_of_range(options, says, tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")), tmp_path / "w.pth")
    with pytest.raises(InputError, match=says):
        load(tmp_path / "w.pth", **options)


def test_channels_that_differ_from_the_checkpoint_are_an_error_unless_asked_for(tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")), tmp_path / "w.pth")
    with pytest.raises(InputError, match="built for 3 channels, the images have 1"):
        load(tmp_path / "w.pth", heads=HEADS).backbone(images(channels=1))
    load(tmp_path / "w.pth", heads=HEADS, channels=1).backbone(images(channels=1))


@pytest.mark.parametrize("wrong", [None, "x", -1, 0, 10**12, [], {}, True])
def test_settings_that_make_no_sense_never_end_in_anything_but_one_sentence(wrong, tmp_path):
    hugging("Dinov2Model").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("num_attention_heads", "layer_norm_eps", "image_size", "hidden_act", "model_type", "patch_size"):
        (tmp_path / "config.json").write_text(json.dumps(config | {key: wrong}))
        try:
            load(tmp_path)
        except InputError as told:
            assert "\n" not in str(told)


@pytest.mark.parametrize("wrong", [None, "x", -1, 0, 10**12, [], {}, [[]], [10**12] * 3])
def test_plans_that_make_no_sense_never_end_in_anything_but_one_sentence(wrong, tmp_path):
    architecture = plan()
    content = nnunet_file(dynamic(architecture), {"architecture": architecture})
    for key in architecture["arch_kwargs"]:
        content["init_args"]["plans"]["configurations"]["3d_fullres"]["architecture"] = architecture | {
            "arch_kwargs": architecture["arch_kwargs"] | {key: wrong}
        }
        torch.save(content, tmp_path / "w.pth")
        try:
            load(tmp_path / "w.pth")
        except InputError as told:
            assert "\n" not in str(told)
