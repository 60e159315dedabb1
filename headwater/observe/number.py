"""A measured number with what chance gives, so that it never comes alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwater.errors import InputError


@dataclass(frozen=True)
class Number:
    """value: what was measured, nan if it could not be. null: what chance, or the network's own initialisation, gives; nan if
    unknown. how: how the null was found. why: empty, or what kept the value from being computed, or a reservation about it.
    low, high: 95 % interval of the value where one was found, else nan."""

    value: float
    null: float
    how: str
    why: str = ""
    low: float = math.nan
    high: float = math.nan

    def plain(self) -> dict[str, float | str | None]:
        """As JSON holds it: None for nan, no interval where there is none, no words where there are none."""
        found = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in vars(self).items()}
        return {name: v for name, v in found.items() if v not in (None, "") or name in ("value", "null")}


def absent(why: str, how: str = "not sought") -> Number:
    """A number that could not be computed, and why."""
    return Number(math.nan, math.nan, how, why)


def broken(rows: Tensor, name: str = "images") -> str:
    """How many entries along the first axis hold NaN or Inf, in words; empty if none."""
    count = int((~rows.detach().reshape(len(rows), -1).isfinite().all(1)).sum()) if rows.numel() else 0
    return f"features of {count} of {len(rows)} {name} are not finite" if count else ""


def flat(scatter: float, square: float, dtype: torch.dtype) -> bool:
    """Whether a variance is no more than the rounding of numbers of this mean square and type."""
    return scatter <= (4 * torch.finfo(dtype).eps) ** 2 * square


def attempt(make: Callable[[], Any]) -> Any:
    """What is made; where it cannot be, an absent number that says why."""
    try:
        return make()
    except (InputError, ValueError, RuntimeError, ArithmeticError) as error:
        return absent(str(error).split("\n")[0])
