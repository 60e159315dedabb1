"""Words of tokens: groups that are there are found, groups that are not are not believed."""

import math

import pytest
import torch

from headwater.observe.closer.dictionary import fit, label, words


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grouped(n: int = 12, grid: tuple[int, int] = (8, 8), kinds: int = 4, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Each quadrant of every image is of one kind."""
    centres = 2 * torch.randn(kinds, 16, generator=stream(1))
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    kind = ((rows >= grid[0] // 2) * 2 + (columns >= grid[1] // 2)).flatten() % kinds
    return centres[kind] + noise * torch.randn(n, math.prod(grid), 16, generator=stream(2)), kind


def test_groups_that_are_there():
    tokens, kind = grouped()
    found = fit(tokens, 4)
    labels = label(found, tokens)
    joint = torch.zeros(4, 4)
    joint.index_put_((kind.repeat(12), labels.flatten()), torch.ones(labels.numel()), accumulate=True)
    assert bool(((joint > 0).sum(0) == 1).all()) and bool(((joint > 0).sum(1) == 1).all())
    assert found.explained.value > 0.9 > found.explained.null + 0.3
    told = words(found, tokens, (8, 8))
    assert torch.allclose(told.share, torch.full((12, 4), 0.25).double()) and told.image.value < 1e-6
    assert told.together.value == pytest.approx(1 - 16 / 112) and told.together.null == pytest.approx(15 / 63)


def test_groups_that_are_not_there():
    noise = torch.randn(12, 64, 16, generator=stream())
    found = fit(noise, 4)
    told = words(found, noise, (8, 8))
    assert abs(found.explained.value - found.explained.null) < 0.05
    assert abs(told.together.value - told.together.null) < 0.05 and told.image.value < 0.1


def test_an_image_with_a_word_of_its_own():
    centres = 5 * torch.randn(4, 1, 16, generator=stream())
    tokens = centres + 0.1 * torch.randn(4, 30, 16, generator=stream(1))
    told = words(fit(tokens, 4), tokens)
    assert told.image.value == pytest.approx(1) and told.image.null < 0.15 and math.isnan(told.together.value)


def test_the_same_every_time_and_after_rotation_scale_and_shift():
    tokens, _ = grouped()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=stream(5)))[0]
    first, again, moved = (fit(x, 4) for x in (tokens, tokens, 3 * tokens @ turn + 7))
    assert torch.equal(first.centres, again.centres)
    assert torch.equal(label(first, tokens), label(moved, 3 * tokens @ turn + 7))
    assert moved.explained.value == pytest.approx(first.explained.value, abs=1e-4)


def test_high_norm_tokens_have_no_word_and_take_none():
    tokens, _ = grouped()
    clean = fit(tokens, 4)
    tokens[:, 5] += 200
    found = fit(tokens, 4)
    labels = label(found, tokens)
    assert bool((labels[:, 5] == -1).all()) and int((labels == -1).sum()) == 12
    assert found.explained.value == pytest.approx(clean.explained.value, abs=0.02)
    assert words(found, tokens, (8, 8)).share.sum(1).min() > 0.999


def test_beside_an_untrained_network():
    tokens, _ = grouped()
    start = fit(grouped(noise=2.0)[0], 4)
    found = fit(tokens, 4, untrained=start)
    assert found.explained.null == start.explained.value and "before training" in found.explained.how


def test_degenerate_tokens():
    same = fit(torch.ones(3, 4, 5))
    assert "same" in same.explained.why and bool((label(same, torch.ones(3, 4, 5)) == 0).all())
    broken = grouped()[0]
    broken[0, 0] = math.nan
    found = fit(broken, 4)
    assert "1 of 768" in found.explained.why and int(label(found, broken)[0, 0]) == -1
    none = fit(torch.full((2, 3, 4), math.nan))
    assert math.isnan(none.explained.value) and bool((label(none, torch.ones(2, 3, 4)) == -1).all())
    assert words(none, torch.ones(2, 3, 4)).share.shape == (2, 1)
    assert len(fit(torch.eye(3)[None].repeat(4, 1, 1), 8).centres) == 3
