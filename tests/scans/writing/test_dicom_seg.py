"""DICOM segmentations, read back by our own reader onto the same series."""

import sys

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans import writing
from headwater.scans.formats import segmentation
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import Source, UnreadableError
from headwater.scans.writing import dicom_seg

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def there():
    pytest.importorskip("highdicom")


def blob(shape, values):
    mask = np.zeros(shape, np.uint16)
    for n, value in enumerate(values):
        mask[tuple(slice(s // 4 + n, s // 4 + n + max(1, s // 3)) for s in shape)] = value
    return mask


@pytest.mark.parametrize("names", [{1: "Liver", 2: "Spleen"}, {3: "Liver", 300: "Spleen"}])
def test_the_same_mask_comes_back(series, tmp_path, names):
    scan = read(Source(series(RNG.integers(0, 999, (9, 16, 12)))))
    mask = blob(scan.shape, names)
    mask[0, 0, 0], mask[-1, -1, -1] = list(names)  # not the same from either side
    place = writing.write(mask, scan, tmp_path / "seg.dcm", names)
    found = read_labels(place)
    np.testing.assert_array_equal(segmentation.onto(found, scan)[0], mask)
    assert {n: name for n, name in segmentation.names(place).items() if n} == names
    assert set(np.unique(found.array)) == {0, *names}


def test_it_names_its_series_and_every_slice(series, tmp_path):
    from pydicom import dcmread

    files = series(RNG.integers(0, 999, (5, 16, 12)))
    scan = read(Source(files))
    ds = dcmread(writing.write(blob(scan.shape, [1]), scan, tmp_path / "seg.dcm", {1: "Liver"}))
    sources = [dcmread(file) for file in files]
    assert ds.Modality == "SEG" and ds.SegmentationType == "BINARY" and ds.PatientID == sources[0].PatientID
    assert ds.StudyInstanceUID == sources[0].StudyInstanceUID and ds.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert ds.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    (one,) = ds.ReferencedSeriesSequence
    assert one.SeriesInstanceUID == sources[0].SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in one.ReferencedInstanceSequence} == {s.SOPInstanceUID for s in sources}


def test_an_empty_mask_is_empty(series, tmp_path):
    scan = read(Source(series(RNG.integers(0, 999, (4, 8, 9)))))
    found = read_labels(writing.write(np.zeros(scan.shape, np.uint8), scan, tmp_path / "seg.dcm", {1: "Liver", 2: "Spleen"}))
    assert not found.array.any()


def test_a_single_slice(series, tmp_path):
    scan = read(Source(series(RNG.integers(0, 999, (1, 16, 12)))))
    assert scan.ndim == 2
    mask = blob(scan.shape, [1])
    found = read_labels(writing.write(mask, scan, tmp_path / "seg.dcm", {1: "Liver"}))
    np.testing.assert_array_equal(segmentation.onto(found, scan)[0], mask)


@pytest.mark.parametrize("name", ["dicom_series", "dicom_enhanced/eCT_Supplemental.dcm"])
def test_real_series(odd, tmp_path, name):
    place = odd / name
    scan = read(Source(tuple(sorted(place.iterdir()))) if place.is_dir() else place)
    mask = blob(scan.shape, [1, 2])
    found = read_labels(writing.write(mask, scan, tmp_path / "seg.dcm", {1: "Liver", 2: "Spleen"}))
    np.testing.assert_array_equal(segmentation.onto(found, scan)[0], mask)


def test_a_mosaic_is_refused_with_a_way_out(odd, tmp_path):
    files = sorted(p for p in (odd / "dicom_mosaic").rglob("*") if p.is_file())[:1]
    scan = read(Source(tuple(files)))
    with pytest.raises(UnreadableError, match="mosaic.*ask for nifti"):
        writing.write(np.ones(scan.shape, np.uint8), scan, tmp_path / "seg.dcm", {1: "Liver"})


def test_frames_without_a_place_are_refused(odd, tmp_path):
    scan = read(odd / "dicom_enhanced" / "emri_small.dcm")
    with pytest.raises(UnreadableError, match="cannot carry a DICOM segmentation.*ask for nifti"):
        writing.write(np.ones(scan.shape, np.uint8), scan, tmp_path / "seg.dcm", {1: "Liver"})
    assert not list(tmp_path.iterdir())


def test_without_highdicom_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'headwater\[dicom\]'"):
        dicom_seg.require()
