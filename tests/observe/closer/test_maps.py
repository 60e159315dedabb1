"""Maps of heads against attention that is known, and what no map can be drawn of."""

import math

import pytest
import torch

from headwater.errors import InputError
from headwater.observe.ablate import ablations
from headwater.observe.closer.maps import head_maps, scale
from headwater.observe.recording import Attention
from headwater.observe.trace import trace
from tests.observe.specimens import HEADS, TimmViT, images, seeded


def known(extra: int = 1, grid: tuple[int, ...] = (4, 5)) -> Attention:
    """Head 0: all alike; head 1: itself; head 2: the last place of the grid."""
    count = extra + math.prod(grid)
    weights = torch.stack([torch.full((count, count), 1 / count), torch.eye(count), torch.eye(count)[-1:].expand(count, -1)])
    return Attention("blocks.0.attn", weights.repeat(2, 1, 1, 1), None)


@pytest.mark.parametrize("grid", [(4, 5), (4, 5, 2)])
def test_the_query_and_its_map(grid):
    got = head_maps(known(1, grid), grid, "centre")
    count, middle = 1 + math.prod(grid), tuple(n // 2 for n in grid)
    assert got.maps.shape == (2, 3, *grid)
    torch.testing.assert_close(got.maps[:, 0], torch.ones(2, *grid))  # a multiple of equal attention
    for head, where in ((1, middle), (2, tuple(n - 1 for n in grid))):
        assert float(got.maps[0, head][where]) == count and float(got.maps[0, head].sum()) == count
    torch.testing.assert_close(got.elsewhere[0], torch.tensor([1 / count, 0, 0]))
    assert [number.value for number in got.entropy] == pytest.approx([1, 0, 0], abs=1e-6)
    same = head_maps(known(1, grid), grid, sum(m * math.prod(grid[a + 1 :]) for a, m in enumerate(middle)))
    assert torch.equal(same.maps, got.maps)
    first = head_maps(known(1, grid), grid, "class")
    assert float(first.elsewhere[0, 1]) == 1 and float(first.maps[0, 1].abs().max()) == 0


def test_of_a_traced_model_beside_entropy_and_ablation():
    model, x = seeded(TimmViT), images(5)
    found, cut = trace(model, x, attend=5), ablations(model, x)
    got = head_maps(found.attention[1], (4, 4), ablation=cut, untrained=found.attention[0])
    torch.testing.assert_close(got.maps.flatten(2), found.attention[1].weights[:, :, 0, 1:] * 17)
    torch.testing.assert_close(got.maps.flatten(2).sum(-1) / 17 + got.elsewhere, torch.ones(5, HEADS))
    assert got.ablation is cut.effects["blocks.1.attn"] and not math.isnan(got.entropy[0].null)
    assert all(math.isnan(number.value) for number in head_maps(found.attention[1], (4, 4)).ablation)


def test_one_scale_for_all():
    even, sharp = head_maps(known(), (4, 5), "centre"), head_maps(known(), (4, 5), 0)
    assert scale([]) == (0.0, 2.0) and scale([even, sharp])[1] == 21
    flat = Attention("a", torch.full((1, 2, 20, 20), 1 / 20), None)
    assert scale([head_maps(flat, (4, 5), 0)]) == (0.0, 2.0)  # noise around 1 must not fill the scale


def test_what_cannot_be_drawn_is_said():
    assert "no weights" in head_maps(Attention("x", None, None), (4, 5))
    assert "no class token" in head_maps(known(0), (4, 5))
    assert "no map" in head_maps(known(), (6, 6), "centre")
    with pytest.raises(InputError, match="0 to 19"):
        head_maps(known(), (4, 5), 20)
