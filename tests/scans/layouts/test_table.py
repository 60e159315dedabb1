"""Tables: what the corpus does not show."""

import pytest
from corpus import mask, picture, text, volume

from headwater.errors import InputError
from headwater.scans.layouts import understand


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_delimiters_quotes_and_unknown_columns(tmp_path, mark):
    for name in ("a b", "c"):
        volume(tmp_path / f"{name}.nii.gz")
    rows = [["Age", "Scan Path", "Patient ID", "session"], ["7", '"a b.nii.gz"', "p", "1"], ["8", "./c.nii.gz", "p", "2"]]
    text(tmp_path / "x.csv", "\r\n".join(mark.join(row) for row in rows))
    found = understand(tmp_path)
    assert [(item.name, item.subject, item.session) for item in found.items] == [("a b.nii.gz", "p", "1"), ("c.nii.gz", "p", "2")]


def test_label_is_a_mask_or_a_class_by_what_it_holds(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
        picture(tmp_path / f"m/{name}.png", labels=True)
    text(tmp_path / "x.csv", "image,label\na.png,m/a.png\nb.png,m/b.png\n")
    found = understand(tmp_path)
    assert all(item.mask for item in found.items) and "mask" in found.rule
    text(tmp_path / "x.csv", "image,label\na.png,benign\nb.png,malign\n")
    assert not understand(tmp_path).masked and [item.group for item in understand(tmp_path, classes=True).items] == [
        "benign",
        "malign",
    ]
    assert [item.group for item in understand(tmp_path).items] == ["", ""]


def test_a_table_of_something_else_is_left_alone(tmp_path):
    volume(tmp_path / "a.nii.gz")
    text(tmp_path / "results.csv", "path,score\nrun/model.pt,3\nrun/other.pt,4\n")
    text(tmp_path / "empty.csv", "")
    assert understand(tmp_path).layout == "plain folder"


def test_tables_that_cannot_be_read(tmp_path):
    volume(tmp_path / "a.nii.gz")
    for content in (b"\xff\xfe\x00", b"", b"image\n" + b'"' + b"x" * 200_000, b"\0,\0\n"):
        (tmp_path / "x.csv").write_bytes(content)
        assert understand(tmp_path).layout == "plain folder"
        with pytest.raises(InputError, match="no column image"):
            understand(tmp_path / "x.csv")


def test_faults_do_not_repeat_what_a_row_says(tmp_path):
    volume(tmp_path / "a.nii.gz")
    text(tmp_path / "x.csv", "image,name,split\na.nii.gz,Secretname,sideways\n,Secretname,\nb.nii.gz,Secretname,train\n")
    found = understand(tmp_path)
    assert "Secretname" not in repr(found) and "sideways" not in repr(found)
    assert [(fault.file, fault.kind) for fault in found.faults] == [
        ("x.csv, line 2", "row"), ("x.csv, line 3", "row"), ("b.nii.gz", "missing"),
    ]  # fmt: skip


def test_one_scan_with_a_mask_that_is_gone(tmp_path):
    volume(tmp_path / "a.nii.gz")
    mask(tmp_path / "m.nii.gz")
    text(tmp_path / "x.csv", "image,mask\na.nii.gz,n.nii.gz\n")
    found = understand(tmp_path)
    assert found.items[0].mask is None and [fault.kind for fault in found.faults] == ["missing"]
