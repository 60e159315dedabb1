"""DICOM files to series: who belongs together, in which order, and what is set aside."""

from pathlib import Path

import numpy as np
import pytest

from headwater.scans.formats import series

BODY = np.arange(7 * 6 * 8, dtype=np.int16).reshape(7, 6, 8)
SQUARE = ((1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1))


def heights(one):
    from pydicom import dcmread

    return [float(dcmread(file).ImagePositionPatient[2]) for file in one.source.files]


def kinds(faults):
    return sorted(fault.kind for fault in faults)


def test_one_series_sorted_along_its_normal(volume, saved):
    files = saved(volume(BODY, SliceThickness=3))
    told = []
    (one,), faults = series.group(files, told.append)
    assert heights(one) == [30.0 + 5 * k for k in range(7)] and one.source.files != tuple(sorted(files))
    assert not faults and sum(told) == 7
    assert (one.modality, one.subject, one.session, one.uid) == ("CT", "PID-4711", "1.2.826.0.1.7", "1.2.826.0.1.99")
    assert one.notes == ("gaps: slices 3 mm thick, 5 mm apart",) and one.name == str(one.source.path)
    assert not one.localiser and not one.segmentation


def test_two_series_in_one_folder(volume, saved):
    found, _ = series.group(saved(volume(BODY) + volume(BODY, uid="1.2.826.0.1.98")))
    assert [len(one.source.files) for one in found] == [7, 7] and len({one.uid for one in found}) == 2


@pytest.mark.parametrize("change", [{"turned": SQUARE[1], "step": (5.0, 0, 0)}, {"spacing": (1.0, 1.0)}, {"Modality": "MR"}])
def test_what_cannot_be_one_volume_is_split(volume, saved, change):
    found, _ = series.group(saved(volume(BODY) + volume(BODY, **change)))
    assert [len(one.source.files) for one in found] == [7, 7] and len({one.uid for one in found}) == 1


def test_other_size_is_split(volume, saved):
    found, _ = series.group(saved(volume(BODY) + volume(BODY[:, :4].copy())))
    assert [len(one.source.files) for one in found] == [7, 7]


def test_directions_that_differ_by_rounding_are_one(volume, saved):
    many = volume(BODY)
    many[2].ImageOrientationPatient = [0.999999, 0.0005, 0, -0.0005, 0.999999, 0]
    assert len(series.group(saved(many))[0]) == 1


def test_time_points_come_channel_by_channel(volume, saved):
    first, second = volume(BODY[:3]), volume(BODY[:3])
    for k, ds in enumerate(second):
        ds.InstanceNumber = 10 + k
    (one,), _ = series.group(saved(second + first))
    from pydicom import dcmread

    assert [int(dcmread(file).InstanceNumber) for file in one.source.files] == [1, 2, 3, 10, 11, 12]


def test_acquisitions_of_unequal_reach_are_split(volume, saved):
    many = volume(BODY, AcquisitionNumber=1) + volume(BODY[:4], AcquisitionNumber=2)
    found, _ = series.group(saved(many))
    assert sorted(len(one.source.files) for one in found) == [4, 7]


def test_a_missing_slice_does_not_split_a_series(volume, saved):
    many = volume(BODY)
    for k, ds in enumerate(many):
        ds.AcquisitionNumber = k  # each slice its own, as CT table steps have
    found, _ = series.group(saved(many[:3] + many[4:]))
    assert [len(one.source.files) for one in found] == [6]


@pytest.mark.parametrize("change", [{"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"SeriesDescription": "Head Scout"}])
def test_localisers_are_marked_and_counted(volume, saved, change):
    found, faults = series.group(saved(volume(BODY[:3]) + volume(BODY, **change)))
    assert sorted((len(one.source.files), one.localiser) for one in found) == [(3, False), (7, True)]
    assert kinds(faults) == ["localiser"]


def test_three_square_directions_are_a_localiser(volume, saved):
    found, faults = series.group(saved([ds for turned in SQUARE for ds in volume(BODY[:1], turned=turned)]))
    assert len(found) == 3 and all(one.localiser for one in found) and kinds(faults) == ["localiser"] * 3


def test_two_copies_of_a_slice_count_once(volume, saved, tmp_path):
    files = saved(volume(BODY))
    (tmp_path / "copy.dcm").write_bytes(files[2].read_bytes())
    (one,), faults = series.group([*files, tmp_path / "copy.dcm"])
    assert len(one.source.files) == 7 and kinds(faults) == ["duplicate"]


def test_pictures_without_a_place_stand_alone(picture, saved):
    found, _ = series.group(saved([picture(each, Modality="CR") for each in BODY[:3]]))
    assert [len(one.source.files) for one in found] == [1, 1, 1]


def test_many_frames_stand_alone(picture, saved):
    found, _ = series.group(saved([picture(BODY), picture(BODY)]))
    assert [len(one.source.files) for one in found] == [1, 1]


@pytest.mark.parametrize(
    ("uid", "kind", "pixels"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.67", "report", False), ("1.2.840.10008.5.1.4.1.1.88.11", "report", False),
        ("1.2.840.10008.5.1.4.1.1.104.1", "report", False), ("1.2.840.10008.5.1.4.1.1.11.1", "presentation state", False),
        ("1.2.840.10008.5.1.4.1.1.481.3", "structure set", False), ("1.2.840.10008.5.1.4.1.1.481.5", "radiotherapy plan", False),
        ("1.2.840.10008.5.1.4.1.1.481.2", "dose", True), ("1.2.840.10008.5.1.4.1.1.9.1.1", "waveform", False),
        ("1.2.840.10008.5.1.4.1.1.66", "no picture", False), ("1.2.3.4.5", "no picture", False),
        ("1.2.840.10008.5.1.4.1.1.7", "secondary capture", True),
    ],
)  # fmt: skip
def test_what_is_no_scan_is_set_aside_with_its_reason(picture, volume, saved, private, uid, kind, pixels):
    ds = picture(BODY[0], SOPClassUID=uid)
    if not pixels:
        for name in ("PixelData", "Rows", "Columns"):
            delattr(ds, name)
    found, faults = series.group(saved([*volume(BODY), ds]))
    assert [len(one.source.files) for one in found] == [7] and kinds(faults) == [kind]
    assert faults[0].fault and faults[0].remedy and not any(name in faults[0].fault for name in private)


def test_derived_pictures(picture, volume, saved):
    sheet = picture(BODY[0], ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    turning = volume(BODY[:1], ImageType=["DERIVED", "SECONDARY", "PROJECTION IMAGE"])
    assert kinds(series.group(saved([sheet, *turning]))[1]) == ["projection", "secondary capture"]
    kept = volume(BODY, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")  # converted, but it says where it lies
    assert len(series.group(saved(kept, "kept"))[0][0].source.files) == 7
    xray = picture(BODY[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="CR")
    assert len(series.group(saved([xray], "xray"))[0]) == 1


def test_an_index_and_damaged_files(volume, saved, tmp_path):
    files = saved(volume(BODY))
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "broken.dcm").write_bytes(b"no such thing")
    (tmp_path / "empty.dcm").write_bytes(b"")
    more = [tmp_path / name for name in ("DICOMDIR", "broken.dcm", "empty.dcm", "absent.dcm")]
    found, faults = series.group([*files, *more])
    assert len(found) == 1 and kinds(faults) == ["damaged"] * 3 + ["index"]


def test_missing_identifiers_fall_back(picture, saved):
    ds = picture(BODY[0], PatientID="", StudyInstanceUID="")
    (one,), _ = series.group(saved([ds]))
    assert one.subject == "" and one.session == "20200304"
    (one,), _ = series.group(saved([picture(BODY[0], PatientID="")], "b"))
    assert one.subject == one.session == "1.2.826.0.1.7"


def test_real_series_and_its_next_time_point(odd):
    files = [file for name in ("dicom_series_time2", "dicom_series") for file in (odd / name).iterdir()]
    (one,), faults = series.group(files)
    assert len(one.source.files) == 30 and not faults and not one.localiser
    assert {file.parent.name for file in one.source.files[:15]} == {"dicom_series"}


def test_real_files_of_every_make_are_grouped_or_named(odd):
    import pydicom

    shipped = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    files = [file for folder in (shipped, *odd.glob("dicom_*")) for file in folder.rglob("*") if file.is_file()]
    found, faults = series.group(files)
    grouped = [file for one in found for file in one.source.files]
    alone = [fault.file for fault in faults if fault.kind != "localiser"]
    assert sorted([*map(str, grouped), *alone]) == sorted(map(str, files))
    assert {one.referenced != "" for one in found if one.segmentation} == {True}
    assert any(len(one.source.files) == 5 for one in found)
