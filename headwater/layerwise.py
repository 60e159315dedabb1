"""What a network says of images after every layer: one vector each, and tokens at places that all layers share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwater.backbones.features import Backbone
from headwater.device import machine
from headwater.observe.pairs import Pixels
from headwater.observe.probe import placed, undisturbed
from headwater.observe.reading import laid, reader
from headwater.observe.trace import trace
from headwater.progress import Progress, Silent
from headwater.streams import numpy_stream

PLACES, CELLS = 256, 128  # tokens of an image that structures are told from; that attention is laid over
COARSE = {2: 32, 3: 12}  # voxels per axis whose principal components are "pixels"
COMPONENTS = 64

Layer = tuple[Tensor, Tensor | None]  # vector (d,), map (D, *g) or None where tokens lie on no grid


@dataclass(frozen=True, eq=False)
class Told:
    """What one network says of n images. vectors: layer -> (n, d). tokens (n, N, D): averaged to few, None where there are none.
    dense: layer -> rows (R, d) at the places `chosen` of each image's token grid, in order of the images."""

    vectors: dict[str, np.ndarray]
    tokens: np.ndarray | None
    dense: dict[str, np.ndarray] = field(default_factory=dict)
    grids: list[tuple[int, ...]] = field(default_factory=list)
    chosen: list[np.ndarray] = field(default_factory=list)


def tell(
    network: nn.Module,
    arrays: Sequence[np.ndarray],
    dense: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    name: str = "",
) -> Told:
    """Runs the network on images (C, *S), of any sizes, one at a time. dense: tokens at up to 256 drawn places of each, too.

    Layers: the maps of a backbone that has several; else what follows each block. Last the network's own features.
    """
    network, parts, grids, chosen, cells = network.to(machine().device), [], [], [], []
    with (progress or Silent()).track(f"Features, {name}", len(arrays)) as advance, undisturbed(network):
        few = torch.from_numpy(arrays[0])[None].repeat(2, *[1] * arrays[0].ndim)
        read_last, _ = reader(network, placed(few, network))
        for i, array in enumerate(arrays):
            layers, grid = _layers(network, read_last, placed(torch.from_numpy(array)[None], network))
            count = int(np.prod(grid))
            cells = cells or [max(1, int(g * min(1.0, (CELLS / count) ** (1 / len(grid))))) for g in grid]
            grids.append(grid)
            chosen.append(np.sort(numpy_stream(seed, "places", i).permutation(count)[:PLACES]))
            parts.append(_kept(layers, grid, cells, chosen[i], dense and len(grid) == array.ndim - 1))
            advance(1)
    vectors = {layer: np.stack([part["vectors"][layer] for part in parts]) for layer in parts[0]["vectors"]}
    rows = {layer: np.concatenate([part["rows"][layer] for part in parts]) for layer in parts[0]["rows"]}
    tokens = np.stack([part["tokens"] for part in parts])
    return Told(vectors, tokens if tokens.shape[1] > 1 else None, rows, grids, chosen)


def pixels(arrays: Sequence[np.ndarray], beside: Told, dense: bool = False) -> Told:
    """No network: 64 principal components of the images brought to 32 x 32 or 12 x 12 x 12 voxels (found on all images, without
    targets), and the voxels of each token's cell at the same places."""
    from sklearn.decomposition import PCA

    axes = arrays[0].ndim - 1
    small = [F.interpolate(torch.from_numpy(a)[None], size=(COARSE[axes],) * axes, mode="area").flatten() for a in arrays]
    flat = torch.stack(small).double().numpy()
    components = max(1, min(COMPONENTS, len(flat) // 4, flat.shape[1]))
    vectors = PCA(components, svd_solver="full").fit_transform(flat)
    rows = []
    for array, grid, chosen in zip(arrays, beside.grids, beside.chosen, strict=True):
        if dense and beside.dense:
            stride = [-(-n // g) for n, g in zip(array.shape[1:], grid, strict=True)]
            rows.append(Pixels(stride)(torch.from_numpy(array)[None]).tokens[0].numpy()[chosen])
    wide = max((row.shape[1] for row in rows), default=0)
    rows = [np.pad(row, [(0, 0), (0, wide - row.shape[1])]) for row in rows]
    return Told({"pixels": vectors}, None, {"pixels": np.concatenate(rows)} if rows else {}, beside.grids, beside.chosen)


def _layers(network: nn.Module, read_last: Any, x: Tensor) -> tuple[dict[str, Layer], tuple[int, ...]]:
    """Vector and map after every block or stage of one image, the network's own features last, and their grid."""
    found: dict[str, Layer] = {}
    last = read_last(x)
    own = network(x) if isinstance(network, Backbone) else None
    if own is not None and len(own.pyramid) > 1:
        for k, level in enumerate(own.pyramid):
            found[f"stage {k + 1}"] = level[0].flatten(1).mean(1), level[0]
    else:
        streams = trace(network, x, attend=0).streams
        states = [(tokens[0], stream.grid) for stream in streams for tokens in stream.tokens]
        for k, (tokens, grid) in enumerate(states):
            skip, grid = (0, grid) if len(grid) > 1 else laid(len(tokens), tuple(x.shape[2:]))
            tokens = tokens[skip:]
            spread = tokens.T.unflatten(1, grid) if len(grid) == x.ndim - 2 else None
            found[f"block {k + 1}"] = tokens.mean(0), spread
    grid = tuple(last.grid)
    found["features"] = last.pooled[0], last.tokens[0].T.unflatten(1, grid) if len(grid) == x.ndim - 2 else None
    if found["features"][1] is None:
        found["features"] = last.pooled[0], last.tokens[0].T
    return {n: (v.float().cpu(), None if m is None else m.float().cpu()) for n, (v, m) in found.items()}, grid


def _kept(layers: dict[str, Layer], grid: tuple[int, ...], cells: list[int], chosen: np.ndarray, dense: bool) -> dict[str, Any]:
    """Of one image: all vectors, few averaged tokens of the last layer, and of every layer the chosen places of its grid."""
    tokens = _onto(layers["features"][1], cells)
    rows = {name: _onto(m, grid)[chosen] for name, (_, m) in layers.items() if dense and m is not None}
    return {"vectors": {name: v.numpy() for name, (v, _) in layers.items()}, "tokens": tokens, "rows": rows}


def _onto(level: Tensor, grid: Sequence[int]) -> np.ndarray:
    """A map (D, *g) averaged or linearly enlarged to a grid, as rows (N, D)."""
    if tuple(level.shape[1:]) != tuple(grid):
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]
        finer = [min(a, b) for a, b in zip(level.shape[1:], grid, strict=True)]
        level = F.interpolate(level[None], size=finer, mode="area")[0]
        level = level if finer == list(grid) else F.interpolate(level[None], size=list(grid), mode=mode)[0]
    return level.flatten(1).T.numpy()
