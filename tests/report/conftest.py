"""Made-up runs for the report's tests."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fabricate() -> ModuleType:
    """The module that writes made-up runs."""
    place = Path(__file__).with_name("fabricate.py")
    spec = importlib.util.spec_from_file_location("headwater_fabricate", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
