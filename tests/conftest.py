"""Shapes are checked while tests run; made-up scans for all, real ones where they lie beside the checkout."""

import os
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

checked = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # a whole number is a number
hook = install_import_hook("headwater", checked)
hook.install() if hasattr(hook, "install") else None


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of the tests' own: what Headwater remembers of them is nobody's."""
    before, folder = os.environ.get("HOME"), tmp_path_factory.mktemp("home")
    os.environ["HOME"] = str(folder)
    yield folder
    if before is not None:
        os.environ["HOME"] = before


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    """The folder of real hippocampus scans (images, labels, test.txt); skips without it."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "hippocampus"
    if not (beside / "images").is_dir():
        pytest.skip("no hippocampus scans beside the checkout")
    return beside


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of 12 made-up volumes of 24 x 24 x 24 voxels and of their masks. Read only."""
    from headwater.scans import phantom

    return phantom.write(tmp_path_factory.mktemp("phantoms"), 12, (24, 24, 24), 0)


@pytest.fixture(scope="session")
def flat_phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of 12 made-up pictures of 32 x 32 pixels and of their masks. Read only."""
    from headwater.scans import phantom

    return phantom.write(tmp_path_factory.mktemp("flat"), 12, (32, 32), 0)


def _prepared(folders: tuple[Path, Path], folder: Path) -> "Store":  # noqa: F821
    from headwater.scans.passport import look
    from headwater.scans.prepare import prepare

    return prepare(look(*folders), folder)


@pytest.fixture(scope="session")
def solid(phantoms: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> "Store":  # noqa: F821
    """The volumes prepared: 10 scans to learn from, 2 to test on."""
    return _prepared(phantoms, tmp_path_factory.mktemp("solid") / "store")


@pytest.fixture(scope="session")
def flat(flat_phantoms: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> "Store":  # noqa: F821
    """The pictures prepared: 10 scans to learn from, 2 to test on. The fast one."""
    return _prepared(flat_phantoms, tmp_path_factory.mktemp("flat_store") / "store")


@pytest.fixture(scope="session")
def tiny() -> "Callable[..., Settings]":  # noqa: F821
    """tiny(ndim, "pretrain.steps=3", ...): settings for a run of seconds."""
    from headwater import settings

    def make(ndim: int, *changes: str) -> settings.Settings:
        crop, whole = ",".join(["16"] * ndim), ",".join(["24"] * ndim)
        small = (
            f"views.parent={whole}",
            f"views.crop={crop}",
            "pretrain.batch=2",
            "pretrain.steps=4",
            "pretrain.watch=0",
            f"adapt.patch={whole}",
            "adapt.batch=2",
            "adapt.steps=2",
            "adapt.draws=2",
            "adapt.counts=1,2",
            "precision=fp32",
        )
        return reduce(settings.change, (*small, *changes), settings.Settings())

    return make
