"""One call for every target: whole folders, cards whose code runs, nothing lost by mistake."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.errors import InputError
from headwater.transfer.export import TARGETS, export, weights

FAST = [to for to in TARGETS if to != "onnx"]


def code_of(folder: Path) -> str:
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("to", FAST)
def test_the_code_of_the_card_runs(finished, adapted, tmp_path, to, monkeypatch, secrets):
    for run in (finished, adapted):
        made = export(run, to, tmp_path / run.parent.name)
        assert made.words and {name for name, _ in made.files} >= {"README.md"} and all(size for _, size in made.files)
        monkeypatch.chdir(made.folder)
        found: dict = {}
        exec(compile(code_of(made.folder), "card", "exec"), found)
        assert (found.get("backbone") or found["network"]).state_dict()
        held = b"".join(path.read_bytes() for path in made.folder.rglob("*") if path.is_file())
        assert not [name for name in secrets if name.encode() in held]


def test_the_default_place_and_the_default_network(adapted, make_run, tmp_path):
    assert "segmenter" in (export(adapted, "safetensors", tmp_path / "a").folder / "README.md").read_text()
    assert "pretrained backbone" in (export(adapted, "huggingface", tmp_path / "b").folder / "README.md").read_text()
    made = export(make_run(tmp_path / "run"), "safetensors")
    assert made.folder == tmp_path / "run" / "export" / "safetensors" and stat.S_IMODE(os.stat(made.folder).st_mode) == 0o700


def test_nothing_is_replaced_unasked(finished, tmp_path):
    export(finished, "safetensors", tmp_path / "out")
    with pytest.raises(InputError, match="has files in it already"):
        export(finished, "huggingface", tmp_path / "out")
    made = export(finished, "huggingface", tmp_path / "out", replace=True)
    assert {name for name, _ in made.files} == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    (tmp_path / "out" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="thesis.txt, which is no export"):
        export(finished, "huggingface", tmp_path / "out", replace=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        export(finished, "safetensors", tmp_path / "file")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years"


def test_a_folder_is_whole_or_absent(finished, tmp_path, monkeypatch):
    export(finished, "safetensors", tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def fails(folder, source):
        (folder / "half").write_bytes(b"1")
        raise OSError("disk full")

    monkeypatch.setattr(weights, "write", fails)
    with pytest.raises(OSError, match="disk full"):
        export(finished, "safetensors", tmp_path / "out", replace=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_bad_input(finished, tmp_path):
    with pytest.raises(InputError, match="no export to 'keras': use one of safetensors, onnx, nnunet, huggingface"):
        export(finished, "keras")
    with pytest.raises(InputError, match="is no run folder"):
        export(tmp_path / "nothing", "safetensors")
    with pytest.raises(InputError, match="holds no trained network"):
        export(tmp_path, "nnunet", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_onnx_from_end_to_end(adapted, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    made = export(adapted, "onnx", tmp_path / "out")
    assert "Checked with onnxruntime" in made.words[-1] and "scores" in made.words[1]
    done = subprocess.run([sys.executable, "-c", code_of(made.folder)], cwd=made.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
