"""Views with geometry of their own: the same physical points, found in each of them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from headwater import settings
from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.geometry import Geometry, cut, draw_geometry
from headwater.views.spatial import Placement, place, to_scan

SHAPE = {2: (60, 70), 3: (48, 52, 50)}
HOW = {
    2: settings.Views(parent=(30, 36), crop=(20, 24), geometry=1.0, mirror=(0,), rotation=25.0, elastic=0.6),
    3: settings.Views(parent=(22, 24, 20), crop=(14, 16, 12), geometry=1.0, mirror=(1,), rotation=25.0, elastic=0.6),
}
OWN = {d: replace(how, independent=True) for d, how in HOW.items()}


def coordinates(shape):
    """A scan whose value is its own coordinate."""
    return np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).astype(np.float32)


def drawn(how, seed=0, spacing=None) -> Geometry:
    return draw_geometry(partial(numpy_stream, seed, 1), SHAPE[len(how.crop)], how, spacing)


def at_points(view, voxels, order):
    """Values (C, n) of a view (C, *S) at points (n, d) in voxels, by scipy."""
    return np.stack([map_coordinates(channel.double().numpy(), voxels.T, order=order, mode="mirror") for channel in view])


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("elastic, order, margin, exact", [(0.0, 1, 0, 1e-3), (0.6, 3, 3, 1e-2)])
def test_both_views_show_the_same_place_at_the_points(d, elastic, order, margin, exact):
    """Interpolating a view linearly is exact where its map is affine; a bent one takes cubic interpolation, not at its edges."""
    scan, size, end = coordinates(SHAPE[d]), np.array(HOW[d].crop), np.array(SHAPE[d])[:, None] - 1
    for seed in range(6):
        geometry = drawn(replace(OWN[d], elastic=elastic, overlap=(0.6, 0.8)), seed, spacing=(1.0, 1.5, 0.8)[:d])
        views = cut(scan, geometry)
        voxels = geometry.points.astype(float) * size - 0.5
        inner = geometry.valid & ((voxels >= margin) & (voxels <= size - 1 - margin)).all((0, -1))
        first, second = (at_points(v, p[inner], order) for v, p in zip(views, voxels, strict=True))
        physical = to_scan(geometry.views[0], voxels[0][inner]).T
        far = ((physical > 1) & (physical < end - 1)).all(0)  # interpolation looks beyond the edge, where the scan is reflected
        assert far.sum() > 3
        assert np.abs(first - second)[:, far].max() < exact and np.abs(first - physical)[:, far].max() < exact


def test_views_with_usual_changes_share_most_points():
    how = settings.Views(parent=(48, 48, 48), crop=(32, 32, 32), independent=True, elastic=0.5)
    assert np.mean([drawn(how, seed).valid.mean() for seed in range(20)]) > 0.6


@pytest.mark.parametrize("d", [2, 3])
def test_points_are_exact_in_the_maps_themselves(d):
    for seed in range(6):
        geometry = drawn(OWN[d], seed)
        size = np.array(HOW[d].crop)
        places = [to_scan(v, p.reshape(-1, d) * size - 0.5) for v, p in zip(geometry.views, geometry.points, strict=True)]
        assert np.abs(places[0] - places[1]).max() < 1e-3
        inside = ((geometry.points >= 0) & (geometry.points <= 1)).all((0, -1))
        assert np.array_equal(inside, geometry.valid) and geometry.valid.any()
        for v in (0, 1):
            held = geometry.points[v][geometry.valid]
            assert (held >= geometry.boxes[v, :, 0] - 1e-6).all() and (held <= geometry.boxes[v, :, 1] + 1e-6).all()


@pytest.mark.parametrize("d", [2, 3])
def test_a_shared_geometry_is_one_resampling_with_every_crop_in_it(d):
    scan = coordinates(SHAPE[d])
    geometry = drawn(replace(HOW[d], locals=3))
    assert geometry.points is None and geometry.whole is not None
    made = cut(scan, geometry)
    assert [m.shape for m in made] == [(d, *HOW[d].crop)] * 2 + [(d, *(n // 2 for n in HOW[d].crop))] * 3
    for placement, shown in zip((*geometry.views, *geometry.local), made, strict=True):
        assert torch.allclose(place(scan, placement), shown, atol=1e-3)  # each can be replayed alone


@pytest.mark.parametrize("d", [2, 3])
def test_independent_views_differ_and_unchanged_ones_are_copies(d):
    geometry = drawn(OWN[d])
    assert geometry.views[0].matrix != geometry.views[1].matrix
    scan = np.random.default_rng(0).standard_normal((1, *SHAPE[d])).astype(np.float32)
    plain = drawn(replace(OWN[d], geometry=0.0, mirror=(), locals=2))
    shared = drawn(replace(HOW[d], geometry=0.0, mirror=(), locals=2))
    for own, same in zip(cut(scan, plain), cut(scan, shared), strict=True):
        assert torch.equal(own, same)


def test_views_that_strong_changes_drive_apart_still_meet():
    tiny = replace(OWN[2], scale=(0.02, 0.03), elastic=0.0, overlap=(0.01, 0.02))
    for seed in range(10):
        assert drawn(tiny, seed).valid.any()


def test_no_view_moves_when_another_setting_changes():
    base, more = drawn(OWN[3]), drawn(replace(OWN[3], locals=4, elastic=0.0))
    assert [v.matrix for v in base.views] == [v.matrix for v in more.views]
    assert [v.centre for v in base.views] == [v.centre for v in more.views]


def test_refusing_to_pad():
    scan = (16, 40)
    how = settings.Views(parent=(30, 30), crop=(20, 20), padding="refuse")
    stream = partial(numpy_stream, 0)
    with pytest.raises(InputError, match="views.padding=reflect, or views.crop=16,20"):
        draw_geometry(stream, scan, how)
    fits = draw_geometry(stream, scan, replace(how, crop=(16, 20)))  # what the sentence says works
    edges = np.stack([np.array(v.centre) - (np.array(v.size) - 1) / 2 for v in fits.views])
    unturned = draw_geometry(stream, scan, replace(how, crop=(16, 20), geometry=0.0))
    edges = np.stack([np.array(v.centre) - (np.array(v.size) - 1) / 2 for v in unturned.views])
    assert (edges >= 0).all() and (edges + (16, 20) <= scan).all()
    for padding in ("reflect", "zero"):
        padded = draw_geometry(stream, scan, replace(how, padding=padding))
        assert [v.shape for v in cut(np.ones((1, *scan), np.float32), padded)] == [(1, 20, 20)] * 2


def test_local_crops_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="views.local_crop=10,12"):
        drawn(replace(HOW[2], locals=1, local_crop=(64, 64)))
    with pytest.raises(InputError, match="views.local_crop"):
        drawn(replace(HOW[2], locals=1, local_crop=(8, 8, 8)))
    assert isinstance(drawn(replace(HOW[2], locals=1, local_crop=(10, 12))).local[0], Placement)
    assert drawn(replace(HOW[2], local_crop=(64, 64))).local == ()  # not asked for
