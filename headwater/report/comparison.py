"""Networks under equal budget: how they came out, what may be said of it, and whether a transformer is needed."""

from typing import Any

from headwater.report import figures
from headwater.report.charts import Axis, Level, Line, chart, finite, short
from headwater.report.figures import Figure
from headwater.report.labels import with_ends
from headwater.report.record import Record, mapping, number, rows
from headwater.report.strips import intervals

REGIMES = {"steps": "equal steps", "time": "equal time"}


def section(record: Record) -> dict[str, Any] | None:
    """Tables, differences and advice; None before compare."""
    summary = record.compared
    table = [row for row in rows(summary.get("table")) if str(row.get("regime")) in REGIMES]
    if not table:
        return None
    advice = mapping(summary.get("advice"))
    because = advice.get("because")
    told = [advice.get("trust")] + [mapping(summary.get(name)).get("sentence") for name in ("suitability", "factor")]
    words = [word for name in ("leakage", "words") if isinstance(summary.get(name), list) for word in summary[name]]
    return {
        "advice": str(advice.get("sentence") or ""),
        "because": [str(text) for text in because] if isinstance(because, list) else [],
        "figures": [*differences(summary), *context(summary)],
        "lines": lines(table),
        "pairs": [
            (
                str(row.get("method")), str(row.get("against")), REGIMES.get(str(row.get("regime")), ""),
                with_ends("{:+.1f}", figures.interval(row, "gain", 100)), str(row.get("verdict") or ""),
            )
            for row in rows(summary.get("pairs"))
        ],
        "knocked": [str(row.get("sentence") or "") for row in rows(summary.get("knockout"))],
        "told": [str(text) for text in told if text] + [str(word) for word in words],
    }  # fmt: skip


def lines(table: list[dict[str, Any]]) -> list[tuple]:
    """A row of cells for each regime and method, the best first."""
    found = []
    for regime, words in REGIMES.items():
        mine = [row for row in table if row.get("regime") == regime]
        for row in sorted(
            mine, key=lambda row: -number(row.get("mean")) if number(row.get("mean")) == number(row.get("mean")) else 1
        ):
            cells = [
                with_ends("{:.1f}", figures.interval(row, "mean", 100)), short(number(row.get("steps"))),
                f"{number(row.get('seconds')):,.0f}", f"{number(row.get('memory_gib')):.1f}",
                f"{number(row.get('parameters')) / 1e6:.1f}", short(number(row.get("trials"))),
            ]  # fmt: skip
            found.append((words, str(row.get("method")), [cell.replace("nan", "–") for cell in cells]))
    return found


def differences(summary: dict[str, Any]) -> list[Figure]:
    """Paired differences with their intervals, both regimes in one drawing."""
    entries, table = [], []
    for row in rows(summary.get("pairs")):
        value, low, high = figures.interval(row, "gain", 100)
        if value != value:
            continue
        regime, name = str(row.get("regime")), f"{row.get('method')} − {row.get('against')}"
        tone = "tuned" if regime == "steps" else "frozen"
        entries.append((name, Line(REGIMES.get(regime, regime), [0], [value], tone, [low], [high], "circle")))
        ends = f"{low:.1f} to {high:.1f}" if finite([low, high]) == [low, high] else "none"
        table.append((name, REGIMES.get(regime, regime), f"{value:+.1f}", ends, str(row.get("sentence") or "")))
    if not entries:
        return []
    alt = "Differences of Dice. " + " ".join(f"{a}, {b}: {c}, interval {d}." for a, b, c, d, _ in table)
    drawing = intervals(entries, "points of Dice", alt=alt)
    caption = "Paired by subject; trainings as a random effect; intervals hold for all pairs of a table together (Holm)."
    return [Figure("Differences", drawing, caption, ("networks", "budget", "difference", "interval", "in words"), tuple(table))]


def context(summary: dict[str, Any]) -> list[Figure]:
    """How far around a voxel one must look to tell its structure."""
    told = mapping(summary.get("context"))
    columns = [told.get(name) for name in ("radius_mm", "error", "low", "high")]
    if not all(isinstance(column, list) and column for column in columns) or len({len(c) for c in columns}) > 1:
        return []
    x, y, low, high = ([number(value) for value in column] for column in columns)
    if not finite(y):
        return []
    chance, unit = number(told.get("chance")), str(told.get("unit") or "mm")
    levels = [Level("chance", chance, "nothing")] if chance == chance else []
    alt = "Error of a probe by radius of what it sees: " + ", ".join(
        f"{short(b)} at {short(a)} {unit}" for a, b in zip(x, y, strict=True)
    )
    drawing = chart(
        [Line("probe", x, y, "water", low, high, "circle")], Axis(f"radius around the voxel, {unit}", "log2"),
        Axis("error", include=(0.0,)), alt=f"{alt}.", levels=levels,
    )  # fmt: skip
    rows_of = tuple((short(a), f"{b:.3f}") for a, b in zip(x, y, strict=True))
    return [Figure("Context", drawing, str(told.get("sentence") or ""), (f"radius, {unit}", "error"), rows_of)]
