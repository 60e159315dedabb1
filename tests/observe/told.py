"""Looks as a watch writes them down, made up: what a healthy run shows, with whatever a test changes."""

import math
from typing import Any

HEALTHY = {  # name: before training, now
    "variance.image": (0.5, 0.26),
    "variance.position": (0.3, 0.08),
    "variance.content": (0.2, 0.66),
    "locality": (0.4, 0.6),
    "high_norm": (0.0, 0.0),
    "heads.effective": (0.8, 0.7),
    "entropy.low": (0.0, 0.05),
    "entropy.high": (0.9, 0.1),
    "similarity": (0.7, 0.4),
    "rankme": (30.0, 20.0),
    "change": (0.0, 0.5),
    "weights": (0.0, 0.3),
    "teacher": (0.0, 0.02),
    "loss": (9.0, 6.0),
    "loss.gap": (0.7, -2.3),
    "prototypes.use": (0.1, 0.5),
    "order": (0.6, 0.7),
    "shortcut.intensity": (0.4, 0.5),
    "shortcut.group": (0.2, 0.4),
}
NULLS = {"prototypes.use": 0.6, "shortcut.group": 0.05}


def agreed(rho: Any, rank: Any, *, chance: Any = 0.02, spread: Any = 0.6, d: int = 240, **more: Any) -> dict[str, Any]:
    """One level."""
    return {"reliability": rho, "null95": chance, "rank": rank, "n": 96, "d": d, "spread": spread, "error": 0.01, **more}


def dense(rho: Any, rank: Any, **more: Any) -> dict[str, Any]:
    """A look at tokens alone, as runs of before there was a panel have it."""
    return {"dense": agreed(rho, rank, **more)}


def run(*looks: dict[str, Any]) -> list[dict[str, Any]]:
    """Looks with their steps: 0, 100, 200, ..."""
    return [{"step": 100 * i, **look} for i, look in enumerate(looks)]


def told(number: Any, null: Any = math.nan, why: str = "") -> dict[str, Any]:
    """One number of a panel."""
    return {"value": number, "null": null, "how": "", "why": why, "low": math.nan, "high": math.nan}


def healthy(count: int = 3, **levels: dict[str, Any]) -> list[dict[str, Any]]:
    """A run without anything wrong: one look before training and `count` after. levels: instead of the last look's."""
    looks = []
    for i in range(count + 1):
        panel = {name: told(pair[i > 0], NULLS.get(name, pair[0])) for name, pair in HEALTHY.items()}
        seen = (
            {"pooled": agreed(0.5, 12), "dense": agreed(0.6, 30)} if i else {"pooled": agreed(0.2, 6), "dense": agreed(0.3, 40)}
        )
        layers = {"similarity": [0.2, 0.3, 0.4], "entropy_low": [0.0, 0.1]}
        looks.append({"step": 100 * i, **seen, "panel": panel, "layers": layers, "words": []})
    looks[-1].update(levels)
    return looks


def with_panel(looks: list[dict[str, Any]], at: tuple[int, ...] = (-2, -1), **numbers: Any) -> list[dict[str, Any]]:
    """The looks with some numbers of the panel changed at these places; `__` in a name stands for a dot."""
    for place in at:
        for name, number in numbers.items():
            looks[place]["panel"][name.replace("__", ".")]["value"] = number
    return looks
