"""The commands: what a person types, and what they are told when it does not fit."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from headwater import runfolder
from headwater.cli import main

ROOT = Path(__file__).parents[1]
SMALL = (
    "views.parent=24,24,24",
    "views.crop=16,16,16",
    "pretrain.batch=2",
    "pretrain.steps=20",
    "pretrain.watch=1",
    "adapt.patch=24,24,24",
    "adapt.batch=2",
    "adapt.steps=2",
    "adapt.final=2",
    "adapt.counts=1,2",
    "adapt.draws=2",
    "precision=fp32",
)


def small(*changes: str) -> list[str]:
    """--set options of a run of seconds."""
    return [part for line in (*SMALL, *changes) for part in ("--set", line)]


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return path


@pytest.fixture
def copies(phantoms, tmp_path) -> tuple[Path, Path]:
    """scans/ and masks/ that a test may damage."""
    return Path(shutil.copytree(phantoms[0], tmp_path / "scans")), Path(shutil.copytree(phantoms[1], tmp_path / "masks"))


def cut(path: Path) -> Path:
    """Truncates a file at 60 %."""
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    return path


def refused(capsys, *arguments: object) -> str:
    """The one sentence of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert end.value.code == 2 and "Traceback" not in said.err + said.out
    lines = [line for line in said.err.splitlines() if line.strip()]
    assert len(lines) == 1 and 20 < len(lines[0]) < 500 and lines[0].endswith("."), said.err
    return lines[0]


# What does not fit


@pytest.mark.parametrize("command", ["run", "look", "pretrain"])
def test_a_missing_and_an_empty_folder(capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "nowhere does not exist" in refused(capsys, command, "nowhere")
    assert "empty is empty" in refused(capsys, command, "empty") and not (tmp_path / "runs").exists()


def test_a_folder_without_images(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    said = refused(capsys, "run", tmp_path, "--out", tmp_path / "run")
    assert "has no image in it (it has 1 x .txt)" in said and "give the folder" in said


def test_a_truncated_file_alone(capsys, phantoms, tmp_path):
    (tmp_path / "scans").mkdir()
    cut(Path(shutil.copy(phantoms[0] / "phantom_000.nii.gz", tmp_path / "scans")))
    said = refused(capsys, "run", tmp_path / "scans", "--out", tmp_path / "run")
    assert "phantom_000.nii.gz" in said and "cut off" in said


def test_masks_of_another_size(capsys, copies, tmp_path):
    for path in copies[1].glob("*.nii.gz"):
        save(path, np.ones((24, 24, 23), np.uint8))
    said = refused(capsys, "run", copies[0], "--labels", copies[1], "--out", tmp_path / "run")
    assert "Masks do not fit" in said and "24 x 24 x 23" in said and "24 x 24 x 24" in said and "resample" in said
    assert "phantom_000.nii.gz" in said


def test_masks_of_other_names_and_no_masks(capsys, copies, tmp_path):
    for path in copies[1].glob("*.nii.gz"):
        path.rename(path.with_name(f"x{path.name}"))
    assert "name" in refused(capsys, "look", copies[0], "--labels", copies[1])
    assert "does not exist" in refused(capsys, "run", copies[0], "--labels", tmp_path / "nowhere", "--out", tmp_path / "run")


def test_one_label_only(capsys, copies, tmp_path):
    for path in sorted(copies[1].glob("*.nii.gz"))[1:]:
        path.unlink()
    said = refused(capsys, "run", copies[0], "--labels", copies[1], "--out", tmp_path / "run")
    assert "Only one subject has a usable mask" in said and "at least two" in said


def test_names_kept_for_testing_that_nobody_has(capsys, phantoms, tmp_path):
    (tmp_path / "test.txt").write_text("phantom_001\nphantom_099\n")
    said = refused(capsys, "look", phantoms[0], "--labels", phantoms[1], "--test", tmp_path / "test.txt")
    assert "phantom_099" in said and "phantom_001" not in said.split(";")[0]
    assert "nowhere.txt does not exist" in refused(capsys, "run", phantoms[0], "--test", "nowhere.txt", "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("pretrain.bach=4", "batch"),
        ("pretrain.batch=four", "whole number"),
        ("pretrain.batch", "name=value"),
        ("backbone.family=resnet", "vit"),
    ],
)
def test_a_wrong_setting(capsys, phantoms, tmp_path, line, word):
    said = refused(capsys, "pretrain", phantoms[0], "--out", tmp_path / "run", "--set", line)
    assert word in said.lower() and line.partition("=")[2] in said


def test_the_folder_of_another_run(capsys, phantoms, tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    said = refused(capsys, "run", phantoms[0], "--out", tmp_path)
    assert "holds something else" in said and "another --out" in said and (tmp_path / "photo.txt").read_text() == "mine"
    runfolder.write_json(tmp_path / "run" / "private" / "request.json", {"scans": "elsewhere"})
    assert "holds something else" in refused(capsys, "pretrain", phantoms[0], "--out", tmp_path / "run")


@pytest.mark.parametrize("command", ["observe", "report"])
def test_no_run(capsys, tmp_path, command):
    said = refused(capsys, command, tmp_path / "nothing")
    assert "is not a run folder" in said and "headwater" in said


@pytest.mark.parametrize("arguments", [["runn"], ["run"], ["run", "a", "--bugdet", "3"], ["run", "a", "--budget", "long"], []])
def test_what_cannot_be_parsed_ends_with_two_or_help(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()
    assert end.value.code in ((2,) if arguments else (0, 2)) and said.err + said.out and "Traceback" not in said.err + said.out


def test_no_budget_at_all_is_refused(capsys, phantoms, flat, tmp_path, monkeypatch):
    from headwater import api, costs

    monkeypatch.setattr(api, "begin", lambda request, progress: (tmp_path, flat))
    monkeypatch.setattr(costs, "measure", lambda *given: costs.Costs({"fp32": 1.0}, "fp32", 0.0, {}, 0.0, 1.0, 20.0, 8))
    monkeypatch.setattr(api, "_pretrain", lambda *given: None)
    assert "budget" in refused(capsys, "pretrain", phantoms[0], "--budget", "0", "--out", tmp_path)


def test_a_refused_request_does_not_block_the_corrected_one(capsys, phantoms, tmp_path):
    from headwater import api
    from headwater.progress import Silent

    refused(capsys, "pretrain", phantoms[0], "--out", tmp_path / "run", "--set", "pretrain.bach=4")
    api.begin(api.Request(phantoms[0], out=tmp_path / "run", changes=("pretrain.batch=4",)), Silent())


def test_a_wrong_setting_is_refused_before_the_scans_are_read(capsys, phantoms, tmp_path, monkeypatch):
    from headwater import session

    monkeypatch.setattr(session, "look", lambda *given, **more: pytest.fail("looked at the scans first"))
    refused(capsys, "run", phantoms[0], "--out", tmp_path / "run", "--set", "pretrain.bach=4")


# Looking


def test_one_bad_file_among_good_ones_is_named_and_the_rest_used(capsys, copies, tmp_path):
    cut(copies[0] / "phantom_003.nii.gz")
    main(["look", str(copies[0]), "--labels", str(copies[1]), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "phantom_003.nii.gz" in said and "cut off" in said and "11 volumes" in said
    kept = runfolder.read_json(tmp_path / "run" / "passport.json")
    assert [q["file"] for q in kept["quarantine"] if q["kind"] == "unreadable"] == ["phantom_003.nii.gz"]
    assert len(kept["entries"]) == 11


def test_look_as_json(capsys, phantoms):
    main(["look", str(phantoms[0]), "--labels", str(phantoms[1]), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["entries"]) == 12 and found["ndim"] == 3 and found["sentences"] and found["quarantine"] == []
    assert sorted(found["label_names"].values()) == ["head", "rim", "tail"]


def test_doctor(capsys):
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["cores"] >= 1 and found["torch"] and found["python"]
    main(["doctor"])
    assert "torch" in capsys.readouterr().out


def test_look_does_not_write_into_another_run(capsys, phantoms, flat_phantoms, whole):
    before = (whole / "passport.json").read_bytes()
    try:
        main(["look", str(flat_phantoms[0]), "--out", str(whole)])
    except SystemExit:
        pass
    after = (whole / "passport.json").read_bytes()
    (whole / "passport.json").write_bytes(before)
    assert after == before


# The main job


@pytest.fixture(scope="module")
def whole(phantoms, tmp_path_factory) -> Path:
    """A finished tiny run, one of its scans cut off."""
    base = tmp_path_factory.mktemp("whole")
    scans, masks = (Path(shutil.copytree(folder, base / folder.name)) for folder in phantoms)
    cut(scans / "phantom_003.nii.gz")
    main(["run", str(scans), "--labels", str(masks), "--out", str(base / "run"), *small()])
    return base / "run"


def again(run: Path, *more: str) -> list[str]:
    """The same command once more."""
    return ["run", str(run.parent / "images"), "--labels", str(run.parent / "labels"), "--out", str(run), *small(), *more]


def test_a_whole_run_leaves_every_file(whole):
    for name in (
        "private/request.json",
        "private/sources.json",
        "passport.json",
        "plan.json",
        "settings.json",
        "events.jsonl",
        "provenance.json",
        "verdicts.json",
        "report.html",
        "state/pretrain.safetensors",
        "store/index.json",
        "observations/observe.json",
        "observations/tokens.npz",
        "adapt/scores.csv",
        "adapt/summary.json",
        "adapt/examples.npz",
        "adapt/examples.json",
    ):
        assert (whole / name).stat().st_size > 0, name
    events = runfolder.read_events(whole)
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 21))
    assert [e["step"] for e in events if e["event"] == "watch"] == [0, 20]
    assert not list(whole.rglob("*.part*"))
    settings = runfolder.read_json(whole / "settings.json")
    assert settings["pretrain"]["steps"] == 20 and settings["adapt"]["counts"] == [1, 2] and settings["adapt"]["draws"] == 2
    summary = runfolder.read_json(whole / "adapt" / "summary.json")
    assert (summary["counts"], summary["draws"], len(summary["table"]), len(summary["gains"])) == ([1, 2], 2, 8, 6)
    told = runfolder.read_json(whole / "provenance.json")
    assert told["minutes"] > 0 and told["peak_memory_gib"] > 0 and told["seed"] == 0
    assert told["versions"]["torch"] and told["command"]


def test_the_page_is_offline_and_names_what_was_set_aside(whole):
    page = (whole / "report.html").read_text()
    assert "phantom_003.nii.gz" in page and not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert str(ROOT) not in page
    sentences = runfolder.read_json(whole / "verdicts.json")["sentences"]
    assert {s["evidence"] for s in sentences} == {"training", "labels", "data"}
    assert any("set aside" in s["text"] and "phantom_003.nii.gz" in s["detail"] for s in sentences)


def test_the_same_command_again_finishes_at_once_with_the_same_verdicts(whole, capsys):
    kept = ("verdicts.json", "state/pretrain.safetensors", "adapt/scores.csv", "settings.json")
    before = {name: (whole / name).read_bytes() for name in kept}
    count = len(runfolder.read_events(whole))
    main(again(whole))
    said = capsys.readouterr().out
    assert all((whole / name).read_bytes() == value for name, value in before.items())
    assert len(runfolder.read_events(whole)) == count
    assert "Pretraining was finished before" in said and "report.html" in said and "What this means" in said
    assert "phantom_003.nii.gz" in said, "what was set aside is named in the terminal"


def test_json_is_all_that_is_printed(whole, capsys):
    main(again(whole, "--json"))
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts"] == runfolder.read_json(whole / "verdicts.json")["sentences"] and Path(found["report"]).exists()
    for command, key in (("observe", "verdict"), ("adapt", "table"), ("report", "verdicts")):
        with contextlib.suppress(SystemExit):  # 20 steps teach nothing: observe may end with 3
            main([command, str(whole), "--json"])
        assert key in json.loads(capsys.readouterr().out), command


def test_stages_for_people(whole, capsys):
    for command, word in (("observe", "the null is"), ("adapt", "minus scratch"), ("report", "What this means")):
        with contextlib.suppress(SystemExit):
            main([command, str(whole)])
        assert word in capsys.readouterr().out, command


def test_pretraining_without_masks_and_what_adapt_says_then(flat_phantoms, tmp_path, capsys):
    flat = ("views.parent=24,24", "views.crop=16,16", "adapt.patch=24,24")
    main(["pretrain", str(flat_phantoms[0]), "--out", str(tmp_path / "run"), *small(*flat), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["watch"]["step"] == 20 and (tmp_path / "run" / "state" / "pretrain.safetensors").exists()
    assert "without masks" in refused(capsys, "adapt", tmp_path / "run")
    main(["report", str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").exists()


def test_what_is_written_is_the_owners_alone(whole):
    loose = [p for p in [whole, *whole.rglob("*")] if p.stat().st_mode & 0o077]
    assert not loose, loose[:5]


def test_two_requests_get_two_folders(phantoms, tmp_path, monkeypatch):
    from headwater import api
    from headwater.request import folder_for

    monkeypatch.chdir(tmp_path)
    scans = tmp_path / "spine" / "images"
    one, other = api.Request(scans), api.Request(scans, seed=1)
    assert folder_for(one) == Path("runs/spine") == folder_for(other), "nothing is there yet"
    runfolder.write_json(Path("runs/spine/private/request.json"), one.plain())
    assert folder_for(one) == Path("runs/spine") and folder_for(other) == Path("runs/spine-2")


def headwater(*arguments: object, **options: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "headwater", *map(str, arguments)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.slow
def test_control_c_then_the_same_command(flat_phantoms, tmp_path):
    flat = ("views.parent=24,24", "views.crop=16,16", "adapt.patch=24,24", "pretrain.steps=80")
    command = ("pretrain", flat_phantoms[0], "--out", tmp_path / "run", *small(*flat))
    first = headwater(*command)
    deadline = time.monotonic() + 120
    while len(runfolder.read_events(tmp_path / "run")) < 5 and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, (first.returncode, out, err)
    assert "The same command goes on from there" in err and "Traceback" not in err
    done = max(e["step"] for e in runfolder.read_events(tmp_path / "run") if e["event"] == "step")
    assert 0 < done < 80
    second = headwater(*command)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    steps = [e["step"] for e in runfolder.read_events(tmp_path / "run") if e["event"] == "step"]
    assert steps == list(range(1, 81)) and "Going on with the plan of before" in out


@pytest.mark.slow
def test_a_bad_folder_from_a_shell(tmp_path):
    process = headwater("run", tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.strip().count("\n") == 0 and "is empty" in err and "Traceback" not in err + out


# What was pretrained before


def test_the_backbone_of_another_run_is_adapted_and_leaks_are_named(capsys, phantoms, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    main(["pretrain", str(phantoms[0]), "--out", str(first), *small()])
    asked = ["adapt", str(phantoms[0]), "--labels", str(phantoms[1]), "--out", str(second), "--backbone", str(first)]
    asked += [
        "--seed",
        "1",
        *small("adapt.final=2", "adapt.counts=1", "adapt.draws=1", "adapt.arms=scratch,fine-tuned"),
        "--json",
    ]
    capsys.readouterr()
    main(asked)  # another seed keeps other scans for testing: some of them were pretrained on
    told = json.loads(capsys.readouterr().out)
    assert "pretrained on" in " ".join(told["leakage"]) and {row["arm"] for row in told["table"]} == {"scratch", "fine-tuned"}
    state = Path("state") / "pretrain.safetensors"
    assert (second / state).read_bytes() == (first / state).read_bytes() and (second / "adapt" / "segmenter.safetensors").exists()
    said = refused(capsys, "adapt", first, "--backbone", first)
    assert "of its own" in said
    said = refused(capsys, "adapt", phantoms[0], "--backbone", first, "--out", tmp_path / "third")
    assert "--labels" in said
