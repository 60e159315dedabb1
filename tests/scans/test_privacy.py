"""Identifiers are planted wherever files may hold them; nothing that is written, printed or said as an error repeats one."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from corpus import dicom
from PIL import Image, PngImagePlugin

from headwater.cli import main

PLANTED = {
    "PatientName": "Habermehl^Quirin", "PatientID": "QX8812003", "PatientBirthDate": "19380417", "AccessionNumber": "ACC55219",
    "InstitutionName": "Sankt Wendelin Spital", "ReferringPhysicianName": "Okonkwo^Adaeze",
    "StudyDescription": "control after Dr Zwingli",
    "SeriesDescription": "axial for Frau Habermehl", "PatientAddress": "Birnbaumgasse 7", "StudyDate": "20190523",
    "StationName": "WENDELCT2", "PatientComments": "daughter Leopoldine called", "ProtocolName": "Zwingli special",
}  # fmt: skip
SECRETS = [
    "Habermehl", "Quirin", "QX8812003", "19380417", "ACC55219", "Wendelin", "Okonkwo", "Adaeze", "Zwingli", "Birnbaumgasse",
    "20190523", "WENDELCT2", "Leopoldine", "Tertullian", "Eusebia", "Xanthippe", "98120044",
]  # fmt: skip
SMALL = (
    "views.parent=24,24,24", "views.crop=16,16,16", "adapt.patch=24,24,24", "pretrain.steps=20",
    "pretrain.batch=2", "pretrain.watch=2", "adapt.final=2",
    "pretrain.save=10", "adapt.steps=2", "adapt.draws=2", "adapt.batch=2", "adapt.counts=1,2", "precision=fp32", "budget=5",
)  # fmt: skip


def leaks(*texts: str) -> list[str]:
    return [
        f"{secret}: ...{text[max(0, at - 60) : at + 40]}..."
        for text in texts
        for secret in SECRETS
        if (at := text.find(secret)) >= 0
    ]


def written(run: Path) -> list[str]:
    """Every file but the key, as text, and their names."""
    files = [p for p in run.rglob("*") if p.is_file() and "private" not in p.relative_to(run).parts]
    return [p.read_bytes().decode("utf-8", "replace") for p in files] + [p.relative_to(run).as_posix() for p in files]


def shown(capsys) -> str:
    told = capsys.readouterr()
    return told.out + told.err


def patients(root: Path) -> Path:
    """A DICOM tree with every field filled, one file of it damaged."""
    import pydicom

    for number, name in enumerate(("Habermehl_Quirin", "Tertullian", "Eusebia_19380417")):
        for z in range(4):
            path = dicom(root / name / f"{name}_{z}.dcm", name, number, z)
            data = pydicom.dcmread(path)
            for field, value in PLANTED.items():
                setattr(data, field, f"{value}{number}" if field == "PatientID" else value)
            data.add_new(0x00091001, "LO", "Habermehl private")
            data.save_as(path)
    (root / "Xanthippe_98120044.dcm").write_bytes((root / "Tertullian/Tertullian_0.dcm").read_bytes()[:500])
    return root


def pictures(root: Path) -> Path:
    told = PngImagePlugin.PngInfo()
    told.add_text("Comment", "Habermehl Quirin 19380417")
    for i, name in enumerate(("Habermehl", "Tertullian", "Eusebia", "Xanthippe")):
        root.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 22), np.uint8))
        image.save(root / f"{name}-98120044.png", pnginfo=told)
    (root / "participants.tsv").write_text("participant_id\tname\nsub-1\tHabermehl\n")
    (root / "Leopoldine.docx").write_bytes(b"Zwingli")
    return root


def bids(root: Path) -> Path:
    for i, name in enumerate(("Habermehl", "Tertullian", "Eusebia", "Xanthippe")):
        path = root / f"sub-{name}/ses-20190523/anat/sub-{name}_ses-20190523_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        image = nibabel.Nifti1Image(np.random.default_rng(i).normal(size=(9, 8, 7)).astype(np.float32), np.eye(4))
        image.header["descrip"], image.header["aux_file"], image.header["intent_name"] = (
            b"Habermehl Quirin",
            b"QX8812003",
            b"Okonkwo",
        )
        nibabel.save(image, path)
    (root / "participants.tsv").write_text("participant_id\tbirth\tname\nsub-Habermehl\t19380417\tQuirin\n")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Sankt Wendelin", "Authors": ["Okonkwo"]}))
    return root


@pytest.mark.parametrize("make", [patients, pictures, bids])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_look_tells_nobody(make, more, tmp_path, capsys):
    root = make(tmp_path / "Habermehl_files")
    main(["look", str(root), "--out", str(tmp_path / "run"), *more])
    found = leaks(shown(capsys), *written(tmp_path / "run"))
    assert not found, found[:5]
    loose = [p for p in [tmp_path / "run", *(tmp_path / "run").rglob("*")] if p.stat().st_mode & 0o077]
    assert not loose


def test_names_are_shown_where_they_are_asked_for(tmp_path, capsys):
    main(["look", str(bids(tmp_path / "files")), "--show-identifiers", "--json"])
    assert "sub-Habermehl" in shown(capsys)


def broken(root: Path, how: str) -> list[str]:
    """What is typed to fail in one way."""
    pictures(root / "scans")
    if how == "list":
        (root / "test.txt").write_text("Quirin_98120044\n")
        return [str(root / "scans"), "--test", str(root / "test.txt")]
    if how == "masks":
        (root / "masks").mkdir()
        Image.new("L", (20, 22)).save(root / "masks/Okonkwo.png")
        return [str(root / "scans"), "--labels", str(root / "masks")]
    if how == "unreadable":
        for path in (root / "scans").glob("*.png"):
            path.write_bytes(b"Habermehl")
        return [str(root / "scans")]
    if how == "json":
        (root / "scans/dataset.json").write_text('{"name": "Habermehl", "channel_names": {"0": "Zwingli"')
        return [str(root / "scans" / "dataset.json")]
    if how == "blank":
        for path in (root / "scans").glob("*.png"):
            Image.new("L", (20, 22)).save(path)
        return [str(root / "scans")]
    (root / "scans/list.csv").write_text("image;patient\nQuirin.png;Habermehl\n../Okonkwo.png;Quirin\n")
    return [str(root / "scans" / "list.csv")]


@pytest.mark.parametrize("how", ["list", "masks", "unreadable", "json", "blank", "table"])
def test_an_error_tells_nobody(how, tmp_path, capsys):
    typed = broken(tmp_path, how)
    try:
        main(["look", *typed])
    except SystemExit as end:
        assert end.code == 2
    found = leaks(shown(capsys))
    assert not found, found


@pytest.mark.slow
def test_a_whole_run_tells_nobody(phantoms, tmp_path, capsys):
    people = ["Habermehl", "Tertullian", "Eusebia", "Xanthippe", "Zwingli", "Okonkwo", "Adaeze", "Quirin", "Leopoldine"]
    for folder, kind in zip(phantoms, ("scans", "masks"), strict=True):
        (tmp_path / kind).mkdir()
        for i, path in enumerate(sorted(folder.glob("*.nii.gz"))):
            shutil.copy(path, tmp_path / kind / f"{people[i % len(people)]}_{98120044 + i // len(people)}.nii.gz")
    typed = ["run", str(tmp_path / "scans"), "--labels", str(tmp_path / "masks"), "--out", str(tmp_path / "run")]
    main(typed + [part for line in SMALL for part in ("--set", line)])
    files = written(tmp_path / "run")
    assert len(files) > 30 and any("scores.csv" in text for text in files)
    found = leaks(shown(capsys), *files)
    assert not found, found[:5]
