"""The numbers of an observation as tables: agreement by level, the panel with its nulls, the published measures."""

import math
from typing import Any

from headwater.report.charts import short
from headwater.report.record import mapping, number

LEVELS = {"pooled": "whole image", "dense": "single tokens", "output": "what the head gives"}
SIDES = {"final": "trained", "initial": "untrained", "pixels": "pixels"}
GROUPS = {  # name of a number -> what it is, in words, by theme
    "Tokens": {
        "variance.image": "variance of tokens: which image it is",
        "variance.position": "variance of tokens: where they stand",
        "variance.content": "variance of tokens: what is there",
        "locality": "nearby tokens more alike than distant ones",
        "high_norm": "share of tokens with outlying norm",
        "similarity": "mean cosine of one image's tokens, last layer",
    },
    "Attention": {
        "heads.effective": "heads that differ, share of all (lowest layer)",
        "heads.ablation": "change without the head that matters most",
        "entropy.low": "share of heads that look at one token",
        "entropy.high": "share of heads that look at all tokens alike",
        "distance": "how far attention reaches",
        "order": "dependence on the order of tokens",
    },
    "Learned": {
        "change": "change of features since before training",
        "weights": "change of weights since before training",
        "teacher": "distance of teacher and student",
        "prototypes.use": "prototypes in use",
        "reuse.accuracy": "classes told by the nearest images, share right",
        "reuse.untrained": "gain in that over the untrained network",
        "reuse.pixels": "gain in that over pixels",
        "loss.gap": "loss less that of a uniform output",
        "loss": "loss",
    },
    "Shortcuts": {
        "shortcut.intensity": "features told by the image's intensities (R²)",
        "shortcut.group": "agreement left within a group (scanner, site)",
    },
}
ALONG = "Along the depth"
JOURNEY = {  # of "motion"
    "paid": "energy paid / least possible",
    "energy": "energy paid: steps squared, times layers",
    "transport": "least possible: optimal transport",
    "way": "length of the way / distance of its ends",
    "clusters": "groups of tokens after the last layer",
}
GROWTH = {"exponent": "leading growth exponent, a layer"}  # of "growth"
PUBLISHED = {
    "rankme": "RankMe",
    "alpha_req": "α-ReQ",
    "lidar": "LiDAR, as published",
    "lidar_corrected": "LiDAR, corrected for few images",
    "uniformity": "uniformity",
    "alignment": "alignment",
    "feature_deviation": "standard deviation of normalised features",
    "participation_ratio": "participation ratio",
}
UNSOUGHT = ("teacher", "prototypes.use", "loss.gap", "loss", "shortcut.group")  # said only where there is something to say
UNTRAINED = {  # how a run words its null -> how it is worded beside a finished model
    "the same network at the first look": "the same network, untrained",
    "the same network before training": "the same network, untrained",
    "the same weights at the first look": "the same weights, untrained",
}
Row = tuple[str, str, str, str]  # what, value, null, how


def groups(found: dict[str, Any]) -> list[tuple[str, list[Row]]]:
    """The panel by theme; a theme without numbers is left out, numbers nobody sought as well."""
    panel = mapping(mapping(found.get("look")).get("panel"))
    known = {name for names in (*GROUPS.values(), PUBLISHED) for name in names}
    others = {name: name for name in panel if name not in known}
    themes = {**GROUPS, "Further": others}
    made = [
        (theme, [row for name, words in names.items() if (row := _row(panel, name, words))]) for theme, names in themes.items()
    ]
    along = [(ALONG, rows)] if (rows := journey(found)) else []
    return [(theme, _together(theme, rows)) for theme, rows in made if rows] + along


def journey(found: dict[str, Any]) -> list[Row]:
    """What the tokens' way through the layers costs, what becomes of small changes, and what a probe tells at its end."""
    rows = []
    for part, names in (("motion", JOURNEY), ("growth", GROWTH)):
        panel = mapping(mapping(found.get(part)).get("panel"))
        made = [row for name, words in names.items() if (row := _row(panel, name, words))]
        rows += made[:1] if made and all(row[1] == "–" for row in made) else made
    return rows + _separable(mapping(found.get("separability")))


def _separable(told: dict[str, Any]) -> list[Row]:
    """Classes told by a linear probe after the last layer."""
    words = "classes told by a linear probe, last layer"
    now = mapping(told.get("trained"))
    score, error, null = ([math.nan, *listed(now.get(name))][-1] for name in ("accuracy", "error", "null95"))
    if math.isnan(score):
        said = told.get("words")
        return [(words, "–", "–", str(said[-1]))] if isinstance(said, list) and said else []
    before = [math.nan, *listed(mapping(told.get("untrained")).get("accuracy"))][-1]
    how = f"shuffled labels, 95 % below; chance {short(number(now.get('chance')))}, untrained {short(before)}"
    return [(words, f"{short(score)} ± {short(error)}", short(null), how)]


def listed(value: Any) -> list[float]:
    """Numbers of a list, nan for what is none; nothing for what is no list."""
    return [number(one) for one in value] if isinstance(value, list) else []


def _together(theme: str, rows: list[Row]) -> list[Row]:
    """One row where none of a theme could be had, for most of one reason."""
    if len(rows) < 2 or any(row[1] != "–" for row in rows):
        return rows
    reasons = [row[3] for row in rows]
    return [(theme.lower(), "–", "–", max(reasons, key=reasons.count))]


def published(found: dict[str, Any]) -> list[Row]:
    """Measures of others, under their own names, as they define them."""
    panel = mapping(mapping(found.get("look")).get("panel"))
    return [row for name, words in PUBLISHED.items() if (row := _row(panel, name, words))]


def _row(panel: dict[str, Any], name: str, words: str) -> Row | None:
    """A number beside its null, or why there is none; nothing for what was not sought."""
    if name not in panel:
        return None
    found = mapping(panel[name])
    value, why = number(found.get("value")), str(found.get("why") or "")
    how = said(found)
    if math.isnan(value) and (not why or name in UNSOUGHT):
        return None
    null = number(found.get("null"))
    told = f"{short(value)}{_ends(found)}"
    explained = why if math.isnan(value) else "; ".join(part for part in (how if null == null else "", why) if part)
    return words, told, short(null), explained


def said(found: dict[str, Any]) -> str:
    """How the null of a number was found, as a finished model's page words it."""
    how = str(found.get("how") or "")
    return UNTRAINED.get(how, how)


def _ends(found: dict[str, Any]) -> str:
    low, high = number(found.get("low")), number(found.get("high"))
    return f" [{short(low)}, {short(high)}]" if low == low and high == high else ""


def levels(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Agreement between two views: level, network, agreement, chance, directions, their chance, spread."""
    lines = []
    for level, where in LEVELS.items():
        for side, name in SIDES.items():
            told = mapping(mapping(found.get(side)).get(level))
            if not told:
                continue
            keys = ("reliability", "null95", "rank", "rank_null95", "spread")
            values = tuple(short(number(told.get(key))) for key in keys)
            error = number(told.get("error"))
            first = f"{values[0]} ± {short(error)}" if error == error else values[0]
            lines.append((where, name, first, *values[1:], f"{short(number(told.get('n')))} × {short(number(told.get('d')))}"))
    return lines
