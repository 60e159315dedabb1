"""nnU-Net raw: what the corpus does not show."""

import json

import pytest
from corpus import mask, text, volume

from headwater.errors import InputError
from headwater.scans.layouts import understand


def test_channels_keep_their_order_and_names(tmp_path):
    for c in (1, 0, 2):
        volume(tmp_path / f"imagesTr/case_{c:04d}.nii.gz")
    text(tmp_path / "dataset.json", {
        "channel_names": {"2": "FLAIR", "0": "T1", "1": "T2"}, "labels": {"background": 0}, "file_ending": "nii.gz",
        "numTraining": 5,
    })  # fmt: skip
    found = understand(tmp_path)
    (item,) = found.items
    assert [file.name for file in item.source.files] == [f"case_{c:04d}.nii.gz" for c in range(3)]
    assert found.channel_names == ("T1", "T2", "FLAIR") and item.subject == "case" and item.mask is None and not found.faults
    assert any("counts 5 training cases, 1 can be used" in note for note in found.notes)


def test_ignore_regions_and_modality(tmp_path):
    volume(tmp_path / "imagesTr/a_0000.nii.gz")
    mask(tmp_path / "labelsTr/a.nii.gz")
    labels = {"background": 0, "all": [1, 2], "core": [2], "ignore": 3}
    text(tmp_path / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"})
    found = understand(tmp_path)
    assert found.label_names == {1: "all", 2: "core", 3: "ignore"} and found.items[0].modality == "MR"
    assert sum("regions" in note or "ignored" in note for note in found.notes) == 2


def test_channels_beyond_those_named_and_files_without_a_number(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "c"):
        volume(tmp_path / f"imagesTr/{name}.nii.gz")
    for name in ("a", "lost"):
        mask(tmp_path / f"labelsTr/{name}.nii.gz")
    text(tmp_path / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {}, "file_ending": ".nii.gz"})
    found = understand(tmp_path)
    assert [item.subject for item in found.items] == ["a", "b"] and [item.mask is None for item in found.items] == [False, True]
    assert sorted((fault.file, fault.kind) for fault in found.faults) == [
        ("imagesTr/a_0001.nii.gz", "channel"), ("imagesTr/c.nii.gz", "channel"), ("labelsTr/lost.nii.gz", "unpaired"),
    ]  # fmt: skip


def test_two_data_sets_keep_their_subjects_apart(tmp_path):
    for data in ("Dataset001_A", "Dataset002_B"):
        volume(tmp_path / data / "imagesTr/x_0000.nii.gz")
        told = {"channel_names": {"0": data}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 1}
        text(tmp_path / data / "dataset.json", told)
    found = understand(tmp_path)
    assert found.subjects == ["Dataset001_A/x", "Dataset002_B/x"] and found.channel_names == ()
    assert understand(tmp_path / "Dataset001_A").channel_names == ("Dataset001_A",)


def test_dataset_json_given_itself(tmp_path):
    volume(tmp_path / "imagesTr/x_0000.nii.gz")
    told = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 1}
    text(tmp_path / "dataset.json", told)
    assert understand(tmp_path / "dataset.json") == understand(tmp_path)


def test_dataset_json_of_any_shape_ends_in_a_catalog(tmp_path):
    for name in ("a_0000", "b_0000"):
        volume(tmp_path / f"imagesTr/{name}.nii.gz")
    odd = (None, 3, "x", [], {}, [1], {"0": 1}, {"a": {}}, True, 1.5)
    for key in ("channel_names", "labels", "file_ending", "numTraining", "dataset", "training", "modality", "headwater"):
        for value in odd:
            usual = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 2}
            (tmp_path / "dataset.json").write_text(json.dumps({**usual, key: value}))
            if key == "dataset" and value and isinstance(value, dict):
                with pytest.raises(InputError, match="1 x lists a case without images"):
                    understand(tmp_path)
            else:
                assert len(understand(tmp_path).items) == 2, (key, value)
