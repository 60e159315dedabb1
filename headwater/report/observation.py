"""The page of an observation: one HTML file that says what a model's features are, and why; it needs no network."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import InputError
from headwater.report import closer, depth, panel
from headwater.report.charts import Axis, Line, chart, short
from headwater.report.figures import Figure
from headwater.report.page import filled
from headwater.report.record import Arrays, mapping, number, rows
from headwater.runfolder import read_json, write_text

SECTIONS = {
    "panel": "Panel", "depth": "Depth", "why": "Why", "heads": "Heads", "components": "Components", "published": "Published",
    "repeat": "Repeat",
}  # fmt: skip
MOODS = {"healthy": "good", "collapsed": "bad", "random": "bad", "miswired": "bad"}
DICTIONARY = {
    "explained": "share of the tokens' variance between words",
    "together": "neighbouring places with the same word",
    "image": "how much a word is told by its image",
}
LARGEST = 16_000_000  # numbers in an array that is drawn


def render(folder: Path) -> Path:
    """Writes observe.html beside observe.json and closer.npz; what is missing is said to be missing.

    Returns: the page's path. Raises: InputError if there is no observation in the folder.
    """
    folder = Path(folder)
    try:
        found = mapping(read_json(folder / "observe.json"))
    except (OSError, ValueError) as fault:
        raise InputError(
            f"{folder} holds no observation (observe.json). Make one with: headwater observe MODEL IMAGES."
        ) from fault
    arrays, faults = _arrays(folder / "closer.npz")
    return write_text(folder / "observe.html", filled("observation.html.jinja", context(found, arrays, faults)))


def _arrays(path: Path) -> tuple[Arrays, list[tuple[str, str]]]:
    """Arrays of numbers by name, and what is wrong with the file."""
    if not path.is_file():
        return {}, []
    try:
        with np.load(path, allow_pickle=False) as stored:
            held = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, json.JSONDecodeError) as fault:
        return {}, [(path.name, " ".join(str(fault).split())[:200] or type(fault).__name__)]
    return {name: array for name, array in held.items() if array.dtype.kind in "biuf" and array.size <= LARGEST}, []


def context(found: dict[str, Any], arrays: Arrays, faults: list[tuple[str, str]]) -> dict[str, Any]:
    """Everything the page's template asks for."""
    model, images = mapping(found.get("model")), mapping(found.get("images"))
    heads, drawn = closer.tokens(arrays)
    eigen, curve = closer.eigen(found, arrays)
    numbers = mapping(found.get("closer"))
    words, said = _words(mapping(found.get("look"))), _words(numbers)
    return {
        "title": str(model.get("name") or "A model"),
        "sections": SECTIONS,
        "facts": _facts(model, images),
        "verdict": verdict(found),
        "hero": list(zip(("image", "its tokens"), drawn[0][:2], strict=False)) if drawn and len(drawn[0]) > 1 else [],
        "faults": faults,
        "model": {
            "words": [*_words(model), *(f"features are read from {text}" for text in words[:1])],
            "table": _about(model, ("name", "kind", "parameters", "step")),
        },
        "images": {"words": _words(images), "table": _about(images, ("place", "used", "found", "crop", "spacing"))},
        "levels": panel.levels(found),
        "groups": [group for group in panel.groups(found) if group[0] != panel.ALONG],
        "curves": [*depth.curves(found), *depth.ways(found)],
        "journey": panel.journey(found),
        "depth_words": [text for part in ("motion", "growth", "separability") for text in _words(mapping(found.get(part)))],
        "missing": "; ".join(words[1:]) or "the model shows no blocks.",
        "why": why(found),
        "heads": closer.heads(found, arrays),
        "ramp": ["#{:02x}{:02x}{:02x}".format(*(int(round(255 * c)) for c in row)) for row in closer.RAMP],
        "head_words": [text for text in said if _of_heads(text)],
        "closer_words": [text for text in said if not _of_heads(text)],
        "token_heads": heads,
        "tokens": drawn,
        "dictionary": _dictionary(mapping(numbers.get("dictionary"))),
        "neighbours": closer.neighbours(arrays),
        "eigen": eigen,
        "eigen_curve": curve,
        "order": _order(mapping(numbers.get("order"))),
        "published": panel.published(found),
        "command": str(found.get("command") or ""),
        "versions": [(str(name), str(value)) for name, value in mapping(found.get("versions")).items()],
    }


def _of_heads(text: str) -> bool:
    return "head" in text or "attention" in text


def _words(of: dict[str, Any]) -> list[str]:
    told = of.get("words")
    return [str(text) for text in told if text] if isinstance(told, list) else []


def _facts(model: dict[str, Any], images: dict[str, Any]) -> list[str]:
    count, used = number(model.get("parameters")), number(images.get("used"))
    size = f"{count / 1e6:,.1f} M parameters" if count >= 1e5 else f"{short(count)} parameters"
    return ([size] if count == count else []) + ([f"{used:,.0f} images"] if used == used else [])


def _about(of: dict[str, Any], names: tuple[str, ...]) -> list[tuple[str, str]]:
    told = []
    for name in names:
        value = of.get(name)
        if isinstance(value, list):
            value = " × ".join(short(number(one)) for one in value)
        elif isinstance(value, (int, float)):
            value = f"{value:,}"
        told += [(name, str(value))] if value not in (None, "") else []
    return told


def verdict(found: dict[str, Any]) -> dict[str, str]:
    """State, cause, the sentence's opening and its rest."""
    told = mapping(found.get("verdict"))
    state = str(told.get("state") or "unknown")
    opening, colon, rest = str(told.get("sentence") or "").partition(": ")
    opening = (f"{opening}." if colon else opening) or "There is no verdict: too little could be measured."
    mood, cause = MOODS.get(state, "unsure"), str(told.get("cause") or "")
    return {"state": state, "cause": cause, "mood": mood, "opening": opening, "detail": rest}


def why(found: dict[str, Any]) -> dict[str, Any]:
    """What makes tokens alike: the sentence, bars, eigenvalues, and the two checks with what they found."""
    told = mapping(found.get("explanation"))
    cut, near, check = mapping(told.get("ablated")), mapping(told.get("prediction")), []
    if cut:
        parts = ", ".join(str(part) for part in cut.get("parts") or [])
        check.append((f"layer {short(number(cut.get('layer')))} without {parts}", ""))
        check.append(("attributed to them", short(number(cut.get("given")))))
        check.append(("growth that is gone without them", short(number(cut.get("lost")))))
    correlation = number(near.get("correlation"))
    said = (
        f"{short(correlation)} (chance {short(number(near.get('null95')))})"
        if correlation == correlation
        else str(near.get("why") or "")
    )
    check += [("prediction from weights near consensus: correlation", said)] if said else []
    words = [
        *_words(told),
        *(f"layer {i}: {layer['why']}" for i, layer in enumerate(rows(told.get("layers"))) if layer.get("why")),
    ]
    return {
        "sentence": str(told.get("sentence") or ""), "words": list(dict.fromkeys(words))[:12], "bars": depth.attribution(found),
        "check": check, "discs": depth.discs(found),
    }  # fmt: skip


def _dictionary(told: dict[str, Any]) -> list[panel.Row]:
    made = ((words, mapping(told.get(name))) for name, words in DICTIONARY.items())
    return [
        (words, short(number(one.get("value"))), short(number(one.get("null"))), str(one.get("why") or panel.said(one)))
        for words, one in made
        if one
    ]


def _order(told: dict[str, Any]) -> Figure | None:
    """How much each layer's tokens depend on the order of the patches; None where nothing was permuted."""
    y = [number(one) for one in told.get("tokens") or []] if isinstance(told.get("tokens"), list) else []
    if sum(value == value for value in y) < 2:
        return None
    lines = [Line("tokens", range(len(y)), y, "water", mark="point")]
    caption = "Patches are dealt anew over the image: 0, order plays no part; 1, as if it were another image."
    drawing = chart(
        lines, Axis("layer"), Axis("dependence on order", include=(0.0, 1.0)), alt=f"{caption} Last layer: {short(y[-1])}."
    )
    return Figure("Does the order of the patches matter?", drawing, caption, (), ())
