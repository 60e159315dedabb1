"""Made-up anatomy with known structures, for trying and testing; hard enough that intensity alone does not tell them apart.

A bent organ of one tissue is divided by place and width into head (1) and tail (2); a thin rim (3) runs below both. The same
tissues come back unlabelled: folds near the surface and a second bent organ look like head and tail, nodules look like rim.
"""

from pathlib import Path

import numpy as np

from headwater.runfolder import write_json
from headwater.streams import numpy_stream

NAMES = {1: "head", 2: "tail", 3: "rim"}
# tissue:      air   fat  white  grey  fluid  rim  vessel
_CONTRAST = ((0.03, 0.85, 0.72, 0.44, 0.14, 0.57, 0.95), (0.04, 0.64, 0.32, 0.58, 0.95, 0.45, 0.08))
_AIR, _FAT, _WHITE, _GREY, _FLUID, _RIM, _VESSEL = range(7)
_SCANNERS = ({"gain": 220.0, "noise": 0.045, "blur": 0.45}, {"gain": 30_000.0, "noise": 0.06, "blur": 0.7})


def phantom(seed: int, index: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 (*S) and labels uint8 (*S) of one made-up scan; two or three axes, from about 24 voxels each.

    The same (seed, index, shape) gives the same scan everywhere. Shape, pose, texture, shading and noise vary from scan to
    scan; half of the scans come from a second scanner with other contrast, noise, blur and a scale 100 times larger.
    Raises ValueError for another number of axes or an axis under 16 voxels.
    """
    if len(shape) not in (2, 3) or min(shape) < 16:
        raise ValueError(f"a phantom has two or three axes of at least 16 voxels, not {shape}")
    rng = numpy_stream(seed, "phantom", index)
    place = _places(rng, shape)
    weights, labels = _anatomy(rng, place, 2.0 / min(shape))
    return _acquire(rng, weights, shape), labels


def write(
    folder: Path | str, count: int, shape: tuple[int, ...], seed: int = 0, *, labelled: int | None = None, spacing: float = 1.0
) -> tuple[Path, Path]:
    """Writes `count` phantoms as folder/images and folder/labels (NIfTI, int16 and uint8, `spacing` mm) with a dataset.json.

    The first `labelled` of them (all, if None) get a mask. Returns the two folders.
    """
    import nibabel

    images, masks = Path(folder) / "images", Path(folder) / "labels"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    for index in range(count):
        image, labels = phantom(seed, index, shape)
        name, size = f"phantom_{index:03d}.nii.gz", (*shape, 1)[:3]  # a picture is a slice
        whole = np.clip(np.rint(image), -32_768, 32_767).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(whole.reshape(size), affine), images / name)
        if labelled is None or index < labelled:
            nibabel.save(nibabel.Nifti1Image(labels.reshape(size), affine), masks / name)
    write_json(Path(folder) / "dataset.json", {"labels": {"0": "background"} | {str(v): n for v, n in NAMES.items()}})
    return images, masks


def _waves(rng: np.random.Generator, place: np.ndarray, count: int, finest: float) -> np.ndarray:
    """A smooth random field of unit spread: cosines with random directions and up to `finest` periods per half width."""
    field = np.zeros(place.shape[1:], np.float32)
    for _ in range(count):
        wave = rng.normal(size=len(place))
        wave *= np.pi * finest * rng.uniform(0.3, 1.0) / np.linalg.norm(wave)
        phase = np.tensordot(wave.astype(np.float32), place, 1) + np.float32(rng.uniform(0, 2 * np.pi))
        field += np.cos(phase)
    return field * np.float32(np.sqrt(2.0 / count))


def _places(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """(d, *S): where each voxel lies in the anatomy, about -1 to 1 along each axis, after pose and smooth deformation."""
    axes = [((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32) for n in shape]
    place = np.stack(np.meshgrid(*axes, indexing="ij"))
    turn = rng.normal(size=(len(shape),) * 2) * np.deg2rad(8.0)
    pose = (np.eye(len(shape)) + turn - turn.T) * rng.uniform(0.86, 1.12)
    place = np.tensordot(pose.astype(np.float32), place, 1) + rng.uniform(-0.11, 0.11, (len(shape), *[1] * len(shape)))
    bends = [_waves(rng, place, 6, 1.1) * np.float32(0.05) for _ in shape]
    return (place + np.stack(bends)).astype(np.float32)


def _tube(
    place: np.ndarray, start: float, stop: float, centre: tuple, bend: float, radii: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """Depth inside a bent tube along the first axis (positive inside), and t from 0 at its start to 1 at its end.

    centre: of the other axes at the middle. radii: at start and end, with a shoulder between them.
    """
    t = (place[0] - start) / (stop - start)
    along = np.clip(t, 0, 1)
    way = 4 * (along - 0.5) ** 2
    radius = radii[0] + (radii[1] - radii[0]) / (1 + np.exp(-(along - 0.45) * 14))
    off = (place[0] - (start + along * (stop - start))) ** 2
    for axis, middle in enumerate(centre, start=1):
        off = off + (place[axis] - middle + (bend if axis == 1 else -0.6 * bend) * way) ** 2
    return (radius - np.sqrt(off)).astype(np.float32), t


def _ball(place: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Depth inside a ball."""
    return radius - np.sqrt(sum((x - c) ** 2 for x, c in zip(place, centre, strict=True)))


def _anatomy(rng: np.random.Generator, place: np.ndarray, voxel: float) -> tuple[np.ndarray, np.ndarray]:
    """Share of each tissue in each voxel (7, *S), and the labels (*S); `voxel` is its width in places."""
    weights = np.zeros((7, *place.shape[1:]), np.float32)
    weights[_AIR] = 1

    def put(tissue: int, depth: np.ndarray) -> None:
        """Lays a tissue over what is there, mixed over one voxel at its border (partial volume)."""
        share = np.clip(depth / voxel + 0.5, 0, 1)
        np.multiply(weights, 1 - share, out=weights)
        weights[tissue] += share

    d = len(place)
    body = rng.uniform(0.92, 1.08) - np.sqrt(sum(x * x for x in place)) + 0.04 * _waves(rng, place, 5, 1.5)
    put(_FAT, body + 0.06)
    put(_GREY, body - rng.uniform(0.02, 0.06))
    folds = _waves(rng, place, 7, 2.6)
    put(_WHITE, body - 0.20 - 0.13 * folds)
    other = rng.uniform(0.34, 0.48)  # a second bent organ of the same tissue, unlabelled
    put(_GREY, _tube(place, -0.5, rng.uniform(0.2, 0.6), (other, rng.uniform(-0.2, 0.2))[: d - 1], 0.16, (0.13, 0.16))[0])
    for _ in range(6 if d == 3 else 4):  # nodules with the rim's intensity
        put(_RIM, _ball(place, rng.uniform(-0.6, 0.6, d), rng.uniform(0.05, 0.13)))
    for _ in range(4 if d == 3 else 2):
        first, way = rng.uniform(-0.6, 0.6, d), rng.normal(size=d)
        vessel = _line(place, first, way / np.linalg.norm(way), rng.uniform(0.025, 0.05))
        put(_VESSEL, np.minimum(vessel, body - 0.04))
    centre = (rng.uniform(-0.22, -0.06), rng.uniform(-0.12, 0.12))[: d - 1]
    bend, start, stop = rng.uniform(0.05, 0.2), rng.uniform(-0.56, -0.44), rng.uniform(0.48, 0.66)
    radii = (rng.uniform(0.22, 0.28), rng.uniform(0.12, 0.17)) if d == 2 else (rng.uniform(0.25, 0.32), rng.uniform(0.15, 0.20))
    above = (centre[0] + radii[1] + rng.uniform(0.06, 0.12), *centre[1:])  # fluid cushion above the organ
    put(_FLUID, _tube(place, start + 0.1, stop - 0.15, above, bend, (rng.uniform(0.08, 0.16), rng.uniform(0.05, 0.12)))[0])
    organ, t = _tube(place, start, stop, centre, bend, radii)
    organ = np.minimum(organ + 0.02 * _waves(rng, place, 5, 2.2), body - 0.06)
    below = (centre[0] - rng.uniform(0.07, 0.11), *centre[1:])
    rim = _tube(place, start + 0.12, stop - 0.05, below, bend, (radii[0] + 0.02, radii[1] + 0.04))[0]
    rim = np.minimum(rim, body - 0.06)
    put(_RIM, rim)
    put(_GREY, organ)
    border = 0.45 + rng.uniform(-0.03, 0.03) + 0.03 * _waves(rng, place, 4, 1.2)  # at the organ's shoulder
    labels = np.where(organ > 0, np.where(t < border, 1, 2), np.where(rim > 0, 3, 0)).astype(np.uint8)
    return weights, labels


def _line(place: np.ndarray, point: np.ndarray, way: np.ndarray, radius: float) -> np.ndarray:
    """Depth inside a straight vessel."""
    off = [x - p for x, p in zip(place, point, strict=True)]
    along = sum(o * w for o, w in zip(off, way, strict=True))
    return radius - np.sqrt(np.maximum(sum(o * o for o in off) - along**2, 0))


def _acquire(rng: np.random.Generator, weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Tissues to an image as one of two scanners would show them: contrast, texture, shading, blur, noise, scale."""
    from scipy.ndimage import gaussian_filter

    which = int(rng.integers(2))
    scanner = _SCANNERS[which]
    contrast = np.array(_CONTRAST[which]) + rng.normal(scale=0.02, size=7)
    image = np.tensordot(contrast.astype(np.float32), weights, 1)
    grain = gaussian_filter(rng.standard_normal(shape, np.float32), 1.2)
    image *= 1 + 0.07 * grain / grain.std() * (1 - weights[_AIR])
    flat = np.stack(np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij"))
    image *= np.exp(0.16 * _waves(rng, flat, 3, 0.6))  # shading of the receiver coil
    image = gaussian_filter(image, scanner["blur"] * rng.uniform(0.8, 1.2))
    noise = rng.standard_normal((2, *shape), np.float32) * np.float32(scanner["noise"] * rng.uniform(0.7, 1.3))
    image = np.sqrt((image + noise[0]) ** 2 + noise[1] ** 2)  # magnitude of a complex signal
    return (image * (scanner["gain"] * rng.uniform(0.75, 1.1))).astype(np.float32)
