"""The pictures of an observation: where heads look, how alike they are, tokens in colours, words, neighbours, eigen-images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.report.charts import Axis, Line, chart, short
from headwater.report.figures import Figure
from headwater.report.pictures import Picture, colour, grey, picture
from headwater.report.record import Arrays, mapping, number, rows

MOST_HEADS, MOST_LAYERS, MOST_NEAR, MOST_EIGEN = 12, 24, 6, 8
RAMP = np.array([(8, 10, 30), (60, 25, 95), (150, 45, 95), (225, 95, 60), (250, 180, 70), (252, 250, 190)]) / 255  # dark to light
WORDS = np.array(
    [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66), (120, 120, 120)]
) / 255  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One attention layer: its name in the network, a map for each head, how alike its heads are, and its numbers in words."""

    name: str
    maps: tuple[Picture, ...]
    alike: tuple[Picture, ...]
    words: str
    lost: tuple[str, ...]
    hidden: int


def ramp(values: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] as colours (..., 3); what is not finite is dark."""
    at = np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1) * (len(RAMP) - 1)
    low = np.minimum(at.astype(int), len(RAMP) - 2)
    share = (at - low)[..., None]
    return RAMP[low] * (1 - share) + RAMP[low + 1] * share


def heads(found: dict[str, Any], arrays: Arrays) -> list[Layer]:
    """Layer after layer: the first image's map of each head on one scale, and the heads' likeness beside that before training."""
    closer, made = mapping(found.get("closer")), []
    ends = closer.get("scale")
    low, high = (number(one) for one in (ends if isinstance(ends, list) and len(ends) == 2 else (0, math.nan)))
    for i, layer in enumerate(rows(closer.get("heads"))[:MOST_LAYERS]):
        maps = _axes(arrays, str(layer.get("array") or f"heads.{i}"), 4)
        shown = () if maps is None else maps[0][:MOST_HEADS]
        top = high if high > low else max((float(np.nanmax(one)) for one in shown), default=1.0)
        drawn = tuple(
            picture(
                f"layer {i}, head {h}: what the middle token attends to",
                one.shape,
                colour(ramp((one - low) / max(top - low, 1e-9))),
                sharp=True,
            )
            for h, one in enumerate(shown)
        )
        alike = [
            (words, _axes(arrays, name, 2))
            for words, name in (("trained", f"redundancy.{i}"), ("untrained", f"redundancy.untrained.{i}"))
        ]
        squares = tuple(
            picture(f"layer {i}: how alike its heads are, {words}", square.shape, colour(ramp(square)), sharp=True)
            for words, square in alike if square is not None
        )  # fmt: skip
        lost = tuple(short(number(one.get("value"))) for one in rows(layer.get("ablation")))
        made.append(
            Layer(
                str(layer.get("layer")),
                drawn,
                squares,
                _said(layer),
                lost,
                0 if maps is None else max(0, maps.shape[1] - MOST_HEADS),
            )
        )
    return made


def _said(layer: dict[str, Any]) -> str:
    """Effective heads beside those before training, and the head that matters most."""
    said = []
    value, null = (number(mapping(layer.get("effective")).get(name)) for name in ("value", "null"))
    if math.isfinite(value):
        said.append(f"{short(value)} of {short(number(layer.get('heads')))} heads differ{_beside(null)}")
    effects = [(number(one.get("value")), number(one.get("null")), h) for h, one in enumerate(rows(layer.get("ablation")))]
    effects = [one for one in effects if math.isfinite(one[0])]
    if effects:
        most, null, h = max(effects)
        said.append(f"without head {h} features change by {short(most)}{_beside(null)}")
    return "; ".join(said)


def _beside(null: float) -> str:
    return f" (untrained {short(null)})" if math.isfinite(null) else ""


def _axes(arrays: Arrays, name: str, axes: int) -> np.ndarray | None:
    """An array of so many axes, none of them empty; else None."""
    found = arrays.get(name)
    return found if found is not None and found.ndim == axes and 0 not in found.shape else None


def tokens(arrays: Arrays) -> tuple[list[str], list[tuple[Picture, ...]]]:
    """Heads of columns, and a row for each image: itself, its tokens in three colours trained and untrained, its words."""
    images = _axes(arrays, "image", 3)
    if images is None:
        return [], []
    kinds = [("tokens", "trained", 4), ("tokens.untrained", "untrained", 4), ("words", "words", 3)]
    there = [(words, found) for name, words, axes in kinds if (found := _axes(arrays, name, axes)) is not None]
    there = [(words, found) for words, found in there if len(found) >= len(images)]
    made = []
    for i, image in enumerate(images):
        row = [picture(f"image {i + 1}", image.shape, grey(image))]
        for words, found in there:
            one = _worded(found[i]) if words == "words" else found[i]
            row.append(picture(f"image {i + 1}, {words}", one.shape[:2], colour(one), sharp=True))
        made.append(tuple(row))
    return ["image", *(words for words, _ in there)], made


def _worded(labels: np.ndarray) -> np.ndarray:
    """Labels (h, w) as colours, black where there is none."""
    return np.where((labels >= 0)[..., None], WORDS[np.maximum(labels, 0).astype(int) % len(WORDS)], 0.0)


def neighbours(arrays: Arrays, most: int = 4) -> list[list[tuple[Picture, str]]]:
    """For some images, those that the features think most alike, nearest first, each with its cosine."""
    images, index = _axes(arrays, "thumbs", 3), _axes(arrays, "neighbours", 2)
    cosine = _axes(arrays, "neighbours.cosine", 2)
    if images is None or index is None or len(index) != len(images) or index.dtype.kind not in "iu":
        return []
    made = []
    for i in range(min(most, len(images))):
        row = [(picture(f"image {i + 1}", images[i].shape, grey(images[i])), f"image {i + 1}")]
        for place, j in enumerate(index[i][:MOST_NEAR]):
            if 0 <= j < len(images):
                told = short(float(cosine[i][place])) if cosine is not None and cosine.shape == index.shape else ""
                row.append((picture(f"neighbour {place + 1} of image {i + 1}", images[j].shape, grey(images[j])), told))
        made.append(row)
    return made


def eigen(found: dict[str, Any], arrays: Arrays) -> tuple[list[tuple[Picture, str]], list[Figure]]:
    """The mean and the first eigen-images with their shares, and the error that is left with so many of them."""
    pictures, mean = _axes(arrays, "eigen", 3), _axes(arrays, "eigen.mean", 2)
    told = mapping(mapping(found.get("closer")).get("eigen"))
    shares = told.get("explained") if isinstance(told.get("explained"), list) else []
    made = [] if mean is None else [(picture("mean of the images", mean.shape, grey(mean)), "mean")]
    for i, one in enumerate(() if pictures is None else pictures[:MOST_EIGEN]):
        share = number(shares[i]) if i < len(shares) else math.nan
        made.append((picture(f"eigen-image {i + 1}", one.shape, grey(one)), f"{100 * share:.0f} %" if share == share else ""))
    curves = {name: _axes(arrays, f"eigen.{name}", 1) for name in ("error", "null", "unseen", "unseen_null")}
    words = {"error": ("images", "water"), "null": ("noise", "ink"), "unseen": ("unseen images", "tuned")}
    lines = [
        Line(told, range(len(y)), _plain(y), tone, told=False)
        for name, (told, tone) in words.items()
        if (y := curves[name]) is not None
    ]
    if not lines or max(len(line.x) for line in lines) < 2:
        return made, []
    needed, chance = (number(told.get(name)) for name in ("needed", "needed_null"))
    enough = f"{short(needed)} leave 10 % missing" if needed == needed else "none of them leave less than 10 % missing"
    caption = f"Of images that they were not fitted on, {enough}" + (
        f"; of noise it takes {short(chance)}." if chance == chance else "."
    )
    drawing = chart(
        lines, Axis("eigen-images used"), Axis("error left, share", include=(0.0, 1.0)), alt=f"Reconstruction error. {caption}"
    )
    return made, [Figure("Images rebuilt from so many eigen-images", drawing, caption, (), ())]


def _plain(values: np.ndarray) -> Sequence[float]:
    return [float(value) for value in values]
