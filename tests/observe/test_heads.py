"""Redundant heads, blind measures, attention's reach: against loops, closed forms and the traps of other measures."""

import math

import numpy as np
import pytest
import torch

from headwater.observe.heads import (
    ablation_effect,
    attention_distance,
    attention_entropy,
    debiased_cka,
    grid_places,
    redundancy,
)

RNG = np.random.default_rng(2)
H, N, E = 6, 400, 32
BASE = RNG.normal(size=(N, 64))


def projection() -> np.ndarray:
    return BASE @ RNG.normal(size=(64, E)) / 8


def turn() -> np.ndarray:
    return np.linalg.qr(RNG.normal(size=(E, E)))[0]


def heads() -> dict[str, torch.Tensor]:
    one, three = projection(), [projection() for _ in range(3)]
    blocks = [BASE[:, 10 * i : 10 * i + 10] @ RNG.normal(size=(10, E)) for i in range(H)]
    made = {
        "independent": [RNG.normal(size=(N, E)) for _ in range(H)],
        "untrained": [projection() for _ in range(H)],
        "one turned": [one @ turn() for _ in range(H)],
        "pairs": [three[i // 2] @ turn() for i in range(H)],
        "pairs of blocks": [blocks[i // 2] @ turn() for i in range(H)],
        "blocks": blocks,
    }
    return {name: torch.from_numpy(np.stack(rows)) for name, rows in made.items()}


MADE = heads()


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, on the n x n products."""
    k, m, n = x @ x.T, y @ y.T, len(x)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    value = 0.0
    for i in range(n):
        value += k[i] @ m[i] - 2 / (n - 2) * k[i].sum() * m[i].sum()
    return (value + k.sum() * m.sum() / ((n - 1) * (n - 2))) / (n * (n - 3))


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_cka_is_song_and_kornblith(shift: float) -> None:
    x = RNG.normal(size=(3, 15, 4)) + shift
    x[2] += 0.7 * x[0]
    expected = [[hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b)) for b in x] for a in x]
    np.testing.assert_allclose(debiased_cka(torch.from_numpy(x)), expected, atol=1e-8)


def test_cka_does_not_change_with_rotation_scale_and_shift_of_a_head() -> None:
    x = MADE["untrained"]
    moved = torch.stack([(3.0 + i) * rows @ torch.from_numpy(turn()) + 100 * i for i, rows in enumerate(x)])
    torch.testing.assert_close(debiased_cka(x), debiased_cka(moved), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("name", "similarity", "effective"),
    [
        ("independent", (-0.01, 0.01), (5.95, 6.05)),
        ("untrained", (0.28, 0.38), (3.0, 4.2)),
        ("one turned", (0.999, 1.001), (0.999, 1.001)),
        ("pairs", (0.4, 0.55), (2.0, 2.7)),
        ("pairs of blocks", (0.19, 0.21), (2.95, 3.05)),
        ("blocks", (-0.01, 0.01), (5.95, 6.05)),
    ],
)
def test_known_cases(name: str, similarity: tuple, effective: tuple) -> None:
    found = redundancy(MADE[name], MADE["untrained"])
    assert similarity[0] < found.similarity.value < similarity[1]
    assert effective[0] < found.effective.value < effective[1]
    assert 0.28 < found.similarity.null < 0.38 and not found.similarity.why
    assert "before training" in found.effective.how


def test_every_head_twice_halves_the_effective_heads() -> None:
    once = MADE["blocks"][:3]
    twice = torch.cat([once, torch.stack([rows @ torch.from_numpy(turn()) for rows in once])])
    assert redundancy(twice).effective.value == pytest.approx(redundancy(once).effective.value, rel=1e-9)
    assert redundancy(twice).effective.value / 6 == pytest.approx(redundancy(once).effective.value / 3 / 2, rel=1e-9)


def test_what_other_measures_miss() -> None:
    """Cosine does not see a turned copy; plain CKA sees agreement of independent heads."""
    a, b = MADE["one turned"][:2]
    assert abs(float(torch.nn.functional.cosine_similarity(a, b).mean())) < 0.1
    a, b = (rows - rows.mean(0) for rows in MADE["independent"][:2])
    plain = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert plain > 0.06 and abs(debiased_cka(MADE["independent"])[0, 1]) < 0.02


def test_debiased_on_average_even_with_few_rows() -> None:
    drawn = [float(debiased_cka(torch.from_numpy(RNG.normal(size=(2, 12, 64))))[0, 1]) for _ in range(300)]
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / 300**0.5


def test_dead_heads_count_as_none() -> None:
    x = MADE["blocks"].float().clone()
    x[2] = 7.123
    found = redundancy(x)
    assert found.effective.value == pytest.approx(5, abs=0.05) and "head 2" in found.effective.why
    assert bool(found.matrix[2].isnan().all()) and math.isnan(found.effective.null)
    assert abs(found.similarity.value) < 0.01
    x[2, 5] = 9.0
    assert "head 2" in redundancy(x).effective.why  # one row that differs is no pattern to compare
    gone = redundancy(torch.ones(3, 9, 4))
    assert gone.effective.value == 0 and math.isnan(gone.similarity.value) and gone.similarity.why


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision(dtype: torch.dtype) -> None:
    assert redundancy(MADE["pairs of blocks"].to(dtype)).effective.value == pytest.approx(3, abs=0.1)


def test_redundancy_says_why_not() -> None:
    assert "at least 4" in redundancy(torch.ones(2, 3, 4)).effective.why
    one = redundancy(MADE["blocks"][:1])
    assert one.effective.value == pytest.approx(1) and "one head" in one.similarity.why
    x = MADE["blocks"].clone()
    x[0, 0, 0] = math.nan
    found = redundancy(x).effective
    assert math.isnan(found.value) and "not finite" in found.why


def attention(b: int = 3, h: int = 2, n: int = 6) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=(b, h, n, n)) * 2).softmax(-1)


def test_entropy_by_loops() -> None:
    weights = attention()
    found = attention_entropy(weights)
    for h in range(2):
        rows = [-sum(p * math.log(p) for p in row) / math.log(6) for image in weights[:, h].tolist() for row in image]
        assert found[h].value == pytest.approx(np.mean(rows))
        assert found[h].null == 1
    assert attention_entropy(weights, untrained=weights[:1])[0].null == attention_entropy(weights[:1])[0].value


def test_entropy_at_its_ends_and_of_unnormalised_attention() -> None:
    even, one = torch.full((1, 1, 8, 8), 1 / 8), torch.eye(8)[None, None]
    assert attention_entropy(even)[0].value == pytest.approx(1)
    assert attention_entropy(one)[0].value == 0
    assert attention_entropy(5 * even.half())[0].value == pytest.approx(1)


def test_a_causal_mask_is_not_taken_for_narrow_attention() -> None:
    allowed = torch.ones(16, 16, dtype=torch.bool).tril()
    even = allowed / allowed.sum(-1, keepdim=True)
    even = even[None, None]
    assert attention_entropy(even)[0].value < 0.8
    assert attention_entropy(even, allowed=allowed)[0].value == pytest.approx(1)
    assert attention_entropy(even, even, allowed)[0].null == pytest.approx(1)
    assert "one token" in attention_entropy(torch.ones(1, 1, 1, 1))[0].why


def test_attention_that_is_none() -> None:
    bad = attention()
    bad[0, 0, 0, 0] = math.nan
    bad[0, 1, 0] = 0
    first, second = attention_entropy(bad)
    assert math.isnan(first.value) and "finite" in first.why
    assert math.isnan(second.value) and "nothing" in second.why
    assert "negative" in attention_distance(-attention(), grid_places((2, 3)))[0].why


def test_distance_by_loops_in_mm() -> None:
    weights, places = attention(), grid_places((2, 3), (4.0, 0.5))
    assert places.tolist() == [[0, 0], [0, 0.5], [0, 1], [4, 0], [4, 0.5], [4, 1]]
    found = attention_distance(weights, places)
    for h in range(2):
        total = sum(
            float(weights[b, h, i, j]) * math.dist(places[i].tolist(), places[j].tolist())
            for b in range(3)
            for i in range(6)
            for j in range(6)
        )
        assert found[h].value == pytest.approx(total / 18)
    even = torch.full((1, 1, 6, 6), 1 / 6, dtype=torch.float64)
    assert attention_distance(even, places)[0].value == pytest.approx(found[0].null)
    assert attention_distance(torch.eye(6)[None, None], places)[0].value == 0


def test_distance_leaves_the_class_token_out() -> None:
    inner = attention()
    weights = torch.full((3, 2, 7, 7), 0.5, dtype=torch.float64)
    weights[:, :, 1:, 1:] = 0.5 * inner
    places = grid_places((6,))
    assert attention_distance(weights, places)[1].value == pytest.approx(attention_distance(inner, places)[1].value)
    assert "places" in attention_distance(inner, grid_places((9,)))[0].why


def test_ablation_in_closed_form() -> None:
    """Features are the sum of head outputs: leaving one out changes them by what it adds, alike or not."""
    outputs = torch.from_numpy(RNG.normal(size=(4, 200, 8))) * torch.tensor([1.0, 2.0, 0.0, 1.0])[:, None, None]
    features = outputs.sum(0)
    without = features - outputs
    variance = features.var(0, correction=0).sum()
    found = ablation_effect(features, without)
    for h in range(4):
        assert found[h].value == pytest.approx(float(outputs[h].square().sum(1).mean() / variance))
    assert found[2].value == 0
    assert ablation_effect(features, without, untrained=found[::-1])[0].null == found[3].value
    moved = ablation_effect(5 * features + 3, 5 * without + 3)
    assert moved[1].value == pytest.approx(found[1].value)
    same = ablation_effect(torch.ones(5, 3), torch.ones(2, 5, 3))
    assert math.isnan(same[0].value) and "same" in same[0].why
    without[1, 0, 0] = math.inf
    assert [bool(n.why) for n in ablation_effect(features, without)] == [False, True, False, False]
