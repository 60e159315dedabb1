"""Listing a folder, finding what a list names, JSON with faults."""

import os
import time

import pytest

from headwater.scans.layouts.tree import Tree, endings, load_json, walk
from headwater.scans.scan import Fault, Source


def _fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_walk_lists_what_is_not_hidden(tmp_path):
    _fill(tmp_path, "b/c.nii", "a.png", "b/.d.nii", ".git/e.nii", "b/f.txt", "p.hdr", "p.img", "q.img", "s.zarr/0")
    tree = walk(tmp_path)
    assert tree.files == ("a.png", "b/c.nii", "b/f.txt", "p.hdr", "p.img", "q.img", "s.zarr")
    assert tree.images == ("a.png", "b/c.nii", "p.hdr") and tree.faults == () and tree.notes == ()
    assert (
        tree.below("b") == ("b/c.nii", "b/f.txt")
        and tree.below("b", tree.images) == ("b/c.nii",)
        and tree.below("") == tree.files
    )
    assert tree.images_in("") == ["a.png", "p.hdr"] and "a.png" in tree and "b" not in tree


def test_folders_with_like_names_are_kept_apart(tmp_path):
    tree = walk(_fill(tmp_path, "a/x.nii", "a-b/x.nii", "a.b/x.nii", "a0/x.nii", "ab/x.nii"))
    assert tree.below("a") == ("a/x.nii",)


def test_places_and_folders_count_their_depth(tmp_path):
    tree = walk(
        _fill(tmp_path, "m.json", "a/m.json", "a/b/m.json", "a/b/c/m.json", "a/xm.json", "a/imagesTr/1.nii", "imagesTr2/1.nii")
    )
    assert tree.places("m.json") == ["a", "a/b", ""] or set(tree.places("m.json")) == {"", "a", "a/b"}
    assert tree.folders("imagesTr") == ["a"] and tree.folders("b") == ["a"] and tree.folders("c", 1) == []


def test_links(tmp_path):
    root = _fill(tmp_path / "root", "real/a.nii")
    _fill(tmp_path / "out", "b.nii")
    for name, target in (("in.nii", "real/a.nii"), ("folder", "real"), ("up", ".."), ("out.nii", "../out/b.nii"),
                         ("gone.nii", "nowhere"), ("loop.nii", "loop.nii"), ("self", ".")):  # fmt: skip
        os.symlink(target, root / name)
    tree = walk(root)
    assert tree.files == ("in.nii", "real/a.nii") and tree.notes == (
        "2 linked folders not entered: read where the files really lie",
    )
    assert [(fault.file, fault.kind) for fault in tree.faults] == [
        ("gone.nii", "missing"), ("loop.nii", "missing"), ("out.nii", "escape"), ("up", "escape"),
    ]  # fmt: skip
    os.symlink(root, tmp_path / "way")
    assert walk(tmp_path / "way").files == tree.files  # the folder given may itself be a link


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may open every folder")
def test_a_closed_folder_is_a_fault(tmp_path):
    _fill(tmp_path, "a.nii", "shut/b.nii")
    (tmp_path / "shut").chmod(0)
    try:
        tree = walk(tmp_path)
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert tree.files == ("a.nii",) and tree.faults[0].kind == "unreadable"


def test_a_name_that_is_no_text_is_a_fault(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/\xff\xfe.nii", "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this disk takes text only")
    tree = walk(_fill(tmp_path, "a.nii"))
    assert tree.files == ("a.nii",) and [fault.kind for fault in tree.faults] == ["name"]
    tree.faults[0].file.encode("utf-8")


def test_find(tmp_path):
    root = _fill(tmp_path / "root", "a/b.nii", "c.nii", ".hidden.nii")
    outside = _fill(tmp_path / "root2", "x.nii")
    os.symlink(outside / "x.nii", root / "link.nii")
    tree = walk(root)
    for text in ("b.nii", "./b.nii", "../a/b.nii", "a/b.nii", "a\\b.nii", str(root / "a/b.nii")):
        assert tree.find(text, "a", "list") == Source((root / "a/b.nii",)), text
    assert tree.find("c.nii", "a", "list") == Source((root / "c.nii",))  # from root where not beside the list
    assert tree.find(".hidden.nii", "", "list") == Source((root / ".hidden.nii",))  # hidden, but asked for
    for text in (
        "../x.nii",
        "../../etc/passwd",
        "/etc/passwd",
        str(outside / "x.nii"),
        "link.nii",
        "C:\\x.nii",
        "a/../../x",
        "//x/y",
    ):
        found = tree.find(text, "", "list")
        assert isinstance(found, Fault) and found.kind == "escape", text
        assert str(tmp_path) not in found.file
    for text in ("", " ", None, 7, [], {}, "a\0b"):
        found = tree.find(text, "", "list")
        assert isinstance(found, Fault) and (found.kind, found.file) == ("row", "list"), text
    assert tree.find("gone.nii", "a", "list").kind == "missing" and tree.find("gone.nii", "a", "list").file == "a/gone.nii"
    assert tree.find("a", "", "list").kind == "row" and tree.find("x" * 5000, "", "list").kind == "missing"
    tree.find("\ud800.nii", "", "list").file.encode("utf-8")
    bare = Tree(root, ("list.json",))  # nothing was listed: the disk is asked
    assert bare.find("a/b.nii", "", "list.json") == Source((root / "a/b.nii",)) and bare.find("link.nii", "", "").kind == "escape"


def test_load_json(tmp_path):
    file = tmp_path / "f.json"
    for content, value, wrong in ((b'\xef\xbb\xbf{"a": 1}', {"a": 1}, ""), (b'{"a": 1,}', None, "is not valid JSON (line 1"),
                                  (b"\xff\xfe", None, "is not text in UTF-8"), (b"[" * 100_000, None, "is nested too deeply"),
                                  (b"9" * 5000, None, "cannot be read"), (b"", None, "is not valid JSON")):  # fmt: skip
        file.write_bytes(content)
        found, said = load_json(file)
        assert found == value and said.startswith(wrong) and bool(said) == bool(wrong), content[:20]
    assert load_json(tmp_path / "gone.json")[1].startswith("cannot be read (No such file")


def test_endings():
    assert endings(["a.txt", "b.TXT", "c", "d/e.json"]) == "2 x .txt, 1 x no ending, 1 x .json"


def test_cost_of_a_listing_grows_with_its_files(tmp_path):
    """Ten times the files, about ten times the work: counted in calls of the file system, not in seconds."""
    calls = []
    real = os.scandir
    _fill(tmp_path, *[f"{i % 10}/{i}.nii" for i in range(300)])
    os.scandir = lambda path: calls.append(path) or real(path)
    try:
        start = time.perf_counter()
        assert len(walk(tmp_path).images) == 300 and time.perf_counter() > start
    finally:
        os.scandir = real
    assert len(calls) == 11
