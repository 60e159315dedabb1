"""All layers at once: what was planted in the heads is found, and what cannot be drawn is said."""

import pytest
import torch

from headwater.backbones.swin import Swin
from headwater.observe.closer.layers import layers
from tests.observe.specimens import HEADS, WIDTH, TimmViT, images, seeded, worn


def copied() -> TimmViT:
    """In the last layer head 1 gives what head 0 gives, rotated: cosines between the two are blind to that."""
    model = seeded(TimmViT)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        qkv = model.blocks[2].attn.qkv
        for part in range(3):
            start = part * WIDTH
            for tensor in (qkv.weight, qkv.bias):
                tensor[start + 8 : start + 16] = turn @ tensor[start : start + 8] if part == 2 else tensor[start : start + 8]
    return model


def test_a_copied_head_is_found_whatever_its_rotation():
    arrays, told = layers(copied(), images(24), untrained=seeded(TimmViT))
    assert arrays["redundancy.2"][0, 1] == pytest.approx(1, abs=1e-4)
    assert arrays["redundancy.untrained.2"][0, 1] < 0.9
    assert told["ablated"] == 24
    row = told["heads"][2]
    assert row["layer"] == "blocks.2.attn" and row["heads"] == HEADS
    assert row["effective"]["value"] < row["effective"]["null"] - 0.2
    other = told["heads"][1]
    assert other["effective"]["value"] == pytest.approx(other["effective"]["null"], abs=1e-6)
    assert all(one["value"] == pytest.approx(one["null"], abs=1e-6) for one in other["entropy"])


def test_the_same_seed_the_same_numbers():
    first, again = (layers(seeded(TimmViT), images(8), seed=3) for _ in range(2))
    assert first[1] == again[1] and all((first[0][name] == array).all() for name, array in again[0].items())


def test_an_untrained_network_of_another_kind_is_no_null():
    arrays, told = layers(seeded(TimmViT), images(6), untrained=worn())
    assert told["heads"][0]["effective"]["null"] is None and "redundancy.untrained.0" not in arrays


def test_windows_are_compared_but_not_drawn():
    model = seeded(lambda: Swin(2, 3, 8, (2, 2), (2, 2), 4, window=4))
    arrays, told = layers(model, images(4, side=32), shown=2)
    assert len(told["heads"]) == 4 and not any(name.startswith("heads.") for name in arrays)
    assert arrays["redundancy.0"].shape == (2, 2) and any("not drawn" in word for word in told["words"])
    assert all(len(row["ablation"]) == 2 for row in told["heads"])
