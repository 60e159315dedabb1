"""What a network says layer by layer: vectors and tokens of our backbones and of others, at the same places, and of pixels."""

import numpy as np
import pytest
import torch
from torch import nn

from headwater.backbones import build
from headwater.layerwise import CELLS, pixels, tell


def images(sizes: list[tuple[int, ...]], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, *size)).astype(np.float32) for size in sizes]


@pytest.mark.parametrize(("family", "layers"), [("resenc", 4), ("vit", 6)])
def test_layers_of_our_backbones(family, layers):
    backbone = build(family, ndim=2, seed=0).eval()
    shown = images([(32, 40), (36, 33)])
    told = tell(backbone, shown, dense=True)
    assert len(told.vectors) == layers + 1 and list(told.vectors)[-1] == "features"
    assert told.grids == [(8, 10), (9, 9)] and [len(c) for c in told.chosen] == [80, 81]
    with torch.no_grad():
        own = [backbone(torch.from_numpy(image)[None]) for image in shown]
    np.testing.assert_allclose(told.vectors["features"], torch.cat([o.pooled for o in own]).numpy(), atol=1e-5)
    np.testing.assert_allclose(told.dense["features"], torch.cat([o.tokens[0] for o in own]).numpy(), atol=1e-5)
    assert {len(rows) for rows in told.dense.values()} == {161}
    assert told.tokens.shape[:1] == (2,) and told.tokens.shape[1] <= CELLS
    if family == "resenc":
        np.testing.assert_allclose(told.vectors["stage 2"][0], own[0].pyramid[1][0].flatten(1).mean(1), atol=1e-5)
    else:  # the last block, before the last norm
        assert np.abs(told.vectors["block 6"] - told.vectors["features"]).max() > 1e-3


def test_places_are_drawn_where_tokens_are_many():
    shown = images([(96, 96)] * 4)
    told = tell(build("resenc", ndim=2, seed=0).eval(), shown, dense=True)
    assert all(len(set(c.tolist())) == 256 and c.max() < 576 for c in told.chosen)
    pixel = pixels(shown, told, dense=True)
    assert pixel.dense["pixels"].shape == (1024, 16) and pixel.vectors["pixels"].shape == (4, 1)


def test_cells_of_pixels_lie_where_the_tokens_do():
    shown = images([(8, 8)] * 4)
    told = tell(build("vit", ndim=2, seed=0).eval(), shown, dense=True)
    pixel = pixels(shown, told, dense=True)
    np.testing.assert_array_equal(pixel.dense["pixels"][1], shown[0][0, :4, 4:8].flatten())


class Others(nn.Module):
    """A transformer of torch's own on patches of 8 voxels, with a class token, as others write it."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(1, 32, 8, 8)
        self.start = nn.Parameter(torch.zeros(1, 1, 32))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3, enable_nested_tensor=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.cut(x).flatten(2).mT
        return self.encoder(torch.cat([self.start.expand(len(x), -1, -1), tokens], 1))


def test_layers_of_others():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Others().eval()
    told = tell(model, images([(32, 32)] * 3), dense=True)
    assert list(told.vectors) == ["block 1", "block 2", "block 3", "features"] and told.grids[0] == (4, 4)
    assert {rows.shape for rows in told.dense.values()} == {(48, 32)}
    np.testing.assert_allclose(told.dense["block 3"], told.dense["features"], atol=1e-5)
