"""The guide: examples print what the pages say, figures can be drawn, files, tests and names are there."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"
TEXT = (GUIDE / "flow.md").read_text(encoding="utf-8")
SMALL = {
    "clusters": dict(n=30, shown=(0, 2, 6), saved=12),
    "phases": dict(widths=(2, 4), n=8, batch=3, betas=3, end=2.0, rows=4),
    "counts": dict(betas=(4, 9), n=120, starts=2),
    "poles": dict(side=2, n=4, end=20.0),
    "norms": dict(n=4, end=50.0, saved=4),
    "density": dict(n=60, times=(0, 0.5)),
}


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """docs/guide/figures.py, which is a script."""
    spec = importlib.util.spec_from_file_location("figures", GUIDE / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page",
    [
        "flow.md",
        "backbones.md",
        "objectives.md",
        "heads.md",
        "golden-rules.md",
        "collapse.md",
        "export.md",
        "transformer.md",
        "probes.md",
    ],
)
def test_the_example_prints_what_the_page_says(page):
    text = (GUIDE / page).read_text(encoding="utf-8")
    code, told = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, page, "exec"), {})
    assert printed.getvalue() == told


def test_the_tables_of_the_guide_have_every_name():
    from headwater import backbones, objectives

    for page, names in (("backbones.md", backbones.FAMILIES), ("objectives.md", objectives.OBJECTIVES)):
        rows = re.findall(r"^\| `(\w+)` \|", (GUIDE / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert set(names) <= set(rows), page


@pytest.mark.parametrize("name", SMALL)
def test_each_figure_is_drawn(figures, name, tmp_path, monkeypatch):
    monkeypatch.setitem(figures.FIGURES, name, lambda draw=figures.FIGURES[name]: draw(**SMALL[name]))
    drawn = figures.write(name, tmp_path).read_text(encoding="utf-8")
    assert drawn.startswith("<?xml") and drawn.count("<path") > 10
    assert drawn == figures.write(name, tmp_path).read_text(encoding="utf-8")  # the same file from the same code


def test_the_page_shows_every_figure_and_says_how_it_is_made(figures):
    assert set(re.findall(r"figures/(\w+)\.svg", TEXT)) == set(figures.FIGURES) == set(SMALL)
    assert "figures.py " + "|".join(figures.FIGURES) in TEXT
    for name in figures.FIGURES:
        assert 1000 < (GUIDE / "figures" / f"{name}.svg").stat().st_size < 300_000, name


def test_simulated_poles_obey_the_threshold(figures):
    """What the picture of the poles marks, well off the line; tokens that all went to one pole have left, too."""
    assert figures.poles_hold(0.3, 0.7, 6) and not figures.poles_hold(0.9, 0.7, 6) and not figures.poles_hold(0.8, 0.1, 6)


@pytest.mark.parametrize("page", sorted(path.name for path in GUIDE.glob("*.md")))
def test_relative_links_exist(page):
    text = (GUIDE / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text)
    assert not [link for link in links if not (GUIDE / link).exists()]
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text.replace("\n", " "))) <= anchors


def test_every_prediction_of_the_table_has_its_test():
    rows = [int(n) for n in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)]
    assert rows == list(range(1, 43))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "flow").glob("test_*.py"))
    assert {int(n) for n in re.findall(r"def test_prediction_(\d\d)_", tests)} == set(rows)


def test_every_module_named_exists():
    named = {name for group in re.findall(r"\[(`[^\]]+`)\]", TEXT) for name in re.findall(r"`(\w+)`", group)}
    assert len(named) > 20 and not [name for name in named if not (ROOT / "headwater" / "flow" / f"{name}.py").exists()]
