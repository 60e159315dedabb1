"""DICOM segmentations: labels, geometry, names, and their place on a scan."""

from dataclasses import replace

import numpy as np
import pytest

from headwater.scans.formats import dicom, segmentation
from headwater.scans.scan import Source, UnreadableError

RNG = np.random.default_rng(1)
BODY = RNG.integers(0, 500, size=(7, 6, 8)).astype(np.int16)
MASKS = {1: (RNG.random((7, 6, 8)) < 0.3), 2: (RNG.random((7, 6, 8)) < 0.2)}
MASKS[2] &= ~MASKS[1]


def item(**values):
    from pydicom.dataset import Dataset

    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


@pytest.fixture
def drawn(picture, saved):
    """drawn(frames [(segment, slice, mask)], kind, labels, apart): one SEG file on the slices of `volume`."""
    from pydicom.pixels import pack_bits

    def make(frames, kind="BINARY", labels=None, apart=5.0, thickness=5.0, rows=6, origin=(-10.0, 20.0, 30.0)):
        array = np.stack([mask for _, _, mask in frames])
        ds = picture(array.astype(np.uint8), Modality="SEG", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", SegmentationType=kind)
        if kind == "BINARY":
            ds.PixelData, ds.BitsAllocated, ds.BitsStored, ds.HighBit = pack_bits(array.astype(np.uint8)), 1, 1, 0
        if kind == "FRACTIONAL":
            ds.MaximumFractionalValue = 200
        labels = labels or {1: "Liver", 2: "Left kidney"}
        ds.SegmentSequence = [
            item(SegmentNumber=n, SegmentLabel=label, SegmentedPropertyTypeCodeSequence=[item(CodeMeaning="Organ")])
            for n, label in labels.items()
        ]
        measures = item(PixelSpacing=[0.8, 0.5], SliceThickness=thickness)
        if apart:
            measures.SpacingBetweenSlices = apart
        turned = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
        ds.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=turned)]
        ds.PerFrameFunctionalGroupsSequence = [
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[origin[0], origin[1], origin[2] + 5 * k])],
                SegmentIdentificationSequence=[item(ReferencedSegmentNumber=n)],
            )
            for n, k, _ in frames
        ]
        return saved([ds], "seg")[0]

    return make


def whole():
    return np.where(MASKS[2], 2, MASKS[1].astype(int))


def test_binary_frames_in_any_order(drawn, volume, saved):
    frames = [(n, k, MASKS[n][k]) for n in MASKS for k in (3, 0, 6, 1, 5, 2, 4)]
    seg, scan = segmentation.read(drawn(frames)), dicom.read(Source(saved(volume(BODY))))
    assert seg.array.dtype == np.int32 and seg.array.shape == (1, 7, 6, 8) and not seg.notes
    np.testing.assert_array_equal(seg.array[0], whole())
    np.testing.assert_allclose(seg.affine, scan.affine, atol=1e-6)
    assert seg.spacing == scan.spacing and segmentation.names(seg.source) == {1: "Liver", 2: "Left kidney"}
    np.testing.assert_array_equal(segmentation.onto(seg, scan), seg.array)


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_fractional_and_label_maps(drawn, kind):
    shares = RNG.integers(0, 201, size=(6, 8))
    shares[0, :2] = 100, 101
    if kind == "FRACTIONAL":
        found = segmentation.read(drawn([(2, 0, shares), (2, 1, shares)], kind)).array[0, 1]
        np.testing.assert_array_equal(found, np.where(shares > 100, 2, 0))
    else:
        np.testing.assert_array_equal(segmentation.read(drawn([(1, 0, shares), (1, 1, shares)], kind)).array[0, 1], shares)


def test_some_slices_are_placed_on_the_scan(drawn, volume, saved):
    scan = dicom.read(Source(saved(volume(BODY))))
    for apart in (5.0, 0.0):
        seg = segmentation.read(drawn([(1, 2, MASKS[1][2]), (2, 5, MASKS[2][5])], apart=apart))
        expected = np.zeros((1, 7, 6, 8), int)
        expected[0, 2], expected[0, 5] = MASKS[1][2], 2 * MASKS[2][5]
        assert seg.shape == ((4, 6, 8) if apart else (2, 6, 8))  # without a stated distance, the least one found
        np.testing.assert_array_equal(segmentation.onto(seg, scan), expected)
    seg = segmentation.read(drawn([(2, 4, MASKS[2][4])]))
    assert seg.shape == (6, 8)
    np.testing.assert_array_equal(segmentation.onto(seg, scan)[0, 4], 2 * MASKS[2][4])


def test_a_scan_that_runs_the_other_way(drawn, volume, saved):
    scan = dicom.read(Source(saved(volume(BODY))))
    seg = segmentation.read(drawn([(1, k, MASKS[1][k]) for k in (1, 2, 3)]))
    affine = scan.affine.copy()
    affine[:3, 3] += 6 * affine[:3, 0]
    affine[:3, 0] *= -1
    found = segmentation.onto(seg, replace(scan, affine=affine))
    np.testing.assert_array_equal(found[0, ::-1], segmentation.onto(seg, scan)[0])
    one = dicom.read(Source(saved(volume(BODY[:1]), "one")))
    np.testing.assert_array_equal(segmentation.onto(segmentation.read(drawn([(1, 0, MASKS[1][0])])), one)[0], MASKS[1][0])


@pytest.mark.parametrize(
    ("frames", "origin", "match"),
    [([0, 1], (-10.0, 21.0, 30.0), "does not lie on"), ([0, 1], (-10.0, 20.0, 32.0), "does not lie on"),
     ([6, 7], (-10.0, 20.0, 30.0), "outside")],
)  # fmt: skip
def test_other_places_are_refused(drawn, volume, saved, frames, origin, match):
    scan = dicom.read(Source(saved(volume(BODY))))
    seg = segmentation.read(drawn([(1, k, MASKS[1][0]) for k in frames], origin=origin))
    with pytest.raises(UnreadableError, match=match):
        segmentation.onto(seg, scan)
    with pytest.raises(UnreadableError, match="another size"):
        segmentation.onto(seg, dicom.read(Source(saved(volume(BODY[:, :4].copy()), "small"))))


def test_empty_slices_may_lie_outside(drawn, volume, saved):
    scan = dicom.read(Source(saved(volume(BODY))))
    seg = segmentation.read(drawn([(1, k, MASKS[1][0] * (k < 7)) for k in (5, 6, 7)]))
    np.testing.assert_array_equal(segmentation.onto(seg, scan)[0, 5:], [MASKS[1][0]] * 2)


def test_overlap_keeps_the_higher_number_and_says_so(drawn):
    both = np.ones((6, 8), bool)
    seg = segmentation.read(drawn([(2, 0, both), (1, 0, MASKS[1][0])]))
    assert (seg.array == 2).all() and seg.notes == (
        f"{MASKS[1][0].sum()} voxels belong to several segments, the highest number kept",
    )


def test_names_are_anatomy_and_nobodys(drawn, private):
    labels = {1: "Doe tumour", 2: "PID-4711", 3: "Lung 20200304", 4: "Lung, left (upper)", 5: ""}
    told = segmentation.names(drawn([(n, 0, MASKS[1][0]) for n in labels], labels=labels))
    assert told == {1: "Organ", 2: "Organ", 3: "Organ", 4: "Lung, left (upper)", 5: "Organ"}


def test_faults(drawn, volume, saved):
    with pytest.raises(UnreadableError, match="no DICOM segmentation"):
        segmentation.read(saved(volume(BODY[:1]))[0])
    with pytest.raises(UnreadableError, match="which segment each of its frames"):
        segmentation.read(drawn([(0, 0, MASKS[1][0])]))
    file = drawn([(1, k, MASKS[1][k]) for k in range(4)])
    content = file.read_bytes()
    for keep in (len(content) - 20, len(content) // 2, 200):
        file.write_bytes(content[:keep])
        with pytest.raises(UnreadableError):
            segmentation.read(file)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_what_highdicom_writes(volume, saved, tmp_path, kind):
    highdicom = pytest.importorskip("highdicom")
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    more = dict.fromkeys(("StudyTime", "StudyID", "PatientBirthDate", "ReferringPhysicianName"), "")
    more |= {"PatientSex": "O", "AccessionNumber": "1", "FrameOfReferenceUID": "1.2.3.4", "SeriesNumber": 1}
    files = saved(volume(BODY, SliceThickness=5, **more))
    scan = dicom.read(Source(files))
    described = [
        highdicom.seg.SegmentDescription(
            n, name, codes.SCT.Organ, codes.SCT.Liver, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        ) for n, name in ((1, "Liver"), (2, "Spleen"))
    ]  # fmt: skip
    labels = whole().astype(np.uint8)
    labels[0], labels[6] = 0, 0
    sources = sorted((dcmread(file) for file in files), key=lambda ds: -ds.ImagePositionPatient[2])
    mask = labels[::-1].copy()
    if kind == "FRACTIONAL":
        mask = np.stack([mask == 1, mask == 2], -1).astype(np.float32)
    seg = highdicom.seg.Segmentation(
        sources, mask, kind, described, highdicom.UID(), 2, highdicom.UID(), 1, "made", "up", "1", "0"
    )  # fmt: skip
    seg.save_as(tmp_path / "seg.dcm")
    found = segmentation.read(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(segmentation.onto(found, scan)[0], labels)
    assert {n: name for n, name in segmentation.names(tmp_path / "seg.dcm").items() if n} == {1: "Liver", 2: "Spleen"}


def test_real_segmentations():
    from pathlib import Path

    import pydicom

    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    one, big = (segmentation.read(folder / name) for name in ("liver_1frame.dcm", "liver_expb_1frame.dcm"))
    np.testing.assert_array_equal(one.array, big.array)
    np.testing.assert_array_equal(one.array[0], pydicom.dcmread(folder / "liver_1frame.dcm").pixel_array)
    assert segmentation.names(folder / "liver_1frame.dcm") == {1: "Liver"}


def test_real_segmentations_that_cannot_be_decoded_say_how(odd):
    for name, way in (("liver_rle.dcm", "RLE Lossless, one bit"), ("liver_deflate.dcm", "Deflated Image Frame")):
        with pytest.raises(UnreadableError, match=f"compressed as {way}.* cannot be decoded"):
            segmentation.read(odd / "dicom_bad" / name)
