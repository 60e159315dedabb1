"""From a run's numbers to the few sentences that matter, each with its evidence."""

import math
import re
from pathlib import Path
from typing import Any

from headwater import runfolder
from headwater.report.record import mapping, number, rows

BEGUN = ("settings.json", "events.jsonl", "observations", "adapt", "compare")  # what is there once more is done than looking


def write(run: Path) -> list[dict[str, str]]:
    """Reads what the run has so far and writes verdicts.json; returns the sentences."""
    passport = _read(run / "passport.json")
    if any((run / name).exists() for name in BEGUN):
        found = watched(_read(run / "observations" / "observe.json"))
        found += worth(_read(run / "adapt" / "summary.json"))
        found += needed(_read(run / "compare" / "summary.json"))
        found += together(set_aside(passport) + odd(passport))
    else:
        found = looked(passport) + distributed(_read(run / "distribution.json"))
    runfolder.write_json(run / "verdicts.json", {"sentences": found})
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return mapping(runfolder.read_json(path))
    except (OSError, ValueError):
        return {}


def watched(observed: dict[str, Any]) -> list[dict[str, str]]:
    """Are the features stable and not random?"""
    verdict = mapping(observed.get("verdict"))
    if not verdict:
        return (
            [{"text": "The backbone was not watched.", "detail": str(observed["why"]), "evidence": "training"}]
            if "why" in observed
            else []
        )
    opening, colon, numbers = str(verdict.get("sentence", "")).partition(": ")
    return [{"text": f"{opening}." if colon else opening, "detail": numbers, "evidence": "training"}]


def worth(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Was pretraining worth it, and how good are the masks?"""
    gains = [g for g in rows(summary.get("gains")) if g.get("arm") == "fine-tuned"]
    if not gains:
        return []
    unknown = [g for g in gains if not all(math.isfinite(number(g.get(key))) for key in ("gain", "low", "high"))]
    clear = {sign: [g for g in gains if sign * number(g["low" if sign > 0 else "high"]) > 0] for sign in (1, -1)}
    told = "; ".join(f"{g['count']}: {_points(g)}" for g in gains)
    detail = f"Dice points, fine-tuned minus scratch, by number of labels: {told}."
    found = []
    if len(unknown) == len(gains):
        why = "one test subject" if summary.get("test_subjects") == 1 else "there is no interval for the gain"
        text = f"It cannot be told whether pretraining is worth it: {why}."
        return [{"text": text, "detail": detail, "evidence": "labels"}, *best(summary)]
    if clear[1]:
        text = f"Pretraining is worth it at {_labels(clear[1])}: {_points(max(clear[1], key=lambda g: g['gain']))} Dice at best."
        rest = [g for g in gains if g not in clear[1] and g not in clear[-1] and g not in unknown]
        text += f" At {_labels(rest)}: no evidence of a gain." if rest else ""
        found.append({"text": text, "detail": detail, "evidence": "labels"})
    elif not clear[-1]:
        found.append(
            {
                "text": "No evidence that pretraining is worth it on these scans at this budget.",
                "detail": detail,
                "evidence": "labels",
            }
        )
    if clear[-1]:
        text = f"Pretraining costs accuracy at {_labels(clear[-1])}: {_points(min(clear[-1], key=lambda g: g['gain']))} Dice."
        found.append(
            {
                "text": text + (" Do not use it there." if clear[1] else " Do not pretrain on these scans at this budget."),
                "detail": detail,
                "evidence": "labels",
            }
        )
    return found + saved(summary) + best(summary)


def saved(summary: dict[str, Any]) -> list[dict[str, str]]:
    """How many labels do the same from scratch, and which start to use."""
    told = [mapping(summary.get(name)) for name in ("saved", "choice")]
    found = [(str(one.get("sentence") or ""), str(one.get("detail") or "")) for one in told]
    return [{"text": text, "detail": detail, "evidence": "labels"} for text, detail in found if text]


def needed(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Is a transformer needed? Where nobody was asked: what the comparison says."""
    advice, pairs = mapping(summary.get("advice")), [str(row.get("sentence") or "") for row in rows(summary.get("pairs"))]
    because = advice.get("because")
    detail = " ".join(map(str, because)) if isinstance(because, list) else ""
    if advice.get("sentence"):
        return [{"text": str(advice["sentence"]), "detail": detail, "evidence": "comparison"}]
    return [{"text": pairs[0], "detail": " ".join(pairs[1:3]), "evidence": "comparison"}] if pairs else []


def best(summary: dict[str, Any]) -> list[dict[str, str]]:
    """How good the masks get."""
    table = [r for r in rows(summary.get("table")) if math.isfinite(number(r.get("mean")))]
    if not table:
        return []
    row = max(table, key=lambda r: number(r["mean"]))
    parts = ", ".join(f"{name} {100 * number(value):.1f}" for name, value in mapping(row.get("per_structure")).items())
    few = [r for r in table if r["count"] == min(4, max(int(r["count"]) for r in table))]
    middle = max(few, key=lambda r: number(r["mean"])) if few else row
    text = " ".join(
        f"Mean Dice {100 * number(r['mean']):.1f} with {_labels([r])} ({r['arm']})."
        for r in ([middle] if middle is row else [middle, row])
    )
    tested, draws = summary.get("test_subjects"), summary.get("draws")
    detail = (
        f"{tested} held-out subject{'s' * (tested != 1)}, {draws} draw{'s' * (draws != 1)} of labelled subjects; best: {parts}."
    )
    return [{"text": text, "detail": detail, "evidence": "labels"}]


def set_aside(passport: dict[str, Any]) -> list[dict[str, str]]:
    """What was left out of the run."""
    aside = rows(passport.get("quarantine"))
    if not aside:
        return []
    named = "; ".join(f"{q.get('file')}: {q.get('fault')}" for q in aside[:3]) + ("; ..." if len(aside) > 3 else "")
    return [
        {"text": f"{len(aside)} file{'s were' if len(aside) > 1 else ' was'} set aside.", "detail": named, "evidence": "data"}
    ]


def odd(passport: dict[str, Any]) -> list[dict[str, str]]:
    """What is kept and should be looked at, near duplicates among it."""
    told = [str(concern.get("text")) for concern in rows(passport.get("concerns"))]
    doubles = mapping(passport.get("duplicates"))
    pairs = doubles.get("pairs")
    many = len(pairs) if isinstance(pairs, list) else 0
    text = [f"{len(told):,} thing{'s' * (len(told) > 1)} to look at in the scans."] if told else []
    text += [f"{many:,} near duplicate{'s are' if many > 1 else ' is'} kept."] if many else []
    detail = "; ".join(told[:3]) + ("; ..." if len(told) > 3 else "") or str(doubles.get("sentence") or "")
    return [{"text": " ".join(text), "detail": _capital(detail), "evidence": "data"}] if text else []


def together(found: list[dict[str, str]]) -> list[dict[str, str]]:
    """Several sentences on the scans as one, for a page that has more to tell."""
    if not found:
        return []
    text, detail = (mark.join(f[key] for f in found if f[key]) for key, mark in (("text", " "), ("detail", " · ")))
    return [{"text": text, "detail": detail, "evidence": "data"}]


def looked(passport: dict[str, Any]) -> list[dict[str, str]]:
    """What is in a folder of scans: for a page that has nothing else to tell."""
    entries, said = rows(passport.get("entries")), passport.get("sentences")
    if not entries:
        return set_aside(passport) + odd(passport)
    what = str(said[0]) if isinstance(said, list) and said else f"{len(entries):,} scans"
    found = [{"text": f"{_capital(what)}.", "detail": _capital(str(passport.get("rule") or "")), "evidence": "data"}]
    found += set_aside(passport) or [{"text": "Every file could be used.", "detail": "", "evidence": "data"}]
    found += odd(passport)
    subjects, masked = ({str(e.get("subject")) for e in some} for some in (entries, [e for e in entries if e.get("mask")]))
    names = [str(name) for name in mapping(passport.get("label_names")).values()]
    groups = {str(e["group"]) for e in entries if e.get("group")}
    if masked:
        whose = "every subject" if masked == subjects else f"{len(masked):,} of {len(subjects):,} subjects"
        text, detail = f"There are masks for {whose}.", ", ".join(names[:6]) + f" and {len(names) - 6:,} more" * (len(names) > 6)
        detail = "They number single objects." if passport.get("instances") is True else detail
    elif groups:
        text = (
            f"There are {len(groups):,} classes and no masks." if len(groups) > 1 else "There is 1 class and there are no masks."
        )
        detail = ", ".join(sorted(groups)[:6]) + ("" if len(groups) < 7 else " ...")
    else:
        text, detail = "There are no masks.", "Pretraining needs none; what labels are worth cannot be measured without."
    return [*found, {"text": text, "detail": detail, "evidence": "data"}]


def distributed(told: dict[str, Any]) -> list[dict[str, str]]:
    """Is the data Gaussian, and what do mean and covariance miss: the openings of the findings' own sentences."""
    findings = {row.get("name"): row for row in rows(told.get("findings")) if math.isfinite(number(row.get("value")))}
    found = []
    for name in ("tails of wavelet details", "clone gap"):
        sentence = re.sub(r"(?<![\w.])-(?=\d)", "−", str(mapping(findings.get(name)).get("sentence") or ""))
        opening, cut, rest = _opening(sentence)
        if opening:
            detail = rest.replace(")", "", 1) if cut == " (" else rest
            found.append({"text": f"{opening.rstrip('.')}.", "detail": _capital(detail), "evidence": "distribution"})
    return found


def _opening(sentence: str) -> tuple[str, str, str]:
    """A sentence cut where its numbers begin."""
    cut = re.search(r" \(|: ", sentence)
    return (sentence[: cut.start()], cut[0], sentence[cut.end() :]) if cut else (sentence, "", "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _points(gain: dict[str, Any]) -> str:
    value, low, high = (100 * number(gain.get(key)) for key in ("gain", "low", "high"))
    if not math.isfinite(value):
        return "unknown"
    return f"{value:+.1f}" + (f" [{low:.1f}, {high:.1f}]" if math.isfinite(low) and math.isfinite(high) else "")


def _labels(gains: list[dict[str, Any]]) -> str:
    counts = [str(g["count"]) for g in gains]
    words = counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} and {counts[-1]}"
    return f"{words} label{'s' * (words != '1')}"
