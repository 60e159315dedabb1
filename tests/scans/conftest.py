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
