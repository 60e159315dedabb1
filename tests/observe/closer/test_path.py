"""The way of tokens through the layers: closed forms, the null is the untrained network, what cannot be had is said."""

import math

import pytest
import torch
from torch import Tensor, nn

from headwater.backbones import build
from headwater.observe.closer import path as module
from headwater.observe.closer.path import grown, moved, path
from headwater.observe.motion import growth, motion
from headwater.observe.trace import trace
from tests.observe.specimens import TimmViT, fingerprint, hugging, ids, images, seeded


def rand(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_common_shift_at_constant_speed_pays_the_least_possible():
    start = rand(2, 6, 3)
    told = moved(motion(torch.stack([start + t * torch.tensor([3.0, 4.0, 0.0]) for t in (0, 1, 2)])))
    for name, value in (("paid", 1), ("way", 1), ("energy", 100), ("transport", 100), ("length", 10), ("displacement", 10)):
        assert told[name] == pytest.approx(value, rel=1e-9), name
    assert told["turn"] == pytest.approx([0], abs=1e-6) and told["costs"] == pytest.approx([5, 5]) and told["error"] == 0
    assert len(told["similarity"]) == len(told["clusters"]) == 3 and len(told["speed"]) == 2


def test_going_there_and_back_pays_for_nothing_and_standing_still_has_no_ratio():
    there = rand(1, 5, 3)
    assert moved(motion(torch.stack([there, there + 1, there + 0.5])))["paid"] == pytest.approx(2 * (3 + 0.75) / 0.75)
    still = moved(motion(torch.stack([there, there])))
    assert math.isnan(still["paid"]) and math.isnan(still["way"])
    assert module._number(still["paid"], 1.0).why == "no token moves"


def test_doubling_grows_by_log_two_and_errors_shrink_with_images():
    told = grown(growth([lambda x: 2 * x] * 3, rand(2, 4, 3), sweeps=3, probes=4))
    assert told["exponents"] == pytest.approx([math.log(2)] * 3, abs=1e-6) and max(told["residual"]) < 1e-6
    assert told["stretch"] == pytest.approx([math.log(2)] * 3) and told["divergence"] == pytest.approx([1] * 3)
    assert max(told["divergence_error"]) < 1e-6
    weight = rand(12, 12, seed=2)
    turned = [lambda x: (x.flatten(1) @ weight).view(x.shape)]
    one = growth(turned, rand(4, 4, 3), probes=6)
    errors = one.divergence_error[0]
    assert grown(one)["divergence_error"][0] == pytest.approx(float(errors.square().sum().sqrt() / 4))


def test_a_vit_beside_itself_and_beside_another():
    model, start, x = seeded(TimmViT), seeded(TimmViT, 1), images(10)
    before = fingerprint(model)
    told, same = path(model, start, x), path(model, model, x)
    assert fingerprint(model) == before
    for part in ("motion", "growth"):
        assert told[part]["words"] == [] and same[part]["trained"] == same[part]["untrained"] == told[part]["trained"]
        assert all(one["value"] == one["null"] for one in same[part]["panel"].values())
        assert all(one["value"] != one["null"] for name, one in told[part]["panel"].items() if name != "clusters")
    wanted = motion(trace(model, x[:8], attend=0).stream.path)
    assert told["motion"]["trained"]["speed"] == pytest.approx(wanted.relative.mean(1).tolist())
    assert told["motion"]["panel"]["paid"]["value"] == pytest.approx(float((wanted.energy / wanted.transport).mean()))
    assert told["motion"]["panel"]["paid"]["value"] > 1, "nobody pays less than the least possible"
    assert (told["motion"]["images"], told["motion"]["layers"], told["growth"]["images"]) == (8, 3, 2)
    assert len(told["growth"]["trained"]["stretch"]) == 3 and min(told["growth"]["trained"]["stretch_error"]) > 0
    assert path(model, start, x) == told, "the same again"


def test_a_reservation_where_the_sweeps_were_not_enough():
    settled, late = {"exponents": [0.5], "residual": [0.001]}, {"exponents": [0.5], "residual": [0.1]}
    assert module._unsettled(settled, None) == "" == module._unsettled(settled, settled)
    assert module._unsettled(settled, late).startswith("untrained at least that")
    assert module._unsettled(late, late).startswith("here and untrained at least that")


def test_what_cannot_be_had_is_one_sentence():
    broken = seeded(TimmViT)
    with torch.no_grad():
        broken.blocks[1].mlp[0].weight.fill_(float("nan"))
    told = path(broken, seeded(TimmViT, 1), images(8))
    assert "trained" not in told["motion"] and "untrained" in told["motion"] and "NaN" in told["motion"]["words"][0]
    for part, name in (("motion", "paid"), ("growth", "exponent")):
        assert told[part]["panel"][name]["value"] is None and told[part]["panel"][name]["why"]
        assert len(told[part]["words"]) == 1
    plain = nn.Linear(4, 4)
    told = path(plain, plain, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    assert len(told["motion"]["words"]) == len(told["growth"]["words"]) == 1, "the same of both is said once"


def test_many_tokens_are_followed_in_fewer_images_and_their_changes_not_at_all(monkeypatch):
    monkeypatch.setattr(module, "PAIRS", 3 * 17**2)
    monkeypatch.setattr(module, "LONGEST", 16)
    told = path(seeded(TimmViT), seeded(TimmViT, 1), images(8))
    assert told["motion"]["tokens"] == 17 and told["motion"]["images"] == 3
    assert "not sought for 17 tokens an image, 16 at most" in told["growth"]["words"][0]


def test_a_pyramid_and_a_model_of_text():
    conv = build("resenc", "nano", patch=4, channels=1, ndim=2, seed=0).eval()
    told = path(conv, conv, images(8, 1, 32))
    for part, others in (("motion", "two states"), ("growth", "shape")):
        assert len(told[part]["words"]) == 1 and others in told[part]["words"][0], "one block a stage: nothing to follow"
    pytest.importorskip("transformers")
    text = hugging("BertModel")
    told = path(text, text, {"input_ids": ids(8)})
    assert told["motion"]["layers"] == len(told["growth"]["trained"]["stretch"]) and told["growth"]["words"] == []
