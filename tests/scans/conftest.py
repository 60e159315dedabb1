"""Small files for trying the readers."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest


@pytest.fixture
def save() -> Callable[..., Path]:
    """save(path, array, spacing=..., affine=..., dtype=...): one NIfTI file."""

    def write(path: Path, array: np.ndarray, spacing: tuple = (1.0, 1.0, 1.0), affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([*spacing, 1.0]) if affine is None else affine
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return path

    return write


@pytest.fixture
def pairs(tmp_path: Path, save: Callable[..., Path]) -> tuple[Path, Path]:
    """Ten scans of 9 x 10 x 8 voxels with masks, in two folders."""
    for i in range(10):
        rng = np.random.default_rng(i)
        image = (rng.normal(size=(9, 10, 8)) * 100).astype(np.float32)
        mask = np.zeros((9, 10, 8), np.uint8)
        mask[2:5, 2:6, 2:5], mask[5:7, 2:6, 2:5] = 1, 4
        save(tmp_path / "scans" / f"case_{i:02d}.nii.gz", image)
        save(tmp_path / "masks" / f"case_{i:02d}.nii.gz", mask)
    return tmp_path / "scans", tmp_path / "masks"


@pytest.fixture
def entry() -> Callable[..., "Entry"]:  # noqa: F821
    """entry("name", shape=..., labels={1: 5}, ...): a scan as the passport holds it."""
    from dataclasses import fields

    from headwater.scans.entry import Entry
    from headwater.scans.examine import Facts

    def make(name: str, **told: object) -> Entry:
        shape = told.get("shape", (10, 12, 8))
        usual = {
            "shape": shape, "spacing": (1.0,) * len(shape), "spaced": True, "channels": 1, "dtype": "int16", "format": "NIfTI",
            "modality": "", "orientation": "RAS"[: len(shape)], "mean": (5.0,), "spread": (2.0,), "low": (0.0,), "high": (10.0,),
            "least": (0.0,), "most": (12.0,), "clipped": 0.0, "blank": 0, "sha256": name,
        }  # fmt: skip
        facts = Facts(**usual | {k: v for k, v in told.items() if k in {f.name for f in fields(Facts)}})
        rest = {k: v for k, v in told.items() if k in {f.name for f in fields(Entry)}}
        if told.get("labels") is not None:
            rest |= {"mask": f"masks/{name}", "mask_sha256": "m"}
        return Entry(name, str(rest.pop("subject", name)), facts, **rest)

    return make
