"""What is far from what a model learned from is said; a usual scan gets no word."""

import numpy as np
import pytest

from headwater.scans.normalise import Window
from headwater.scans.ready import Rule, ready
from headwater.scans.scan import Scan, Source
from headwater.transfer import strange

RULE = Rule((1.0, 1.0, 2.0), "RAS", "set", fixed=(Window(0.0, 100.0, 50.0, 20.0),))
INSIDE = np.random.default_rng(0).uniform(10, 90, (1, 24, 25, 26)).astype(np.float32)


def said(array=INSIDE, spacing=(1.0, 1.0, 2.0), turned=(0, 1, 2), rule=RULE, spaced=True, patch=(16, 16, 16)):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(np.array(spacing)[np.argsort(turned)])[:, list(turned)]
    scan = Scan(array, tuple(spacing), affine, Source(()), spaced=spaced)
    return strange.words(scan, ready(scan, None, rule), rule, patch)


def test_a_usual_scan_gets_no_word():
    assert said() == [] and said(spacing=(0.6, 1.5, 4.0)) == []
    assert said(spacing=(2.0, 1.0, 1.0), turned=(2, 0, 1)) == []  # the same, its axes in another order


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"spacing": (1.0, 1.0, 10.0)}, "voxels of 1 x 1 x 10 mm, 10 times as long as wide: the model learned from 1 x 1 x 2 mm"),
        ({"spacing": (0.2, 0.2, 0.4)}, "voxels of 0.2 x 0.2 x 0.4 mm: the model learned from"),
        ({"spaced": False}, "states no spacing"),
        ({"spaced": False}, "orientation is not stated: taken as RAS"),
        ({"patch": (64, 16, 16)}, "fills 24 x 25 x 26 voxels of the 64 x 16 x 16"),
        ({"array": INSIDE * 20 + 200}, "100 % of its voxels lie beyond the intensities"),
        ({"array": np.full_like(INSIDE, 20)}, "one value only"),
    ],
)
def test_what_is_far_off_is_said(how, words):
    assert any(words in word for word in said(**how))


def test_without_mm_nothing_is_said_of_mm():
    bare = Rule((1.0, 1.0, 1.0), "", "scan")
    assert said(rule=bare, spaced=False) == [] and said(rule=bare, spacing=(9.0, 9.0, 9.0)) == []
