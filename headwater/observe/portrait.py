"""A trained backbone beside its own start and beside plain pixels: numbers and pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.observe import components
from headwater.observe.verdict import TRAINED, verdict
from headwater.observe.watch import Pixels, Probe, measure

REFERENCE = 16  # scans whose tokens define the colours


def compare(trained: nn.Module, initial: nn.Module, probe: Probe, history: Sequence[dict], objective: str, precision: str) -> dict[str, Any]:
    """Agreement of the trained, the untrained and no backbone on the same hard views, and the verdict."""
    found = {name: measure(network, probe, precision=precision) for name, network in (("final", trained), ("initial", initial), ("pixels", Pixels(probe.stride)))}
    judged = verdict(found["initial"], history, found["final"], TRAINED.get(objective, ("pooled", "dense")))
    return {**found, "verdict": {"state": judged.state, "sentence": judged.sentence}, "shift_voxels": max(probe.shift)}


@torch.no_grad()
def token_grid(backbone: nn.Module, array: np.ndarray, precision: str) -> Float[Tensor, "*G D"]:
    """Tokens of one whole scan (C, *S) on their grid, float32 on the CPU."""
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        features = backbone(torch.from_numpy(array.astype(np.float32))[None].to(device))
    return features.tokens[0].float().cpu().unflatten(0, features.grid)


def pictures(networks: dict[str, nn.Module], arrays: Sequence[np.ndarray], stride: Sequence[int], precision: str, shown: int = 6) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Middle slices of scans beside their tokens, coloured by the first three principal components of each network's tokens.

    Colours are fitted once per network on the tokens of the first 16 scans. In 3D the slice is across the last axis.

    Args:    networks: by name, such as final, initial, pixels. arrays: scans (C, *S).
    Returns: arrays for an npz: "image" (n, H, W), and for each network (n, H, W, 3) in [0, 1]; share of variance explained by name.
    """
    found: dict[str, list[np.ndarray]] = {"image": [_slice(a[0].astype(np.float32), a.ndim - 1) for a in arrays[:shown]]}
    explained = {}
    for name, network in networks.items():
        was = network.training
        grids = [token_grid(network.eval(), a, precision) for a in arrays[:REFERENCE]]
        network.train(was)
        fitted = components.fit(torch.cat([g.flatten(0, -2) for g in grids]))
        explained[name] = fitted.explained.tolist()
        found[name] = [_enlarge(_slice(components.rgb(fitted, g).numpy(), g.ndim - 1), stride, i.shape) for g, i in zip(grids, found["image"], strict=False)]
    size = np.max([i.shape for i in found["image"]], axis=0)
    return {name: np.stack([_pad(p, size) for p in values]) for name, values in found.items()}, explained


def _slice(picture: np.ndarray, ndim: int) -> np.ndarray:
    """The middle plane across the third axis; 2D as it is. Colours, if any, stay last."""
    return picture[:, :, picture.shape[2] // 2] if ndim == 3 else picture


def _enlarge(colours: np.ndarray, stride: Sequence[int], size: tuple[int, ...]) -> np.ndarray:
    """A token's colour over all its voxels."""
    return colours.repeat(stride[0], 0).repeat(stride[1], 1)[: size[0], : size[1]]


def _pad(picture: np.ndarray, size: np.ndarray) -> np.ndarray:
    """To a common size, with the darkest value."""
    wide = [(0, int(s) - n) for s, n in zip(size, picture.shape, strict=False)] + [(0, 0)] * (picture.ndim - 2)
    return np.pad(picture, wide, constant_values=picture.min())
