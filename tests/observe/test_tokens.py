"""Dense agreement: the constructed cases as tokens."""

import math

import pytest
import torch

from headwater.errors import InputError
from headwater.observe.tokens import ROWS, dense_agreement, places

n, N, D = 64, 48, 32


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    content, position, noise = draw(n, N, D), draw(1, N, D, seed=1), draw(2, n, N, D, seed=2)
    views = {
        "healthy": content + 0.5 * noise,
        "position alone": position + 0.1 * noise,
        "noise": noise,
        "constant": 3 + 1e-6 * noise.double(),
        "few directions": content[..., :3] @ draw(3, D, seed=3) + 1e-3 * noise,
        "half noise": torch.cat([(content + 0.5 * noise)[..., :16], noise[..., 16:]], -1),
        "same for the whole image": content[:, :1] + 0.1 * noise,
    }[kind]
    return views[0], views[1]


@pytest.mark.parametrize(
    ("kind", "rho", "rank", "spread"),
    [
        ("healthy", (0.75, 0.85), (28, 32), (0.9, 1)),
        ("position alone", (-0.02, 0.02), (0, 0), (0, 0.05)),
        ("noise", (-0.02, 0.02), (0, 0), (0.9, 1)),
        ("constant", (-0.02, 0.02), (0, 0), (0, 1e-10)),
        ("few directions", (0.99, 1), (2.3, 3), (0.9, 1)),
        ("half noise", (0.38, 0.5), (14, 16.1), (0.9, 1)),
        ("same for the whole image", (0.97, 1), (8, 32), (0.9, 1)),
    ],
)
def test_cases(kind: str, rho: tuple, rank: tuple, spread: tuple) -> None:
    found = dense_agreement(*pair(kind), seed=0)
    assert rho[0] <= found.reliability <= rho[1]
    assert rank[0] <= found.rank <= rank[1]
    assert spread[0] <= found.spread <= spread[1]


def test_chance_knows_that_tokens_of_an_image_are_not_independent() -> None:
    alike = dense_agreement(*pair("same for the whole image"), seed=0)
    apart = dense_agreement(*pair("healthy"), seed=0)
    assert alike.null95 > 3 * apart.null95


def test_smooth_noise_is_not_taken_for_agreement() -> None:
    beyond = 0
    for seed in range(20):
        noise = draw(2, n, 1, D, seed=seed) + 0.1 * draw(2, n, N, D, seed=100 + seed)
        found = dense_agreement(noise[0], noise[1], seed=seed)
        beyond += found.reliability > found.null95 and found.rank >= 1
    assert beyond <= 2


def test_rotation_scale_and_shift_change_nothing() -> None:
    a, b = (x.double() for x in pair("half noise"))
    base = dense_agreement(a, b, seed=4)
    turn = torch.linalg.qr(draw(D, D).double())[0]
    for x, y in ((a @ turn, b @ turn), (0.1 * a, 0.1 * b), (a - 9, b - 9)):
        found = dense_agreement(x, y, seed=4)
        for field in ("reliability", "null95", "rank"):
            assert getattr(found, field) == pytest.approx(getattr(base, field), rel=1e-6, abs=1e-9)


def test_shuffled_images_fall_to_chance() -> None:
    a, b = pair("healthy")
    found = dense_agreement(a, b.roll(1, 0), seed=0)
    assert abs(found.reliability) < 3 * found.null95 and found.rank <= 1


def test_memory_is_bounded() -> None:
    assert len(places(96, 1728, seed=0)) == ROWS // 96
    assert len(places(5000, 10, seed=0)) == 1
    assert places(8, 20, seed=0).tolist() == list(range(20))
    chosen = places(96, 1728, seed=0)
    assert torch.equal(chosen, places(96, 1728, seed=0)) and (chosen.diff() > 0).all()
    found = dense_agreement(draw(8, 40, 600), draw(8, 40, 600), seed=0)
    assert (found.n, found.d) == (8, 80)
    assert found.reliability == pytest.approx(1)


def test_broken_tokens_and_too_few_images() -> None:
    a, b = pair("healthy")
    a[5, 2, 1] = math.nan
    found = dense_agreement(a, b, seed=0)
    assert math.isnan(found.reliability) and "1 of 64 images" in found.why
    with pytest.raises(InputError, match="at least 8"):
        dense_agreement(a[:7], b[:7], seed=0)
