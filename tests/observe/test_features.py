"""Each constructed case of the diagnostics' table, and what must leave the numbers unchanged."""

import math

import numpy as np
import pytest
import torch

from headwater.errors import InputError
from headwater.observe import features
from headwater.observe.features import agreement, reliability, signal_rank

N, D, K = 512, 128, 40


def cases() -> dict[str, torch.Tensor]:
    """Features (n, 2 views, d) of encoders that are ill in known ways."""
    rng = np.random.default_rng(3)
    latent = rng.normal(size=(N, K))
    first, second = rng.normal(size=(K, 256)) / K**0.5, rng.normal(size=(256, D)) / 16
    random = rng.normal(size=(160, 256)) / 160**0.5

    def seen(noise: float) -> np.ndarray:
        return latent[:, None] + noise * rng.normal(size=(N, 2, K))

    def healthy() -> np.ndarray:
        return np.maximum(seen(0.3) @ first, 0) @ second

    nuisance = 3 * rng.normal(size=(N, 1, 120))
    hard = np.concatenate([seen(0.3), 3 * rng.normal(size=(N, 2, 120))], -1)
    easy = np.concatenate([seen(0.3), nuisance + 0.3 * rng.normal(size=(N, 2, 120))], -1)
    made = {
        "constant": 5 + 1e-6 * rng.normal(size=(N, 2, D)),
        "tiny but informative": 5 + 0.05 * healthy(),
        "3 of 128 directions": seen(0.3)[..., :3] @ rng.normal(size=(3, D)) + 1e-3 * rng.normal(size=(N, 2, D)),
        "noise": rng.normal(size=(N, 2, D)),
        "random net, hard views": np.maximum(hard @ random, 0) @ second,
        "random net, easy views": np.maximum(easy @ random, 0) @ second,
        "half noise": np.concatenate([healthy()[..., :64], 0.7 * rng.normal(size=(N, 2, 64))], -1),
        "healthy": healthy(),
    }
    return {name: torch.from_numpy(z) for name, z in made.items()}


CASES = cases()


@pytest.mark.parametrize(
    ("name", "rho", "rank", "spread"),
    [
        ("constant", (-0.03, 0.03), (0, 0), (1e-15, 1e-12)),
        ("tiny but informative", (0.85, 0.93), (18, 25), (1e-5, 1e-4)),
        ("3 of 128 directions", (0.88, 0.96), (2.8, 3.0), (0.9, 1)),
        ("noise", (-0.02, 0.02), (0, 0), (0.9, 1)),
        ("random net, hard views", (0.0, 0.07), (0, 2), (0.5, 0.8)),
        ("random net, easy views", (0.95, 1.0), (28, 42), (0.5, 0.8)),
        ("half noise", (0.32, 0.46), (14, 21), (0.75, 0.95)),
        ("healthy", (0.85, 0.93), (18, 25), (0.5, 0.8)),
    ],
)
def test_table(name: str, rho: tuple, rank: tuple, spread: tuple) -> None:
    found = agreement(CASES[name][:, 0], CASES[name][:, 1], seed=0)
    assert rho[0] <= found.reliability <= rho[1]
    assert rank[0] <= found.rank <= rank[1]
    assert spread[0] <= found.spread <= spread[1]
    assert 0 < found.null95 < 0.06
    assert (found.n, found.d, found.why) == (N, D, "")


def test_only_the_healthy_side_exceeds_chance_widely() -> None:
    found = {name: agreement(z[:, 0], z[:, 1], seed=1) for name, z in CASES.items()}
    beyond = {name: seen.reliability / seen.null95 for name, seen in found.items()}
    ill = ("constant", "noise", "random net, hard views")
    assert max(beyond[name] for name in ill) < 6 < 15 < min(v for name, v in beyond.items() if name not in ill)


@pytest.mark.parametrize("count", [N, 96])
def test_rotation_scale_and_shift_change_nothing(count: int) -> None:
    a, b = CASES["half noise"][:count, 0], CASES["half noise"][:count, 1]
    base = agreement(a, b, seed=2)
    turn = torch.linalg.qr(torch.randn(D, D, dtype=a.dtype, generator=torch.Generator().manual_seed(0)))[0]
    for x, y in ((a @ turn, b @ turn), (7 * a, 7 * b), (a + 50, b + 50), (a, b)):
        found = agreement(x, y, seed=2)
        for field in ("reliability", "null95", "rank", "error"):
            assert getattr(found, field) == pytest.approx(getattr(base, field), rel=1e-6, abs=1e-8), field


@pytest.mark.parametrize("count", [N, 96])
def test_shuffled_pairs_fall_to_chance(count: int) -> None:
    a, b = CASES["healthy"][:count, 0], CASES["healthy"][:count, 1]
    found = agreement(a, b.roll(1, 0), seed=0)
    assert abs(found.reliability) < 2.5 * found.null95
    assert found.rank <= 1


def test_false_alarms_of_the_null() -> None:
    beyond = 0
    for seed in range(60):
        noise = torch.randn(2, 96, 24, generator=torch.Generator().manual_seed(seed))
        found = agreement(*noise, seed=seed)
        beyond += found.reliability > found.null95
    assert beyond <= 8  # 3 expected at 5 percent


def test_error_is_the_spread_over_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(100):
        shared = torch.randn(100, 10, generator=generator)
        found.append(agreement(*(shared + 0.7 * torch.randn(2, 100, 10, generator=generator)), seed=0))
    empirical = torch.tensor([f.reliability for f in found]).std()
    assert sum(f.error for f in found) / 100 == pytest.approx(float(empirical), rel=0.35)


def test_few_images_are_reduced_first() -> None:
    found = agreement(CASES["healthy"][:96, 0], CASES["healthy"][:96, 1], seed=0)
    assert (found.n, found.d) == (96, 24)
    assert found.reliability > 0.8 and 5 < found.rank <= 24


def test_reliability_closed_form() -> None:
    a = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    assert reliability(a, a) == pytest.approx(1)
    assert reliability(a, 3 - 2 * a) == pytest.approx(-1)


def test_signal_rank_counts_shared_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    shared = torch.cat([torch.randn(400, 5, generator=generator), torch.zeros(400, 11)], 1)
    views = [shared + 0.1 * torch.randn(400, 16, generator=generator) for _ in range(2)]
    assert signal_rank(*views) == pytest.approx(5, abs=0.2)
    assert signal_rank(views[0], -views[1]) == 0


def test_broken_features_give_nan_and_say_why() -> None:
    a = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[3, 1] = math.nan
    b[9, 1] = math.inf
    found = agreement(a, b, seed=0)
    assert all(math.isnan(v) for v in (found.reliability, found.null95, found.rank, found.spread))
    assert found.numbers()["why"] == "features of 2 of 32 images are not finite"


def test_exactly_constant_features() -> None:
    for value in (0.0, 5.0):
        found = agreement(torch.full((32, 8), value), torch.full((32, 8), value), seed=0)
        assert math.isnan(found.reliability) and found.spread == 0 and found.rank == 0 and found.why


def test_too_few_images() -> None:
    with pytest.raises(InputError, match="at least 8 images, there are 5"):
        agreement(torch.randn(5, 4), torch.randn(5, 4), seed=0)


def test_half_precision_and_the_global_generator() -> None:
    a = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    assert agreement(a.bfloat16(), a.bfloat16(), seed=0).reliability == pytest.approx(1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["noise", "signal", "few directions", "one direction", "tiny"])
def test_many_directions_are_ranked_as_by_all_their_eigenvalues(kind: str, monkeypatch) -> None:
    """Above 128 directions only the largest eigenvalue of each permuted pairing is sought, in single precision."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(640, 160, generator=g) * torch.arange(1, 161) ** -0.5
    shared *= {"noise": 0.0, "few directions": torch.arange(160) < 20, "one direction": torch.arange(160) < 1}.get(kind, 1.0)
    own = {"few directions": 0.0, "one direction": 0.0, "tiny": 1e-12}.get(kind, 0.3)
    a, b = (shared * (1e-12 if kind == "tiny" else 1) + own * torch.randn(640, 160, generator=g) for _ in range(2))
    found = features.agreement(a, b, seed=1)
    monkeypatch.setattr(features, "WIDE", 160)
    whole = features.agreement(a, b, seed=1)
    assert found.d == 160 and found.rank == pytest.approx(whole.rank, rel=1e-3, abs=1e-9)
    assert found.rank_null95 == pytest.approx(whole.rank_null95, rel=1e-3) and found.null95 == whole.null95


def test_numbers_do_not_depend_on_the_precision_around_them() -> None:
    a, b = cases()["healthy"].unbind(1)
    with torch.autocast("cpu", torch.bfloat16):
        within = features.agreement(a, b, seed=0)
    assert within == features.agreement(a, b, seed=0)


def test_blocks_of_products_give_the_same_chance(monkeypatch) -> None:
    a, b = cases()["healthy"][:100].unbind(1)
    whole = features.agreement(a, b, seed=0)
    monkeypatch.setattr(features, "BLOCK", 33)
    assert features.agreement(a, b, seed=0).null95 == pytest.approx(whole.null95, abs=1e-7)
