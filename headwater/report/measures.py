"""The charts of a folder of scans: how large they are, how bright, and how large what the masks hold."""

import math
from collections.abc import Sequence
from typing import Any

from headwater.report.charts import Axis, Line, chart, finite, short
from headwater.report.figures import Figure, some
from headwater.report.record import Record, mapping, number, numbers, rows
from headwater.report.strips import ridges

AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
WAYS = ("left-right", "front-back", "up-down")
MOST_CHANNELS, MOST_RIDGES = 4, 6


def facts(entry: dict[str, Any]) -> dict[str, Any]:
    """What the passport says of one scan's voxels."""
    return mapping(entry.get("facts"))


def turned(entry: dict[str, Any], way: str) -> tuple[list[float], list[float]]:
    """Shape and spacing of a scan along the axes of the orientation `way`; its own where one of the two is unknown."""
    told = facts(entry)
    shape, spacing, own = numbers(told.get("shape")), numbers(told.get("spacing")), str(told.get("orientation") or "")
    here, there = ([AXES.get(letter, 3) for letter in text] for text in (own, way))
    if len(here) != len(shape) or len(here) != len(spacing) or sorted(here) != sorted(there) or 3 in here:
        return shape, spacing
    order = [here.index(axis) for axis in there]
    return [shape[i] for i in order], [spacing[i] for i in order]


def axes(passport: dict[str, Any], count: int) -> list[str]:
    """What the axes are called: by where they run in the body, where that is known."""
    found = [AXES.get(letter, 3) for letter in str(passport.get("orientation") or "")]
    if len(found) == count and 3 not in found:
        return [WAYS[axis] for axis in found]
    return ["rows", "columns"] if count == 2 else [f"axis {index + 1}" for index in range(count)]


def unit_of(passport: dict[str, Any]) -> str:
    """What a scan is made of."""
    return "pixels" if number(passport.get("ndim")) == 2 else "voxels"


def sizes(record: Record) -> list[Figure]:
    """How many voxels, and how many millimetres to a voxel, along each axis; drawn only where scans differ."""
    entries, way = rows(record.passport.get("entries")), str(record.passport.get("orientation") or "")
    measured = [turned(entry, way) for entry in entries]
    spaced = [pair for pair, entry in zip(measured, entries, strict=True) if facts(entry).get("spaced") is not False]
    figures = []
    for kind, unit, title, among in ((0, unit_of(record.passport), "Size", measured), (1, "mm", "Spacing", spaced)):
        values = [pair[kind] for pair in among]
        values = [value for value in values if value and len(value) == len(values[0])]
        if len({tuple(round(v, 4) for v in value) for value in values}) < 2:
            continue
        columns = [list(column) for column in zip(*values, strict=True)]
        names = axes(record.passport, len(columns))
        groups = [
            (name, f"{short(min(column))} to {short(max(column))}" if min(column) < max(column) else short(column[0]), column)
            for name, column in zip(names, columns, strict=True)
        ]
        alt = f"{title} of {len(values)} scans, in {unit}: " + "; ".join(f"{name} {words}" for name, words, _ in groups) + "."
        wide = max(map(max, columns)) > 30 * min(map(min, columns)) > 0
        table = tuple(
            (name, short(min(a)), short(sorted(a)[len(a) // 2]), short(max(a))) for name, a in zip(names, columns, strict=True)
        )
        drawing = ridges(groups, unit + (", log scale" if wide else ""), alt=alt, log=wide)
        caption = f"Scans by {title.lower()}; the tallest bars of the axes are drawn alike."
        figures.append(Figure(f"{title} along each axis", drawing, caption, ("axis", "smallest", "middle", "largest"), table))
    return figures


def channels(passport: dict[str, Any]) -> list[str]:
    """What the channels are called, each."""
    names, count = passport.get("channel_names"), number(passport.get("channels"))
    named = [str(name) for name in names] if isinstance(names, list) else []
    count = int(count) if 1 <= count < 1000 else 1
    return [named[i] if i < len(named) and named[i] else f"channel {i + 1}" for i in range(count)]


def at(values: Any, place: int) -> float:
    """One number of a list; nan where there is none."""
    return number(values[place]) if isinstance(values, list) and place < len(values) else math.nan


def intensity(record: Record) -> list[Figure]:
    """Where the intensities of each scan lie, a figure for each channel."""
    names = channels(record.passport)
    found = []
    for place, name in enumerate(names[:MOST_CHANNELS]):
        told = [facts(entry) for entry in rows(record.passport.get("entries"))]
        ends = [(at(one.get("low"), place), at(one.get("high"), place)) for one in told]
        found += _ranges(ends, "Intensity of each scan" + (f", {name}" if len(names) > 1 else ""))
    return found


def _ranges(ends: Sequence[tuple[float, float]], title: str) -> list[Figure]:
    """Low and high end of each scan, scans in order of their upper end: several scales show as steps."""
    ends = sorted((pair for pair in ends if len(finite(pair)) == 2), key=lambda pair: pair[1])
    if len(ends) < 2:
        return []
    kept = some(ends, 240)
    top, bottom = ends[-1][1], ends[0][1]
    kind = "log" if bottom > 0 and top > 30 * bottom else "linear"
    floor = bottom / 100 if kind == "log" else -math.inf
    x = [float(round(index * (len(ends) - 1) / max(len(kept) - 1, 1)) + 1) for index in range(len(kept))]
    low, high = [max(a, floor) for a, _ in kept], [b for _, b in kept]
    middle = [math.sqrt(a * b) if kind == "log" else (a + b) / 2 for a, b in zip(low, high, strict=True)]
    line = Line("", x, [math.nan] * len(x), "water", low=low, high=high)
    drawing = chart(
        [line, Line("", x, high, "water", faint=True)],
        Axis("scans, by their upper end"),
        Axis("intensity" + (", log scale" if kind == "log" else ""), kind, include=tuple(middle[:1])),
        alt=f"{title}: upper ends from {short(bottom)} to {short(top)} over {len(ends)} scans.",
    )
    table = tuple((f"{a:,.0f}", short(b), short(c)) for a, (b, c) in some(list(zip(x, kept, strict=True)), 12))
    caption = "From the 0.5th to the 99.5th percentile of each scan, before normalisation."
    return [Figure(title, drawing, caption, ("scan", "0.5th percentile", "99.5th percentile"), table)]


def levels(passport: dict[str, Any]) -> list[tuple[str, ...]]:
    """(channel, scans that have it, lowest, 0.5 %, mean, spread, 99.5 %, highest): the middle of those scans in each."""
    keys = ("least", "low", "mean", "spread", "high", "most")
    told = [facts(entry) for entry in rows(passport.get("entries"))]
    found = []
    for place, name in enumerate(channels(passport)):
        columns = [sorted(finite([at(one.get(key), place) for one in told])) for key in keys]
        if any(columns):
            many = f"{max(map(len, columns)):,}"
            found.append((name, many, *(short(column[len(column) // 2]) if column else "–" for column in columns)))
    return found


def volume(entry: dict[str, Any]) -> float:
    """mm³ of a voxel, mm² of a pixel; nan where the file states no spacing."""
    told = facts(entry)
    spacing = numbers(told.get("spacing"))
    return math.prod(spacing) if spacing and told.get("spaced") is not False else math.nan


def held(passport: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Of each structure, by its value as text, (voxels, mm³ or nan) in every mask that holds it; the rarest values last."""
    counts: dict[str, list[tuple[float, float]]] = {}
    for entry in rows(passport.get("entries")):
        each = volume(entry)
        for value, count in mapping(entry.get("labels")).items():
            if number(count) > 0 and number(value) not in (0, number(passport.get("ignore"))):
                counts.setdefault(str(value), []).append((number(count), number(count) * each))
    return counts


def called(passport: dict[str, Any], value: str) -> str:
    """A structure's name."""
    return str(mapping(passport.get("label_names")).get(value) or f"structure {value}")


def volumes(record: Record) -> list[Figure]:
    """How large each structure is, over the masks that hold it."""
    found = {key: [mm for _, mm in pairs if mm > 0] for key, pairs in held(record.passport).items()}
    found = {key: values for key, values in found.items() if len(values) >= 2}
    if not found or len(found) > MOST_RIDGES or number(record.passport.get("ndim")) != 3 or record.passport.get("instances"):
        return []
    order = sorted(found, key=lambda key: (number(key), key))
    large = max(map(max, found.values())) >= 1000
    scale, unit = (1000, "ml") if large else (1, "mm³")
    groups = []
    for key in order:
        values = [value / scale for value in found[key]]
        groups.append((called(record.passport, key), f"{short(min(values))} to {short(max(values))}", values))
    log = max(max(g[2]) for g in groups) > 30 * min(min(g[2]) for g in groups)
    alt = f"Volume of each structure, in {unit}: " + "; ".join(f"{name} {words}" for name, words, _ in groups) + "."
    table = tuple((name, short(min(v)), short(sorted(v)[len(v) // 2]), short(max(v))) for name, _, v in groups)
    drawing = ridges(groups, unit + (", log scale" if log else ""), alt=alt, log=log)
    caption = "Masks by volume; the tallest bars of the structures are drawn alike."
    return [Figure("Volume of each structure", drawing, caption, ("structure", "smallest", "middle", "largest"), table)]
