"""Charts of rows: a histogram for each axis, an estimate with its interval for each arm."""

import math
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from headwater.report.charts import BOTTOM, LETTER, TOP, WIDTH, Axis, Line, Real, Scale, mark, short, svg


def ridges(groups: Sequence[tuple[str, str, Sequence[Real]]], label: str, *, alt: str, bins: int = 40) -> Markup:
    """A histogram for each (name, words, values), one under the other on one scale; the words stand at the right."""
    step, left, right = 58, 50, WIDTH - 14 - LETTER * max(len(words) for _, words, _ in groups)
    height = TOP + step * len(groups) + BOTTOM
    every = [value for _, _, values in groups for value in values]
    low, spread = min(every), max(every) - min(every) or 1.0
    width = max(spread / bins, 1.0) if all(value == int(value) for value in every) else spread / bins
    x = Scale(Axis(label), [low - width / 2, low + spread + width / 2], left, right)
    pieces = [
        Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(x(at), height - 23, text) for at, text in x.ticks
    ]
    pieces.append(Markup('<text class="axis middle" x="{:.1f}" y="{}">{}</text>').format((left + right) / 2, height - 5, label))
    for row, (name, words, values) in enumerate(groups):
        floor, counts = TOP + step * (row + 1), Counter(int((value - low) / width + 0.5) for value in values)
        most = max(counts.values())
        ends = {place: (x(low + (place - 0.5) * width), x(low + (place + 0.5) * width)) for place in counts}
        tall = {place: (step - 16) * count / most for place, count in counts.items()}
        bars = "".join(f"M{start:.1f} {floor}v{-tall[place]:.1f}H{stop:.1f}V{floor}z" for place, (start, stop) in ends.items())
        pieces.append(
            Markup('<path class="rule" d="M{} {}H{:.1f}"/><path class="bars water" d="{}"/>').format(left, floor, right, bars)
        )
        pieces.append(Markup('<text class="tick" x="0" y="{}">{}</text>').format(floor - 4, name))
        pieces.append(Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>').format(right + 8, floor - 4, words))
    return svg(alt, Markup("").join(pieces), height)


def intervals(entries: Sequence[tuple[str, Line]], label: str, *, alt: str) -> Markup:
    """Estimates with their intervals, one row each, about the line of no difference at 0.

    entries: (group, line), the line holding one y, low and high; the group's name is written where it changes.
    """
    step, left = 22, 74
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
            pieces.append(Markup('<text class="tick" x="0" y="{}">{}</text>').format(y + 4, group))
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
