"""Learning curves read as a person would: how many labels pretraining saves, whether it helps at all, and which arm to use."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater.transfer import scores

STUDIES = 1000  # bootstrap studies of a curve
Curves = Mapping[str, np.ndarray]  # by arm: (counts, draws, seeds, subjects), Dice in 0..1


@dataclass(frozen=True)
class Saved:
    """`count` labels of an arm do what `labels` do from scratch, in [low, high]; 0 and inf lie off the curve.

    verdict: "saved" | "lost" | "none" (no difference of more than delta) | "cannot tell".
    """

    count: int
    labels: float
    low: float
    high: float
    verdict: str
    sentence: str


def saved(
    curves: Curves, counts: tuple[int, ...], seed: int, delta: float, arm: str = "fine-tuned", against: str = "scratch"
) -> dict[str, Any] | None:
    """Labels saved at each count, read off the curve of `against`; None without both arms.

    The curve is made to rise (isotonic regression) and is linear in log(count) between counts. Studies are resampled in
    pairs, the same draws, trainings and subjects in both arms and at all counts. The interval is widened to what the paired
    gain's interval (`scores.interval`) says, so what is saved is clear only where the gain is.
    Returns: the fields of Saved at the middle count, and all of them as "rows".
    """
    if arm not in curves or against not in curves:
        return None
    counts, both = tuple(sorted(counts)), [curves[name][np.argsort(counts)] for name in (arm, against)]
    both = np.stack(both)  # (2, counts, draws, seeds, subjects)
    both = both[..., np.isfinite(both).all(axis=(0, 1, 2, 3))]
    if len(counts) == 1 or both.shape[-1] < 2:
        why = "one count is no curve" if len(counts) == 1 else "that takes two test subjects or more"
        none = f"How many labels are saved nobody can tell: {why}."
        return {**asdict(Saved(counts[0], np.nan, np.nan, np.nan, "cannot tell", none)), "arm": arm, "rows": []}
    studies = np.stack([[scores.resampled(values, seed, STUDIES) for values in side] for side in both])  # (2, counts, studies)
    known = [(ours, rising(theirs)) for ours, theirs in zip(*np.moveaxis(studies, -1, 1), strict=True)]
    rows = [_at(both, known, counts, n, arm, against, seed, delta) for n in range(len(counts))]
    return {**asdict(rows[(len(rows) - 1) // 2]), "arm": arm, "rows": [asdict(row) for row in rows]}


def _at(
    both: np.ndarray,
    studies: list[tuple[np.ndarray, np.ndarray]],
    counts: tuple[int, ...],
    n: int,
    arm: str,
    against: str,
    seed: int,
    delta: float,
) -> Saved:
    """Labels saved at the n-th count; studies: resampled curves of both arms, the second rising."""
    one = counts[n] == 1
    words, do, are = f"{_labels(counts[n])} {arm}", "does" if one else "do", "is" if one else "are"
    gain = scores.interval(both[0, n] - both[1, n], seed, bounds=(-1.0, 1.0))
    each = [equivalent(ours[n], theirs, counts, n) for ours, theirs in studies]
    low, high = np.quantile(each, [0.025, 0.975], method="nearest")
    curve = rising(both[1].mean(axis=(1, 2, 3)))
    level = curve[n]
    labels = equivalent(level + gain.mean, curve, counts, n)
    low = min(low, equivalent(level + gain.low, curve, counts, n))
    high = max(high, equivalent(level + gain.high, curve, counts, n))
    shown = f"{_count(labels, counts)} do from {against} [{_count(low, counts)}, {_count(high, counts)}]"
    if gain.clear and not low <= counts[n] <= high:
        verdict = "saved" if gain.clear > 0 else "lost"
        return Saved(counts[n], labels, low, high, verdict, f"{words} {do} what {shown}.")
    if max(abs(gain.low), abs(gain.high)) <= delta:
        none = f"No labels are saved: {words} {are} within {100 * delta:g} Dice points of {against}."
        return Saved(counts[n], labels, low, high, "none", none)
    doubt = f"Whether labels are saved nobody can tell: {words} {do} what {shown}."
    return Saved(counts[n], labels, low, high, "cannot tell", doubt)


def rising(curve: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The closest curve that never falls."""
    from scipy.optimize import isotonic_regression

    return isotonic_regression(np.asarray(curve, float)).x


def equivalent(level: float, curve: Float[np.ndarray, " n"], counts: tuple[int, ...], n: int) -> float:
    """The count at which a rising curve reaches a level: the nearest to the n-th one. inf above the curve, 0 below it."""
    logs = np.log(counts)
    if level == curve[n]:
        return float(counts[n])
    step = 1 if level > curve[n] else -1
    for here in range(n, len(counts) if step > 0 else -1, step):
        there = here + step
        if not 0 <= there < len(counts):
            break
        if (curve[there] - level) * step >= 0:
            part = (level - curve[here]) / (curve[there] - curve[here])
            return float(np.exp(logs[here] + part * (logs[there] - logs[here])))
    return np.inf if step > 0 else 0.0


def advice(gains: list[dict[str, Any]], delta: float, arm: str = "fine-tuned") -> str:
    """ "Do not pretrain: ..." where no count of labels leaves room for a gain of more than delta; else nothing."""
    mine = [g for g in gains if g["arm"] == arm]
    if not mine or not all(np.isfinite(g["high"]) and g["high"] <= delta for g in mine):
        return ""
    worst, most = min(mine, key=lambda g: g["high"]), max(mine, key=lambda g: g["high"])
    if worst["high"] < 0:
        interval = f"[{100 * worst['low']:.1f}, {100 * worst['high']:.1f}]"
        lost = f"with {_labels(worst['count'])} {arm} loses {-100 * worst['gain']:.1f} Dice points {interval}"
        why = f"{lost}, and gains nothing elsewhere"
    else:
        why = f"{arm} gains at most {max(0.0, 100 * most['high']):.1f} Dice points over scratch, at any count of labels"
    return f"Do not pretrain for this: {why}."


def choice(curves: Curves, counts: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Which arm to use, told at the largest count: {"arm", "sentence"}.

    From scratch, unless the better of frozen and fine-tuned is clearly better (the whole interval of the paired gain above
    nought). A tie goes to fine-tuned if its mean is not lower there and it is clearly better at some smaller count.
    Self-taught has to be clearly better than what is chosen so far. random-frozen is a control and never chosen.
    """
    most, first = int(np.argmax(counts)), "scratch" if "scratch" in curves else next(iter(curves))
    labels = _labels(counts[most])

    def gain(arm: str, over: str, n: int = most) -> scores.Interval:
        return scores.interval(curves[arm][n] - curves[over][n], seed, bounds=(-1.0, 1.0))

    chosen, sentence = first, f"With {labels}: no arm is clearly better than {first}, the simplest, so that is used."
    started = [arm for arm in ("fine-tuned", "frozen") if arm in curves and arm != first]
    if started:
        best = max(started, key=lambda arm: np.nan_to_num(gain(arm, first).mean, nan=-1.0))  # the first of equals
        found = gain(best, first)
        elsewhere = [counts[n] for n in range(len(counts)) if best == "fine-tuned" and gain(best, first, n).clear > 0]
        if found.clear > 0:
            chosen, sentence = best, f"With {labels}: {best} is clearly better than {first}, {_points(found)}."
        elif elsewhere and found.mean >= 0:
            few = _labels(min(elsewhere))
            chosen, sentence = best, f"With {labels}: {best} is no worse than {first}, and clearly better with {few}."
    if "self-taught" in curves and chosen != "self-taught":
        found = gain("self-taught", chosen)
        if found.clear > 0:
            sentence = f"With {labels}: self-taught is clearly better than {chosen}, {_points(found)}."
            chosen = "self-taught"
    return {"arm": chosen, "count": int(counts[most]), "sentence": sentence}


def _labels(count: int) -> str:
    return f"{count} label{'s' * (count > 1)}"


def _points(gain: scores.Interval) -> str:
    return f"{100 * gain.mean:+.1f} Dice points [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"


def _count(labels: float, counts: tuple[int, ...]) -> str:
    """In words where it lies off the curve."""
    if labels == 0:
        return f"fewer than {counts[0]}"
    return f"more than {counts[-1]}" if np.isinf(labels) else f"{labels:.{0 if labels >= 9.95 else 1}f}".removesuffix(".0")
