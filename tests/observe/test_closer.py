"""All there is to look at, in one call: arrays that an npz takes, numbers that JSON takes, and failures that are said."""

import io
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwater.backbones.vit import ViT
from headwater.observe.closer import closer
from tests.observe.specimens import HEADS, TimmViT, fingerprint, images, seeded, worn

CURVES = {"eigen.error", "eigen.null", "eigen.unseen", "eigen.unseen_null"}


def numbers(value: object) -> list[float]:
    """All numbers in it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, float) else []


def test_a_vit_beside_its_start():
    model, start, x = seeded(TimmViT), seeded(TimmViT, 1), images(10)
    before = fingerprint(model)
    labels, owners = torch.arange(10) % 2, torch.arange(10) // 2
    arrays, told = closer(model, x, untrained=start, labels=labels, groups=owners % 2, owners=owners, words=3, shown=2)
    assert fingerprint(model) == before and told["words"] == []
    shapes = {name: array.shape for name, array in arrays.items() if name not in CURVES}
    maps = {f"heads.{i}": (2, HEADS, 4, 4) for i in range(3)}
    square = {f"redundancy.{side}{i}": (HEADS, HEADS) for i in range(3) for side in ("", "untrained.")}
    rest = {
        "image": (2, 16, 16),
        "thumbs": (10, 16, 16),
        "neighbours": (10, 8),
        "neighbours.cosine": (10, 8),
        "words": (2, 4, 4),
        "words.share": (10, 3),
    }
    rest |= {"tokens": (2, 4, 4, 3), "tokens.untrained": (2, 4, 4, 3), "eigen": (8, 16, 16), "eigen.mean": (16, 16)}
    assert shapes == maps | square | rest and arrays.keys() >= CURVES
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    assert set(np.load(file, allow_pickle=False).files) == set(arrays)
    text = json.dumps(told, allow_nan=False)
    assert all(math.isfinite(number) for number in numbers(json.loads(text)))
    for row in told["heads"]:
        assert row["heads"] == HEADS == len(row["entropy"]) == len(row["ablation"])
        assert row["effective"]["null"] is not None and all(one["null"] is not None for one in row["ablation"])
    assert {"labels", "groups"} == set(told["neighbours"]) and {"explained", "together", "image"} == set(told["dictionary"])
    assert len(told["order"]["pooled"]) == 3 and told["scale"][0] == 0 and told["query"] == "centre"


def test_volumes_are_shown_by_their_middle_plane():
    model = seeded(lambda: ViT(3, 1, 24, 2, 3, 4))
    x = torch.randn(6, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    arrays, told = closer(model, x, words=3, shown=2)
    assert arrays["heads.1"].shape == (2, 3, 2, 3) and arrays["tokens"].shape == (2, 2, 3, 3)
    assert arrays["eigen"].shape[1:] == (8, 12) and np.array_equal(arrays["image"], x[:2, 0, :, :, 8].numpy())
    assert told["words"] == [] and [row["layer"] for row in told["heads"]] == [f"stack.blocks.{i}.attention" for i in (0, 1)]


def test_a_class_token_may_ask():
    arrays, told = closer(seeded(TimmViT), images(6), query="class", shown=1)
    centre, _ = closer(seeded(TimmViT), images(6), shown=1)
    assert told["query"] == "class" and not np.allclose(arrays["heads.0"], centre["heads.0"])


def test_a_network_without_attention_shows_the_rest():
    arrays, told = closer(worn(), images(6), words=3)
    assert "heads.0" not in arrays and told["heads"] == [] and any("attention" in word for word in told["words"])
    assert {"tokens", "words", "eigen", "neighbours"} <= set(arrays)


@pytest.mark.parametrize("fault", ["raises", "constant", "nan"])
def test_what_fails_is_said_and_the_rest_goes_on(fault):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Conv2d(3, 4, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            if fault == "raises":
                raise ValueError("no such image")
            return self.part(x) * (math.nan if fault == "nan" else 0.0)

    arrays, told = closer(seeded(Odd), images(6), features=None if fault == "raises" else lambda m, x: m(x))
    assert {"image", "eigen"} <= set(arrays) and told["words"]
    json.dumps(told, allow_nan=False)
    if fault == "raises":
        assert any("no such image" in word for word in told["words"])


@pytest.mark.parametrize("odd", ["one", "same", "nan"])
def test_odd_images_are_said(odd):
    x = images(6)
    x = {"one": x[:1], "same": x[:1].repeat(6, 1, 1, 1), "nan": torch.cat([x, torch.full((1, 3, 16, 16), math.nan)])}[odd]
    arrays, told = closer(seeded(TimmViT), x, untrained=seeded(TimmViT, 1), words=3)
    json.dumps(told, allow_nan=False)
    assert told["words"] and {"image", "heads.0", "tokens", "words"} <= set(arrays)
    expected = {"one": "nothing to choose from", "same": "same features", "nan": "1 of 7"}
    assert any(expected[odd] in word for word in told["words"])
