"""DICOM series to scans: values, geometry against SimpleITK and nibabel, and one sentence per fault."""

import re
from pathlib import Path

import numpy as np
import pytest

from headwater.scans import scan as values
from headwater.scans.formats import dicom, series
from headwater.scans.scan import Source, UnreadableError

RNG = np.random.default_rng(0)
BODY = RNG.integers(-1000, 2000, size=(7, 6, 8)).astype(np.int16)
OBLIQUE = (0.6, 0.8, 0, 0, 0, -1)  # normal (-0.8, 0.6, 0)


def refused(place, match, private=()):
    with pytest.raises(UnreadableError, match=match) as caught:
        dicom.read(place)
    said = str(caught.value).replace(str(Source.of(place).path), "")
    assert not any(name in said for name in private) and not re.search(r"\d+\.\d+\.\d+\.\d+", said), said
    return said


def mm(scan, *index):
    """Where a voxel lies, LPS."""
    return (scan.affine @ [*index, 1])[:3] * [-1, -1, 1]


def test_a_shuffled_series(volume, saved):
    files = saved(volume(BODY))
    scan = dicom.read(Source(files))
    np.testing.assert_array_equal(scan.array[0], BODY)
    assert scan.array.dtype == np.float32 and scan.array.flags.c_contiguous and scan.stored == "int16"
    assert scan.spacing == (5.0, 0.8, 0.5) and scan.modality == "CT" and scan.format == "DICOM" and scan.spaced
    np.testing.assert_allclose(mm(scan, 2, 3, 4), [-10 + 4 * 0.5, 20 + 3 * 0.8, 30 + 2 * 5], atol=1e-6)
    assert scan.notes == () and scan.source.files == files


@pytest.mark.parametrize(
    ("turned", "step"), [((1, 0, 0, 0, 1, 0), (0, 0, 2.0)), (OBLIQUE, (-1.6, 1.2, 0)), ((0, 1, 0, 0, 0, -1), (-3.0, 0, 0))]
)  # fmt: skip
@pytest.mark.parametrize("backwards", [False, True])
def test_geometry_is_that_of_simpleitk(volume, saved, turned, step, backwards):
    itk = pytest.importorskip("SimpleITK")
    step = tuple(-x for x in step) if backwards else step
    files = saved(volume(BODY, step=step, turned=turned, SliceThickness=2))
    scan = dicom.read(Source(files))
    names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(files[0].parent))
    other = itk.ReadImage(names)
    np.testing.assert_array_equal(scan.array[0], itk.GetArrayFromImage(other))
    for index in np.ndindex(2, 2, 2):
        k, r, c = (int(i * (n - 1)) for i, n in zip(index, BODY.shape, strict=True))
        np.testing.assert_allclose(mm(scan, k, r, c), other.TransformIndexToPhysicalPoint((c, r, k)), atol=1e-4)
    np.testing.assert_allclose(scan.spacing, other.GetSpacing()[::-1], atol=1e-5)


def test_slope_and_intercept_of_each_file(volume, saved):
    many = volume(BODY)
    for k, ds in enumerate(many):
        ds.RescaleSlope, ds.RescaleIntercept = str(0.5 * (k + 1)), "-1024"
    scan = dicom.read(Source(saved(many)))
    expected = BODY * (0.5 * np.arange(1, 8))[:, None, None] - 1024
    np.testing.assert_array_equal(scan.array[0], expected.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_small_integers_are_exact_to_their_ends(volume, saved, dtype):
    ends = np.iinfo(dtype)
    array = np.resize(np.array([ends.min, ends.max, ends.max - 1, ends.min + 1], dtype), (2, 4, 6))
    np.testing.assert_array_equal(dicom.read(Source(saved(volume(array)))).array[0], array)


def test_unused_bits_are_cleared_and_signs_extended(picture, saved):
    stored = np.array([[0x0001, 0x0FFF, 0x0800, 0x07FF]], np.uint16)
    junk = stored | 0xA000  # overlays lived here
    files = saved([picture(junk, BitsStored=12, HighBit=11), picture(junk, BitsStored=12, HighBit=11, PixelRepresentation=1)])
    found = sorted(dicom.read(file).array.ravel().tolist() for file in files)
    assert found == sorted([[1.0, 4095.0, 2048.0, 2047.0], [1.0, -1.0, -2048.0, 2047.0]])


def test_gantry_tilt_is_a_sheared_affine(volume, saved):
    scan = dicom.read(Source(saved(volume(BODY, step=(0, 5 * np.tan(np.radians(12.3)), 5.0)))))
    assert any("gantry tilt: 12.3 degrees" in note for note in scan.notes)
    np.testing.assert_allclose(mm(scan, 6, 0, 0), [-10, 20 + 30 * np.tan(np.radians(12.3)), 60], atol=1e-5)
    np.testing.assert_allclose(scan.spacing[0], np.linalg.norm(scan.affine[:3, 0]), atol=1e-6)


def test_gaps_are_told(volume, saved):
    assert "gaps: slices 3 mm thick, 5 mm apart" in dicom.read(Source(saved(volume(BODY, SliceThickness=3)))).notes
    assert "overlap: slices 8 mm thick, 5 mm apart" in dicom.read(Source(saved(volume(BODY, SliceThickness=8), "b"))).notes


def test_a_missing_slice_is_refused_with_its_place(volume, saved, private):
    many = volume(BODY)
    said = refused(Source(saved(many[:3] + many[4:])), "slices 3 and 4 of 6 are 10 mm apart where others are 5 mm", private)
    assert "export it again with the missing slices" in said


def test_small_unevenness_passes(volume, saved):
    many = volume(BODY)
    many[3].ImagePositionPatient = [-10, 20, 30 + 15.2]
    assert dicom.read(Source(saved(many))).spacing[0] == 5.0


def test_one_slice_is_a_picture(volume, saved):
    scan = dicom.read(Source(saved(volume(BODY[:1], turned=OBLIQUE))))
    assert scan.array.shape == (1, 6, 8) and scan.spacing == (0.8, 0.5)
    where = (scan.affine @ [3, 4, 0, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(where, np.array([-10, 20, 30]) + 4 * 0.5 * np.array(OBLIQUE[:3]) + 3 * 0.8 * np.array(OBLIQUE[3:]))


@pytest.mark.parametrize("by", ["InstanceNumber", "EchoTime", "TemporalPositionIdentifier"])
def test_time_points_and_echoes_are_channels(volume, saved, by):
    first, second = volume(BODY), volume(BODY[::-1].copy())
    for k, ds in enumerate(first + second):
        ds.InstanceNumber = k + 1 if by == "InstanceNumber" else 1
        setattr(ds, by, k + 1 if by == "InstanceNumber" else 1 + k // 7)
    scan = dicom.read(Source(saved(first + second)))
    assert scan.array.shape == (2, *BODY.shape) and any("2 pictures of each slice" in note for note in scan.notes)
    np.testing.assert_array_equal(scan.array, [BODY, BODY[::-1]])


def test_an_incomplete_time_point_is_refused(volume, saved, private):
    refused(
        Source(saved(volume(BODY) + volume(BODY)[:5])), "uneven series: slice 6 of 7 is there 1 times, others up to 2", private
    )


def test_slices_in_several_directions_are_refused(volume, saved, private):
    refused(Source(saved(volume(BODY) + volume(BODY, turned=OBLIQUE))), "different directions", private)


def test_files_without_a_place(picture, saved, private):
    files = saved([picture(each) for each in BODY[:2]])
    refused(Source(files), "do not say where in the body they lie", private)
    scan = dicom.read(files[0])
    assert scan.array.shape == (1, 6, 8) and not scan.spaced and scan.spacing == (1.0, 1.0)
    scan = dicom.read(saved([picture(BODY[0], PixelSpacing=[0.3, 0.2])], "b")[0])
    assert scan.spaced and scan.spacing == (0.3, 0.2)
    np.testing.assert_array_equal(scan.affine, np.diag([0.3, 0.2, 1, 1]))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
def test_ways_of_writing(volume, saved, syntax):
    many = volume(BODY)
    for ds in many:
        if syntax.endswith("2.5"):
            ds.compress(syntax, generate_instance_uid=False)
        if syntax.endswith("2.2"):
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(dicom.read(Source(saved(many))).array[0], BODY)


def test_without_a_preamble(volume, tmp_path):
    ds = volume(BODY[:1])[0]
    path = tmp_path / "old"
    del ds.file_meta
    ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM" and dicom.sniff(path)
    np.testing.assert_array_equal(dicom.read(path).array[0], BODY[0])


@pytest.mark.parametrize(("content", "expected"), [(b"", False), (b"\0" * 200, False),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 200, False),
    (b"\0" * 128 + b"DICM", True), (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", True), (b"\x08\0\0\0\x04\0\0\0\x10\x01\0\0\0\0\0\0", True),
    (b"\0\x08\0\x05CS\0\x0aISO_IR 100", True), (b"\x08\0 a text with a number", False)])  # fmt: skip
def test_sniff(tmp_path, content, expected):
    (tmp_path / "a").write_bytes(content)
    assert dicom.sniff(tmp_path / "a") is expected
    assert not dicom.sniff(tmp_path / "absent") and not dicom.sniff(tmp_path)


def test_colour_palette_and_inverted_greys(picture, saved):
    colour = RNG.integers(0, 255, (5, 4, 3)).astype(np.uint8)
    ds = picture(colour[..., 0], SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB")
    ds.PixelData = colour.tobytes()
    np.testing.assert_array_equal(dicom.read(saved([ds], "rgb")[0]).array, np.moveaxis(colour, -1, 0))
    scan = dicom.read(saved([picture(BODY[0], PhotometricInterpretation="MONOCHROME1")], "m1")[0])
    np.testing.assert_array_equal(scan.array[0], BODY[0])
    assert any("MONOCHROME1" in note for note in scan.notes)
    ds = picture(np.array([[0, 1], [2, 3]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for i, name in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(ds, f"{name}PaletteColorLookupTableData", bytes([i, 10 + i, 20 + i, 30 + i]))
    scan = dicom.read(saved([ds], "palette")[0])
    assert scan.array[:, 1, 1].tolist() == [30, 31, 32] and "palette turned into RGB" in scan.notes


def enhanced(picture, array, where, order=None, slopes=None):
    from pydicom.dataset import Dataset
    from pydicom.uid import EnhancedCTImageStorage

    def item(**values):
        ds = Dataset()
        for name, value in values.items():
            setattr(ds, name, value)
        return ds

    ds = picture(array, SOPClassUID=EnhancedCTImageStorage)
    measures = item(PixelSpacing=[0.8, 0.5], SliceThickness=2)
    turned = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    ds.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[turned])]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[-10, 20, z])],
            FrameContentSequence=[item(TemporalPositionIndex=(order or [1] * len(where))[i])],
            PixelValueTransformationSequence=[item(RescaleSlope=(slopes or [1] * len(where))[i], RescaleIntercept=-5)],
        )
        for i, z in enumerate(where)
    ]
    return ds


def test_enhanced_frames_are_sorted_and_scaled_one_by_one(picture, saved):
    files = saved([enhanced(picture, BODY[:4], [36.0, 30.0, 34.0, 32.0], slopes=[1, 2, 3, 4])])
    scan = dicom.read(files[0])
    scaled = BODY[:4] * np.array([1, 2, 3, 4])[:, None, None] - 5
    np.testing.assert_array_equal(scan.array[0], scaled[[1, 3, 2, 0]])
    assert scan.spacing == (2.0, 0.8, 0.5)
    np.testing.assert_allclose(mm(scan, 0, 0, 0), [-10, 20, 30])


def test_enhanced_time_points_are_channels(picture, saved):
    ds = enhanced(picture, BODY[:6], [30, 30, 32, 32, 34, 34], order=[2, 1, 1, 2, 2, 1])
    np.testing.assert_array_equal(dicom.read(saved([ds])[0]).array, np.array([BODY[[1, 2, 5]], BODY[[0, 3, 4]]]) - 5)


def test_frames_without_a_place_are_a_volume_without_spacing(picture, saved):
    scan = dicom.read(saved([picture(BODY)])[0])
    np.testing.assert_array_equal(scan.array[0], BODY)
    assert not scan.spaced and scan.spacing == (1.0, 1.0, 1.0) and scan.orientation == ""
    assert any("7 frames that do not say" in note for note in scan.notes)


def test_cut_off_files(volume, saved, private):
    file = saved(volume(BODY[:1]))[0]
    content = file.read_bytes()
    for keep in (len(content) - 20, len(content) - 90, len(content) // 2, 300, 140, 132, 60, 0):
        file.write_bytes(content[:keep])
        refused(file, "cut off|damaged|holds no picture|no DICOM header|no pixels|not supported", private)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
def test_compressed_nonsense(picture, saved, syntax, private):
    from pydicom.encaps import encapsulate

    ds = picture(BODY[0])
    ds.PixelData = encapsulate([b"\1\2\3\4" * 40])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    refused(saved([ds])[0], "compressed pixels that do not decode", private)


def test_a_syntax_without_its_decoder_names_it_and_the_remedy(picture, saved, private):
    from pydicom.encaps import encapsulate

    for syntax, name in (("4.57", "JPEG Lossless"), ("4.100", "MPEG2"), ("4.51", "its maker's own")):
        ds = picture(BODY[0])
        ds.PixelData = encapsulate([b"\1\2\3\4" * 40])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.{syntax}"
        file = saved([ds], name[:4])[0]
        if syntax == "4.51":
            file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.4.51", b"1.2.999.10008.1.2.4.51"))
        said = refused(file, f"compressed .*{name}.* cannot be decoded", private)
        assert "gdcmconv --raw" in said and "pip install pylibjpeg" in said


def test_absurd_sizes_are_refused_before_memory_is_asked_for(picture, saved, monkeypatch, private):
    from pydicom.encaps import encapsulate

    refused(saved([picture(BODY[0], Rows=60000, Columns=60000)], "a")[0], "more than the limit", private)
    refused(saved([picture(BODY[0], Rows=6000, Columns=600)], "b")[0], "cut off: its header says 1 x 6000 x 600", private)
    refused(saved([picture(BODY, NumberOfFrames=2**31 - 1)], "c")[0], "more than the limit", private)
    ds = picture(BODY[0], NumberOfFrames=5000)
    ds.PixelData = encapsulate([b"\1\2\3\4" * 40])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    refused(saved([ds], "d")[0], "fewer than its 5000 frames", private)
    file = saved([picture(BODY[0], Rows=0)], "e")[0]
    refused(file, "holds no picture", private)
    monkeypatch.setattr(values, "LIMIT", 1000)
    refused(Source(saved([picture(each) for each in BODY], "f")), "larger than", private)


def test_a_deflated_bomb_is_not_unpacked(picture, saved, monkeypatch, private):
    ds = picture(np.zeros((600, 600), np.int16))
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    file = saved([ds])[0]
    assert file.stat().st_size < 6000
    monkeypatch.setattr(values, "LIMIT", 500_000)
    refused(file, "unpacks to more than", private)


def test_a_segmentation_and_a_report_are_no_scans(picture, saved, private):
    refused(saved([picture(BODY[0], Modality="SEG")])[0], "is a segmentation, not a scan", private)
    ds = picture(BODY[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(ds, name)
    refused(saved([ds], "sr")[0], "holds no picture but a Basic Text SR", private)


def test_no_identifier_in_scan_notes(volume, saved, private):
    for scan in (
        dicom.read(Source(saved(volume(BODY, SliceThickness=3, Modality="Doe^Jane"[:3].upper(), BurnedInAnnotation="YES")))),
    ):
        assert not any(name in note for note in scan.notes for name in private) and scan.modality == ""
        assert "has text burned into its pixels" in scan.notes


def test_real_series(odd):
    one, two = (tuple(sorted((odd / name).iterdir())) for name in ("dicom_series", "dicom_series_time2"))
    scan = dicom.read(Source(one))
    assert scan.array.shape == (1, 15, 64, 64) and scan.spacing == (5.0, 3.75, 3.75)
    assert scan.notes == ("gaps: slices 3 mm thick, 5 mm apart",)
    both = dicom.read(Source(two + one))
    assert both.array.shape == (2, 15, 64, 64)
    np.testing.assert_array_equal(both.array[0], scan.array[0])
    itk = pytest.importorskip("SimpleITK")
    other = itk.ReadImage(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(odd / "dicom_series")))
    np.testing.assert_array_equal(scan.array[0], itk.GetArrayFromImage(other))
    np.testing.assert_allclose(mm(scan, 3, 5, 7), other.TransformIndexToPhysicalPoint((7, 5, 3)), atol=1e-4)


def test_real_mosaic_and_enhanced_files(odd):
    scan = dicom.read(next((odd / "dicom_mosaic").iterdir()))
    assert scan.array.shape == (1, 5, 72, 72) and scan.spacing == (12.0, 3.0, 3.0)
    same = [dicom.read(odd / "dicom_enhanced" / f"emri_small{end}.dcm") for end in ("", "_RLE", "_big_endian")]
    assert all(np.array_equal(same[0].array, other.array) for other in same) and not same[0].spaced
    scan = dicom.read(odd / "dicom_enhanced" / "eCT_Supplemental.dcm")
    assert scan.array.shape == (1, 2, 512, 512) and scan.spacing[0] == 10.0 and scan.modality == "CT"


def test_real_bad_files_read_or_say_why(odd):
    refused(odd / "dicom_bad" / "emri_small_jpeg_2k_lossless_too_short.dcm", "is cut off or damaged")
    refused(odd / "dicom_bad" / "liver_rle.dcm", "is a segmentation, not a scan")
    for file in sorted((odd / "dicom_bad").iterdir()):
        try:
            assert np.isfinite(dicom.read(file).array).all()
        except UnreadableError as error:
            assert error.fault and error.remedy and len(error.fault) < 160, file


def test_every_file_that_ships_with_pydicom_reads_or_says_why():
    import pydicom
    from pydicom import dcmread

    counts = {"read": 0, "same": 0, "refused": 0}
    for file in sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*")):
        if not file.is_file():
            continue
        try:
            scan = dicom.read(file)
        except UnreadableError as error:
            assert str(file) in str(error) and error.fault and error.remedy
            counts["refused"] += 1
            continue
        counts["read"] += 1
        ds = dcmread(file, force=True)
        if (
            file.name != "badVR.dcm"
            and "RescaleSlope" not in ds
            and ds.PhotometricInterpretation.startswith("MONOCHROME")
            and scan.ndim == 2
        ):
            np.testing.assert_array_equal(scan.array[0], ds.pixel_array.astype(np.float32))
            counts["same"] += 1
    assert counts["read"] > 60 and counts["same"] > 10 and counts["refused"] > 20, counts


def test_what_grouping_promises_reading_keeps(volume, saved):
    first, second = volume(BODY), volume(BODY[:, ::-1].copy(), uid="1.2.826.0.1.98")
    found, faults = series.group(saved(first + second))
    assert not faults and sorted(dicom.read(one.source).array.sum() for one in found) == [BODY.sum()] * 2


def test_mutated_files_read_or_say_why(tmp_path, volume, picture, saved):
    """A seeded fuzz over cut, overwritten, shortened and exaggerated files of four makes, single and as a series."""
    from headwater.scans.formats import segmentation

    rle = volume(BODY[:1])
    rle[0].compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    deflated = picture(BODY)
    deflated.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    seeds = [file.read_bytes() for file in saved([*rle, deflated, enhanced(picture, BODY[:3], [0, 2, 4]), picture(BODY[0])])]
    rng, file, counts = np.random.default_rng(11), tmp_path / "mutant.dcm", [0, 0]
    for _ in range(150):
        content = bytearray(seeds[rng.integers(len(seeds))])
        at, way = int(rng.integers(130, len(content) - 40)), rng.integers(4)
        if way == 0:
            del content[at:]
        elif way == 1:
            del content[at : at + int(rng.integers(1, 40))]
        elif way == 2:
            content[at : at + 4] = b"\xff" * 4
        else:
            for spot in rng.integers(130, len(content), 8):
                content[spot] = rng.integers(256)
        file.write_bytes(content)
        series.group([file])
        for read in (dicom.read, segmentation.read, segmentation.names):
            try:
                read(file)
                counts[0] += 1
            except UnreadableError as error:
                assert not re.search("Doe|4711|Nowhere|Private", f"{error.fault} {error.remedy}")
                counts[1] += 1
    assert min(counts) > 30, counts
