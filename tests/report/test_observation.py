"""The page of an observation: what it says, that it is offline, that hostile names stay names, that gaps are said."""

import json
import re
import shutil
import subprocess

import numpy as np
import observed
import pytest
from test_page import Page

from headwater.errors import InputError
from headwater.report.observation import SECTIONS, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def load(folder):
    return Page(render(folder).read_text(encoding="utf-8"))


def test_everything_is_told_in_order(tmp_path):
    page = load(observed.write(tmp_path))
    assert [tag[1]["id"] for tag in page.tags if tag[0] == "section"] == ["verdict", *SECTIONS]
    words = page.words()
    for text in (
        "Features are stable and not random.", "dense agreement 0.60 (chance 0.10). Next: go on.", "healthy", "dino.pth",
        "21.0 M parameters", "24 images", "left out: 2", "54 parameters of 54", "features are read from tokens after blocks.3",
        "the same network, untrained", "0.30 [0.20, 0.40]", "whole image", "0.60 ± 0.020", "RankMe",
        "head 1 of layer 2 does 62 % of it", "without mlp, head 1", "0.93 (chance 0.40)", "blocks.2.attn",
        "2.10 of 3 heads differ (untrained 2.80); without head 2 features change by 0.020 (untrained 0.020)",
        "Largest 0.50; by chance up to 0.25 (dashed): 1 of 4 lie beyond.", "eigen-images: few", "Does the order of the patches",
        "headwater observe dino.pth scans", "torch", "energy paid / least possible", "0.11 [0.020, 0.20]", "1 of 5 classes",
        "trained: transport is that of 256 tokens", "What becomes of small changes", "Can classes be told apart along depth?",
    ):  # fmt: skip
        assert text in words, text
    assert "nan" not in words.lower().split() and "None" not in words.split()
    assert "no teacher was given" not in words, "what nobody sought is not missed"


def test_it_is_offline_and_hostile_names_stay_names(tmp_path):
    text = render(observed.write(tmp_path, hostile="<script>alert(1)</script>")).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)


@pytest.mark.parametrize(("state", "mood"), [("healthy", "good"), ("miswired", "bad"), ("random", "bad"), ("weak", "unsure")])
def test_the_colour_of_the_verdict(tmp_path, state, mood):
    text = render(observed.write(tmp_path, state=state, cause="head" if mood == "bad" else "")).read_text()
    assert f'class="chip {mood}"' in text and (": head</span>" in text) == (mood == "bad")


def test_what_is_missing_is_said(tmp_path):
    (tmp_path / "observe.json").write_text("{}")
    words = load(tmp_path).words()
    for text in (
        "There is no verdict",
        "No agreement was measured",
        "Nothing was traced",
        "No layer could be explained",
        "No attention",
    ):
        assert text in words, text
    with pytest.raises(InputError, match="holds no observation"):
        render(tmp_path / "nowhere")


def test_damaged_and_odd_files_do_not_stop_it(tmp_path):
    folder = observed.write(tmp_path)
    whole = (folder / "closer.npz").read_bytes()
    (folder / "closer.npz").write_bytes(whole[:200])
    assert "closer.npz" in load(folder).words()
    odd = observed.arrays() | {
        "image": np.zeros((0, 3, 3)),
        "tokens": np.full((2, 8, 8, 3), np.nan),
        "neighbours": np.full((24, 8), 99),
    }
    np.savez_compressed(folder / "closer.npz", **odd)
    load(folder)
    found = observed.found()
    for name in (
        "model",
        "images",
        "final",
        "look",
        "start",
        "explanation",
        "eigenvalues",
        "closer",
        "verdict",
        "pixels",
        "versions",
        "motion",
        "growth",
        "separability",
    ):
        for wrong in (
            None,
            [],
            "text",
            3,
            {
                "layers": 3,
                "words": 7,
                "heads": [1],
                "panel": {"rankme": 5},
                "order": {"tokens": "a"},
                "trained": {"stretch": "a"},
            },
        ):
            (folder / "observe.json").write_text(json.dumps(found | {name: wrong}))
            load(folder)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_reaches_over_the_edge_and_the_console_is_silent(tmp_path, width):
    page = render(observed.write(tmp_path / "o"))
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe id="f" src="{page.as_uri()}" style="border:0;width:{width}px;height:900px"></iframe><script>onload = () => {{'
        'const root = document.getElementById("f").contentDocument.documentElement;'
        " document.title = `${root.scrollWidth}`; }</script>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    command += ["--allow-file-access-from-files", "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []
    assert int(re.search(r"<title>(\d+)</title>", done.stdout)[1]) <= width
