"""The context curve finds how far the answer lies; how far networks look has closed forms."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headwater.errors import InputError
from headwater.scans.riddles import NAMES, riddle
from headwater.scans.store import Store
from headwater.streams import numpy_stream
from headwater.transfer import context, segment


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Fewer radii and trees."""
    monkeypatch.setattr(context, "RADII", 5)
    monkeypatch.setattr(context, "TREES", 20)


def store_of(pairs, spacing, names, subjects=None):
    """A store in memory of images (*S) and masks (*S)."""
    records, images, labels, at = [], [], [], 0
    for n, (image, mask) in enumerate(pairs):
        subject = f"s{n}" if subjects is None else subjects[n]
        records.append({"subject": subject, "split": "train", "labelled": True, "shape": image.shape, "image_at": at})
        records[-1]["label_at"] = at
        images.append(((image - image.mean()) / image.std()).astype(np.float16).ravel())
        labels.append(mask.astype(np.uint8).ravel())
        at += image.size
    values = tuple(range(len(names)))
    return Store(
        Path("nowhere"), "0", np.concatenate(images), np.concatenate(labels), spacing, "", "scan", 1, values, names, False,
        tuple(records),
    )  # fmt: skip


def riddles(kind, count, shape=(32, 64), spacing=(1.0, 1.0)):
    names = ("background", *NAMES[kind].values())
    return store_of([riddle(kind, 0, n, shape) for n in range(count)], spacing, names)


def test_means_over_boxes_count_nothing_outside():
    rng = numpy_stream(0, "boxes")
    x = rng.standard_normal((7, 5, 6))
    start = rng.integers(-4, 6, (40, 3))
    stop = start + rng.integers(1, 6, (40, 3))
    wide = np.pad(x, 12)
    whole = [
        wide[tuple(slice(a + 12, b + 12) for a, b in zip(*ends, strict=True))].mean() for ends in zip(start, stop, strict=True)
    ]
    np.testing.assert_allclose(context._means(context._table(x), start, stop), whole, atol=1e-12)


def test_what_a_texture_tells_is_near():
    found = context.curve(riddles("texture", 6), range(6), 0)
    assert found.saturation_mm < 6 and not found.blind
    assert min(found.error) < 0.12 < 0.45 < found.chance
    assert "as well from" in found.sentence


def test_lengths_are_in_what_the_scans_state():
    found = context.curve(replace(riddles("texture", 4), unit="pixels"), range(4), 0)
    assert found.unit == "pixels" and " pixels around it" in found.sentence and "mm" not in found.sentence


def test_what_a_mirror_tells_is_far(monkeypatch):
    monkeypatch.setattr(context, "RADII", 6)
    found = context.curve(riddles("symmetry", 16, (64, 64)), range(16), 0)
    near = [error for radius, error in zip(found.radius_mm, found.error, strict=True) if radius < 13]
    assert min(near) > 0.45 and min(found.error) < 0.4
    assert found.saturation_mm > 26 and not found.blind


def test_a_parity_is_too_hard_for_the_probe_and_that_is_said(monkeypatch):
    monkeypatch.setattr(context, "RADII", 3)
    found = context.curve(riddles("parity", 8), range(8), 0)
    assert ("agree", "differ") in found.blind and "says nothing" in found.sentence


def test_the_unit_is_mm(monkeypatch):
    monkeypatch.setattr(context, "RADII", 3)
    monkeypatch.setattr(context, "TREES", 4)
    scans = 5
    one = context.curve(riddles("texture", scans, (32, 32)), range(scans), 0)
    two = context.curve(riddles("texture", scans, (32, 32), (0.5, 0.5)), range(scans), 0)
    np.testing.assert_allclose(np.array(two.radius_mm) * 2, one.radius_mm)
    np.testing.assert_allclose([*two.error, two.saturation_mm * 2], [*one.error, one.saturation_mm], atol=1e-9)


def test_the_place_in_the_image_is_known_only_from_crops_that_hold_its_edge():
    rng, mask = numpy_stream(0, "noise"), np.zeros((24, 48), np.uint8)
    mask[:, 24:] = 1
    store = store_of([(rng.standard_normal((24, 48)), mask) for _ in range(8)], (1.0, 1.0), ("background", "right"))
    found = context.curve(store, range(8), 0)
    assert found.error[0] > 0.42 and found.low[0] < 0.5
    assert found.error[-1] < 0.2 and found.saturation_mm > 10


def test_labels_without_a_reason_are_blind(monkeypatch):
    monkeypatch.setattr(context, "RADII", 2)
    rng = numpy_stream(0, "without a reason")
    pairs = [(rng.standard_normal((24, 24)), rng.integers(0, 2, (24, 24))) for _ in range(6)]
    found = context.curve(store_of(pairs, (1.0, 1.0), ("background", "coin")), range(6), 0)
    assert found.blind == (("background", "coin"),) and 0.4 < found.chance < 0.6


def test_volumes_and_their_subjects(solid):
    found = context.curve(solid, solid.labelled[:5], 0)
    assert found.subjects == 5 and min(found.error) < 0.75 * found.chance
    assert all(low <= error <= high for low, error, high in zip(found.low, found.error, found.high, strict=True))
    assert found.plain()["radius_mm"] == found.radius_mm


def test_too_few_subjects_and_too_few_classes_are_refused():
    pairs = [riddle("texture", 0, n, (32, 32)) for n in range(5)]
    names = ("background", "along", "across")
    with pytest.raises(InputError, match="4 subjects, here are 1"):
        context.curve(store_of(pairs, (1.0, 1.0), names, ["same"] * 5), range(5))
    empty = [(image, np.zeros_like(mask)) for image, mask in pairs]
    with pytest.raises(InputError, match="two classes, here are 0"):
        context.curve(store_of(empty, (1.0, 1.0), names), range(5))


class Plain(nn.Module):
    """Convolutions of 3 x 3; then, if asked, the mean over the whole image beside them."""

    def __init__(self, depth, everywhere=False):
        super().__init__()
        self.convolutions = nn.Sequential(*(nn.Conv2d(1 if n == 0 else 4, 4, 3, padding=1) for n in range(depth)))
        self.everywhere = everywhere

    def forward(self, x):
        y = self.convolutions(x)
        return y + y.mean((2, 3), keepdim=True) * torch.arange(4)[:, None, None] if self.everywhere else y


@pytest.mark.parametrize("depth", [1, 3])
def test_convolutions_look_as_far_as_they_are_deep(depth):
    store = riddles("texture", 4, spacing=(0.5, 0.5))
    found = context.reach(Plain(depth), store, range(4))
    assert found.theoretical_mm == 0.5 * depth and 0 < found.effective_mm <= found.theoretical_mm


def test_a_mean_over_all_looks_everywhere():
    network = Plain(1, everywhere=True).train()
    assert context.reach(network, riddles("texture", 4), range(4)).theoretical_mm == math.inf
    assert network.training


@pytest.mark.parametrize(("family", "everything"), [("resenc", False), ("vit", True)])
def test_a_cnn_looks_some_way_and_a_vit_everywhere(flat, tiny, family, everything):
    network = segment.untrained("scratch", flat, tiny(2, f"backbone.family={family}"))
    found = context.reach(network, flat, flat.labelled, places=2)
    assert math.isinf(found.theoretical_mm) == everything
    assert 0 < found.effective_mm <= min(found.theoretical_mm, 32)
