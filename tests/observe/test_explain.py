"""One call explains any model: parts sum over all families, nothing is disturbed, a planted head is named, faults are said."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwater.backbones import FAMILIES, build
from headwater.errors import InputError
from headwater.observe.explain import Explanation, explain
from tests.observe.specimens import (
    Keyword,
    Noisy,
    TimmViT,
    batch_of,
    fingerprint,
    hugging,
    images,
    keyword_features,
    seeded,
    worn,
)
from tests.observe.test_parts import STYLES, network

TRAINED = Path(__file__).parents[3] / "shared" / "data" / "kwt1" / "kwt1_weights.npz"
HUGGING = ["ViTModel", "Dinov2Model", "BertModel", "GPT2Model"]


def pictures(count: int = 2, side: int = 24) -> Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1))


def specimen(name: str) -> tuple[nn.Module, Tensor | dict]:
    """A model of a family and what it is shown."""
    if name in HUGGING:
        batch = batch_of(name)
        return hugging(name), batch if isinstance(batch, Tensor) else {**batch, "use_cache": False}
    if name in STYLES:
        return network(STYLES[name], dtype=torch.float32), pictures()
    if name in FAMILIES:
        return build(name, "nano", channels=1, ndim=2, patch=4, seed=0), pictures(2, 32)
    if name.startswith("monai"):
        nets = pytest.importorskip("monai.networks.nets")
        if name.endswith("swin"):
            return seeded(lambda: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2)), pictures(2, 64)
        told = {"hidden_size": 24, "mlp_dim": 40, "num_layers": 3, "num_heads": 3, "spatial_dims": 2}
        return seeded(lambda: nets.ViT(1, (16, 16), (4, 4), **told)), pictures(2, 16)
    if name.startswith("torch"):
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=name.endswith("before"))
        model = seeded(lambda: nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
        return model, torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(0))
    return (seeded(TimmViT), images()) if name == "timm" else (seeded(Noisy), images())


SHAPELESS = ("resenc", "unet")  # at the size nano no two blocks of one shape follow each other
MANY = [
    *HUGGING,
    *STYLES,
    *(name for name in FAMILIES if name not in SHAPELESS),
    "monai vit",
    "monai swin",
    "torch before",
    "torch after",
    "timm",
    "noisy",
]


@pytest.mark.parametrize("name", MANY)
def test_every_family_is_explained(name: str) -> None:
    model, batch = specimen(name)
    model.train()
    before = fingerprint(model)
    found = explain(model, batch)
    assert fingerprint(model) == before
    assert found.residual < 1e-3 and len(found.layers) == len(found.predictions) == len(found.ablations) == len(found.names)
    for layer, cut in zip(found.layers, found.ablations, strict=True):
        assert not layer.why and float(layer.parts.sum()) == pytest.approx(layer.change, abs=1e-3)
        assert (layer.names == ("block",)) == (cut is None) and (cut is not None or found.words)
        told = math.log((1 - layer.before) / (1 - layer.after))
        assert float(layer.logs.sum()) == pytest.approx(told, abs=2e-3)
    told = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert told["sentence"] == found.sentence and len(told["layers"]) == len(found.names)
    assert found.curve.measured == pytest.approx([found.layers[0].before, *(layer.after for layer in found.layers)], abs=1e-5)


def shares(found: Explanation) -> np.ndarray:
    return torch.cat([layer.parts for layer in found.layers]).numpy()


@pytest.mark.parametrize("name", ["ViTModel", "plain", "monai vit"])
def test_neither_the_order_nor_the_number_of_images_matters(name: str) -> None:
    model, batch = specimen(name)
    plain = explain(model, batch)
    for other in (batch.flip(0), torch.cat([batch, batch])):
        np.testing.assert_allclose(shares(explain(model, other)), shares(plain), atol=3e-5)


def test_where_tokens_lie_does_not_matter_without_positions() -> None:
    """Tokens in another order, in a network that is told no places."""
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    model = seeded(lambda: nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    x = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(shares(explain(model, x.flip(1))), shares(explain(model, x)), atol=3e-5)


def test_a_planted_head_is_named_with_its_eigenvalue() -> None:
    """Head 1 of layer 2 copies a direction that all tokens share a little, with gain 5."""
    model = seeded(lambda: TimmViT(depth=4))
    along = nn.functional.normalize(torch.randn(24, generator=torch.Generator().manual_seed(3)), dim=0)
    along = nn.functional.normalize(along - along.mean(), dim=0)  # the norm in front takes the mean off
    with torch.no_grad():
        for block in model.blocks:
            block.attn.proj.weight.mul_(0.1)
            block.mlp[3].weight.mul_(0.1)
            nn.init.ones_(block.norm1.weight)
        model.patch_embed.bias.add_(along)
        block = model.blocks[2].attn
        block.qkv.weight[48 + 8] = along
        block.proj.weight[:, 8] = 5 * along
    found = explain(model, images())
    assert "head 1 of layer 2 does " in found.sentence and "through its eigenvalue 5" in found.sentence
    split = found.layers[2].directions["head 1"]
    assert float(split.values[0].real) == pytest.approx(5, abs=0.3) and float(split.values[0].abs()) > split.null95


def test_ablations_are_those_of_the_model() -> None:
    """The feed-forward and two heads zeroed in the model: the similarity behind the layer is what `lost` says."""
    model, batch = specimen("timm")
    found = explain(model, batch)
    cut, block = found.ablations[2], model.blocks[2]
    with torch.no_grad():
        for part in cut.parts:
            if part == "mlp":
                nn.init.zeros_(block.mlp[3].weight), nn.init.zeros_(block.mlp[3].bias)
            elif part == "bias":
                nn.init.zeros_(block.attn.proj.bias)
            else:
                block.attn.proj.weight[:, 8 * int(part[-1]) : 8 * int(part[-1]) + 8] = 0
    after = explain(model, batch).layers[2].after
    assert cut.lost == pytest.approx(found.layers[2].after - after, abs=1e-5)
    assert cut.log_lost == pytest.approx(math.log((1 - after) / (1 - found.layers[2].after)), abs=1e-4)


def test_the_trained_speech_transformer_from_outside() -> None:
    if not TRAINED.is_file():
        pytest.skip("no trained speech transformer beside the checkout")
    with np.load(TRAINED) as held:
        arrays = dict(held)
    found = explain(Keyword(arrays).eval(), keyword_features(arrays))
    assert not found.words and found.residual < 1e-3 and len(found.layers) == 12
    assert all(layer.names == ("head 0", "bias", "norm", "mlp") and layer.directions for layer in found.layers)
    told = [0.635, 0.421, 0.415, 0.308, 0.341, 0.343, 0.364, 0.326, 0.343, 0.346, 0.340, 0.418]
    assert [layer.after for layer in found.layers] == pytest.approx(told, abs=2e-3)
    assert found.standing.layers == 0 and "four" in found.standing.why


def test_blocks_can_be_told_and_faults_are_said() -> None:
    model, batch = specimen("timm")
    assert explain(model, batch, blocks=["blocks.1"]).names == ("blocks.1",)
    assert explain(model, batch).names == ("blocks.0", "blocks.1", "blocks.2")
    assert explain(*specimen("plain")).names == ("stack.blocks.0", "stack.blocks.1", "stack.blocks.2")
    with torch.no_grad():
        model.blocks[1].mlp[3].weight.fill_(math.nan)
    found = explain(model, batch)
    assert not found.layers[0].why and "finite" in found.layers[1].why and "Layer 1 cannot be explained" in found.sentence
    assert math.isnan(found.residual) and json.dumps(found.plain(), allow_nan=False)
    with pytest.raises(InputError, match="token"):
        explain(seeded(lambda: nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))), torch.randn(4, 6))
    with pytest.raises(InputError, match="no blocks"):
        explain(nn.Identity(), batch)
    for name in SHAPELESS:
        with pytest.raises(InputError, match="number and width"):
            explain(*specimen(name))


def test_a_worn_model_in_half_precision_and_a_wrapped_one() -> None:
    model = worn()
    before = fingerprint(model)
    assert explain(model, images()).residual < 1e-3 and fingerprint(model) == before
    assert explain(nn.DataParallel(seeded(TimmViT)), images()).residual < 1e-3
    half = explain(seeded(TimmViT).bfloat16(), images())
    assert max(abs(layer.residual) for layer in half.layers) < 2e-2 and not any(layer.why for layer in half.layers)
