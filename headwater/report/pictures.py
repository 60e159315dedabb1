"""Arrays as pictures inside the page: PNG without a library, masks as see-through layers, outlines as paths."""

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

LARGEST = 192  # voxels on the longer side: what keeps a page of forty pictures under 5 MB
STRUCTURES = ((230, 159, 0), (86, 180, 233), (204, 121, 167), (0, 158, 115), (240, 228, 66), (213, 94, 0))  # Okabe and Ito


@dataclass(frozen=True)
class Picture:
    """Inline SVG of one slice, with the sentence a screen reader says."""

    svg: Markup
    title: str


def _png(raster: np.ndarray, colour: int, *extra: tuple[bytes, bytes]) -> str:
    """A data address. raster: (H, W) or (H, W, 3) uint8; colour: PNG's type, 0 grey, 2 RGB, 3 palette."""
    height, width = raster.shape[:2]
    lines = raster.reshape(height, -1)
    scan = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    pieces = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(scan, 9)), (b"IEND", b"")]
    body = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*piece) for piece in pieces)
    return "data:image/png;base64," + base64.b64encode(body).decode("ascii")


def thin(array: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """Every k-th row and column of (H, W, ...), so that the longer side is at most `largest`."""
    step = -(-max(array.shape[:2]) // largest)
    return array[::step, ::step]


def grey(image: np.ndarray) -> str:
    """(H, W) of any unit as a grey PNG, from its 0.5th to its 99.5th percentile; what is not finite is black."""
    image = thin(np.asarray(image, np.float32))
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    level = np.clip((np.nan_to_num(image, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12), 0, 1)
    return _png((level * 255).round().astype(np.uint8), 0)


def colour(rgb: np.ndarray) -> str:
    """(H, W, 3) in [0, 1], or uint8, as an RGB PNG."""
    rgb = thin(np.asarray(rgb))
    if rgb.dtype != np.uint8:
        rgb = (np.clip(np.nan_to_num(rgb.astype(np.float32)), 0, 1) * 255).round().astype(np.uint8)
    return _png(rgb, 2)


def layer(labels: np.ndarray, opacity: float = 0.62) -> str:
    """(H, W) integer labels as a palette PNG: 0 is clear, structure k takes the k-th colour, in turn when they run out."""
    labels = thin(np.asarray(labels)).astype(np.int64)
    index = np.where(labels > 0, (labels - 1) % len(STRUCTURES) + 1, 0).astype(np.uint8)
    palette = bytes(3) + b"".join(bytes(entry) for entry in STRUCTURES)
    return _png(index, 3, (b"PLTE", palette), (b"tRNS", b"\x00" + bytes([round(255 * opacity)] * len(STRUCTURES))))


def outline(labels: np.ndarray, most: int = 3000) -> str:
    """SVG path along the voxel edges where the label of (H, W) changes; empty if there are more than `most` strokes."""
    labels = np.pad(thin(np.asarray(labels)).astype(np.int64), 1)
    strokes = []
    for axis, form in ((0, "M{0} {2}H{1}"), (1, "M{2} {0}V{1}")):
        edge = np.diff(labels, axis=axis) != 0
        for place, line in enumerate(edge if axis == 0 else edge.T):
            ends = np.flatnonzero(np.diff(np.pad(line.astype(np.int8), 1)))  # run starts and stops, in padded voxels
            strokes += [form.format(start - 1, stop - 1, place) for start, stop in zip(ends[::2], ends[1::2], strict=True)]
    return "".join(strokes) if len(strokes) <= most else ""


def picture(title: str, shape: tuple[int, int], *layers: str, path: str = "", sharp: bool = False) -> Picture:
    """Layers of one (H, W) slice on top of each other, with an outline over them."""
    height, width = thin(np.empty(shape, np.uint8)).shape
    images = Markup("").join(
        Markup('<image href="{}" width="{}" height="{}"{}/>').format(
            source, width, height, Markup(' class="sharp"') if sharp or place else Markup("")
        )
        for place, source in enumerate(layers)
    )
    line = Markup('<path class="casing" d="{0}"/><path class="truth" d="{0}"/>').format(path) if path else Markup("")
    tag = '<svg class="slice" viewBox="0 0 {} {}" preserveAspectRatio="xMinYMin meet" role="img" aria-label="{}">{}{}</svg>'
    svg = Markup(tag).format(width, height, escape(title), images, line)
    return Picture(svg, title)
