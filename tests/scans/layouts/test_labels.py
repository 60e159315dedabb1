"""Masks from a folder of their own."""

import pytest
from corpus import CASES, mask, picture, text, volume

from headwater.errors import InputError
from headwater.scans.layouts import understand


def _pairs(found):
    return {item.name: item.mask and item.mask.path.name for item in found.items}


def test_beside_below_and_above(tmp_path):
    beside = tmp_path / "beside"
    for name in ("t1", "t1_seg-manual", "t2"):
        volume(beside / f"{name}.nii")
    assert _pairs(understand(beside, beside)) == {"t1.nii": "t1_seg-manual.nii", "t2.nii": None} == _pairs(understand(beside))
    below = tmp_path / "below"
    volume(below / "t1.nii"), volume(below / "extra/t1.nii")
    assert _pairs(understand(below, below / "extra")) == {"t1.nii": "t1.nii"}
    above = tmp_path / "above"
    volume(above / "t1.nii"), volume(above / "scans/t1.nii")
    found = understand(above / "scans", above)
    assert found.items[0].mask.path == (above / "t1.nii").resolve() and len(found.items) == 1


def test_they_replace_those_of_the_layout(tmp_path):
    case = next(case for case in CASES if case.name == "nnunet_flat")
    case.write(tmp_path / "data")
    for i in range(2):
        mask(tmp_path / f"other/liver_{i:03d}.nii.gz")
    mask(tmp_path / "other/unknown.nii.gz")
    found = understand(tmp_path / "data", tmp_path / "other")
    assert [item.mask and item.mask.path.parent.name for item in found.items] == ["other", "other", None]
    assert [fault.file for fault in found.faults] == ["unknown.nii.gz"] and any(
        "3 masks that the folder of scans" in n for n in found.notes
    )
    same = understand(tmp_path / "data", tmp_path / "data/labelsTr")
    assert [item.mask.path.parent.name for item in same.items] == ["labelsTr"] * 3


@pytest.mark.parametrize(
    ("labels", "words"),
    [("gone", "does not exist; check the path"), ("scans/a.png", "is a file; give the folder"), 
     ("scans", "No file in .* is named like"), ("other", "No mask in .* has the name of a scan"),
     ("none", "holds no image")],
)  # fmt: skip
def test_faults_are_sentences(tmp_path, labels, words):
    picture(tmp_path / "scans/a.png"), picture(tmp_path / "other/z.png"), (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=words):
        understand(tmp_path / "scans", tmp_path / labels)


def test_all_scans_in_the_folder_of_masks(tmp_path):
    picture(tmp_path / "masks/a.png")
    with pytest.raises(InputError, match="All scans in .* lie in"):
        understand(tmp_path, tmp_path / "masks")


def test_names_of_structures_from_a_dataset_json_nearby(tmp_path):
    for name in ("a", "b"):
        volume(tmp_path / f"scans/{name}.nii.gz")
        mask(tmp_path / f"masks/{name}.nii.gz")
    text(tmp_path / "dataset.json", {"labels": {"0": "background", "1": "liver", "4": "tumour"}})
    assert understand(tmp_path / "scans", tmp_path / "masks").label_names == {1: "liver", 4: "tumour"}
    text(tmp_path / "masks/dataset.json", {"labels": {"spleen": 1}})
    assert understand(tmp_path / "scans", tmp_path / "masks").label_names == {1: "spleen"}
    assert understand(tmp_path / "scans").label_names == {}
