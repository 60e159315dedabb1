"""Shapes are checked while tests run; real scans are used where they lie beside the checkout."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

hook = install_import_hook("headwater", "beartype.beartype")
hook.install() if hasattr(hook, "install") else None


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    """The folder of real hippocampus scans (images, labels, test.txt); skips without it."""
    beside = Path(os.environ.get("HEADWATER_DATA", Path(__file__).parents[2] / "shared" / "data")) / "hippocampus"
    if not (beside / "images").is_dir():
        pytest.skip("no hippocampus scans beside the checkout")
    return beside
