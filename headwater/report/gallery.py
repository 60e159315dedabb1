"""The pictures of a run: the one on the first screen, the tokens, the segmentations."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.report.charts import short
from headwater.report.figures import points_of_dice
from headwater.report.pictures import Picture, colour, grey, layer, outline, picture
from headwater.report.record import Record, number

MOST_SCANS, MOST_CASES = 6, 12


@dataclass(frozen=True)
class Case:
    """One test subject: its heading, its second line, and scan, truth and prediction."""

    name: str
    words: str
    pictures: tuple[Picture, ...]


def token_rows(record: Record) -> list[tuple[Picture, ...]]:
    """One row for each scan: the slice, its tokens trained, initial, and its pixels, as far as they are there."""
    images = record.tokens.get("image")
    if images is None:
        return []
    titles = {"final": "tokens, trained", "initial": "tokens, untrained", "pixels": "pixels"}
    found = []
    for index in range(min(len(images), MOST_SCANS)):
        row = [picture(f"scan {index + 1}", images[index].shape, grey(images[index]))]
        for name, words in titles.items():
            if name in record.tokens:
                row.append(
                    picture(f"scan {index + 1}, {words}", images[index].shape, colour(record.tokens[name][index]), sharp=True)
                )
        found.append(tuple(row))
    return found


def _pair(record: Record, index: int, name: str) -> tuple[Picture, ...]:
    """Truth and prediction over their slice; the truth's outline lies over both."""
    image = record.examples["image"][index]
    truth, guess = record.examples.get("truth"), record.examples.get("prediction")
    path = outline(truth[index]) if truth is not None else ""
    found = []
    for words, labels in (("truth", truth), ("prediction", guess)):
        if labels is not None:
            found.append(picture(f"{name}, {words}", image.shape, grey(image), layer(labels[index]), path=path))
    return tuple(found)


def counted(note: dict[str, Any]) -> str:
    """4 labels; empty where the number is not known."""
    count = number(note.get("count"))
    return f"{short(count)} label{'' if count == 1 else 's'}" if math.isfinite(count) else ""


def cases(record: Record) -> list[Case]:
    """Segmentations of test subjects in the order they were written, worst first."""
    images = record.examples.get("image")
    scale = points_of_dice(record)
    found = []
    for index in range(0 if images is None else min(len(images), MOST_CASES)):
        note = record.notes[index] if index < len(record.notes) else {}
        name = str(note.get("subject") or f"case {index + 1}")
        words = [f"Dice {number(note.get('dice')) * scale:.0f}" if math.isfinite(number(note.get("dice"))) else "Dice unknown"]
        words += [str(note["arm"])] if note.get("arm") else []
        words += [counted(note)] if counted(note) else []
        found.append(Case(name, ", ".join(words), _pair(record, index, name)))
    return found


def looked(record: Record) -> list[Picture]:
    """Some of the scans as they were found, the outline of the mask over those that have one.

    Slices of several sizes share one array: what a slice does not fill is nan at its lower and right side.
    """
    images, masks = record.preview.get("image"), record.preview.get("mask")
    found = []
    for index in range(0 if images is None else min(len(images), MOST_CASES)):
        held = ~np.isnan(images[index]) if images.dtype.kind == "f" else np.ones(images.shape[1:], bool)
        height, width = (1 + int(np.flatnonzero(held.any(axis=axis)).max(initial=0)) for axis in (1, 0))
        image = images[index, :height, :width]
        mask = np.zeros(image.shape, int) if masks is None else masks[index, :height, :width]
        layers, path = ([layer(mask, 0.35)], outline(mask)) if (mask > 0).any() else ([], "")
        title = f"scan {index + 1}" + (", with its mask" if layers else "")
        found.append(picture(title, image.shape, grey(image), *layers, path=path))
    return found


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two slices show the same picture, up to scale and offset of their intensities."""
    if one.shape != two.shape:
        return False
    a, b = (np.nan_to_num(side.astype(np.float64)).ravel() for side in (one, two))
    if a.std() == 0 or b.std() == 0:
        return False
    return bool(np.corrcoef(a, b)[0, 1] > 0.999)


def hero(record: Record) -> tuple[list[tuple[str, Picture]], str]:
    """Scan, tokens, truth and prediction with their words, and a sentence that says which scans they are.

    The same slice for all four where one is in both files; else the middle test case beside the first scan with tokens.
    """
    images, slices = record.examples.get("image"), record.tokens.get("image")
    panels, place, case = [], 0, 0
    shared = None
    if images is not None:
        case = min(len(images) // 2, max(len(record.notes) - 1, 0)) if record.notes else len(images) // 2
        order = sorted(range(len(images)), key=lambda index: abs(index - case))
        if slices is not None:
            shared = next(((a, b) for a in order for b in range(len(slices)) if _same(images[a], slices[b])), None)
            case, place = shared or (case, 0)
    if slices is not None:
        panels.append(("scan", picture("scan", slices[place].shape, grey(slices[place]))))
        if "final" in record.tokens:
            panels.append(
                (
                    "its tokens",
                    picture(
                        "tokens, first three components as colours",
                        slices[place].shape,
                        colour(record.tokens["final"][place]),
                        sharp=True,
                    ),
                )
            )
    elif images is not None:
        panels.append(("scan", picture("scan", images[case].shape, grey(images[case]))))
    if images is None:
        return panels, "A scan and its tokens, coloured by their first three components." if panels else ""
    note = record.notes[case] if case < len(record.notes) else {}
    named = [name for name in ("truth", "prediction") if name in record.examples]
    panels += list(zip(named, _pair(record, case, "example"), strict=True))
    dice = number(note.get("dice")) * points_of_dice(record)
    words = f"Test subject {note.get('subject')}" if note.get("subject") else "A test subject"
    words += f", Dice {dice:.0f}" if math.isfinite(dice) else ""
    words += f", {note['arm']}" if note.get("arm") else ""
    words += f" with {counted(note)}" if counted(note) else ""
    if slices is not None and shared is None:
        return panels, f"{words}; scan and tokens are of another subject. The worst cases are under Few labels."
    return panels, f"{words}. The worst cases are under Few labels."
