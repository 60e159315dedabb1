"""The page's section on the scans: what they were taken for, how many of which kind, what is odd and what was set aside."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from headwater.report import measures
from headwater.report.charts import short
from headwater.report.record import Record, mapping, number, numbers, rows
from headwater.report.strips import clipped

KINDS = {
    "copy": "duplicate", "dimension": "of another kind than the rest", "nan": "with voxels that are not finite",
    "mask": "mask unusable", "unpaired": "mask without a scan", "missing": "named but not there",
    "escape": "outside the folder, not read", "unsupported": "of a format that is not read",
}  # fmt: skip
CHOSEN = {"named": "as your list says", "layout": "as the data set says", "drawn": "drawn by subject"}
MOST_ROWS, MOST_KINDS, MOST_STRUCTURES, MOST_PAIRS = 500, 6, 24, 60
FEW = 10  # structures told of where there are too many
LONG = 32  # letters of a file's name in a table


def section(record: Record) -> dict[str, Any] | None:
    """Everything the template says of the scans; None before the look."""
    passport = record.passport
    if not passport:
        return None
    entries, aside = rows(passport.get("entries")), rows(passport.get("quarantine"))
    return {
        "sentences": _sentences(passport),
        "taken": _taken(passport),
        "table": _found(passport, entries, aside),
        "masked": any(entry.get("mask") for entry in entries),
        "kinds": kinds(passport, entries),
        "sides": _sides(entries),
        "chosen": CHOSEN.get(str(passport.get("held_out")), ""),
        "levels": measures.levels(passport),
        "structures": structures(passport),
        "classes": _classes(entries),
        "figures": measures.sizes(record) + measures.intensity(record) + measures.volumes(record),
        "concerns": _concerns(passport),
        "doubles": _doubles(passport, entries),
        "aside": [tuple(str(row.get(key) or "") for key in ("file", "fault", "remedy")) for row in aside[:MOST_ROWS]],
        "more_aside": max(0, len(aside) - MOST_ROWS),
        "aside_kinds": _aside_kinds(aside),
        "notes": _texts(passport.get("notes")),
    }


def _aside_kinds(aside: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """What was wrong, in words, and how often."""
    return Counter(KINDS.get(str(row.get("kind")), str(row.get("kind") or "set aside")) for row in aside).most_common()


def _texts(value: Any) -> list[str]:
    return [str(text) for text in _list(value) if text]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _sentences(passport: dict[str, Any]) -> list[str]:
    """The passport's own sentences, without those that stand elsewhere on the page."""
    notes, elsewhere = set(_texts(passport.get("notes"))), ("look at this: ", "read as ")
    return [text for text in _texts(passport.get("sentences")) if text not in notes and not text.startswith(elsewhere)]


def _taken(passport: dict[str, Any]) -> tuple[str, str] | None:
    """What the folder was taken for and the rule that decided."""
    layout, rule = str(passport.get("layout") or ""), str(passport.get("rule") or "")
    return (layout, rule.removeprefix(f"{layout}: ")) if layout or rule else None


def _measure(values: Any, unit: str) -> str:
    """1 × 1 × 1 mm."""
    found = numbers(values)
    return f"{' × '.join(short(value) for value in found)} {unit}".strip() if found else "unknown"


def _found(passport: dict[str, Any], entries: list[dict[str, Any]], aside: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """How much there is of what."""
    sessions = {(str(entry.get("subject")), str(entry["session"])) for entry in entries if entry.get("session")}
    doubles, odd = mapping(passport.get("duplicates")).get("pairs"), rows(passport.get("concerns"))
    named = passport.get("channel_names")
    names = f" ({', '.join(map(str, named[:6]))})" if isinstance(named, list) and named else ""
    spaced = any(measures.facts(entry).get("spaced") is not False for entry in entries)
    table = [
        ("scans", f"{len(entries):,}"),
        ("subjects", f"{len({str(entry.get('subject')) for entry in entries}):,}"),
        ("sessions", f"{len(sessions):,}" if sessions else ""),
        ("channels", short(number(passport.get("channels"))) + names),
        ("size, middle", _measure(passport.get("shape"), measures.unit_of(passport))),
        ("spacing, middle", _measure(passport.get("spacing"), "mm") if spaced else "not stated"),
        ("axes run to", str(passport.get("orientation") or "")),
        ("with a mask", f"{sum(bool(entry.get('mask')) for entry in entries):,}"),
        ("set aside", f"{len(aside):,}"),
        ("near duplicates, kept", f"{len(doubles):,}" if isinstance(doubles, list) and doubles else ""),
        ("to look at", f"{len(odd):,}" if odd else ""),
    ]
    return [(name, value) for name, value in table if value]


def kinds(passport: dict[str, Any], entries: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """Of each property its values with the scans that have them and their share in per cent; many values are told in one line."""
    way = str(passport.get("orientation") or "")
    size = f"size, {measures.unit_of(passport)}"
    columns: dict[str, list[str]] = {key: [] for key in ("format", "modality", "orientation", "stored as", "spacing, mm", size)}
    for entry in entries:
        told = measures.facts(entry)
        shape, spacing = measures.turned(entry, way)
        for key, field in (
            ("format", "format"),
            ("modality", "modality"),
            ("orientation", "orientation"),
            ("stored as", "dtype"),
        ):
            columns[key].append(str(told.get(field) or "not stated"))
        known = told.get("spaced") is not False
        columns["spacing, mm"].append(_measure([round(v, 3) for v in spacing], "") if known else "not stated")
        columns[size].append(_measure(shape, ""))
    return [(key, _counted(values)) for key, values in columns.items() if values]


def _counted(values: Sequence[str]) -> list[tuple[str, int, float]]:
    """The most frequent values and the rest of them together."""
    counts = Counter(values).most_common()
    if len(counts) > MOST_KINDS and counts[0][1] < 0.1 * len(values):
        return [(f"{len(counts):,} different", len(values), 100.0)]
    kept = counts if len(counts) <= MOST_KINDS else counts[: MOST_KINDS - 1]
    rest = len(values) - sum(count for _, count in kept)
    told = [*kept, *([(f"{len(counts) - len(kept):,} others", rest)] if rest else [])]
    return [(value, count, 100 * count / len(values)) for value, count in told]


def _sides(entries: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """(side, subjects, scans, masks) of who is learned from and who is tested on."""
    found = []
    for side, words in (("train", "to learn from"), ("test", "kept for testing")):
        mine = [entry for entry in entries if entry.get("split") == side]
        subjects, masks = {str(entry.get("subject")) for entry in mine}, sum(bool(entry.get("mask")) for entry in mine)
        found.append((words, f"{len(subjects):,}", f"{len(mine):,}", f"{masks:,}"))
    return found


def structures(passport: dict[str, Any]) -> dict[str, Any]:
    """The head and rows of the table of structures, the most held first where there are too many for all."""
    if passport.get("instances") is True:
        return _objects(passport)
    found = measures.held(passport)
    masked = sum(bool(entry.get("mask")) for entry in rows(passport.get("entries")))
    names = {str(key) for key in mapping(passport.get("label_names"))} - {"0"}
    marks = _marks(passport)
    order = sorted({*names, *found}, key=lambda key: (number(key), key))
    kept = order
    if len(order) > MOST_STRUCTURES:
        kept = sorted(order, key=lambda key: -len(found.get(key, ())))[:FEW]
    flat = number(passport.get("ndim")) == 2
    sizes = {key: sorted(mm for _, mm in found.get(key, ()) if math.isfinite(mm)) for key in kept}
    large = not flat and any(median(values) >= 1000 for values in sizes.values() if values)
    scale, unit = (1000, "ml") if large else (1, "mm²" if flat else "mm³")
    table = []
    for key in kept:
        pairs, mm = found.get(key, []), [value / scale for value in sizes[key]]
        size = [short(median(mm)), f"{short(mm[0])} to {short(mm[-1])}"] if mm else ["–", "–"]
        middle = f"{median([voxels for voxels, _ in pairs]):,.0f}" if pairs else "0"
        table.append((measures.called(passport, key), key, f"{len(pairs):,}", middle, *size, "; ".join(marks.get(key, ()))))
    voxels = f"{measures.unit_of(passport)}, middle"
    columns = ["structure", "value", f"masks, of {masked:,}", voxels, f"{unit}, middle", unit, "note"]
    named = any(row[0] != f"structure {row[1]}" for row in table)
    keep = [True, named, True, True, any(sizes.values()), any(sizes.values()), any(row[-1] for row in table)]
    ignored = number(passport.get("ignore"))
    return {
        "head": [name for name, shown in zip(columns, keep, strict=True) if shown],
        "rows": [tuple(cell for cell, shown in zip(row, keep, strict=True) if shown) for row in table],
        "more": len(order) - len(kept),
        "ignore": f"{ignored:.0f}" if math.isfinite(ignored) else "",
    }


def _objects(passport: dict[str, Any]) -> dict[str, Any]:
    """The same where masks number single objects: how many there are in a mask, and how large one is."""
    unit = measures.unit_of(passport)
    each = [mapping(e.get("labels")) for e in rows(passport.get("entries")) if e.get("mask")]
    sizes = [[number(n) for value, n in labels.items() if number(value) != 0 and number(n) > 0] for labels in each]
    many, every = [len(found) for found in sizes], [n for found in sizes for n in found]
    if not every:
        return {"head": [], "rows": [], "more": 0, "ignore": ""}
    head = [
        "structure",
        f"masks, of {len(each):,}",
        "objects in all",
        "in a mask, middle",
        "in a mask",
        f"{unit} of one, middle",
        f"{unit} of one",
    ]
    row = (measures.called(passport, "1"), f"{sum(map(bool, many)):,}", f"{len(every):,}", short(median(many)))
    row += (f"{min(many):,} to {max(many):,}", short(median(every)), f"{min(every):,.0f} to {max(every):,.0f}")
    return {"head": head, "rows": [row], "more": 0, "ignore": ""}


def _marks(passport: dict[str, Any]) -> dict[str, list[str]]:
    """What the concerns say of one label, by its value."""
    found: dict[str, list[str]] = {}
    for concern in rows(passport.get("concerns")):
        told = re.fullmatch(r"label (-?\d+) (.+)", str(concern.get("text")), re.DOTALL)
        if told:
            kind = str(concern.get("kind")).removesuffix(" label")
            found.setdefault(told[1], []).append(f"{kind}: {told[2].removeprefix('is ')}")
    return found


def _classes(entries: list[dict[str, Any]]) -> list[tuple[str, int, float, int, int]]:
    """(class, scans, share in per cent, to learn from, for testing), the largest first."""
    counts = Counter(str(entry["group"]) for entry in entries if entry.get("group"))
    sides = Counter((str(entry["group"]), str(entry.get("split"))) for entry in entries if entry.get("group"))
    total = sum(counts.values())
    return [(name, n, 100 * n / total, sides[name, "train"], sides[name, "test"]) for name, n in counts.most_common(MOST_ROWS)]


def name(text: Any) -> tuple[str, str]:
    """A file's name as a table shows it, and whole."""
    return clipped(str(text), LONG), str(text)


def _concerns(passport: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(kind, what, first files) of what is odd but kept."""
    return [
        (str(c.get("kind") or ""), str(c.get("text") or ""), [name(file) for file in _texts(c.get("files"))[:3]])
        for c in rows(passport.get("concerns"))[:MOST_ROWS]
    ]


def share(value: Any) -> str:
    """A likeness with two digits of what is missing to 1: 99.970 %."""
    found = number(value)
    if not math.isfinite(found):
        return "–"
    if found >= 1:
        return "100 %"
    left = max(1 - found, 1e-6)
    digits = 0 if found < 0.9 else min(4, max(0, math.ceil(-math.log10(left)) - 1))
    return f"{100 * found:.{digits}f} %"


def _doubles(passport: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The near duplicates, each beside what random pairs reach."""
    told = mapping(passport.get("duplicates"))
    pairs = [pair for pair in _list(told.get("pairs")) if isinstance(pair, list) and len(pair) == 4]
    whose = {str(entry.get("name")): str(entry.get("subject")) for entry in entries}
    table = []
    for one, other, alike, how in pairs[:MOST_PAIRS]:
        same = whose.get(str(one)) == whose.get(str(other))
        table.append((name(one), name(other), share(alike), str(how or ""), "the same" if same else "another"))
    linked = [", ".join(_texts(group)) for group in _list(told.get("linked")) if isinstance(group, list)]
    return {
        "sentence": str(told.get("sentence") or ""),
        "rows": table,
        "more": max(0, len(pairs) - MOST_PAIRS),
        "chance": share(told.get("null")),
        "linked": linked[:20],
        "more_linked": max(0, len(linked) - 20),
    }
