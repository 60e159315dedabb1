"""What the numbers of a run mean, in words: beside chance and beside the same network before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Start values, not yet calibrated on healthy runs of every objective.
POINT = 1e-4  # spread below which all images have the same features
SHRUNK = 0.01  # of the spread before training; broken objectives end below that, healthy ones above 0.4 (objectives' tests)
FALLEN_RANK = 0.3  # of its own peak; never an alarm by itself, rank also falls in healthy training
FALLEN_RELIABILITY = 0.5  # of its own peak
ERRORS = 2.0  # standard errors between two reliabilities before one is called higher
CEILING = 0.8  # reliability before training that leaves no room to tell learning from none
FEW = 3  # directions worth a remark
DENSE, BOTH = ("dense",), ("pooled", "dense")
TRAINED = {  # the levels an objective asks to agree, or to hold what tells places apart
    **dict.fromkeys(("mae", "ae", "denoise", "jepa", "adversarial"), DENSE),
    **dict.fromkeys(("cva", "byol", "vicreg", "lejepa", "dino", "distil"), BOTH),
    "simclr": ("pooled",),
}

ADVICE = {
    "collapsed": "Usually: learning rate too high after warm-up, or gradients that reach the teacher. "
    "Next: start again with half the learning rate (--set pretrain.learning_rate=...){resume}.",
    "random": "Usually: training has not started to work, or the two views share too little. "
    "Next: check that the loss fell, then train longer or raise the overlap of the views.",
    "weak": "Usually: too few steps, or an objective that does not ask for this agreement. "
    "Next: train longer, and let a few labels decide whether the features help.",
    "unknown": "Next: look for NaN or Inf in the loss and in the scans, and let a few labels decide whether the features help.",
}
OPENING = {
    "healthy": "Features are stable and not random",
    "collapsed": "Features have collapsed",
    "random": "Features do not agree beyond chance",
    "weak": "Features are not random, but not clearly more stable than before training",
    "unknown": "It cannot be said whether the features are healthy",
}


@dataclass(frozen=True)
class Verdict:
    """state: healthy, collapsed, random, weak or unknown; sentence: the state in plain words with its numbers, the usual cause
    and the next action where there is one; numbers: what it rests on, by level."""

    state: str
    sentence: str
    numbers: dict[str, dict[str, float | int | str]]


def verdict(
    initial: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, Any]],
    final: Mapping[str, Any] | None,
    level: str | Sequence[str] = "dense",
) -> Verdict:
    """Judges features by the level(s) their objective trains (`TRAINED`); never raises.

    collapsed: spread below 1e-4 without agreement beyond chance; or below 0.01 of what it was before training, without more
    agreement in as many directions as then; or, against its own best since training began, rank below 0.3 and reliability
    below 0.5 and lower by more than two standard errors. A rank alone is never an alarm.
    random: reliability within chance, or no direction beyond chance. weak: not above its own initialisation by two errors.
    unknown: a number is missing or nan, or the untrained network agrees above 0.8 already and more than now: these views are
    too easy for it, and nothing follows. Of several levels: collapsed if one is; else the best of them, the others named.

    Args: initial, final: what `watch.measure` returned before training and now; history: in between, each with "step";
          numbers may be None or nan, as read from events.jsonl; level: "pooled", "dense" or both.
    """
    levels = (level,) if isinstance(level, str) else tuple(level)
    judged = {name: _judge(name, initial, history, final) for name in levels}
    states = [state for state, _, _ in judged.values()]
    overall = next((s for s in ("collapsed", "healthy", "weak", "random") if s in states), "unknown")
    deciding = sorted(levels, key=lambda name: judged[name][0] != overall)
    sentence = f"{OPENING[overall]}: {'; '.join(judged[name][1] for name in deciding)}."
    sentence += "".join(_aside(name, judged[name][0], overall) for name in deciding)
    if overall == "healthy":
        sentence += "".join(_few(name, judged[name][2]) for name in deciding)
    else:
        best = next((judged[name][2].get("best_step") for name in deciding if judged[name][0] == "collapsed"), None)
        resume = f"; it was last at its best at step {best:,}" if best else ""
        sentence += " " + ADVICE[overall].format(resume=resume)
    return Verdict(overall, sentence, {name: {"state": state, **numbers} for name, (state, _, numbers) in judged.items()})


def line(judgement: Verdict) -> str:
    """The verdict in one line of a terminal: agreement beside chance and initialisation, directions, state."""
    numbers = judgement.numbers.get("dense") or next(iter(judgement.numbers.values()), {})
    values = [_number(numbers.get(key)) for key in ("reliability", "null95", "before", "rank")]
    if not all(math.isfinite(v) for v in values):
        return judgement.state
    now, chance, before, rank = values
    beside = f"(chance {chance:.2f}, before training {before:.2f})"
    return f"agreement between views {now:.2f} {beside}   directions {rank:.0f}   {judgement.state}"


def _judge(
    name: str, initial: Mapping[str, Any] | None, history: Sequence[Mapping[str, Any]], final: Mapping[str, Any] | None
) -> tuple[str, str, dict[str, Any]]:
    """State of one level, what to say of it, and the numbers behind."""
    before, now = _level(initial, name), _level(final, name)
    rho, chance, rank, spread, error = (_number(now.get(k)) for k in ("reliability", "null95", "rank", "spread", "error"))
    rho0, error0, spread0 = (_number(before.get(k)) for k in ("reliability", "error", "spread"))
    kept = {"reliability": rho, "null95": chance, "rank": rank, "spread": spread, "error": error, "d": _number(now.get("d"))}
    numbers = {**kept, "before": rho0, "rank_before": _number(before.get("rank"))}
    if spread < POINT and not rho > chance:
        return "collapsed", f"every image gets the same {name} features (spread {spread:.0e})", numbers
    missing = [k for k, v in (("reliability", rho), ("null95", chance), ("rank", rank)) if not math.isfinite(v)]
    if missing or not math.isfinite(rho0):
        why = now.get("why") or before.get("why") or ("it was not measured" if missing else "it was not measured before training")
        return "unknown", f"{name} agreement is not known, because {why}", numbers
    said = f"{name} agreement {rho:.2f} (chance {chance:.2f}, before training {rho0:.2f}), {_directions(rank)}"
    best = _best(name, history)
    noise = ERRORS * math.hypot(_or_zero(error), best["error"])
    better = rho - rho0 > ERRORS * math.hypot(_or_zero(error), _or_zero(error0))
    if spread < SHRUNK * spread0 and not (better and rank >= numbers["rank_before"]):
        return "collapsed", f"{said}; images differ {spread0 / spread:,.0f} times less than before training", numbers
    recent = _smooth([*history, final or {}], name)
    fell = recent["reliability"] < min(FALLEN_RELIABILITY * best["reliability"], best["reliability"] - noise)
    if fell and recent["rank"] < FALLEN_RANK * best["rank"]:
        numbers |= {"best_step": int(best["step"]), "best": best["reliability"]}
        then = f"at step {best['step']:,.0f} it was {best['reliability']:.2f} in {_directions(best['rank'])}"
        return "collapsed", f"{said}; {then}", numbers
    if rho <= chance or rank < 1:
        return "random", said, numbers
    if better:
        return "healthy", said, numbers
    if rho0 > CEILING:
        return "unknown", f"{said}; the untrained network agrees as well, so these views are too easy to tell", numbers
    return "weak", said, numbers


def _best(name: str, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Highest reliability of this level since training began, and the step and rank it came with; zeros without any look."""
    kept, best = ("reliability", "error", "rank"), {"step": 0.0, "reliability": 0.0, "error": 0.0, "rank": 0.0}
    for look in history:
        if look.get("step") == 0:
            continue  # untrained
        found = {key: _number(_level(look, name).get(key)) for key in kept}
        if found["reliability"] > best["reliability"]:
            best = {"step": _or_zero(_number(look.get("step"))), **{key: _or_zero(value) for key, value in found.items()}}
    return best


def _smooth(looks: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Median of the last three looks: one bad look is no alarm."""
    last = [_level(look, name) for look in looks[-3:]]
    return {k: _median([v for v in (_number(look.get(k)) for look in last) if math.isfinite(v)]) for k in ("reliability", "rank")}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else math.nan


def _aside(name: str, state: str, overall: str) -> str:
    """What to add on a level that is worse than the verdict."""
    if state == overall or state == "unknown" or overall == "collapsed":
        return ""
    other = "token features" if name == "pooled" else "image-level features"
    less = {"weak": "is not clearly above its own start", "random": "is within chance"}[state]
    return f" The {name} agreement {less}: rely on {other}."


def _few(name: str, numbers: Mapping[str, Any]) -> str:
    """A remark on few directions, where more were possible; rank alone is never an alarm."""
    rank, before = _number(numbers.get("rank")), _number(numbers.get("rank_before"))
    if not rank < FEW or _number(numbers.get("d")) < 10 * FEW:
        return ""
    few = f" Few directions carry the {name} agreement ({rank:.0f}; {before:.0f} before training)"
    return f"{few}: no alarm by itself, but look at the components."


def _directions(rank: float) -> str:
    return f"{rank:.0f} direction" + ("" if round(rank) == 1 else "s")


def _level(look: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    return (look or {}).get(name) or {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
