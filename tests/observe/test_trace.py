"""Tokens along depth against hooks written by hand and what transformers tells; models untouched; whatever is odd is said."""

import pytest
import torch
from torch import Tensor, nn

from headwater.backbones.attention import Style
from headwater.backbones.resenc import ResEnc
from headwater.backbones.swin import Swin
from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.observe.trace import trace
from tests.observe.specimens import HEADS, WIDTH, TimmBlock, TimmViT, batch_of, fingerprint, hugging, ids, images, seeded, worn

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.mark.parametrize("kind", ["ViTModel", "Dinov2Model", "BertModel", "GPT2Model"])
def test_what_transformers_tells_in_eager_mode(kind):
    batch, model, eager = batch_of(kind), hugging(kind), hugging(kind, "eager")
    with torch.no_grad():
        told = {"output_hidden_states": True, "output_attentions": True}
        truth = eager(**batch, **told) if isinstance(batch, dict) else eager(batch, **told)
    got = trace(model, batch)  # fused attention in the model itself
    assert len(got.streams) == 1 and got.names == got.stream.names and model.config._attn_implementation == "sdpa"
    # transformers puts GPT-2's last norm over its last hidden state
    for ours, theirs in zip(got.stream.path[: 3 if kind == "GPT2Model" else 4], truth.hidden_states, strict=False):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    assert len(got.attention) == len(truth.attentions) == 3
    for ours, theirs in zip(got.attention, truth.attentions, strict=True):
        torch.testing.assert_close(ours.weights, theirs, **CLOSE)
        assert ours.heads.shape == (3, HEADS, theirs.shape[2], WIDTH // HEADS)
    torch.testing.assert_close(trace(eager, batch).attention[2].heads, got.attention[2].heads, **CLOSE)


def by_hooks(model: nn.Module, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
    seen, hooks = [], []
    for name in names:
        hooks.append(model.get_submodule(name).register_forward_hook(lambda m, a, out: seen.append(out.detach().clone())))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("fused", [True, False])
def test_a_vit_with_timms_names(fused):
    model = seeded(lambda: TimmViT(fused))
    got = trace(model, images(), attend=2)
    names = ("blocks.0", "blocks.1", "blocks.2")
    assert got.names == names and torch.equal(got.tokens, torch.stack(by_hooks(model, names, images())))
    (start,) = by_hooks(nn.Sequential(), (), images()) or [model.patch_embed(images()).flatten(2).transpose(1, 2).detach()]
    torch.testing.assert_close(got.stream.start[:, 1:], start, **CLOSE)
    assert [a.name for a in got.attention] == [f"{name}.attn" for name in names] and got.attention[0].weights.shape[0] == 2
    torch.testing.assert_close(got.attention[0].weights.sum(-1), torch.ones(2, HEADS, 17), **CLOSE)


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_encoder_of_either_layout(batch_first):
    """Its fast path would skip the blocks; weights against a call that asks for them."""
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=batch_first)
    model = seeded(lambda: nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    x = torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(0))
    given = x if batch_first else x.transpose(0, 1)
    got = trace(model, given, axis=0 if batch_first else 1)
    y = given
    for i, block in enumerate(model.layers):
        with torch.no_grad():
            weights = block.self_attn(y, y, y, average_attn_weights=False)[1]
            y = block(y)
        torch.testing.assert_close(got.attention[i].weights, weights, **CLOSE)
        torch.testing.assert_close(got.tokens[i], y if batch_first else y.transpose(0, 1), **CLOSE)
    assert torch.equal(got.stream.start, x)


def test_monais_vit_and_its_own_record_of_attention():
    nets = pytest.importorskip("monai.networks.nets")
    told = {"hidden_size": WIDTH, "mlp_dim": 40, "num_layers": 2, "num_heads": HEADS, "spatial_dims": 3}
    model = seeded(lambda: nets.ViT(1, (8, 8, 8), (4, 4, 4), save_attn=True, **told))
    x = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, hidden = model(x)
    truth = [block.attn.att_mat for block in model.blocks]
    got = trace(model, x)
    assert torch.equal(got.tokens, torch.stack(hidden))
    for ours, theirs in zip(got.attention, truth, strict=True):
        torch.testing.assert_close(ours.weights, theirs, **CLOSE)


def test_swinunetr_has_a_stretch_per_stage_and_attention_in_windows():
    nets = pytest.importorskip("monai.networks.nets")
    model = seeded(lambda: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2))
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    got = trace(model, x)
    assert [tuple(s.tokens.shape) for s in got.streams] == [(2, 2, 32 * 32 // 4**i, 12 * 2**i) for i in range(4)]
    assert [s.grid for s in got.streams] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    truth = by_hooks(model, got.names, x)
    for ours, theirs in zip(got.layers, truth, strict=True):
        assert torch.equal(ours, theirs.flatten(1, 2))
    assert len(got.attention) == 8 and got.attention[0].weights.shape == (2 * 25, 3, 49, 49)


@pytest.mark.parametrize("style", [Style(), Style(registers=2, place="post"), Style(kernels="mixed")])
def test_our_own_by_their_segments(style):
    model = seeded(lambda: ViT(2, 3, 40, 3, 5, 4, style))
    got = trace(model, images())
    truth = by_hooks(model, tuple(f"stack.blocks.{i}" for i in range(3)), images())
    torch.testing.assert_close(got.tokens, torch.stack(truth), **CLOSE)
    assert got.stream.grid == (4, 4) and "segments" in got.words[0] and len(got.attention) == 3
    mixed = style.kernels == "mixed"
    assert (got.attention[0].weights is None) == mixed and any("no weights" in word for word in got.words) == mixed
    assert got.attention[0].heads.shape == (3, 5, 16 + style.registers, 8)


@pytest.mark.parametrize("make", [lambda: Swin(2, 3, 8, (2, 2), (2, 2), 4, window=4), lambda: ResEnc(2, 3, (8, 16), (2, 2), 2)])
def test_our_own_in_stages_and_within_another_module(make):
    model, x = seeded(make), images(2, side=32)

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = model

        def forward(self, x: Tensor) -> dict:
            return {"tokens": self.backbone(x).tokens}

    alone, within = trace(model, x), trace(Student(), x)
    assert len(alone.streams) == 2 and "Student" not in within.words[0]
    theirs = {tuple(tokens.shape): tokens for tokens in within.layers}  # the last of each width
    for stream in alone.streams:
        torch.testing.assert_close(theirs[tuple(stream.tokens[-1].shape)], stream.tokens[-1], **CLOSE)


def test_a_network_of_convolutions_has_stages_as_depth_and_says_that_it_has_no_attention():
    model = worn()
    got = trace(model, images())
    assert got.names == ("stem", "stages.0.0", "stages.1.0", "stages.2.0")  # plain sequences: the convolutions themselves
    assert got.tokens.shape == (3, 3, 64, 8) and got.stream.grid == (8, 8) and got.streams[0].start is None
    assert got.attention == () and any("no attention was seen" in word for word in got.words)


@pytest.mark.parametrize("wrapped", [False, True])
def test_nothing_of_the_model_changes(wrapped):
    model = worn()
    before = fingerprint(model)
    trace(torch.compile(nn.DataParallel(model)) if wrapped else model, images())
    with pytest.raises(InputError):
        trace(model, images(), blocks=["nowhere"])
    with pytest.raises(RuntimeError):
        trace(model, torch.ones(2, 5, 8, 8))
    assert fingerprint(model) == before


def test_transformers_too_stay_as_they_were():
    model = hugging("BertModel").train()
    before = fingerprint(model)
    trace(model, batch_of("BertModel"))
    assert fingerprint(model) == before


def test_half_precision_and_precision_of_the_batch():
    model = seeded(TimmViT)
    exact = trace(model, images()).tokens
    for kind, error in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        got = trace(seeded(TimmViT).to(kind), images())  # the images are float32
        assert got.tokens.dtype == got.attention[0].weights.dtype == torch.float32
        assert 0 < float((got.tokens - exact).abs().max()) < error * float(exact.abs().max())


def test_nan_is_said_with_its_first_block():
    model = seeded(TimmViT)
    with torch.no_grad():
        model.blocks[1].mlp[3].bias[0] = torch.nan
    got = trace(model, images())
    assert got.tokens[0].isfinite().all() and "tokens after blocks.1 hold NaN" in got.words[1]


def test_a_reduction_keeps_only_what_it_returns():
    whole = trace(seeded(TimmViT), images())
    small = trace(seeded(TimmViT), images(), attend=0, reduce=lambda x: x.mean(1, keepdim=True))
    torch.testing.assert_close(small.stream.path, whole.stream.path.mean(2, keepdim=True), **CLOSE)
    assert small.attention == () and len(small.words) == 1
    with pytest.raises(InputError, match="three axes"):
        trace(seeded(TimmViT), images(), reduce=lambda x: x.mean(1))


def test_another_way_to_run_it():
    class Parts(TimmViT):
        def features(self, x: Tensor) -> Tensor:
            return super().forward(x)["patches"]

        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    got = trace(seeded(Parts), images(), call=lambda model, x: model.features(x))
    assert torch.equal(got.tokens, trace(seeded(TimmViT), images()).tokens)


class Added(nn.Module):
    """Blocks whose outputs the model adds to the stream itself: lists of attention and feed-forward."""

    def __init__(self):
        super().__init__()
        parts = ([TimmBlock(True).attn, nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))] for _ in range(3))
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in parts)

    def forward(self, x: Tensor) -> Tensor:
        self.between = []
        for attention, mix in self.layers:
            self.between.append(x)
            x = x + attention(x)
            x = x + mix(x)
        return x


def test_a_stream_that_lives_outside_of_the_blocks_is_read_where_they_begin():
    model, x = seeded(Added), torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    got = trace(model, x)
    assert torch.equal(got.stream.path, torch.stack(model.between)) and "added outside" in got.words[0]
    assert got.names == ("layers.0.0", "layers.1.0") and len(got.attention) == 3


def test_teacher_and_student_are_streams_of_their_own():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = TimmViT(), TimmViT()

        def forward(self, x: Tensor) -> Tensor:
            return self.student(x)["class"] - self.teacher(x)["class"]

    model = seeded(Pair)
    got = trace(model, images())
    assert [s.names[0] for s in got.streams] == ["student.blocks.0", "teacher.blocks.0"] and "outside" not in got.words[0]
    for stream, alone in zip(got.streams, (model.student, model.teacher), strict=True):
        assert torch.equal(stream.path, trace(alone, images()).stream.path)


def test_a_block_of_several_parts_counts_once():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(d_model=24, d_kv=8, num_heads=3, num_layers=2, d_ff=40, vocab_size=50)
    model = seeded(lambda: transformers.T5EncoderModel(config))
    with torch.no_grad():
        truth = model(input_ids=ids(), output_hidden_states=True).hidden_states
    got = trace(model, {"input_ids": ids()})
    assert got.names == ("encoder.block.0", "encoder.block.1")
    for ours, theirs in zip(got.stream.path[:2], truth, strict=False):
        torch.testing.assert_close(ours, theirs, **CLOSE)
