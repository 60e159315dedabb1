"""Batches of a segmenter: a function of seed and step, image and mask as one, nothing taught from outside a scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headwater.transfer import adapt, batches
from headwater.views.spatial import Placement, draw_placements, to_scan


def test_batches_are_a_function_of_step_and_seed(solid, tiny):
    few, settings = adapt.drawn(solid, 0, 2, 0), tiny(3)
    first, second = (batches.batch_at(3, solid, few, settings, 9) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], batches.batch_at(4, solid, few, settings, 9)[0])
    images, masks = first
    assert images.shape == (2, 1, 24, 24, 24) and masks.shape == (2, 24, 24, 24) and masks.dtype == torch.int64
    assert set(masks.unique().tolist()) <= {*range(solid.classes), 255} and torch.isfinite(images).all()


def test_image_and_mask_move_together(flat, tiny):
    """A scan that is its own mask stays so under the geometry of a batch, mirrored or not, but for voxels at a border."""
    settings = tiny(2, "adapt.geometry=1", "adapt.intensity=0", "adapt.mirror=0,1")
    store = replace(flat, images=np.array(flat.labels, np.float16))  # one channel, all labelled: the same places in the file
    for step in range(5):
        images, masks = batches.batch_at(step, store, flat.labelled[:3], settings, 0)
        known = masks < flat.classes
        assert ((images[:, 0] - masks)[known].abs() < 0.5).float().mean() > 0.9 and known.float().mean() > 0.5


def test_mirroring_happens_along_the_axes_told_only(flat, tiny):
    plain = tiny(2, "adapt.geometry=0", "adapt.intensity=0", "adapt.patch=32,32")
    mirrored = tiny(2, "adapt.geometry=0", "adapt.intensity=0", "adapt.patch=32,32", "adapt.mirror=1")
    seen = set()
    for step in range(8):
        pairs = zip(*(batches.batch_at(step, flat, flat.labelled[:2], s, 0)[0] for s in (plain, mirrored)), strict=True)
        for one, other in pairs:
            flipped = torch.equal(one.flip(2), other)
            assert flipped or torch.equal(one, other)
            seen.add(flipped)
    assert seen == {False, True}


@pytest.mark.parametrize("ndim", [2, 3])
def test_outside_is_what_no_voxel_of_the_scan_shows(ndim):
    shape, size = (9, 14, 11)[:ndim], (12, 8, 10)[:ndim]
    for placement in draw_placements(np.random.default_rng(0), [shape] * 6, size, rotation=40, scale=(0.7, 1.6), probability=1):
        points = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, ndim).astype(float)
        there = to_scan(placement, points)
        margin = np.abs(np.concatenate([there + 0.5, there - (np.array(shape) - 0.5)], 1)).min(1)
        beyond = ((there < -0.5) | (there > np.array(shape) - 0.5)).any(1)
        sure = margin > 1e-4
        assert np.array_equal(batches.outside(placement, shape).numpy().ravel()[sure], beyond[sure]) and beyond.any()
    within = Placement((4.5, 6.5, 5.5)[:ndim], tuple(map(tuple, np.eye(ndim))), (4, 4, 4)[:ndim])
    assert not batches.outside(within, shape).any()


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_scan_smaller_than_the_patch_is_shown_whole_and_the_rest_does_not_count(flat, solid, tiny, ndim):
    store, side = (flat, 32) if ndim == 2 else (solid, 24)
    settings = tiny(ndim, "adapt.geometry=0", "adapt.intensity=0", "adapt.patch=" + ",".join(["40"] * ndim))
    scan = store.labelled[0]
    images, masks = batches.batch_at(0, store, [scan], settings, 0)
    for image, mask in zip(images, masks, strict=True):
        known = mask < store.classes
        assert known.sum() == side**ndim and set(mask[~known].tolist()) == {255}
        assert np.array_equal(mask[known].numpy(), np.asarray(store.label(scan)).ravel())
        assert np.array_equal(image[0][known].numpy(), np.asarray(store.image(scan)[0], np.float32).ravel())
        assert image[0][~known].std() > 0.1, "reflected, not empty"


def test_turns_are_rigid_in_millimetres_at_1_to_10(solid, tiny, monkeypatch):
    seen, place = [], batches.place
    monkeypatch.setattr(batches, "place", lambda array, p, **more: seen.append(p) or place(array, p, **more))
    settings = tiny(3, "adapt.geometry=1", "adapt.scale=1,1", "adapt.patch=8,16,16")
    store = replace(solid, spacing=(10.0, 1.0, 1.0))
    images, masks = batches.batch_at(0, store, store.labelled[:2], settings, 0)
    assert torch.isfinite(images).all() and (masks < store.classes).any()
    for placement in seen:
        turn = np.diag(store.spacing) @ np.array(placement.matrix) @ np.diag(1 / np.array(store.spacing))
        assert turn @ turn.T == pytest.approx(np.eye(3), abs=1e-9) and not np.allclose(turn, np.eye(3))


def test_the_share_of_patches_about_a_structure_is_kept_in_every_batch():
    rng = np.random.default_rng(0)
    for share, batch in ((0.5, 2), (1 / 3, 2), (0.3, 5), (0.0, 3), (1.0, 3)):
        counts = [sum(batches.about_structure(k, share, u) for k in range(batch)) for u in rng.random(800)]
        assert set(counts) <= {int(share * batch), int(np.ceil(share * batch))}
        assert np.mean(counts) == pytest.approx(share * batch, abs=0.06)


def test_patches_about_structures_hold_each_equally_often_and_stay_inside(solid):
    rng, shape = np.random.default_rng(0), solid.shape(0)
    label, eye, found = np.asarray(solid.label(0)), tuple(map(tuple, np.eye(3))), []
    for _ in range(200):
        centre = batches.centred(solid, 0, Placement((11.5,) * 3, eye, (4, 4, 4)), rng)
        first = [round(c - 1.5) for c in centre]
        assert all(0 <= f <= n - 4 for f, n in zip(first, shape, strict=True))
        cut = label[tuple(slice(f, f + 4) for f in first)]
        assert (cut > 0).any()
        if all(0 < f < n - 4 for f, n in zip(first, shape, strict=True)):
            found.append(int(cut[2, 2, 2]))
    counts = np.bincount(found, minlength=solid.classes)
    assert counts[0] == 0 and (counts[1:] > 0.15 * len(found)).all(), "each structure as often as the others"
    wide = Placement((3.5, 11.5, 20.5), eye, (30, 24, 8))
    centre = batches.centred(solid, 0, wide, rng)
    assert centre[:2] == wide.centre[:2], "an axis on which the scan is no longer than the patch stays"


def test_without_foreground_patches_lie_anywhere(solid, tiny):
    empty = replace(solid, labels=np.zeros_like(solid.labels))
    placement = Placement((11.5,) * 3, tuple(map(tuple, np.eye(3))), (8, 8, 8))
    assert batches.places(empty, 0) == {} and batches.centred(empty, 0, placement, np.random.default_rng(0)) == placement.centre
    ignored = replace(solid, labels=np.full_like(solid.labels, 255))
    assert batches.places(ignored, 0) == {}
    settings = tiny(3, "adapt.patch=16,16,16", "adapt.foreground=1")
    images, masks = batches.batch_at(0, empty, solid.labelled[:1], settings, 0)
    assert torch.isfinite(images).all() and not masks[masks < solid.classes].any()


def test_places_of_a_large_structure_are_some_of_them(solid, monkeypatch):
    monkeypatch.setattr(batches, "MOST", 50)
    store = replace(solid)  # another store to remember
    there, label = batches.places(store, 0), np.asarray(store.label(0))
    assert sorted(there) == [1, 2, 3]
    for c, voxels in there.items():
        assert len(voxels) == min(50, (label == c).sum()) and (label[tuple(voxels.T)] == c).all()
        assert len(np.unique(voxels, axis=0)) == len(voxels)
    assert batches.unknown(255) == 255 and batches.unknown(256) == 65535
