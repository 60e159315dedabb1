"""Made-up segmentation tasks whose answer is known: how far must a network look? For trying and validating the advisor.

A scan is divided into lanes along its last axis, each a task by itself, so that no average over the whole scan helps.
texture: the stripes of a blob tell its class. parity: whether the marks at both ends of its lane agree tells it.
symmetry: a blob is labelled only if the mirror place across the midline has none. Lanes, sizes, places, noise vary.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

from headwater.errors import InputError
from headwater.runfolder import write_json
from headwater.streams import numpy_stream

NAMES = {
    "texture": {1: "along", 2: "across"},
    "parity": {1: "agree", 2: "differ"},
    "symmetry": {1: "alone"},
}
KINDS = tuple(NAMES)
LANE = 16  # voxels across a lane
_BLOB, _STRIPE, _MARK, _NOISE = 60.0, 25.0, 110.0, 4.0  # intensities over a background of 100


def riddle(kind: str, seed: int, index: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 (*S) and labels uint8 (*S) of one made-up scan; two or three axes of at least 32 voxels.

    The same (kind, seed, index, shape) gives the same scan everywhere. Raises InputError for another kind or shape.
    """
    if kind not in KINDS:
        raise InputError(f"There is no riddle {kind!r}: use one of {', '.join(KINDS)}.")
    if len(shape) not in (2, 3) or min(shape) < 2 * LANE:
        raise InputError(f"A riddle has two or three axes of at least {2 * LANE} voxels, not {shape}.")
    rng = numpy_stream(seed, "riddle", kind, index)
    image, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for corner in product(*(range((n % LANE) // 2, n - LANE + 1, LANE) for n in shape[:-1])):
        _LANES[kind](rng, image, labels, corner)
    place = np.stack(np.meshgrid(*[np.linspace(0, np.pi, n, dtype=np.float32) for n in shape], indexing="ij"))
    shading = np.cos(np.tensordot(rng.uniform(-1, 1, len(shape)).astype(np.float32), place, 1) + rng.uniform(0, 2 * np.pi))
    noise = rng.standard_normal(shape, np.float32) * _NOISE
    return ((100 + image + 4 * shading + noise) * rng.uniform(0.8, 1.2)).astype(np.float32), labels


def reach(kind: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Least and largest distance in voxels, over all such scans, from the middle of a blob to what decides its class.

    Texture: within the blob. Parity: the farther mark. Symmetry: the mirror place.
    """
    n = shape[-1]
    if kind == "texture":
        return 0.0, 6.0
    if kind == "parity":
        return n / 2 - 5, n / 2 - 5 + _wander(n)
    near, far = _aside(n)
    return 2 * near, 2 * far


def write(
    kind: str, folder: Path | str, count: int, shape: tuple[int, ...], seed: int = 0, spacing: float = 1.0
) -> tuple[Path, Path]:
    """Writes `count` scans as folder/images and folder/labels (NIfTI, int16 and uint8, `spacing` mm) with a dataset.json.

    Returns the two folders.
    """
    import nibabel

    images, masks = Path(folder) / "images", Path(folder) / "labels"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    for index in range(count):
        image, labels = riddle(kind, seed, index, shape)
        name, size = f"{kind}_{index:03d}.nii.gz", (*shape, 1)[:3]  # a picture is a slice
        nibabel.save(nibabel.Nifti1Image(np.rint(image).astype(np.int16).reshape(size), affine), images / name)
        nibabel.save(nibabel.Nifti1Image(labels.reshape(size), affine), masks / name)
    names = {"0": "background"} | {str(v): n for v, n in NAMES[kind].items()}
    write_json(Path(folder) / "dataset.json", {"labels": names})
    return images, masks


def _wander(n: int) -> int:
    """How far from the middle of its lane a blob of the parity riddle may lie."""
    return n // 8


def _aside(n: int) -> tuple[int, int]:
    """Least and largest distance from the midline of a blob of the symmetry riddle."""
    return n // 5, n // 2 - 8


def _ball(labels: np.ndarray, centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Where a ball is."""
    axes = np.ogrid[tuple(slice(0, n) for n in labels.shape)]
    return sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) <= radius**2


def _middle(rng: np.random.Generator, corner: tuple[int, ...]) -> tuple[float, ...]:
    """A place near the middle of a lane, on all axes but the last."""
    return tuple(c + LANE / 2 - 0.5 + rng.uniform(-1.5, 1.5) for c in corner)


def _texture(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, corner: tuple[int, ...]) -> None:
    """Two blobs with stripes of one width along the lane (1) or across it (2)."""
    n = image.shape[-1]
    for start in (0, n // 2):
        blob = _ball(labels, (*_middle(rng, corner), start + rng.uniform(8, n // 2 - 8)), rng.uniform(4, 6))
        which, phase = int(rng.integers(2)), rng.integers(4)
        steps = np.arange(image.shape[-1 if which else 0]) + phase
        stripes = np.where(steps % 4 < 2, _STRIPE, -_STRIPE).astype(np.float32)
        shaped = stripes if which else stripes.reshape(-1, *[1] * (image.ndim - 1))
        image[blob] = (_BLOB + np.broadcast_to(shaped, image.shape))[blob]
        labels[blob] = 1 + which


def _parity(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, corner: tuple[int, ...]) -> None:
    """A blob near the middle, a bright or dark mark at both ends: equal (1) or not (2)."""
    n, middle = image.shape[-1], _middle(rng, corner)
    signs = rng.integers(0, 2, 2) * 2 - 1
    for end, sign in zip((4.5, n - 5.5), signs, strict=True):
        image[_ball(labels, (*middle, end), 3)] = sign * _MARK if sign > 0 else -_BLOB
    blob = _ball(labels, (*middle, (n - 1) / 2 + rng.uniform(-1, 1) * _wander(n)), rng.uniform(4, 5.5))
    image[blob] = _BLOB
    labels[blob] = 1 if signs[0] == signs[1] else 2


def _symmetry(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, corner: tuple[int, ...]) -> None:
    """A blob on one side, labelled, or on both sides, not labelled."""
    n, middle = image.shape[-1], _middle(rng, corner)
    aside, size, sides = rng.uniform(*_aside(n)), rng.uniform(4, 5.5), ((-1,), (1,), (-1, 1), (-1, 1))[rng.integers(4)]
    for side in sides:
        blob = _ball(labels, (*middle, (n - 1) / 2 + side * aside), size)
        image[blob] = _BLOB
        labels[blob] = len(sides) == 1


_LANES: dict[str, Callable[..., None]] = {"texture": _texture, "parity": _parity, "symmetry": _symmetry}
