"""Which patches are compared, and what is said when there is nothing to compare."""

import numpy as np
import pytest

from headwater.scans.distribution.labelled import labelled
from headwater.scans.distribution.patches import Sample, cut
from headwater.streams import numpy_stream


def cuts(count: int, *, mask=None, group=None, subject=None) -> list:
    """Scans of 48 x 48; mask(i), group(i) and subject(i) give what they carry."""
    found = []
    for i in range(count):
        array = numpy_stream(i, "scan").standard_normal((1, 48, 48)).astype(np.float32)
        given = {k: f(i) for k, f in (("mask", mask), ("group", group), ("subject", subject)) if f}
        found.append(cut(Sample(array, (1.0, 1.0), **given), numpy_stream(i, "cut")))
    return found


def stripes(*values: int) -> np.ndarray:
    return np.repeat(np.array(values), 48 // len(values))[:, None] * np.ones((1, 48), int)


def get(found, limit=5000):
    return labelled(found, (16, 16), limit, numpy_stream(0, "labels"))


def test_values_of_masks_are_classes():
    data = get(cuts(6, mask=lambda i: stripes(0, 1, 2)))
    assert data.names == ("0", "1", "2") and data.of == "values in the masks" and data.flat.shape[1] == 256
    counts = np.bincount(data.label)
    assert counts.min() > 0.8 * counts.max() and data.units == 6


def test_numbered_objects_are_inside_or_not():
    def cells(i):
        return np.kron(np.arange(1, 37).reshape(6, 6), np.pad(np.ones((6, 6), int), 1)) + 0

    data = get(cuts(6, mask=cells))
    assert data.names == ("edge or outside", "inside") and "numbered objects" in data.of
    assert np.bincount(data.label).min() > 50


def test_groups_are_classes_of_scans():
    data = get(cuts(10, group=lambda i: "ab"[i % 2]))
    assert data.names == ("a", "b") and data.of == "groups of scans"
    assert all(len(set(data.label[data.scan == s])) == 1 for s in range(10))


def test_the_limit_is_shared_evenly():
    data = get(cuts(8, mask=lambda i: stripes(0, 3)), limit=160)
    cells = np.unique(np.stack([data.label, data.scan]), axis=1, return_counts=True)[1]
    assert len(data.label) == 160 and cells.min() >= 9 and cells.max() <= 11


def test_rare_values_and_lone_scans_are_no_class():
    data = get(cuts(8, mask=lambda i: stripes(0, 1, 2) if i == 0 else stripes(0, 1)))
    assert data.names == ("0", "1")


@pytest.mark.parametrize(
    "given, why",
    [
        ({}, "no masks and no classes"),
        ({"mask": lambda i: stripes(1)}, "1 class has"),
        ({"mask": lambda i: stripes(0, 1), "subject": lambda i: "one"}, "no class has"),
        ({"group": lambda i: "same"}, "1 class has"),
        ({"group": lambda i: "ab"[i > 0]}, "1 class has"),
        ({"mask": lambda i: np.zeros((3, 3), int)}, "no masks and no classes"),
    ],
)
def test_nothing_to_compare(given, why):
    assert why in get(cuts(6, **given))
    assert labelled([], (), 10, numpy_stream(0, "x")) == "there are no masks and no classes"
