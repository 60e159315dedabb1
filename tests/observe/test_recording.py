"""Attention read while a model runs, against formulas written out and against what torch itself tells."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwater.backbones.attention import Attention as Own
from headwater.backbones.attention import Style
from headwater.observe.recording import Attention, Recorder, joined
from tests.observe.specimens import HEADS, WIDTH, TimmAttention, seeded


def recorded(model: nn.Module, *inputs: Tensor, **kwargs) -> list[Attention]:
    with torch.no_grad(), Recorder(model).attached() as recorder:
        model(*inputs, **kwargs)
    return recorder.attention


class Given(nn.Module):
    """Hands what it is given to torch's fused attention."""

    def __init__(self, **told):
        super().__init__()
        self.told, self.gain = told, nn.Parameter(torch.ones(()))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.out = F.scaled_dot_product_attention(q * self.gain, k, v, **self.told)
        return self.out


def by_hand(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Row by row: exp of scores over their sum, in float64."""
    scores = torch.einsum("bhid,bhjd->bhij", q.double(), k.double()) * scale + bias
    weights = scores.exp()
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)


@pytest.mark.parametrize("case", ["plain", "causal", "bool", "float", "scale", "grouped", "blind"])
def test_fused_attention_with_every_option(case):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 5, 6, generator=g) for _ in range(3))
    told, bias, scale = {}, torch.zeros(5, 5), 6**-0.5
    if case == "causal":
        told, bias = {"is_causal": True}, torch.full((5, 5), -torch.inf).triu(1)
    elif case in ("bool", "blind"):
        mask = torch.rand(5, 5, generator=g) > 0.3
        mask[2] = case == "bool"
        told, bias = {"attn_mask": mask}, torch.zeros(5, 5).masked_fill(~mask, -torch.inf)
    elif case == "float":
        bias = torch.randn(5, 5, generator=g)
        told = {"attn_mask": bias}
    elif case == "scale":
        told, scale = {"scale": 0.7}, 0.7
    elif case == "grouped":
        k, v, told = k[:, :2], v[:, :2], {"enable_gqa": True}
    model = Given(**told)
    (seen,) = recorded(model, q, k, v)
    whole = k.repeat_interleave(2, 1) if case == "grouped" else k
    torch.testing.assert_close(seen.weights.double(), by_hand(q, whole, bias.double(), scale), atol=1e-6, rtol=0)
    assert torch.equal(seen.heads, model.out)  # the kernel's own result, untouched
    values = v.repeat_interleave(2, 1) if case == "grouped" else v
    torch.testing.assert_close(seen.weights @ values, seen.heads, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_written_out_are_the_same(fused):
    model, x = seeded(lambda: TimmAttention(fused)), torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    (seen,) = recorded(model, x)
    q, k, v = model.qkv(x).detach().view(2, 7, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    weights = by_hand(q, k, torch.zeros(7, 7), (WIDTH // HEADS) ** -0.5)
    torch.testing.assert_close(seen.weights.double(), weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.heads.double(), weights @ v.double(), atol=1e-5, rtol=0)
    mixed = model.proj(seen.heads.transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, model(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 6}, {"add_bias_kv": True}])
def test_torchs_multi_head_attention(batch_first, options):
    model = seeded(lambda: nn.MultiheadAttention(12, 3, batch_first=batch_first, **options))
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 7, 12, generator=g)
    k, v = (torch.randn(2, 7, 5, generator=g), torch.randn(2, 7, 6, generator=g)) if "kdim" in options else (q, q)
    q, k, v = (x if batch_first else x.transpose(0, 1) for x in (q, k, v))
    told = {"key_padding_mask": torch.tensor([[False] * 7, [False] * 5 + [True] * 2])}
    (seen,) = recorded(model, q, k, v, need_weights=False, **told)
    out, weights = model(q, k, v, average_attn_weights=False, **told)
    torch.testing.assert_close(seen.weights, weights.detach(), atol=1e-6, rtol=0)
    mixed = model.out_proj(seen.heads.transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, out if batch_first else out.transpose(0, 1), atol=1e-5, rtol=0)


def test_results_are_bit_for_bit_those_of_the_model_alone():
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    for model in (seeded(lambda: TimmAttention(True)), seeded(lambda: TimmAttention(False))):
        with torch.no_grad(), Recorder(model).attached():
            watched = model(x)
        assert torch.equal(watched, model(x))


@pytest.mark.parametrize("kernels", ["mixed", "sigmoid", "linear"])
def test_heads_of_other_kernels_are_what_the_output_map_reads(kernels):
    model = seeded(lambda: Own(40, 5, Style(kernels=kernels)))
    x, read = torch.randn(2, 7, 40, generator=torch.Generator().manual_seed(0)), []
    hook = model.out.register_forward_pre_hook(lambda module, args: read.append(args[0].detach().clone()))
    (seen,) = recorded(model, x)
    hook.remove()
    assert seen.weights is None and torch.equal(seen.heads, read[0].view(2, 7, 5, 8).transpose(1, 2))


def test_a_softmax_that_is_no_attention_is_not_taken():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x).softmax(1).flatten(2).mean(2).softmax(-1)

    assert recorded(Head(), torch.ones(2, 3, 5, 5)) == []


def test_parts_join_as_rows_or_as_heads():
    a, b = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert joined([a, b], 3).shape == (4, 3, 4, 4) and joined([a, b], 6).shape == (2, 6, 4, 4)
    assert joined([a, torch.ones(2, 3, 5, 5)], 3) is None and joined([a, None], 3) is None and joined([], 3) is None


def test_no_hook_is_left():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError), Recorder(model).attached():
        model(torch.ones(1, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
