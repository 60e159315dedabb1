"""Placements: exact copies where nothing turns, closed-form ramps where something does."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.spatial import Placement, draw_placements, part, place, reach, to_scan, to_view


def identity(shape, size, first, signs=None):
    d = len(size)
    signs = signs or (1,) * d
    matrix = tuple(tuple(float(signs[i]) if i == j else 0.0 for j in range(d)) for i in range(d))
    return Placement(tuple(f + (s - 1) / 2 for f, s in zip(first, size, strict=True)), matrix, size)


@pytest.mark.parametrize(
    "shape, size, first", [((9, 12), (5, 7), (2, 3)), ((9, 12, 8), (13, 8, 8), (-2, 4, 0)), ((6, 5, 4), (9, 9, 9), (-2, -2, -3))]
)
def test_shift_equals_numpy_pad_and_crop(shape, size, first):
    array = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float16)
    pads = [(max(0, -f), max(0, f + s - n)) for f, s, n in zip(first, size, shape, strict=True)]
    for padding, name in [("reflect", "reflect"), ("zero", "constant")]:
        padded = np.pad(array, [(0, 0), *pads], mode=name)
        window = tuple(slice(max(0, f), max(0, f) + s) for f, s in zip(first, size, strict=True))
        expected = padded[(slice(None), *window)].astype(np.float32)
        assert np.array_equal(place(array, identity(shape, size, first), padding=padding).numpy(), expected)
        flipped = place(array, identity(shape, size, first, (-1,) + (1,) * (len(size) - 1)), padding=padding)
        assert np.array_equal(flipped.numpy(), expected[:, ::-1])


@pytest.mark.parametrize("d", [2, 3])
def test_ramp_under_a_general_placement_has_a_closed_form(d):
    shape, size = (34, 36, 32)[:d], (9, 11, 7)[:d]
    ramp = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).astype(np.float32)
    placement = draw_placements(
        numpy_stream(0, "p"),
        [shape],
        size,
        rotation=40.0,
        probability=1.0,
        mirror=(0,),
        shift=0.2,
        scale=(0.7, 0.9),
        spacing=(1.0, 2.0, 0.5)[:d],
    )[0]
    out = place(ramp, placement)
    p = np.stack(np.meshgrid(*[np.arange(s) - (s - 1) / 2 for s in size], indexing="ij")).reshape(d, -1)
    expected = np.asarray(placement.centre)[:, None] + np.asarray(placement.matrix) @ p
    assert expected.min() > 0 and (expected.max(1) < np.array(shape) - 1).all()
    assert np.allclose(out.reshape(d, -1).numpy(), expected, atol=1e-3)
    nearest = place(ramp.astype(np.uint16), placement, mode="nearest")
    assert nearest.dtype == torch.int64 and np.abs(nearest.reshape(d, -1).numpy() - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_copy_and_resampling_agree_inside(padding):
    array = np.random.default_rng(1).standard_normal((1, 14, 15, 13)).astype(np.float32)
    exact = identity((14, 15, 13), (12, 20, 12), (1, -3, 0), (1, -1, 1))
    near = Placement(exact.centre, tuple(tuple(v * (1 + 1e-7) for v in row) for row in exact.matrix), exact.size)
    assert not np.allclose(np.abs(near.matrix), np.abs(exact.matrix), atol=1e-9, rtol=0)
    assert torch.allclose(place(array, exact, padding=padding), place(array, near, padding=padding), atol=1e-4)
    labels = (array > 0).astype(np.uint8)
    assert torch.equal(place(labels, exact, "nearest", padding), place(labels, near, "nearest", padding))


class Spy(np.ndarray):
    """Remembers the largest block that was read."""

    largest = 0

    def __getitem__(self, item):
        out = super().__getitem__(item)
        Spy.largest = max(Spy.largest, out.size)
        return out


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_only_the_needed_block_is_read(probability):
    scan = np.zeros((1, 100, 100, 100), dtype=np.float16).view(Spy)
    Spy.largest = 0
    placement = draw_placements(numpy_stream(3, "p"), [(100, 100, 100)], (16, 16, 16), probability=probability)[0]
    place(scan, placement)
    assert 0 < Spy.largest < 40**3


def test_rotation_is_rigid_in_millimetres_and_scale_is_the_determinant():
    spacing = (1.0, 2.5, 0.7)
    for i in range(20):
        p = draw_placements(numpy_stream(i, "p"), [(60, 60, 60)], (20, 20, 20), rotation=30.0, probability=1.0, spacing=spacing)[
            0
        ]
        in_mm = np.diag(spacing) @ np.asarray(p.matrix) @ np.diag(1 / np.array(spacing))
        gram = in_mm.T @ in_mm
        assert np.allclose(gram, gram[0, 0] * np.eye(3), atol=1e-9) and 0.49 <= gram[0, 0] <= 1.96


def test_slack_is_used_and_the_smaller_lies_inside_the_larger():
    shapes = [(36, 50)] * 300
    firsts = np.array(
        [
            np.array(p.centre) - (np.array(p.size) - 1) / 2
            for p in draw_placements(numpy_stream(0, "p"), shapes, (40, 30), probability=0.0)
        ]
    )
    assert np.array_equal(firsts, np.rint(firsts))
    assert set(firsts[:, 0]) == {-4, -3, -2, -1, 0} and set(firsts[:, 1]) == set(range(21))
    centred = draw_placements(numpy_stream(0, "p"), shapes[:1], (40, 30), probability=0.0, shift=0.0)[0]
    assert centred.centre == (-2 + 19.5, 10 + 14.5)


def test_one_setting_never_moves_another():
    base = draw_placements(numpy_stream(0, "p"), [(50, 50, 50)], (20, 20, 20), probability=0.0)[0]
    other = draw_placements(numpy_stream(0, "p"), [(50, 50, 50)], (20, 20, 20), probability=1.0, mirror=(0, 1, 2))[0]
    assert base.centre == other.centre and base.matrix != other.matrix


def test_faults_are_input_errors():
    rng, shape = np.random.default_rng(0), [(9, 9)]
    for bad in ({"scale": (0.0, 1.0)}, {"shift": 2.0}, {"probability": -1.0}, {"mirror": (2,)}):
        with pytest.raises(InputError):
            draw_placements(rng, shape, (5, 5), **bad)
    with pytest.raises(InputError, match="axes"):
        draw_placements(rng, [(9, 9, 9)], (5, 5))
    placement = draw_placements(rng, shape, (5, 5))[0]
    with pytest.raises(InputError, match="nearest"):
        place(np.zeros((1, 9, 9)), placement, mode="cubic")
    with pytest.raises(InputError, match="channels first"):
        place(np.zeros((9, 9)), placement)


def drawn(d, elastic, seed=0, size=(17, 21, 14), **more):
    """A placement with everything on, well inside a scan of 80 voxels per axis."""
    change = {"rotation": 40.0, "scale": (0.7, 1.3), "mirror": (0,), "shift": 0.1, "spacing": (1.0, 2.0, 0.5)[:d]} | more
    return draw_placements(numpy_stream(seed, "p"), [(80,) * d], size[:d], probability=1.0, elastic=elastic, **change)[0]


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("elastic, exact", [(0.0, 1e-9), (0.5, 1e-3), (0.95, 1e-3)])
def test_there_and_back_is_the_identity(d, elastic, exact):
    for seed in range(5):
        placement = drawn(d, elastic, seed)
        assert (placement.bend is not None) == (elastic > 0)
        points = np.random.default_rng(seed).uniform(-4, 24, (100, d))
        assert np.abs(to_view(placement, to_scan(placement, points)) - points).max() < exact
        places = np.random.default_rng(seed).uniform(20, 60, (100, d))
        assert np.abs(to_scan(placement, to_view(placement, places)) - places).max() < exact * 3


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("elastic", [0.0, 0.8])
def test_a_scan_of_coordinates_shows_the_map(d, elastic):
    ramp = np.stack(np.meshgrid(*[np.arange(80)] * d, indexing="ij")).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((1, *(80,) * d)).astype(np.float32)
    for seed in range(3):
        placement = drawn(d, elastic, seed)
        voxels = np.stack(np.meshgrid(*[np.arange(s) for s in placement.size], indexing="ij"), -1).reshape(-1, d).astype(float)
        expected = to_scan(placement, voxels)
        assert np.abs(place(ramp, placement).reshape(d, -1).T.numpy() - expected).max() < 1e-3
        low, high = reach(placement).T
        assert (expected >= low - 1e-6).all() and (expected <= high + 1e-6).all()
        oracle = map_coordinates(noise[0], expected.T, order=1)
        assert np.abs(place(noise, placement).flatten().numpy() - oracle).max() < 2e-3
        nearest = place(ramp.astype(np.int16), placement, mode="nearest").reshape(d, -1).T.numpy()
        assert np.abs(nearest - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("elastic", [0.0, 0.8])
@pytest.mark.parametrize("padding, mode", [("reflect", "mirror"), ("zero", "constant")])
def test_outside_the_scan_scipy_agrees(elastic, padding, mode):
    scan = np.random.default_rng(0).standard_normal((1, 12, 30, 9)).astype(np.float32)
    placement = draw_placements(
        numpy_stream(0, "p"), [(12, 30, 9)], (20, 20, 20), rotation=30.0, scale=(1.0, 1.3), probability=1.0, elastic=elastic
    )[0]
    voxels = np.stack(np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    expected = map_coordinates(np.pad(scan[0], 1), to_scan(placement, voxels).T + 1, order=1, mode="grid-constant")
    if padding == "reflect":
        expected = map_coordinates(scan[0], to_scan(placement, voxels).T, order=1, mode=mode)
    assert np.abs(place(scan, placement, padding=padding).flatten().numpy() - expected).max() < 2e-3


@pytest.mark.parametrize("d", [2, 3])
def test_a_part_shows_what_the_whole_shows_there(d):
    scan = np.random.default_rng(0).standard_normal((2, *(80,) * d)).astype(np.float32)
    for elastic in (0.0, 0.7):
        whole = drawn(d, elastic)
        start, size = (3, 5, 2)[:d], (9, 8, 7)[:d]
        window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        assert torch.allclose(place(scan, part(whole, start, size)), place(scan, whole)[(slice(None), *window)], atol=1e-3)


def test_flips_are_exact_also_when_alone():
    scan = np.random.default_rng(0).standard_normal((1, 9, 12, 10)).astype(np.float32)
    placement = draw_placements(numpy_stream(4, "p"), [scan.shape[1:]], scan.shape[1:], probability=0.0, mirror=(0, 1, 2))[0]
    axes = [i + 1 for i in range(3) if placement.matrix[i][i] < 0]
    assert axes and np.array_equal(place(scan, placement).numpy(), np.flip(scan, axes))


def test_threads_change_nothing_that_counts():
    scan = np.random.default_rng(0).standard_normal((1, 40, 40, 40)).astype(np.float32)
    placement, before = drawn(3, 0.5, shift=0.0), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = place(scan, placement)
        torch.set_num_threads(2)
        assert torch.equal(place(scan, placement), one)
    finally:
        torch.set_num_threads(before)


def test_elastic_strength_that_could_fold_is_refused():
    with pytest.raises(InputError, match="views.elastic .* such as 0.5"):
        drawn(2, 1.0)
    base, bent = drawn(3, 0.0), drawn(3, 0.5)
    assert base.matrix == bent.matrix and base.centre == bent.centre


@pytest.mark.parametrize("d", [2, 3])
def test_a_tensor_of_any_layout_is_a_scan(d):
    scan = torch.randn(2, *(80,) * d, generator=torch.Generator().manual_seed(0)).transpose(1, -1)[:, 5:, :70]
    assert not scan.is_contiguous()
    for placement in (drawn(d, 0.5, shift=0.0), drawn(d, 0.0, shift=0.0), identity(scan.shape[1:], (9, 8, 7)[:d], (3, 4, 5)[:d])):
        before = scan.clone()
        assert torch.equal(place(scan, placement), place(scan.contiguous().numpy(), placement))
        assert torch.equal(place(scan, placement, mode="nearest"), place(scan.double().numpy(), placement, mode="nearest"))
        assert torch.equal(scan, before)


def test_a_scan_of_a_single_slice_is_resampled():
    scan = np.random.default_rng(0).standard_normal((1, 1, 30, 30)).astype(np.float32)
    placement = draw_placements(numpy_stream(0, "p"), [(1, 30, 30)], (6, 12, 12), probability=1.0, rotation=10.0)[0]
    for padding in ("reflect", "zero"):
        assert place(scan, placement, padding=padding).isfinite().all()
