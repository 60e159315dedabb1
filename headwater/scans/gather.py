"""Some images from wherever they lie, for looking at a model through them: a folder, a table, one array, a MedMNIST file."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater.errors import InputError
from headwater.scans import identifiers
from headwater.scans.formats import arrays, sized
from headwater.scans.layouts import understand
from headwater.scans.readers import read
from headwater.scans.scan import UnreadableError
from headwater.streams import numpy_stream

MOST = 96  # as many as a run is watched through
FEWEST = 8  # below this, agreement between views cannot be told from chance
_PICTURES = ("train_images", "val_images", "test_images")  # of MedMNIST


@dataclass(frozen=True, eq=False)
class Gathered:
    """arrays: (C, *S) float32 in the units of the file, finite, no two alike. spacing: mm per voxel, the median of the files that
    state one, () where none does. found: how many images there are. words: what was left out and why, a sentence each. labels,
    owners: class ("" unknown) and patient of each array, where classes were asked for, else ()."""

    arrays: tuple[np.ndarray, ...]
    spacing: tuple[float, ...]
    found: int
    words: tuple[str, ...]
    labels: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Row:
    """An image with what is known of it, or what is wrong with it."""

    array: np.ndarray | None
    spacing: tuple[float, ...] = ()
    label: str = ""
    owner: str = ""
    fault: str = ""


Source = Iterator[Row]


def gather(place: Path | str, ndim: int, *, most: int = MOST, seed: int = 0, classes: bool = False) -> Gathered:
    """At most `most` images, drawn by the seed. place: a folder, table or list that `look` reads, a MedMNIST file, or one array
    (n, *S), (n, C, *S) or, with 3 or 4 channels, (n, *S, C) in an .npy or .npz; ndim: of the model, tells these apart. classes:
    folders, a column, or the labels in an .npz are classes; the images drawn are the same.

    Left out, with a word: what cannot be read, is not finite, holds one value only, or is a copy of another.
    Raises: InputError for a place without images, for fewer than 8 usable ones, and for no classes where they are asked for.
    """
    place = Path(place)
    if not place.exists():
        raise InputError(f"{place} does not exist (given as images). Check the path.")
    one = place.is_file() and place.suffix.lower() in (".npy", ".npz") and not _medmnist(place)
    found, source = _rows(place, ndim, seed, classes) if one else _files(place, seed, classes)
    kept: list[Row] = []
    aside: Counter[str] = Counter()
    seen: set[bytes] = set()
    for row in source:
        why = row.fault or _unusable(row.array, seen)
        if why:
            aside[why] += 1
            continue
        kept.append(row)
        if len(kept) == most:
            break
    told = "; ".join(f"{count:,} {fault}" for fault, count in aside.most_common(3))
    if len(kept) < FEWEST:
        why = f" ({told})" if told else ""
        raise InputError(
            f"{place} has {len(kept)} usable image{'' if len(kept) == 1 else 's'} of {found:,}{why}; "
            f"agreement between views needs at least {FEWEST}: give more images."
        )
    known = [tuple(getattr(row, name) for row in kept) for name in ("label", "owner")] if classes else []
    spacing = _usual([row.spacing for row in kept if row.spacing])
    return Gathered(tuple(row.array for row in kept), spacing, found, (f"left out: {told}",) if told else (), *known)


def _usual(spacings: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Median of those with as many axes as most have."""
    usual = Counter(map(len, spacings)).most_common(1)[0][0] if spacings else 0
    return tuple(np.median([s for s in spacings if len(s) == usual], axis=0).round(4).tolist()) if usual else ()


def _medmnist(place: Path) -> bool:
    return place.suffix.lower() == ".npz" and bool(set(_PICTURES) & set(arrays.parts(place)))


def _unusable(array: np.ndarray, seen: set[bytes]) -> str:
    """What keeps an image from being used; remembers those that can be."""
    if not np.isfinite(array).all():
        return "hold NaN or infinite voxels"
    if array.min() == array.max():
        return "hold one value only"
    stamp = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
    if stamp in seen:
        return "are copies of others"
    seen.add(stamp)
    return ""


def _files(place: Path, seed: int, classes: bool) -> tuple[int, Source]:
    """Files in a drawn order, read as they are asked for."""
    items = understand(place, classes=classes).items
    shown = identifiers.known(False)

    def each() -> Source:
        for i in numpy_stream(seed, "gather").permutation(len(items)):
            try:
                scan = read(items[i].source)
            except UnreadableError as fault:
                yield Row(None, fault=f"cannot be read ({shown.name(items[i].name)} {fault.fault})")
                continue
            yield Row(scan.array, tuple(scan.spacing) if scan.spaced else (), items[i].group, items[i].subject)

    return len(items), each()


def _rows(place: Path, ndim: int, seed: int, classes: bool) -> tuple[int, Source]:
    """Entries of one array in a drawn order. Raises InputError for a file without an array of images, or of labels if asked."""
    held = arrays.parts(place)
    keys = [key for key, (shape, kind) in held.items() if len(shape) > ndim and kind.kind in "biuf"]
    if len(keys) != 1:
        said = ", ".join(f"{key or 'array'} {sized(shape)}" for key, (shape, _) in list(held.items())[:4]) or "nothing"
        many = "several arrays that could be images" if keys else f"no array of images of {ndim} axes"
        raise InputError(
            f"{place} holds {many} ({said}); save one array (n, channels, {'rows, columns' if ndim == 2 else '*S'})."
        )
    array = arrays.load(place, keys[0])
    extra = array.ndim - 1 - ndim  # of one image, beside its own axes
    if extra not in (0, 1, 2) or (extra == 2 and ndim == 3):
        raise InputError(f"{place} has {array.ndim} axes ({sized(array.shape)}); save (n, channels, *S) with {ndim} axes in S.")
    last = extra == 1 and array.shape[-1] in (3, 4) and array.shape[1] not in (1, 3, 4)
    labels = _labels(place, len(array)) if classes else [""] * len(array)

    def each() -> Source:
        for i in numpy_stream(seed, "gather").permutation(len(array)):
            row = np.asarray(array[i], np.float32)
            yield Row(np.moveaxis(row, -1, 0) if last else row if extra else row[None], label=labels[i], owner=str(i))

    return len(array), each()


def _labels(place: Path, count: int) -> list[str]:
    """The class of each entry: of the array "labels", else of the only array with one whole number or word for each."""
    held = {key: shape for key, (shape, kind) in arrays.parts(place).items() if kind.kind in "biuU"}
    fits = [key for key, shape in held.items() if shape in ((count,), (count, 1))]
    key = "labels" if "labels" in fits else fits[0] if len(fits) == 1 else None
    if key is None:
        raise InputError(f"{place} does not say which class an image has: save an .npz with images and labels, one for each.")
    return [str(value) for value in arrays.load(place, key).reshape(-1).tolist()]
