"""A look measures agreement, leaves no trace, and says what it could not measure."""

import json
import math

import pytest
import torch
from learners import Output, Toy, scans
from specimens import PATCH, hugging, ids, images
from torch import nn

from headwater.objectives.network import Network
from headwater.observe.look import look, measure, reason
from headwater.observe.pairs import Pixels, of_images, probe_views


@pytest.mark.parametrize("size", [(36, 40), (20, 24, 20)])
def test_measure_sees_agreement_and_leaves_no_trace(size: tuple[int, ...]) -> None:
    probe = probe_views(scans(16, *size), tuple(n // 4 * 2 for n in size), (4,) * len(size), seed=0)
    toy = Toy(len(size)).train()
    toy.layers[1].eval()
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in toy.state_dict().items()}
    seen = measure(toy, probe)
    assert seen["dense"]["reliability"] > 0.4 > seen["dense"]["null95"]
    assert set(seen) == {"pooled", "dense"} and seen["pooled"]["n"] == 16
    assert toy.training and toy.layers[2].training and not toy.layers[1].training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(v, weights[k]) for k, v in toy.state_dict().items())
    again = measure(Network(toy, nn.ModuleDict()), probe)
    assert again["dense"]["rank"] == pytest.approx(seen["dense"]["rank"], rel=1e-3)
    assert measure(toy, probe, precision="bf16")["dense"]["reliability"] == pytest.approx(seen["dense"]["reliability"], abs=0.05)


def test_measure_of_ill_backbones() -> None:
    probe = probe_views(scans(32, 36, 40), (16, 20), (4, 4), seed=0)
    generator = torch.Generator().manual_seed(0)
    noise = measure(Output(lambda x: torch.randn(x.shape, generator=generator)), probe)
    constant = measure(Output(torch.ones_like), probe)
    broken = measure(Output(lambda x: x * math.nan), probe)
    for level in ("pooled", "dense"):
        assert noise[level]["reliability"] < 0.1 and noise[level]["rank"] <= 1
        assert constant[level]["spread"] == 0
        assert math.isnan(broken[level]["reliability"]) and "not finite" in broken[level]["why"]
    seen = measure(Pixels((4, 4)), probe)
    assert seen["dense"]["reliability"] > 0.4 and seen["dense"]["d"] == 16


def test_an_exception_gives_every_module_its_mode_back() -> None:
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    toy = Output(fail).train()
    with pytest.raises(RuntimeError):
        measure(toy, probe_views(scans(8, 36, 40), (16, 20), (4, 4), seed=0))
    assert toy.training


def test_a_look_has_every_number_or_says_why_not() -> None:
    probe = probe_views(scans(24, 36, 40), (16, 20), (4, 4), seed=0)
    found, start = look(Toy(2), probe)
    assert set(found.levels) == {"pooled", "dense"} and found.step == 0
    for name, number in found.panel.items():
        assert math.isfinite(number.value) or number.why or name == "loss", name
    assert sum(found.panel[f"variance.{part}"].value for part in ("image", "position", "content")) == pytest.approx(1)
    assert found.panel["change"].value == 0 == found.panel["weights"].value
    assert "no attention" in found.panel["heads.effective"].why
    json.dumps(found.plain(), allow_nan=False, default=float)
    again, kept = look(Toy(2), probe, step=7, start=start)
    assert kept is start and again.step == 7 and abs(again.panel["change"].value) < 1e-6
    assert again.panel["similarity"].null == found.panel["similarity"].value


def test_later_looks_are_beside_the_first() -> None:
    probe = probe_views(scans(24, 36, 40), (16, 20), (4, 4), seed=0)
    toy = Toy(2)
    first, start = look(toy, probe)
    with torch.no_grad():
        toy.layers[0].weight.add_(torch.randn(toy.layers[0].weight.shape, generator=torch.Generator().manual_seed(1)))
    later, _ = look(toy, probe, step=1, start=start)
    assert later.panel["change"].value > 0.1 and later.panel["weights"].value > 0.5
    assert later.panel["similarity"].null == first.panel["similarity"].value


class Headed(nn.Module):
    """A backbone with a head that gives everything the same answer, under the names of a network of ours."""

    def __init__(self):
        super().__init__()
        self.backbone, self.heads = Toy(2), nn.ModuleDict({"projector": nn.Linear(12, 6)})
        nn.init.zeros_(self.heads["projector"].weight)

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.heads["projector"](pooled)


def test_a_collapsed_head_shows_beside_a_healthy_backbone() -> None:
    found, _ = look(Headed(), probe_views(scans(24, 36, 40), (16, 20), (4, 4), seed=0))
    assert found.levels["output"]["spread"] == 0 and found.levels["pooled"]["spread"] > 0.01


def test_prototypes_in_use_and_a_loss_stuck_at_ln_k() -> None:
    probe = probe_views(scans(24, 36, 40), (16, 20), (4, 4), seed=0)
    found, _ = look(Headed(), probe, prototypes=6, loss=math.log(6))
    assert found.panel["prototypes.use"].value == pytest.approx(1 / 6)
    assert abs(found.panel["loss.gap"].value) < 1e-9
    other, _ = look(Headed(), probe, prototypes=7)
    assert "no 7 numbers" in other.panel["prototypes.use"].why


def test_ids_have_no_views_but_depth_and_order_of_layers() -> None:
    model = hugging("BertModel")
    found, _ = look(model, {"input_ids": ids(12)})
    assert not found.levels and len(found.layers["similarity"]) == 4 and len(found.layers["entropy"]) == 3
    assert math.isfinite(found.panel["heads.effective"].value) and math.isfinite(found.panel["rankme"].value)


def test_token_order_matters_where_there_are_positions() -> None:
    probe = of_images(images(12), (PATCH, PATCH), seed=0)
    model = hugging("ViTModel")
    found, _ = look(model, probe)
    assert found.panel["order"].value > 20 * found.panel["order"].null
    with torch.no_grad():
        model.embeddings.position_embeddings.zero_()
    dead, _ = look(model, probe)
    assert dead.panel["order"].value < 1e-4


def test_tokens_that_grow_alike_are_explained_by_layers_and_parts() -> None:
    probe = of_images(images(12), (PATCH, PATCH), seed=0)
    model = hugging("ViTModel")
    first, start = look(model, probe)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "attention" in name and name.endswith("weight"):
                p.mul_(4)
            elif "embeddings" in name:
                p.mul_(0.3)
    later, _ = look(model, probe, start=start)
    assert later.panel["similarity"].value > first.panel["similarity"].value + 0.1
    assert "tokens together" in reason(model, probe, [first.plain(), later.plain()])
    assert reason(model, probe, [later.plain(), first.plain()]) == ""
