"""Rates that fall towards the first layers: every family's parameters find their layer."""

import pytest

from headwater import backbones
from headwater.transfer.layers import depths, shares


@pytest.mark.parametrize("family", sorted(backbones.FAMILIES))
def test_depth_grows_with_the_network(family):
    backbone = backbones.build(family, "nano", 1, 2, 4, seed=0)
    found = depths(backbone)
    assert set(found) == {name for name, _ in backbone.named_parameters()}
    layers = sorted(set(found.values()))
    assert layers == list(range(layers[0], layers[0] + len(layers))) and len(layers) >= 3 and layers[0] in (0, 1)
    told = shares(backbone, 0.5)
    assert max(told.values()) == 1.0 and all(told[n] == 0.5 ** (layers[-1] - d) for n, d in found.items())
    assert set(shares(backbone, 1.0).values()) == {1.0}


def test_known_places():
    vit = depths(backbones.build("vit", "nano", 1, 2, 4, seed=0))
    assert vit["embed.weight"] == 0 and vit["norm.weight"] == 6
    assert {d for n, d in vit.items() if n.startswith("stack.blocks.2.")} == {3}
    swin = depths(backbones.build("swin", "nano", 1, 2, 4, seed=0))
    assert swin["embed.weight"] == swin["hidden"] == 0
    assert {d for n, d in swin.items() if n.startswith(("stages.1.", "merges.0.", "norms.1."))} == {2}
    resenc = depths(backbones.build("resenc", "nano", 1, 2, 4, seed=0))
    assert resenc["stem.conv.weight"] == 0 and {d for n, d in resenc.items() if n.startswith("stages.3.")} == {3}, "one is empty"
