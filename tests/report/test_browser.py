"""The page in a real browser, at the widths people have. Skipped where there is no Chromium."""

import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest

from headwater.report import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"), pytest.mark.slow]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)


def browse(page, folder, *flags):
    """What the browser wrote, and what its console said about the page."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture(params=["complete", "incomplete", "looked"])
def page(fabricate, tmp_path, request):
    return render(getattr(fabricate, request.param)(tmp_path / request.param))


def test_the_page_stands_without_a_word_from_the_console(page, tmp_path):
    dom, said = browse(page, tmp_path, "--dump-dom")
    assert said == []
    rest = ["next"] if page.parent.name == "looked" else ["training", "tokens", "labels", "comparison", "provenance"]
    assert re.findall(r'<section[^>]* id="(\w+)"', dom) == ["verdict", "data", "distribution", *rest]


@pytest.mark.parametrize("width", [1400, 520])
def test_the_page_is_painted(page, tmp_path, width):
    _, said = browse(page, tmp_path, f"--window-size={width},1200", f"--screenshot={tmp_path / 'page.png'}")
    painted = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    assert said == [] and painted.shape[1] == width
    assert len(np.unique((painted * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 50  # text and pictures, not a blank sheet


@pytest.mark.parametrize("width", [400, 420, 800, 1100, 1600])
def test_nothing_reaches_over_the_edge(page, tmp_path, width):
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe id="f" src="{page.as_uri()}" style="border:0;width:{width}px;height:900px"></iframe><script>onload = () => {{'
        'const root = document.getElementById("f").contentDocument.documentElement;'
        " document.title = `${root.scrollWidth}`; }</script>"
    )
    dom, _ = browse(probe, tmp_path, "--allow-file-access-from-files", "--window-size=1700,1000", "--dump-dom")
    assert re.search(r"<title>(\d+)</title>", dom)[1] == str(width)
