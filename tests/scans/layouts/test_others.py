"""Files that are no scans."""

from corpus import text, volume

from headwater.scans.layouts.others import counted, foreign
from headwater.scans.layouts.tree import walk


def test_foreign_images_say_what_to_do(tmp_path):
    for name in ("a.svs", "b.ome.zarr/0", "c.h5", "d.tar.gz", "e.raw", "f.MNC", "x/g.czi"):
        text(tmp_path / name, "x")
    faults = {fault.file: fault for fault in foreign(walk(tmp_path))}
    assert set(faults) == {"a.svs", "b.ome.zarr", "c.h5", "d.tar.gz", "e.raw", "f.MNC", "x/g.czi"}
    assert all(fault.remedy and fault.fault.startswith(("is a", "holds")) for fault in faults.values())
    assert (
        "OpenSlide" in faults["a.svs"].remedy and faults["e.raw"].kind == "missing" and faults["d.tar.gz"].remedy == "unpack it"
    )


def test_companions_with_their_header_are_quiet(tmp_path):
    for name in ("a.hdr", "a.img", "b.mhd", "b.raw", "notes.txt", "README", "c.bval"):
        text(tmp_path / name, "x")
    volume(tmp_path / "v.nii.gz")
    tree = walk(tmp_path)
    assert foreign(tree) == [] and counted(tree) == ["3 files that are no image left alone (1 x no ending, 1 x .bval, 1 x .txt)"]
    assert counted(walk(tmp_path / "nowhere")) == []
