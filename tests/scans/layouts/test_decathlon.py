"""Lists in JSON: what the corpus does not show."""

import contextlib
import json

from corpus import dicom, mask, text, volume

from headwater.errors import InputError
from headwater.scans.layouts import understand


def test_channels_labels_and_subjects(tmp_path):
    for name in ("a_t1", "a_t2", "b_t1", "b_t2"):
        volume(tmp_path / f"{name}.nii.gz")
    mask(tmp_path / "m.nii.gz")
    text(tmp_path / "list.json", {
        "labels": {"0": "background", "1": "left", "2": "right"}, "modality": {"0": "T1", "1": "T2"},
        "training": [{"image": ["a_t1.nii.gz", "a_t2.nii.gz"], "label": "m.nii.gz", "patient_id": "7"},
                     {"image": ["b_t1.nii.gz", "b_t2.nii.gz"], "patient_id": 7}],
    })  # fmt: skip
    found = understand(tmp_path)
    assert found.layout == "datalist" and [len(item.source.files) for item in found.items] == [2, 2]
    assert found.label_names == {1: "left", 2: "right"} and found.channel_names == ("T1", "T2") and found.subjects == ["7"]
    assert [item.mask is not None for item in found.items] == [True, False]


def test_a_folder_of_one_series_is_a_scan(tmp_path):
    for z in range(4):
        dicom(tmp_path / f"ct/{z}", "A", 1, z)
        dicom(tmp_path / f"two/{z}", "A", 1 + z % 2, z)
    (tmp_path / "none").mkdir()
    text(tmp_path / "list.json", {"training": [{"image": name} for name in ("ct", "two", "none")]})
    for given in (tmp_path, tmp_path / "list.json"):
        found = understand(given)
        assert [len(item.source.files) for item in found.items] == [4]
        assert sorted(fault.fault for fault in found.faults) == [
            "is a folder with 2 DICOM series",
            "is a folder with no DICOM series",
        ]


def test_the_outer_list_counts(tmp_path):
    volume(tmp_path / "in/a.nii.gz")
    text(tmp_path / "list.json", {"training": [{"image": "in/a.nii.gz"}]})
    text(tmp_path / "in/list.json", {"training": [{"image": "gone.nii.gz"}]})
    assert [item.name for item in understand(tmp_path).items] == ["in/a.nii.gz"]


def test_lists_of_any_shape_end_in_a_catalog(tmp_path):
    volume(tmp_path / "a.nii.gz")
    odd = (
        None,
        3,
        "x",
        [],
        {},
        [1],
        [None],
        {"image": None},
        {"image": []},
        {"image": {}},
        True,
        1.5,
        [[]],
        {"image": "a.nii.gz", "label": {}},
    )
    for key in ("training", "validation", "testing", "labels", "modality"):
        for value in odd:
            for shaped in (value, [value]):
                told = {"training": [{"image": "a.nii.gz"}], key: shaped}
                (tmp_path / "list.json").write_text(json.dumps(told))
                if key == "training":
                    with contextlib.suppress(InputError):
                        assert len(understand(tmp_path).items) == 1, shaped
                else:
                    assert len(understand(tmp_path).items) == 1, (key, shaped)
