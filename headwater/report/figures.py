"""The charts of a run: what was found, how training went, what the labels bought. Each comes with its words and its table."""

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from headwater.report.charts import Axis, Level, Line, chart, finite, short
from headwater.report.record import Record, mapping, number, rows
from headwater.report.strips import intervals

ARMS = {"scratch": ("scratch", "circle"), "frozen": ("frozen", "square"), "fine-tuned": ("tuned", "diamond")}
ARMS |= {"random-frozen": ("other3", "square"), "self-taught": ("other2", "diamond")}
OTHER_ARMS = (("other1", "circle"), ("other2", "square"), ("other3", "diamond"))
PARTS = {  # names in the events -> words
    "reconstruction": "hidden voxels filled in",
    "consistency": "two views of a place alike",
    "contrast": "scans told apart",
}
NULLS = {"reliability": "null95", "rank": "rank_null95"}
LEVELS = {"pooled": "whole scan", "dense": "single tokens"}
BAND = "The green band: healthy runs that begin alike, 10th to 90th percentile. They were small: take its shape, not its height."


@dataclass(frozen=True)
class Figure:
    """A drawing, the sentence under it, and the same numbers as a table."""

    title: str
    drawing: Markup
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def some(items: list, most: int) -> list:
    """At most `most` of the items, evenly spread, first and last among them."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _smooth(x: list[float], y: list[float], bins: int = 60) -> tuple[list[float], list[float]]:
    """Means of `bins` equal stretches of a curve."""
    size = max(1, -(-len(x) // bins))
    pieces = [(x[at : at + size], y[at : at + size]) for at in range(0, len(x), size)]
    return [sum(a) / len(a) for a, _ in pieces], [sum(b) / len(b) for _, b in pieces]


def losses(record: Record) -> list[Figure]:
    """The loss and each of its parts against the step, raw (thin) and averaged."""
    names = list(dict.fromkeys(name for event in record.steps for name in mapping(event.get("parts"))))
    series = {"loss": [(number(event.get("step")), number(event.get("loss"))) for event in record.steps]}
    for name in names if len(names) > 1 else []:
        series[name] = [(number(event.get("step")), number(mapping(event.get("parts")).get(name))) for event in record.steps]
    figures = []
    for name, pairs in series.items():
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
        if not pairs:
            continue
        x, y = [list(column) for column in zip(*pairs, strict=True)]
        kind = "log" if min(y) > 0 and max(y) > 30 * min(y) else "linear"
        raw = some(pairs, 400)
        lines = [Line(name, [a for a, _ in raw], [b for _, b in raw], "ink", faint=True), Line("", *_smooth(x, y), "water")]
        title = "Loss" if name == "loss" else f"Its part {name}" + (f": {PARTS[name]}" if name in PARTS else "")
        alt = f"{title}: {short(y[0])} at step {short(x[0])}, {short(y[-1])} at step {short(x[-1])}, lowest {short(min(y))}."
        drawing = chart(
            lines, Axis("step", include=(0.0,)), Axis("log scale" if kind == "log" else "lower is better", kind), alt=alt
        )
        table = tuple((f"{a:,.0f}", f"{b:.4g}") for a, b in some(pairs, 12))
        figures.append(Figure(title, drawing, "", ("step", name), table))
    return figures


def _reference(record: Record, stage: str, level: str, quantity: str) -> float:
    """A value of observe.json; for the initial stage, the watch at step 0 when there is none."""
    source = mapping(record.observed.get(stage))
    value = number(mapping(source.get(level)).get(quantity))
    if math.isnan(value) and stage == "initial":
        value = next(
            (number(mapping(w.get(level)).get(quantity)) for w in record.watches if number(w.get("step")) == 0), math.nan
        )
    return value


def watch(record: Record) -> list[Figure]:
    """Reliability and signal rank of whole scans and of tokens, against their chance level and the value before training."""
    figures = []
    for level, words in LEVELS.items():
        events = [event for event in record.watches if isinstance(event.get(level), dict)]
        x = [number(event.get("step")) for event in events]
        for quantity, title, unit in (
            ("reliability", "Agreement between views", "agreement"),
            ("rank", "Directions that agree", "directions"),
        ):
            y = [number(event[level].get(quantity)) for event in events]
            if not finite(y):
                continue
            null = [number(event[level].get(NULLS[quantity])) for event in events]
            before = _reference(record, "initial", level, quantity)
            pixels = _reference(record, "pixels", level, quantity)
            levels = [Level("untrained", before, "before"), Level("pixels", pixels, "pixel")]
            chance = None
            if finite(null):
                chance = Line("chance", x, null, "chance")
                levels.append(Level("chance", finite(null)[-1], "nothing"))
            alt = f"{title}, {words}: now {short(finite(y)[-1])}, before training {short(before)}, pixels alone {short(pixels)}"
            alt += f", chance below {short(finite(null)[-1])}." if chance else "."
            lines = [*_usual(events, x, level, quantity), Line("", x, y, "water", mark="circle" if len(x) <= 24 else "")]
            drawing = chart(
                lines, Axis("step", include=(0.0,)), Axis(unit, include=(0.0,)), alt=alt, levels=levels, chance=chance
            )
            table = tuple(
                (f"{a:,.0f}", short(b), short(c)) if chance else (f"{a:,.0f}", short(b))
                for a, b, c in some(list(zip(x, y, null, strict=True)), 24)
            )
            head = ("step", quantity, "chance, 95 % below") if chance else ("step", quantity)
            figures.append(Figure(f"{title}, {words}", drawing, BAND if len(lines) > 1 else "", head, table))
    return figures


def _usual(events: list[dict[str, Any]], x: list[float], level: str, quantity: str) -> list[Line]:
    """The band of healthy runs that started alike, where the looks hold one."""
    ends = [mapping(mapping(event.get("usual")).get(level)).get(quantity) for event in events]
    if not any(isinstance(end, list) and len(end) == 2 for end in ends):
        return []
    low, high = ([number(end[side]) if isinstance(end, list) and len(end) == 2 else math.nan for end in ends] for side in (0, 1))
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    return [Line("healthy runs", x, middle, "other2", low=low, high=high, faint=True)]


def arms(record: Record) -> dict[str, tuple[str, str]]:
    """Each arm's tone and mark, in the order of the summary."""
    names = [str(row.get("arm")) for row in rows(record.summary.get("table"))]
    listed = record.summary.get("arms")
    names = list(dict.fromkeys([*(map(str, listed) if isinstance(listed, list) else []), *names]))
    return {name: ARMS.get(name, OTHER_ARMS[index % 3]) for index, name in enumerate(names)}


def points_of_dice(record: Record) -> float:
    """100 if the summary's Dice lies in [0, 1], so that the page speaks of points of 100; else 1."""
    means = finite([number(row.get("mean")) for row in rows(record.summary.get("table"))])
    return 100.0 if not means or max(means) <= 1 else 1.0


def interval(row: dict[str, Any], key: str, scale: float) -> tuple[float, float, float]:
    """(value, low, high) of a row, in points."""
    return number(row.get(key)) * scale, number(row.get("low")) * scale, number(row.get("high")) * scale


def learning(record: Record) -> list[Figure]:
    """Dice against the number of labelled subjects (one scan of each), a curve for each arm; small dots are single draws."""
    table, scale = rows(record.summary.get("table")), points_of_dice(record)
    lines, dots = [], []
    for arm, (tone, kind) in arms(record).items():
        mine = sorted(
            (row for row in table if str(row.get("arm")) == arm and number(row.get("count")) > 0),
            key=lambda row: number(row["count"]),
        )
        values = [interval(row, "mean", scale) for row in mine]
        x = [number(row["count"]) for row in mine]
        if finite([value[0] for value in values]):
            mean, low, high = ([value[index] for value in values] for index in range(3))
            lines.append(Line(arm, x, mean, tone, low, high, kind))
        draws: dict[tuple[float, str], list[float]] = {}
        for row in record.scores:
            if row.get("arm") == arm and number(row.get("count")) > 0 and math.isfinite(number(row.get("dice"))):
                draws.setdefault((number(row["count"]), str(row.get("draw"))), []).append(number(row["dice"]) * scale)
        dots += [(count, sum(dice) / len(dice), tone) for (count, _), dice in draws.items()]
    if not lines:
        return []
    counts = sorted({value for line in lines for value in line.x})
    axis = Axis("labelled subjects, one scan each", "log2", ticks=tuple((count, short(count)) for count in counts))
    alt = "Mean Dice by number of labels. " + " ".join(
        f"{line.name}: " + ", ".join(f"{short(y)} at {short(x)}" for x, y in zip(line.x, line.y, strict=True)) + "."
        for line in lines
    )
    drawing = chart(lines, axis, Axis("Dice, points of 100"), alt=alt, dots=dots)
    banded = any(finite(line.low) for line in lines)
    caption = "Bands are intervals of the mean; small" if banded else "There is no interval: it takes two test subjects. Small"
    caption += " dots are single draws of the labelled subjects."
    return [Figure("Dice by number of labels", drawing, caption, (), ())]


def gains(record: Record) -> list[Figure]:
    """Paired gain of each pretrained arm over training from scratch, with its interval."""
    scale, styles = points_of_dice(record), arms(record)
    entries, table = [], []
    for row in sorted(rows(record.summary.get("gains")), key=lambda row: number(row.get("count"))):
        value, low, high = interval(row, "gain", scale)
        if not math.isfinite(value):
            continue
        arm, count = str(row.get("arm")), number(row.get("count"))
        tone, kind = styles.get(arm, OTHER_ARMS[0])
        entries.append(
            (f"{short(count)} label" + ("" if count == 1 else "s"), Line(arm, [count], [value], tone, [low], [high], kind))
        )
        ends = f"{low:.1f} to {high:.1f}" if finite([low, high]) == [low, high] else "none"
        table.append((short(count), arm, f"{value:+.1f}", ends, str(row.get("sentence") or "")))
    if not entries:
        return []
    alt = "Gain over training from scratch. " + " ".join(f"{a} labels, {b}: {c}, interval {d}." for a, b, c, d, _ in table)
    drawing = intervals(entries, "points of Dice gained over scratch", alt=alt)
    told = any(ends != "none" for *_, ends, _ in table)
    caption = "Paired by draw and subject. "
    caption += (
        "An interval that crosses the line: no evidence of a difference."
        if told
        else "There is no interval: it takes two test subjects."
    )
    head = ("labels", "arm", "gain", "interval", "in words")
    return [Figure("Gain over training from scratch", drawing, caption, head, tuple(table))]
