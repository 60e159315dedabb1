"""Real data where it lies beside the checkout."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets; skips without it."""
    folder = Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def pneumonia(shared: Path) -> Path:
    """The chest pictures of MedMNIST."""
    return shared / "pneumoniamnist.npz"
