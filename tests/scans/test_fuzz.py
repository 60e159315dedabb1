"""Thousands of damaged files and lists: each is read or refused in one sentence; none ends, hangs or fills the program."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = Path(__file__).with_name("trial.py")
FAMILIES = ("nifti", "mgh", "dicom", "pictures", "tiff", "arrays", "itk", "lists")
GROWTH = 600 << 20  # bytes that a damaged file may make memory grow by: a little over what one may unpack to


def tried(family: str, first: int, last: int) -> dict:
    """What became of the cases first to last, in a process of their own that is kept small."""
    if family == "itk" and importlib.util.find_spec("SimpleITK") is None:
        pytest.skip("SimpleITK is not installed")
    command = [sys.executable, str(TRIAL), family, str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, f"ended by case {done.stderr.splitlines()[-12:]}"
    return json.loads(done.stdout)


def held(found: dict, cases: int) -> None:
    assert not found["wrong"], "\n".join(found["wrong"][:5])
    assert found["counts"]["read"] + found["counts"]["refused"] == cases
    assert found["counts"]["read"] > cases // 20 and found["counts"]["refused"] > cases // 20, "both outcomes are really met"
    assert found["grown"] < GROWTH


@pytest.mark.parametrize("family", FAMILIES)
def test_damage_is_read_or_refused(family):
    cases = 120 if family == "lists" else 300
    held(tried(family, 0, cases), cases)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_far_more_damage_is_read_or_refused(family):
    cases = 400 if family == "lists" else 2000
    held(tried(family, 10_000, 10_000 + cases), cases)
