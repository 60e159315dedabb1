"""The passport: facts, what is set aside and why, and its sentences."""

import gzip
import json
import shutil
from functools import partial

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.scans import Passport, passport, read

look = partial(passport.look, show_identifiers=True)


def test_facts_of_a_healthy_folder(pairs, tmp_path):
    passport = look(*pairs)
    assert (passport.ndim, passport.channels, passport.shape, passport.spacing) == (3, 1, (9, 10, 8), (1.0, 1.0, 1.0))
    assert len(passport.entries) == 10 and not passport.quarantine
    assert passport.label_names == {1: "structure 1", 4: "structure 4"}
    entry = passport.entries[3]
    array = read(pairs[0] / entry.name).array
    assert passport.scan_source(entry).path == pairs[0].resolve() / entry.name
    assert passport.mask_source(entry).path == pairs[1].resolve() / entry.mask
    assert entry.facts.mean[0] == pytest.approx(array.mean(), abs=1e-3)
    assert entry.labels == {0: 720 - 60, 1: 36, 4: 24} and entry.dtype == "float32" and entry.orientation == "RAS"
    assert sum(e.split == "test" for e in passport.entries) == 2
    passport.save(tmp_path / "passport.json")
    again = Passport.load(tmp_path / "passport.json")
    assert again == passport and again.sources == passport.sources
    assert json.loads((tmp_path / "passport.json").read_text())["sentences"] == passport.sentences()
    assert look(*pairs) == passport


def test_each_fault_is_set_aside_once(pairs, save):
    scans, masks = pairs
    data = (scans / "case_00.nii.gz").read_bytes()
    (scans / "case_00.nii.gz").write_bytes(data[: len(data) * 6 // 10])
    shutil.copy(scans / "case_01.nii.gz", scans / "again.nii.gz")
    save(scans / "blank.nii.gz", np.full((9, 10, 8), 7, np.int16))
    hole = np.random.default_rng(5).normal(size=(9, 10, 8)).astype(np.float32)
    hole[0, 0, 0] = np.nan
    save(scans / "hole.nii.gz", hole)
    save(scans / "flat.nii.gz", np.random.default_rng(6).normal(size=(9, 10)).astype(np.float32))
    save(scans / "multi.nii.gz", np.random.default_rng(7).normal(size=(9, 10, 8, 2)).astype(np.float32))
    save(masks / "case_02.nii.gz", np.ones((9, 10, 7), np.uint8))
    save(masks / "case_03.nii.gz", np.ones((9, 10, 8), np.uint8), affine=np.diag([1, 1, -1, 1.0]))
    save(masks / "lonely.nii.gz", np.ones((9, 10, 8), np.uint8))
    passport = look(scans, masks)
    kinds = {fault["file"]: fault["kind"] for fault in passport.quarantine}
    assert kinds == {
        "case_00.nii.gz": "unreadable", "again.nii.gz": "copy", "blank.nii.gz": "blank", "hole.nii.gz": "nan",
        "flat.nii.gz": "dimension", "multi.nii.gz": "dimension", "case_02.nii.gz": "mask", "case_03.nii.gz": "mask",
        "lonely.nii.gz": "unpaired",
    }  # fmt: skip
    assert all(set(fault) == {"file", "fault", "remedy", "kind"} and all(fault.values()) for fault in passport.quarantine)
    by_name = {e.name: e for e in passport.entries}
    assert by_name["case_02.nii.gz"].mask is None and by_name["case_02.nii.gz"].split == "train"  # kept, without its mask
    assert len(passport.entries) == 9 and sum(e.mask is not None for e in passport.entries) == 7
    said = "\n".join(passport.sentences())
    assert "1 duplicate (kept one of each)" in said and "case_00.nii.gz: it is cut off at" in said
    assert "masks for 7 of 9 subjects" in said


def test_held_out_names(pairs, tmp_path):
    (tmp_path / "test.txt").write_text("case_03.nii.gz\ncase_05\n")
    passport = look(*pairs, test=tmp_path / "test.txt")
    assert {e.subject for e in passport.entries if e.split == "test"} == {"case_03", "case_05"}
    assert passport == look(*pairs, test=["case_05", "case_03"]) and "(your list)" in passport.sentences()[-1]
    with pytest.raises(InputError, match="case_99"):
        look(*pairs, test=["case_03", "case_99"])
    with pytest.raises(InputError, match="leave at least one"):
        look(*pairs, test=[f"case_{i:02d}" for i in range(10)])


def test_a_copy_never_leaks_from_test_to_train(pairs):
    scans, masks = pairs
    shutil.copy(scans / "case_07.nii.gz", scans / "aaa.nii.gz")
    passport = look(scans, masks, test=["case_07"])
    assert "aaa" not in passport.subjects and "case_07" in passport.subjects


def test_test_set_is_drawn_among_labelled_subjects(pairs):
    for i in range(2, 10):
        (pairs[1] / f"case_{i:02d}.nii.gz").unlink()
    passport = look(*pairs)
    assert {e.subject for e in passport.entries if e.split == "test"} < {"case_00", "case_01"}


def test_errors(pairs, save, tmp_path):
    scans, masks = pairs
    (tmp_path / "none").mkdir()
    for folder, words in ((tmp_path / "none", "is empty"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(InputError, match=words):
            look(folder)
    save(tmp_path / "odd/x.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"x.nii.gz is blank"):
        look(tmp_path / "odd")
    with pytest.raises(InputError, match="No mask in .* has the name of a scan"):
        look(scans, tmp_path / "odd")
    for name in sorted(masks.iterdir())[1:]:
        name.unlink()
    with pytest.raises(InputError, match="Only one subject has a usable mask"):
        look(scans, masks)
    save(masks / "case_00.nii.gz", np.ones((9, 10, 7), np.uint8))
    with pytest.raises(InputError, match="Masks do not fit the scans: case_00.nii.gz is 9 x 10 x 7 .* 9 x 10 x 8; resample"):
        look(scans, masks)
    for i in range(3):
        save(masks / f"case_{i:02d}.nii.gz", np.zeros((9, 10, 8), np.uint8))
    with pytest.raises(InputError, match="All masks are empty"):
        look(scans, masks)
    (tmp_path / "p.json").write_text('{"root": 1}')
    with pytest.raises(InputError, match="not a data passport"):
        Passport.load(tmp_path / "p.json")


def test_pictures_and_spacing(tmp_path, save):
    for i in range(3):
        array = np.random.default_rng(i).normal(size=(12, 14, 1)).astype(np.float32) * 10 ** (2 * i)
        save(tmp_path / f"{i}.nii.gz", array, spacing=(0.5 * (i + 1), 0.5, 1.0))
    passport = look(tmp_path)
    assert passport.ndim == 2 and passport.spacing == (1.0, 0.5) and passport.label_names == {}
    said = "\n".join(passport.sentences())
    assert "3 images (NIfTI), 3 subjects, 1.0 x 0.5 mm, 12 x 14 pixels" in said and "no masks" in said
    assert "2 of 3 scans will be resampled" in said and "three scales" in said


def test_structures_are_named_by_dataset_json(pairs):
    (pairs[0].parent / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "liver", "4": "tumour"}}))
    assert look(*pairs).label_names == {1: "liver", 4: "tumour"}


def test_hippocampus(hippocampus):
    passport = look(hippocampus / "images", hippocampus / "labels", test=hippocampus / "test.txt")
    assert len(passport.entries) == 200 and sum(e.split == "test" for e in passport.entries) == 40
    assert not passport.quarantine and set(passport.label_names) == {1, 2} and passport.shape == (35, 50, 35)
    assert "intensity comes in three scales (42, 132, 26 scans): normalised per scan" in passport.sentences()
    assert passport.duplicates["pairs"] == [], "these were looked at: 200 different hippocampi"


def test_no_masks_or_no_scans_left_over_is_one_sentence(pairs):
    scans, masks = pairs
    shutil.rmtree(masks)
    for folder, labels, words in (
        (scans, scans, "named like a mask of another"),
        (scans, scans.parent, "Every file in .* is one of the scans; give"),
        (scans.parent, scans, "All scans .*lie in .*, the folder of masks; give"),
    ):
        with pytest.raises(InputError, match=words):
            look(folder, labels)


def test_one_damaged_header_does_not_end_the_look(pairs):
    scans, masks = pairs
    data = bytearray(gzip.decompress((scans / "case_00.nii.gz").read_bytes()))
    data[42:44] = np.int16(-9).tobytes()
    (scans / "case_00.nii.gz").write_bytes(gzip.compress(bytes(data)))
    passport = look(scans, masks)
    kinds = {fault["file"]: fault["kind"] for fault in passport.quarantine}
    assert len(passport.entries) == 9 and kinds["case_00.nii.gz"] == "unreadable"


NAMES = ["DOE_JOHN_19540302", "Meier-Anna", "MRN0012345", "StMary7"]


def test_no_name_reaches_what_is_written_or_said(tmp_path, save, capsys):
    from headwater.cli import main

    for i, name in enumerate(NAMES * 2):
        rng = np.random.default_rng(i)
        folder = tmp_path / "PROJECT_X" / name
        save(folder / f"{name}_T1w_{i // 4}.nii.gz", (rng.normal(size=(9, 10, 8)) * 100).astype(np.float32))
        save(folder / f"{name}_T1w_{i // 4}_seg.nii.gz", (rng.random((9, 10, 8)) > 0.5).astype(np.uint8))
    broken = tmp_path / "PROJECT_X" / NAMES[0] / "MRN0012345_broken.nii.gz"
    broken.write_bytes(b"Patient: DOE JOHN" * 30)
    shutil.copy(tmp_path / "PROJECT_X" / NAMES[1] / f"{NAMES[1]}_T1w_0.nii.gz", tmp_path / "PROJECT_X" / NAMES[1] / "copy.nii.gz")
    main(["look", str(tmp_path / "PROJECT_X"), "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    written = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and p.parent.name != "private"]
    assert {p.name for p in written} >= {"passport.json", "report.html"}
    every = said.out + said.err + "".join(p.read_text(encoding="utf-8", errors="replace") for p in written)
    assert "2 set aside" in every or "set aside:" in every
    for part in ("DOE", "JOHN", "19540302", "Meier", "Anna", "MRN", "0012345", "StMary", "PROJECT_X"):
        assert part not in every, f"{part} in ...{every[max(0, every.index(part) - 90) : every.index(part) + 60]}..."
    kept = (tmp_path / "run" / "private" / "sources.json").read_text()
    assert "DOE_JOHN_19540302" in kept, "the key to the names stays with the owner"
    main(["look", str(tmp_path / "PROJECT_X"), "--show-identifiers"])
    assert "DOE_JOHN_19540302" in capsys.readouterr().out


def test_a_second_look_reads_nothing(pairs, monkeypatch):
    from headwater.scans import survey

    first = passport.look(*pairs)
    monkeypatch.setattr(survey, "examine", lambda *given: pytest.fail("read again"))
    assert passport.look(*pairs) == first


def test_near_copies_are_kept_together(pairs, save):
    scan = read(pairs[0] / "case_03.nii.gz")
    smooth = np.zeros((30, 34, 28), np.float32)
    smooth[5:20, 8:30, 6:20] = scan.array[0].mean() + 50
    for i in range(10):
        rng = np.random.default_rng(100 + i)
        from scipy.ndimage import gaussian_filter

        save(pairs[0] / f"case_{i:02d}.nii.gz", gaussian_filter(rng.normal(size=(30, 34, 28)), 2).astype(np.float32))
        save(pairs[1] / f"case_{i:02d}.nii.gz", np.ones((30, 34, 28), np.uint8))
    save(pairs[0] / "zz.nii.gz", np.ascontiguousarray(read(pairs[0] / "case_03.nii.gz").array[0][::-1] * 7 + 100))
    for seed in range(8):
        found = look(*pairs, seed=seed)
        sides = {e.subject: e.split for e in found.entries}
        assert [pair[:2] for pair in found.duplicates["pairs"]] == [["case_03.nii.gz", "zz.nii.gz"]]
        assert sides["case_03"] == sides["zz"] and any(c["kind"] == "leakage" for c in found.concerns)


def test_pictures_grey_and_coloured_are_kept_together(tmp_path):
    from PIL import Image

    for i in range(4):
        shape = (20, 24, 3) if i == 2 else (20, 24)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, shape, np.uint8)).save(tmp_path / f"{i}.png")
    found = look(tmp_path)
    assert found.channels == 3 and len(found.entries) == 4 and not found.quarantine
    assert "3 of 4 are grey: read as colour, with equal channels" in found.sentences()
