"""Any checkpoint observed: what is written, what it says of healthy, random and collapsed ones, and what cannot be had."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headwater import api, observation
from headwater.backbones import build
from headwater.errors import InputError
from headwater.progress import Silent

TOLD = {"family": "vit", "size": "nano", "patch": 4, "channels": 1, "ndim": 2}


def state(path, change=None, **told):
    """A state of ours with one backbone in it, perhaps broken."""
    told = TOLD | told
    backbone = build(**told, seed=5)
    with torch.no_grad():
        change(backbone) if change else None
    saved = {f"teacher.backbone.{name}": value for name, value in backbone.state_dict().items()}
    save_file(saved, path, {"headwater": json.dumps({"backbone": told})})
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """12 smooth pictures of 24 x 24."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=(12, 24, 24))
    path = tmp_path_factory.mktemp("pictures") / "images.npy"
    np.save(path, np.stack([gaussian_filter(one, 3) for one in noise]).astype(np.float32))
    return path


def constant(backbone):
    """Every image gets the same tokens."""
    backbone.embed.weight.zero_()


def nan(backbone):
    backbone.norm.weight.fill_(float("nan"))


@pytest.fixture(scope="module")
def untrained(pictures, tmp_path_factory):
    """An observation of a network that nobody trained."""
    folder = tmp_path_factory.mktemp("untrained")
    found = api.observe(state(folder / "a.safetensors"), pictures, out=folder / "out", command="headwater observe a b")
    return folder / "out", found


def test_an_untrained_network_is_not_called_healthy_and_everything_is_written(untrained):
    folder, found = untrained
    assert found["verdict"]["state"] in ("weak", "random", "unknown") and found["verdict"]["sentence"]
    kept = json.loads((folder / "observe.json").read_text())
    assert kept == {name: value for name, value in found.items() if name != "report"}
    assert found["report"] == str(folder / "observe.html") and (folder / "observe.html").stat().st_size > 20_000
    for side in ("final", "initial", "pixels"):
        for level in ("pooled", "dense"):
            assert -1 <= kept[side][level]["reliability"] <= 1 and kept[side][level]["null95"] < 1
    assert kept["images"]["used"] == 12 and kept["images"]["crop"] == [16, 16] and kept["model"]["parameters"] > 1e6
    assert len(kept["look"]["layers"]["similarity"]) == 7 == len(kept["explanation"]["layers"]) + 1
    assert kept["look"]["panel"]["heads.ablation"]["value"] > 0 and kept["look"]["panel"]["change"]["value"] is None
    with np.load(folder / "closer.npz", allow_pickle=False) as arrays:
        assert arrays["thumbs"].shape == (12, 16, 16) and arrays["tokens"].shape[1:] == (4, 4, 3)


def test_parts_sum_to_the_change_of_every_layer(untrained):
    for layer in untrained[1]["explanation"]["layers"]:
        total = sum(part["share"] for part in layer["parts"].values())
        assert total == pytest.approx(layer["after"] - layer["before"], abs=1e-3)
    for head in untrained[1]["eigenvalues"]:
        assert len(head["real"]) == len(head["imaginary"]) and head["null95"] >= head["radius"] > 0


def test_depth_as_time_beside_the_untrained_network(untrained):
    found = untrained[1]
    for part in ("motion", "growth"):
        assert found[part]["words"] == [] and found[part]["panel"]
        assert all(one["null"] is not None for one in found[part]["panel"].values())
    assert found["motion"]["trained"]["speed"] == pytest.approx(found["look"]["layers"]["speed"], rel=1e-3)
    assert found["motion"]["panel"]["paid"]["value"] > 1 and len(found["growth"]["untrained"]["divergence_error"]) == 6
    assert "separability" not in found and not any(name.startswith("reuse") for name in found["look"]["panel"])
    rows = dict(api.panel(found))["Along the depth"]
    assert rows[0][0] == "energy paid / least possible" and rows[-1][0] == "leading growth exponent, a layer"
    text = (untrained[0] / "observe.html").read_text()
    assert "What becomes of small changes" in text and "Can classes be told apart" not in text


def labelled(pictures, path, kinds):
    np.savez(path, images=np.load(pictures) + 0.01 * np.asarray(kinds)[:, None, None], labels=kinds)
    return path


@pytest.mark.slow
def test_with_classes_labels_are_asked(pictures, untrained, tmp_path):
    told = [untrained[0].parent / "a.safetensors", labelled(pictures, tmp_path / "a.npz", np.arange(12) % 2)]
    found = observation.of_file(*told, tmp_path / "out", 0, Silent(), "", classes=True)
    assert found["separability"]["words"] == [] and found["separability"]["classes"] == 2
    assert len(found["separability"]["trained"]["accuracy"]) == 7 == len(found["separability"]["untrained"]["null95"])
    panel = found["look"]["panel"]
    assert 0 <= panel["reuse.accuracy"]["value"] <= 1 and panel["reuse.untrained"]["low"] <= panel["reuse.untrained"]["high"]
    told = dict(api.panel(found))
    assert any("nearest images" in row[0] for row in told["Learned"]) and "linear probe" in told["Along the depth"][-1][0]
    assert "Can classes be told apart along depth?" in (tmp_path / "out" / "observe.html").read_text()


@pytest.mark.slow
def test_too_few_of_each_class_are_said_and_the_rest_is_as_ever(pictures, untrained, tmp_path):
    told = [untrained[0].parent / "a.safetensors", labelled(pictures, tmp_path / "a.npz", np.arange(12) // 4)]
    found = observation.of_file(*told, tmp_path / "out", 0, Silent(), "", classes=True)
    assert len(found["separability"]["words"]) == 1 and "here are classes of 4, 4, 4 images" in found["separability"]["words"][0]
    assert found["look"]["panel"]["reuse.accuracy"]["why"] == found["separability"]["words"][0]
    assert found["motion"]["trained"] and "here are classes of 4, 4, 4 images" in (tmp_path / "out" / "observe.html").read_text()


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers(untrained, pictures, tmp_path):
    folder, found = untrained
    again = api.observe(folder.parent / "a.safetensors", pictures, out=folder, command="headwater observe a b")
    drop = ("seconds", "report")
    assert {k: v for k, v in again.items() if k not in drop} == {k: v for k, v in found.items() if k not in drop}


def test_a_collapsed_network(pictures, tmp_path):
    found = api.observe(state(tmp_path / "a.safetensors", constant), pictures, out=tmp_path / "out")
    assert found["verdict"]["state"] == "collapsed" and "collapsed" in found["verdict"]["sentence"]
    assert (tmp_path / "out" / "observe.html").exists()


def test_weights_that_are_not_numbers(pictures, tmp_path):
    with pytest.raises(InputError, match="norm.weight has values that are not finite"):
        api.observe(state(tmp_path / "a.safetensors", nan), pictures, out=tmp_path / "out")


@pytest.mark.slow
def test_a_convolutional_network_has_no_heads_and_is_observed(pictures, tmp_path):
    found = api.observe(state(tmp_path / "a.safetensors", family="resenc"), pictures, out=tmp_path / "out")
    assert found["closer"].get("heads", []) == [] and found["final"]["dense"]["n"] == 12
    assert found["look"]["panel"]["heads.effective"]["value"] is None and found["look"]["panel"]["heads.ablation"]["why"]
    assert "No attention was seen" in (tmp_path / "out" / "observe.html").read_text()


@pytest.mark.slow
def test_volumes(phantoms, tmp_path):
    found = api.observe(state(tmp_path / "a.safetensors", ndim=3), phantoms[0], out=tmp_path / "out")
    assert found["images"]["used"] == 12 and found["images"]["crop"] == [16, 16, 16]
    with np.load(tmp_path / "out" / "closer.npz") as arrays:
        assert arrays["thumbs"].shape == (12, 16, 16)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.random.default_rng(0).normal(size=(6, 24, 24)), "6 usable images of 6"),
        (np.ones((9, 24, 24)) * np.arange(24), "1 usable image of 9 (8 are copies"),
        (np.full((9, 24, 24), np.nan), "9 hold NaN"),
        (np.random.default_rng(0).normal(size=(9, 2, 24, 24)), "takes 1 channel and the images have 2"),
    ],
)
def test_images_that_will_not_do(tmp_path, array, said):
    np.save(tmp_path / "images.npy", array)
    with pytest.raises(InputError) as error:
        api.observe(state(tmp_path / "a.safetensors"), tmp_path / "images.npy", out=tmp_path / "out")
    assert said in str(error.value) and not (tmp_path / "out").exists()


def test_what_is_asked_for_wrongly(pictures, tmp_path):
    path = state(tmp_path / "a.safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.txt").write_text("mine")
    for arguments, said in (
        ((tmp_path / "nowhere", pictures), "does not exist"),
        ((tmp_path / "nowhere",), "is not a run folder"),
        ((path,), "give the images too"),
        ((path, tmp_path / "nowhere.npy"), "does not exist"),
        ((path, pictures, "mine"), "holds something else"),
    ):
        *places, out = arguments if len(arguments) == 3 else (*arguments, None)
        with pytest.raises(InputError, match=said):
            api.observe(*places, out=None if out is None else tmp_path / out)


def test_numbers_of_a_panel_for_people(untrained):
    told = dict(api.panel(untrained[1]))
    assert len(told["Agreement"]) >= 6 and all(len(row) == 4 for rows in told.values() for row in rows)
    assert any(row[0] == "RankMe" for row in told["Published"])


@pytest.mark.slow
def test_a_model_of_text(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, vocab_size=99
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 99, (12, 9)))
    found = api.observe(tmp_path / "model", tmp_path / "ids.npy", out=tmp_path / "out")
    assert found["verdict"]["state"] == "unknown" and "no two views of a text" in found["verdict"]["sentence"]
    assert len(found["motion"]["trained"]["similarity"]) == 3 and len(found["growth"]["trained"]["stretch"]) == 2
    assert len(found["look"]["layers"]["similarity"]) == 3 and len(found["closer"]["order"]["tokens"]) == 2


def test_the_head_that_matters_most():
    effect = {"value": 0.3, "null": 0.1, "how": "untrained"}
    numbers = {"heads": [{"ablation": [{"value": 0.2, "null": None, "how": "untrained"}, effect]}, {"ablation": []}]}
    most = observation._ablation(numbers)
    assert (most.value, most.null, most.how) == (0.3, 0.1, "untrained")
    assert observation._ablation({}).why and "torch" in sys.modules
