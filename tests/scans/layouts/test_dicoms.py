"""DICOM folders: what the corpus does not show."""

from collections import Counter

from corpus import dicom, segmentation, text, volume

from headwater.scans.layouts import understand
from headwater.scans.readers import read, read_labels


def test_segmentations_go_to_the_series_they_refer_to(tmp_path):
    for z in range(4):
        dicom(tmp_path / f"a/{z}", "A", 1, z)
        dicom(tmp_path / f"b/{z}", "A", 2, z)
    segmentation(tmp_path / "s/second.dcm", "A", 2, 4)
    segmentation(tmp_path / "s/longer_name.dcm", "A", 2, 4)
    segmentation(tmp_path / "s/lost.dcm", "A", 9, 4)
    found = understand(tmp_path)
    assert [item.mask and item.mask.path.name for item in found.items] == [None, "second.dcm"]
    assert sorted(fault.fault.split(" of ")[0] for fault in found.faults) == ["is a segmentation", "is one more segmentation"]
    item = found.items[1]
    assert read(item.source).shape == read_labels(item.mask).shape == (4, 8, 9) and item.modality == "CT" and item.subject == "A"


def test_segmentations_from_a_folder_of_their_own(tmp_path):
    for z in range(4):
        dicom(tmp_path / f"scans/{z}", "A", 1, z)
    segmentation(tmp_path / "masks/organ.dcm", "A", 1, 4)
    found = understand(tmp_path / "scans", tmp_path / "masks")
    assert [item.mask.path.name for item in found.items] == ["organ.dcm"]


def test_files_of_any_name_among_others(tmp_path):
    for z in range(4):
        dicom(tmp_path / f"x/IM{z}", "A", 1, z)
    for name in ("notes.txt", "DICOMDIR.bak", "noise", "a.json"):
        text(tmp_path / f"x/{name}", "no image at all")
    found = understand(tmp_path)
    assert found.layout == "DICOM" and len(found.items) == 1 and not found.faults
    volume(tmp_path / "y.nii.gz")
    assert Counter(item.source.path.suffix for item in understand(tmp_path).items) == {"": 1, ".gz": 1}


def test_no_identifier_in_what_is_said(tmp_path):
    for z in range(4):
        dicom(tmp_path / f"x/{z}", "Secretname", 1, z, "scout" if z > 2 else "axial")
    found = understand(tmp_path)
    said = [found.rule, *found.notes, *(f"{fault.fault} {fault.remedy}" for fault in found.faults)]
    assert not any("Secretname" in text for text in said) and [fault.kind for fault in found.faults] == ["localiser"]
