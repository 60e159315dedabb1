"""Reads looks without trusting them, and judges the agreement of one level: pooled, dense or the head's output."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

POINT = 1e-4  # spread below which all images have the same features
SHRUNK = 0.01  # of the spread before training; broken objectives end below that, healthy ones above 0.4 (objectives' tests)
FALLEN_RANK = 0.3  # of its own peak; never an alarm by itself, rank also falls in healthy training
FALLEN_RELIABILITY = 0.5  # of its own peak
SEVERAL = 3.5  # directions: from fewer it cannot be told that they have become few
NOISY = 0.1  # spread of features that differ between images though they do not agree
ERRORS = 2.0  # standard errors between two reliabilities before one is called higher
CEILING = 0.8  # reliability before training that leaves no room to tell learning from none
SMOOTH = 3  # looks behind a median: one bad look is no alarm
KEPT = ("reliability", "null95", "rank", "spread", "error", "d")
NOT_FINITE = "not finite"  # how a look words NaN and Inf in its `why`


@dataclass(frozen=True)
class Judged:
    """One level: state (healthy, weak, random, collapsed, unknown), cause (point, dimensional, noise or none), words, numbers."""

    state: str
    said: str
    numbers: dict[str, Any]
    cause: str = ""


@dataclass(frozen=True)
class History:
    """Looks at one model, the first before training, the last now. What is missing or malformed reads as nan or empty.

    confirm: looks in a row that must show a symptom before it is believed.
    """

    looks: tuple[Any, ...]  # mappings, once made
    confirm: int = 2
    since: tuple[Mapping[str, Any], ...] = field(init=False)  # looks since training began; all of them if there is only one

    def __post_init__(self):
        looks = tuple(mapping(look) for look in self.looks)
        object.__setattr__(self, "looks", looks)
        trained = tuple(look for look in looks[1:] if look.get("step") != 0)
        object.__setattr__(self, "since", trained or looks[-1:])

    @property
    def before(self) -> Mapping[str, Any]:
        """The look before training; empty if there is only one look."""
        return self.looks[0] if len(self.looks) > 1 else {}

    @property
    def now(self) -> Mapping[str, Any]:
        """The last look."""
        return self.looks[-1] if self.looks else {}

    @property
    def recent_looks(self) -> tuple[Mapping[str, Any], ...]:
        """The looks that have to confirm each other."""
        return self.since[-self.confirm :]

    def recent(self, name: str) -> list[float]:
        """The last values of a panel's number since training began, newest last, no more than have to confirm each other.

        Empty if the last look does not have it.
        """
        values = [value(look, name) for look in self.recent_looks]
        return [v for v in values if math.isfinite(v)] if values and math.isfinite(values[-1]) else []

    def start(self, name: str) -> float:
        """A panel's number before training: of the first look, else what the last one holds beside it."""
        found = value(self.before, name)
        return found if math.isfinite(found) else value(self.now, name, "null")


def level(look: Any, name: str) -> Mapping[str, Any]:
    """The numbers of one level in a look; empty if it has none."""
    return mapping(mapping(look).get(name))


def entry(look: Any, name: str) -> Mapping[str, Any]:
    """One number of a look's panel, with its null and words; empty if it is not there."""
    return level(mapping(look).get("panel"), name)


def value(look: Any, name: str, which: str = "value") -> float:
    """One number of a look's panel; nan if it is not there."""
    return number(entry(look, name).get(which))


def number(found: Any) -> float:
    """What a file holds as a float; nan if it is none."""
    try:
        return float(found) if isinstance(found, (int, float)) else math.nan
    except OverflowError:  # an integer of more than 308 digits
        return math.nan


def words(found: Any) -> str:
    """What a file holds as text; empty if it is none."""
    return found if isinstance(found, str) else ""


def mapping(found: Any) -> Mapping[str, Any]:
    """What a file holds as a mapping; empty if it is none."""
    return found if isinstance(found, Mapping) else {}


def judge(name: str, history: History) -> Judged:
    """State of one level, what to say of it, and the numbers behind.

    collapsed, point: spread below 1e-4 without agreement beyond chance; or below 0.01 of what it was before training, without
    more agreement in as many directions as then (not of a head's output, whose offset centring takes away).
    collapsed, dimensional: against its own best since training began, rank below 0.3 and reliability below 0.5 and lower by
    more than two standard errors. random: reliability within chance in two looks; noise if images differ all the same.
    weak: not above its own initialisation by two errors. unknown: a number is missing or nan, or the untrained network agrees
    above 0.8 already and more than now.
    """
    before, now = level(history.before, name), level(history.now, name)
    kept = {key: number(now.get(key)) for key in KEPT}
    rho, chance, rank, spread, error, _ = kept.values()
    rho0, error0, spread0, rank0 = (number(before.get(k)) for k in ("reliability", "error", "spread", "rank"))
    numbers = {**kept, "before": rho0, "rank_before": rank0}
    if spread < POINT and not rho > chance:
        return Judged("collapsed", f"every image gets the same {_of(name)} (spread {spread:.0e})", numbers, "point")
    missing = [k for k, v in (("reliability", rho), ("null95", chance), ("rank", rank)) if not math.isfinite(v)]
    if missing or not math.isfinite(rho0):
        why = words(now.get("why")) or words(before.get("why"))
        why = why or ("it was not measured" if missing else "it was not measured before training")
        return Judged("unknown", f"{name} agreement is not known, because {why}", numbers)
    said = f"{name} agreement {rho:.2f} (chance {chance:.2f}, before training {rho0:.2f}), {directions(rank)}"
    random = _random(name, history)
    better = rho - rho0 > ERRORS * math.hypot(or_zero(error), or_zero(error0))
    if name != "output" and spread < SHRUNK * spread0 and not (better and rank >= rank0):
        less = f"images differ {spread0 / spread:,.0f} times less" if spread > 0 else "images do not differ"
        return Judged("collapsed", f"{said}; {less} than before training" if spread > 0 else f"{said}; {less}", numbers, "point")
    if random and spread > NOISY:
        return Judged("random", said, numbers, "noise")
    fallen = _fallen(name, history)
    if fallen:
        numbers |= {"best_step": int(fallen["step"]), "best": fallen["reliability"]}
        then = f"at step {fallen['step']:,.0f} it was {fallen['reliability']:.2f} in {directions(fallen['rank'])}"
        return Judged("collapsed", f"{said}; {then}", numbers, "dimensional")
    if random:
        return Judged("random", said, numbers)
    if better:
        return Judged("healthy", said, numbers)
    if rho0 > CEILING:
        easy = "the untrained network agrees as well, so these views are too easy to tell"
        return Judged("unknown", f"{said}; {easy}", numbers)
    return Judged("weak", said, numbers)


def _random(name: str, history: History) -> bool:
    seen = [level(look, name) for look in history.recent_looks]
    return all(not number(one.get("reliability")) > number(one.get("null95")) for one in seen)


def _of(name: str) -> str:
    return "output of the head" if name == "output" else f"{name} features"


def _fallen(name: str, history: History) -> dict[str, float]:
    """The best look of this level since training began, if rank and reliability have both fallen far from it; else empty."""
    best = _best(name, history.since[:-1])
    recent = _smooth(history.since if history.confirm > 1 else history.since[-1:], name)
    noise = ERRORS * math.hypot(or_zero(number(level(history.now, name).get("error"))), best["error"])
    lower = recent["reliability"] < min(FALLEN_RELIABILITY * best["reliability"], best["reliability"] - noise)
    return best if lower and best["rank"] >= SEVERAL and recent["rank"] < FALLEN_RANK * best["rank"] else {}


def _best(name: str, looks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Highest reliability of this level, and the step and rank it came with; zeros without any look."""
    kept, best = ("reliability", "error", "rank"), {"step": 0.0, "reliability": 0.0, "error": 0.0, "rank": 0.0}
    for look in looks:
        found = {key: number(level(look, name).get(key)) for key in kept}
        if found["reliability"] > best["reliability"]:
            best = {"step": or_zero(number(look.get("step"))), **{key: or_zero(v) for key, v in found.items()}}
    return best


def _smooth(looks: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    last = [level(look, name) for look in looks[-SMOOTH:]]
    return {k: _median([v for v in (number(look.get(k)) for look in last) if math.isfinite(v)]) for k in ("reliability", "rank")}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else math.nan


def directions(rank: float) -> str:
    """A rank in words."""
    return f"{rank:.0f} direction" + ("" if round(rank) == 1 else "s")


def or_zero(found: float) -> float:
    """The number, 0 if it is not finite."""
    return found if math.isfinite(found) else 0.0
