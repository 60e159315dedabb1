"""Charts of rows: a histogram for each axis, an estimate with its interval for each arm."""

import math
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from headwater.report.charts import BOTTOM, LETTER, TOP, WIDTH, Axis, Line, Real, Scale, mark, short, svg


def ridges(
    groups: Sequence[tuple[str, str, Sequence[Real]]], label: str, *, alt: str, bins: int = 40, log: bool = False
) -> Markup:
    """A histogram for each (name, words, values), one under the other on one scale; the words stand at the right."""
    names = [clipped(name, 17) for name, _, _ in groups]
    left = max(50, 10 + LETTER * max(map(len, names)))
    step, right = 58, WIDTH - 14 - LETTER * max(len(words) for _, words, _ in groups)
    height = TOP + step * len(groups) + BOTTOM
    into, back = (math.log2, lambda value: 2**value) if log else (float, float)
    every = [into(value) for _, _, values in groups for value in values]
    low, spread = min(every), max(every) - min(every) or 1.0
    whole = not log and all(value == int(value) for value in every)
    width = max(spread / bins, 1.0) if whole else spread / bins
    x = Scale(Axis(label, "log" if log else "linear"), [back(low - width / 2), back(low + spread + width / 2)], left, right)
    pieces = [
        Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(x(at), height - 23, text) for at, text in x.ticks
    ]
    pieces.append(Markup('<text class="axis middle" x="{:.1f}" y="{}">{}</text>').format((left + right) / 2, height - 5, label))
    for row, (name, (_, words, values)) in enumerate(zip(names, groups, strict=True)):
        floor, counts = TOP + step * (row + 1), Counter(int((into(value) - low) / width + 0.5) for value in values)
        most = max(counts.values())
        ends = {place: [x(back(low + (place + side) * width)) for side in (-0.5, 0.5)] for place in counts}
        tall = {place: (step - 16) * count / most for place, count in counts.items()}
        bars = "".join(f"M{start:.1f} {floor}v{-tall[place]:.1f}H{stop:.1f}V{floor}z" for place, (start, stop) in ends.items())
        pieces.append(
            Markup('<path class="rule" d="M{:.1f} {}H{:.1f}"/><path class="bars water" d="{}"/>').format(left, floor, right, bars)
        )
        pieces.append(Markup('<text class="tick" x="0" y="{}">{}</text>').format(floor - 4, name))
        pieces.append(Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>').format(right + 8, floor - 4, words))
    return svg(alt, Markup("").join(pieces), height)


def clipped(text: str, most: int) -> str:
    """A text of at most so many letters: the middle of a longer one is left out."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def bars(groups: Sequence[tuple[str, Sequence[Line]]], label: str, *, alt: str, level: tuple[str, Real] | None = None) -> Markup:
    """Horizontal bars from 0 with their intervals, those of a group under one another; a dashed level stands for chance.

    groups: (name, lines), each line holding one y and perhaps one low and high, in [0, 1]: they are told in per cent.
    """
    thick, gap, left, right, top = 19, 16, 84, WIDTH - 66, TOP + (40 if level else 20)
    lines = [line for _, mine in groups for line in mine]
    height = top + sum(thick * len(mine) + gap for _, mine in groups) + BOTTOM
    ticks = tuple((share, f"{100 * share:.0f} %") for share in (0, 0.25, 0.5, 0.75, 1.0))
    x = Scale(Axis(label, include=(0.0, 1.0), ticks=ticks), [v for line in lines for v in line.high], left, right)
    floor = height - BOTTOM
    pieces = [Markup('<path class="rule" d="M{:.1f} {}V{}"/>').format(x(at), top, floor) for at, _ in ticks]
    pieces += [
        Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(x(at), floor + 17, text) for at, text in ticks
    ]
    pieces.append(Markup('<text class="axis middle" x="{:.1f}" y="{}">{}</text>').format((left + right) / 2, height - 5, label))
    start: Real = left
    for tone, name in dict.fromkeys((line.tone, line.name) for line in lines):
        pieces.append(Markup('<path class="bars {}" d="M{:.1f} 4h11v11h-11z"/>').format(tone, start))
        pieces.append(Markup('<text class="tick" x="{:.1f}" y="14">{}</text>').format(start + 17, name))
        start += 34 + LETTER * len(name)
    y = top + gap / 2
    for name, mine in groups:
        middle = y + thick * len(mine) / 2
        pieces.append(Markup('<text class="tick" x="0" y="{:.1f}">{}</text>').format(middle + 4, clipped(name, 11)))
        for line in mine:
            ends = [x(value) for value in (*line.y[:1], *line.low[:1], *line.high[:1])]
            if ends and math.isfinite(ends[0]):
                pieces.append(_bar(line, ends, left, y, thick))
            y += thick
        y += gap
    if level and math.isfinite(x(level[1])):
        at = x(level[1])
        pieces.append(Markup('<path class="level before" d="M{:.1f} {}V{}"/>').format(at, top - 2, floor))
        pieces.append(Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(at, top - 7, level[0]))
    return svg(alt, Markup("").join(pieces), height)


def _bar(line: Line, ends: list[float], left: Real, y: Real, thick: Real) -> Markup:
    """One bar, its whisker and its value."""
    drawn = Markup('<path class="bars {}" d="M{} {:.1f}H{:.1f}v{}H{}z"><title>{}: {:.1f} %</title></path>').format(
        line.tone, left, y + 2, max(ends[0], left + 1), thick - 4, left, line.name, 100 * line.y[0]
    )
    far = ends[0]
    if len(ends) == 3 and all(map(math.isfinite, ends)) and ends[2] > ends[1]:
        far = max(far, ends[2])
        drawn += Markup('<path class="over" d="M{:.1f} {:.1f}H{:.1f}"/>').format(ends[1], y + thick / 2, ends[2])
    value = f"{100 * line.y[0]:.1f} %"
    return drawn + Markup('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>').format(far + 7, y + thick / 2 + 4, value)


def beside(value: Real, interval: tuple[Real, Real] | None, null: tuple[Real, Real, Real], *, alt: str) -> Markup:
    """A value and its interval on one line with what chance gives: null is (middle, low, high), a grey band."""
    height, left, right = 26, 4, WIDTH - 4
    x = Scale(Axis(""), [value, *(interval or ()), *null], left, right, pad=0.04)
    pieces = [Markup('<path class="rule" d="M0 13H{}"/>').format(WIDTH)]
    start, stop = sorted((x(null[1]), x(null[2])))
    pieces.append(
        Markup('<path class="nullband" d="M{:.1f} 4H{:.1f}V22H{:.1f}z"/>').format(start - 1, max(stop, start) + 1, start - 1)
    )
    pieces.append(Markup('<path class="zero" d="M{:.1f} 4V22"/>').format(x(null[0])))
    if interval and all(map(math.isfinite, interval)):
        pieces.append(Markup('<path class="whisker water" d="M{:.1f} 13H{:.1f}"/>').format(x(interval[0]), x(interval[1])))
    pieces.append(mark("circle", x(value), 13, "water"))
    return svg(alt, Markup("").join(pieces), height)


def intervals(entries: Sequence[tuple[str, Line]], label: str, *, alt: str) -> Markup:
    """Estimates with their intervals, one row each, about the line of no difference at 0.

    entries: (group, line), the line holding one y, low and high; the group's name is written where it changes.
    """
    step, left = 22, max(74, 10 + LETTER * max((len(clipped(group, 20)) for group, _ in entries), default=0))
    right = WIDTH - 14 - LETTER * max((len(line.name) for _, line in entries), default=0)
    height = TOP + step * len(entries) + BOTTOM
    x = Scale(
        Axis(label, include=(0.0,)), [v for _, line in entries for v in (*line.y, *line.low, *line.high)], left, right, pad=0.05
    )
    floor = height - BOTTOM
    pieces = [Markup('<path class="zero" d="M{:.1f} {}V{}"/>').format(x(0), TOP, floor)]
    pieces += [
        Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(x(at), floor + 17, text) for at, text in x.ticks
    ]
    pieces.append(Markup('<text class="axis middle" x="{:.1f}" y="{}">{}</text>').format((left + right) / 2, height - 5, label))
    before = None
    for row, (group, line) in enumerate(entries):
        y = TOP + step * (row + 0.5)
        if group != before:
            pieces.append(Markup('<text class="tick" x="0" y="{}">{}</text>').format(y + 4, clipped(group, 20)))
            if before is not None:
                pieces.append(Markup('<path class="rule" d="M0 {:.1f}H{}"/>').format(y - step / 2, WIDTH))
            before = group
        value, low, high = line.y[0], line.low[0], line.high[0]
        ends = (x(low), x(high))
        if all(map(math.isfinite, ends)):
            pieces.append(Markup('<path class="whisker {}" d="M{:.1f} {}H{:.1f}"/>').format(line.tone, ends[0], y, ends[1]))
        told = f" [{short(low)}, {short(high)}]" if all(map(math.isfinite, (low, high))) else ""
        pieces.append(mark(line.mark, x(value), y, line.tone, f"{line.name}: {short(value)}{told}"))
        pieces.append(Markup('<text class="name {}" x="{:.1f}" y="{}">{}</text>').format(line.tone, right + 10, y + 4, line.name))
    return svg(alt, Markup("").join(pieces), height)
