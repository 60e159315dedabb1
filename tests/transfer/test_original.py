"""A few planes at a time is the same as all at once: probabilities resampled to the file, decided there."""

import tracemalloc

import numpy as np
import pytest
import torch

from headwater.scans import resampling
from headwater.scans.resampling import Geometry
from headwater.transfer import original
from headwater.transfer.task import Task

CLASSES = Task((0, 3, 9), ("background", "a", "b"))
REGIONS = Task((0, 1, 2), ("background", "a", "b"), ((1, 2), (2,)))


def geometry(step):
    """A tilted, cropped grid; step: voxels of the file per prepared voxel."""
    box = ((3, 27), (0, 17), (2, 22))
    size = resampling.sizes(tuple(b - a for a, b in box), step)
    return Geometry((19, 30, 23), (1, 0, 2), (True, False, True), ((3, 27), (0, 17), (2, 22)), step, size)


def smooth(task, shape):
    rng = torch.Generator().manual_seed(0)
    coarse = 6 * torch.randn((1, task.logits, *[max(2, n // 3) for n in shape]), generator=rng)
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]


def pieces(scores, axis, sizes):
    at = 0
    for part in scores.split(sizes, 1 + axis):
        yield at, part
        at += part.shape[1 + axis]


@pytest.mark.parametrize("task", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("step", [(1.0, 1.0, 1.0), (0.5, 1.0, 1.7), (2.5, 1.3, 1.0), (0.31, 3.0, 0.8)])
@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("memory", [2.0, 1e-9])
def test_same_as_all_at_once(task, step, axis, memory):
    how = geometry(step)
    scores = smooth(task, how.size)
    fill = (0.0, 0.0) if task.regions else (1.0, 0.0, 0.0)
    whole = resampling.back(task.probabilities(scores).numpy(), how, fill)
    if not task.regions:
        np.testing.assert_allclose(whole.sum(0), 1, atol=1e-5)
    seen = np.full((task.logits, *(b - a for a, b in how.box)), np.nan, np.float32)

    def keep(box, found):
        assert np.isnan(seen[(slice(None), *box)]).all()
        seen[(slice(None), *box)] = found

    mask = original.decided(pieces(scores, axis, 5), axis, how, task, memory, keep)
    np.testing.assert_allclose(resampling.back(seen, original.unscaled(how), fill), whole, atol=1e-6)
    assert mask.dtype == np.uint8 and mask.shape == how.shape
    expected = task.decide(whole, probable=True)
    assert (mask != expected).mean() < 1e-3  # ties of rounding
    assert len(np.unique(mask)) == 3


def test_pictures():
    how = Geometry((40, 30), (0, 1), (False, True), ((0, 40), (0, 30)), (2.0, 0.5), (20, 60))
    scores = smooth(CLASSES, (20, 60, 2))[..., 0]
    whole = CLASSES.decide(resampling.back(CLASSES.probabilities(scores).numpy(), how), probable=True)
    assert (original.decided(pieces(scores, 1, 7), 1, how, CLASSES, 2.0) != whole).mean() < 1e-3


def test_scores_that_are_not_finite_are_named():
    scores = smooth(CLASSES, (20, 17, 20))
    scores[0, 3, 3, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        original.decided(pieces(scores, 0, 20), 0, geometry((1.2, 1.0, 1.0)), CLASSES, 2.0)


def test_planes_on_their_way_keep_to_their_memory():
    """A file ten times as fine: all probabilities would be 20 MiB."""
    size, shape = (12,) * 3, (120,) * 3
    how = Geometry(shape, (0, 1, 2), (False,) * 3, tuple((0, n) for n in shape), (10.0,) * 3, size)
    scores = smooth(CLASSES, size)
    tracemalloc.start()
    original.decided(pieces(scores, 0, 5), 0, how, CLASSES, 2 / 1024)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert peak < 2 * 120**3 / 2**20 + 2 + 2  # the mask and its way back, 2 MiB of planes and what one plane needs on top
