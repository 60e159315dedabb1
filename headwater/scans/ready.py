"""One scan as training reads it: turned, cropped, resampled, normalised; with what the way back needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.errors import InputError
from headwater.scans import resampling
from headwater.scans.normalise import Window, normalise, window
from headwater.scans.resampling import Geometry
from headwater.scans.scan import Scan
from headwater.scans.store import Store, class_type


@dataclass(frozen=True)
class Rule:
    """How scans are made ready. spacing: mm; orientation: such as "RAS", "" leaves them as they are.

    channels: of every scan; a grey one among coloured ones becomes coloured, with equal channels.
    scheme: "scan" (each scan by its own values) or "set" (all by the windows `fixed`, one per channel).
    values: what the classes are in masks, values[0] = 0. ignore: the value in masks that does not count.
    instances: masks number single objects, which are all of class 1.
    """

    spacing: tuple[float, ...]
    orientation: str
    scheme: str
    channels: int = 1
    values: tuple[int, ...] = (0,)
    ignore: int | None = None
    fixed: tuple[Window, ...] = ()
    instances: bool = False

    @classmethod
    def of(cls, store: Store) -> "Rule":
        """The rule of a store, to make a scan ready that is not in it."""
        fixed = store.windows(0) if store.scheme == "set" else ()
        return cls(store.spacing, store.orientation, store.scheme, store.channels, store.values, fixed=fixed)

    def classes(self, mask: np.ndarray) -> np.ndarray:
        """Values of a mask to classes: unknown ones to background, what does not count to the largest number of the type."""
        kind, values = class_type(len(self.values)), np.array(self.values)
        if self.instances:
            return (mask > 0).astype(kind)
        if max(values[-1], mask.max()) < 1 << 16:  # a table is much faster than a search
            table = np.zeros(1 << 16, kind)
            table[values] = np.arange(len(values))
            places = table[mask]
        else:
            places = np.minimum(np.searchsorted(values, mask), len(values) - 1).astype(kind)
            places[values[places] != mask] = 0
        if self.ignore is not None:
            places[mask == self.ignore] = np.iinfo(kind).max
        return places


@dataclass(frozen=True, eq=False)
class Ready:
    """One scan as training reads it: (C, *S) float16, its classes (*S), its affine, and what the way back needs."""

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    geometry: Geometry
    windows: tuple[Window, ...]
    rounding: float  # largest error of half precision, in spreads

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "shape": self.geometry.size, "affine": self.affine.tolist(), "geometry": self.geometry.plain(),
            "windows": [w.plain() for w in self.windows], "rounding": self.rounding,
        }  # fmt: skip


def ready(scan: Scan, mask: np.ndarray | None, rule: Rule) -> Ready:
    """One scan (and its mask (*S), values as in the file) turned, cropped, resampled and normalised.

    Turned to the rule's orientation if its own is known; cropped to what is not background (`resampling.content_box`);
    each axis off the spacing by more than 1 % is resampled; each channel is clipped to its window, then brought to mean 0
    and spread 1. Windows come from the voxels of the file inside the crop, before any resampling.
    Raises InputError for another number of channels than the rule's.
    """
    grey = scan.channels == 1 and rule.channels == 3
    if scan.channels != rule.channels and not grey:
        raise InputError(f"A scan has {scan.channels} channels, the others have {rule.channels}; leave it out.")
    axes, flips = resampling.direction(scan.orientation, rule.orientation) or (tuple(range(scan.ndim)), (False,) * scan.ndim)
    turned = None if mask is None else resampling.turn(mask, axes, flips)
    box = resampling.content_box(resampling.turn(scan.array, axes, flips), turned)
    step = (1.0,) * scan.ndim
    if scan.spaced or not rule.orientation:  # voxels of unknown size are not brought to mm
        step = resampling.steps(tuple(scan.spacing[axis] for axis in axes), rule.spacing)
    size = resampling.sizes(tuple(stop - start for start, stop in box), step)
    geometry = Geometry(scan.shape, axes, flips, box, step, size)
    inside = resampling.turn(scan.array, axes, flips)[(slice(None), *(slice(*span) for span in box))]
    windows = rule.fixed or tuple(window(channel) for channel in inside)
    image = resampling.forth(scan.array, geometry)
    if grey:
        image, windows = np.repeat(image, 3, axis=0), windows if rule.fixed else windows * 3
    image, rounding = normalise(image, windows)
    label = None if mask is None else resampling.forth_classes(rule.classes(mask), geometry)
    return Ready(image, label, scan.affine @ geometry.matrix, geometry, windows, rounding)
