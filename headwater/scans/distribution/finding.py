"""What a measurement of the data says: a number, how sure it is, what it would be by chance, and one sentence."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Null:
    """What the same estimator gives where there is nothing to find. of: where. low, high: its 95 % range."""

    of: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    """One number about the data. value is None where it cannot be measured; the sentence then says why.

    interval: 95 %, over scans; None with fewer than five of them. error: standard error where a likelihood gives one.
    """

    name: str
    value: float | None
    unit: str
    sentence: str
    interval: tuple[float, float] | None = None
    error: float | None = None
    null: Null | None = None

    def __post_init__(self) -> None:
        ends = (*(self.interval or ()), *((self.null.value, self.null.low, self.null.high) if self.null else ()))
        numbers = [x for x in (self.value, self.error, *ends) if x is not None]
        assert all(math.isfinite(x) for x in numbers), f"{self.name} is not finite"


@dataclass(frozen=True)
class Series:
    """One line, cloud of points or row of bars of a plot. low, high: whiskers, as many as points or none; labels: of bars."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    marks: str = "line"  # "line", "points", "bars"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """What one picture needs: series on shared axes, and what the axes are."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Distribution:
    """How the voxels of a folder of scans are distributed. Made by `describe`; JSON by `plain`.

    scans: drawn and used; of: in the folder. patches: sampled, each of `patch` voxels. background: share of places
    that were nearly constant and left out. spacing: median, in `unit` ("mm", or "voxels" if files state none).
    notes: what was left out, and why.
    """

    scans: int
    of: int
    patches: int
    patch: tuple[int, ...]
    channels: int
    spacing: tuple[float, ...]
    unit: str
    background: float | None
    findings: tuple[Finding, ...]
    plots: tuple[Plot, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """All of it as JSON holds it, the sentences (for people) too; no file is named in it."""
        return {**asdict(self), "sentences": self.sentences()}

    def sentences(self) -> list[str]:
        """One sentence per finding, after what was looked at, in plain words."""
        if not self.patches:
            return [
                f"No patch with contrast in {self.scans} of {self.of} scans.",
                *self.notes,
                *(f.sentence for f in self.findings),
            ]
        size = " x ".join(str(n) for n in self.patch)
        seen = f"Looked at {self.patches} patches of {size} voxels from {self.scans} of {self.of} scans"
        share = "" if self.background is None else f"; {self.background:.0%} of the places were nearly constant, left out"
        return [f"{seen}{share}.", *self.notes, *(finding.sentence for finding in self.findings)]

    def finding(self, name: str) -> Finding:
        """The finding of that name. Raises KeyError if there is none."""
        return {finding.name: finding for finding in self.findings}[name]

    def plot(self, name: str) -> Plot:
        """The plot of that name. Raises KeyError if there is none."""
        return {plot.name: plot for plot in self.plots}[name]


def absent(name: str, unit: str, why: str) -> Finding:
    """A finding that could not be made. why: a clause, such as "one scan is too few"."""
    return Finding(name, None, unit, f"{name[0].upper()}{name[1:]} cannot be measured: {why}.")


def short(number: float) -> str:
    """Three significant digits, without an exponent between a thousandth and a million; never "-0"."""
    if abs(number) < 1e-9:
        return "0"
    if not 1e-3 <= abs(number) < 1e6:
        return f"{number:.3g}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def beside(finding_value: float, interval: tuple[float, float] | None, null: Null) -> int:
    """Which side of the null's range a value lies: 1 above, -1 below, 0 if it cannot be told (ranges meet)."""
    low, high = interval or (finding_value, finding_value)
    return 1 if low > null.high else -1 if high < null.low else 0
