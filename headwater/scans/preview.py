"""A few scans as pictures with their masks, for the page of a folder that was only looked at."""

import numpy as np

from headwater.scans.passport import Passport
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import Scan

SIDE = 160  # pixels of a picture's longer side
COUNT = 8


def preview(passport: Passport) -> dict[str, np.ndarray]:
    """Slices of up to COUNT scans, evenly spread over the passport: image (n, SIDE, SIDE) float32, NaN outside the scan, mask
    (n, SIDE, SIDE) int16. A volume shows the plane across its thickest voxels that holds most of the mask, else the middle one.
    """
    places = np.unique(np.linspace(0, len(passport.entries) - 1, COUNT).round().astype(int))
    made = []
    for entry in (passport.entries[place] for place in places):
        mask = passport.mask_source(entry)
        made.append(_slice(read(passport.scan_source(entry)), None if mask is None else read_labels(mask).array[0]))
    return {"image": np.stack([image for image, _ in made]), "mask": np.stack([mask for _, mask in made])}


def _slice(scan: Scan, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """One plane of a scan's first channel and of its mask, at equal mm per pixel."""
    image, spacing = scan.array[0], scan.spacing
    if image.ndim == 3:
        axis = int(np.argmax(spacing)) if max(spacing) > 2 * min(spacing) else 2
        others = tuple(i for i in range(3) if i != axis)
        labelled = mask is not None and mask.any()
        at = int((mask > 0).sum(axis=others).argmax()) if labelled else image.shape[axis] // 2
        image, mask = image.take(at, axis), None if mask is None else mask.take(at, axis)
        spacing = tuple(spacing[i] for i in others)
    lengths = [n * s for n, s in zip(image.shape, spacing, strict=True)]  # mm
    step = max(lengths) / SIDE
    rows, columns = (
        np.minimum((np.arange(max(1, round(length / step))) + 0.5) * step / s, n - 1).astype(int)
        for length, s, n in zip(lengths, spacing, image.shape, strict=True)
    )
    place = (slice(len(rows)), slice(len(columns)))
    picture, classes = np.full((SIDE, SIDE), np.nan, np.float32), np.zeros((SIDE, SIDE), np.int16)
    picture[place] = image[np.ix_(rows, columns)]
    if mask is not None:
        classes[place] = mask[np.ix_(rows, columns)]
    return picture, classes
