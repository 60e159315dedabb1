"""What features are asked for: classes, labels and numbers from a table or from folders, structures from masks."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, Integer

from headwater.errors import InputError

FEW = 10  # whole numbers up to so many different ones are classes
ENDINGS = re.compile(r"(\.nii\.gz|\.[a-z][a-z0-9]{0,4})$", re.IGNORECASE)
UNKNOWN = ("", "na", "n/a", "nan", "none", "null", "?", "-")


@dataclass(frozen=True, eq=False)
class Target:
    """One question. kind, values, names: as `probe` takes them, a row for each image."""

    name: str
    kind: str
    values: np.ndarray
    names: tuple[str, ...] = ()


def of_words(name: str, words: Sequence[str]) -> Target:
    """A column of a table: several words between | or ; are labels, up to 10 whole numbers or other words classes, the rest
    numbers. Raises: InputError for a column without an answer."""
    said = [word.strip() for word in words]
    known = [w for w in said if w.lower() not in UNKNOWN]
    if not known:
        raise InputError(f"column {name} has no answer for any image: fill it, or leave it out")
    if any(re.search(r"[|;]", w) for w in known):
        each = [set(filter(None, (part.strip() for part in re.split(r"[|;]", w)))) for w in said]
        names = tuple(sorted(set().union(*(one for one, w in zip(each, said, strict=True) if w in known))))
        rows = [[float(n in one) if w in known else np.nan for n in names] for one, w in zip(each, said, strict=True)]
        return Target(name, "labels", np.array(rows), names)
    numbers = [_number(w) for w in said]
    different = sorted(set(known), key=lambda w: (np.nan_to_num(_number(w), nan=np.inf), w))
    if all(np.isfinite(_number(w)) for w in known) and not (
        len(different) <= FEW and all(_number(w) == round(_number(w)) for w in known)
    ):
        return Target(name, "number", np.array(numbers))
    if len(different) == len(known) > FEW:
        raise InputError(f"column {name} has another word for every image: a probe tells classes or numbers")
    places = {w: k for k, w in enumerate(different)}
    return Target(name, "classes", np.array([places.get(w, -1) for w in said]), tuple(different))


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")


def of_table(path: Path, files: Sequence[str], subjects: Sequence[str]) -> tuple[tuple[Target, ...], list[str]]:
    """One target per column, matched to images by the column whose words are their files (with or without folder and ending)
    or their subjects. Returns targets and what was left out, a sentence each.

    Raises: InputError for a table that cannot be read or names none of the images.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        head = text.splitlines()[0] if text.strip() else ""
        rows = list(csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=head.count)))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise InputError(f"{path} cannot be read as a table (given as targets): save it as CSV in UTF-8.") from fault
    columns = [c for c in (rows[0] if rows else {}) if c]
    if len(columns) < 2:
        raise InputError(f"{path} has no column beside the names of images: give a column of names and one for each target.")
    keys = [{file, _stem(file), PurePosixPath(file).name, subject} for file, subject in zip(files, subjects, strict=True)]
    hits = {c: sum(bool(k & _words(rows, c)) for k in keys) for c in columns}
    by = max(columns, key=lambda c: hits[c])
    if not hits[by]:
        raise InputError(f"No column of {path} has the files or the subjects of the images: name images as their files are.")
    found = {word: row for row in rows for word in {(row[by] or "").strip(), _stem((row[by] or "").strip())}}
    matched = [next((found[k] for k in sorted(one) if k in found), None) for one in keys]
    words, targets = [], []
    if None in matched:
        words.append(f"{matched.count(None)} of {len(matched)} images are not in the table")
    for column in columns:
        if column == by:
            continue
        try:
            targets.append(of_words(column, [(row or {}).get(column) or "" for row in matched]))
        except InputError as fault:
            words.append(str(fault))
    if not targets:
        raise InputError(f"{path} has no column that can be told from images: {'; '.join(words)}.")
    return tuple(targets), words


def _words(rows: Sequence[dict[str, str]], column: str) -> set[str]:
    said = {(row[column] or "").strip() for row in rows} - {""}
    return said | {_stem(word) for word in said}


def _stem(file: str) -> str:
    """A file's name without folder and ending; words with a dot (3.5) keep it."""
    return ENDINGS.sub("", PurePosixPath(file).name)


def of_mask(
    mask: Integer[np.ndarray, "*S"], grid: Sequence[int], stride: Sequence[int], classes: int
) -> Integer[np.ndarray, "N"]:
    """Class of each token: that of most of its voxels, -1 where none counts (classes from `classes` on do not).

    A tie goes to the structure with the smaller number, before the background.
    """
    count = np.zeros((classes, *grid), np.int64)
    places = np.ix_(*(np.minimum(np.arange(n) // s, g - 1) for n, s, g in zip(mask.shape, stride, grid, strict=True)))
    index = np.broadcast_arrays(*places)
    for k in range(classes):
        np.add.at(count[k], tuple(i[mask == k] for i in index), 1)
    order = np.concatenate([count[1:], count[:1]])  # the first of equals is taken
    best = (order.argmax(0) + 1) % classes
    return np.where(count.sum(0) > 0, best, -1).reshape(-1)


def volumes(masks: Sequence[np.ndarray], spacing: Sequence[Sequence[float]], names: Sequence[str]) -> list[Target]:
    """Volume of each structure (area in pictures) in the units of the spacing: numbers to tell from whole scans."""
    voxel: Float[np.ndarray, "n"] = np.array([float(np.prod(s)) for s in spacing])
    found = [voxel * [(mask == k).sum() for mask in masks] for k in range(1, len(names))]
    what = "area" if masks and masks[0].ndim == 2 else "volume"
    return [Target(f"{what} of {name}", "number", v) for name, v in zip(names[1:], found, strict=True)]
