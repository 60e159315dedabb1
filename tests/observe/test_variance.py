"""Planted token clouds: who differs by image, place or content; neighbours; enormous tokens; and what must not matter."""

import math

import numpy as np
import pytest
import torch

from headwater.observe.heads import grid_places
from headwater.observe.variance import high_norm, locality, token_variance

RNG = np.random.default_rng(1)
B, G, D = 32, 14, 24
T = G * G
PLACES = grid_places((G, G))
APART = torch.cdist(PLACES, PLACES).numpy()
SMOOTH = np.linalg.cholesky(np.exp(-(APART**2) / 8) + 1e-6 * np.eye(T))


def cases() -> dict[str, torch.Tensor]:
    content = np.einsum("ts,bsd->btd", SMOOTH, RNG.normal(size=(B, T, D)))
    image, place = RNG.normal(size=(B, 1, D)), RNG.normal(size=(1, T, D))
    made = {
        "healthy": content + 0.5 * image + 0.3 * place + 8,
        "oversmoothed": 0.05 * content + image + 8,
        "positional": 0.05 * content + 0.05 * image + place,
        "noise": RNG.normal(size=(B, T, D)),
        "smooth places": 0.02 * RNG.normal(size=(B, T, D)) + SMOOTH @ RNG.normal(size=(T, D)),
    }
    return {name: torch.from_numpy(x) for name, x in made.items()}


MADE = cases()


def shares(x: torch.Tensor) -> list[float]:
    found = token_variance(x)
    return [found.image.value, found.position.value, found.content.value]


@pytest.mark.parametrize(
    ("name", "image", "position", "near"),
    [
        ("healthy", (0.2, 0.35), (0.05, 0.16), (0.8, 1.0)),
        ("oversmoothed", (0.99, 1.0), (0, 0.005), (0.8, 1.1)),
        ("positional", (0, 0.005), (0.99, 1.0), (0.8, 1.1)),
        ("noise", (0.002, 0.01), (0.02, 0.05), (-0.02, 0.02)),
        ("smooth places", (0, 0.01), (0.98, 1.0), (-0.02, 0.02)),
    ],
)
def test_table(name: str, image: tuple, position: tuple, near: tuple) -> None:
    """Raw or centred cosine takes a smooth position code for locality; without the places' means nothing is left of it."""
    found = shares(MADE[name])
    assert image[0] <= found[0] <= image[1] and position[0] <= found[1] <= position[1]
    assert sum(found) == pytest.approx(1)
    number = locality(MADE[name], PLACES)
    assert near[0] < number.value < near[1] and abs(number.null) < 0.05
    if name in ("healthy", "noise"):
        assert (number.value > number.null + 0.1) == (name == "healthy")


def test_shares_by_loops() -> None:
    x = RNG.normal(size=(3, 4, 2)) + 5
    centre = x.mean((0, 1))
    total = sum(((x[b, t] - centre) ** 2).sum() for b in range(3) for t in range(4)) / 12
    image = sum(((x[b].mean(0) - centre) ** 2).sum() for b in range(3)) / 3
    place = sum(((x[:, t].mean(0) - centre) ** 2).sum() for t in range(4)) / 4
    np.testing.assert_allclose(shares(torch.from_numpy(x)), [image / total, place / total, 1 - (image + place) / total])


def test_closed_forms() -> None:
    place, image = torch.randn(1, 9, 3).double(), torch.randn(5, 1, 3).double()
    assert shares(place.expand(5, 9, 3)) == pytest.approx([0, 1, 0])
    assert shares(image.expand(5, 9, 3)) == pytest.approx([1, 0, 0])
    both = image - image.mean(0) + place - place.mean(1, keepdim=True)
    ratio = float((image - image.mean(0)).square().mean() / both.square().mean())
    assert shares(both) == pytest.approx([ratio, 1 - ratio, 0])


def test_null_is_what_dealing_out_at_random_gives() -> None:
    x = MADE["healthy"][:4, :9]
    dealt = [shares(x.flatten(0, 1)[torch.from_numpy(RNG.permutation(36))].unflatten(0, (4, 9))) for _ in range(400)]
    found = token_variance(x)
    null = [found.image.null, found.position.null, found.content.null]
    assert sum(null) == pytest.approx(1)
    np.testing.assert_allclose(np.mean(dealt, 0), null, atol=5 * np.std(dealt, 0).max() / 20)


def test_rotation_scale_and_shift_change_nothing() -> None:
    x = MADE["healthy"]
    turned = torch.from_numpy(np.linalg.qr(RNG.normal(size=(D, D)))[0])
    np.testing.assert_allclose(shares(7 * x @ turned - 40), shares(x), atol=1e-9)
    assert locality(7 * x @ turned, PLACES).value == pytest.approx(locality(x, PLACES).value, abs=1e-9)
    assert locality(x - 40, PLACES).value == pytest.approx(locality(x, PLACES).value, abs=0.01)  # other tokens may be scaled
    assert high_norm(7 * x @ turned).value == high_norm(x).value


def test_locality_by_loops() -> None:
    x = RNG.normal(size=(3, 20, 5))
    places = grid_places((4, 5))
    double = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean((0, 1))
    near, far = [], []
    for b in range(3):
        for i in range(20):
            for j in range(20):
                gap = math.dist(places[i].tolist(), places[j].tolist())
                cosine = double[b, i] @ double[b, j] / np.linalg.norm(double[b, i]) / np.linalg.norm(double[b, j])
                near += [cosine] if gap == 1 else []
                far += [cosine] if gap >= 2 else []
    assert locality(torch.from_numpy(x), places).value == pytest.approx(np.mean(near) - np.mean(far))


def test_shuffled_places_have_no_locality() -> None:
    order = torch.from_numpy(RNG.permutation(T))
    number = locality(MADE["healthy"][:, order], PLACES)
    assert abs(number.value) < 0.05
    assert locality(MADE["healthy"], PLACES) == locality(MADE["healthy"], PLACES)
    assert locality(MADE["healthy"], 2.5 * PLACES).value == locality(MADE["healthy"], PLACES).value


def test_a_few_enormous_tokens_do_not_hide_locality() -> None:
    x = MADE["healthy"] - 8
    struck = x.clone()
    for b in range(B):
        struck[b, torch.from_numpy(RNG.choice(T, 4, replace=False))] *= 15
    assert locality(struck, PLACES).value > 0.8 * locality(x, PLACES).value
    assert high_norm(struck).value == pytest.approx(4 / T, abs=0.004) and high_norm(struck).null < 0.001
    assert high_norm(x).value < 0.002
    artefacts = x.clone()
    artefacts[:, ::50] = (
        60 * artefacts[:, ::50].norm(dim=-1, keepdim=True) * torch.from_numpy(np.sign(RNG.normal(size=(B, 1, D))))
    )
    assert locality(artefacts, PLACES).value > 0.7 * locality(x, PLACES).value  # 0.02 if they were not scaled down


def test_high_norm_of_one_direction_in_closed_form() -> None:
    """|x| above three medians of |x|: 4.3 % of a Gaussian in one direction, which is no artefact."""
    x = torch.from_numpy(RNG.normal(size=(20, 1000, 1)))
    number = high_norm(torch.cat([x, torch.zeros(20, 1000, 5).double()], -1))
    assert number.value == pytest.approx(0.0430, abs=0.006)
    assert number.null == pytest.approx(0.0430, abs=0.015)


def test_high_norm_null_keeps_the_common_mean() -> None:
    x = MADE["noise"][:, :, :2] + 5
    assert high_norm(x).value == high_norm(x).null == 0


def test_says_why_not() -> None:
    same = torch.full((4, 16, 3), 3.3)
    for number in (token_variance(same).image, locality(same, grid_places((4, 4)))):
        assert math.isnan(number.value) and number.why
    assert "two of each" in token_variance(torch.randn(1, 16, 3)).content.why
    assert "one image" in locality(torch.randn(1, 16, 3), grid_places((4, 4))).why
    assert "too small" in locality(torch.randn(2, 4, 3), grid_places((2, 2))).why
    only_places = torch.randn(1, 16, 3).expand(4, 16, 3)
    assert "no content" in locality(only_places, grid_places((4, 4))).why
    bad = torch.randn(4, 16, 3)
    bad[1, 2, 0] = math.inf
    for number in (token_variance(bad).image, locality(bad, grid_places((4, 4))), high_norm(bad)):
        assert math.isnan(number.value) and "1 of 4" in number.why
    assert "zero" in high_norm(torch.zeros(2, 4, 3)).why


def test_half_precision_of_a_large_common_mean() -> None:
    x = (3 + 0.5 * MADE["healthy"]).half()
    np.testing.assert_allclose(shares(x), shares(MADE["healthy"]), atol=0.01)
    assert locality(x, PLACES).value > 0.8


def test_locality_of_a_dense_map_takes_little_memory():
    tokens = torch.randn(2, 128 * 128, 3, generator=torch.Generator().manual_seed(0))
    found = locality(tokens, grid_places((128, 128)))  # all pairs of places would be 2 GiB, and 20 times again
    assert abs(found.value) < 0.2 and found.null < 0.2
