"""One scan and its mask looked at: facts about their voxels, or what is wrong with them. Names play no part here."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from headwater.scans.fingerprint import fingerprint
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import Scan, Source, UnreadableError, same_place

_MOST = 1 << 14  # percentiles of larger scans come from every k-th voxel: right to a thousandth of the voxels
_CHUNK = 1 << 18  # voxels in float64 at a time


@dataclass(frozen=True)
class Facts:
    """What the voxels of one scan say. spacing in mm; low, high, mean, spread, least, most: per channel, values as in the file.

    low, high: the 0.5th and 99.5th percentile. clipped: share of voxels at the very highest value (at the lowest lies air).
    blank: slices, across the axis with the fewest, that hold one value only.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    spaced: bool
    channels: int
    dtype: str
    format: str
    modality: str
    orientation: str
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    clipped: float
    blank: int
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What looking at one scan and its mask gave. faults: (which file: "scan" or "mask", fault, remedy, kind)."""

    facts: Facts | None
    fingerprint: np.ndarray | None
    mask_sha256: str = ""
    labels: dict[int, int] | None = None  # label value -> voxels
    faults: tuple[tuple[str, str, str, str], ...] = ()

    def plain(self) -> dict:
        """For JSON; the fingerprint is kept apart."""
        return {**asdict(replace(self, fingerprint=None)), "labels": None if self.labels is None else list(self.labels.items())}

    @classmethod
    def of(cls, value: dict, fingerprint: np.ndarray | None) -> "Seen":
        """From JSON."""
        facts = value["facts"]
        if facts is not None:
            facts = Facts(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()})
        labels = None if value["labels"] is None else {int(v): int(n) for v, n in value["labels"]}
        return cls(facts, fingerprint, value["mask_sha256"], labels, tuple(tuple(f) for f in value["faults"]))


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
    whole = low == -np.inf and high == np.inf

    def parts() -> Iterator[np.ndarray]:
        for i in range(0, flat.size, _CHUNK):
            part = flat[i : i + _CHUNK].astype(np.float64)
            yield part if whole else np.clip(part, low, high, out=part)

    mean = sum(float(part.sum()) for part in parts()) / flat.size
    squares = 0.0
    for part in parts():
        part -= mean
        squares += float(np.dot(part, part))
    return mean, float(np.sqrt(squares / flat.size))


def percentiles(values: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """Percentiles (N) -> one number each, linear between neighbours, as numpy's; sorting all is quicker than its partition."""
    ordered = np.sort(values)
    places = [q / 100 * (ordered.size - 1) for q in wanted]
    below = [(int(place), float(ordered[int(place)])) for place in places]
    above = [float(ordered[min(i + 1, ordered.size - 1)]) for i, _ in below]
    return [low + (place - i) * (high - low) for place, (i, low), high in zip(places, below, above, strict=True)]


def examine(source: Source, mask: Source | None) -> Seen:
    """Reads a scan and its mask whole. A faulty scan gives no facts; a faulty mask gives facts without labels."""
    try:
        scan = read(source)
    except UnreadableError as error:
        return Seen(None, None, faults=(("scan", error.fault, error.remedy, "unreadable"),))
    array = scan.array
    least, most = array.min(), array.max()
    if not (np.isfinite(least) and np.isfinite(most)):  # NaN spreads to both, infinity shows in one
        odd = int(array.size - np.isfinite(array).sum())
        remedy = "export it again or replace those voxels, for example by the darkest value"
        return Seen(None, None, faults=(("scan", f"has {odd:,} voxels that are NaN or infinite", remedy, "nan"),))
    if least == most:
        fault = f"is blank (every voxel is {least:g})"
        return Seen(None, None, faults=(("scan", fault, "export it again, or leave it out", "blank"),))
    seen = Seen(_facts(scan), fingerprint(upright(scan)))
    return seen if mask is None else _with_mask(seen, scan, mask)


def upright(scan: Scan) -> np.ndarray:
    """The voxels (C, *S) with axes in the order left-right, front-back, up-down where the file says which is which."""
    place = {axis: i for i, pair in enumerate(("LR", "PA", "IS")) for axis in pair}
    way = scan.orientation
    if len(way) != 3 or sorted(place.get(axis, 3) for axis in way) != [0, 1, 2]:
        return scan.array
    return scan.array.transpose(0, *(1 + int(i) for i in np.argsort([place[axis] for axis in way])))


def _facts(scan: Scan) -> Facts:
    """The numbers of one scan."""
    flats = [channel.reshape(-1) for channel in scan.array]
    ends = [(float(flat.min()), float(flat.max())) for flat in flats]
    numbers = [moments(flat) for flat in flats]
    ranges = [percentiles(flat[:: max(1, flat.size // _MOST)], (0.5, 99.5)) for flat in flats]
    clipped = max(np.count_nonzero(flat == most) / flat.size for flat, (_, most) in zip(flats, ends, strict=True))
    return Facts(
        shape=scan.shape, spacing=scan.spacing, spaced=scan.spaced, channels=scan.channels, dtype=scan.stored,
        format=scan.format, modality=scan.modality, orientation=scan.orientation,
        mean=tuple(m for m, _ in numbers), spread=tuple(s for _, s in numbers),
        low=tuple(float(r[0]) for r in ranges), high=tuple(float(r[1]) for r in ranges),
        least=tuple(e[0] for e in ends), most=tuple(e[1] for e in ends),
        clipped=float(clipped), blank=_blank(scan.array), sha256=checksum(scan.array), notes=scan.notes,
    )  # fmt: skip


def _blank(array: np.ndarray) -> int:
    """Slices of a volume (C, *S), across its shortest axis, that hold one value only; 0 for a picture."""
    if array.ndim < 4:
        return 0
    axis = 1 + int(np.argmin(array.shape[1:]))
    others = tuple(i for i in range(4) if i != axis)
    return int((array.max(axis=others) == array.min(axis=others)).sum())


def _with_mask(seen: Seen, scan: Scan, source: Source) -> Seen:
    """What was seen with its mask, or without it and why."""

    def without(fault: str, remedy: str) -> Seen:
        return replace(seen, faults=(("mask", fault, remedy, "mask"),))

    try:
        labels = read_labels(source)
    except UnreadableError as error:
        return without(error.fault, error.remedy)
    if labels.shape != scan.shape:
        return without(f"is {voxels(labels.shape)} voxels, its scan is {voxels(scan.shape)}", "resample the mask onto the scan")
    if scan.spaced and labels.spaced and not same_place(scan.shape, scan.affine, labels.affine):
        remedy = "resample the mask onto the scan, or give it the header of the scan"
        return without("lies elsewhere than its scan (same size, other affine)", remedy)
    return replace(seen, mask_sha256=checksum(labels.array), labels=counted(labels.array))


def counted(labels: np.ndarray) -> dict[int, int]:
    """Every value of a mask and its voxels, in rising order."""
    flat = labels.reshape(-1)
    if flat.max() < 1 << 16:
        counts = np.bincount(flat)
        return {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    values, counts = np.unique(flat, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
