"""Images brought to what a model takes: axes, channels, scale, size. Each change is said."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.errors import InputError
from headwater.scans.normalise import normalise, window

WIDER = 1.5  # sides of an image over those of the views cut from it: views half a crop apart then lie inside
LARGEST = {2: 224, 3: 64}  # voxels along a view for a model that takes any size


@dataclass(frozen=True)
class Wants:
    """What a model takes. ndim: 2 or 3. channels: 0 for any number. size: of its images, () for any. stride: voxels per token.
    mean, deviation: per channel, of values in [0, 1], as its images were normalised; () for mean 0 and spread 1 of each image."""

    ndim: int
    channels: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()


def fit(images: Sequence[np.ndarray], wants: Wants) -> tuple[list[np.ndarray], tuple[int, ...], tuple[str, ...]]:
    """The images (C, *S) float32 as the model takes them, the crop to cut views of, and what was done, a sentence each.

    Volumes for a model of pictures: the middle slice across the last axis. Grey for a model of colours: repeated; colours for one
    of grey: their mean. A model of one size: resized until the shorter side is 1.5 times that; else views of about two thirds of
    the images, at most 224 (2D) or 64 (3D) voxels, in whole tokens.
    Raises: InputError for pictures where volumes are needed, and for channels that do not fit.
    """
    words: list[str] = []
    found = [_axes(image, wants.ndim, words) for image in images]
    found = [_channels(image, wants.channels, words) for image in found]
    counts = Counter(len(image) for image in found)
    if len(counts) > 1:
        said = ", ".join(f"{count} of {channels}" for channels, count in counts.most_common())
        raise InputError(f"The images differ in their channels ({said}): give images of one kind.")
    found = [_scaled(image, wants) for image in found]
    crop = wants.size or _crop(found, wants)
    if wants.size or (wants.ndim == 2 and min(_middle(found)) > WIDER * max(crop)):
        before = _middle(found)
        found = [_resized(image, crop) for image in found]
        words.append(
            f"images of about {_by(before)} were resized to {_by(_middle(found))}, views of {_by(crop)} are cut from them"
        )
    else:
        words.append(f"views of {_by(crop)} are cut from images of about {_by(_middle(found))}")
    words.append(
        "values scaled to those the model was trained with (its preprocessor_config.json)"
        if wants.mean
        else "every image scaled to mean 0 and spread 1"
    )
    return found, crop, tuple(dict.fromkeys(words))


def _axes(image: np.ndarray, ndim: int, words: list[str]) -> np.ndarray:
    if image.ndim - 1 == ndim:
        return image
    if ndim == 2 and image.ndim == 4:
        words.append("the model takes pictures: of every volume its middle slice is shown to it")
        return image[..., image.shape[-1] // 2]
    raise InputError("The model takes volumes and the images are pictures: give volumes.")


def _channels(image: np.ndarray, wanted: int, words: list[str]) -> np.ndarray:
    if wanted in (0, len(image)):
        return image
    if len(image) == 1:
        words.append(f"grey images are shown in all {wanted} channels")
        return np.repeat(image, wanted, 0)
    if wanted == 1 and len(image) in (3, 4):
        words.append("colours are shown as grey, their mean")
        return image[:3].mean(0, keepdims=True)
    if wanted == 3 and len(image) == 4:
        words.append("the fourth channel is left out")
        return image[:3]
    raise InputError(
        f"The model takes {wanted} channel{'s' if wanted > 1 else ''} and the images have {len(image)}: give others."
    )


def _scaled(image: np.ndarray, wants: Wants) -> np.ndarray:
    windows = [window(channel) for channel in image]
    if not wants.mean:
        return normalise(image, windows)[0].astype(np.float32)
    low, high = (0.0, 255.0) if image.min() >= 0 and 1 < image.max() <= 255 else (min(w.low for w in windows), 0.0)
    high = high or max(w.high for w in windows)
    shape = (-1, *(1,) * wants.ndim)
    level = np.clip((image - low) / (high - low), 0, 1)
    return ((level - np.reshape(wants.mean, shape)) / np.reshape(wants.deviation, shape)).astype(np.float32)


def _middle(images: Sequence[np.ndarray]) -> tuple[int, ...]:
    return tuple(int(n) for n in np.median([image.shape[1:] for image in images], axis=0))


def _crop(images: Sequence[np.ndarray], wants: Wants) -> tuple[int, ...]:
    """About two thirds of the middle image along every axis, in whole tokens."""
    stride = wants.stride or (1,) * wants.ndim
    most = LARGEST[wants.ndim]
    return tuple(max(s, min(math.ceil(n / WIDER), most) // s * s) for n, s in zip(_middle(images), stride, strict=True))


def _resized(image: np.ndarray, crop: Sequence[int]) -> np.ndarray:
    """The image scaled alike along all axes, so that every side is at least 1.5 times the crop's; smoothed where it shrinks."""
    from scipy.ndimage import gaussian_filter, zoom

    factor = max(WIDER * c / n for c, n in zip(crop, image.shape[1:], strict=True))
    sides = (1.0, *(max(1, round(factor * n)) / n for n in image.shape[1:]))
    if factor < 1:
        image = gaussian_filter(image, (0.0, *((1 / factor - 1) / 2 for _ in image.shape[1:])))
    return zoom(image, sides, order=1, mode="nearest", grid_mode=True)


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
