"""The page's section on how the voxels are distributed: a plot for each question, its numbers beside their chance level."""

import math
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from headwater.report.charts import Axis, Level, Line, Real, chart, finite, short
from headwater.report.figures import Figure, some
from headwater.report.record import Record, mapping, number, numbers, rows
from headwater.report.strips import bars, beside

PARTS = (  # heading, why one asks, (plot, findings it shows)
    (
        "Gaussian or not",
        "Values along directions that can tell, beside the Gaussian; on a log scale of the density, tails show.",
        (
            ("histogram intensity", ("tails of single voxels",)),
            ("histogram neighbour", ("tails of differences of neighbouring voxels",)),
            ("histogram wavelet", ("tails of wavelet details", "shape of wavelet details")),
            ("histogram principal", ("tails of leading principal axes of patches",)),
        ),
    ),
    (
        "How far structure reaches",
        "Power at each spatial frequency, and how alike two voxels are by the distance between them.",
        (("spectrum", ("slope of the power spectrum",)), ("autocorrelation", ("correlation length",))),
    ),
    (
        "In how many ways patches vary",
        "By the two nearest neighbours of each patch, which follow bent sheets as well, and by the best linear code.",
        (
            ("neighbours", ("intrinsic dimension",)),
            ("dimension by number", ()),
            ("linear code", tuple(f"components for {share} % of the variance" for share in (50, 90, 95, 99))),
        ),
    ),
    (
        "Beyond mean and covariance",
        "Probes tell classes apart, in real patches and in Gaussian clones: what they lose on clones is in higher orders.",
        (("clone gap", ("clone gap", "clone gap of a linear probe", "probe accuracy")),),
    ),
)  # fmt: skip
TONES = {  # series of a plot -> tone, name on the page
    "scans": ("water", "scans"), "patches": ("water", "patches"), "real patches": ("water", "real patches"),
    "fitted line": ("frozen", "fit"), "shuffled voxels": ("ink", "shuffled"), "white noise": ("ink", "white noise"),
    "Gaussian": ("ink", "Gaussian"), "Gaussian clones": ("scratch", "Gaussian clones"), "chance": ("ink", "chance"),
}  # fmt: skip
LENGTHS = ("mm", "voxels")  # units that stand behind their number, however small it is
CAPTIONS = {  # plot -> how to read it
    "histogram": "What lies beyond 6 standard deviations is in the outermost points.",
    "spectrum": "The line is fitted where it is drawn; the scale of the power is arbitrary.",
    "autocorrelation": "The curve is the mean of the scans; the mark at 1/e is the correlation length, the middle of the scans.",
    "neighbours": "The slope of the line is the dimension. The Gaussian has the covariance and the number of the patches.",
    "dimension by number": "Fewer patches have farther neighbours: where this is not level, scale matters. Whiskers: 95 %.",
    "linear code": "Components fitted on half of the subjects, tested on the others. Diamonds: 50, 90, 95 and 99 %.",
    "clone gap": "Shares right on subjects the probe has not seen, classes weighing the same, with 95 % intervals.",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """One number: what it is of, itself with its interval, what it is where there is nothing (null), its sentence, a drawing."""

    name: str
    value: str
    interval: str
    null: str
    sentence: str
    drawing: Markup


@dataclass(frozen=True)
class Card:
    """A figure (None where it could not be measured) and what is read off it."""

    title: str
    figure: Figure | None
    readings: tuple[Reading, ...]


def section(record: Record) -> dict[str, Any] | None:
    """Everything the template says of the distribution; None where it was not measured."""
    told = record.distribution
    if not told:
        return None
    findings = {_key(row.get("name")): row for row in rows(told.get("findings"))}
    plots = {str(row.get("name")): row for row in rows(told.get("plots"))}
    parts = []
    for heading, why, asked in PARTS:
        cards = [_card(name, plots.pop(name, {}), [findings.pop(_key(f), {}) for f in wanted], told) for name, wanted in asked]
        parts.append((heading, why, [card for card in cards if card]))
    more = [_card(name, plot, [], told) for name, plot in plots.items()]
    more += [_card("", {}, [finding], told) for finding in findings.values()]
    parts.append(("More", "", [card for card in more if card]))
    return {
        "looked": _looked(told),
        "notes": [str(note) for note in told.get("notes") or []] if isinstance(told.get("notes"), list) else [],
        "parts": [part for part in parts if part[2]],
    }


def _key(name: Any) -> str:
    """90% and 90 % are one name."""
    return str(name).replace(" %", "%")


def _looked(told: dict[str, Any]) -> str:
    """What was looked at."""
    patch = " × ".join(short(size) for size in numbers(told.get("patch")))
    counts = [short(number(told.get(key))) for key in ("patches", "scans", "of")]
    words = "{} patches{} from {} of {} scans, each scan brought to median 0 and spread 1".format(
        counts[0], f" of {patch} voxels" if patch else "", *counts[1:]
    )
    bare = number(told.get("background"))
    return words + (f"; {100 * bare:.0f} % of the places were nearly constant, left out." if bare >= 0.005 else ".")


def _card(name: str, plot: dict[str, Any], wanted: list[dict[str, Any]], told: dict[str, Any]) -> Card | None:
    """A plot with its readings; None where there is neither."""
    found = [finding for finding in wanted if finding]
    figure = draw(name, plot, found) if plot else None
    if not figure and not found:
        return None
    title = str(plot.get("title") or (found[0].get("name") if found else name) or name)
    return Card(title[:1].upper() + title[1:], figure, tuple(reading(finding) for finding in found))


def reading(finding: dict[str, Any]) -> Reading:
    """A finding in the page's words."""
    value, unit = number(finding.get("value")), str(finding.get("unit") or "")
    ends, null = numbers(finding.get("interval")), mapping(finding.get("null"))
    chance = tuple(number(null.get(key)) for key in ("value", "low", "high"))
    name, sentence = str(finding.get("name") or ""), str(finding.get("sentence") or "")
    name, sentence = name[:1].upper() + name[1:], re.sub(r"(?<![\w.])-(?=\d)", "−", sentence)
    if not math.isfinite(value):
        return Reading(name, "", "", "", sentence, Markup(""))
    told = _in(unit)
    between = f"{told(ends[0])} to {told(ends[1])}" if len(ends) == 2 else ""
    words, drawing = "", Markup("")
    if len(finite(chance)) == 3:
        span = "" if told(chance[1]) == told(chance[2]) else f" ({told(chance[1])} to {told(chance[2])})"
        of = str(null.get("of") or "by chance")
        words = f"{of[:1].upper()}{of[1:]}: {told(chance[0])}{span}"
        interval = (ends[0], ends[1]) if len(ends) == 2 else None
        alt = f"{name}: {told(value)}" + (f", interval {between}" if between else "") + f". {words}."
        drawing = beside(value, interval, (chance[0], chance[1], chance[2]), alt=alt)
    shown = told(value) + (f" {unit}" if unit in (*LENGTHS, "dimensions") else "")
    return Reading(name, shown, between, words, sentence, drawing)


def _in(unit: str) -> Any:
    """How a number of a unit is written."""
    if unit == "share":
        return lambda value: f"{100 * value:.1f} %".replace("-", "−")
    return short if unit in LENGTHS else lambda value: short(0 if abs(value) < 5e-4 else value)


def _axis(label: Any, log: bool, **more: Any) -> Axis:
    return Axis(re.sub(r"^-(?=\w)", "−", str(label or "")) + (", log scale" if log else ""), "log" if log else "linear", **more)


def draw(name: str, plot: dict[str, Any], findings: list[dict[str, Any]]) -> Figure | None:
    """A plot of the distribution as a figure with its table; None if there is nothing to draw in it."""
    series = [row for row in rows(plot.get("series")) if finite([number(v) for v in _list(row.get("y"))])]
    if not series:
        return None
    title = str(plot.get("title") or name)
    if any(row.get("marks") == "bars" for row in series):
        return _bars(title, plot, series)
    log_x, log_y = bool(plot.get("log_x")) or name == "linear code", bool(plot.get("log_y"))
    lines, levels = [], []
    floor = _floor(series) if log_y else -math.inf
    for row in series:
        x, y = ([number(v) for v in _list(row.get(key))] for key in ("x", "y"))
        tone, words = TONES.get(str(row.get("name")), ("frozen", str(row.get("name")).removeprefix("line of ")))
        if len(x) != len(y):
            continue
        if words in ("1/e", "white noise") and len(set(y)) == 1:
            levels.append(Level(words, y[0], "before", told=False))
            continue
        points = row.get("marks") == "points"
        low, high = ([number(v) for v in _list(row.get(key))] for key in ("low", "high"))
        y = [value if value >= floor else math.nan for value in y]
        ends = (low, high) if len(low) == len(high) == len(x) else ((), ())
        form = "circle" if ends[0] else "point"
        lines.append(Line(words, x, y, tone, *ends, mark=form if points else "", told=False, joined=not points))
    lines, levels = _marked(name, findings, lines, levels)
    x_axis = _axis(plot.get("x_label"), log_x, include=() if log_x else (0.0,))
    y_axis = _axis(plot.get("y_label"), log_y, include=() if log_y else (0.0,))
    if name == "dimension by number":
        x_axis = _axis(plot.get("x_label"), log_x, ticks=tuple((at, short(at)) for line in lines for at in line.x))
    if name == "linear code":
        y_axis = _axis(
            plot.get("y_label"), False, include=(0.0, 1.0), ticks=tuple((s, f"{100 * s:.0f} %") for s in (0, 0.5, 0.9, 1))
        )
    alt = (
        f"{title}: "
        + ", ".join(line.name for line in lines if line.name)
        + ". The numbers are in the table and the sentence below."
    )
    caption = CAPTIONS.get(name.split(" ")[0] if name.startswith("histogram") else name, "")
    return Figure(title, chart(lines, x_axis, y_axis, alt=alt, levels=levels), caption, *_table(plot, series))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _floor(series: list[dict[str, Any]]) -> Real:
    """Below the least that was measured nothing is drawn: a log scale has no end."""
    seen = [number(v) for row in series if row.get("name") in ("scans", "patches") for v in _list(row.get("y"))]
    seen = [value for value in finite(seen) if value > 0]
    return 0.5 * min(seen) if seen else 0.0


def _marked(name: str, findings: list[dict[str, Any]], lines: list[Line], levels: list[Level]) -> tuple[list[Line], list[Level]]:
    """The finding itself in its plot: where 1/e is crossed, the components for each share, what a Gaussian reads."""
    for finding in findings:
        value = number(finding.get("value"))
        if not math.isfinite(value):
            continue
        if name == "autocorrelation":
            lines = [*lines, Line("", [value, value], [0.0, math.exp(-1)], "water", told=False, faint=True)]
            lines.append(Line("", [value], [math.exp(-1)], "water", mark="diamond", faint=True, joined=False))
        if name == "linear code":
            real = next((line for line in lines if line.name == "scans"), None)
            near = min(zip(real.x, real.y, strict=True), key=lambda at: abs(at[0] - value)) if real else (value, math.nan)
            name_of = str(finding.get("name")).removeprefix("components for ")
            lines = [*lines, Line(name_of, [value], [near[1]], "water", mark="diamond", faint=True, joined=False)]
    return lines, levels


def _bars(title: str, plot: dict[str, Any], series: list[dict[str, Any]]) -> Figure | None:
    """Bars of each label, one for each series, beside the level that a line in the plot gives."""
    held = [row for row in series if row.get("marks") == "bars"]
    names = next((_list(row.get("labels")) for row in held if row.get("labels")), [])
    groups: list[tuple[str, list[Line]]] = []
    for place, label in enumerate(names):
        mine = []
        for row in held:
            y, low, high = ([number(v) for v in _list(row.get(key))[place : place + 1]] for key in ("y", "low", "high"))
            if finite(y):
                tone, words = TONES.get(str(row.get("name")), ("frozen", str(row.get("name"))))
                mine.append(Line(words, [0.0], y, tone, low, high))
        groups.append((str(label), mine))
    groups = [group for group in groups if group[1]]
    if not groups:
        return None
    chance = next((finite([number(v) for v in _list(row.get("y"))]) for row in series if row.get("name") == "chance"), [])
    told = "; ".join(f"{label}: " + ", ".join(f"{line.name} {100 * line.y[0]:.1f} %" for line in mine) for label, mine in groups)
    alt = f"{title}. {told}." + (f" Chance {100 * chance[0]:.0f} %." if chance else "")
    drawing = bars(groups, str(plot.get("y_label") or ""), alt=alt, level=("chance", chance[0]) if chance else None)
    table = tuple(
        (label, line.name, f"{100 * line.y[0]:.1f} %", " to ".join(f"{100 * v:.1f} %" for v in finite([*line.low, *line.high])))
        for label, mine in groups
        for line in mine
    )
    return Figure(
        title,
        drawing,
        CAPTIONS["clone gap"],
        (str(plot.get("x_label") or ""), "on", str(plot.get("y_label") or ""), "interval"),
        table,
    )


def _table(plot: dict[str, Any], series: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """At most twelve points of each series."""
    table = []
    for row in series:
        pairs = [(number(a), number(b)) for a, b in zip(_list(row.get("x")), _list(row.get("y")), strict=False)]
        table += [(str(row.get("name")), short(a), short(b)) for a, b in some(pairs, 12)]
    return ("of", str(plot.get("x_label") or ""), str(plot.get("y_label") or "")), tuple(table)
