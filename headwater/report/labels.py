"""What few labels buy: learning curves, gains, surfaces, and the segmentations themselves."""

from typing import Any

from headwater.report import figures, gallery
from headwater.report.charts import short
from headwater.report.record import Record, mapping, number, rows

FURTHER = {  # measures beside Dice: key, its name, what it is multiplied by, digits
    "nsd": ("NSD", 100, 1),
    "hd95": ("HD95, {unit}", 1, 1),
    "lesion": ("pieces, F1", 100, 1),
}


def section(record: Record, said: list[str]) -> dict[str, Any] | None:
    """Learning curves, gains, their table and the segmentations; None before adapt. said: the verdicts on labels."""
    if not record.summary and not record.examples:
        return None
    table = rows(record.summary.get("table"))
    structures = list(dict.fromkeys(name for row in table for name in mapping(row.get("per_structure"))))
    further = [key for key in FURTHER if any(_further(row, key) == _further(row, key) for row in table)]
    unit = str(record.summary.get("unit") or "mm")
    told = [str(mapping(record.summary.get(name)).get("sentence") or "") for name in ("saved", "choice", "model")]
    words = [record.summary.get(name) for name in ("leakage", "words")]
    return {
        "draws": short(number(record.summary.get("draws"))),
        "subjects": short(number(record.summary.get("test_subjects"))),
        "figures": figures.learning(record) + figures.gains(record),
        "columns": [*structures, *(FURTHER[key][0].format(unit=unit) for key in further)],
        "lines": _lines(record, table, structures, further),
        "said": said,
        "told": [sentence for sentence in told if sentence and sentence not in said],
        "words": [str(word) for some in words if isinstance(some, list) for word in some],
        "cases": gallery.cases(record),
        "colours": _colours(record),
    }


def _lines(record: Record, table: list[dict[str, Any]], structures: list[str], further: list[str]) -> list[tuple]:
    """A row of cells for each count and arm."""
    scale = figures.points_of_dice(record)
    gains = {
        (number(row.get("count")), str(row.get("arm"))): figures.interval(row, "gain", scale)
        for row in rows(record.summary.get("gains"))
    }
    lines = []
    for row in sorted(table, key=lambda row: number(row.get("count"))):
        arm = str(row.get("arm"))
        gain = gains.get((number(row.get("count")), arm))
        each = [f"{number(mapping(row.get('per_structure')).get(name)) * scale:.1f}" for name in structures]
        each += [f"{_further(row, key) * FURTHER[key][1]:.{FURTHER[key][2]}f}" for key in further]
        tone = figures.arms(record).get(arm, ("ink", ""))[0]
        cells = (with_ends("{:.1f}", figures.interval(row, "mean", scale)), with_ends("{:+.1f}", gain) if gain else "–", *each)
        lines.append((short(number(row.get("count"))), arm, tone, [cell.replace("nan", "–") for cell in cells]))
    return lines


def _further(row: dict[str, Any], key: str) -> float:
    """A measure beside Dice; of pieces, the harmonic mean of what was found and what was right."""
    return number(mapping(row.get(key)).get("f1") if key == "lesion" else row.get(key))


def with_ends(form: str, values: tuple[float, float, float]) -> str:
    """A value with its interval, alone where there is no interval, a dash where there is no value."""
    value, low, high = values
    ends = f" [{low:.1f}, {high:.1f}]" if low == low and high == high else ""
    return (form.format(value) + ends).replace("-", "−") if value == value else "–"


def _colours(record: Record) -> list[tuple[str, str]]:
    """The overlay's colour of each structure, by name."""
    from headwater.report.pictures import STRUCTURES

    names = list(mapping(record.passport.get("label_names")).items())
    names = [str(name) for key, name in sorted(names, key=lambda pair: number(pair[0])) if number(key) != 0]
    return [(name, "#{:02x}{:02x}{:02x}".format(*STRUCTURES[place % len(STRUCTURES)])) for place, name in enumerate(names)]
