"""`headwater observe`: what a pipeline reads (exit code, JSON) and what a person reads."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from headwater.backbones import build
from headwater.cli import main


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Images, an untrained network and one that gives all images the same tokens."""
    folder = tmp_path_factory.mktemp("observe")
    told = {"family": "vit", "size": "nano", "patch": 4, "channels": 1, "ndim": 2}
    for name in ("whole", "blind"):
        backbone = build(**told, seed=3)
        if name == "blind":
            with torch.no_grad():
                backbone.embed.weight.zero_()
        kept = {f"teacher.backbone.{key}": value for key, value in backbone.state_dict().items()}
        save_file(kept, folder / f"{name}.safetensors", {"headwater": json.dumps({"backbone": told})})
    noise = np.random.default_rng(0).normal(size=(10, 24, 24))
    np.save(folder / "images.npy", np.stack([gaussian_filter(one, 3) for one in noise]).astype(np.float32))
    return folder


def ended(*arguments):
    """The exit code of a command."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code
    return 0


def test_a_collapsed_model_ends_with_three_and_says_why(places, tmp_path, capsys):
    code = ended("observe", places / "blind.safetensors", places / "images.npy", "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert code == 3 and "collapsed" in said and "the null is" in said and "RankMe" in said
    assert said.rstrip().replace("\n", "").endswith("observe.html") and (tmp_path / "out" / "observe.html").exists()


def test_json_is_all_that_is_printed_and_the_code_follows_the_verdict(places, tmp_path, capsys):
    code = ended("observe", places / "whole.safetensors", places / "images.npy", "--out", tmp_path / "out", "--json")
    found = json.loads(capsys.readouterr().out)
    assert code == (3 if found["verdict"]["state"] in ("collapsed", "random", "miswired") else 0)
    assert found["verdict"]["cause"] is not None and found["look"]["panel"]["rankme"]["value"] > 0
    assert found["command"].startswith(("headwater", "'headwater")) or found["command"]


@pytest.mark.slow
def test_classes_are_rows_of_the_tables(places, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    np.savez(tmp_path / "images.npz", images=np.load(places / "images.npy"), labels=np.arange(10) % 2)
    ended("observe", places / "whole.safetensors", tmp_path / "images.npz", "--classes", "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "classes told by" in said and "linear probe" in said and "energy paid" in said


def test_classes_that_nobody_told_are_one_sentence(places, tmp_path, capsys):
    code = ended("observe", places / "whole.safetensors", places / "images.npy", "--classes", "--out", tmp_path / "out")
    assert code == 2 and "does not say which class an image has" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.pt", "images.npy"), "does not exist"),
        (("whole.safetensors",), "give the images too"),
        (("whole.safetensors", "nowhere"), "does not exist"),
        (("images.npy", "images.npy"), "is no file of weights"),
        (("whole.safetensors", "--rank", "blind.safetensors"), "Ranking needs images"),
    ],
)
def test_bad_input_is_one_sentence_and_two(places, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(places)
    assert ended("observe", *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and said in lines[0] and not (places / "runs").exists()


def test_ranking(places, capsys):
    given = (places / "blind.safetensors", places / "images.npy", "--rank", places / "whole.safetensors")
    assert ended("observe", *given, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in rows] == [1, 2] and rows[0]["model"].endswith("whole.safetensors")
