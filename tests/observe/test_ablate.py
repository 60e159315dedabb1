"""Heads switched off from outside against the same model with those columns of its output map at zero; models untouched."""

import copy

import pytest
import torch
from torch import Tensor, nn

from headwater.backbones.attention import Style
from headwater.backbones.swin import Swin
from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.observe.ablate import ablations, places, without
from headwater.observe.probe import first_tensor, run
from tests.observe.specimens import HEADS, WIDTH, TimmViT, batch_of, fingerprint, hugging, images, seeded, worn


def encoder(first: bool = True) -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=first)
    return seeded(lambda: nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))


def ours(style: Style = Style()) -> ViT:
    return seeded(lambda: ViT(2, 3, 40, 3, 5, 4, style))


CASES = {  # model, batch, name of the map that the test knows, axis of its columns
    "ours": (ours, images, "stack.blocks.1.attention.out", 1),
    "mixed": (lambda: ours(Style(kernels="mixed", registers=2)), images, "stack.blocks.1.attention.out", 1),
    "windows": (lambda: seeded(lambda: Swin(2, 3, 8, (2, 2), (2, 2), 4, window=4)), lambda: images(2, side=32), None, 1),
    "timm": (TimmViT, images, "blocks.1.attn.proj", 1),
    "written out": (lambda: seeded(lambda: TimmViT(False)), images, "blocks.1.attn.proj", 1),
    "torch": (
        encoder,
        lambda: torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(0)),
        "layers.1.self_attn.out_proj",
        1,
    ),
    "ViT": (lambda: hugging("ViTModel"), lambda: batch_of("ViTModel"), None, 1),
    "BERT": (lambda: hugging("BertModel"), lambda: batch_of("BertModel"), "encoder.layer.1.attention.output.dense", 1),
    "GPT-2": (lambda: hugging("GPT2Model"), lambda: batch_of("GPT2Model"), "h.1.attn.c_proj", 0),
}


@torch.no_grad()
def gives(model: nn.Module, batch: Tensor | dict) -> Tensor:
    out = first_tensor(getattr(out := run(model, batch), "tokens", out))
    return out.clone()


@pytest.mark.parametrize("case", CASES)
def test_a_head_is_gone_and_nothing_else(case):
    make, batch, known, axis = CASES[case]
    model, batch = make().eval(), batch()
    before, whole = fingerprint(model), gives(model, batch)
    found, words = places(model, batch)
    assert not words and len(found) >= 3
    place = found[1]
    assert known in (None, place.map, f"{place.map}.out_proj")
    part = model.get_submodule(known or place.map)
    wide = part.weight.shape[axis] // place.heads
    for head in (0, place.heads - 1):
        cut = copy.deepcopy(model)
        with torch.no_grad():
            weight = cut.get_submodule(known or place.map).weight
            weight.narrow(axis, head * wide, wide).zero_()
        with without(model, place, (head,)):
            got = gives(model, batch)
        torch.testing.assert_close(got, gives(cut, batch), atol=2e-5, rtol=1e-4)
        assert float((got - whole).abs().max()) > 1e-3
    assert fingerprint(model) == before
    torch.testing.assert_close(gives(model, batch), whole, atol=0, rtol=0)


def test_effects_are_per_head_and_a_head_without_output_has_none():
    model = seeded(TimmViT)
    with torch.no_grad():
        model.blocks[2].attn.proj.weight[:, :8] = 0
    before = fingerprint(model)
    got = ablations(model, images(6))
    assert list(got.effects) == [f"blocks.{i}.attn" for i in range(3)] and got.words == ()
    last = got.effects["blocks.2.attn"]
    assert len(last) == HEADS and last[0].value == 0 and all(number.value > 1e-4 for number in last[1:])
    name, head, number = got.largest
    assert number.value == max(n.value for row in got.effects.values() for n in row) and got.effects[name][head] is number
    again = ablations(model, images(6), untrained=got, layers=["blocks.2.attn"])
    assert list(again.effects) == ["blocks.2.attn"] and again.effects["blocks.2.attn"][1].null == last[1].value
    assert fingerprint(model) == before


def test_two_copies_of_a_head_may_each_be_dispensable_and_both_are_not():
    """Similar is not useless: what one carries the other carries too."""
    model = seeded(TimmViT)
    with torch.no_grad():
        qkv, out = model.blocks[2].attn.qkv, model.blocks[2].attn.proj
        for part in range(3):
            start = part * WIDTH
            for tensor in (qkv.weight, qkv.bias):
                tensor[start + 8 : start + 16] = tensor[start : start + 8]
        out.weight[:, 8:16] = out.weight[:, :8]
    place = places(model, images())[0][2]
    whole = model(images())["class"].detach()
    changes = []
    for heads in ((0,), (1,), (0, 1)):
        with without(model, place, heads), torch.no_grad():
            changes.append(float((model(images())["class"] - whole).norm()))
    assert changes[0] == pytest.approx(changes[1], rel=1e-4) and changes[2] > 1.5 * changes[0]


class Woven(nn.Module):
    """Heads are put side by side channel by channel, not head by head."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.qkv, self.out = 3, nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.permute(0, 2, 3, 1).flatten(2))


class Summed(Woven):
    """Heads have a map each, so that none reads them all side by side."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        return x + nn.functional.scaled_dot_product_attention(q, k, v).sum(1).repeat(1, 1, 3)


def test_the_map_is_found_by_its_input():
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    model = seeded(lambda: nn.Sequential(Woven(), Woven()))
    (place, _), words = places(model, x)
    assert place.woven and place.map == "0.out" and words == ()
    cut = copy.deepcopy(model)
    with torch.no_grad():
        cut[0].out.weight[:, 1::3] = 0
        with without(model, place, (1,)):
            torch.testing.assert_close(model(x), cut(x))


def test_what_cannot_be_told_is_said():
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    found, words = places(seeded(lambda: nn.Sequential(Summed(), Summed())), x)
    assert found == () and "side by side" in words[0]
    model = worn()
    assert places(model, images()) == ((), ("no attention was seen: there are no heads to switch off",))
    assert ablations(model, images()).effects == {} and ablations(model, images()).largest is None
    timm = seeded(TimmViT)
    with pytest.raises(InputError, match="heads 0 to 2"), without(timm, places(timm, images())[0][0], (3,)):
        pass


def test_a_failure_within_leaves_no_hook():
    model = encoder()
    before = fingerprint(model)
    with pytest.raises(AssertionError), without(model, places(model, torch.randn(2, 5, 12))[0][0], (0,)):
        model(torch.randn(2, 5, 13))
    assert fingerprint(model)["|mode"] == before["|mode"] and fingerprint(model).keys() == before.keys()
