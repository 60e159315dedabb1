"""Probing as the command does it: classes, tables and masks, of runs and of files of weights; what is missing is named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.backbones import build
from headwater.errors import InputError
from headwater.probing import probe
from headwater.scans import phantom
from headwater.scans.passport import look
from headwater.scans.prepare import prepare
from headwater.train import state

BACKBONE = {"family": "resenc", "size": "nano", "patch": 4, "channels": 1, "ndim": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 16 pictures (untrained), its scans and masks, and a table."""
    folder = tmp_path_factory.mktemp("probing")
    images, masks = phantom.write(folder / "scans", 16, (32, 32), 0)
    prepare(look(images, masks), folder / "run" / "store")
    network = torch.nn.ModuleDict({"backbone": build(**BACKBONE, seed=3)})
    state.save(folder / "run" / "state" / "pretrain.safetensors", 1, {"teacher": network}, backbone=BACKBONE)
    rows = [f"phantom_{i:03d},{'left' if i % 2 else 'right'},{i * 1.5}" for i in range(14)]
    (folder / "targets.csv").write_text("\n".join(["file,side,age", *rows]))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws and steps: how well readers do is tried where they are."""
    for name, value in (("COUNTS", (1,)), ("SHUFFLES", 1), ("DRAWS", dict.fromkeys(("classes", "number", "tokens"), 1))):
        monkeypatch.setattr(f"headwater.transfer.probes.probe.{name}", value)
    monkeypatch.setattr("headwater.transfer.probes.readers.LARGE", 1)
    monkeypatch.setattr("headwater.transfer.probes.attentive.STEPS", 10)
    monkeypatch.setattr("headwater.transfer.probes.asked.FOLDS", 3)


def test_a_table_and_masks_of_a_run(place: Path):
    images, masks = place / "scans" / "images", place / "scans" / "labels"
    found = probe(place / "run", images, place / "targets.csv", masks, most=12)
    tasks = {task["name"]: task for task in found["tasks"]}
    assert list(tasks) == ["side", "age", "area of head", "area of tail", "area of rim", "structures"]
    assert [t["kind"] for t in tasks.values()] == ["classes", "number", "number", "number", "number", "tokens"]
    assert found["images"] == {"used": 12, "found": 16, "subjects": 12}
    assert found["words"] == ["2 of 16 images are not in the table"]
    layers = [s["layer"] for s in tasks["structures"]["trained"]["scores"] if s["method"] == "linear" and s["count"] == 0]
    assert layers == ["stage 1", "stage 2", "stage 3", "stage 4", "features"]
    for task in tasks.values():
        assert {"trained", "untrained", "pixels", "gains", "metric", "sentence", "words"} <= set(task)
        assert task["sentence"].startswith(f"{task['name']}: {task['metric']}") and "chance" in task["sentence"]
        over = [g for g in task["gains"] if g["over"] == "untrained" and g["method"] == "linear" and g["count"] == 0]
        scores = [[s for s in task[n]["scores"] if s["layer"] == "features" and s["method"] == "linear"][0]["mean"] for n in
                  ("trained", "untrained")]  # fmt: skip
        assert over[0]["gain"] == pytest.approx(scores[0] - scores[1]) and over[0]["low"] <= over[0]["gain"] <= over[0]["high"]
    assert any(s["method"] == "attentive" for s in tasks["age"]["trained"]["scores"])


def test_classes_through_a_file_of_weights(place: Path, tmp_path: Path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(8):
            picture = rng.integers(0, 60, (28, 28)) + 120 * k * (np.arange(28) > 13)
            Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{i}.png")
    shutil.copy(place / "run" / "state" / "pretrain.safetensors", tmp_path / "weights.safetensors")
    found = probe(tmp_path / "weights.safetensors", tmp_path / "pictures", classes=True, most=14)
    (task,) = found["tasks"]
    assert found["images"]["used"] == 14 and task["trained"]["names"] == ["dark", "light"]
    assert [s for s in task["trained"]["scores"] if s["layer"] == "features"][0]["mean"] > 0.8
    assert any("mean 0 and spread 1" in word for word in found["words"])


def test_what_is_missing_is_named(place: Path, tmp_path: Path):
    images = place / "scans" / "images"
    with pytest.raises(InputError, match="Nothing is asked"):
        probe(place / "run", images)
    (tmp_path / "few.csv").write_text("file,age\nphantom_000,3\nphantom_001,5\n")
    with pytest.raises(InputError, match="2 scans can be used"):
        probe(place / "run", images, tmp_path / "few.csv")
    with pytest.raises(InputError, match="Nothing in .* says which class"):
        probe(place / "run", images, classes=True)
