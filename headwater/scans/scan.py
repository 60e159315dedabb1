"""One scan as a value: voxels, where in the body they lie, and where on disk they came from."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from headwater.errors import InputError

LIMIT = 4 << 30  # bytes that one file may unpack to; more is taken for a bomb


@dataclass(frozen=True)
class Source:
    """Where one scan or mask lies on disk.

    files: several are the channels of one scan, in order; of a DICOM series, its files.
    part:  a piece of one file, such as "train_images/17" of an .npz; all of it when empty.
    """

    files: tuple[Path, ...]
    part: str = ""

    @classmethod
    def of(cls, place: "Source | Path | str") -> "Source":
        """A source, whichever way it was named."""
        return place if isinstance(place, Source) else cls((Path(place),))

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0]


@dataclass(frozen=True)
class Fault:
    """One file set aside: which, what is wrong, what to do, and the kind under which it is counted."""

    file: str
    fault: str
    remedy: str
    kind: str

    def __str__(self) -> str:
        return f"{self.file} {self.fault}"


class UnreadableError(InputError):
    """One file that cannot be used; `fault` and `remedy` are the two halves of the sentence."""

    def __init__(self, place: Source | Path, fault: str, remedy: str):
        super().__init__(f"{Source.of(place).path} {fault}; {remedy}.")
        self.place, self.fault, self.remedy = place, fault, remedy

    def __reduce__(self) -> tuple:
        return UnreadableError, (self.place, self.fault, self.remedy)


@dataclass(frozen=True, eq=False)
class Scan:
    """Voxels with their geometry, in two or three dimensions.

    array:    (C, *S), channels first, then the file's own axes in their order. Never turned or flipped.
    spacing:  mm per voxel, one number per axis of S.
    affine:   (4, 4), from indices of S to mm in the body: right, front, up (RAS+). A picture is the slice 0 of a third axis.
    stored:   the type of the voxels in the file, such as "int16". format: such as "NIfTI". modality: "MR", "CT"; "" unknown.
    spaced:   whether the file states its spacing; otherwise it is 1 and the affine claims no orientation.
    notes:    what a person should know about the file, in few words, without anything that names a patient.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray
    source: Source
    stored: str = "float32"
    format: str = "NIfTI"
    modality: str = ""
    spaced: bool = True
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis, without channels."""
        return tuple(int(n) for n in self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.array.ndim - 1

    @property
    def channels(self) -> int:
        """Values per voxel."""
        return int(self.array.shape[0])

    @property
    def orientation(self) -> str:
        """Which way the axes run, such as "RAS"; "" where the file does not say."""
        return _orientation(np.asarray(self.affine, dtype=float).tobytes(), self.ndim) if self.spaced else ""


@lru_cache(1024)
def _orientation(affine: bytes, ndim: int) -> str:
    """Which way the axes of an affine, as bytes of float64, run; most scans of a collection share a few."""
    import nibabel

    return "".join(axis or "?" for axis in nibabel.aff2axcodes(np.frombuffer(affine).reshape(4, 4)))[:ndim]


def same_place(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two affines put a grid of `shape` at the same place in the body.

    They do if no corner moves by more than a thousandth of the grid's diagonal, nor by more than half of its
    smallest voxel: rounding passes, a shift by a voxel or a flip does not.
    """
    size = np.array([*shape, 1, 1][:3], dtype=float)
    corners = np.array(list(np.ndindex(2, 2, 2)), dtype=float) * (size - 1)  # (8, 3)
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    moved = corners @ (one - other)[:3, :3].T + (one - other)[:3, 3]
    columns = np.linalg.norm(one[:3, : len(shape)], axis=0)  # mm per voxel
    diagonal = float(np.linalg.norm(columns * size[: len(shape)]))
    return bool(np.linalg.norm(moved, axis=1).max() <= min(1e-3 * diagonal, 0.5 * float(columns.min())))
