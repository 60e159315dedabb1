"""Scans made ready for training, read from flat memory-mapped files as they are asked for. `prepare` writes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import InputError
from headwater.runfolder import read_json
from headwater.scans.normalise import Window, physical
from headwater.scans.resampling import Geometry

FORMAT = 2
INDEX = "index.json"  # names the version that counts: a store changes by this one file being replaced


@dataclass(frozen=True, eq=False)
class Store:
    """Prepared scans. Made by `prepare`, opened by `Store.open`.

    version: hash of everything the voxels depend on. images, labels: flat memory maps. spacing: mm, of every scan that states
    its own; orientation: of every scan, such as "RAS" ("" where none is known). scheme: "scan" or "set", what intensities are
    normalised over. classes: structures plus background (0). values: the number of each class in the user's masks,
    values[0] = 0. names: of each class. ignores: whether some voxels of masks do not count. records: one dict per scan (name,
    subject, split, group, labelled, shape, affine, geometry, windows, rounding, image_at, label_at, crc).
    unit: what lengths are in: "mm", or "pixels" or "voxels" where no scan states its spacing, which is 1 then.
    """

    folder: Path
    version: str
    images: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]
    orientation: str
    scheme: str
    channels: int
    values: tuple[int, ...]
    names: tuple[str, ...]
    ignores: bool
    records: tuple[dict[str, Any], ...]
    unit: str = "mm"

    @classmethod
    def open(cls, folder: Path | str, version: str = "") -> "Store":
        """The store in a folder. Raises InputError if it is missing, not whole, or (asked for one) of another version."""
        folder = Path(folder)
        try:
            index = read_json(folder / INDEX)
            right = index["format"] == FORMAT and version in ("", index["version"])
            place = folder / index["version"]
            images = _mapped(place / "images", np.float16, index["images"])
            labels = _mapped(place / "labels", class_type(len(index["values"])), index["labels"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder} holds no prepared scans, or not all of them; prepare them again.") from error
        if not right:
            raise InputError(f"{folder} holds scans that were prepared otherwise since; begin the run again.")
        return cls(
            folder, index["version"], images, labels, tuple(index["spacing"]), index["orientation"], index["scheme"],
            index["channels"], tuple(index["values"]), tuple(index["names"]), index["ignores"], tuple(index["scans"]),
            index.get("unit", "mm"),
        )  # fmt: skip

    def __reduce__(self) -> tuple:
        return Store.open, (self.folder, self.version)  # a worker process opens the files, it is not sent their content

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
    def ignore(self) -> int | None:
        """The class of voxels that do not count, 255 (65535 from 256 classes on); None if all count."""
        return int(np.iinfo(self.labels.dtype).max) if self.ignores else None

    @property
    def rounding(self) -> float:
        """The largest error that half precision made in any voxel, in spreads."""
        return max(record["rounding"] for record in self.records)

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

    def original(self, i: int) -> Geometry:
        """How the prepared grid lies in the grid of the file; `resampling.back` takes classes or probabilities there."""
        return Geometry.of(self.records[i]["geometry"])

    def windows(self, i: int) -> tuple[Window, ...]:
        """What each channel was normalised by, from the voxels as the file has them."""
        return tuple(Window(*numbers) for numbers in self.records[i]["windows"])

    def physical(self, i: int) -> np.ndarray:
        """(C, *S) float32 in the units of the file, clipped to each channel's window."""
        return physical(self.image(i), self.windows(i))

    def image(self, i: int) -> np.ndarray:
        """(C, *S) float16, about mean 0 and spread 1 per channel; a view into the file, read-only."""
        shape = (self.channels, *self.shape(i))
        start = self.records[i]["image_at"]
        return self.images[start : start + int(np.prod(shape))].reshape(shape)

    def label(self, i: int) -> np.ndarray | None:
        """(*S), classes 0 to K-1 (and `ignore`) as uint8, uint16 from 256 classes on; None without a mask."""
        start = self.records[i]["label_at"]
        shape = self.shape(i)
        return None if start is None else self.labels[start : start + int(np.prod(shape))].reshape(shape)


def class_type(classes: int) -> type[np.unsignedinteger]:
    """The smallest type that holds so many classes, its largest number left free for voxels that do not count."""
    return np.uint8 if classes <= 255 else np.uint16


def _mapped(path: Path, kind: type, size: int) -> np.ndarray:
    """A flat file of `size` numbers as a read-only memory map. Raises ValueError if it has another size."""
    if path.stat().st_size != size * np.dtype(kind).itemsize:
        raise ValueError("another size than its index says")
    return np.memmap(path, kind, "r") if size else np.zeros(0, kind)
