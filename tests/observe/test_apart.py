"""Anybody's block by what its norms and maps do: it is rebuilt, its parts are the real ones, and doubt means one part."""

import pytest
import torch
from torch import Tensor, nn

from headwater.observe.apart import WHOLE, apart
from headwater.observe.parts import Layer, run
from headwater.observe.probe import undisturbed
from headwater.observe.replay import Step, steps
from tests.observe.specimens import TimmViT, batch_of, fingerprint, hugging, images, seeded

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
HEADS = ("head 0", "head 1", "head 2")
KINDS = ["ViTModel", "Dinov2Model", "BertModel", "GPT2Model", "timm", "timm written out"]


def opened(kind: str) -> tuple[nn.Module, tuple[Step, ...], Tensor]:
    """A model in eval mode, its blocks as functions, and tokens that enter the first."""
    if kind.startswith("timm"):
        model, batch = seeded(lambda: TimmViT(kind == "timm")), images()
    else:
        model, batch = hugging(kind), batch_of(kind)
        batch = {**batch, "use_cache": False} if isinstance(batch, dict) else batch
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, *steps(model, batch)


def maps(block: nn.Module, kind: str) -> tuple[nn.Module, nn.Module]:
    """The map after the heads and the last of the feed-forward, by their names in each package."""
    names = {
        "ViTModel": ("attention.o_proj", "mlp.fc2"),
        "Dinov2Model": ("attention.o_proj", "mlp.fc2"),
        "BertModel": ("attention.output.dense", "output.dense"),
        "GPT2Model": ("attn.c_proj", "mlp.c_proj"),
    }.get(kind, ("attn.proj", "mlp.3"))
    return tuple(block.get_submodule(name) for name in names)


def first_block(model: nn.Module, kind: str) -> nn.Module:
    return next(m for n, m in model.named_modules() if n.split(".")[-1] == "0" and any(True for _ in m.children()))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_rebuilt_from_heads_and_the_rest(kind: str) -> None:
    model, moves, x = opened(kind)
    for move in moves:
        layer, words = apart(model, move, x)
        names = [name for step in layer.steps for name in step(x)]
        assert not words and tuple(names[:3]) == HEADS == tuple(layer.heads) and "mlp" in names
        assert ("norm" in names) == kind.startswith("Bert")
        torch.testing.assert_close(run(layer, x), move(x), **CLOSE)
        x = move(x)


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_a_part_out_is_what_zeroed_weights_do(kind: str) -> None:
    """The weights of a head, or of the feed-forward, zeroed in the model itself."""
    model, moves, x = opened(kind)
    layer, _ = apart(model, moves[0], x)
    out, last = maps(first_block(model, kind), kind)
    without = run(layer, x, ["head 1"]), run(layer, x, ["mlp"])
    with torch.no_grad():
        held = out.weight.clone()
        (out.weight[8:16] if kind.startswith("GPT2") else out.weight[:, 8:16]).zero_()
        torch.testing.assert_close(without[0], moves[0](x), **CLOSE)
        out.weight.copy_(held)
        last.weight.zero_()
        last.bias.zero_()
        torch.testing.assert_close(without[1], moves[0](x), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_path_of_a_head_is_what_it_says_of_equal_tokens(kind: str) -> None:
    """Told from two rows of equal tokens of one length and mean, which a norm in front divides by the same."""
    model, moves, x = opened(kind)
    layer, _ = apart(model, moves[0], x)
    one, two = x[:, :1], x[:, 1:2]
    one, two = (nn.functional.layer_norm(t, t.shape[-1:]) for t in (one, two))
    said = [layer.steps[0](t.expand_as(x).contiguous()) for t in (one, two)]
    for name, head in layer.heads.items():
        told = (one - two) @ head.value @ head.output
        torch.testing.assert_close((said[0][name] - said[1][name])[:, :1], told, atol=1e-3, rtol=1e-3)


class Scaled(nn.Module):
    """Nothing but a chain of one residual around two norms: what the second reads does not pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.inner, self.outer = nn.Linear(12, 12), nn.Linear(12, 12)
        self.num_heads = 3

    def forward(self, x: Tensor) -> Tensor:
        q = self.inner(self.norm1(x)).unflatten(-1, (3, 4)).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
        return x + self.outer(self.norm2(y))


def test_a_chain_without_a_stream_in_the_middle_stays_whole() -> None:
    model = seeded(lambda: nn.Sequential(*(Scaled() for _ in range(3))))
    moves, x = steps(model, torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0)))
    layer, words = apart(model, moves[1], x)
    assert words == WHOLE and list(layer.steps[0](x)) == ["block"]
    torch.testing.assert_close(run(layer, x), moves[1](x))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_encoder_of_torch_with_a_mask(first: bool, batch_first: bool) -> None:
    """A causal mask and padding, as the layer gets them."""
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=batch_first, norm_first=first)
    model = seeded(lambda: nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    x = torch.randn(4, 4, 12, generator=torch.Generator().manual_seed(0))
    padded = torch.tensor([[False, False, i > 1, i > 2] for i in range(4)])
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    with torch.no_grad(), undisturbed(model):
        moves, tokens = steps(model, {"src": x, "mask": mask, "src_key_padding_mask": padded})
        for move in moves:
            found, words = apart(model, move, tokens)
            assert not words and tuple(found.heads) == HEADS
            torch.testing.assert_close(run(found, tokens), move(tokens), **CLOSE)
            tokens = move(tokens)


def test_the_model_is_left_as_it_was() -> None:
    model, moves, x = opened("ViTModel")
    before = fingerprint(model)
    layer, _ = apart(model, moves[0], x)
    run(layer, x, ["mlp"])
    assert fingerprint(model) == before and isinstance(layer, Layer)
