"""What healthy runs look like: bands of their curves, of our own small runs (benchmarks/planted.py), as reference.json."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import Any

from headwater.errors import InputError

FILE = "reference.json"
EVERY = "every objective"


@dataclass(frozen=True)
class Band:
    """A number along training, in healthy runs. shares: of the training done, rising from 0 to 1; low, middle, high: 10th, 50th
    and 90th percentile over `runs` runs at each of them; how: what the number is compared with."""

    shares: tuple[float, ...]
    low: tuple[float, ...]
    middle: tuple[float, ...]
    high: tuple[float, ...]
    runs: int
    how: str

    def at(self, share: float) -> tuple[float, float, float]:
        """low, middle and high at a share of the training, on straight lines between the shares; the ends go on level."""
        import numpy as np

        return tuple(float(np.interp(share, self.shares, curve)) for curve in (self.low, self.middle, self.high))


@cache
def table() -> dict[str, Any]:
    """The whole file."""
    return json.loads(resources.files("headwater.observe").joinpath(FILE).read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """The numbers there are bands of, such as "dense.reliability" or "heads.effective"."""
    return tuple(table()["how"])


def band(name: str, objective: str = EVERY) -> Band:
    """The band of a number (`names`) in healthy runs of an objective, or of all.

    Small runs on small pictures: a band shows the shape that is usual, and is no bound for a larger model.
    Raises: InputError for a number or an objective that there is none of.
    """
    known = table()
    if objective not in known["bands"]:
        raise InputError(f"There are no healthy runs of {objective!r}: use one of {', '.join(known['bands'])}.")
    if name not in known["bands"][objective]:
        raise InputError(f"There is no band of {name!r} for {objective}: use one of {', '.join(known['bands'][objective])}.")
    found = known["bands"][objective][name]
    curves = (tuple(found[part]) for part in ("low", "middle", "high"))
    return Band(tuple(known["shares"]), *curves, found["runs"], known["how"][name])


def usual(first: Any, share: float, objective: str) -> dict[str, dict[str, list[float]]]:
    """Agreement and directions that healthy runs have at this share of training when they start as this one did.

    first: the first look (`Look.plain`). Returns: by level and quantity, [10th, 90th percentile]; empty without a start.
    """
    objective, found = objective if objective in table()["bands"] else EVERY, {}
    for level, quantity in product(("pooled", "dense"), ("reliability", "rank")):
        start = (first.get(level) or {}).get(quantity)
        if isinstance(start, (int, float)) and f"{level}.{quantity}" in table()["bands"][objective]:
            there = band(f"{level}.{quantity}", objective)
            low, _, high = there.at(share)
            ends = [start + low, start + high] if there.how.startswith("less") else [start * low, start * high]
            found.setdefault(level, {})[quantity] = ends
    return found


def beside(name: str, share: float, value: float, objective: str = EVERY) -> str:
    """Where a value lies at this share of training: "below", "within" or "above" the healthy band."""
    low, _, high = band(name, objective).at(share)
    return "below" if value < low else "above" if value > high else "within"
