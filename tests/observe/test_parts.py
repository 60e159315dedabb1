"""Layers taken apart: the parts of every kind of block rebuild what the block does."""

import pytest
import torch
from torch import Tensor, nn

from headwater.backbones.attention import Style
from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.observe.parts import attention_layer, block_layer, encoder_layer, layer_of, residual_layer, run

STYLES = {
    "plain": Style(),
    "first ViT": Style(norm="layer", mix="gelu", qkv_bias=True, positions="learned", registers=2, layer_scale=0.1),
    "post": Style(place="post", norm="layer"),
    "peri": Style(place="peri", norm="layer", layer_scale=0.5, positions="relative"),
    "peri rms": Style(place="peri", qk_norm=True),
    "ngpt": Style(place="ngpt"),
    "mixed heads": Style(kernels="mixed"),
    "mixed peri": Style(kernels="mixed", place="peri"),
}
Places = tuple[Tensor | None, ...]


def network(style: Style, depth: int = 3, gain: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> ViT:
    """A random ViT whose every parameter counts: linear maps of entries gain / sqrt(width), gains and biases off their start."""
    stream = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ViT(2, 1, 64, depth, 8, 4, style).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=stream, dtype=dtype)
            parameter.copy_(gain * noise / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else parameter + 0.1 * noise)
    return model


@torch.no_grad()
def entered(model: ViT, seed: int = 1) -> tuple[Tensor, Places]:
    """Tokens of two random pictures as the first block gets them, and the places."""
    dtype = model.embed.weight.dtype
    pictures = torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return model.stack.enter(model.embedded(pictures), (6, 6))


@pytest.mark.parametrize("name", STYLES)
def test_parts_rebuild_the_block(name: str) -> None:
    model = network(STYLES[name])
    x, places = entered(model)
    with torch.no_grad():
        for block in model.stack.blocks:
            torch.testing.assert_close(run(block_layer(block, *places), x), x := block(x, *places), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_parts_rebuild_the_layer_of_torch(first: bool, masked: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        32, 4, 48, norm_first=first, batch_first=True, dtype=torch.float64, activation="gelu"
    ).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if masked else None
    x = torch.randn(3, 7, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(run(encoder_layer(layer, mask), x), layer(x, src_mask=mask), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("place", ["pre", "post", "peri", "ngpt"])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_the_path_of_a_head_is_what_it_says_of_one_token(place: str, norm: str) -> None:
    """A token alone attends to itself: what a head adds is its own reading through value and output, up to one factor."""
    model = network(Style(place=place, norm=norm, positions="none"))
    block, x = model.stack.blocks[0], torch.randn(5, 1, 64, dtype=torch.float64)
    if norm == "layer" and place in ("pre", "peri"):
        nn.init.zeros_(block.norm_attention.bias)
    layer = block_layer(block, None, None, None)
    with torch.no_grad():
        for name, head in layer.heads.items():
            said, read = layer.steps[0](x)[name], x @ head.value @ head.output
            alike = torch.nn.functional.cosine_similarity(said, read, dim=-1)
            torch.testing.assert_close(alike, torch.ones_like(alike))
            if place == "post":
                torch.testing.assert_close(said, read)


class Scaled(nn.Module):
    """A block as timm builds it: fused qkv, output map called proj, LayerScale."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gamma1, self.gamma2 = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attend(self.norm1(x))
        return x + self.gamma2 * self.mlp(self.norm2(x))


def test_anybodys_layer_by_its_output_map() -> None:
    torch.manual_seed(0)
    block, x = Scaled(24, 3).double().eval(), torch.randn(2, 7, 24, dtype=torch.float64)
    layer = residual_layer(
        block.attend,
        block.proj,
        block.qkv.weight[48:],
        3,
        block.mlp,
        (block.norm1, block.norm2),
        scales=(block.gamma1, block.gamma2),
    )
    with torch.no_grad():
        torch.testing.assert_close(run(layer, x), block(x))
    assert list(layer.heads) == ["head 0", "head 1", "head 2"] and not block.proj._forward_pre_hooks
    with pytest.raises(InputError, match="5 heads"):
        residual_layer(block.attend, block.proj, block.qkv.weight[48:], 5, block.mlp, (block.norm1, block.norm2))


def test_a_sentence_models_layer_is_taken_apart() -> None:
    """BERT of Hugging Face: after its norms; attention hands back a tuple, the output map sits in another module."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 1, "vocab_size": 9}
    block = transformers.BertModel(transformers.BertConfig(**size)).double().eval().encoder.layer[0]
    x, own = torch.randn(2, 7, 24, dtype=torch.float64), block.attention

    def mlp(z: Tensor) -> Tensor:
        return block.output.dense(block.intermediate(z))

    layer = residual_layer(
        own, own.output.dense, own.self.value.weight, 3, mlp, (own.output.LayerNorm, block.output.LayerNorm), first=False
    )
    with torch.no_grad():
        said = block(x)
        torch.testing.assert_close(run(layer, x), said[0] if isinstance(said, tuple) else said)


def test_left_out_parts_add_nothing_and_later_parts_notice() -> None:
    model = network(Style())
    (x, places), block = entered(model), model.stack.blocks[0]
    layer = block_layer(block, *places)
    heads = [f"head {h}" for h in range(8)]
    with torch.no_grad():
        torch.testing.assert_close(run(layer, x, [*heads, "bias", "mlp"]), x)
        torch.testing.assert_close(run(layer, x, [*heads, "bias"]), x + block.mix(block.norm_mix(x)))


def test_any_callables_make_a_layer() -> None:
    x = torch.randn(1, 4, 3)
    torch.testing.assert_close(run(layer_of({"half": lambda z: z / 2, "shift": torch.ones_like}), x), 1.5 * x + 1)


def test_taking_apart_leaves_no_hook_behind() -> None:
    model = network(Style())
    (x, places), block = entered(model), model.stack.blocks[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(block_layer(block, *places), x)
    assert not block.attention.out._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_taken_apart_is_said() -> None:
    with pytest.raises(InputError, match="eval"):
        encoder_layer(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True))
    odd = nn.TransformerEncoderLayer(8, 2, 8).eval()
    odd.self_attn = nn.MultiheadAttention(8, 2, kdim=4).eval()
    with pytest.raises(InputError, match="one width"):
        encoder_layer(odd)
    with pytest.raises(InputError, match="3 heads"):
        attention_layer((torch.eye(8),) * 4, 3)
    block = network(Style(place="peri")).stack.blocks[0]
    block.after_attention = nn.GroupNorm(1, 64)
    with pytest.raises(InputError, match="GroupNorm"):
        block_layer(block, None, None, None)
    moving = ViT(2, 1, 16, 2, 2, 4, Style(drop_path=0.5)).train()
    with pytest.raises(InputError, match="eval"):
        block_layer(moving.stack.blocks[1], None, None, None)
