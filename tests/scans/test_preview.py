"""Pictures of a folder: the right plane, in proportion."""

import numpy as np

from headwater.scans.passport import look
from headwater.scans.preview import COUNT, SIDE, preview


def test_slices_show_the_mask_in_proportion(pairs):
    made = preview(look(*pairs))
    assert made["image"].shape == made["mask"].shape == (COUNT, SIDE, SIDE)
    inside = np.isfinite(made["image"])
    assert inside[:, : round(SIDE * 0.9), :].all() and not inside[:, round(SIDE * 0.9) :].any()  # 9 x 10 voxels of 1 mm
    assert set(np.unique(made["mask"])) == {0, 1, 4}


def test_thick_slices_are_looked_at_from_the_front(tmp_path, save):
    for i in range(2):
        array = np.random.default_rng(i).normal(size=(6, 20, 30)).astype(np.float32)
        save(tmp_path / f"{i}.nii.gz", array, spacing=(5.0, 1.0, 1.0))
    made = preview(look(tmp_path))
    inside = np.isfinite(made["image"][0])
    assert inside.any(1).sum() == round(SIDE * 20 / 30) and inside.any(0).sum() == SIDE


def test_pictures(tmp_path):
    from PIL import Image

    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(tmp_path / "a.png")
    made = preview(look(tmp_path))
    assert made["image"].shape[0] == 1 and np.nanmax(made["image"]) > 200 and not made["mask"].any()
