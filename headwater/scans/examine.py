"""One scan and its mask looked at: facts, or what is wrong with them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headwater.scans.readers import UnreadableError, read_labels, read_typed
from headwater.scans.scan import Scan, same_place

_MOST = 1 << 22  # percentiles of larger scans come from every k-th voxel
_CHUNK = 1 << 20  # voxels in float64 at a time


@dataclass(frozen=True)
class Entry:
    """What one kept scan holds. Paths are relative to the folders of the passport; spacing in mm; values as in the file."""

    path: str
    subject: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    dtype: str
    orientation: str  # which way the axes run, such as "RAS"
    mean: float
    std: float
    p005: float  # 0.5th percentile
    p995: float  # 99.5th percentile
    sha256: str  # of voxels and shape
    mask: str | None = None
    mask_sha256: str | None = None
    labels: dict[int, int] | None = None  # label value -> voxels
    split: str = "train"

    @property
    def range(self) -> float:
        """Width of the middle 99 % of the values."""
        return self.p995 - self.p005


@dataclass(frozen=True)
class Fault:
    """One file set aside: which, what is wrong, what to do, and the kind under which it is counted."""

    file: str
    fault: str
    remedy: str
    kind: str

    def __str__(self) -> str:
        return f"{self.file} {self.fault}"


def voxels(shape: tuple[int, ...]) -> str:
    """A shape in words: 36 x 50 x 35."""
    return " x ".join(str(n) for n in shape)


def checksum(array: np.ndarray) -> str:
    """SHA-256 of shape and voxels."""
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def moments(flat: np.ndarray, low: float = -np.inf, high: float = np.inf) -> tuple[float, float]:
    """Mean and spread of values (N) clipped to low and high, in float64, without a float64 copy of them all."""
    parts = range(0, flat.size, _CHUNK)
    mean = sum(float(np.clip(flat[i : i + _CHUNK].astype(np.float64), low, high).sum()) for i in parts) / flat.size
    squares = (np.square(np.clip(flat[i : i + _CHUNK].astype(np.float64), low, high) - mean).sum() for i in parts)
    return mean, float(np.sqrt(sum(map(float, squares)) / flat.size))


def examine(path: Path, subject: str, mask: Path | None, root: Path, labels_root: Path) -> tuple[Entry | None, list[Fault]]:
    """Reads a scan and its mask whole. A faulty scan gives no entry; a faulty mask gives an entry without one."""
    name = path.relative_to(root).as_posix()
    try:
        scan, dtype = read_typed(path)
    except UnreadableError as error:
        return None, [Fault(name, error.fault, error.remedy, "unreadable")]
    array = scan.array
    odd = int(array.size - np.isfinite(array).sum())
    if odd:
        remedy = "export it again or replace those voxels, for example by the darkest value"
        return None, [Fault(name, f"has {odd:,} voxels that are NaN or infinite", remedy, "nan")]
    if array.min() == array.max():
        return None, [Fault(name, f"is blank (every voxel is {array.flat[0]:g})", "export it again, or leave it out", "blank")]
    entry = _facts(scan, name, subject, dtype)
    if mask is None:
        return entry, []
    return _with_mask(entry, scan, mask, mask.relative_to(labels_root).as_posix())


def _facts(scan: Scan, name: str, subject: str, dtype: str) -> Entry:
    """The numbers of one scan, over all its channels."""
    import nibabel

    flat = scan.array.reshape(-1)
    mean, std = moments(flat)
    low, high = np.percentile(flat[:: max(1, flat.size // _MOST)], [0.5, 99.5])
    return Entry(
        path=name, subject=subject, shape=scan.shape, spacing=scan.spacing, channels=scan.channels, dtype=dtype,
        orientation="".join(axis or "?" for axis in nibabel.aff2axcodes(scan.affine))[: scan.ndim],
        mean=mean, std=std, p005=float(low), p995=float(high),
        sha256=checksum(scan.array),
    )  # fmt: skip


def _with_mask(entry: Entry, scan: Scan, mask: Path, name: str) -> tuple[Entry, list[Fault]]:
    """The entry with its mask, or without it and why."""
    try:
        labels = read_labels(mask)
    except UnreadableError as error:
        return entry, [Fault(name, error.fault, error.remedy, "mask")]
    if labels.shape != scan.shape:
        fault = f"is {voxels(labels.shape)} voxels, its scan {entry.path} is {voxels(scan.shape)}"
        return entry, [Fault(name, fault, "resample the mask onto the scan", "mask")]
    if not same_place(scan.shape, scan.affine, labels.affine):
        fault = f"lies elsewhere than its scan {entry.path} (same size, other affine)"
        return entry, [Fault(name, fault, "resample the mask onto the scan, or give it the header of the scan", "mask")]
    values, counts = np.unique(labels.array, return_counts=True)
    found = {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    return replace(entry, mask=name, mask_sha256=checksum(labels.array), labels=found), []
