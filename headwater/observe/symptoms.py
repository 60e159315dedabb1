"""How each cause shows in the looks at a run: a rule returns the numbers that say so, in words, or nothing."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from headwater.observe.causes import CAUSES
from headwater.observe.levels import NOISY, NOT_FINITE, SEVERAL, History, Judged
from headwater.observe.levels import entry, level, mapping, number, or_zero, value, words

EQUAL = 1e-7  # relative difference of teacher's and student's weights that is rounding; averages of late training keep 1e-5
STILL = 1e-5  # change of weights, and of features, after which nothing has been learned
BLOWN = 10.0  # times their size before training, in two looks; healthy small runs change by 0.15 at most
RISEN = 10.0  # times the first loss, in two looks: the rate is too high, whatever features still agree on
WARMING = 20  # steps before which one look at weights that did not move says nothing: warm-up, accumulation
UNIFORM = 1e-3  # |loss - ln K| of a uniform output: 8.3178 of 8.3177662 in the threads on K = 4096
LOOKING_AT_ONE = 0.25  # share of heads whose attention has fallen on single tokens
MOST_AT_ONE = 0.5  # of the heads: believed after one look, since healthy attention never comes near
OVERSMOOTHED = 0.95  # image share of the tokens' variance; healthy 0.26, oversmoothed 0.998 in the facts
ALIKE = 0.95  # cosine of an image's tokens, if they were not so alike before training
CLOSER = 0.05  # of what tokens differed by before training (1 - cosine); healthy runs on bright and dark pictures reach 0.07
PLACED = 0.8  # position share of the tokens' variance; positional features 0.995
UNUSED = 0.2  # of the prototypes that rows as sharp would fall on by chance
SOLVED = 0.5  # of ln K: a loss below that with few prototypes in use is one for all, both sides sure of it
TWINS = 0.5  # of the effective heads before training
MOST_LAYERS = 0.75  # of the layers, since the last ones narrow in healthy runs too
ORDERLESS = 1e-5  # dependence on order that is rounding (1e-7 without positions; 1: as another image); learned ones start at 2e-5
LOST = 0.6  # of the agreement before training; healthy runs keep 0.75 and more at one level at least
FEW, LINE = 2.0, 3.0  # directions that agree, and that there are (RankMe, which counts the offset as one), of features on a line
NARROWED = 0.3  # of the RankMe before training
DECAYED, SCATTERED = 0.8, 0.75  # of their own peaks, agreement and locality of tokens; healthy runs keep 0.9 of the one
BY_GROUP = (
    0.5  # agreement that goes with the means of groups (scanner, site); 0.37 at most in healthy runs on two made-up scanners
)
EXPLAINED = 0.85  # R2 of pooled features from an image's intensities
MORE_EXPLAINED = 0.2  # above the R2 before training

Levels = Mapping[str, Judged]
Rule = Callable[[History, Levels], str]


def found(history: History, levels: Levels) -> dict[str, str]:
    """The causes that hold, in the order of priority, and the numbers that say so. levels: judged, "output" among them."""
    seen = {name: RULES[name](history, levels) for name in CAUSES}
    return {name: said for name, said in seen.items() if said}


def _diverged(history: History, levels: Levels) -> str:
    """Not if features were broken before training: then the scans or the model are."""
    for name in levels:
        why, before = (words(level(look, name).get("why")) for look in (history.now, history.before))
        if NOT_FINITE in why and history.before and NOT_FINITE not in before:
            return why
    moved = history.recent("weights")
    if history.before and len(moved) >= history.confirm and min(moved) > BLOWN:
        return f"weights changed by {moved[-1]:.0f} times their size {_after(history)}"
    loss, told = entry(history.now, "loss"), [value(look, "loss") for look in history.since]
    told = [one for one in told if math.isfinite(one)]
    if len(told) > history.confirm and 0 < RISEN * told[0] < min(told[-history.confirm :]):
        return f"the loss is {told[-1]:.3g}, and was {told[0]:.3g} at the first look that was told one"
    return "the loss is not finite" if math.isinf(number(loss.get("value"))) or NOT_FINITE in words(loss.get("why")) else ""


def _alias(history: History, levels: Levels) -> str:
    if "same tensors" in words(entry(history.now, "teacher").get("why")):
        return "both hold the same tensors (or the watch was given one of them twice)"
    apart = history.recent("teacher")
    if not history.before or not apart or max(map(abs, apart)) > EQUAL or _still(history):
        return ""
    return f"their weights are equal (to {EQUAL:.0e}) {_after(history)}"


def _unlearned(history: History, levels: Levels) -> str:
    if not _still(history):
        return ""
    changed = f", features by {_or_less(history.recent('change')[-1])}" if history.recent("change") else ""
    return f"weights changed by {_or_less(history.recent('weights')[-1])} of their size{changed} {_after(history)}"


def _still(history: History) -> bool:
    moved = history.recent("weights")
    early = len(moved) == 1 and number(history.now.get("step")) < WARMING
    if not history.before or not moved or early:
        return False
    return not any(moved) or max(map(abs, moved + history.recent("change"))) < STILL  # running means of norms move by themselves


def _or_less(size: float) -> str:
    return f"{size:.0e}" if 1e-12 < abs(size) < 1e-2 else f"{size:.2g}" if abs(size) > 1e-12 else "0"


def _after(history: History) -> str:
    step = number(history.now.get("step"))
    return f"after {step:,.0f} steps" if step > 0 else "after training"


def _stuck(history: History, levels: Levels) -> str:
    gap = history.recent("loss.gap")
    if not history.before or not gap or max(map(abs, gap)) > UNIFORM:
        return ""
    return f"loss less ln K is {gap[-1]:+.0e}, as of a uniform output"


def _entropy(history: History, levels: Levels) -> str:
    low, start = history.recent("entropy.low"), history.start("entropy.low")
    if not low or not start <= LOOKING_AT_ONE or (min(low) <= LOOKING_AT_ONE and low[-1] <= MOST_AT_ONE):
        return ""
    return f"{low[-1]:.0%} of heads look at one token (entropy below 0.05), {start:.0%} before training{_worst(history, max)}"


def _prototype(history: History, levels: Levels) -> str:
    """Few are used, and outputs have collapsed or the loss has nothing left to ask. Few alone is usual before training."""
    use, chance = history.recent("prototypes.use"), value(history.now, "prototypes.use", "null")
    loss, gap = (history.recent(name) for name in ("loss", "loss.gap"))
    solved = bool(loss and gap) and loss[-1] < SOLVED * (loss[-1] - gap[-1])
    collapsed = "output" in levels and levels["output"].cause == "point"
    if not history.before or not use or not max(use) < UNUSED * chance or not (solved or collapsed):
        return ""
    why = f"loss {loss[-1]:.3f} of ln K = {loss[-1] - gap[-1]:.2f}" if solved else levels["output"].said
    return f"{use[-1]:.1%} of prototypes are used (chance {chance:.1%}); {why}"


def _token(history: History, levels: Levels) -> str:
    share, alike = history.recent("variance.image"), history.recent("similarity")
    if share and min(share) > OVERSMOOTHED:
        return f"the image alone makes {share[-1]:.2f} of the tokens' variance{_was(history, 'variance.image')}{_where(history)}"
    if alike and min(alike) > ALIKE and 1 - min(alike) < CLOSER * (1 - history.start("similarity")):
        return f"tokens of one image agree to {alike[-1]:.2f}{_was(history, 'similarity')}{_where(history)}"
    return ""


def _was(history: History, name: str) -> str:
    start = value(history.before, name)
    return f", {start:.2f} before training" if math.isfinite(start) else ""


def _where(history: History) -> str:
    """The layer that brings the tokens closest."""
    curve = [number(v) for v in _curve(history.now, "similarity")]
    growth = [after - before for before, after in zip(curve[:-1], curve[1:], strict=True)]
    if not growth or not all(map(math.isfinite, growth)) or max(growth) < 0.1:
        return ""
    return f"; layer {growth.index(max(growth)) + 1} does most of it (+{max(growth):.2f})"


def _curve(look: Mapping[str, Any], name: str) -> list[Any]:
    curve = mapping(look.get("layers")).get(name)
    return curve if isinstance(curve, list) else []


def _worst(history: History, pick: Callable[[list[float]], float], name: str = "entropy_low") -> str:
    curve = [number(v) for v in _curve(history.now, name)]
    return f"; worst in layer {curve.index(pick(curve)) + 1}" if len(curve) > 1 and all(map(math.isfinite, curve)) else ""


def _position(history: History, levels: Levels) -> str:
    share = history.recent("variance.position")
    if not share or min(share) <= PLACED or value(history.before, "variance.position") > PLACED:
        return ""
    return f"position alone makes {share[-1]:.2f} of the tokens' variance{_was(history, 'variance.position')}"


def _head(history: History, levels: Levels) -> str:
    looks = history.recent_looks
    if not looks or not all(_twins(look, history) > MOST_LAYERS for look in looks):
        return ""
    least = f"{value(history.now, 'heads.effective'):.2f}{_was(history, 'heads.effective')}"
    return f"different heads, as a share of all in a layer: {least}{_worst(history, min, 'effective')}"


def _twins(look: Mapping[str, Any], history: History) -> float:
    """Share of the layers whose effective heads are fewer than half of what they were before training."""
    now, before = ([number(v) for v in _curve(seen, "effective")] for seen in (look, history.before))
    if not now or len(now) != len(before):
        now, before = [value(look, "heads.effective")], [history.start("heads.effective")]
    return sum(a < TWINS * b for a, b in zip(now, before, strict=True)) / len(now)


def _shortcut(history: History, levels: Levels) -> str:
    if "pooled" not in levels:
        return ""
    looks = history.recent_looks
    if looks and all(_by_group(look) for look in looks):
        rho, group, chance = *_group(history.now), value(history.now, "shortcut.group", "null")
        return f"pooled agreement is {rho:.2f}, but {group:.2f} within a group (chance {chance:.2f})"
    told, start = history.recent("shortcut.intensity"), history.start("shortcut.intensity")
    if told and min(told) > max(EXPLAINED, start + MORE_EXPLAINED) and math.isfinite(start):
        return f"the image's intensities explain {told[-1]:.2f} of the pooled features, {start:.2f} before training"
    return ""


def _group(look: Mapping[str, Any]) -> tuple[float, float]:
    """Pooled agreement, and the same within groups."""
    return number(level(look, "pooled").get("reliability")), value(look, "shortcut.group")


def _by_group(look: Mapping[str, Any]) -> bool:
    """Half of full agreement goes with the groups, or all there is of it, if that is a quarter at least."""
    (whole, within), chance = _group(look), value(look, "shortcut.group", "null")
    return whole - within > (BY_GROUP / 2 if within <= chance else BY_GROUP)


def _noise(history: History, levels: Levels) -> str:
    """No level that is trained agrees as it did, though images differ and directions are there."""
    trained = {n: judged for n, judged in levels.items() if n != "output" and math.isfinite(judged.numbers["reliability"])}
    fallen = any(judged.cause == "dimensional" for judged in trained.values())
    if (_narrowed(history) if history.recent("rankme") else fallen) or not all(_lost(history, *one) for one in trained.items()):
        return ""
    spread = [judged for judged in trained.values() if or_zero(judged.numbers["spread"]) > NOISY]
    return "; ".join(judged.said.partition(";")[0] for judged in spread)


def _lost(history: History, name: str, judged: Judged) -> bool:
    rho = [number(level(look, name).get("reliability")) for look in history.recent_looks]
    lower = all(now < LOST * judged.numbers["before"] for now in rho)
    return judged.state == "random" or judged.cause == "dimensional" or lower


def _narrowed(history: History) -> bool:
    """Whether far fewer directions are there than before training, whatever they hold."""
    exist = history.recent("rankme")
    return bool(exist) and max(exist) < NARROWED * value(history.before, "rankme")


def _dimensional(history: History, levels: Levels) -> str:
    """Agreement and its directions have fallen, and not into noise; or few directions agree, and few are there."""
    said = "" if _noise(history, levels) else _level("dimensional")(history, levels)
    exist = history.recent("rankme")
    if not said and _narrowed(history) and max(exist) < LINE:
        said = "; ".join(judged.said for name, judged in levels.items() if name != "output" and _few(judged))
    return f"{said}; RankMe {exist[-1]:.1f}{_was(history, 'rankme')}" if said and exist else said


def _few(judged: Judged) -> bool:
    return judged.numbers["rank"] < FEW and judged.numbers["rank_before"] >= SEVERAL


def _level(cause: str) -> Rule:
    def rule(history: History, levels: Levels) -> str:
        mine = [judged.said for judged in levels.values() if judged.cause == cause]
        return "; ".join(mine)

    return rule


def _order(history: History, levels: Levels) -> str:
    """Measured seldom: the newest two values since training began, or the only one."""
    seen = [v for v in (value(look, "order") for look in history.since) if math.isfinite(v)][-history.confirm :]
    start = value(history.before, "order")
    attends = any(math.isfinite(value(history.now, name)) for name in ("entropy.low", "heads.effective"))
    if not history.before or not seen or not max(seen) < ORDERLESS or not (attends or start > ORDERLESS):
        return ""
    return f"exchanging tokens changes the last layer by {_or_less(seen[-1])}{_was(history, 'order')} (1: as another image would)"


def _decay(history: History, levels: Levels) -> str:
    if "dense" not in levels or len(history.since) < 2:
        return ""
    rows = [(number(level(look, "dense").get("reliability")), value(look, "locality")) for look in history.since]
    rho, near = (max((v for v in column if math.isfinite(v)), default=math.nan) for column in zip(*rows, strict=True))
    recent = rows[-history.confirm :]
    if not all(a < DECAYED * rho and b < SCATTERED * near for a, b in recent):
        return ""
    peak = history.since[[row[0] for row in rows].index(rho)]
    then, now = (number(level(look, "pooled").get("reliability")) for look in (peak, history.now))
    at = f" at step {number(peak.get('step')):,.0f}" if math.isfinite(number(peak.get("step"))) else " at their best"
    local = f"locality {recent[-1][1]:.2f} (best {near:.2f})"
    return f"dense agreement {recent[-1][0]:.2f} ({rho:.2f}{at}), {local}, pooled agreement {now - then:+.2f} since"


RULES: Mapping[str, Rule] = {
    "diverged": _diverged,
    "alias": _alias,
    "unlearned": _unlearned,
    "stuck": _stuck,
    "entropy": _entropy,
    "prototype": _prototype,
    "point": _level("point"),
    "token": _token,
    "position": _position,
    "head": _head,
    "shortcut": _shortcut,
    "noise": _noise,
    "dimensional": _dimensional,
    "order": _order,
    "decay": _decay,
}
