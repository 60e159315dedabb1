"""Riddles: the same for the same seed, answered from the whole scan, at chance from a part of it."""

from itertools import product

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans import look
from headwater.scans.riddles import KINDS, LANE, NAMES, reach, riddle, write

SHAPES = [(32, 64), (32, 32, 48)]


def lanes(shape):
    """The lanes of a scan, as slices of all axes but the last."""
    return product(*([slice(s, s + LANE) for s in range((n % LANE) // 2, n - LANE + 1, LANE)] for n in shape[:-1]))


def solved(kind, image, places):
    """Labels from the image alone; `places`, where blobs are, is read for the texture only, whose dark stripes are faint."""
    x = image / np.median(image) * 100 - 100
    labels, n = np.zeros(image.shape, np.uint8), image.shape[-1]
    for lane in lanes(image.shape):
        y, made = x[lane], labels[lane]
        if kind == "texture":
            for half in (slice(0, n // 2), slice(n // 2, n)):
                blob = places[lane][..., half]
                across, along = (np.diff(np.where(blob, y[..., half], np.nan), axis=a) for a in (0, -1))
                made[..., half][blob] = 1 if np.nanmean(abs(across)) > np.nanmean(abs(along)) else 2
        elif kind == "parity":
            signs = [np.sign(np.sum(end * (abs(end) > 30))) for end in (y[..., :9], y[..., -9:])]
            made[..., 9:-9][y[..., 9:-9] > 30] = 1 if signs[0] == signs[1] else 2
        else:
            sides = [(half > 30).any() for half in (y[..., : n // 2], y[..., n // 2 :])]
            made[y > 30] = sum(sides) == 1
    return labels


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_scan_holds_the_answer(kind, shape):
    for index in range(8):
        image, labels = riddle(kind, 1, index, shape)
        np.testing.assert_array_equal(solved(kind, image, labels > 0), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_scan_and_others_differ(kind):
    image, labels = riddle(kind, 3, 5, (32, 64))
    again = riddle(kind, 3, 5, (32, 64))
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert image.dtype == np.float32 and labels.dtype == np.uint8
    assert all((riddle(kind, *other, (32, 64))[0] != image).any() for other in ((3, 6), (4, 5)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_about_as_frequent(kind):
    sizes = np.zeros(3)
    for index in range(60):
        sizes += np.bincount(riddle(kind, 0, index, (32, 64))[1].ravel(), minlength=3)
    if kind == "symmetry":  # half of the lanes have an answer
        assert 0.03 < sizes[1] / sizes.sum() < 0.07 and sizes[2] == 0
    else:
        assert 0.42 < sizes[1] / sizes[1:].sum() < 0.58


def _patches(kind, half):
    """Patches around the middle of blobs, what each blob is, and from which scan."""
    rows, answers, scans = [], [], []
    for index in range(50):
        image, labels = riddle(kind, 2, index, (32, 64))
        x = image / np.median(image)
        for lane, side in product(lanes(image.shape), (slice(0, 32), slice(32, 64))):
            bright = (x[lane][:, side] > 1.3) & (x[lane][:, side] < 1.75)
            if kind == "parity":
                bright &= labels[lane][:, side] > 0
            if bright.sum() < 40:
                continue
            at = np.rint(np.argwhere(bright).mean(0)).astype(int) + (lane[0].start, side.start)
            cut = np.pad(x, half, constant_values=1)[at[0] : at[0] + 2 * half + 1, at[1] : at[1] + 2 * half + 1]
            rows.append(cut.ravel())
            answers.append(labels[tuple(at)])
            scans.append(index)
    return np.array(rows), np.array(answers), np.array(scans)


@pytest.mark.parametrize(("kind", "low", "high"), [("texture", 0.95, 1.0), ("parity", 0.35, 0.65), ("symmetry", 0.35, 0.65)])
def test_a_small_patch_holds_the_answer_of_the_texture_alone(kind, low, high):
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    rows, answers, scans = _patches(kind, 7)
    if kind == "texture":  # stripes are told by how much neighbours differ, along each axis
        square = rows.reshape(len(rows), 15, 15)[:, 4:11, 4:11]
        rows = np.stack([abs(np.diff(square, axis=a)).mean((1, 2)) for a in (1, 2)], 1)
    trees = ExtraTreesClassifier(40, random_state=0)
    given = cross_val_predict(trees, rows, answers, groups=scans, cv=GroupKFold(4))
    assert low <= balanced_accuracy_score(answers, given) <= high


def test_how_far_a_network_must_look():
    assert reach("texture", (32, 64))[1] <= 6
    for kind in ("parity", "symmetry"):
        near, far = reach(kind, (32, 64))
        assert 22 < near < far < 64
        assert reach(kind, (32, 128))[0] > 1.9 * near - 6


def test_written_and_understood(tmp_path):
    folders = write("parity", tmp_path, 6, (32, 48), spacing=0.5)
    passport = look(*folders)
    assert len(passport.entries) == 6 and passport.label_names == NAMES["parity"] and passport.ndim == 2
    assert passport.spacing == (0.5, 0.5)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(InputError, match="no riddle 'colour'"):
        riddle("colour", 0, 0, (32, 64))
    with pytest.raises(InputError, match="at least 32"):
        riddle("parity", 0, 0, (32, 24))
