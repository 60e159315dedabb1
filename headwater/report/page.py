"""The report: one HTML file that explains a run, needs no network and asks for nothing."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from headwater.report import comparison, data, distribution, figures, gallery, labels
from headwater.report.charts import short
from headwater.report.record import Record, mapping, number, numbers, read, rows
from headwater.runfolder import write_text

ASSETS = Path(__file__).parent / "assets"
SECTIONS = {
    "data": ("Data", "headwater look"),
    "distribution": ("Distribution", "headwater look --distribution"),
    "training": ("Training", "headwater pretrain"),
    "tokens": ("Tokens", "headwater observe"),
    "labels": ("Few labels", "headwater adapt"),
    "comparison": ("Comparison", "headwater compare"),
    "provenance": ("Provenance", "headwater run"),
}
LOOKED = ("data", "distribution")  # all that a page on a folder which was only looked at has
MOST_ROWS = 500


def render(run: Path) -> Path:
    """Writes report.html into a run folder, from the files that are there; a stage that is missing is said to be missing.

    Returns: the page's path.
    Raises:  InputError if the folder does not exist or is not a run.
    """
    record = read(Path(run))
    return write_text(record.run / "report.html", filled("page.html.jinja", context(record)))


def filled(template: str, told: dict[str, Any]) -> str:
    """A template of ours with its values, the style and the script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    rules = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FileSystemLoader(ASSETS)
    )
    return rules.get_template(template).render(told, style=Markup(style), script=Markup(script), script_hash=_hash(script))


def _hash(script: str) -> str:
    """What lets this one script run on the page and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def context(record: Record) -> dict[str, Any]:
    """Everything the page's template asks for."""
    hero, hero_words = gallery.hero(record)
    title = record.run.resolve().name
    said = verdicts(record)
    found = {
        "training": training(record),
        "tokens": tokens(record),
        "labels": labels.section(record, [s["text"] for s in said if s["place"] == "labels"]),
        "comparison": comparison.section(record),
    }
    return found | {
        "title": title,
        "begun": record.begun,
        "sections": {id: SECTIONS[id] for id in _sections(record, {s["place"] for s in said}, found)},
        "facts": facts(record),
        "verdicts": said,
        "hero": hero,
        "hero_words": hero_words,
        "preview": gallery.looked(record),
        "faults": record.faults,
        "data": data.section(record),
        "distribution": distribution.section(record),
        "provenance": provenance(record, title),
    }


def _sections(record: Record, evidence: set[str], found: dict[str, Any]) -> list[str]:
    """Which sections the page has: a run's has all, a comparison's of scans alone none that is empty, a look's two."""
    if not record.begun:
        return list(LOOKED)
    stages = ("training", "tokens", "labels")
    alone = found["comparison"] and not any(found[id] for id in stages)
    return [id for id in SECTIONS if not (alone and id in stages and id not in evidence)]


def facts(record: Record) -> list[str]:
    """The line under the run's name: scans and subjects, minutes, machine, seed."""
    entries, minutes = rows(record.passport.get("entries")), number(record.provenance.get("minutes"))
    found = [f"{len(entries):,} scans of {len({str(entry.get('subject')) for entry in entries}):,} subjects"] if entries else []
    found += [f"{minutes:,.0f} min"] if minutes >= 1 else []
    machine = mapping(record.provenance.get("machine"))
    cores = number(machine.get("cores"))
    if machine.get("accelerator"):
        found.append(str(machine["accelerator"]))
    elif cores >= 1:
        found.append(f"{cores:,.0f} core{'' if cores == 1 else 's'}")
    seed = number(record.provenance.get("seed", record.settings.get("seed")))
    return found + ([f"seed {seed:.0f}"] if seed == seed else [])


def verdicts(record: Record) -> list[dict[str, str]]:
    """The sentences of the first screen, each with the section that carries its evidence."""
    found = []
    for sentence in record.verdicts:
        place = str(sentence.get("evidence"))
        place = place if place in SECTIONS and (record.begun or place in LOOKED) else "provenance" if record.begun else "data"
        found.append({"text": str(sentence.get("text") or ""), "detail": str(sentence.get("detail") or ""), "place": place})
    return [sentence for sentence in found if sentence["text"]]


def training(record: Record) -> dict[str, Any] | None:
    """How far it came, its curves and its last word; None before the first step."""
    if not record.steps and not record.watches:
        return None
    last = record.steps[-1] if record.steps else {}
    step, total = number(last.get("step")), number(last.get("of"))
    return {
        "done": f"{step:,.0f}" if step == step else "",
        "total": f"{total:,.0f}" if total == total else "",
        "whole": not step < total,
        "waiting": _share(record.waiting),
        "sentence": next((str(event["sentence"]) for event in reversed(record.watches) if event.get("sentence")), ""),
        "losses": figures.losses(record),
        "watch": figures.watch(record),
    }


def _share(value: float) -> str:
    """0.12 as 12.0 %; empty where it is not known."""
    if value != value:
        return ""
    return "under 0.1 %" if value < 0.0005 else f"{100 * value:.1f} %"


def _pixels_lead(observed: dict[str, Any]) -> str:
    """A sentence where pixels alone agree more than the trained features do; else empty."""
    found = []
    for level, where in figures.LEVELS.items():
        pixels, final = (number(mapping(mapping(observed.get(s)).get(level)).get("reliability")) for s in ("pixels", "final"))
        found += [f"{where}: {pixels:.2f} against {final:.2f}"] if final < pixels else []
    return (
        f"Pixels alone agree more than the features on these views ({'; '.join(found)}): "
        "agreement alone is no proof of usefulness; the few-label table decides."
        if found
        else ""
    )


def tokens(record: Record) -> dict[str, Any] | None:
    """The verdict on the features, their numbers beside initial and pixels, and the pictures; None before observe."""
    observed = record.observed
    if not observed and not record.tokens:
        return None
    words, verdict = {"final": "trained", "initial": "untrained", "pixels": "pixels"}, mapping(observed.get("verdict"))
    table = []
    levels = {(stage, level): mapping(mapping(observed.get(stage)).get(level)) for level in figures.LEVELS for stage in words}
    chance = any("rank_null95" in found for found in levels.values())
    told = [("reliability", 2), ("null95", 2), ("rank", 1), *([("rank_null95", 1)] if chance else []), ("spread", 3)]
    for level, where in figures.LEVELS.items():
        for stage, name in words.items():
            found = levels[stage, level]
            if found:
                values = [f"{number(found.get(key)):.{digits}f}" for key, digits in told]
                values = [value.replace("nan", "–").replace("-", "−") for value in values]
                table.append((where, name, *values, f"{short(number(found.get('n')))} × {short(number(found.get('d')))}"))
    state = str(verdict.get("state") or "unknown")
    return {
        "state": state,
        "mood": {"healthy": "good", **dict.fromkeys(("collapsed", "random", "miswired"), "bad")}.get(state, "unsure"),
        "whole": (record.run / "observations" / "observe.html").is_file(),
        "sentence": str(verdict.get("sentence") or ""),
        "table": table,
        "chance": chance,
        "lead": _pixels_lead(observed),
        "explained": [f"{100 * value:.0f} %" for value in numbers(observed.get("explained"))[:3]],
        "shift": short(number(observed.get("shift_voxels"))) if number(observed.get("shift_voxels")) > 0 else "",
        "heads": [name for key, name in (("image", "scan"), *words.items()) if key in record.tokens],
        "rows": gallery.token_rows(record),
    }


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) rows."""
    if isinstance(value, dict) and value:
        return [row for key, inner in value.items() for row in flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list):
        return [(name, ", ".join(str(item) for item in value))]
    if isinstance(value, float):
        return [(name, f"{value:.6g}")]
    return [(name, "none" if value is None or value == "" else str(value))]


def provenance(record: Record, title: str) -> dict[str, Any]:
    """What is needed to do it again."""
    found = record.provenance
    table = [(key, str(found[key])) for key in ("seed", "commit", "finished") if found.get(key) not in (None, "")]
    for key, name in (("minutes", "minutes"), ("peak_memory_gib", "most memory, GiB")):
        value = number(found.get(key))
        table += [(name, f"{value:,.1f}")] if value >= 0 else []
    return {
        "command": str(found.get("command") or ""),
        "table": [("run", title), *table],
        "machine": flat(mapping(found.get("machine"))) if found.get("machine") else [],
        "versions": flat(mapping(found.get("versions"))) if found.get("versions") else [],
        "plan": [tuple(str(line.get(key) or "") for key in ("name", "choice", "because", "set")) for line in record.plan],
        "settings": flat(record.settings)[:MOST_ROWS] if record.settings else [],
    }
