"""The views of a step: a function of (seed, step, sample), of nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headwater import settings
from headwater.errors import InputError
from headwater.views import make_views

HOW = {2: settings.Views(parent=(20, 24), crop=(12, 16)), 3: settings.Views(parent=(20, 24, 18), crop=(12, 16, 10))}
ROUGH = {d: replace(how, geometry=0.7, intensity=2.0, mirror=(0,)) for d, how in HOW.items()}


def scans(d, count=3, channels=1):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((channels, *(17 + i, 25 - i, 19)[:d])).astype(np.float16) for i in range(count)]


@pytest.mark.parametrize("d", [2, 3])
def test_shapes_and_counts(d):
    stride = (4,) * d
    views = make_views(scans(d, channels=2), HOW[d], seed=0, step=5, stride=stride)
    crop = HOW[d].crop
    grid = tuple(-(-c // 4) for c in crop)
    assert views.x.shape == (2, 3, 2, *crop) and views.x.dtype == torch.float32 and views.x.isfinite().all()
    assert views.boxes.shape == (2, 3, d, 2) and views.keep.shape == (2, 3, *grid)
    assert len(views.keep.flatten(2).sum(2).unique()) == 1
    assert make_views(scans(d), HOW[d], seed=0, step=5).keep is None
    assert make_views(scans(d), replace(HOW[d], mask_ratio=0.0), seed=0, step=5, stride=stride).keep is None
    assert views.to("cpu").x.equal(views.x)


@pytest.mark.parametrize("d", [2, 3])
def test_a_sample_does_not_depend_on_its_batch(d):
    given, at = scans(d), {"seed": 3, "step": 7, "stride": (4,) * d}
    both = make_views(given, ROUGH[d], **at)
    alone = make_views(given[2:], ROUGH[d], samples=[2], **at)
    assert both.x[:, 2:].equal(alone.x) and both.boxes[:, 2:].equal(alone.boxes) and both.keep[:, 2:].equal(alone.keep)


def test_seed_and_step_decide():
    first, again, step, seed = (
        make_views(scans(2), HOW[2], seed=a, step=b, stride=(4, 4)) for a, b in [(0, 1), (0, 1), (0, 2), (1, 1)]
    )
    assert first.x.equal(again.x) and first.keep.equal(again.keep)
    assert not first.x.equal(step.x) and not first.x.equal(seed.x)


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    make_views(scans(2), ROUGH[2], seed=0, step=0)
    assert state.equal(torch.get_rng_state()) and np.array_equal(other, np.random.get_state()[1])


@pytest.mark.parametrize("d", [2, 3])
def test_shared_boxes_show_the_same_voxels_after_turning_and_scaling(d):
    views = make_views(scans(d, 4), replace(ROUGH[d], geometry=1.0, intensity=0.0), seed=0, step=1)
    edges = (views.boxes * torch.tensor(HOW[d].crop)[:, None]).round().long()
    for b in range(4):
        shared = [views.x[v, b][(slice(None), *(slice(*e) for e in edges[v, b].tolist()))] for v in (0, 1)]
        assert shared[0].numel() > 10 and torch.equal(*shared)


def test_read_only_memory_maps_work(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, scans(3)[0])
    views = make_views([np.load(path, mmap_mode="r")], HOW[3], seed=0, step=0)
    assert views.x.shape == (2, 1, 1, 12, 16, 10)


def test_faults_are_input_errors():
    with pytest.raises(InputError, match="at least one"):
        make_views([], HOW[2], seed=0, step=0)
    with pytest.raises(InputError, match="channels"):
        make_views([*scans(2, 1), *scans(2, 1, channels=2)], HOW[2], seed=0, step=0)
    with pytest.raises(InputError, match="at most 20 x 24"):
        make_views(scans(2), replace(HOW[2], crop=(32, 32)), seed=0, step=0)
    with pytest.raises(InputError, match="keeps none"):
        make_views(scans(2), replace(HOW[2], mask_ratio=0.99), seed=0, step=0, stride=(4, 4))
