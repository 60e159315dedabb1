"""Test scans to look at: a slice with truth and prediction, worst first."""

from pathlib import Path
from typing import Any

import numpy as np

from headwater import runfolder
from headwater.scans.store import Store


def central(mask: np.ndarray | None, shape: tuple[int, ...]) -> int:
    """The slice across the last axis that shows most structure; the middle one without a mask."""
    return shape[-1] // 2 if mask is None or mask.ndim == 2 else int((mask > 0).sum(axis=(0, 1)).argmax())


def plane(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The slice of a scan or mask (*S) that is shown."""
    return array if array.ndim == 2 else array[:, :, central(mask, mask.shape)]


def picture_size(store: Store) -> tuple[int, int]:
    """Large enough for a slice of any scan."""
    height, width = np.max([store.shape(i)[:2] for i in range(len(store))], axis=0)
    return int(height), int(width)


def chosen(means: np.ndarray, most: int) -> list[int]:
    """Places of the worst scans, then of some up to the best; the first is always among them. Unknown means count as good."""
    order = [int(n) for n in np.argsort(np.where(np.isfinite(means), means, 2), kind="stable")]
    worst, rest = order[: most // 2], order[most // 2 :]
    spaced = np.unique(np.linspace(0, len(rest) - 1, most - len(worst)).round().astype(int)) if rest else []
    picked = {*worst, *(rest[i] for i in spaced), 0}
    return [n for n in order if n in picked]


def write(
    store: Store, folder: Path, job: Path, tests: list[int], means: np.ndarray, about: dict[str, Any], most: int = 8
) -> None:
    """examples.npz (image, truth, prediction: (n, H, W)) and examples.json of one finished job.

    Args: tests: scans in the order of `means`, the Dice of each; about: what the job was.
    """
    saved, size = np.load(job), picture_size(store)
    pictures: dict[str, list[np.ndarray]] = {"image": [], "truth": [], "prediction": []}
    shown = chosen(means, most)
    for n in shown:
        mask = np.where(store.label(tests[n]) < store.classes, store.label(tests[n]), 0)
        pictures["image"].append(plane(np.asarray(store.image(tests[n])[0], np.float32), mask))
        pictures["truth"].append(plane(mask, mask).astype(np.int16))
        pictures["prediction"].append(saved[f"mask{n}"].astype(np.int16))
    padded = {name: np.stack([_pad(p, size) for p in values]) for name, values in pictures.items()}

    def fill(beside: Path) -> None:
        with open(beside, "wb") as file:
            np.savez_compressed(file, **padded)

    runfolder.write_whole(folder / "examples.npz", fill)
    notes = [{"subject": store.subjects[tests[n]], "dice": float(means[n]), **about} for n in shown]
    runfolder.write_json(folder / "examples.json", notes)


def _pad(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To a common size, at the high end, with the darkest value."""
    return np.pad(picture, [(0, s - n) for s, n in zip(size, picture.shape, strict=True)], constant_values=picture.min())
