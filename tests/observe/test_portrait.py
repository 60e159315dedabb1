"""A backbone beside its start and beside pixels."""

import numpy as np
import pytest
import torch
from headwater import backbones
from headwater.observe import portrait
from headwater.observe.pairs import Pixels, probe_views
from headwater.streams import numpy_stream


def scans(ndim: int, count: int = 10) -> list[np.ndarray]:
    rng = numpy_stream(0, "portrait")
    return [rng.normal(size=(1, *[20 + (i % 3) * 2] * ndim)).astype(np.float16) for i in range(count)]


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_picture_has_its_tokens_at_its_place(ndim):
    backbone = backbones.build("resenc", "nano", 1, ndim, 4, seed=0)
    arrays = scans(ndim)
    backbone.train()
    found, explained = portrait.pictures(
        {"final": backbone, "pixels": Pixels(backbone.stride)}, arrays, backbone.stride, "fp32", (3, 5), (30, 26)
    )
    assert backbone.training, "the mode is given back"
    assert found["image"].shape == (2, 30, 26) and found["final"].shape == found["pixels"].shape == (2, 30, 26, 3)
    assert all(0 <= values.min() and values.max() <= 1 for name, values in found.items() if name != "image")
    assert all(len(v) == 3 and 0 < sum(v) <= 1 + 1e-6 for v in explained.values())
    plane = arrays[1][0] if ndim == 2 else arrays[1][0][:, :, 5]
    assert np.array_equal(found["image"][1, :22, :22], plane.astype(np.float32))
    assert (found["final"][1, 0:4, 0:4] == found["final"][1, 0, 0]).all(), "one colour for the voxels of a token"
    _, again = portrait.pictures({"final": backbone}, arrays, backbone.stride, "fp32", (3, 5), (30, 26))
    assert again["final"] == explained["final"]


def test_an_untrained_backbone_is_no_better_than_itself():
    backbone = backbones.build("resenc", "nano", 1, 2, 4, seed=0)
    probe = probe_views(scans(2, 16), (16, 16), backbone.stride, seed=0)
    found = portrait.compare(backbone, backbone, probe, [], "cva", "fp32")
    assert found["final"] == found["initial"] and found["verdict"]["state"] != "healthy"
    assert set(found["pixels"]) == {"pooled", "dense"} and found["shift_voxels"] > 0
    assert torch.is_grad_enabled()
