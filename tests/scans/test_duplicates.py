"""Near-duplicates: planted ones are found, different scans are not."""

import io
import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from headwater.scans import duplicates
from headwater.scans.duplicates import Duplicates, find
from headwater.scans.fingerprint import fingerprint
from headwater.scans.phantom import phantom

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPES = {2: (64, 60), 3: (36, 40, 34)}


@cache
def scans(d: int, count: int = 40) -> tuple[np.ndarray, ...]:
    return tuple(phantom(0, i, SHAPES[d])[0][None] for i in range(count))


@cache
def prints(d: int, count: int = 40) -> tuple[np.ndarray, ...]:
    return tuple(fingerprint(scan) for scan in scans(d, count))


def recompressed(array: np.ndarray) -> np.ndarray:
    """A picture through a JPEG file of quality 75."""
    from PIL import Image

    whole = np.rint((array[0] - array.min()) / np.ptp(array) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file)).astype(np.float32)[None]


def unit(array: np.ndarray) -> np.ndarray:
    return (array - array.min()) / np.ptp(array)


def kinds(array: np.ndarray) -> dict[str, np.ndarray]:
    """What people do to a scan before they forget that they have it."""
    d = array.ndim - 1
    noise = np.random.default_rng(0).normal(scale=0.02, size=array.shape)
    made = {
        "exact": array.copy(),
        "rescaled": array * 0.37 + 1000,
        "gamma": unit(array) ** 1.5,
        "noise": unit(array) + noise,
        "uint8": np.rint(unit(array) * 255).astype(np.uint8),
        "resampled": ndimage.zoom(array[0], 0.75, order=1)[None],
    }
    made |= {f"moved {axis}": np.roll(array, 1, axis + 1) for axis in range(d)}
    made |= {f"cropped {axis}": np.delete(array, 0, axis + 1) for axis in range(d)}
    flips = itertools.chain.from_iterable(itertools.combinations(range(1, d + 1), k) for k in range(1, d + 1))
    made |= {f"flipped {flip}": np.flip(array, flip) for flip in flips}
    return made | ({"recompressed": recompressed(array)} if d == 2 else {})


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("voxels", [False, True])
def test_every_planted_kind_is_found_and_nothing_else(d, voxels):
    count = len(kinds(scans(d)[0]))
    planted = [(7 + k, name, kinds(scans(d)[7 + k])[name]) for k, name in enumerate(kinds(scans(d)[0]))]
    arrays = [*scans(d), *(copy for _, _, copy in planted)]
    found = find([fingerprint(array) for array in arrays], (lambda i: arrays[i]) if voxels else None)
    expected = {(source, 40 + k) for k, (source, _, _) in enumerate(planted)}
    assert {(pair.first, pair.second) for pair in found.pairs} == expected
    assert len(found.pairs) == count and all(0.95 < pair.similarity <= 1 for pair in found.pairs)
    how = {name: pair.how for (_, name, _), pair in zip(planted, sorted(found.pairs, key=lambda p: p.second), strict=True)}
    assert how["flipped (1,)"] == "flipped along axis 0" and how["exact"] == "in place"
    assert found.null < found.limit and found.closest < found.limit and found.alike == 0


@pytest.mark.parametrize("d", [2, 3])
def test_no_pair_among_different_scans(d):
    found = find(prints(d, 60))
    assert found.pairs == () and found.groups() == []
    assert found.null < 0.9 and found.sentence().startswith("No near-duplicates (")


@pytest.mark.parametrize("d", [2, 3])
def test_the_same_again_in_any_order(d):
    arrays = [*prints(d), fingerprint(np.flip(scans(d)[3], 1)), prints(d)[5]]
    assert find(arrays) == find(arrays)
    backwards = find(arrays[::-1])
    last = len(arrays) - 1
    assert {frozenset((last - p.first, last - p.second)) for p in backwards.pairs} == {frozenset((3, 40)), frozenset((5, 41))}


def test_a_thousand_equal_ones_make_a_thousand_pairs_less_one():
    flat = fingerprint(np.zeros((1, 9, 9), np.float32))
    found = find([*prints(2), *[prints(2)[4]] * 1000, *[flat] * 1000])
    copies = [(4, 40 + i) for i in range(1000)] + [(1040, 1041 + i) for i in range(999)]
    assert [(pair.first, pair.second) for pair in found.pairs] == copies
    assert found.pairs[-1].how == "blank like the other"
    assert found.compared < 3000 and [len(group) for group in found.groups()] == [1001, 1000]


def test_many_nearly_equal_ones_make_one_group(monkeypatch):
    rng = np.random.default_rng(0)
    copies = [fingerprint(unit(scans(2)[4]) + rng.normal(scale=0.003, size=(1, *SHAPES[2]))) for _ in range(200)]
    calls = []
    monkeypatch.setattr(duplicates, "match", lambda *given, do=duplicates.match: calls.append(0) or do(*given))
    found = find([*prints(2), *copies])
    assert found.groups() == [[4, *range(40, 240)]] and len(found.pairs) == 200
    assert {pair.first for pair in found.pairs} == {4}
    assert len(calls) < 10 * 240


@pytest.mark.parametrize("step", [2.0, 4.0])
def test_a_series_is_not_taken_for_copies(step):
    """Frames of a turning picture are as alike as slices of a volume; the flipped copy of one is found among them."""
    frames = [ndimage.rotate(scans(2)[0][0], step * i, reshape=False, mode="nearest")[None] for i in range(24)]
    found = find([*map(fingerprint, frames), fingerprint(np.flip(frames[15], 2))])
    assert [(pair.first, pair.second) for pair in found.pairs] == [(15, 24)]
    assert found.alike > 10 or step > 2
    assert find([*map(fingerprint, frames)]).pairs == ()


def test_many_copies_of_one_kind_do_not_lower_the_limit():
    """As many copies as scans, all equally unlike their sources, are no range of likeness."""
    moved = [np.roll(scan, 1, 3) for scan in scans(3)[:20]]
    found = find([*map(fingerprint, scans(3)[:20]), *map(fingerprint, moved)])
    assert [(pair.first, pair.second) for pair in found.pairs] == [(i, 20 + i) for i in range(20)]
    assert found.limit == pytest.approx(1 - duplicates.ALIKE)


def test_voxels_are_read_for_few():
    reads = []

    def load(i: int) -> np.ndarray:
        reads.append(i)
        return arrays[i]

    arrays = [*scans(3), np.roll(scans(3)[2], 1, 2)]
    found = find([fingerprint(array) for array in arrays], load)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(2, 40)]
    assert 2 <= len(reads) <= 8


def test_few_small_odd_and_mixed_scans():
    rng = np.random.default_rng(0)
    assert find([]).pairs == () and find([]).sentence().startswith("No near-duplicates")
    one = find([prints(3)[0]])
    assert one.pairs == () and np.isnan(one.null)
    odd = [rng.normal(size=(1, *s)).astype(np.float32) for s in [(7, 5, 3), (1, 40), (7, 5, 3), (40, 1), (3, 3), (1, 1, 9)]]
    mixed = [*map(fingerprint, odd), prints(2)[0], prints(3)[0], prints(3)[0], prints(2)[0]]
    found = find(mixed)
    assert {(p.first, p.second) for p in found.pairs} == {(6, 9), (7, 8)}
    assert all(np.isfinite(p.similarity) for p in found.pairs)


def test_sentence():
    told = Duplicates((), 0.97, 0.919, 0.85, 10)
    assert told.sentence() == (
        "No near-duplicates (one explains at least 97.0 % of the other, the closest other pair 91.9 %, "
        "99.9 % of random pairs below 85 %)."
    )
    pair = duplicates.Pair(0, 1, 1.0, "in place")
    assert replace(told, pairs=(pair,), alike=3).sentence().startswith("1 near-duplicate (")
    assert "at least 3 more" in replace(told, alike=3).sentence()


@pytest.mark.skipif(not (DATA / "hippocampus").exists(), reason="needs the shared data")
@pytest.mark.slow
def test_hippocampus_has_none_and_all_planted_are_found():
    import nibabel

    files = sorted((DATA / "hippocampus" / "images").glob("*.nii.gz"))
    arrays = [np.asarray(nibabel.load(file).dataobj, np.float32)[None] for file in files]
    names = list(kinds(arrays[0]))
    planted = {name: 5 * k for k, name in enumerate(names)}
    every = [fingerprint(array) for array in arrays]
    every += [fingerprint(kinds(arrays[source])[name]) for name, source in planted.items()]
    found = find(every)
    assert {(p.first, p.second) for p in found.pairs} == {(source, len(files) + k) for k, source in enumerate(planted.values())}
