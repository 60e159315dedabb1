"""Names of masks are those of their scans, no two alike; what is on record is done, what is not ours is left alone."""

from pathlib import Path

import pytest

from headwater.errors import InputError
from headwater.scans.layouts import Catalog, Item
from headwater.scans.scan import Source
from headwater.transfer import places


def catalog(root: Path, *names: str, layout: str = "plain") -> Catalog:
    """Names with "+" are several files of one scan."""
    items = []
    for name in names:
        files = name.split("+")
        paths = tuple(root / file.partition("#")[0] for file in files)
        items.append(Item(files[0], Source(paths, files[0].partition("#")[2]), files[0]))
    return Catalog(layout, "made up", root, tuple(items))


@pytest.mark.parametrize(
    ("name", "layout", "kind", "target"),
    [
        ("a.nii.gz", "plain", "nifti", "a.nii.gz"),
        ("left/a.v2.mha", "plain", "nifti", "left/a.v2.nii.gz"),
        ("a.JPG", "plain", "png", "a.png"),
        ("imagesTs/c_0000.nii.gz+imagesTs/c_0001.nii.gz", "nnU-Net", "nifti", "imagesTs/c.nii.gz"),
        ("c_0000.nii.gz", "plain", "nifti", "c_0000.nii.gz"),
        ("p/1.dcm+p/2.dcm", "DICOM", "dicom", "p/segmentation.dcm"),
        ("p/1.dcm+p/2.dcm", "DICOM", "nifti", "p/segmentation.nii.gz"),
        ("p/1.2.840.1+p/1.2.840.2", "DICOM", "dicom", "p/segmentation.dcm"),
        ("p/1.dcm", "DICOM", "dicom", "p/1.dcm"),
        ("x.npz#images/17", "MedMNIST", "png", "x/images/17.png"),
    ],
)
def test_names(tmp_path, name, layout, kind, target):
    found = catalog(tmp_path, name, layout=layout)
    assert places.Places.of(found, tmp_path / "out").target(found.items[0], kind) == tmp_path / "out" / target


def test_no_two_alike(tmp_path):
    found = catalog(tmp_path, "a.nii.gz", "a.mha", "A.nrrd", "b.nii", "p/1.dcm+p/2.dcm", "p/3.dcm+p/4.dcm", layout="DICOM")
    where = places.Places.of(found, tmp_path)
    targets = [where.target(item, "nifti").name.lower() for item in found.items]
    assert len(set(targets)) == 6 and "b.nii.gz" in targets
    assert len({where.code(item) for item in found.items}) == 6


def test_dicom_is_known_by_its_names(tmp_path):
    names = ("a.dcm", "1.2.840.1+1.2.840.2", "a.nii.gz", "a.png+b.png", "x.IMA")
    assert [places.dicom(item) for item in catalog(tmp_path, *names).items] == [True, True, False, False, True]


def test_the_record(tmp_path):
    mask = tmp_path / "a.nii.gz"
    record = places.Record.open(tmp_path, "model", ["one", "two"], {"mirror": False})
    assert record.refuses("one", mask) == ""  # nothing is there
    mask.write_bytes(b"somebody's")
    assert "not written here" in record.refuses("one", mask)
    row = {"id": "one", "run": "model", "input": "mark", "kind": "nifti", "sum": places.digest(mask)}
    record.add(row)
    record.write()
    again = places.Record.open(tmp_path, "model", ["one"], {"mirror": False})
    assert again.refuses("one", mask) == "" and again.ours == {"one", "two"}

    def at(kind):
        return {"nifti": mask}[kind]

    assert again.done("one", at, "mark") == row
    assert again.done("one", at, "other") is None and again.done("two", at, "mark") is None
    assert places.Record.open(tmp_path, "other model", ["one"], {}).done("one", at, "mark") is None
    mask.write_bytes(b"corrected")
    assert "changed after it was written" in again.refuses("one", mask) and again.done("one", at, "mark") == row
    mask.unlink()
    assert again.done("one", at, "mark") is None


def test_a_damaged_record_is_said(tmp_path):
    (tmp_path / places.RECORD).write_text("{")
    with pytest.raises(InputError, match="damaged: move it away"):
        places.Record.open(tmp_path, "model", [], {})


def test_a_changed_file_has_another_mark(tmp_path):
    (item,) = catalog(tmp_path, "a.nii").items
    (tmp_path / "a.nii").write_bytes(b"12")
    before = places.mark(item)
    (tmp_path / "a.nii").write_bytes(b"123")
    assert places.mark(item) != before
