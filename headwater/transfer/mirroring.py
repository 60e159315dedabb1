"""Which axes patches may be mirrored along: those on which the masks do not say where each structure lies."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headwater.scans.store import Store

ALPHA = 0.05  # over all structures and axes together (Bonferroni)
SHARE = 0.75  # of the subjects must agree: less is a tendency, and mirrored scans look like others
APART = 0.1  # of the foreground's spread, by which a structure lies off its centre; less is no side
USUAL = 0.9  # of the subjects may well agree, as far as these few can tell: then nothing is allowed
FEWEST = 6  # subjects
WORDS = {"R": "left and right", "L": "left and right", "A": "back and front", "P": "back and front"} | dict.fromkeys(
    "SI", "bottom and top"
)


@dataclass(frozen=True)
class Mirroring:
    """axes: along which mirroring contradicts no mask; sentences: one for each axis of the scans, what was found on it."""

    axes: tuple[int, ...]
    sentences: tuple[str, ...]


def found(store: Store, labelled: list[int]) -> Mirroring:
    """Tests the masks of some scans, images unseen.

    For each structure of each subject: on which side of the centre of all structures does its own centre lie, along each
    axis? Were sides of no meaning, either would be equally likely, so subjects are counted with an exact sign test.
    An axis is contradicted if for some structure the test finds one side (p < ALPHA over all tests), SHARE of the subjects
    agree, and it lies APART from the centre. It is allowed only if the masks speak against a side: so few subjects agree that
    it cannot be USUAL (Clopper and Pearson's bound), or nothing lies apart. In between nobody can tell, and nothing is
    mirrored, for the harm is greater than the use. Of two structures one is tested: the other lies opposite. With one
    structure there is nothing to confuse. Only relative places are seen, those within the masks.
    """
    if store.classes <= 2:
        because = "the masks have one structure, which mirroring confuses with no other"
        return Mirroring(tuple(range(store.ndim)), tuple(f"{_along(store, a)}: mirrored, {because}." for a in range(store.ndim)))
    sides = offsets(store, labelled)  # (subjects, structures, axes)
    tested = sides[:, : 1 if sides.shape[1] == 2 else None]
    verdicts = [_axis(store, tested[..., axis], axis, tested.shape[1] * store.ndim) for axis in range(store.ndim)]
    return Mirroring(tuple(a for a, (allowed, _) in enumerate(verdicts) if allowed), tuple(words for _, words in verdicts))


def offsets(store: Store, labelled: list[int]) -> Float[np.ndarray, "n K d"]:
    """Per subject: each structure's centre less that of all, in spreads of all; scans averaged; nan where it is not."""
    by_subject: dict[str, list[np.ndarray]] = {}
    for i in labelled:
        mask = np.asarray(store.label(i))
        places = np.argwhere((mask > 0) & (mask < store.classes))
        if len(places):
            each, spread = mask[tuple(places.T)], np.maximum(places.std(axis=0), 0.5)
            centres = [places[each == k].mean(axis=0) if (each == k).any() else np.full(mask.ndim, np.nan)
                       for k in range(1, store.classes)]  # fmt: skip
            by_subject.setdefault(store.subjects[i], []).append((np.stack(centres) - places.mean(axis=0)) / spread)
    empty = np.zeros((0, store.classes - 1, store.ndim))
    return np.stack([_mean(np.stack(scans)) for scans in by_subject.values()]) if by_subject else empty


def _mean(scans: np.ndarray) -> np.ndarray:
    """Over the scans that have a value."""
    known = np.isfinite(scans)
    with np.errstate(invalid="ignore"):
        return np.where(known, scans, 0).sum(axis=0) / known.sum(axis=0)


def _axis(store: Store, sides: Float[np.ndarray, "n K"], axis: int, tests: int) -> tuple[bool, str]:
    """Whether an axis may be mirrored, and the sentence."""
    from scipy.stats import binomtest

    where, kept, unclear = _along(store, axis), [], []
    for k in range(sides.shape[1]):
        known = sides[np.isfinite(sides[:, k]), k]
        agree, aside = max(int((known > 0).sum()), int((known < 0).sum())), int((known != 0).sum())
        middle = float(np.median(known)) if len(known) else 0.0
        if len(known) < FEWEST:
            unclear.append((len(known), k))
        elif abs(middle) >= APART:
            test = binomtest(agree, aside)
            p, most = tests * test.pvalue, test.proportion_ci(1 - ALPHA).high
            if p < ALPHA and agree >= SHARE * len(known):
                kept.append((p, k, agree, len(known), middle))
            elif most >= USUAL:
                unclear.append((len(known), k))
    if kept:
        p, k, agree, subjects, middle = min(kept)
        lies = f"{store.names[k + 1]} lies {_side(store, axis, middle)} the middle of all structures"
        return False, f"{where}: not mirrored, {lies} in {agree} of {subjects} subjects (p = {p:.1g})."
    if unclear:
        fewest, k = min(unclear)
        subjects = f"{fewest} subject{'s' * (fewest != 1)}"
        return False, f"{where}: not mirrored, {subjects} with {store.names[k + 1]} cannot tell whether its side has a meaning."
    return True, f"{where}: mirrored, no structure keeps to one side."


def _along(store: Store, axis: int) -> str:
    letter = store.orientation[axis : axis + 1]
    if letter in WORDS and letter:
        return WORDS[letter].capitalize()
    named = {(2, 0): "Rows (axis 0)", (2, 1): "Columns (axis 1)"}  # counted as adapt.mirror counts them
    return named.get((store.ndim, axis), f"Axis {axis}")


def _side(store: Store, axis: int, offset: float) -> str:
    """In words: "RAS" means that the axes point to the right, to the front and up."""
    letter = store.orientation[axis : axis + 1]
    words = {"R": "right of", "L": "left of", "A": "in front of", "P": "behind", "S": "above", "I": "below"}
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    if letter in words and letter:
        return words[letter if offset > 0 else opposite[letter]]
    return "beyond" if offset > 0 else "before"
