"""Attribution of similarity: parts sum, oracles, chance, ablation, planted heads, a trained network from outside."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwater.backbones.attention import Style
from headwater.observe.parts import Head, Layer, attention_layer, block_layer, encoder_layer, layer_of
from headwater.observe.why import Attribution, ablation, attribute, eigen_directions, gap, sentence, similarity
from tests.observe.test_parts import STYLES, entered, network

TRAINED = Path(__file__).parents[3] / "shared" / "data" / "kwt1" / "kwt1_weights.npz"


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_similarity_is_the_mean_over_pairs() -> None:
    x = normal(3, 7, 5)
    unit = nn.functional.normalize(x, dim=-1)
    pairs = [float(unit[b, i] @ unit[b, j]) for b in range(3) for i in range(7) for j in range(7) if i != j]
    assert similarity(x) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert similarity(torch.ones(1, 4, 3)) == pytest.approx(1)
    with pytest.raises(ValueError, match="two"):
        similarity(x[:, :1])


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 2e-5), (torch.float32, 1e-3), (torch.bfloat16, 1e-2)])
def test_parts_sum_to_the_change(name: str, dtype: torch.dtype, close: float) -> None:
    if dtype == torch.bfloat16 and name.startswith("mixed"):
        pytest.skip("mixed heads run in half precision under autocast only")
    model = network(STYLES[name], dtype=dtype)
    x, places = entered(model)
    for block in model.stack.blocks:
        with torch.no_grad():
            after = block(x, *places)
        found = attribute(block_layer(block, *places), x, after)
        assert float(found.parts.sum()) == pytest.approx(similarity(after) - similarity(x), abs=close)
        assert abs(found.residual) < close and found.change == pytest.approx(similarity(after) - similarity(x))
        for head, split in found.directions.items():
            assert float(split.parts.sum()) == pytest.approx(float(found.parts[found.names.index(head)]), abs=close / 10)
        x = after


@pytest.mark.parametrize("first", [True, False])
def test_parts_sum_for_the_layer_of_torch(first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, norm_first=first, batch_first=True, dtype=torch.float64).eval()
    x = normal(3, 9, 32) + 0.5
    with torch.no_grad():
        found = attribute(encoder_layer(layer), x, layer(x))
    assert not found.why and abs(found.residual) < 2e-5 and len(found.directions) == 4


@pytest.mark.parametrize("name", ["plain", "post", "ngpt"])
def test_shares_are_what_turning_a_part_up_gives(name: str) -> None:
    """Against differences of the similarity with one part's strength a little higher and lower, and a midpoint rule."""
    model = network(STYLES[name])
    x, places = entered(model)
    layer = block_layer(model.stack.blocks[0], *places)
    found, shares = attribute(layer, x), {}

    def at(strengths: dict[str, float], tokens: Tensor) -> float:
        with torch.no_grad():
            for step in layer.steps:
                tokens = tokens + sum(strengths[part] * update for part, update in step(tokens).items())
        return similarity(tokens)

    for part in ("head 0", "head 5", "mlp", "bias"):
        for a in (np.arange(40) + 0.5) / 40:
            up, down = ({other: a + e * (other == part) for other in found.names} for e in (1e-4, -1e-4))
            shares[part] = shares.get(part, 0.0) + (at(up, x) - at(down, x)) / 2e-4 / 40
    told = {part: float(found.parts[found.names.index(part)]) for part in shares}
    assert told == pytest.approx(shares, abs=1e-4) and max(map(abs, shares.values())) > 0.01


@pytest.mark.parametrize("name", ["plain", "post"])
def test_shares_of_the_logarithm_sum_to_its_change(name: str) -> None:
    """Near consensus too, where the cosine hardly moves any more."""
    model = network(STYLES[name], depth=1)
    x, places = entered(model)
    for size in (1.0, 1e-3):
        near = x.mean(1, keepdim=True) + size * (x - x.mean(1, keepdim=True))
        found = attribute(block_layer(model.stack.blocks[0], *places), near)
        with torch.no_grad():
            change = math.log(gap(near) / gap(model.stack.blocks[0](near, *places)))
        assert float(found.logs.sum()) == pytest.approx(change, abs=1e-3) and abs(change) > 0.01


def test_a_norm_without_gain_does_nothing() -> None:
    """RMSNorm moves tokens along themselves: no angle changes, where no feed-forward's update is weighed against their length."""
    model = network(Style(place="post", mix="gelu"))
    (x, places), block = entered(model), model.stack.blocks[0]
    for parameter in block.mix.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(block.norm_attention.weight)
    nn.init.ones_(block.norm_mix.weight)
    found = attribute(block_layer(block, *places), x)
    assert abs(float(found.parts[found.names.index("norm")])) < 1e-12 < abs(found.change)


def test_neither_rotation_nor_scale_matters() -> None:
    turn = torch.linalg.qr(normal(6, 6, seed=5))[0]
    x, a, b = normal(2, 8, 6), normal(6, 6, seed=1), normal(6, 6, seed=2)
    plain = attribute(layer_of({"a": lambda z: z @ a, "b": lambda z: (z @ b).relu() * 0 + b[0]}), x)
    turned = attribute(layer_of({"a": lambda z: z @ turn.T @ a @ turn, "b": lambda z: (b[0] @ turn).expand_as(z)}), x @ turn)
    scaled = attribute(layer_of({"a": lambda z: z @ a, "b": lambda z: (7 * b[0]).expand_as(z)}), 7 * x)
    torch.testing.assert_close(turned.parts, plain.parts)
    torch.testing.assert_close(scaled.parts, plain.parts)
    torch.testing.assert_close(turned.chance, plain.chance)


def test_chance_is_what_random_turns_give() -> None:
    """The gradient held: a small part beside a large one, turned 200 times."""
    x, large, small = normal(2, 8, 12), normal(12, 12, seed=1), normal(2, 8, 12, seed=2)

    def turned(by: Tensor) -> Attribution:
        return attribute(layer_of({"large": lambda z: z @ large, "small": lambda z: 1e-6 * small @ by}), x)

    found, drawn = turned(torch.eye(12, dtype=torch.float64)), []
    for seed in range(200):
        q, r = torch.linalg.qr(normal(12, 12, seed=seed))
        drawn.append(float(turned(q * r.diagonal().sign()).parts[1]))
    assert np.std(drawn) == pytest.approx(float(found.chance[1]), rel=0.17)
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / 14


def test_directions_are_those_of_the_whole_map() -> None:
    """Against all D eigenvectors of W_V W_O, and what attention reads."""
    value, output = normal(10, 4, seed=1), normal(4, 10, seed=2)
    slope, read = normal(30, 10, seed=3), normal(30, 10, seed=4)
    turn = slope.T @ (read @ value @ output)
    split = eigen_directions(Head(value, output), turn)
    values, right = torch.linalg.eig(value @ output)
    left = torch.linalg.inv(right)
    whole = values * torch.einsum("jd,dk,kj->j", left, (slope.T @ read).to(values.dtype), right)
    assert not split.why and float(split.parts.sum()) == pytest.approx(float(turn.trace()))
    for l, part in zip(split.values, split.parts, strict=True):
        at = (values - l).abs().argmin()
        assert abs(values[at] - l) < 1e-9
        assert float(part) == pytest.approx((2 if abs(l.imag) > 1e-9 else 1) * float(whole[at].real), abs=1e-9)


def test_the_disc_of_random_heads() -> None:
    """Largest eigenvalues of random heads pass the 95th percentile about once in 20; all fill a disc of the radius told."""
    beyond, radii = 0, []
    for seed in range(100):
        value, output = 3 * normal(160, 16, seed=seed), normal(16, 160, seed=1000 + seed) / 5
        split = eigen_directions(Head(value, output), torch.zeros(160, 160, dtype=torch.float64))
        beyond += bool(split.values.abs().max() > split.null95)
        for value in split.values:
            radii += [float(value.abs()) / split.radius] * (2 if value.imag else 1)
    assert 1 <= beyond <= 14
    assert np.mean(np.array(radii) < 1.15) > 0.97 and np.mean(np.array(radii) < 0.5**0.5) == pytest.approx(0.5, abs=0.06)


def test_parallel_eigenvectors_are_not_split() -> None:
    block = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    split = eigen_directions(Head(torch.eye(2, dtype=torch.float64), block), torch.eye(2, dtype=torch.float64))
    assert "parallel" in split.why and bool(split.parts.isnan().all())


def stack_with_a_head(depth: int = 12, layer: int = 8, head: int = 3, strength: float = 1.7) -> tuple[Tensor, list[Layer]]:
    """Weak random attention with one head whose W_V W_O has the eigenvalue told along a direction all tokens share a little."""
    width, heads = 32, 4
    along = nn.functional.normalize(normal(width, seed=7), dim=0)
    layers = []
    for i in range(depth):
        q, k, v, o = (0.3 * normal(width, width, seed=10 * i + j) / width**0.5 for j in range(4))
        if i == layer:
            v[8 * head], o[:, 8 * head] = along, strength * along
        step, paths = attention_layer((q, k, v, o), heads)
        layers.append(Layer((step,), paths))
    return normal(2, 20, width, seed=99) + 3 * along, layers


def test_the_sentence_names_the_planted_head() -> None:
    x, layers = stack_with_a_head()
    found = []
    for layer in layers:
        found.append(attribute(layer, x))
        x = x + sum(layer.steps[0](x).values())
    said = sentence(found)
    assert said.startswith("Layer 8 pulls tokens together (mean cosine 0.")
    assert "; head 3 of layer 8 does " in said and "through its eigenvalue 1.7 (by chance up to 0." in said


def test_other_sentences() -> None:
    x = normal(1, 10, 6)
    nothing = attribute(layer_of({"mlp": lambda z: 0 * z}), x)
    apart = attribute(layer_of({"mlp": lambda z: -0.9 * z.mean(1, keepdim=True).expand_as(z)}), x + 1)
    together = attribute(layer_of({"mlp": torch.ones_like, "bias": lambda z: -0.2 * torch.ones_like(z)}), x)
    assert "leave" in sentence([nothing]) and "push tokens apart" in sentence([nothing, apart])
    assert "the mlp of layer 1 does more than all of it" in sentence([nothing, together, apart])
    assert "cannot be explained: " in sentence([nothing, attribute(layer_of({"mlp": lambda z: z * math.nan}), x)])


def test_faults_are_said() -> None:
    x = normal(1, 10, 6)
    broken = attribute(layer_of({"mlp": lambda z: z / 0}), x)
    assert math.isnan(broken.change) and "finite" in broken.why
    left_out = attribute(layer_of({"mlp": torch.ones_like}), x, after=x + 2)
    assert "leaves something out" in left_out.why and abs(left_out.residual) > 1e-3
    from_zero = attribute(layer_of({"mlp": torch.ones_like}), 0 * x)
    assert "zero" in from_zero.why and bool(torch.isfinite(from_zero.parts).all())
    half = x.clone()
    half[0, :5] = 0
    assert not attribute(layer_of({"mlp": lambda z: z @ normal(6, 6)}), half).why


@pytest.mark.slow
def test_ablating_the_largest_three_takes_what_they_were_given() -> None:
    """Deep untrained networks, all printed: growing layers of short steps within 20 % (one in twenty within 30 %)."""
    near, far = [], []
    for style in ("plain", "first ViT", "peri rms", "post", "mixed heads", "ngpt"):
        for gain in (0.25, 0.5, 1.0):
            model = network(STYLES[style], depth=16, gain=gain)
            x, places = entered(model)
            for i, block in enumerate(model.stack.blocks):
                layer = block_layer(block, *places)
                found = attribute(layer, x)
                top = found.largest(3)
                given, lost = sum(float(found.parts[found.names.index(name)]) for name in top), ablation(layer, x, top)
                print(f"{style} {gain} layer {i}: step {found.step:.2f} growth {found.change:.4f} {top} {given:.4f} {lost:.4f}")
                if found.change > 0.01:
                    (near if found.step < 0.35 else far).append(lost / given - 1)
                with torch.no_grad():
                    x = block(x, *places)
    for name, off in (("short", np.abs(near)), ("long", np.abs(far))):
        told = f"{np.mean(off < 0.2):.0%} within 20 %, median {np.median(off):.3f}, worst {off.max():.2f}"
        print(f"{name} steps: {len(off)} layers, {told}")
    assert len(near) > 30 and np.mean(np.abs(near) < 0.2) > 0.95 and np.abs(near).max() < 0.3


def spoken() -> tuple[Tensor, list[nn.TransformerEncoderLayer]]:
    """Tokens of the chirp of the outside speech transformer's notes, and its 12 trained layers."""
    if not TRAINED.is_file():
        pytest.skip("no trained speech transformer beside the checkout")
    with np.load(TRAINED) as held:
        w = {key: torch.from_numpy(held[key]).double() for key in held.files if held[key].dtype.kind == "f"}
    tail, layers, top = "|Tensordot|MatMul", [], "kws_transformer|"
    for i in range(12):
        own = "" if i == 0 else f"_{i}"
        block, norms = f"{top}transformer_block{own}|", ["" if m == 0 else f"_{m}" for m in (2 * i, 2 * i + 1)]
        said, mixed = f"{block}multi_head_self_attention{own}|dense_", f"{block}sequential{own}|dense_"
        layer = nn.TransformerEncoderLayer(
            64, 1, 256, 0.0, partial(nn.functional.gelu, approximate="tanh"), 1e-6, True, dtype=torch.float64
        ).eval()
        named = {
            "self_attn.in_proj_weight": torch.cat([w[f"{said}{6 * i + j}{tail}"] for j in (1, 2, 3)]),
            "self_attn.in_proj_bias": torch.zeros(192),
            "self_attn.out_proj.weight": w[f"{said}{6 * i + 4}{tail}"],
            "self_attn.out_proj.bias": w[f"{said}{6 * i + 4}|bias"],
        }
        for j in (1, 2):
            named |= {
                f"linear{j}.weight": w[f"{mixed}{6 * i + 4 + j}{tail}"],
                f"linear{j}.bias": w[f"{mixed}{6 * i + 4 + j}|bias"],
            }
            norm = f"{block}layer_normalization{norms[j - 1]}|"
            named |= {f"norm{j}.weight": w[f"{norm}gamma"], f"norm{j}.bias": w[f"{norm}beta"]}
        layer.load_state_dict(named)
        layers.append(layer)
    t = torch.arange(16000, dtype=torch.float64) / 16000
    sound = 0.5 * torch.sin(2 * math.pi * (200 * t + 900 * t**2)) * torch.exp(-(((t - 0.5) / 0.2) ** 2))
    pieces = sound.reshape(100, 160)
    frames = torch.cat([pieces[:98], pieces[1:99], pieces[2:]], 1) * w["speech_features|windowing|mul|y"].flatten()
    mel = "speech_features|magnitude_rdf_tmel|MatMul"
    size = ((frames @ w[mel].T) ** 2 + (frames @ w[f"{mel}_1"].T) ** 2).sqrt()
    features = (size @ w[f"{mel}_2"].T).clamp_min(1e-12).log() @ w["speech_features|dct|MatMul"].T
    tokens = features @ w[f"{top}dense{tail}"].T + w[f"{top}dense|bias"]
    return (torch.cat([w["class_emb"][0], tokens]) + w["pos_emb"][0])[None], layers


def test_a_trained_network_from_outside() -> None:
    """The speech transformer: parts sum; what ablation says beside it is printed (its steps are as long as its tokens)."""
    x, layers = spoken()
    found = []
    for i, module in enumerate(layers):
        layer = encoder_layer(module)
        with torch.no_grad():
            after = module(x)
        found.append(attribute(layer, x, after))
        top = found[-1].largest(3)
        given = sum(float(found[-1].parts[found[-1].names.index(name)]) for name in top)
        parts = {name: round(float(part), 3) for name, part in zip(found[-1].names, found[-1].parts, strict=True)}
        lost = ablation(layer, x, top)
        print(
            f"layer {i}: {found[-1].before:.3f} -> {found[-1].after:.3f} step {found[-1].step:.2f} {given:.3f} {lost:.3f} {parts}"
        )
        assert abs(found[-1].residual) < 2e-5
        x = after
    told = [0.635, 0.421, 0.415, 0.308, 0.341, 0.343, 0.364, 0.326, 0.343, 0.346, 0.340, 0.418]
    assert [each.after for each in found] == pytest.approx(told, abs=1e-3)
    print(sentence(found))
