"""What frozen features tell of a target: small models read them across subjects, beside chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.transfer.probes import readers
from headwater.transfer.probes.asked import Asked
from headwater.transfer.probes.attentive import attentive
from headwater.transfer.scores import Interval, interval

KINDS = {"classes": "balanced accuracy", "labels": "balanced accuracy", "number": "R2", "tokens": "Dice"}
DRAWS, SHUFFLES = {"classes": 5, "number": 5, "tokens": 3}, 5
COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, eq=False)
class Score:
    """How well one reader does on one layer. count: labels per class it learned from (subjects for tokens), 0 for all.
    values (draws, subjects): their mean is the score."""

    layer: str
    method: str
    count: int
    values: Float[np.ndarray, "draws subjects"]
    interval: Interval

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        told = {"layer": self.layer, "method": self.method, "count": self.count}
        return told | {name: getattr(self.interval, name) for name in ("mean", "low", "high")}


@dataclass(frozen=True, eq=False)
class Probed:
    """metric: what `scores` are, 1 at best. chance: the linear reader on shuffled targets, same folds (tokens: guessing by how
    often a class is). calibration: expected error of the linear reader's probabilities on subjects it has not seen, before and
    after its temperature was fitted; {} for numbers. words: what was left out and why, a sentence each."""

    kind: str
    metric: str
    names: tuple[str, ...]
    scores: tuple[Score, ...]
    chance: Score
    calibration: Mapping[str, float] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def score(self, method: str = "linear", layer: str | None = None, count: int = 0) -> Score:
        """One of the scores; the last layer's if none is named. Raises KeyError if there is none such."""
        fits = [s for s in self.scores if s.method == method and s.count == count and layer in (None, s.layer)]
        if not fits:
            raise KeyError(f"no score of {method} on {layer or 'any layer'} with {count or 'all'} labels")
        return fits[-1]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind, "metric": self.metric, "names": list(self.names), "scores": [s.plain() for s in self.scores],
            "chance": self.chance.plain(), "calibration": dict(self.calibration), "words": list(self.words),
        }  # fmt: skip


def probe(
    features: Mapping[str, Float[np.ndarray, "n _"]],
    targets: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    *,
    kind: str,
    names: Sequence[str] = (),
    tokens: Float[np.ndarray, "n N D"] | None = None,
    seed: int = 0,
    few: bool = True,
) -> Probed:
    """Reads a target from features, every subject in turn left to those who have not seen it (5 folds of subjects).

    All layers are read linearly; the last one of `features` also by nearest neighbours, with few labels and, given `tokens`, by
    attention over them.

    Args:   features: layer -> one row per image, in order of depth; kind "tokens": one row per token.
            targets: "classes": (n,) whole numbers from 0, -1 unknown; "labels": (n, T) of 0 and 1, nan unknown; "number": (n,),
            nan unknown; "tokens": (n,) as classes, 0 the background. groups: subject of each row. names: of classes or labels.
    Raises: InputError for one subject, one class, a constant number, features that are not finite.
    """
    if kind not in KINDS:
        raise InputError(f"there is no kind of probe {kind!r}: use one of {', '.join(KINDS)}")
    asked = Asked.of(features, targets, groups, kind, names, tokens, seed)
    last = list(asked.features)[-1]
    found, calibration = [], {}
    for layer in asked.features:
        said = _read(asked, "linear", layer)
        found.append(_score(asked, layer, "linear", 0, [said]))
    if kind == "classes":
        calibration = _calibration(asked, last)
    found.append(_score(asked, last, "neighbours", 0, [_read(asked, "neighbours", last)]))
    if asked.tokens is not None and kind != "tokens":
        found.append(_score(asked, "tokens", "attentive", 0, [_attended(asked)]))
    for method, count in _few(asked) if few else ():
        found.append(_score(asked, last, method, count, [_drawn(asked, method, last, count, r) for r in range(DRAWS[kind])]))
    return Probed(kind, KINDS[kind], asked.names, tuple(found), _chance(asked, last), calibration, tuple(asked.words))


def _read(asked: Asked, method: str, layer: str, y: np.ndarray | None = None) -> np.ndarray:
    """What the reader says of every row by those of other subjects: (n, K) shares, (n, T) of labels, (n,) numbers."""
    x, y = asked.features[layer], asked.y if y is None else y
    outputs = 1 if asked.kind == "number" else len(asked.names)
    said = np.zeros((len(y), outputs))
    for train, test in asked.folds:
        train = asked.learned_from(train)
        if asked.kind == "labels":
            for t in range(outputs):
                said[test, t] = _yes(asked, method, x, y[:, t], train, test)
        else:
            said[test] = _even(asked, _fold(asked, method, x, y, train, test), y, train, method)
    return said[:, 0] if asked.kind == "number" else said


def _fold(asked: Asked, method: str, x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    if asked.kind == "number":
        model = readers.ridge(x[train], y[train]) if method == "linear" else readers.neighbours(x[train], y[train], True)
        return model.predict(x[test])[:, None]
    if len(np.unique(y[train])) < 2:
        return np.eye(len(asked.names))[np.full(len(test), y[train][0])]
    if method == "linear":
        splits = asked.inner(train) if y is asked.y and len(train) < readers.LARGE else []
        return readers.shares(readers.linear(x[train], y[train], splits), x[test], len(asked.names))
    return readers.shares(readers.neighbours(x[train], y[train]), x[test], len(asked.names))


def _even(asked: Asked, said: np.ndarray, y: np.ndarray, train: np.ndarray, method: str = "") -> np.ndarray:
    """Shares of classes with the frequencies of all rows in place of those of the training part: what a fold has more of, the
    others have less of, and a reader that knows nothing else would be wrong more often than by chance. Of tokens the vote of
    neighbours is taken as it is: what `values` does for rare structures is put in before."""
    if asked.kind == "tokens" and method == "neighbours":
        return said * np.sqrt(np.bincount(y, minlength=len(asked.names)))
    if asked.kind != "classes":
        return said
    here, often = (np.bincount(part, minlength=len(asked.names)) / len(part) for part in (y[train], y))
    return said * np.divide(often, here, out=np.zeros_like(often), where=here > 0)


def _yes(asked: Asked, method: str, x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Odds of one label, its share of the training part divided out: above 1 is yes."""
    train = train[np.isfinite(y[train])]
    share = float(y[train].mean()) if len(train) else 0.0
    if not 0 < share < 1:
        return np.full(len(test), 2.0 * (share == 1))
    model = (readers.neighbours if method == "neighbours" else readers.linear)(x[train], y[train].astype(int))
    yes = model.predict_proba(x[test])[:, 1]
    return np.minimum(yes * (1 - share) / np.maximum((1 - yes) * share, 1e-9), 1e9)


def _attended(asked: Asked) -> np.ndarray:
    """What the attentive reader says, fold by fold."""
    outputs = 0 if asked.kind == "number" else len(asked.names)
    said = np.zeros((len(asked.y), max(1, outputs)))
    for k, (train, test) in enumerate(asked.folds):
        parts = asked.tokens[train], asked.y[train], asked.tokens[test]
        said[test] = _even(asked, attentive(*parts, outputs, asked.seed + k, asked.whose[train]), asked.y, train)
        if asked.kind == "labels":
            share = np.clip(np.nanmean(asked.y[train], 0), 1e-3, 1 - 1e-3)
            said[test] = said[test] * (1 - share) / np.maximum((1 - said[test]) * share, 1e-9)
    return said[:, 0] if asked.kind == "number" else said


def _few(asked: Asked) -> list[tuple[str, int]]:
    """Numbers of labels (of subjects, for tokens) that every fold has twice of, and how they are read."""
    if asked.kind == "labels":
        return []
    least = math.inf
    for train, _ in asked.folds:
        if asked.kind in ("number", "tokens"):
            least = min(least, len(set(asked.whose[train].tolist())))
        else:
            least = min(least, *(len(set(asked.whose[train][asked.y[train] == k].tolist())) for k in range(len(asked.names))))
    counts = [c for c in COUNTS if 2 * c <= least and (asked.kind != "number" or c >= 4)]
    methods = ("nearest mean", "linear") if asked.kind == "classes" else ("linear",)
    return [(method, count) for count in counts for method in methods]


def _drawn(asked: Asked, method: str, layer: str, count: int, draw: int) -> np.ndarray:
    """What is said of every row by a reader with few labels, drawn anew in every fold."""
    x, n = asked.features[layer], len(asked.y)
    said = np.zeros((n, 1 if asked.kind == "number" else len(asked.names)))
    for k, (train, test) in enumerate(asked.folds):
        rng = numpy_stream(asked.seed, "few", count, draw, k)
        rows = _few_rows(asked, train, count, rng)
        mean, spread = x[train].mean(0), x[train].std(0)
        near, there = ((x[r] - mean) / np.where(spread > 0, spread, 1) for r in (rows, test))
        if asked.kind == "number":
            said[test] = readers.ridge(near, asked.y[rows]).predict(there)[:, None]
        elif method == "nearest mean":
            said[test] = readers.nearest_mean(near, asked.y[rows], there, len(asked.names))
        elif len(np.unique(asked.y[rows])) < 2:
            said[test] = np.eye(len(asked.names))[np.full(len(test), asked.y[rows][0])]
        else:
            said[test] = readers.shares(readers.linear(near, asked.y[rows]), there, len(asked.names))
    if asked.kind == "classes":  # all were drawn equally often: the frequencies that `values` takes out are put in
        return said * np.bincount(asked.y)
    return said[:, 0] if asked.kind == "number" else said


def _few_rows(asked: Asked, train: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of so many subjects; for classes one row each of so many subjects of every class."""
    if asked.kind != "classes":
        chosen = rng.permutation(np.unique(asked.whose[train]))[:count]
        return asked.learned_from(train[np.isin(asked.whose[train], chosen)])
    rows = []
    for k in range(len(asked.names)):
        of_class = rng.permutation(train[asked.y[train] == k])
        one_each = of_class[np.unique(asked.whose[of_class], return_index=True)[1]]
        rows += rng.permutation(one_each)[:count].tolist()
    return np.array(rows)


def _score(asked: Asked, layer: str, method: str, count: int, said: Sequence[np.ndarray], y: np.ndarray | None = None) -> Score:
    """One value per draw and subject, and their interval."""
    values = np.stack([asked.values(one, asked.y if y is None else y) for one in said])
    return Score(layer, method, count, values, interval(values, asked.seed, bounds=_bounds(asked)))


def _chance(asked: Asked, layer: str) -> Score:
    """The linear reader after the targets were shuffled; tokens: guesses as frequent as the classes."""
    said, values = [], []
    for s in range(SHUFFLES):
        rng = numpy_stream(asked.seed, "chance", s)
        if asked.kind == "tokens":
            shares = np.bincount(asked.y, minlength=len(asked.names)) / len(asked.y)
            said.append(np.eye(len(asked.names))[rng.choice(len(asked.names), len(asked.y), p=shares)])
            values.append(asked.values(said[-1], asked.y))
        else:
            y = asked.y[rng.permutation(len(asked.y))]
            values.append(asked.values(_read(asked, "linear", layer, y), y))
    values = np.stack(values)
    return Score(layer, "chance", 0, values, interval(values, asked.seed, bounds=_bounds(asked)))


def _calibration(asked: Asked, layer: str) -> dict[str, float]:
    """Expected calibration error of the linear reader before and after a temperature."""
    x, said = asked.features[layer], np.zeros((2, len(asked.y), len(asked.names)))
    for train, test in asked.folds:
        splits = asked.inner(train)
        if not splits:
            asked.words.append("there are too few subjects to fit a temperature: probabilities are not calibrated")
            return {}
        model = readers.linear(x[train], asked.y[train], splits)
        told = (model, readers.calibrated(model, x[train], asked.y[train], splits))
        said[:, test] = [readers.shares(m, x[test], len(asked.names)) for m in told]
    return dict(zip(("before", "after"), (readers.calibration_error(p, asked.y) for p in said), strict=True))


def _bounds(asked: Asked) -> tuple[float, float]:
    """The values a score can have."""
    return (-math.inf, 1.0) if asked.kind == "number" else (0.0, 1.0)
