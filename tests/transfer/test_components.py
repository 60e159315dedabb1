"""The largest piece of a structure, against a flood fill, and when keeping it alone is chosen."""

import itertools

import numpy as np
import pytest

from headwater.transfer.components import chosen, largest


def flooded(mask: np.ndarray, c: int) -> np.ndarray:
    """The largest piece of class c by a plain flood fill over touching voxels, corners too; the first of equals."""
    left, best = {tuple(v) for v in np.argwhere(mask == c)}, []
    steps = list(itertools.product((-1, 0, 1), repeat=mask.ndim))
    for start in map(tuple, np.argwhere(mask == c)):
        if start not in left:
            continue
        left.discard(start)
        piece = [start]
        for voxel in piece:
            for near in (tuple(a + b for a, b in zip(voxel, s, strict=True)) for s in steps):
                if near in left:
                    left.discard(near)
                    piece.append(near)
        best = piece if len(piece) > len(best) else best
    kept = np.zeros(mask.shape, bool)
    kept[tuple(np.array(best).T) if best else ()] = bool(best)
    return kept


@pytest.mark.parametrize("shape", [(14, 13), (7, 6, 8)])
def test_against_a_flood_fill(shape):
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = np.where(rng.random(shape) < 0.35, rng.integers(1, 4, shape), 0).astype(np.uint8)
        before = mask.copy()
        kept = largest(mask, [1, 3])
        assert np.array_equal(mask, before) and kept.dtype == mask.dtype
        for c in (1, 3):
            assert np.array_equal(kept == c, flooded(mask, c))
        assert np.array_equal(kept == 2, mask == 2), "classes that are not named stay"
        assert ((kept == mask) | (kept == 0)).all()
        assert np.array_equal(largest(kept, [1, 3]), kept)


def test_what_is_not_there_stays_away():
    empty = np.zeros((4, 5, 6), np.uint16)
    assert not largest(empty, [1, 300]).any()
    full = np.full((3, 3), 300, np.uint16)
    assert np.array_equal(largest(full, [300]), full)


def case(spots: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """A truth with a square of class 1 and `second` more pieces of it, predicted whole, with `spots` false ones far off."""
    truth = np.zeros((24, 24), np.uint8)
    truth[2:8, 2:8] = 1
    truth[2:6, 14:18] = 2
    for k in range(second):
        truth[12, 2 + 2 * k] = 1
    prediction = truth.copy()
    for k in range(spots):
        prediction[22, 2 + 3 * k] = 1
    return prediction, truth


def test_chosen_where_validation_gains_and_nothing_falls():
    def of(*cases: tuple[np.ndarray, np.ndarray]) -> tuple[int, ...]:
        return chosen([c[0] for c in cases], [c[1] for c in cases], [1, 2])

    assert of(case(3, 0), case(0, 0)) == (1,), "class 2 gains nothing, so it is left alone"
    assert of(case(0, 0), case(0, 0)) == ()
    assert of(case(0, 3), case(0, 0)) == (), "real pieces would be lost"
    assert of(case(1, 0), case(0, 5)) == (), "the mean falls, though one scan gains"
    assert of(case(5, 0), case(0, 1)) == (1,), "the mean rises"
    assert chosen([], [], [1]) == ()


def test_voxels_and_scans_that_do_not_count_do_not_choose():
    prediction, truth = case(3, 0)
    truth[22] = 255
    assert chosen([prediction], [truth], [1]) == ()
    absent = np.where(truth == 1, 0, truth)
    assert chosen([prediction], [absent], [1]) == (), "no Dice without the class in the truth"
