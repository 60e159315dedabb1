"""A trained backbone beside its own start and beside plain pixels: numbers and pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.observe import components
from headwater.observe.look import measure
from headwater.observe.pairs import Pixels, Probe
from headwater.observe.verdict import TRAINED, verdict

REFERENCE = 16  # scans whose tokens define the colours
MOST = 4096  # tokens of each of them


def compare(
    trained: nn.Module, initial: nn.Module, probe: Probe, history: Sequence[dict], objective: str, precision: str
) -> dict[str, Any]:
    """Agreement of the trained, the untrained and no backbone on the same hard views, and the verdict."""
    found = {
        name: measure(network, probe, precision=precision)
        for name, network in (("final", trained), ("initial", initial), ("pixels", Pixels(probe.stride)))
    }
    judged = verdict([found["initial"], *history, found["final"]], TRAINED.get(objective, ("pooled", "dense")))
    sentence = judged.sentence
    plain, dense = (found[name]["dense"]["reliability"] for name in ("pixels", "final"))
    if plain > dense:
        sentence += f" Plain pixels agree more on these views ({plain:.2f}): stability is not usefulness, which labels decide."
    return {**found, "verdict": {"state": judged.state, "sentence": sentence}, "shift_voxels": max(probe.shift)}


@torch.no_grad()
def token_grid(backbone: nn.Module, array: np.ndarray, precision: str) -> Float[Tensor, "*G D"]:
    """Tokens of one whole scan (C, *S) on their grid, float32 on the CPU."""
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    x = thick(torch.from_numpy(array.astype(np.float32))[None], getattr(backbone, "stride", (1,) * (array.ndim - 1))).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        features = backbone(x)
    return features.tokens[0].float().cpu().unflatten(0, features.grid)


def thick(x: Float[Tensor, "B C *S"], least: Sequence[int]) -> Float[Tensor, "B C *R"]:
    """The image, continued with zeros at the high end of an axis that is shorter than a token."""
    wide = [max(0, s - n) for n, s in zip(x.shape[2:], least, strict=True)]
    return nn.functional.pad(x, [side for w in reversed(wide) for side in (0, w)]) if any(wide) else x


def pictures(
    networks: dict[str, nn.Module],
    arrays: Sequence[np.ndarray],
    stride: Sequence[int],
    precision: str,
    planes: Sequence[int] = (),
    size: tuple[int, int] | None = None,
    shown: int = 6,
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Slices of scans beside their tokens, coloured by the first three principal components of each network's tokens.

    Colours are fitted once per network on the tokens of the first 16 scans. In 3D a slice is across the last axis.

    Args:    networks: by name, such as final, initial, pixels. arrays: scans (C, *S). planes: which slice of each scan
             (default: the middle one). size: of all pictures, at least (default: the largest of them).
    Returns: arrays for an npz: "image" (n, H, W), and by network (n, H, W, 3) in [0, 1]; explained shares of variance by network.
    """
    planes = list(planes) or [a.shape[-1] // 2 for a in arrays[:shown]]
    middles = [a.shape[-1] // 2 for a in arrays[len(planes) :]]
    parts = [_block(a, p, stride) for a, p in zip(arrays[:REFERENCE], [*planes, *middles], strict=False)]
    images = [_slice(a[0].astype(np.float32), p, a.ndim - 1) for a, p in parts[: min(shown, len(planes))]]
    found, explained = {"image": images}, {}
    for name, network in networks.items():
        was, rows, colours = network.training, [], []
        network.eval()
        for at, (array, plane) in enumerate(parts):
            grid = token_grid(network, array, precision)
            flat = grid.flatten(0, -2)
            rows.append(flat[:: max(1, len(flat) // MOST)])
            if at < len(images):
                colours.append(_slice(grid.numpy(), plane // stride[-1], grid.ndim - 1).copy())
        network.train(was)
        fitted = components.fit(torch.cat(rows))
        explained[name] = fitted.explained.tolist()
        painted = [components.rgb(fitted, torch.from_numpy(c)).numpy() for c in colours]
        found[name] = [_enlarge(p, stride, i.shape) for p, i in zip(painted, images, strict=True)]
    largest = np.max([i.shape for i in images] + ([size] if size else []), axis=0).tolist()
    return {name: np.stack([pad(p, largest) for p in values]) for name, values in found.items()}, explained


def _block(array: np.ndarray, plane: int, stride: Sequence[int]) -> tuple[np.ndarray, int]:
    """What fits into memory of a large scan around a plane, starting at a whole token, and the plane's place in it."""
    most = 160 if array.ndim == 4 else 1024
    middles = [n // 2 for n in array.shape[1:-1]] + [plane if array.ndim == 4 else array.shape[-1] // 2]
    first = [max(0, min(m - most // 2, n - most)) // s * s for m, n, s in zip(middles, array.shape[1:], stride, strict=True)]
    return array[(slice(None), *(slice(f, f + most) for f in first))], plane - first[-1]


def _slice(picture: np.ndarray, plane: int, ndim: int) -> np.ndarray:
    """A plane across the third axis; 2D as it is. Colours, if any, stay last."""
    return picture[:, :, plane] if ndim == 3 else picture


def _enlarge(colours: np.ndarray, stride: Sequence[int], size: tuple[int, ...]) -> np.ndarray:
    """A token's colour over all its voxels."""
    return colours.repeat(stride[0], 0).repeat(stride[1], 1)[: size[0], : size[1]]


def pad(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """To a common size, at the high end, with the darkest value."""
    wide = [(0, int(s) - n) for s, n in zip(size, picture.shape, strict=False)] + [(0, 0)] * (picture.ndim - 2)
    return np.pad(picture, wide, constant_values=picture.min())
