"""Components are those of the covariance, with fixed signs; colours stay in range."""

import math
from dataclasses import replace

import pytest
import torch

from headwater.observe.components import aligned, coordinates, fit, rgb


def cloud(seed: int = 0) -> torch.Tensor:
    scales = torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1, 0.1])
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(9)))[0]
    return torch.randn(4000, 6, generator=torch.Generator().manual_seed(seed)) * scales @ turn + 4


def test_finds_the_known_spectrum() -> None:
    found = fit(cloud())
    total = 25 + 9 + 4 + 0.03
    assert found.explained.tolist() == pytest.approx([25 / total, 9 / total, 4 / total], rel=0.1)
    assert torch.allclose(found.axes @ found.axes.T, torch.eye(3), atol=1e-5)


def test_signs_do_not_depend_on_the_sample() -> None:
    first, second = fit(cloud(0)), fit(cloud(1))
    assert (first.axes * second.axes).sum(1).min() > 0.99
    assert all(axis[axis.abs().argmax()] > 0 for axis in first.axes)


def test_a_few_outliers_do_not_take_over() -> None:
    tokens = cloud()
    tokens[:20] += 500 * torch.tensor([0.0, 0, 0, 0, 0, 1])
    assert (fit(tokens).axes * fit(cloud()).axes).sum(1).abs().min() > 0.95


def test_colours() -> None:
    found = fit(cloud())
    colours = rgb(found, cloud().reshape(40, 100, 6))
    assert colours.shape == (40, 100, 3) and colours.min() >= 0 and colours.max() <= 1
    assert colours.flatten(0, 1).std(0).min() > 0.15
    assert coordinates(found, cloud()).mean(0).abs().max() < 0.2


def test_degenerate_tokens() -> None:
    assert torch.equal(rgb(fit(torch.ones(10, 4)), torch.ones(2, 4)), torch.full((2, 3), 0.5))
    thin = fit(torch.randn(50, 2))
    assert thin.axes.shape == (3, 2) and thin.explained[2] == 0
    assert fit(torch.randn(1, 5)).axes.shape == (3, 5)
    broken = cloud()
    broken[0] = math.nan
    assert fit(broken).mean.isfinite().all() and torch.equal(rgb(fit(broken), broken[:1]), torch.zeros(1, 3))
    assert fit(torch.full((5, 4), math.nan)).axes.shape == (3, 4)


def test_as_sklearn_finds_them() -> None:
    from sklearn.decomposition import PCA

    told, found = PCA(3).fit(cloud().numpy()), fit(cloud())
    assert found.explained.tolist() == pytest.approx(told.explained_variance_ratio_.tolist(), rel=0.02)  # a few outliers less
    assert all(abs(float(a @ torch.from_numpy(b))) > 0.999 for a, b in zip(found.axes, told.components_, strict=True))


def test_signs_and_order_follow_a_reference() -> None:
    found = fit(cloud())
    order, sign = torch.tensor([2, 0, 1]), torch.tensor([-1.0, 1.0, -1.0])
    ends = torch.stack([found.low[order] * sign, found.high[order] * sign]).sort(0).values
    other = replace(found, axes=found.axes[order] * sign[:, None], explained=found.explained[order], low=ends[0], high=ends[1])
    back = aligned(other, found)
    for name in ("axes", "explained", "low", "high"):
        assert torch.allclose(getattr(back, name), getattr(found, name)), name
    assert torch.allclose(rgb(back, cloud()), rgb(found, cloud()), atol=1e-5)
    spots = coordinates(other, cloud()), coordinates(found, cloud())
    told = torch.corrcoef(torch.cat([spots[0].T, spots[1].T]))[:3, 3:]
    assert torch.equal(aligned(other, found, told).axes, back.axes)


def test_neighbouring_epochs_keep_their_colours() -> None:
    """A little turned and drawn again, with two axes that explain nearly the same and the rule of the largest loading."""
    scales = torch.tensor([3.0, 2.9, 1.0, 0.1])

    def epoch(seed: int, turn: float) -> torch.Tensor:
        x = torch.randn(3000, 4, generator=torch.Generator().manual_seed(seed)) * scales
        c, s = math.cos(turn), math.sin(turn)
        return torch.stack([c * x[:, 0] - s * x[:, 2], x[:, 1], s * x[:, 0] + c * x[:, 2], x[:, 3]], 1)

    first = fit(epoch(0, 0.6))
    for seed in range(1, 6):
        later = aligned(fit(epoch(seed, 0.6 + 0.1 * seed)), first)
        assert float((later.axes * first.axes).sum(1).min()) > 0.6
    more = aligned(fit(cloud(), 5), fit(cloud(1), 3))
    assert more.axes.shape == (5, 6) and float((more.axes[:3] * fit(cloud(1)).axes).sum(1).min()) > 0.99
