"""What happens along the depth of a model, drawn: tokens growing alike, what each layer adds to it, eigenvalues of its heads."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from headwater.report.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Level, Line, Scale, chart, frame, mark, short, svg
from headwater.report.figures import Figure
from headwater.report.record import mapping, number, rows

CURVES = {  # name among the layers -> title, words of the axis
    "similarity": ("Are the tokens of an image alike?", "mean cosine"),
    "speed": ("How far tokens move in each layer", "share of their length"),
    "turn": ("How sharply they turn", "radians"),
    "effective": ("Heads that differ", "effective heads"),
    "entropy": ("How widely heads look", "entropy, share of the largest"),
    "entropy_low": ("Heads that look at one token", "share of heads"),
    "entropy_high": ("Heads that look at all tokens alike", "share of heads"),
    "distance": ("How far heads look", "distance"),
}
GROWN = {  # name within growth -> title, words of the axis, what it means
    "stretch": (
        "What becomes of small changes",
        "log of their growth",
        "Above 0 a layer spreads small changes, below it damps them.",
    ),
    "divergence": (
        "Whether tokens spread or gather",
        "divergence per dimension",
        "Below 0 a layer contracts: nearby clouds gather.",
    ),
}
TONES = {"mlp": "tuned", "head": "frozen"}
MOST_LAYERS = 48


def curves(found: dict[str, Any]) -> list[Figure]:
    """A chart for every quantity along depth, the untrained network beside the trained one."""
    after, before = (mapping(mapping(found.get(side)).get("layers")) for side in ("look", "start"))
    figures = []
    for name, (title, unit) in CURVES.items():
        y, null = (_values(side.get(name)) for side in (after, before))
        if sum(map(math.isfinite, y)) < 2 or (name.startswith("entropy_") and not any(v > 0 for v in (*y, *null))):
            continue
        ticks = ticks_of(len(y))
        lines = [
            Line("untrained", range(len(null)), null, "ink", mark="point"),
            Line("trained", range(len(y)), y, "water", mark="point"),
        ]
        lines = [line for line in lines if any(map(math.isfinite, line.y))]
        alt = f"{title} Trained: {short(_first(y))} in the first, {short(_first(y[::-1]))} in the last layer; "
        alt += f"untrained: {short(_first(null))} and {short(_first(null[::-1]))}."
        include = (0.0, 1.0) if name in ("similarity", "entropy", "entropy_low", "entropy_high") else (0.0,)
        drawing = chart(
            lines, Axis("state" if name == "similarity" else "layer", ticks=ticks), Axis(unit, include=include), alt=alt
        )
        table = tuple((str(i), short(v), short(null[i]) if i < len(null) else "–") for i, v in enumerate(y))
        caption = "State 0 is what enters the first layer." if name == "similarity" else ""
        figures.append(Figure(title, drawing, caption, ("layer", "trained", "untrained"), table))
    return figures


def ways(found: dict[str, Any]) -> list[Figure]:
    """Charts of what small changes become in each layer, with standard errors, and of what a linear probe tells after each."""
    growth = mapping(found.get("growth"))
    made = [_grown(growth, name, *words) for name, words in GROWN.items()]
    return [figure for figure in (*made, _told_apart(mapping(found.get("separability")))) if figure is not None]


def _grown(growth: dict[str, Any], name: str, title: str, unit: str, said: str) -> Figure | None:
    lines, table = [], {}
    for side, tone, shift in (("untrained", "ink", -0.1), ("trained", "water", 0.1)):
        told = mapping(growth.get(side))
        y, error = (_values(told.get(key)) for key in (name, f"{name}_error"))
        if len(y) != len(error) or not any(map(math.isfinite, y)):
            continue
        low, high = ([v + sign * 2 * e for v, e in zip(y, error, strict=True)] for sign in (-1, 1))
        x = [i + shift for i in range(len(y))]
        lines += [
            Line("", x, y, tone, faint=True),
            Line(side, x, y, tone, low, high, "circle" if side == "trained" else "point", joined=False),
        ]
        table[side] = [f"{short(v)} ± {short(e)}" for v, e in zip(y, error, strict=True)]
    if not lines:
        return None
    count = max(len(line.y) for line in lines)
    x_axis = Axis("layer", include=(-0.3, count - 0.7), ticks=ticks_of(count))
    alt = f"{title}. " + " ".join(
        f"{line.name}: {short(line.y[0])} in the first, {short(line.y[-1])} in the last layer." for line in lines if line.name
    )
    drawing = chart(lines, x_axis, Axis(unit, include=(0.0,)), alt=alt, levels=[Level("", 0.0, "before", told=False)])
    rows_ = tuple((str(i), *(cells[i] if i < len(cells) else "–" for cells in table.values())) for i in range(count))
    return Figure(title, drawing, f"{said} Whiskers: two standard errors.", ("layer", *table), rows_)


def _told_apart(told: dict[str, Any]) -> Figure | None:
    """Accuracy of a linear probe by state, over what shuffled labels reach."""
    lines, table = [], {}
    for side, tone in (("untrained", "ink"), ("trained", "water")):
        y, error = (_values(mapping(told.get(side)).get(key)) for key in ("accuracy", "error"))
        if len(y) == len(error) and sum(map(math.isfinite, y)) > 1:
            low, high = ([v + sign * e for v, e in zip(y, error, strict=True)] for sign in (-1, 1))
            lines.append(Line(side, range(len(y)), y, tone, low, high, "point"))
            table[side] = [f"{short(v)} ± {short(e)}" for v, e in zip(y, error, strict=True)]
    null = _values(mapping(told.get("trained")).get("null95"))
    if not lines:
        return None
    chance = Line("chance", range(len(null)), null, "chance") if null and all(map(math.isfinite, null)) else None
    count = max(len(line.y) for line in lines)
    title = "Can classes be told apart along depth?"
    alt = f"{title} " + " ".join(f"{line.name}: {short(line.y[0])} at first, {short(line.y[-1])} at last." for line in lines)
    levels = [Level("chance", number(mapping(told.get("trained")).get("chance")), "before")]
    drawing = chart(lines, Axis("state", ticks=ticks_of(count)), Axis("share right, classes alike", include=(0.0, 1.0)), alt=alt,
                    levels=levels, chance=chance)  # fmt: skip
    images, classes = (short(number(told.get(name))) for name in ("images", "classes"))
    caption = (
        f"A linear probe of the mean token, {images} images of {classes} classes; bands: one standard error over five folds. "
    )
    caption += "Grey: what shuffled labels reach. State 0 is what enters the first layer."
    rows_ = tuple((str(i), *(cells[i] if i < len(cells) else "–" for cells in table.values())) for i in range(count))
    return Figure(title, drawing, caption, ("state", *table), rows_)


def _values(value: Any) -> list[float]:
    return [number(one) for one in value][:MOST_LAYERS] if isinstance(value, list) else []


def _first(values: Sequence[float]) -> float:
    return next((value for value in values if math.isfinite(value)), math.nan)


def ticks_of(count: int) -> tuple[tuple[float, str], ...]:
    """Marks at whole layers, about eight of them."""
    every = max(1, -(-count // 8))
    return tuple((i, str(i)) for i in range(0, count, every))


def attribution(found: dict[str, Any]) -> Figure | None:
    """For each layer, what its heads and its other parts add to the similarity of tokens; None where nothing was explained."""
    layers = rows(mapping(found.get("explanation")).get("layers"))[:MOST_LAYERS]
    parts = [{name: number(mapping(part).get("share")) for name, part in mapping(layer.get("parts")).items()} for layer in layers]
    parts = [{name: share for name, share in layer.items() if math.isfinite(share)} for layer in parts]
    if not any(parts):
        return None
    high = [sum(share for share in layer.values() if share > 0) for layer in parts]
    low = [sum(share for share in layer.values() if share < 0) for layer in parts]
    right = WIDTH - 6
    x = Scale(Axis("", ticks=ticks_of(len(parts))), [-0.6, len(parts) - 0.4], LEFT, right)
    y = Scale(Axis("", include=(0.0,)), [*high, *low], HEIGHT - BOTTOM, TOP + 26, pad=0.06)
    pieces = [frame(x, y, right, "layer", "")]
    pieces += [_key()]
    wide = min(34.0, 0.72 * (x(1) - x(0)) if len(parts) > 1 else 34.0)
    for i, layer in enumerate(parts):
        pieces.append(_column(i, layer, x(i), wide, y))
    pieces.append(Markup('<path class="zero" d="M{} {:.1f}H{:.1f}"/>').format(LEFT, y(0), right))
    table, said = [], []
    for i, (layer, shares) in enumerate(zip(layers, parts, strict=True)):
        before, after = number(layer.get("before")), number(layer.get("after"))
        best = max(shares, key=lambda name: shares[name], default="")
        row = (str(i), short(before), short(after), best, short(shares.get(best, math.nan)), short(number(layer.get("residual"))))
        table.append(row)
        said.append(f"layer {i}: {short(after - before)}, most by {best or 'nothing'}")
        pieces.append(mark("diamond", x(i), y(after - before), "ink", f"layer {i}: {short(after - before)} in all"))
    alt = "Change of the mean cosine of tokens by layer and part. " + "; ".join(said) + "."
    head = ("layer", "before", "after", "most by", "its part", "left over")
    caption = "Above the line: makes tokens alike; below: keeps them apart. A diamond is the whole change of a layer."
    title = "What makes tokens alike: change of their mean cosine"
    return Figure(title, svg(alt, Markup("").join(pieces)), caption, head, tuple(table))


def _tone(name: str) -> str:
    return next((tone for start, tone in TONES.items() if name.lower().startswith(start)), "scratch")


def _key() -> Markup:
    pieces, at = [], float(LEFT)
    for name, tone in (("heads", "frozen"), ("feed-forward part", "tuned"), ("the rest", "scratch")):
        pieces.append(Markup('<path class="bars {}" d="M{:.0f} 2h10v10h-10z"/>').format(tone, at))
        pieces.append(Markup('<text class="tick" x="{:.0f}" y="12">{}</text>').format(at + 15, name))
        at += 34 + 7.3 * len(name)
    return Markup("").join(pieces)


def _column(i: int, layer: dict[str, float], middle: float, wide: float, y: Scale) -> Markup:
    """One layer's parts, each on the last: what pulls together upwards, what pushes apart downwards."""
    pieces, ends = [], {True: 0.0, False: 0.0}
    for name, share in sorted(layer.items(), key=lambda part: (_tone(part[0]), -abs(part[1]))):
        side = share >= 0
        start, ends[side] = ends[side], ends[side] + share
        top, bottom = sorted((y(start), y(ends[side])))
        if bottom - top < 0.2:
            continue
        form = '<path class="bars {}" d="M{:.1f} {:.1f}h{:.1f}V{:.1f}h-{:.1f}z"><title>layer {}, {}: {}</title></path>'
        pieces.append(Markup(form).format(_tone(name), middle - wide / 2, top, wide, bottom, wide, i, name, short(share)))
    return Markup("").join(pieces)


def discs(found: dict[str, Any]) -> list[Figure]:
    """Eigenvalues of W_V W_O of single heads in the plane, and the disc that those of random factors fill."""
    figures = []
    for head in rows(found.get("eigenvalues")):
        real, imaginary = (_values(head.get(name)) for name in ("real", "imaginary"))
        points = [(a, side * b) for a, b in zip(real, imaginary, strict=False) for side in ((1, -1) if b else (1,))]
        points = [point for point in points if all(map(math.isfinite, point))]
        radius, chance = number(head.get("radius")), number(head.get("null95"))
        if not points or not radius > 0:
            continue
        figures.append(_disc(head, points, radius, chance if chance == chance else radius))
    return figures


def _disc(head: dict[str, Any], points: list[tuple[float, float]], radius: float, chance: float) -> Figure:
    size, middle = 240.0, 124.0
    most = 1.08 * max(chance, *(max(abs(a), abs(b)) for a, b in points))
    scale, across = (size / 2 - 4) / most, size / 2 + 4
    ring = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>'
    pieces = [Markup(ring).format("nullband", middle, across, radius * scale)]
    pieces.append(Markup(ring).format("level before ring", middle, across, chance * scale))
    pieces.append(Markup('<path class="rule" d="M{:.1f} {:.1f}H{:.1f}M{:.1f} {:.1f}V{:.1f}"/>').format(
        middle - size / 2, across, middle + size / 2, middle, across - size / 2, across + size / 2
    ))  # fmt: skip
    for a, b in points:
        words = f"{short(a)} {'+' if b >= 0 else '−'} {short(abs(b))}i"
        pieces.append(mark("circle", middle + a * scale, across - b * scale, "water", words))
    outer = [point for point in points if math.hypot(*point) > chance]
    largest = max(points, key=lambda point: math.hypot(*point))
    value = f"{short(largest[0])}" + (f" ± {short(abs(largest[1]))}i" if largest[1] else "")
    name, layer = str(head.get("head")), short(number(head.get("layer")))
    told = f"Largest {value}; by chance up to {short(chance)} (dashed): {len(outer)} of {len(points)} lie beyond."
    title = f"Layer {layer}, {name}: adds {short(number(head.get('share')))}"
    tag = '<svg class="chart" viewBox="0 0 {0} {0}" role="img" aria-label="{1}">{2}</svg>'
    return Figure(title, Markup(tag).format(size + 8, f"Eigenvalues of {title}. {told}", Markup("").join(pieces)), told, (), ())
