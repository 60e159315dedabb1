"""Scans made ready for training: normalised, one spacing, in flat memory-mapped files."""

import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.runfolder import read_json, write_json
from headwater.scans.examine import Entry, checksum, moments
from headwater.scans.passport import Passport
from headwater.scans.readers import read, read_labels

_FORMAT = 1
_FILES = ("images.npy", "labels.npy")
_CHUNK = 1 << 20  # voxels in float64 at a time


@dataclass(frozen=True, eq=False)
class Store:
    """Prepared scans, read from disk as they are asked for. Made by `prepare`, opened by `Store.open`.

    images, labels: flat memory maps. spacing: mm, of every scan. classes: structures plus background (0).
    values: the number of each class in the user's masks, values[0] = 0. names: of each class.
    records: one dict per scan (path, subject, split, labelled, shape, affine, image_at, label_at).
    """

    folder: Path
    images: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]
    channels: int
    values: tuple[int, ...]
    names: tuple[str, ...]
    records: tuple[dict, ...]

    @classmethod
    def open(cls, folder: Path | str) -> "Store":
        """The store in a folder. Raises InputError if it is missing or not whole."""
        folder = Path(folder)
        try:
            index = read_json(folder / "index.json")
            images, labels = (np.load(folder / name, mmap_mode="r") for name in _FILES)
            whole = (images.size, labels.size) == (index["images"], index["labels"]) and index["format"] == _FORMAT
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no prepared scans; prepare them again.") from error
        if not whole:
            raise InputError(f"{folder} holds prepared scans of another size than its index; prepare them again.")
        return cls(
            folder, images, labels, tuple(index["spacing"]), index["channels"], tuple(index["values"]),
            tuple(index["names"]), tuple(index["scans"]),
        )  # fmt: skip

    def __reduce__(self) -> tuple:
        return Store.open, (self.folder,)  # a worker process opens the files, it is not sent their content

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.spacing)

    @property
    def classes(self) -> int:
        """Structures and background; 1 if there are no masks."""
        return len(self.values)

    @property
    def subjects(self) -> list[str]:
        """Whose each scan is: one name per scan, in order."""
        return [record["subject"] for record in self.records]

    @property
    def labelled(self) -> list[int]:
        """Scans with a mask."""
        return [i for i, record in enumerate(self.records) if record["labelled"]]

    def split(self, name: str) -> list[int]:
        """Scans of the "train" or the "test" part."""
        return [i for i, record in enumerate(self.records) if record["split"] == name]

    def shape(self, i: int) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.records[i]["shape"])

    def affine(self, i: int) -> np.ndarray:
        """(4, 4), from voxels of the prepared scan to mm."""
        return np.array(self.records[i]["affine"])

    def image(self, i: int) -> np.ndarray:
        """(C, *S) float16, mean 0 and spread 1 per channel; a view into the file, read-only."""
        shape = (self.channels, *self.shape(i))
        start = self.records[i]["image_at"]
        return self.images[start : start + int(np.prod(shape))].reshape(shape)

    def label(self, i: int) -> np.ndarray | None:
        """(*S), classes 0 to K-1 as uint8 (uint16 above 255); None without a mask."""
        start = self.records[i]["label_at"]
        shape = self.shape(i)
        return None if start is None else self.labels[start : start + int(np.prod(shape))].reshape(shape)


def prepare(
    passport: Passport, folder: Path | str, *, spacing: tuple[float, ...] | None = None, progress: Progress = Silent()
) -> Store:
    """Writes all scans of the passport into `folder` as training reads them, and opens the result.

    Each channel of each scan is clipped to its 0.5th and 99.5th percentile, then brought to mean 0 and spread 1.
    Scans whose spacing is off the target (`spacing` in mm, else the median) by more than 1 % are resampled, images
    linearly, masks to the nearest voxel. A store of the same passport and spacing is used again; one that was
    interrupted is begun again.
    Raises InputError if a file changed since it was looked at, or the disk is too small.
    """
    folder = Path(folder)
    target = tuple(float(s) for s in (spacing or passport.spacing))
    if len(target) != passport.ndim or min(target) <= 0:
        raise InputError(f"The target spacing {target} does not fit these scans; give {passport.ndim} numbers in mm.")
    print_of = _fingerprint(passport, target)
    if _is(folder, print_of):
        return Store.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)  # from here until the end there is no store
    values = (0, *sorted({v for e in passport.entries for v in e.labels or {}} - {0}))
    records, images, labels = _layout(passport, target)
    kind = np.uint8 if len(values) <= 256 else np.uint16
    _require_room(folder, 2 * images + np.dtype(kind).itemsize * labels)
    try:
        _write(passport, folder, records, (images, labels), np.array(values), kind, progress)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"The disk of {folder} is full; free some space or prepare the scans elsewhere.") from error
    write_json(folder / "index.json", {
        "format": _FORMAT, "passport": print_of, "spacing": target, "channels": passport.channels, "values": values,
        "names": ["background", *(passport.label_names[v] for v in values[1:])], "images": images, "labels": labels,
        "scans": records,
    })  # fmt: skip
    return Store.open(folder)


def _fingerprint(passport: Passport, target: tuple[float, ...]) -> str:
    """What the content of a store depends on."""
    scans = [(e.path, e.subject, e.sha256, e.mask, e.mask_sha256, e.split, e.spacing) for e in passport.entries]
    return hashlib.sha256(json.dumps([_FORMAT, scans, target, sorted(passport.label_names.items())]).encode()).hexdigest()


def _is(folder: Path, fingerprint: str) -> bool:
    """Whether the folder holds this very store."""
    try:
        return read_json(folder / "index.json")["passport"] == fingerprint and len(Store.open(folder)) > 0
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _layout(passport: Passport, target: tuple[float, ...]) -> tuple[list[dict], int, int]:
    """One record per scan with its place in the flat files, and how many numbers these will hold."""
    records, images, labels = [], 0, 0
    for entry in passport.entries:
        shape = resampled_shape(entry.shape, entry.spacing, target)
        voxels = int(np.prod(shape))
        records.append({
            "path": entry.path, "subject": entry.subject, "split": entry.split, "labelled": entry.mask is not None,
            "shape": shape, "image_at": images, "label_at": None if entry.mask is None else labels,
        })  # fmt: skip
        images += voxels * passport.channels
        labels += voxels * (entry.mask is not None)
    return records, images, labels


def resampled_shape(shape: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...]) -> tuple[int, ...]:
    """Voxels along each axis at the target spacing; the shape itself if the spacing is within 1 % of it."""
    if all(abs(s / t - 1) <= 0.01 for s, t in zip(spacing, target, strict=True)):
        return tuple(shape)
    return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))


def resample(array: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """(C, *S) to (C, *shape), outer edges kept in place; order 0 is nearest, 1 linear."""
    if array.shape[1:] == tuple(shape):
        return array
    from scipy.ndimage import affine_transform

    step = np.array(array.shape[1:]) / np.array(shape)  # old voxels per new voxel
    return np.stack([affine_transform(c, step, 0.5 * step - 0.5, tuple(shape), order=order, mode="nearest") for c in array])


def normalise(array: np.ndarray) -> np.ndarray:
    """(C, *S) to float16: per channel clipped to the 0.5th and 99.5th percentile, then mean 0 and spread 1."""
    out = np.zeros(array.shape, np.float16)
    for channel, result in zip(array, out, strict=True):
        low, high = (float(p) for p in np.percentile(channel, [0.5, 99.5]))
        if low == high:  # nearly all voxels are equal: the rare ones are the picture
            low, high = float(channel.min()), float(channel.max())
        flat, flat_result = channel.reshape(-1), result.reshape(-1)
        mean, spread = moments(flat, low, high)
        for i in range(0, flat.size if low < high and spread > 0 else 0, _CHUNK):
            part = np.clip(flat[i : i + _CHUNK].astype(np.float64), low, high)
            flat_result[i : i + _CHUNK] = np.clip((part - mean) / spread, -6e4, 6e4)
    return out


def _ready(passport: Passport, entry: Entry, record: dict, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """One scan as it goes to disk, (C, *S) float16, and its classes (*S); notes the affine in the record."""
    path = Path(passport.root) / entry.path
    scan = read(path)
    _unchanged(path, scan.array, entry.sha256)
    old, new = scan.shape, tuple(record["shape"])
    step = np.ones(3)
    step[: scan.ndim] = np.array(old) / np.array(new)
    move = np.diag([*step, 1.0])
    move[:3, 3] = 0.5 * step - 0.5
    record["affine"] = (scan.affine @ move).tolist()
    image = normalise(resample(scan.array, new, order=1))
    if entry.mask is None:
        return image, None
    path = Path(passport.labels_root or passport.root) / entry.mask
    mask = read_labels(path)
    _unchanged(path, mask.array, entry.mask_sha256 or "")
    return image, np.searchsorted(values, resample(mask.array, new, order=0)[0])


def _unchanged(path: Path, array: np.ndarray, sha256: str) -> None:
    if checksum(array) != sha256:
        raise InputError(f"{path} changed since it was looked at; look at the folder again, then prepare.")


def _write(
    passport: Passport,
    folder: Path,
    records: list[dict],
    sizes: tuple[int, int],
    values: np.ndarray,
    kind: type,
    progress: Progress,
) -> None:
    """Fills both files beside their names, in the order of the entries, then renames them."""
    parts = [folder / f".{name}.part" for name in _FILES]
    try:
        with open(parts[0], "wb") as images, open(parts[1], "wb") as labels:
            for file, size, dtype in ((images, sizes[0], np.dtype(np.float16)), (labels, sizes[1], np.dtype(kind))):
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
                np.lib.format.write_array_header_1_0(file, header)
            with progress.track("Preparing", total=len(records)) as advance:
                for image, label in _in_order(passport, records, values):
                    images.write(np.ascontiguousarray(image).data)
                    if label is not None:
                        labels.write(np.ascontiguousarray(label, dtype=kind).data)
                    advance(1)
            for file in (images, labels):
                file.flush()
                os.fsync(file.fileno())
        for part, name in zip(parts, _FILES, strict=True):
            os.replace(part, folder / name)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _in_order(passport: Passport, records: list[dict], values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Scans made ready on a few threads, handed out in order, only a few in memory at a time."""
    workers = min(4, max(2, os.cpu_count() or 2))
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        for entry, record in zip(passport.entries, records, strict=True):
            waiting.append(pool.submit(_ready, passport, entry, record, values))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"Preparing needs {needed / 2**30:.1f} GiB, the disk of {folder} has {free / 2**30:.1f} GiB free; free some space."
        )
