"""Sampling: bounded, without overlap, background out, labels at the centre."""

import numpy as np
import pytest

from headwater.scans.distribution.patches import (
    FLAT, PER_SCAN, Sample, around_centre, cut, gather, level, normal, patch_size, usual, witnesses,
)  # fmt: skip
from headwater.streams import numpy_stream


def scan(shape: tuple[int, ...], seed: int = 0, **more) -> Sample:
    return Sample(numpy_stream(seed, "scan").standard_normal((1, *shape)).astype(np.float32), (1.0,) * len(shape), **more)


@pytest.mark.parametrize(
    "shape, size",
    [((256, 320), (16, 16)), ((28, 28), (8, 8)), ((35, 50, 35), (8, 8, 8)), ((7, 5, 3), (2, 2, 1)), ((1, 40, 9), (1, 8, 4))],
)
def test_patch_size(shape, size):
    assert patch_size(shape) == size


@pytest.mark.parametrize("shape", [(40, 50), (20, 24, 17)])
def test_patches_do_not_overlap_and_come_from_the_scan(shape):
    number = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    sample = Sample(number, (1.0,) * len(shape))
    found = cut(sample, numpy_stream(0, "cut"))
    centre, scale = level(number, numpy_stream(0, "cut"))
    back = np.round(found.patches * scale[0].item() + centre[0].item(), 0).astype(int)
    assert len(found.patches) == min(PER_SCAN, np.prod(np.array(shape) // patch_size(shape)))
    assert len(np.unique(back)) == back.size  # no voxel twice
    assert back.min() >= 0 and back.max() < number.size


def test_every_voxel_can_be_drawn():
    seen = np.zeros(17 * 17, int)
    for seed in range(30):
        number = np.arange(17.0 * 17.0).reshape(1, 17, 17)
        found = cut(Sample(number, (1.0, 1.0)), numpy_stream(seed, "cut"))
        centre, scale = level(number, numpy_stream(seed, "level"))
        seen[np.unique(np.round(found.patches * scale.item() + centre.item()).astype(int))] += 1
    assert seen.min() > 0


@pytest.mark.parametrize("gain, offset", [(1.0, 0.0), (1e6, -3e5), (1e-4, 7.0)])
def test_intensity_scale_does_not_matter(gain, offset):
    one = scan((32, 32))
    other = Sample((one.array.astype(np.float64) * gain + offset), one.spacing)
    a, b = (cut(s, numpy_stream(0, "cut")) for s in (one, other))
    assert np.allclose(a.patches, b.patches, atol=1e-3)


def test_level_is_robust():
    array = numpy_stream(0, "level").standard_normal((1, 100, 100))
    hot = array.copy()
    hot[0, :3, :3] = 1e6
    for x in (array, hot):
        centre, scale = level(x, numpy_stream(0, "x"))
        assert abs(centre.item()) < 0.05 and 0.9 < scale.item() < 1.05
    rare = np.zeros((1, 100, 100))
    rare[0, 0, :10] = 1  # all but a thousandth is equal: that is the picture
    assert level(rare, numpy_stream(0, "x"))[1].item() == pytest.approx(rare.std())
    assert (normal(np.full((1, 4, 4), 3.3), *level(np.full((1, 4, 4), 3.3), numpy_stream(0, "x"))) == 0).all()


def test_background_is_counted_and_left_out():
    array = np.zeros((1, 64, 64), np.float32)
    array[0, :, 32:] = numpy_stream(0, "right").standard_normal((64, 32))
    found = cut(Sample(array, (1.0, 1.0)), numpy_stream(0, "cut"))
    assert (found.patches.reshape(len(found.patches), -1).std(axis=1) >= FLAT).all()
    assert found.tried == 16 and found.flat == 8


def test_labels_lie_at_the_centre():
    mask = np.zeros((40, 40), int)
    mask[10:30, 10:30] = 2
    mask[15:18, 15:18] = 5
    array = mask[None].astype(np.float32) + 0.01 * numpy_stream(0, "noise").standard_normal((1, 40, 40)).astype(np.float32)
    found = cut(Sample(array, (1.0, 1.0), mask), numpy_stream(0, "cut"))
    centre, scale = level(array, numpy_stream(0, "cut"))
    seen = np.round(found.centred[:, 0, 8, 8] * scale.item() + centre.item())
    assert (seen == found.values).all()
    values, counts = np.unique(found.values[found.by_value], return_counts=True)
    assert values.tolist() == [0, 2, 5] and counts[2] == 9 and counts[:2].min() > 9
    assert found.inside[found.values == 0].sum() == 0 and found.inside[found.values == 5].sum() >= 1


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 8, 8)), np.full((1, 8, 8), 7.1), np.full((1, 8, 8), np.nan), np.zeros((1, 0, 8)), np.zeros((1, 9)),
     np.ones((1, 2, 2, 2, 2)), 
     np.where(np.eye(8) > 0, np.inf, 1.0)[None]],
)  # fmt: skip
def test_nothing_to_draw_from(array):
    assert cut(Sample(array, (1.0,) * (array.ndim - 1)), numpy_stream(0, "cut")) is None


def test_many_channels_are_thinned():
    array = numpy_stream(0, "many").standard_normal((30, 16, 16))
    assert cut(Sample(array, (1.0, 1.0)), numpy_stream(0, "cut")).patches.shape[1] == 4


def test_one_odd_scan_does_not_shrink_the_patch():
    cuts = [cut(scan((32, 32), i), numpy_stream(i, "cut")) for i in range(20)]
    cuts += [cut(scan((9, 9), 99), numpy_stream(99, "cut")), cut(scan((16, 16, 16), 98), numpy_stream(98, "cut"))]
    used, patch = usual(cuts)
    assert patch == (16, 16) and len(used) == 20
    found = gather(used, patch, 50, numpy_stream(0, "gather"))
    assert found.array.shape == (50, 1, 16, 16) and found.units == 20 and found.flat.shape == (50, 256)


def test_cropping_keeps_the_centre():
    block = np.zeros((1, 1, 8, 16))
    block[0, 0, 4, 8] = 1
    small = around_centre(block, (2, 4))
    assert small.shape == (1, 1, 2, 4) and small[0, 0, 1, 2] == 1


def test_scans_of_a_subject_are_one_witness():
    cuts = [cut(scan((16, 16), i, subject=name), numpy_stream(i, "cut")) for i, name in enumerate(("a", "b", "a", None, None))]
    unit, units = witnesses(cuts)
    assert units == 4 and unit.tolist() == [0, 1, 0, 2, 3]
