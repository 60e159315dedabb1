"""What the numbers of a run mean, in words: beside chance and beside the same network before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.observe.causes import CAUSES
from headwater.observe.levels import NOT_FINITE, History, Judged, directions, judge, level, number
from headwater.observe.symptoms import found as causes_of

FEW = 3  # directions worth a remark
DENSE, BOTH = ("dense",), ("pooled", "dense")
TRAINED = {  # the levels an objective asks to agree, or to hold what tells places apart
    **dict.fromkeys(("mae", "ae", "denoise", "jepa", "adversarial"), DENSE),
    **dict.fromkeys(("cva", "byol", "vicreg", "lejepa", "dino", "distil"), BOTH),
    "simclr": ("pooled",),
}
ALARMS = ("collapsed", "miswired", "random")
UNSEEN = "no two views of these inputs can be made, so nothing is known of agreement; layers, heads and weights show no fault"
OPENING = {
    "healthy": "Features are stable and not random",
    "random": "Features do not agree beyond chance",
    "weak": "Features are not random, but not clearly more stable than before training",
    "unknown": "It cannot be said whether the features are healthy",
}
ADVICE = {  # where no cause is known: what is usual, what to do next
    "healthy": ("", ""),
    "random": (
        "training has not started to work, or the two views share too little",
        "check that the loss fell, then train longer or raise the overlap of the views",
    ),
    "weak": (
        "too few steps, or an objective that does not ask for this agreement",
        "train longer, and let a few labels decide whether the features help",
    ),
    "unknown": ("", "let a few labels decide whether the features help"),
}
BROKEN = "look for NaN or Inf in the loss and in the scans"  # before training already, else training has diverged


@dataclass(frozen=True)
class Verdict:
    """state: healthy, weak, random, collapsed, miswired or unknown. cause: a key of `causes.CAUSES`, empty if none is known.
    sentence: the state in plain words with its numbers, the usual cause and the next action where there is one. remedy: that
    action alone. numbers: what it rests on: by level, and "causes", all that hold, the first being the one named."""

    state: str
    cause: str
    sentence: str
    remedy: str
    numbers: dict[str, Any]


def verdict(looks: Sequence[Any], levels: Sequence[str] = BOTH) -> Verdict:
    """Judges a model by its looks; never raises.

    What alarms is in `levels.judge` (agreement of the trained levels, and of the head's output if it is there) and in
    `symptoms` (everything else); of several causes the first in `causes.CAUSES` is named, and the others are listed. Without
    a cause, the best of the trained levels decides: healthy, weak (not above its own start) or random (within chance).

    Args: looks: `Look.plain()`s, or their JSON read back, the first before training, the last now; only "pooled" and "dense"
          are needed. A single look is judged by what needs no start. levels: what the objective trains (`TRAINED`).
    """
    levels = (levels,) if isinstance(levels, str) else tuple(levels)
    history = History(tuple(looks))
    judged, causes, state = _judged(history, levels)
    cause = next(iter(causes), "")
    deciding = sorted(levels, key=lambda name: judged[name].state != state)
    said = causes.get(cause) or "; ".join(judged[name].said for name in deciding)
    sentence = f"{CAUSES[cause].opening if cause else OPENING[state]}: {said}."
    usual, remedy = (CAUSES[cause].usual, CAUSES[cause].next) if cause else ADVICE[state]
    if not cause and history.now.get("panel") and not any(level(history.now, name) for name in levels):
        sentence, usual, remedy = f"{OPENING[state]}: {UNSEEN}.", "", ""
    if state == "unknown" and not cause and any(NOT_FINITE in judged[name].said for name in levels):
        remedy = f"{BROKEN}, and {remedy}"
    if state in ("healthy", "weak", "random") and not cause:
        sentence += "".join(_aside(name, judged[name].state, state) for name in deciding)
    if state == "healthy":
        sentence += "".join(_few(name, judged[name]) for name in deciding)
    if len(causes) > 1:
        sentence += f" Also: {'; '.join(_short(name) for name in list(causes)[1:])}."
    sentence += (f" Usually: {usual}." if usual else "") + (f" Next: {remedy}." if remedy else "")
    if state in ALARMS:
        last, was = _last_sound(looks, levels)
        what = "Last healthy state" if was == "healthy" else "Last look without an alarm"
        sentence += f" {what}: step {last:,}." if last is not None else ""
    numbers = {name: {"state": found.state, **found.numbers} for name, found in judged.items()}
    return Verdict(state, cause, sentence, remedy, {**numbers, "causes": list(causes)})


def healthy_until(looks: Sequence[Any], levels: Sequence[str] = BOTH) -> int | None:
    """The step of the last look at which the run was healthy, to roll back to; if it never was, of the last without an alarm.

    None if every look since training began alarms. Stricter than `verdict`: one bad look is enough to pass it over, so that the
    state gone back to is from before the fall.
    """
    return _last_sound(looks, levels)[0]


def _last_sound(looks: Sequence[Any], levels: Sequence[str]) -> tuple[int | None, str]:
    """Step and state."""
    levels, found = (levels,) if isinstance(levels, str) else tuple(levels), (None, "")
    for count in range(len(looks), 1, -1):
        history = History(tuple(looks[:count]), confirm=1)
        step, state = number(history.now.get("step")), _judged(history, levels)[2]
        if not math.isfinite(step) or step <= 0 or state in ALARMS:
            continue
        if state == "healthy":
            return int(step), state
        found = found if found[0] is not None else (int(step), state)
    return found


def _judged(history: History, levels: Sequence[str]) -> tuple[dict[str, Judged], dict[str, str], str]:
    """The levels, the causes that hold and the state."""
    judged = {name: judge(name, history) for name in dict.fromkeys((*levels, "output"))}
    if "output" not in levels and judged["output"].state != "collapsed":
        del judged["output"]
    causes = causes_of(history, judged)
    states = {judged[name].state for name in levels if math.isfinite(judged[name].numbers["reliability"])}
    state = next((s for s in ("healthy", "weak", "unknown", "random") if s in states), "unknown")
    return judged, causes, CAUSES[next(iter(causes))].state if causes else state


def line(judgement: Verdict) -> str:
    """The verdict in one line of a terminal: agreement beside chance and initialisation, directions, state."""
    levels = [found for found in judgement.numbers.values() if isinstance(found, Mapping)]
    numbers = judgement.numbers.get("dense") or next(iter(levels), {})
    state = f"{judgement.state} ({judgement.cause})" if judgement.cause else judgement.state
    values = [number(numbers.get(key)) for key in ("reliability", "null95", "before", "rank")]
    if not all(math.isfinite(v) for v in values):
        return state
    now, chance, before, rank = values
    return (
        f"agreement between views {now:.2f} (chance {chance:.2f}, before training {before:.2f})   directions {rank:.0f}   {state}"
    )


def _short(cause: str) -> str:
    opening = CAUSES[cause].opening
    return opening[0].lower() + opening[1:].partition(":")[0]


def _aside(name: str, state: str, overall: str) -> str:
    """What to add on a level that is worse than the verdict."""
    if state == overall or state in ("unknown", "collapsed"):
        return ""
    other = "token features" if name == "pooled" else "image-level features"
    less = {"weak": "is not clearly above its own start", "random": "is within chance"}[state]
    return f" The {name} agreement {less}: rely on {other}."


def _few(name: str, judged: Judged) -> str:
    """A remark on few directions, where more were possible; rank alone is never an alarm."""
    rank, before = number(judged.numbers.get("rank")), number(judged.numbers.get("rank_before"))
    if not rank < FEW or number(judged.numbers.get("d")) < 10 * FEW:
        return ""
    few = f" Few directions carry the {name} agreement ({directions(rank)}; {before:.0f} before training)"
    return f"{few}: no alarm by itself, but look at the components."
