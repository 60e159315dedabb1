"""Curves as inline SVG. Colours are classes of the page's style, so one drawing serves light, dark and print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT, TOP, BOTTOM, LEFT = 440, 264, 16, 40, 46
LETTER = 7.3  # width of a 13 px letter, generous

Real = int | float


@dataclass(frozen=True)
class Line:
    """One curve: x and y of equal length (nan breaks it), perhaps an interval low..high; `tone` is a class of the style sheet.

    mark: form of its points, "" none. faint: thin, without a name. told: its last value stands behind its name.
    joined: drawn as a curve with a band, else as points with whiskers.
    """

    name: str
    x: Sequence[Real]
    y: Sequence[Real]
    tone: str
    low: Sequence[Real] = ()
    high: Sequence[Real] = ()
    mark: str = ""  # "circle", "square", "diamond", "point" or none
    faint: bool = False
    told: bool = True
    joined: bool = True


@dataclass(frozen=True)
class Level:
    """A horizontal reference at y, labelled at the right edge."""

    name: str
    y: Real
    tone: str
    told: bool = True


@dataclass(frozen=True)
class Axis:
    """How a direction is drawn: its words, its kind ("linear", "log" or "log2") and bounds that must be shown."""

    label: str
    kind: str = "linear"
    include: tuple[Real, ...] = ()
    ticks: tuple[tuple[Real, str], ...] = field(default=())


def finite(values: Sequence[Real]) -> list[Real]:
    """Those that can be drawn."""
    return [value for value in values if math.isfinite(value)]


def short(value: Real) -> str:
    """A number as a label says it: three digits that matter, two below 1, thousands with a comma."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    if size == 0:
        return "0"
    if size < 0.001:
        return f"{value:.0e}".replace("-", "−")
    digits = 0 if value == round(value) else max(0, (2 if size >= 1 else 1) - math.floor(math.log10(size)))
    return f"{value:.{digits}f}".replace("-", "−")


def round_ticks(low: Real, high: Real, about: int = 5) -> list[tuple[Real, str]]:
    """Steps of 1, 2 or 5 times a power of ten inside [low, high], each with its text."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    places = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(place, f"{place:,.{digits}f}".replace("-", "−") if abs(place) > step / 2 else "0") for place in places]


class Scale:
    """Numbers to pixels along one direction."""

    def __init__(self, axis: Axis, values: Sequence[Real], start: Real, stop: Real, pad: Real = 0.0) -> None:
        self.kind, self.start, self.stop = axis.kind, start, stop
        raw = finite([*values, *axis.include])
        raw = [value for value in raw if value > 0] if self.kind != "linear" else raw
        self.values = [self._forward(value) for value in raw] or [0.0, 1.0]
        self.low, self.high = min(self.values), max(self.values)
        spread = self.high - self.low or abs(self.high) * 0.1 or 1.0
        if self.high == self.low:
            self.low, self.high = self.low - spread / 2, self.high + spread / 2
        fixed = [self._forward(value) for value in axis.include if self.kind == "linear" or value > 0]
        self.low -= 0 if self.low in fixed else spread * pad
        self.high += 0 if self.high in fixed else spread * pad
        self.ticks = list(axis.ticks) or self._ticks()

    def _forward(self, value: Real) -> Real:
        return value if self.kind == "linear" else math.log2(value)

    def _ticks(self) -> list[tuple[Real, str]]:
        if self.kind == "linear":
            return round_ticks(self.low, self.high)
        base = math.log2(10) if self.kind == "log" else 1.0
        powers = range(math.ceil(self.low / base - 1e-9), math.floor(self.high / base + 1e-9) + 1)
        if self.kind == "log" and len(powers) < 3:
            return self._between()
        every = max(1, -(-len(powers) // 6))
        return [(2 ** (power * base), self._power(power, 2 ** (power * base))) for power in powers[::every]]

    def _between(self) -> list[tuple[Real, str]]:
        """1, 2 and 5 of each power of ten, where there are few powers."""
        powers = range(math.floor(self.low / math.log2(10)), math.floor(self.high / math.log2(10)) + 1)
        every = [(factor * 10**power, power) for power in powers for factor in (1, 2, 5)]
        return [(v, f"{v:,.{max(0, -power)}f}") for v, power in every if self.low <= math.log2(v) <= self.high]

    def _power(self, power: int, value: Real) -> str:
        """10⁶ where the number written out would not fit beside the axis."""
        if self.kind == "log" and not 1e-3 <= value < 5e4:
            return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{round(value, 9):,g}"

    def __call__(self, value: Real) -> Real:
        if not math.isfinite(value) or (self.kind != "linear" and value <= 0):
            return math.nan
        return self.start + (self._forward(value) - self.low) / (self.high - self.low) * (self.stop - self.start)


def _runs(points: list[tuple[Real, Real]]) -> list[list[tuple[Real, Real]]]:
    """Points cut where one of them is nan."""
    runs: list[list[tuple[Real, Real]]] = [[]]
    for point in points:
        if all(map(math.isfinite, point)):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def trace(points: list[tuple[Real, Real]]) -> str:
    """SVG path data of a curve, broken where it has gaps."""
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in _runs(points))


def mark(kind: str, x: Real, y: Real, tone: str, title: str = "") -> Markup:
    """A point whose form tells its arm apart without colour."""
    if not (math.isfinite(x) and math.isfinite(y)):
        return Markup("")
    forms = {
        "square": "M-3.6-3.6h7.2v7.2h-7.2z",
        "diamond": "M0-5L5 0L0 5L-5 0z",
        "point": "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0z",
    }
    form = forms.get(kind, "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z")
    return Markup('<path class="mark {}" transform="translate({:.1f} {:.1f})" d="{}"><title>{}</title></path>').format(
        tone, x, y, form, title
    )


def spread_apart(places: list[Real], gap: Real, low: Real, high: Real) -> list[Real]:
    """Label positions at least `gap` apart, in the same order, inside [low, high] while there is room."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    result = list(places)
    floor = low
    for index in order:
        result[index] = max(places[index], floor)
        floor = result[index] + gap
    ceiling = high
    for index in reversed(order):
        result[index] = min(result[index], ceiling)
        ceiling = result[index] - gap
    return result


def frame(x: Scale, y: Scale, right: Real, x_label: str, y_label: str) -> Markup:
    """Grid lines, ticks and the two axis labels; the vertical one is written on top, to be read without turning the head."""
    bottom = HEIGHT - BOTTOM
    pieces = [Markup('<text class="axis" x="{}" y="{}">{}</text>').format(0, 11, y_label)]
    for value, text in y.ticks:
        place = y(value)
        if math.isfinite(place) and TOP <= place <= bottom + 0.5:
            pieces.append(Markup('<path class="rule" d="M{} {:.1f}H{:.1f}"/>').format(LEFT, place, right))
            pieces.append(Markup('<text class="tick end" x="{}" y="{:.1f}">{}</text>').format(LEFT - 7, place + 4, text))
    taken = -math.inf
    for value, text in x.ticks:
        place = x(value)
        half = len(text) * LETTER / 2
        if math.isfinite(place) and place - half > taken:
            pieces.append(Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(place, bottom + 17, text))
            taken = place + half + 4
    pieces.append(Markup('<text class="axis middle" x="{:.1f}" y="{}">{}</text>').format((LEFT + right) / 2, HEIGHT - 5, x_label))
    return Markup("").join(pieces)


def _line(line: Line, x: Scale, y: Scale) -> Markup:
    """Band, curve and marks of one line."""
    pieces = []
    places = [x(value) for value in line.x]
    if len(line.low) == len(line.x) == len(line.high):
        whole = [
            (p, y(a), y(b)) for p, a, b in zip(places, line.low, line.high, strict=True) if all(map(math.isfinite, (p, a, b)))
        ]
        if not line.joined:
            pieces += [
                Markup('<path class="whisker {}" d="M{:.1f} {:.1f}V{:.1f}"/>').format(line.tone, p, a, b) for p, a, b in whole
            ]
        elif len(whole) > 1:
            edge = [(p, b) for p, _, b in whole] + [(p, a) for p, a, _ in reversed(whole)]
            pieces.append(Markup('<path class="band {}" d="{}z"/>').format(line.tone, trace(edge)))
    points = list(zip(places, (y(value) for value in line.y), strict=True))
    if line.joined:
        pieces.append(
            Markup('<path class="curve {}{}" d="{}"/>').format(line.tone, " faint" if line.faint else "", trace(points))
        )
    if line.mark:
        pieces += [
            mark(line.mark, *point, line.tone, f"{line.name}, {short(at)}: {short(value)}")
            for point, at, value in zip(points, line.x, line.y, strict=True)
        ]
    return Markup("").join(pieces)


def svg(alt: str, body: Markup, height: Real = HEIGHT) -> Markup:
    """The drawing with the sentence that stands for it."""
    return Markup('<svg class="chart" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, escape(alt), body
    )


def chart(
    lines: Sequence[Line],
    x_axis: Axis,
    y_axis: Axis,
    *,
    alt: str,
    levels: Sequence[Level] = (),
    chance: Line | None = None,
    dots: Sequence[tuple[Real, Real, str]] = (),
) -> Markup:
    """Curves with their names at their right ends, horizontal references, and the band from zero to chance.

    chance: its y is the upper edge of what chance alone reaches. dots: (x, y, tone) of single results behind the curves.
    """
    levels = [level for level in levels if math.isfinite(level.y)]
    ends = [(line, [math.nan, *finite(line.y)][-1]) for line in lines if not line.faint]
    ends += [(level, level.y) for level in levels]
    labels = [
        (" ".join([item.name, short(value)] if item.told else [item.name]).strip(), value, item.tone)
        for item, value in ends
        if math.isfinite(value)
    ]
    right = WIDTH - 14 - LETTER * max((len(text) for text, _, _ in labels), default=0)
    heights = (
        [v for line in lines for v in (*line.y, *line.low, *line.high)] + [level.y for level in levels] + [d[1] for d in dots]
    )
    x = Scale(x_axis, [v for line in [*lines, *([chance] if chance else [])] for v in line.x], LEFT, right)
    y = Scale(y_axis, [*heights, *(chance.y if chance else ())], HEIGHT - BOTTOM, TOP + 6, pad=0.06)
    labels = [label for label in labels if math.isfinite(y(label[1]))]  # a logarithm has no place for 0
    levels = [level for level in levels if math.isfinite(y(level.y))]
    dots = [dot for dot in dots if math.isfinite(x(dot[0])) and math.isfinite(y(dot[1]))]
    pieces = [frame(x, y, right, x_axis.label, y_axis.label)]
    if chance:
        edge = [(x(at), y(value)) for at, value in zip(chance.x, chance.y, strict=True)]
        edge = [point for point in edge if all(map(math.isfinite, point))]
        if edge:
            edge = [(LEFT, edge[0][1]), *edge, (right, edge[-1][1])]
            floor = HEIGHT - BOTTOM
            pieces.append(Markup('<path class="chance" d="{}L{:.1f} {}L{} {}z"/>').format(trace(edge), right, floor, LEFT, floor))
    pieces += [
        Markup('<path class="level {}" d="M{} {:.1f}H{:.1f}"/>').format(level.tone, LEFT, y(level.y), right) for level in levels
    ]
    pieces += [Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2"/>').format(tone, x(a), y(b)) for a, b, tone in dots]
    pieces += [_line(line, x, y) for line in sorted(lines, key=lambda line: not line.faint)]
    places = spread_apart([y(value) for _, value, _ in labels], 15, TOP, HEIGHT - BOTTOM)
    pieces += [
        Markup('<text class="name {}" x="{:.1f}" y="{:.1f}">{}</text>').format(tone, right + 8, place + 4, text)
        for (text, _, tone), place in zip(labels, places, strict=True)
    ]
    return svg(alt, Markup("").join(pieces))
