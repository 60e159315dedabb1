"""The views of a step: a function of (seed, step, sample), of nothing else."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from headwater import settings
from headwater.errors import InputError
from headwater.views import apply_intensity, cut, draw_sample, make_views, place, show

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


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("independent", [False, True])
def test_a_sample_with_everything_on_does_not_depend_on_its_batch(d, independent):
    how = replace(ROUGH[d], geometry=1.0, independent=independent, elastic=0.5, locals=2, local_crop=(6, 8, 6)[:d])
    given, at = scans(d), {"seed": 3, "step": 7, "stride": (4,) * d}
    both, alone = make_views(given, how, **at), make_views(given[2:], how, samples=[2], **at)
    assert both.local.shape == (2, 3, 1, *how.local_crop) and both.local[:, 2:].equal(alone.local)
    assert both.x[:, 2:].equal(alone.x) and both.boxes[:, 2:].equal(alone.boxes) and both.keep[:, 2:].equal(alone.keep)
    assert (both.points is None) == (both.valid is None) == (not independent)
    if independent:
        lattice = both.valid.shape[1:]
        assert both.points.shape == (2, 3, *lattice, d) and both.points.dtype == torch.float32 and both.points.isfinite().all()
        assert both.points[:, 2:].equal(alone.points) and both.valid[2:].equal(alone.valid)
        assert both.valid.flatten(1).any(1).all()
    moved = both.to("cpu")
    assert moved.local.equal(both.local) and (moved.points is None or moved.points.equal(both.points))


def test_local_crops_leave_the_views_as_they_were():
    without, more = (make_views(scans(3), replace(ROUGH[3], locals=n), seed=0, step=0) for n in (0, 3))
    assert without.local is None and more.local.shape == (3, 3, 1, 6, 8, 5)
    assert torch.allclose(without.x, more.x, atol=1e-2) and without.boxes.equal(more.boxes)


def test_other_processes_make_the_same_views():
    how = replace(ROUGH[3], geometry=1.0, independent=True, elastic=0.5, locals=1)
    here = [make_views(scans(3), how, seed=0, step=step) for step in range(4)]
    context = torch.multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        there = list(pool.map(partial(_elsewhere, how), range(4)))
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.x, other[0]) and np.array_equal(one.points, other[1]) and np.array_equal(one.local, other[2])


def _elsewhere(how, step):
    torch.set_num_threads(1)
    views = make_views(scans(3), how, seed=0, step=step)
    return views.x.numpy(), views.points.numpy(), views.local.numpy()


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("independent", [False, True])
def test_drawn_parameters_replay_the_views(d, independent):
    how = replace(ROUGH[d], further=0.5, independent=independent, elastic=0.5, locals=2)
    given, others = scans(d), scans(d)[::-1]
    views = make_views(given, how, seed=3, step=7, stride=(4,) * d, partners=others)
    for i, (scan, other) in enumerate(zip(given, others, strict=True)):
        at = {"seed": 3, "step": 7, "sample": i, "stride": (4,) * d, "partner": other.shape[1:]}
        sample = draw_sample(scan.shape[1:], how, **at)
        for _ in range(2):  # as often as wanted
            x, local = show(scan, sample, other)
            assert x.equal(views.x[:, i]) and local.equal(views.local[:, i])
        assert sample.keep.equal(views.keep[:, i]) and np.array_equal(sample.geometry.boxes, views.boxes[:, i])
        plain = torch.stack(cut(scan, sample.geometry)[:2])  # by hand: cut, then change
        mixed = torch.stack([place(other, sample.partners[0])] * 2) if sample.partners else None
        assert apply_intensity(plain, sample.looks[0], mixed).equal(x)


def test_further_changes_are_a_function_of_the_scan_and_its_partner_alone():
    how, at = replace(HOW[3], further=0.9, locals=1), {"seed": 0, "step": 1}
    given, others = scans(3), scans(3)[::-1]
    both = make_views(given, how, partners=others, **at)
    alone = make_views(given[1:2], how, samples=[1], partners=others[1:2], **at)
    assert both.x[:, 1:2].equal(alone.x) and both.local[:, 1:2].equal(alone.local) and both.x.isfinite().all()
    another = make_views(given, how, partners=[others[0], 3 * others[0] ** 3, others[2]], **at)
    assert not another.x[:, 1].equal(both.x[:, 1]) and another.x[:, [0, 2]].equal(both.x[:, [0, 2]])
    without = make_views(given, how, **at)
    assert without.x.isfinite().all() and not without.x.equal(both.x)
    off = make_views(given, HOW[3], **at)
    assert off.x.equal(make_views(given, HOW[3], partners=others, **at).x)  # nothing is mixed unless it is asked for


def test_without_partners_fourier_mixing_is_off_and_nothing_else_moves():
    how = replace(HOW[2], further=1.0)
    with_one, without = (draw_sample((20, 24), how, seed=0, step=0, sample=0, partner=p).looks[0] for p in ((9, 9), None))
    assert (with_one.fourier > 0).all() and (without.fourier == 0).all()
    for name in set(vars(with_one)) - {"fourier"}:
        assert np.array_equal(getattr(with_one, name), getattr(without, name))


def test_a_partner_smaller_than_the_crop_and_of_another_type_works():
    tiny = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(0))
    views = make_views(scans(2, 1), replace(HOW[2], further=1.0), seed=0, step=0, partners=[tiny])
    assert views.x.isfinite().all()


def test_a_scan_smaller_than_the_crop_is_padded_or_refused():
    small = [np.ones((1, 10, 11), np.float32)]
    for padding, value in (("reflect", 1.0), ("zero", 0.0)):
        views = make_views(small, replace(HOW[2], padding=padding, geometry=0.0, intensity=0.0), seed=0, step=0)
        assert views.x.min() == value
    with pytest.raises(InputError, match="views.padding=reflect, or views.crop=10,11"):
        make_views(small, replace(HOW[2], padding="refuse"), seed=0, step=0)


def test_settings_of_views_are_told_by_a_line():
    told = settings.Settings()
    for line in (
        "views.independent=true",
        "views.elastic=0.5",
        "views.locals=4",
        "views.local_crop=8,8",
        "views.padding=zero",
        "views.further=0.2",
    ):
        told = settings.change(told, line)
    assert told.views == settings.Views(independent=True, elastic=0.5, locals=4, local_crop=(8, 8), padding="zero", further=0.2)
    assert settings.from_dict(settings.Settings, settings.to_dict(told)) == told
    assert settings.change(told, "views.independent=false").views.independent is False
    for line in (
        "views.independent=2",
        "views.elastic=1",
        "views.locals=-1",
        "views.padding=wrap",
        "views.local_crop=0,8",
        "views.further=2",
    ):
        with pytest.raises(InputError, match=line.partition("=")[0]):
            settings.change(told, line)


def test_faults_are_input_errors():
    with pytest.raises(InputError, match="at least one"):
        make_views([], HOW[2], seed=0, step=0)
    with pytest.raises(InputError, match="channels"):
        make_views([*scans(2, 1), *scans(2, 1, channels=2)], HOW[2], seed=0, step=0)
    with pytest.raises(InputError, match="channels"):
        make_views(scans(2, 1), HOW[2], seed=0, step=0, partners=scans(2, 1, channels=2))
    with pytest.raises(InputError, match="views.crop to at most 20,24"):
        make_views(scans(2), replace(HOW[2], crop=(32, 32)), seed=0, step=0)
    with pytest.raises(InputError, match="keeps none"):
        make_views(scans(2), replace(HOW[2], mask_ratio=0.99), seed=0, step=0, stride=(4, 4))
