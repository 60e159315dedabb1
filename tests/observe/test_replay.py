"""Blocks called again are the blocks."""

import pytest
import torch
from torch import nn

from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.observe.replay import steps
from headwater.observe.trace import trace
from tests.observe.specimens import TimmViT, batch_of, hugging, ids, images, seeded

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.mark.parametrize("kind", ["ViTModel", "BertModel", "GPT2Model", "own", "swin", "torch"])
def test_steps_are_the_blocks(kind):
    if kind == "own":
        model, batch = seeded(lambda: ViT(2, 3, 40, 3, 5, 4)), images()
    elif kind == "swin":
        model, batch = pytest.importorskip("monai.networks.nets").SwinUNETR(1, 2, feature_size=12, spatial_dims=2), None
        model, batch = seeded(lambda: model), torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    elif kind == "torch":
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
        model = seeded(lambda: nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
        batch = torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(0))
    else:
        model, batch = hugging(kind), batch_of(kind)
    moves, x = steps(model, batch)
    truth = trace(model, batch, attend=0).stream
    torch.testing.assert_close(x, truth.start, **CLOSE)
    for _ in range(2):  # a second time: no cache has grown
        y = x
        for move, state in zip(moves, truth.tokens, strict=True):
            with torch.no_grad():
                y = move(y)
            torch.testing.assert_close(y, state, **CLOSE)


def test_steps_want_a_model_at_rest():
    with pytest.raises(InputError, match="eval"):
        steps(seeded(TimmViT).train(), images())


def test_keys_of_an_earlier_pass_are_not_read_again():
    model, batch = hugging("GPT2Model"), {"input_ids": ids(2, 7)}
    moves, start = steps(model, batch)
    with torch.no_grad():
        first = moves[0](start)
        moves[0](start + 1)
        torch.testing.assert_close(moves[0](start), first)
