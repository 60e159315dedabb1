"""Tokens, grid, pooled vector and output of models of all kinds."""

from types import SimpleNamespace

import pytest
import torch
from specimens import PATCH, SIDE, WIDTH, hugging, images
from torch import nn

from headwater import backbones
from headwater.observe.probe import undisturbed
from headwater.observe.reading import laid, read_all, reader, strides


@pytest.mark.parametrize(
    ("count", "size", "found"),
    [
        (16, (16, 16), (0, (4, 4))),
        (17, (16, 16), (1, (4, 4))),
        (21, (16, 16), (5, (4, 4))),
        (197, (224, 224), (1, (14, 14))),
        (8 * 8 * 4, (32, 32, 16), (0, (8, 8, 4))),
        (12, (16, 12), (0, (4, 3))),
        (32, (16, 16), (0, (8, 4))),
        (7, (), (0, (7,))),
    ],
)
def test_grid_and_what_stands_before_it(count, size, found):
    skip, grid = laid(count, size)
    assert (skip, torch.Size(grid).numel()) == (found[0], torch.Size(found[1]).numel())
    assert grid == found[1] or sorted(grid) == sorted(found[1])


def read(model, x, **told):
    with undisturbed(model):
        function, words = reader(model, x, **told)
        return read_all(function, [x[:2], x[2:]]), words


def test_a_backbone_of_ours_is_taken_at_its_word():
    model = backbones.build(family="resenc", size="nano", channels=1, ndim=2, seed=0)
    x = torch.randn(3, 1, 32, 32)
    found, _ = read(model, x)
    with torch.no_grad():
        true = model.eval()(x)
    assert found.grid == true.grid and found.output is None
    torch.testing.assert_close(found.tokens, true.tokens, rtol=1e-4, atol=1e-5)
    assert strides(found, (32, 32)) == tuple(model.stride)


@pytest.mark.parametrize("kind", ["ViTModel", "Dinov2Model"])
def test_tokens_after_the_last_norm_without_the_class_token(kind):
    model, x = hugging(kind), images(3)
    found, _ = read(model, x)
    with torch.no_grad():
        out = model(x)
    assert found.grid == (SIDE // PATCH, SIDE // PATCH)
    torch.testing.assert_close(found.tokens, out.last_hidden_state[:, 1:])
    assert strides(found, (SIDE, SIDE)) == (PATCH, PATCH)


def test_maps_of_convolutions_stand_on_their_grid():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, WIDTH, 3, 2, 1), nn.ReLU()).eval()
    found, _ = read(model, images(3))
    assert found.grid == (4, 4) and found.tokens.shape == (3, 16, WIDTH) and strides(found, (16, 16)) == (4, 4)


def test_what_the_user_says_is_read():
    x = images(3)
    model = nn.Conv2d(3, 5, 4, 4)
    whole, _ = read(model, x, features=lambda network, batch: network(batch))
    assert whole.grid == (4, 4) and whole.pooled.shape == (3, 5)
    rows, _ = read(model, x, features=lambda network, batch: network(batch).mean((2, 3)))
    assert rows.tokens.shape == (3, 1, 5) and strides(rows, (16, 16)) == (0, 0)
    named, _ = read(
        model, x, features=lambda network, batch: {"pooled": network(batch).mean((2, 3)), "output": batch.mean((2, 3))}
    )
    assert named.output.shape == (3, 3)
    object_, _ = read(
        model, x, features=lambda n, b: SimpleNamespace(tokens=n(b).flatten(2).mT, grid=(4, 4), pooled=n(b).mean((2, 3)))
    )
    torch.testing.assert_close(object_.tokens, whole.tokens)


def test_a_classifier_is_read_at_its_maps_and_its_logits_are_the_output():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1), nn.Flatten(), nn.Linear(12 * 16, 5)).eval()
    found, _ = read(model, images(3))
    assert found.tokens.shape == (3, 16, 12) and found.grid == (4, 4) and found.output.shape == (3, 5)


def test_the_class_token_is_the_output():
    model, x = hugging("ViTModel"), images(3)
    found, _ = read(model, x)
    with torch.no_grad():
        torch.testing.assert_close(found.output, model(x).last_hidden_state[:, 0])
