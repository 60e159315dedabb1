"""Near consensus: the linearisation against closed forms and real layers, where it stops holding, and the null curve."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwater.backbones.attention import Style
from headwater.errors import InputError
from headwater.flow.gain import consensus_gain, head_maps
from headwater.observe.consensus import NEAR, Prediction, null_curve, predict, standing
from headwater.observe.why import gap, similarity
from tests.observe.test_parts import STYLES, entered, network
from tests.observe.test_why import spoken


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(mean: Tensor, size: float, count: int = 30, seed: int = 0) -> Tensor:
    """Tokens (B, count, D) around the mean tokens (B, D), deviations of `size` times their length."""
    off = normal(mean.shape[0], count, mean.shape[1], seed=seed) / mean.shape[1] ** 0.5
    return mean[:, None] * 1.0 + size * mean.norm(dim=-1)[:, None, None] * off


def test_the_gap_is_one_minus_similarity_and_stays_exact() -> None:
    x = normal(2, 9, 6)
    assert gap(x) == pytest.approx(1 - similarity(x), abs=1e-12)
    assert gap(planted(normal(2, 400), 1e-6, 50)) == pytest.approx(1e-12, rel=0.1)


def test_uniform_attention_moves_the_mean_as_its_weights_say() -> None:
    """x + attention(x) without norms: deviations stay (AC 1), the mean grows by |x + x H| / |x| (flow's closed form)."""
    width, heads = 24, 3
    q, k, v, o = (normal(width, width, seed=s) / width**0.5 for s in range(4))

    def layer(x: Tensor) -> Tensor:
        rows = [(x @ w.T).unflatten(-1, (heads, -1)).transpose(1, 2) for w in (q, k, v)]
        return x + nn.functional.scaled_dot_product_attention(*rows).transpose(1, 2).flatten(2) @ o.T

    x = planted(normal(1, width, seed=9), 1e-3)
    told = consensus_gain(x[0].mean(0), head_maps(v, o, heads).sum(0))
    found = predict(layer, x)
    assert found.dc == pytest.approx(float(told.dc), rel=1e-9) and found.valid
    assert found.change == pytest.approx(float(told.change), abs=0.1)  # the mean turns: a little of the deviations is lost or won
    assert found.change == pytest.approx(found.measured, abs=1e-4)


@pytest.mark.parametrize("name", STYLES)
def test_the_prediction_is_exact_as_tokens_agree(name: str) -> None:
    """The error falls with the distance from consensus at least in proportion, whatever the block."""
    model = network(STYLES[name], depth=1)
    x, places = entered(model)
    errors = []
    for size in (1e-2, 1e-4):
        found = predict(lambda z: model.stack.blocks[0](z, *places), planted(x.mean(1), size, x.shape[1]))
        if found.why:  # relu heads of this draw fall silent
            assert "apart" in found.why and name == "mixed peri"
            return
        errors.append(abs(found.change - found.measured))
    assert errors[1] < 1e-3 and (errors[1] < 0.03 * errors[0] or errors[1] < 1e-9)


def test_forward_mode_and_the_difference_quotient_agree() -> None:
    model = network(STYLES["first ViT"])
    x, places = entered(model)
    x, block = planted(x.mean(1), 0.1, x.shape[1]), model.stack.blocks[0]

    class Silent(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, z: Tensor) -> Tensor:
            return z.clone()

    fused, plain = predict(lambda z: Silent.apply(block(z, *places)), x), predict(lambda z: block(z, *places), x)
    assert "difference" in fused.how and "forward" in plain.how
    assert fused.change == pytest.approx(plain.change, abs=1e-4)


def through(model: nn.Module, x: Tensor, places: tuple) -> list[Prediction]:
    """Predictions of every block along the network's own way."""
    found = []
    for block in model.stack.blocks:
        with torch.no_grad():
            after = block(x, *places)
        found.append(predict(lambda z: block(z, *places), x, after))  # noqa: B023
        x = after
    return found


DEEP = {
    "pre": (Style(positions="none", norm="layer", mix="gelu"), 60, 1.5),
    "post": (Style(place="post"), 24, 1.0),
    "post gelu": (Style(place="post", norm="layer", mix="gelu", positions="none"), 24, 1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_deep_untrained_networks_do_what_is_predicted(name: str) -> None:
    style, depth, gain = DEEP[name]
    model = network(style, depth=depth, gain=gain)
    found = through(model, *entered(model))
    told = standing(found)
    for i, each in enumerate(found):
        print(f"{name} layer {i}: cosine {each.cosine:.4f} predicted {each.change:.4f} measured {each.measured:.4f}")
    print(f"{name}: {told}")
    assert told.layers >= 4 and told.correlation >= 0.9 > told.null95 and told.error < 0.3


def test_heads_that_fall_silent_keep_no_consensus() -> None:
    """Some rows of relu heads look at nothing: equal tokens come out unequal, and nothing is predicted."""
    model = network(Style(kernels=("relu",) * 8), depth=6)
    (x, places), told = entered(model), []
    for block in model.stack.blocks:
        near = planted(x.mean(1), 0.03, x.shape[1])
        with torch.no_grad():
            equal = block(near.mean(1, keepdim=True).expand_as(near).contiguous(), *places)
            x = block(x, *places)
        found = predict(lambda z: block(z, *places), near)  # noqa: B023
        apart = float((equal - equal.mean(1, keepdim=True)).norm() / equal.norm())
        assert ("sets equal tokens apart" in found.why) == (apart > 1e-3) == math.isnan(found.change)
        told.append(bool(found.why))
    assert any(told)


@pytest.mark.parametrize("name", STYLES)
def test_planted_tokens_do_what_is_predicted_and_far_ones_do_not(name: str) -> None:
    """Tokens planted around every layer's mean token at mean cosines from 0.999 to 0.1; where it stops holding is printed."""
    model = network(STYLES[name], depth=4)
    (x, places), found, cosines = entered(model), {}, {}
    for block in model.stack.blocks:
        for size in (0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0):
            near = planted(x.mean(1), size, x.shape[1], seed=int(100 * size))
            found.setdefault(size, []).append(predict(lambda z: block(z, *places), near))  # noqa: B023
        with torch.no_grad():
            x = block(x, *places)
    near = [each for size in found for each in found[size] if each.valid]
    told = standing(near)
    for size, each in found.items():
        seen, said = [p.measured for p in each if not p.why], [p.change for p in each if not p.why]
        off = math.sqrt(np.mean(np.subtract(seen, said) ** 2) / np.mean(np.square(seen)))
        cosines[size] = np.mean([p.cosine for p in each])
        print(f"{name}: cosine {cosines[size]:.3f} correlation {np.corrcoef(seen, said)[0, 1]:.3f} relative error {off:.3f}")
    print(f"{name}: {sum(bool(each.why) for size in found for each in found[size])} of 28 left out", told)
    assert told.layers >= 8 and told.correlation >= 0.9 > told.null95
    assert not any(each.valid for each in found[3.0])


def test_the_trained_network_near_and_far_from_consensus() -> None:
    """The outside speech transformer: right on tokens planted near consensus, not to be shown on its own (cosine 0.3 to 0.7)."""
    x, layers = spoken()
    near, own = [], []
    for layer in layers:
        near += [predict(layer, planted(x.mean(1), size, 40)) for size in (0.05, 0.2)]
        own.append(predict(layer, x))
        with torch.no_grad():
            x = layer(x)
    told = standing(near)
    print(told, [(round(p.cosine, 2), round(p.change, 2), round(p.measured, 2)) for p in own])
    assert told.layers == 24 and told.correlation > 0.9
    assert not any(each.valid for each in own) and standing(own).layers == 0 and "four" in standing(own).why


def test_standing_tells_where_it_stops_and_what_chance_gives() -> None:
    told = [Prediction(0.1 * i, 0.1 * i, 1, 1, 1 - 0.001 * i, "") for i in range(1, 30)]
    lost = [Prediction(5.0, -1.0, 1, 1, 0.5 - 0.01 * i, "") for i in range(5)]
    found = standing(told + lost)
    assert found.correlation == pytest.approx(1) and found.held == pytest.approx(0.971) and found.layers == 29
    assert 0.2 < found.null95 < 0.4
    assert standing(told) == standing(told, seed=0) and "1 layers" in standing(told[:1]).why


def test_faults_of_predictions_are_said() -> None:
    x = planted(normal(1, 8), 0.1)
    assert "digit" in predict(lambda z: z, torch.ones(1, 5, 8, dtype=torch.float64)).why
    assert "finite" in predict(lambda z: z * math.nan, x).why
    assert "vanishes" in predict(lambda z: z, torch.cat([x, -x], 1)).why
    assert predict(lambda z: z, x).change == pytest.approx(0, abs=1e-12)
    assert predict(lambda z: z.float().double(), x).valid and math.isnan(predict(lambda z: z * 0, x).change)
    with pytest.raises(ValueError, match="single|two"):
        gap(x[:, :1])


def attention_flow(x: Tensor, steps: int, h: float, beta: float) -> Tensor:
    """Softmax self-attention on the sphere, V = Q'K = 1, by Euler steps put back on the sphere: (steps + 1, B, N, D)."""
    found = [x]
    for _ in range(steps):
        field = torch.softmax(beta * x @ x.mT, -1) @ x
        x = nn.functional.normalize(x + h * (field - (field * x).sum(-1, keepdim=True) * x), dim=-1)
        found.append(x)
    return torch.stack(found)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_the_null_curve_is_what_pure_attention_does(beta: float) -> None:
    """Orthonormal tokens: the network that is the null follows it, in time units of the flow; scale does not matter."""
    depth = attention_flow(torch.eye(12, 16, dtype=torch.float64)[None], 300, 0.02, beta)
    found = null_curve(3 * depth, beta)
    assert not found.why and np.abs(found.measured - found.null).max() < 0.01
    np.testing.assert_allclose(found.times, 0.02 * np.arange(301), rtol=1e-2, atol=1e-9)
    assert np.interp(found.reach, found.times, found.null) == pytest.approx(NEAR, abs=1e-3) or found.reach > found.times[-1]


def test_layers_that_do_not_pull_leave_the_null_behind() -> None:
    x = normal(1, 12, 400)
    depth = torch.stack([x, *(x + 0.3 * (i + 1) * normal(1, 12, 400, seed=i + 1) for i in range(6))])
    found = null_curve(depth)
    assert found.null[-1] > 0.8 > 0.1 > found.measured[-1] and np.all(np.diff(found.times) > 0)


def test_faults_of_the_curve_are_said() -> None:
    x = normal(1, 5, 8)
    assert "one angle" in null_curve(torch.stack([x * 0 + 1, x])).why
    assert "one angle" in null_curve(torch.stack([x * math.nan, x])).why
    with pytest.raises(InputError, match="two"):
        null_curve(x[None])
