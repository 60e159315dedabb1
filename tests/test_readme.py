"""What the README tells people to type works, at reduced size."""

import re
import shlex
import shutil
from functools import reduce
from itertools import takewhile
from pathlib import Path

import pytest

from headwater.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SMALL = (
    "pretrain.steps=20",
    "pretrain.watch=1",
    "pretrain.batch=2",
    "precision=fp32",
    "views.parent=24,24,24",
    "views.crop=16,16,16",
    "adapt.patch=24,24,24",
    "adapt.batch=2",
    "adapt.steps=2",
    "adapt.counts=1,2",
    "adapt.draws=2",
    "adapt.final=2",
    "compare.methods=resenc,hybrid",
    "compare.seeds=2",
    "compare.steps=2",
)


def blocks(text: str) -> list[str]:
    """What stands in fenced ```sh blocks."""
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The commands in the blocks, in order: prompts, comments and continued lines resolved."""
    found = []
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            words = list(takewhile(lambda word: word not in ("|", ">", "&&", "&"), words))
            found += [words] if words else []
    return found


@pytest.fixture
def reduced(monkeypatch) -> None:
    """Commands stay as they are written; the recipe and the phantoms of the demo are made small."""
    from headwater import recipes, settings
    from headwater.scans import phantom

    default, write = recipes.default, phantom.write
    monkeypatch.setattr(recipes, "default", lambda *given: reduce(settings.change, SMALL, default(*given)))
    monkeypatch.setattr(phantom, "write", lambda folder, count, shape, seed: write(folder, 12, (24, 24, 24), seed))


@pytest.fixture
def text() -> str:
    if not README.exists():
        pytest.skip("README.md is not written yet")
    return README.read_text(encoding="utf-8")


@pytest.fixture
def place(phantoms, tmp_path, monkeypatch) -> Path:
    """A folder with scans/ and masks/, and made-up volumes where the README expects the hippocampus set.

    It is called scans itself, since a run is named by the folder above where the scans' own folder has a name that says nothing.
    """
    here, data = tmp_path / "scans", tmp_path / "shared" / "data" / "hippocampus"
    for base, names in ((here, ("scans", "masks")), (data, ("images", "labels"))):
        for folder, name in zip(phantoms, names, strict=True):
            shutil.copytree(folder, base / name)
        shutil.copy(phantoms[0].parent / "dataset.json", base)
    for base in (here, data):
        (base / "test.txt").write_text("phantom_001\nphantom_004\nphantom_007\n")
    monkeypatch.chdir(here)
    return here


def test_the_reading_of_a_readme():
    """Of this test's own making, so that it is right before there is a README."""
    sample = (
        "# A\n```sh\nmake demo\n$ make test   # all of them\n```\ntext\n```python\nmake()\n```\n```sh\n"
        "headwater run scans/ \\\n  --labels masks/\n\n# a remark\nheadwater report runs/scans | head\n```\n"
    )
    assert commands(sample) == [
        ["make", "demo"],
        ["make", "test"],
        ["headwater", "run", "scans/", "--labels", "masks/"],
        ["headwater", "report", "runs/scans"],
    ]


def test_the_first_two_commands_make_the_demo_and_the_tests(text):
    assert commands(text)[:2] == [["make", "demo"], ["make", "test"]]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in commands(text) if words[0] == "make"} <= targets


def test_every_command_named_exists(text):
    from headwater.cli import COMMANDS

    assert {words[1] for words in commands(text) if words[0] == "headwater" and not words[1].startswith("-")} <= set(COMMANDS)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(text, place, reduced, capsys):
    told = [words for words in commands(text) if words[0] == "headwater"]
    assert any(words[1] == "run" for words in told), "the main job is shown"
    for words in told:
        if "model.safetensors" in words:  # somebody's checkpoint
            shutil.copy(next(place.rglob("pretrain.safetensors")), place / "model.safetensors")
        try:
            main(words[1:])
        except SystemExit as end:
            assert end.code in ((0, 3, None) if words[1] == "observe" else (0, None)), (
                shlex.join(words),
                capsys.readouterr().err,
            )


def test_relative_links_and_files_exist(text):
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text)
    assert not [link for link in links if not (ROOT / link).exists()]
