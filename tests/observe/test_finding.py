"""The blocks of models of many families, and their outputs as tokens."""

import pytest
import torch
from torch import nn

from headwater.errors import InputError
from headwater.observe.finding import Call, find, tokens_of
from headwater.observe.recording import Recorder
from tests.observe.specimens import TimmViT, hugging, ids, images, seeded


def found(model: nn.Module, x: torch.Tensor, told: list[str] | None = None):
    with torch.no_grad(), Recorder(model).attached() as recorder:
        model(x)
    return find(model, recorder.calls, [a.name for a in recorder.attention], told)


@pytest.mark.parametrize(
    ("kind", "stem"),
    [("ViTModel", "layers"), ("Dinov2Model", "encoder.layer"), ("BertModel", "encoder.layer"), ("GPT2Model", "h")],
)
def test_hugging_face(kind, stem):
    x = images() if kind[0] in "VD" else ids()
    assert found(hugging(kind), x).names == tuple(f"{stem}.{i}" for i in range(3))


def test_names_of_timm_and_patterns():
    model = seeded(TimmViT)
    assert found(model, images()).names == ("blocks.0", "blocks.1", "blocks.2")
    assert found(model, images(), ["blocks.*.mlp"]).names == tuple(f"blocks.{i}.mlp" for i in range(3))
    assert found(model, images(), ["norm", "blocks.1"]).names == ("blocks.1", "norm")  # as they run, not as they were named
    with pytest.raises(InputError, match="no module that ran is called 'layers.*'"):
        found(model, images(), ["layers.*"])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, 1, 1), nn.BatchNorm2d(6)

    def forward(self, x):
        return x + self.norm(self.conv(x))


def test_without_attention_the_repeated_class_with_most_parameters():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sequential(Residual(), Residual()), nn.Sequential(Residual()), nn.Flatten())
    got = found(model, images())
    assert got.names == ("1.0", "1.1", "2.0") and "no attention" in got.words
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3))
    assert found(plain, images()).names == ("0", "2")


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match="no blocks found in Flatten"):
        found(nn.Flatten(), images())


def test_a_shared_block_counts_each_time_and_two_views_count_once():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)])

        def forward(self, x):
            return self.layers[0](self.layers[0](x))

    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = TimmViT()

        def forward(self, x):
            return self.encoder(x)["class"] - self.encoder(x.flip(0))["class"]

    x = torch.ones(2, 5, 8)
    assert found(Shared().eval(), x).names == ("layers.0", "layers.0")
    assert found(seeded(Views), images()).names == tuple(f"encoder.blocks.{i}" for i in range(3))


def test_attention_in_a_block_that_changes_shape_is_left_for_the_one_around():
    calls = [
        Call("a.0.b.0", (2, 5, 8), (2, 5, 4), 0, 1),
        Call("a.0", (2, 5, 8), (2, 5, 8), 0, 2),
        Call("a", None, (2, 5, 8), 0, 3),
    ]
    assert find(nn.Identity(), calls, ["a.0.b.0.attn"]).names == ("a.0",)


def test_tokens_in_every_layout():
    x = torch.arange(2 * 3 * 4 * 5).float().view(2, 3, 4, 5)
    conv, linear = nn.Conv2d(3, 3, 1), nn.Linear(5, 5)
    tokens, grid = tokens_of(x, conv, 2)
    assert grid == (4, 5) and torch.equal(tokens, x.flatten(2).transpose(1, 2))
    tokens, grid = tokens_of(x, linear, 2)
    assert grid == (3, 4) and torch.equal(tokens, x.flatten(1, 2))
    assert torch.equal(tokens_of(x[:, :, :, 0], nn.Conv1d(3, 3, 1), 2)[0], x[:, :, :, 0].transpose(1, 2))
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=False)
    assert torch.equal(tokens_of(x[0], attention, 4)[0], x[0].transpose(0, 1))
    assert tokens_of(x[0, 0], linear, 4)[0].shape == (4, 1, 5)
    windows, grid = tokens_of(x.flatten(0, 1), linear, 2)  # 3 windows of 4 tokens for each image
    assert grid == (3, 4) and torch.equal(windows, x.flatten(1, 2))
    with pytest.raises(InputError, match="for 7 images"):
        tokens_of(x, linear, 7)
