"""A data set written for nnU-Net keeps its rules and comes back as it was."""

import json
import os
from collections import Counter

import nibabel
import numpy as np
import pytest
from corpus import CASES, dicom, mask, picture, segmentation, volume
from PIL import Image

from headwater.errors import InputError
from headwater.scans.layouts import understand
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.nnunet import write
from headwater.scans.layouts.nnunet_raw import case_names
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import Source


def valid(folder) -> dict:
    """Whether a data set keeps the rules that nnU-Net checks before it plans; its dataset.json."""
    told = json.loads((folder / "dataset.json").read_text())
    assert {"channel_names", "labels", "numTraining", "file_ending"} <= set(told)
    assert list(told["channel_names"]) == [str(i) for i in range(len(told["channel_names"]))]
    assert sorted(told["labels"].values()) == list(range(len(told["labels"]))) and told["labels"]["background"] == 0
    ending, images = told["file_ending"], sorted(p.name for p in (folder / "imagesTr").glob("*"))
    cases = Counter(name[: -len(ending) - 5] for name in images)
    per_case = 1 if ending == ".png" else len(told["channel_names"])
    assert len(cases) == told["numTraining"] and set(cases.values()) <= {per_case}
    assert all(name.endswith(ending) for name in images)
    assert sorted(f"{case}{ending}" for case in cases) == sorted(p.name for p in (folder / "labelsTr").glob("*"))
    for case in cases:
        if ending == ".png":
            values = np.asarray(Image.open(folder / f"labelsTr/{case}.png"))
        else:
            label = nibabel.load(folder / f"labelsTr/{case}{ending}")
            values = np.asarray(label.dataobj)
            for i in range(per_case):
                image = nibabel.load(folder / f"imagesTr/{case}_{i:04d}{ending}")
                assert image.shape == label.shape and len(image.shape) == 3 and np.allclose(image.affine, label.affine)
        assert values.dtype.kind in "iu" and set(np.unique(values)) <= set(told["labels"].values())
    return told


def same(before: Catalog, after: Catalog) -> None:
    """Whether two catalogs hold the same scans under one order of their subjects, sessions and voxels."""
    assert len(before.items) == len(after.items) and before.subjects == after.subjects
    numbers = {value: i for i, value in enumerate(_values(before))}
    placed = all(read(item.source).spaced for item in before.items)

    def facts(item: Item, number: dict) -> tuple:
        scan = read(item.source)
        labels = None if item.mask is None else read_labels(item.mask).array
        changed = None if labels is None else np.vectorize(number.get)(labels).astype(np.int64)
        voxels = (scan.array.tobytes(), np.round(scan.affine, 4).tobytes() if placed else b"")
        return (
            item.subject,
            item.session,
            item.group,
            item.split or "train",
            voxels,
            None if labels is None else changed.tobytes(),
        )

    identity = {i: i for i in numbers.values()}
    assert sorted(facts(item, numbers) for item in before.items) == sorted(facts(item, identity) for item in after.items)


def _values(catalog: Catalog) -> list[int]:
    found = {0, *catalog.label_names}
    for item in catalog.items:
        found |= set(np.unique(read_labels(item.mask).array).tolist()) if item.mask else set()
    return sorted(found, key=lambda v: (v != 0, catalog.label_names.get(v) == "ignore", v))


GOOD = {case.name: case for case in CASES if not case.error and not case.faults}
CHOSEN = ("nnunet_flat", "nnunet_two_channels_one_scan", "nnunet_with_a_test_part", "nnunet_regions_and_ignore", "decathlon",
          "bids_without_sessions_or_tables", "nnssl", "medmnist_volumes_given", "plain_brats", "plain_patients", "analyze_pairs",
          "decathlon_four_axes", "dicom_with_segmentation", "classes_asked_for")  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_written_and_read_again(name, tmp_path):
    case = GOOD[name]
    root = tmp_path / "given"
    root.mkdir()
    case.write(root)
    before = understand(root / case.given, classes=case.classes)
    folder = write(before, tmp_path / "raw", 7, "Test")
    assert folder == tmp_path / "raw/Dataset007_Test" and [p.name for p in folder.parent.iterdir()] == ["Dataset007_Test"]
    told = valid(folder)
    after = understand(folder)
    assert after.layout == "nnU-Net" and not after.faults, after.faults
    same(before, after)
    assert not before.channel_names or after.channel_names == before.channel_names
    assert {v: n for v, n in after.label_names.items() if n in before.label_names.values()} == {
        told["labels"][n]: n for n in before.label_names.values()
    }
    again = write(after, tmp_path / "again", 8, "Test")
    same(after, understand(again))
    assert (folder.stat().st_mode & 0o77) == 0


def test_files_that_fit_are_linked_and_masks_renumbered(tmp_path):
    images = [volume(tmp_path / f"in/{i}.nii.gz") for i in range(2)]
    for i in range(2):
        mask(tmp_path / f"in/{i}_seg.nii.gz", (4, 200))
    folder = write(understand(tmp_path / "in"), tmp_path / "raw", 1, "A")
    assert os.path.samefile(folder / "imagesTr/0_0000.nii.gz", images[0])
    told = valid(folder)
    assert told["labels"] == {"background": 0, "structure 4": 1, "structure 200": 2}
    assert set(np.unique(nibabel.load(folder / "labelsTr/0.nii.gz").dataobj)) == {0, 1, 2}


def test_pictures_stay_pictures(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"in/images/{name}.png")
        picture(tmp_path / f"in/labels/{name}.png", labels=True)
    folder = write(understand(tmp_path / "in"), tmp_path / "raw", 1, "A")
    assert valid(folder)["file_ending"] == ".png" and os.path.samefile(folder / "labelsTr/a.png", tmp_path / "in/labels/a.png")
    same(understand(tmp_path / "in"), understand(folder))


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    array = np.arange(120, dtype=np.uint16).reshape(12, 10) * 500
    (tmp_path / "in").mkdir()
    Image.fromarray(array).save(tmp_path / "in/a.tif")
    Image.fromarray(array + 1).save(tmp_path / "in/b.tif")
    folder = write(understand(tmp_path / "in"), tmp_path / "raw", 1, "A")
    found = nibabel.load(folder / "imagesTs/a_0000.nii.gz")
    assert found.get_data_dtype() == np.uint16 and np.array_equal(np.asarray(found.dataobj)[..., 0], array)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    volume(tmp_path / "in/a.nii.gz")
    volume(tmp_path / "in/b.nii.gz", (6, 7, 5, 2))
    catalog = understand(tmp_path / "in")
    with pytest.raises(InputError, match="has 2 channels, others have 1|has 1 channels, others have 2"):
        write(catalog, tmp_path / "raw", 1, "A")
    (tmp_path / "in/b.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError, match="b.nii.gz"):
        write(catalog, tmp_path / "raw", 1, "A")
    assert list((tmp_path / "raw").iterdir()) == []
    for number, name in ((0, "A"), (1000, "A"), (1, ""), (1, "../x"), (1, "a b")):
        with pytest.raises(InputError, match="cannot be named so"):
            write(catalog, tmp_path / "raw", number, name)
    (tmp_path / "raw/Dataset001_A").mkdir()
    with pytest.raises(InputError, match="is there already"):
        write(catalog, tmp_path / "raw", 1, "A")


def test_names_of_cases_never_meet():
    def item(name, subject):
        return Item(name, Source.of(name), subject)

    names = case_names([item("a b.nii", "x y"), item("a_b.nii", "x_y"), item("A_B.nii", "X_Y"), item("ü.nii", "ü")])
    assert names == ["x_y", "x_y_again2", "X_Y_again3", "case"]
    assert case_names([item("p/t1.nii", "p"), item("p/t2.nii", "p")]) == ["p_t1", "p_t2"]
    assert case_names([item("f.npz#train_images/0", "p"), item("f.npz#train_images/1", "p")]) == [
        "f.npz_train_images_0",
        "f.npz_train_images_1",
    ]


def test_dicom_becomes_nifti_in_its_place(tmp_path):
    for z in range(4):
        dicom(tmp_path / f"in/{z}.dcm", "A", 1, z)
    segmentation(tmp_path / "in/s.dcm", "A", 1, 4)
    folder = write(understand(tmp_path / "in"), tmp_path / "raw", 1, "A")
    valid(folder)
    before, after = read(understand(tmp_path / "in").items[0].source), read(folder / "imagesTr/A_0000.nii.gz")
    assert np.allclose(before.affine, after.affine) and np.array_equal(before.array, after.array)
