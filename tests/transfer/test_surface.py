"""Surfaces against distances by hand; pieces counted by eye."""

import numpy as np
import pytest
from headwater.transfer import surface
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    return sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def by_hand(ours: np.ndarray, theirs: np.ndarray, spacing: tuple[float, ...], allowed: float) -> tuple[float, float]:
    """All distances between edge voxels, in mm."""
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing) for mask in (ours, theirs)]
    far = cdist(*edges)
    there, back = far.min(1), far.min(0)
    nsd = ((there <= allowed).sum() + (back <= allowed).sum()) / (len(there) + len(back))
    return nsd, max(np.percentile(there, 95), np.percentile(back, 95))


@pytest.mark.parametrize(
    ("shape", "spacing"), [((24, 20), (1.0, 1.0)), ((18, 16, 9), (0.5, 0.5, 5.0)), ((12, 14, 11), (2, 1, 1))]
)
def test_all_distances_by_hand(shape, spacing):
    """Also with one axis ten times as coarse."""
    middle = np.array(shape) / 2
    truth, prediction = ball(shape, tuple(middle), 4), ball(shape, tuple(middle + 1), 3)
    found = surface.distances(prediction, truth, spacing)
    expected = by_hand(prediction, truth, spacing, surface.tolerance(spacing))
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_shift_of_one_voxel_is_tolerated_and_three_are_not():
    truth = np.zeros((20, 20), bool)
    truth[5:12, 5:12] = True
    one, three = (surface.distances(np.roll(truth, shift, 0), truth, (0.7, 0.7)) for shift in (1, 3))
    assert one == (1.0, pytest.approx(0.7))
    assert three[0] < 1 and three[1] == pytest.approx(2.1)
    assert surface.distances(truth, truth, (1.0, 1.0)) == (1.0, 0.0)


def test_what_lies_outside_the_box_changes_nothing():
    small, other = ball((12, 12, 12), (6, 6, 6), 4), ball((12, 12, 12), (5, 6, 7), 3)
    near = surface.distances(other, small, (1.0, 2.0, 1.0))
    assert near == surface.distances(np.pad(other, 20), np.pad(small, 20), (1.0, 2.0, 1.0)) and 0 < near[0] < 1


def test_missed_absent_and_invented():
    truth, prediction = np.zeros((2, 6, 8), np.uint8)
    truth[1, 1], truth[5, 5:], prediction[5, 5:], prediction[2:4, 2:4] = 1, 4, 4, 3
    found = surface.measure(prediction, truth, [(1,), (2,), (3,), (4,)], (3.0, 1.0))
    assert set(found) == set(surface.MEASURES)
    for name, values in {"dice": (0, 1), "nsd": (0, 1), "hd95": (np.hypot(18, 8), 0)}.items():
        assert found[name][[0, 3]] == pytest.approx(values) and np.isnan(found[name][1:3]).all(), name
    assert found["missed"].tolist() == [1, 0, 0, 0] and found["invented"].tolist() == [0, 0, 1, 0]
    assert np.isnan(found["there"]).all(), "nobody asked for pieces"


def test_a_region_is_the_union_of_its_classes():
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 4, (2, 9, 10))
    whole = surface.measure(prediction, truth, [(1, 2, 3), (2,)], (1.0, 1.0), counted=[0])
    one = surface.measure((prediction > 0).astype(int), (truth > 0).astype(int), [(1,)], (1.0, 1.0), counted=[0])
    a, b = prediction == 2, truth == 2
    assert [whole[name][0] for name in ("dice", "nsd", "hd95", "there")] == [
        one[name][0] for name in ("dice", "nsd", "hd95", "there")
    ]
    assert whole["dice"][1] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum())) and np.isnan(whole["there"][1])


def test_pieces_found_missed_and_invented():
    truth, prediction = np.zeros((2, 20, 20), bool)
    truth[1:4, 1:4] = truth[10:14, 10:14] = truth[1, 15] = True  # three pieces
    prediction[2:5, 2:5] = prediction[10:14, 10:14] = prediction[17:19, 2:4] = True  # two of them, and one where there is none
    assert surface.pieces(prediction, truth) == (3, 2, 1)


def test_one_piece_finds_one():
    truth, prediction = np.zeros((2, 6, 12), bool)
    truth[2:4, 1:5] = truth[2:4, 6:10] = True
    prediction[2:4, 1:10] = True
    assert surface.pieces(prediction, truth) == (2, 1, 0), "a blob over both finds one of them"
    assert surface.pieces(truth, prediction) == (1, 1, 1)


def test_little_overlap_is_none_and_nothing_finds_nothing():
    truth, prediction, empty = np.zeros((3, 10, 10), bool)
    truth[0:5, 0:5], prediction[4:9, 4:9] = True, True
    assert surface.pieces(prediction, truth) == (1, 0, 1)
    assert surface.pieces(prediction, empty) == (0, 0, 1) and surface.pieces(empty, truth) == (1, 0, 0)


def test_as_many_are_found_as_can_be():
    """The left piece fits both predictions, the right one a single: each finds one."""
    truth, prediction = np.zeros((2, 3, 12), bool)
    truth[1, 0:6] = truth[1, 7:9] = True
    prediction[1, 0:2] = prediction[1, 3:9] = True
    assert surface.pieces(prediction, truth) == (2, 2, 0)


def test_pieces_of_many_scans():
    nan = np.nan
    there, found, false = np.array([[[3, nan], [1, nan]], [[0, nan], [0, nan]], [[1, nan], [2, nan]]])
    told = surface.pooled(there, found, false)
    assert (told.sensitivity, told.false, told.f1) == (0.0, 1.5, 0.0)
    assert surface.pooled(*np.full((3, 2, 2), nan)) is None
    told = surface.pooled(np.array([[4.0]]), np.array([[3.0]]), np.array([[2.0]]))
    assert (told.sensitivity, told.false) == (0.75, 2) and told.f1 == pytest.approx(6 / 9)


def test_which_structures_come_in_pieces(flat):
    from dataclasses import replace

    each, labelled = tuple((k,) for k in range(1, flat.classes)), tuple(flat.labelled)
    assert surface.several(flat, labelled, each) == () and surface.several(flat, (), each) == ()
    dots = np.zeros(32 * 32, flat.labels.dtype)
    dots[[0, 5, 10, 15]] = 2  # four pixels in the first row
    scattered = replace(flat, labels=np.concatenate([dots for _ in flat.records]))
    assert surface.several(scattered, labelled, each) == (1,)
