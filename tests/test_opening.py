"""Anybody's checkpoint opened: what it computes, what stands beside it, what is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from headwater.errors import InputError
from headwater.opening import fresh, open_model, texts

sys.path.insert(0, str(Path(__file__).parent / "backbones"))
from foreign import hugging, timm_names  # noqa: E402


def apart(opened):
    """Shares of parameters, of two axes or more, that differ between the model and its untrained twin; and same shapes."""
    trained, untrained = opened.model.state_dict(), opened.untrained.state_dict()
    assert {n: v.shape for n, v in trained.items()} == {n: v.shape for n, v in untrained.items()}
    wide = [name for name, value in trained.items() if value.ndim > 1 and value.is_floating_point()]
    return sum(not torch.equal(trained[n], untrained[n]) for n in wide) / len(wide)


def small(kind):
    import transformers

    few = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32, "vocab_size": 99}
    if kind == "GPT2":
        few = {"n_embd": 24, "n_layer": 2, "n_head": 3, "vocab_size": 99, "n_positions": 32}
    if kind == "ConvNext":
        few = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32, "num_channels": 1}
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**few))


def test_our_own_state(tmp_path):
    from safetensors.torch import save_file

    from headwater.backbones import build

    told = {"family": "vit", "size": "nano", "patch": 4, "channels": 1, "ndim": 2}
    start, other = build(**told, seed=3), build(**told, seed=4)
    state = {f"teacher.backbone.{name}": value for name, value in other.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", {"headwater": json.dumps({"backbone": told})})
    opened = open_model(tmp_path / "a.safetensors", seed=3)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(opened.model(x).tokens, other.eval()(x).tokens)
    assert torch.equal(opened.untrained(x).tokens, start.eval()(x).tokens), "the very start of a run of this seed"
    assert opened.wants.ndim == 2 and opened.wants.channels == 1 and opened.wants.stride == (4, 4) and not opened.model.training


@pytest.mark.slow
def test_a_vit_of_hugging_face_and_its_scale(tmp_path):
    theirs = hugging("ViTModel")
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.2] * 3}))
    opened = open_model(tmp_path)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(opened.model(x).tokens, theirs(x).last_hidden_state[:, 1:], atol=1e-5, rtol=1e-5)
    assert opened.wants.size == (16, 16) and opened.wants.mean == (0.5,) * 3 and opened.wants.deviation == (0.2,) * 3
    assert apart(opened) == 1 and torch.equal(open_model(tmp_path).untrained.embed.weight, opened.untrained.embed.weight)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_names_of_timm_in_either_precision(tmp_path, half):
    theirs = hugging("Dinov2Model", hidden_size=64, num_attention_heads=1)
    names = timm_names(theirs)
    torch.save({name: value.half() if half else value for name, value in names.items()}, tmp_path / "dino.pth")
    opened = open_model(tmp_path / "dino.pth")
    assert {p.dtype for p in opened.model.parameters()} == {torch.float32} and apart(opened) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Bert", "GPT2"])
def test_models_of_text(tmp_path, kind):
    import numpy as np

    theirs = small(kind).eval()
    theirs.save_pretrained(tmp_path / "model")
    opened = open_model(tmp_path / "model")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 99, (10, 12)))
    batch = texts(opened, tmp_path / "ids.npy")
    assert opened.reads == "text" and batch["input_ids"].shape == (10, 12) and apart(opened) > 0.8
    assert torch.equal(opened.model(**batch).last_hidden_state, theirs(**batch).last_hidden_state)
    np.save(tmp_path / "wide.npy", np.full((10, 12), 99))
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    for name, said in (("wide.npy", "outside of the 99"), ("few.txt", "at least 8"), ("nowhere.txt", "does not exist")):
        with pytest.raises(InputError, match=said):
            texts(opened, tmp_path / name)


@pytest.mark.slow
def test_a_convolutional_network_of_transformers(tmp_path):
    small("ConvNext").half().save_pretrained(tmp_path)
    opened = open_model(tmp_path)
    assert opened.reads == "images" and opened.wants.channels == 1 and opened.wants.size == (32, 32) and apart(opened) > 0.5
    assert {p.dtype for p in opened.model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_folders_of_hugging_face_that_are_not_whole(tmp_path, monkeypatch):
    theirs = small("Bert")
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "kept")
    with pytest.raises(InputError, match="holds a config.json and no weights"):
        open_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "kept").read_bytes()[:900])
    with pytest.raises(InputError, match="cannot be read as a bert"):
        open_model(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody_knows"}))
    with pytest.raises(InputError, match="cannot be read as a nobody_knows"):
        open_model(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install headwater\[huggingface\]"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        open_model(tmp_path)


@pytest.mark.filterwarnings("ignore:'torch.load' received")
def test_what_is_absent_pickled_or_no_network(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "nowhere.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(InputError, match="could run code when read, so it is not read"):
        open_model(tmp_path / "whole.pt")
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="holds no network that is known here"):
        open_model(tmp_path / "other.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no weights"):
        open_model(tmp_path / "empty")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "scripted.pt"))
    with pytest.raises(InputError, match="scripted.pt"):
        open_model(tmp_path / "scripted.pt")


def test_fresh_weights_are_torch_s_own_and_leave_its_stream_alone():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.line, self.norm, self.table = nn.Linear(64, 64), nn.LayerNorm(64), nn.Parameter(torch.ones(5, 64))
            self.gain = nn.Parameter(torch.full((64,), 3.0))

    model = Odd()
    with torch.no_grad():
        model.line.weight.fill_(9.0)
        model.norm.weight.fill_(9.0)
    before = torch.get_rng_state()
    copied = fresh(model, 0)
    assert torch.equal(torch.get_rng_state(), before) and float(model.line.weight.detach().mean()) == 9
    assert float(copied.line.weight.detach().abs().max()) <= 1 / 8 and bool((copied.norm.weight == 1).all())
    assert 0.01 < float(copied.table.detach().std()) < 0.03 and bool((copied.gain == 3).all())
    assert torch.equal(fresh(model, 0).line.weight, copied.line.weight)
    assert not torch.equal(fresh(model, 1).line.weight, copied.line.weight)
