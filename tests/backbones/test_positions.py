"""What an encoder without positions cannot know, what each encoding tells it, and what it must not depend on."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from headwater.backbones import ViT
from headwater.backbones.attention import Style
from headwater.backbones.patches import patchify, unpatchify
from headwater.backbones.positions import POSITIONS, angles, checked_spacing, coordinates, rotate
from headwater.backbones.vit import Stack
from headwater.errors import InputError

ENCODINGS = [name for name in POSITIONS if name != "none"]
every = pytest.mark.parametrize("positions", ENCODINGS)
GRIDS = pytest.mark.parametrize("grid", [(3, 4), (2, 3, 2)], ids=str)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stack_of(ndim, positions, **style):
    """Two blocks with weights so large that every place is felt."""
    torch.manual_seed(0)
    stack = Stack(ndim, 24, 2, 2, Style(positions=positions, **style)).eval()
    for p in stack.parameters():
        nn.init.normal_(p, 0.2 if p.ndim == 1 else 0, 0.3)
    return stack


# permutations: the dog bit the man


@GRIDS
@pytest.mark.parametrize("kernels", ["softmax", "mixed"])
def test_without_positions_order_is_nothing(grid, kernels):
    """f(Px) = P f(x), so a sentence and its inverse pool to the same vector."""
    stack, n = stack_of(len(grid), "none", kernels=kernels, registers=1), math.prod(grid)
    x = drawn(2, n, 24)
    for order in (torch.randperm(n, generator=torch.Generator().manual_seed(1)), torch.arange(n).flip(0)):
        y, shuffled = stack(x, grid), stack(x[:, order], grid)
        torch.testing.assert_close(shuffled, y[:, order], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(shuffled.mean(1), y.mean(1), atol=1e-4, rtol=1e-4)


@every
@GRIDS
def test_with_positions_order_is_something(positions, grid):
    stack, n = stack_of(len(grid), positions), math.prod(grid)
    x, order = drawn(2, n, 24), torch.randperm(n, generator=torch.Generator().manual_seed(1))
    y, shuffled = stack(x, grid), stack(x[:, order], grid)
    assert (shuffled - y[:, order]).norm() > 1e-2 * y.norm()
    assert (shuffled.mean(1) - y.mean(1)).norm() > 1e-3 * y.mean(1).norm()


@pytest.mark.parametrize("positions", [*ENCODINGS, "none"])
def test_the_dog_bit_the_man(positions):
    """A picture of three patches, and the same patches the other way round: one pooled vector only without positions."""
    torch.manual_seed(0)
    vit = ViT(2, 1, 24, 2, 2, 4, Style(positions=positions, reach=4))
    for p in vit.parameters():
        nn.init.normal_(p, 0.2 if p.ndim == 1 else 0, 0.3)
    sentence = drawn(1, 1, 4, 12)
    inverse = unpatchify(patchify(sentence, 4).flip(1), (1, 3), 4)
    same = torch.allclose(vit(sentence).pooled, vit(inverse).pooled, atol=1e-4, rtol=1e-4)
    assert same == (positions == "none")
    assert not torch.allclose(vit(sentence).tokens, vit(inverse).tokens, atol=1e-2)


# differences of places


@pytest.mark.parametrize(
    ("positions", "moves"), [("rotary", False), ("relative", False), ("sinusoidal", True), ("learned", True)]
)
@pytest.mark.parametrize("kernels", ["softmax", ("cosine", "sigmoid")])
def test_rotary_and_relative_know_differences_only(positions, moves, kernels):
    """The same tokens kept in one corner of a grid, or in another: all coordinates shifted."""
    grid, stack = (6, 7), stack_of(2, positions, kernels=kernels)
    index = torch.arange(42).view(grid)
    places = [index[i : i + 3, j : j + 2].flatten()[None] for i, j in ((0, 0), (3, 5), (1, 2))]
    x = drawn(1, 6, 24)
    first, *others = (stack(x, grid, kept) for kept in places)
    for y in others:
        assert torch.allclose(y, first, atol=1e-4, rtol=1e-4) != moves


@pytest.mark.parametrize("ndim", [2, 3])
def test_turned_products_depend_on_differences_of_places_alone(ndim):
    q, k = drawn(2, 1, 1, 1, 32).double()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 20, (2, 64, ndim), generator=generator)
    shift = torch.randint(-50, 50, (64, ndim), generator=generator)

    def score(p, r):
        turns = [angles(places[None].double(), 32)[:, None] for places in (p, r)]
        left, right = (rotate(v.expand(1, 1, 64, 32), t.cos(), t.sin()) for v, t in zip((q, k), turns, strict=True))
        return (left * right).sum(-1)

    torch.testing.assert_close(score(a, b), score(a + shift, b + shift), atol=1e-4, rtol=1e-4)
    for axis in range(ndim):  # every axis is seen
        step = torch.zeros(ndim, dtype=torch.long)
        step[axis] = 1
        assert (score(a, b) - score(a, b + step)).abs().max() > 0.05


def test_rotation():
    """Lengths stay; what the pairs leave over stays; the fastest pair of each axis turns by one radian per token."""
    x, turn = drawn(2, 3, 12, 20), angles(coordinates((2, 2, 3)), 20)
    y = rotate(x, turn.cos()[None, None], turn.sin()[None, None])
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[..., 18:], x[..., 18:]) and turn.shape == (12, 9)
    assert torch.equal(turn[:, ::3], coordinates((2, 2, 3)).float())


def test_coordinates_follow_the_flattened_grid():
    grid = (2, 3, 4)
    index = torch.arange(24).view(grid)
    assert all(int(index[tuple(place)]) == n for n, place in enumerate(coordinates(grid).tolist()))
    assert coordinates((5,)).shape == (5, 1)


# spacing


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
@pytest.mark.parametrize("ratio", [(2, 2), (1, 3)])
def test_thicker_tokens_stand_further_apart(positions, ratio):
    """Tokens of doubled spacing on half the grid get what every other token of the whole grid got."""
    stack, fine, coarse = stack_of(2, positions), (4, 6), (4 // ratio[0], 6 // ratio[1])
    every_other = torch.arange(24).view(fine)[:: ratio[0], :: ratio[1]].flatten()[None]
    x = drawn(1, math.prod(coarse), 24)
    expected, unaware = stack(x, fine, every_other), stack(x, coarse)
    stack.positions.spacing = checked_spacing(ratio, 2)
    torch.testing.assert_close(stack(x, coarse), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(unaware, expected, atol=1e-2)


def test_spacing_of_a_backbone():
    vit = ViT(3, 1, 24, 1, 2)
    assert vit.spacing == (1.0, 1.0, 1.0)
    vit.spacing = (1, 1, 2.5)
    assert vit.spacing == vit.stack.positions.spacing == (1.0, 1.0, 2.5)
    for wrong in ((1, 1), (1, 1, 0), (1, 1, -2), (1, 1, math.nan), (1, 1, math.inf)):
        with pytest.raises(InputError, match="give 3 positive ratios"):
            vit.spacing = wrong


# each encoding by its formula


@GRIDS
def test_sinusoidal_by_hand(grid):
    d, width = len(grid), 26
    pairs = width // (2 * d)
    x = POSITIONS["sinusoidal"](d, width, 2).add(torch.zeros(1, math.prod(grid), width), grid, None)[0]
    for n, place in enumerate(product(*map(range, grid))):
        turns = [p * 100 ** (-k / pairs) for p in place for k in range(pairs)]
        row = [*map(math.sin, turns), *map(math.cos, turns)]
        torch.testing.assert_close(x[n], torch.tensor(row + [0.0] * (width - len(row))))


def test_learned_is_its_table_where_it_was_learned():
    learned = POSITIONS["learned"](2, 6, 1, (2, 3))
    x, kept = drawn(2, 6, 6), torch.tensor([[1, 4, 5], [0, 2, 3]])
    assert torch.equal(learned.add(x, (2, 3), None), x + learned.table)
    assert torch.equal(learned.add(x[:, :3], (2, 3), kept), x[:, :3] + learned.table[kept])


@pytest.mark.parametrize(("own", "other"), [((8, 8), (8, 16)), ((6, 8), (12, 4)), ((6, 6, 6), (12, 6, 3))], ids=str)
def test_learned_is_resampled_to_other_grids(own, other):
    """A table linear in the place is linear on every grid over the same field, edges aside; and kept rows are rows of it."""

    def field(grid):
        axes = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
        return sum((i + 1) * axis for i, axis in enumerate(axes)).flatten()[:, None]

    learned = POSITIONS["learned"](len(own), 1, 1, own)
    learned.table.data = field(own)
    n = math.prod(other)
    y = learned.add(torch.zeros(1, n, 1), other, None)[0]
    places = coordinates(other)
    inner = torch.ones(n, dtype=torch.bool)
    for axis, (a, b) in enumerate(zip(own, other, strict=True)):
        at = (places[:, axis] + 0.5) / b * a
        inner &= (at > 2) & (at < a - 2)
    assert inner.any()
    torch.testing.assert_close(y[inner], field(other)[inner], atol=2e-2, rtol=0)
    kept = torch.tensor([[0, n - 1, 3]])
    assert torch.equal(learned.add(torch.zeros(1, 3, 1), other, kept)[0], y[kept[0]])
    y.sum().backward()
    assert learned.table.grad.abs().min() > 0


@pytest.mark.parametrize("smooth", [True, False])
def test_antialias_removes_what_a_coarse_grid_cannot_hold(smooth):
    """A chequerboard of single tokens, sampled at every third, is a chequerboard again unless it is smoothed first."""
    stack = Stack(2, 4, 0, 1, Style(positions="learned", reach=12, antialias=smooth))
    stack.positions.table.data = ((-1.0) ** coordinates((12, 12)).sum(-1))[:, None].expand(-1, 4)
    y = stack(torch.zeros(1, 16, 4), (4, 4)).abs()
    assert (y.max() < 0.3) if smooth else (y.min() > 0.9)
    solid = Stack(3, 4, 0, 1, Style(positions="learned", reach=4, antialias=smooth))  # not known in 3D: trilinear
    assert solid(torch.zeros(1, 8, 4), (2, 2, 2)).shape == (1, 8, 4)


@pytest.mark.parametrize(("grid", "reach"), [((2, 3), (2, 4)), ((3, 3), (3, 3)), ((2, 1, 2), (3, 1, 2))], ids=str)
def test_relative_by_hand(grid, reach):
    relative = POSITIONS["relative"](len(grid), 8, 2, reach)
    cos, sin, bias = relative.relate(grid, None, 1, torch.device("cpu"))
    table = relative.table.view(*(2 * r - 1 for r in reach), 2)
    assert cos is None and sin is None and bias.shape == (1, 2, math.prod(grid) + 1, math.prod(grid) + 1)
    assert not bias[:, :, 0].any() and not bias[:, :, :, 0].any()  # the register has no place
    places = list(product(*map(range, grid)))
    for (i, a), (j, b) in product(enumerate(places), enumerate(places)):
        apart = tuple(x - y + r - 1 for x, y, r in zip(a, b, reach, strict=True))
        assert torch.equal(bias[0, :, 1 + i, 1 + j], table[apart])
    kept = torch.tensor([[0, len(places) - 1]])
    chosen = relative.relate(grid, kept, 0, torch.device("cpu"))[2]
    assert torch.equal(chosen[0], bias[0, :, 1:, 1:][:, kept[0]][:, :, kept[0]])


def test_registers_are_not_turned():
    cos, sin, bias = POSITIONS["rotary"](2, 16, 2).relate((2, 3), torch.tensor([[5, 1]]), 2, torch.device("cpu"))
    assert bias is None and cos.shape == sin.shape == (1, 1, 4, 4)
    assert (cos[:, :, :2] == 1).all() and not sin[:, :, :2].any() and sin[:, :, 2:].any()
    turn = angles(coordinates((2, 3)), 8)[[5, 1]]
    torch.testing.assert_close(cos[0, 0, 2:], turn.cos())


# what cannot be


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: POSITIONS["rotary"](3, 8, 4), "heads of 2 channels are too narrow for 3D rotary positions: use 1 heads"),
        (lambda: POSITIONS["rotary"](2, 14, 7), "use 2 heads"),
        (lambda: POSITIONS["rotary"](3, 5, 1), "use width 6"),
        (lambda: POSITIONS["sinusoidal"](3, 5, 1), "width 5 is too narrow for 3D sinusoidal positions: use 6 or more"),
        (lambda: POSITIONS["learned"](3, 8, 1, (4, 4)), "reach 4 x 4: give 3 numbers of tokens"),
        (lambda: POSITIONS["relative"](2, 8, 1, 0), "reach 0 x 0: give 2"),
        (
            lambda: ViT(2, 1, 8, 1, 1, 4, Style(positions="relative", reach=2))(torch.zeros(1, 1, 8, 20)),
            r"relative positions reach 2 x 2 tokens, these images have 2 x 5: .* Style\(reach=5\)",
        ),
    ],
)
def test_places_that_cannot_be(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_the_setting_an_error_names_works():
    vit = ViT(2, 1, 8, 1, 1, 4, Style(positions="relative", reach=5))
    assert vit(torch.zeros(1, 1, 8, 20)).grid == (2, 5)
    POSITIONS["rotary"](3, 8, 1), POSITIONS["rotary"](2, 14, 2), POSITIONS["rotary"](3, 6, 1)
