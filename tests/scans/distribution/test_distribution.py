"""The whole: two and three dimensions, real scans, and whatever else a folder may hold."""

import json

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.progress import Silent
from headwater.scans.distribution import SCANS, SMALL_SCANS, Sample, _draw, describe
from headwater.streams import numpy_stream

NAMES = [
    "tails of single voxels", "tails of wavelet details", "tails of leading principal axes of patches",
    "tails of differences of neighbouring voxels", "shape of wavelet details", "slope of the power spectrum",
    "correlation length", "intrinsic dimension", "components for 50% of the variance", "components for 90% of the variance",
    "components for 95% of the variance", "components for 99% of the variance", "clone gap", "clone gap of a linear probe",
    "probe accuracy",
]  # fmt: skip


def scans(field, shape, count=12, slope=-2.5, **more) -> list[Sample]:
    rng = numpy_stream(0, "scans", str(shape))
    spacing = (1.0,) * len(shape)
    return [Sample(field(shape, slope, spacing, rng)[None].astype(np.float32), spacing, **more) for _ in range(count)]


def look(samples: list[Sample], **more):
    found = describe(lambda i: samples[i], len(samples), **more)
    json.dumps(found.plain(), allow_nan=False)
    assert [f.name for f in found.findings] == NAMES
    for finding in found.findings:
        assert finding.sentence.count(". ") == 0 and finding.sentence.endswith(".") and "nan" not in finding.sentence.split()
        assert (finding.value is None) == ("cannot be measured" in finding.sentence)
    return found


@pytest.mark.parametrize("shape, patch", [((64, 64), (16, 16)), ((24, 32, 24), (8, 8, 8))])
def test_gaussian_fields_with_masks(shape, patch, field):
    samples = scans(field, shape)
    samples = [Sample(s.array, s.spacing, (s.array[0] > 0.0).astype(int)) for s in samples]
    found = look(samples)
    assert found.patch == patch and found.scans == 12 and found.unit == "mm" and found.background == 0
    assert found.finding("slope of the power spectrum").value == pytest.approx(-2.5, abs=0.5)
    assert abs(found.finding("tails of wavelet details").value) < 0.5
    assert found.finding("probe accuracy").value > 0.6
    assert {"histogram wavelet", "spectrum", "autocorrelation", "neighbours", "linear code", "clone gap"} <= {
        p.name for p in found.plots
    }
    for plot in found.plots:
        for s in plot.series:
            assert len(s.x) == len(s.y) > 0 and np.isfinite(s.x).all() and np.isfinite(s.y).all()
            assert len(s.low) in (0, len(s.y)) and len(s.high) == len(s.low)


def test_same_seed_same_answer(field):
    samples = scans(field, (32, 32), 8, group="a")
    assert look(samples) == look(samples) != look(samples, seed=1)


def test_spacing_changes_lengths_only(field):
    one = scans(field, (48, 48), 8)
    far = look([Sample(s.array, (5.0, 5.0)) for s in one])
    near = look(one)
    for a, b in zip(near.findings, far.findings, strict=True):
        factor = 5 if a.name == "correlation length" else 1
        assert b.value == (None if a.value is None else pytest.approx(factor * a.value))
    assert far.spacing == (5.0, 5.0)


def test_unstated_spacing_is_in_voxels(field):
    found = look(scans(field, (32, 32), 6, spaced=False))
    assert found.unit == "voxels" and "cycles per voxel" in found.finding("slope of the power spectrum").sentence
    assert not any(" mm" in s for s in found.sentences())


@pytest.mark.parametrize("shape, most", [((210, 210), SCANS), ((8, 8), SMALL_SCANS)])
def test_each_scan_is_read_once_and_not_more_than_needed(shape, most):
    seen = []

    def read(i):
        seen.append(i)
        return Sample(numpy_stream(i, "r").standard_normal((1, *shape)).astype(np.float32), (1.0, 1.0))

    rows, notes = _draw(read, 1000, 0, Silent())
    assert len(seen) == len(set(seen)) == most == len(rows) and notes == []
    assert all(sample.array.size == 0 for *_, sample in rows)  # voxels are not kept


def test_what_is_kept_does_not_grow_with_the_scan():
    def size(edge):
        array = numpy_stream(edge, "big").standard_normal((1, edge, edge, edge)).astype(np.float32)
        (row,), _ = _draw(lambda i: Sample(array, (1.0,) * 3, (array[0] > 0).astype(np.int64)), 1, 0, Silent())
        return sum(a.nbytes for part in row[:3] for a in vars(part).values() if isinstance(a, np.ndarray))

    assert size(160) < 1.1 * size(96)


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [Sample(np.zeros((1, 20, 20)), (1.0, 1.0))] * 3,
        [Sample(np.full((1, 9, 9, 9), np.nan), (1.0, 1.0, 1.0))] * 3,
        [Sample(numpy_stream(0, "o").standard_normal((1, 7, 5, 3)), (1.0, 1.0, 1.0))],
        [Sample(numpy_stream(i, "o").standard_normal((1, 7, 5, 3)), (1.0, 1.0, 1.0), np.ones((7, 5, 3), int)) for i in range(9)],
        [Sample(numpy_stream(0, "o").integers(0, 2, (1, 7, 5, 3)).astype(np.float32), (1.0, 1.0, 1.0))] * 6,
        [Sample(numpy_stream(0, "o").standard_normal((1, 28, 28)), (1.0, 1.0))],
        [Sample(numpy_stream(i, "o").standard_normal((1, 28, 28)), (1.0, 1.0), None, "same") for i in range(7)],
        [Sample(numpy_stream(i, "o").standard_normal((1, 1, 64)), (1.0, 1.0)) for i in range(6)],
        [Sample(np.full((1, 1, 1), 3.0), (1.0, 1.0))],
        [Sample(np.eye(64)[None], (1.0, 1.0), np.eye(64, dtype=int))] * 6,
        [Sample(1e30 * numpy_stream(i, "o").standard_normal((1, 32, 32)), (1.0, 1.0)) for i in range(6)],
        [Sample(numpy_stream(i, "o").integers(0, 2, (3, 40, 40)).astype(np.float32) * 255, (0.3, 0.3)) for i in range(6)],
        [Sample(numpy_stream(i, "o").standard_normal((1, 64, 64, 5)), (0.5, 0.5, 7.5)) for i in range(6)],
    ],
    ids=[
        "none", "constant", "nan", "tiny", "tiny with masks", "tiny copies", "one picture", "one class", "lines", "one voxel",
        "diagonal", "huge", "colour noise", "thick",
    ],
)  # fmt: skip
def test_whatever_a_folder_holds(samples):
    found = look(samples)
    assert found.of == len(samples) and len(found.sentences()) >= 1 + len(NAMES)
    assert ("Fewer than 5 subjects" in " ".join(found.notes)) == (0 < found.scans < 5)


def test_what_is_left_out_is_said(field):
    samples = scans(field, (32, 32), 7) + [Sample(np.ones((1, 32, 32)), (1.0, 1.0)), *scans(field, (16, 16, 16), 2)]

    def read(i):
        if i == 0:
            raise InputError("broken")
        return samples[i]

    found = describe(read, len(samples))
    assert found.scans == 6 and len(found.notes) == 3
    assert found.notes[0] == "1 of the scans drawn is left out: a file that cannot be read."
    assert found.notes[2].startswith("2 of the scans drawn are left out: other axes or channels")


@pytest.mark.slow
def test_real_hippocampi(hippocampus):
    nibabel = pytest.importorskip("nibabel")
    names = sorted(p.name for p in (hippocampus / "images").glob("*.nii*"))[:16]

    def read(i):
        image, mask = (nibabel.load(hippocampus / folder / names[i]) for folder in ("images", "labels"))
        spacing = tuple(float(s) for s in image.header.get_zooms()[:3])
        return Sample(np.asarray(image.dataobj, dtype=np.float32)[None], spacing, np.asarray(mask.dataobj).astype(int))

    found = describe(read, len(names))
    assert found.patch == (8, 8, 8) and found.background < 0.1
    assert found.finding("tails of wavelet details").interval[0] > 1
    assert found.finding("slope of the power spectrum").value == pytest.approx(-4, abs=0.3)  # borders of organs
    assert 4 < found.finding("correlation length").value < 7
    assert found.finding("intrinsic dimension").value < found.finding("intrinsic dimension").null.low
    assert found.finding("probe accuracy").value > 0.6
