"""What a look takes from depth: similarity against its definition, heads that are one, attention that is blunt."""

import math

import pytest
import torch
from specimens import HEADS, PATCH, SIDE, hugging, images
from torch import nn

from headwater.observe.depth import along
from headwater.observe.trace import trace

GRID = (SIDE // PATCH, SIDE // PATCH)


def test_similarity_and_speed_are_those_of_the_traced_tokens():
    model, x = hugging("ViTModel"), images(4)
    found = along(model, x, GRID, None, 0)
    path = trace(model, x, attend=0).stream.path
    unit = nn.functional.normalize(path, dim=-1)
    cosine = unit @ unit.mT
    count = cosine.shape[-1]
    mean = (cosine.sum((-1, -2)) - count) / (count * (count - 1))
    assert found.layers["similarity"] == pytest.approx(mean.mean(1).tolist(), abs=1e-5)
    assert len(found.layers["speed"]) == len(path) - 1 and found.panel["similarity"].value == found.layers["similarity"][-1]


def test_heads_that_are_copies_count_as_one():
    model, x = hugging("ViTModel"), images(4)
    before = along(model, x, GRID, None, 0).panel["heads.effective"].value
    with torch.no_grad():
        for name, linear in model.named_modules():
            if isinstance(linear, nn.Linear) and name.split(".")[-1] in ("query", "key", "value", "q_proj", "k_proj", "v_proj"):
                width = linear.weight.shape[0] // HEADS
                linear.weight.copy_(linear.weight[:width].repeat(HEADS, 1))
                linear.bias.copy_(linear.bias[:width].repeat(HEADS))
    after = along(model, x, GRID, None, 0).panel["heads.effective"].value
    assert after == pytest.approx(1 / HEADS, abs=1e-3) and before > after + 0.05


def test_no_attention_and_no_blocks_are_said():
    found = along(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), images(4), (12, 12), None, 0)
    assert "no attention" in found.panel["heads.effective"].why and math.isfinite(found.panel["similarity"].value)
    none = along(nn.Identity(), images(4), (16, 16), None, 0)
    assert math.isnan(none.panel["similarity"].value) and none.words[0].startswith("not traced")
