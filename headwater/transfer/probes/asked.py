"""What a probe is asked: the rows that can be used, folds of subjects, and how well answers fit."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater.errors import InputError
from headwater.streams import numpy_stream

FOLDS, INNER = 5, 3
MOST = 4000  # rows that a reader learns from


@dataclass(frozen=True, eq=False)
class Asked:
    """Rows that can be used, their folds, and what is asked of them.

    features: layer -> (n, d). y: (n,), of labels (n, T). whose: subject of each row, from 0. words: what was left out and why.
    folds: rows to learn from and rows to try on; no subject is on both sides of one.
    """

    features: dict[str, np.ndarray]
    y: np.ndarray
    whose: np.ndarray
    kind: str
    names: tuple[str, ...]
    tokens: np.ndarray | None
    seed: int
    words: list[str]
    folds: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, features: Mapping, targets: Any, groups: Any, kind: str, names: Sequence, tokens: Any, seed: int) -> "Asked":
        """As `probe` takes them. Raises: InputError for what cannot be asked."""
        y = np.asarray(targets)
        if not features or any(len(x) != len(y) for x in features.values()) or len(groups) != len(y):
            sizes = {**{name: len(x) for name, x in features.items()}, "targets": len(y), "subjects": len(groups)}
            raise InputError(f"features, targets and subjects must have a row for each image: got {sizes}")
        broken = [name for name, x in features.items() if not np.isfinite(x).all()]
        if broken:
            raise InputError(f"features of {broken[0]} hold NaN or infinity: a probe cannot read them")
        words: list[str] = []
        names = tuple(names)
        if kind in ("classes", "tokens"):
            kept, y, names = _classes(y, np.asarray(groups), names, kind, words)
        elif kind == "number":
            y = y.astype(float)
            kept = np.isfinite(y)
            if kept.any() and np.ptp(y[kept]) <= 1e-12 * max(1.0, abs(float(y[kept][0]))):
                raise InputError(f"the target is {y[kept][0]:g} for every image: there is nothing to tell")
        else:
            y, names = _labels(y.astype(float), names, words)
            kept = np.isfinite(y).any(1)
        lost = len(kept) - int(kept.sum())
        if lost and kind in ("number", "labels"):
            words.append(f"{lost} of {len(kept)} images have no target and are left out")
        y = y[kept]
        whose = np.unique(np.asarray(groups)[kept], return_inverse=True)[1]
        if len(y) == 0 or whose.max() < 1:
            raise InputError("a probe learns on some subjects and is tried on others: give images of 2 subjects or more")
        small = {name: np.asarray(x, np.float64)[kept] for name, x in features.items()}
        folds = _folds(y, whose, kind, seed)
        made = cls(small, y, whose, kind, names, None if tokens is None else np.asarray(tokens)[kept], seed, words, folds)
        words += made.missing()
        return made

    @property
    def subjects(self) -> int:
        """How many subjects the rows are of."""
        return int(self.whose.max()) + 1

    def missing(self) -> list[str]:
        """Classes that a fold cannot learn."""
        if self.kind not in ("classes", "tokens"):
            return []
        gone = {k for train, _ in self.folds for k in set(range(len(self.names))) - set(self.y[train].tolist())}
        return [f"class {self.names[k]} is missing from the subjects of a fold: there it is never answered" for k in sorted(gone)]

    def inner(self, train: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Folds of subjects inside a training part, all with all of its classes; none where it is too small."""
        whose = self.whose[train]
        if len(set(whose.tolist())) < 2 * INNER:
            return []
        made = _folds(self.y[train], whose, self.kind, self.seed + 1, INNER)
        if self.kind not in ("classes", "tokens"):
            return made
        present = set(self.y[train].tolist())
        return made if all(set(self.y[train][a].tolist()) == present for a, _ in made) else []

    def learned_from(self, train: np.ndarray, most: int = MOST) -> np.ndarray:
        """A drawn part of many rows."""
        if len(train) <= most:
            return train
        return np.sort(numpy_stream(self.seed, "rows", len(train)).choice(train, most, replace=False))

    def values(self, said: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "subjects"]:
        """What each subject adds, so that the mean over subjects is the score."""
        if self.kind == "tokens":
            often = np.bincount(y, minlength=len(self.names)) / len(y)
            answers = (said / np.sqrt(np.maximum(often, 1e-9))).argmax(1)  # Dice answers rare ones sooner
            return _dice(answers, y, self.whose, len(self.names))
        n = len(y)
        if self.kind == "number":
            guessed = np.empty(n)
            for train, test in self.folds:
                guessed[test] = y[train].mean()
            each = 1 - (said - y) ** 2 / ((guessed - y) ** 2).mean()
        elif self.kind == "classes":
            share = np.bincount(y, minlength=len(self.names)) / n
            right = (said / share).argmax(1) == y  # what is most likely if all classes were equally frequent
            each = right / (len(self.names) * share[y])
        else:
            known = np.isfinite(y)
            size = np.stack([[(y[:, t] == c).sum() for t in range(y.shape[1])] for c in (0, 1)])
            weight = n / (2 * y.shape[1] * np.where(y == 1, size[1], size[0]))
            each = (((said > 1) == (y == 1)) * known * weight).sum(1)
        return np.bincount(self.whose, each, self.subjects) * self.subjects / n


def _classes(
    y: np.ndarray, whose: np.ndarray, names: tuple[str, ...], kind: str, words: list[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows that count, their classes renumbered from 0, and the names of those: only classes that two subjects have."""
    if y.dtype.kind not in "biu":
        raise InputError(f"classes are whole numbers from 0, -1 where unknown: got {y.dtype}")
    what = "tokens" if kind == "tokens" else "images"
    present = sorted(set(y[y >= 0].tolist()))
    told = names or tuple(str(k) for k in range(1 + max(present, default=0)))
    good = [k for k in present if len(set(whose[y == k].tolist())) > 1]
    if kind == "tokens":  # the background stays the first class, whoever has it
        good = [0, *(k for k in good if k)]
    for k in sorted(set(present) - set(good)):
        words.append(f"class {told[k]} has {what} of one subject alone: it cannot be both learned and tried, and is left out")
    unknown = int((y < 0).sum())
    if unknown and kind == "classes":
        words.append(f"{unknown} of {len(y)} images have no class and are left out")
    if len(good) < 2:
        said = f"only {told[good[0]]}" if good else "none"
        raise InputError(f"a probe tells classes apart that two subjects or more have: of these there is {said}")
    kept = np.isin(y, good)
    return kept, np.searchsorted(good, y), tuple(told[k] for k in good)


def _labels(y: np.ndarray, names: tuple[str, ...], words: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns that have both answers; others are named."""
    if y.ndim != 2 or not np.isin(y[np.isfinite(y)], (0, 1)).all():
        raise InputError("labels are a table of 0 and 1, a column for each, nan where unknown")
    told = names or tuple(str(t) for t in range(y.shape[1]))
    good = [t for t in range(y.shape[1]) if len(np.unique(y[np.isfinite(y[:, t]), t])) == 2]
    words += [f"label {told[t]} is the same for every image: left out" for t in range(y.shape[1]) if t not in good]
    if not good:
        raise InputError("every label is the same for all images: there is nothing to tell")
    return y[:, good], tuple(told[t] for t in good)


def _folds(y: np.ndarray, whose: np.ndarray, kind: str, seed: int, most: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parts of the subjects that take turns at being tried on; of classes each part has its share, as far as subjects allow."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    subjects, first = np.unique(whose, return_index=True)
    count = min(most or FOLDS, len(subjects))
    if kind != "classes":
        return list(GroupKFold(count, shuffle=True, random_state=seed).split(whose, groups=whose))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer images than folds; those that a fold lacks are named
        return list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(whose, y, whose))


def _dice(said: np.ndarray, y: np.ndarray, whose: np.ndarray, classes: int) -> Float[np.ndarray, "subjects"]:
    """Mean over the structures that a subject has; nan for a subject without."""
    found = np.full((whose.max() + 1, classes - 1), np.nan)
    for k in range(1, classes):
        both, one, other = (np.bincount(whose, a, len(found)) for a in ((said == k) & (y == k), said == k, y == k))
        found[:, k - 1] = np.where(other > 0, 2 * both / np.maximum(one + other, 1), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # subjects without any structure
        return np.nanmean(found, axis=1)
