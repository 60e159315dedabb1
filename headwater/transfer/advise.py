"""Do you need a transformer? An answer from what was measured, with its interval and its reasons; no training here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.transfer import verdicts
from headwater.transfer.context import Curve, Reach
from headwater.transfer.scores import Interval

ATTENTION = {"hybrid": "hybrid", "vit": "transformer", "swin": "transformer", "mixed": "transformer", "continuous": "transformer"}
MANY = 1000  # scans under which a transformer from scratch is not expected to pay (ViTs learn local attention only with
# enough data: Raghu et al. 2108.08810; from scratch CNNs win, Matsoukas et al. 2108.09038, nnU-Net Revisited 2404.09556)

LEVEL = 0.02  # of error that more context must not gain, for a curve to count as level: a few subjects alone would not show
# it (on the far mirrors of the benchmark the curve's own rule said 1.5 mm while the error still fell by 0.08; set after that)


@dataclass(frozen=True)
class Validation:
    """Mean regret in Dice of the advisor, of the pilot alone and of always taking the CNN, as benchmarks/advisor.py measured it.

    better: by how much the advisor's regret is smaller than that of always the CNN, with its 95 % interval over tasks.
    """

    tasks: int
    trainings: int
    advisor: float
    pilot: float
    cnn: float
    better: Interval
    of: str

    @property
    def trusted(self) -> bool:
        """Whether the advisor beats "always CNN"."""
        return self.better.low > 0

    def sentence(self) -> str:
        """What was measured, in words."""
        points = f"{100 * self.better.mean:.1f} [{100 * self.better.low:.1f}, {100 * self.better.high:.1f}]"
        lost = f"On {self.of}, following this advice lost {100 * self.advisor:.1f} Dice points to the best network there"
        lost += f", always taking the CNN {100 * self.cnn:.1f}: {points} more"
        return f"{lost}." if self.trusted else f"{lost}, which may be chance. So only the trainings above are heard."


MEASURED = Validation(
    5,
    30,
    0.0,
    0.0,
    0.0745,
    Interval(0.0745, -0.1324, 0.2815),
    "5 small tasks, 3 made up and 2 real, two trainings of each network",
)


@dataclass(frozen=True)
class Priors:
    """What is known before any training. images: all scans; pretrained: whether a backbone of these scans or such is at hand.

    token_mm: side of a token; object_mm: of a cube as large as the median object of the masks (nan without one).
    """

    images: int
    pretrained: bool
    token_mm: float
    object_mm: float
    unit: str = "mm"

    def sentences(self) -> tuple[str, ...]:
        """In words; none of them decides against a measurement."""
        few = f"{self.images:,} scans " + ("and a pretrained backbone" if self.pretrained else "and no pretrained backbone")
        said = [f"{few}: from scratch and with under {MANY:,} scans CNNs usually win." if self.doubtful else f"{few}."]
        if self.object_mm < self.token_mm:
            said.append(f"The median object is {self.object_mm:.3g} {self.unit} wide, less than a token of {self.token_mm:.3g}.")
        return tuple(said)

    @property
    def doubtful(self) -> bool:
        """Whether a transformer would start with nothing and on little."""
        return not self.pretrained and self.images < MANY


@dataclass(frozen=True)
class Advice:
    """answer: CNN | hybrid | transformer | cannot tell. low, high: gain in Dice of the best attention model over the CNN, nan
    where no pilot measured it. because: what it rests on, in order. trust: how good such advice was where it could be checked."""

    answer: str
    low: float
    high: float
    sentence: str
    because: tuple[str, ...]
    trust: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def priors(store: Store, settings: Settings, pretrained: bool = False) -> Priors:
    """Of these scans and a transformer with the settings' tokens."""
    from scipy.ndimage import label

    volumes = []
    for i in store.labelled[:16]:
        mask = np.asarray(store.label(i))
        parts, _ = label((mask > 0) & (mask < store.classes))
        volumes += np.bincount(parts.ravel())[1:].tolist()
    voxel = math.prod(store.spacing)
    side = float(np.median(volumes) * voxel) ** (1 / store.ndim) if volumes else math.nan
    return Priors(len(store), pretrained, settings.backbone.patch * max(store.spacing), side, store.unit)


def advise(
    knockout: Sequence[Mapping[str, Any]] = (),
    curve: Curve | None = None,
    pairs: Sequence[Mapping[str, Any]] = (),
    known: Priors | None = None,
    *,
    reach: Reach | None = None,
    delta: float = 0.01,
    measured: Validation = MEASURED,
) -> Advice:
    """The answer, from what there is; every part may be missing. In this order:

    1. Knock-out (rows: method, low, high of the change of Dice): a transformer that changes by less than `delta` does not use
       its attention and is out. If all are out: CNN.
    2. Context curve: if it levels off inside the CNN's effective reach, more context buys nothing; attention then has the burden.
    3. Pilot (rows: method, regime, gain, low, high, over the CNN): a transformer still in that is clearly better than the CNN in
       one regime and clearly worse in none is the answer, the one of the largest gain. If none can gain more than
       `delta`, or none is clear and attention has the burden: CNN. If none is clear otherwise: cannot tell.
    4. Priors, where there is no pilot: with the burden, or from scratch on few scans: CNN; else cannot tell.
    Where the benchmark did not find the whole better than always taking the CNN, only the pilot is heard.
    """
    if not measured.trusted:
        knockout, curve, known = (), None, None
    because, out = [], {row["method"] for row in knockout if verdicts.verdict(_of(row), delta) == "no difference"}
    asked = [row for row in knockout if row["method"] in ATTENTION]
    because += [str(row["sentence"]) for row in asked if row.get("sentence")]
    burden = _burden(curve, reach, because)
    gains = _gains(pairs, delta)
    because += [_told(method, row) for method, row in gains.items()]
    best = max(gains.values(), key=lambda row: row["gain"], default={"low": math.nan, "high": math.nan})
    unearned = [method for method, row in gains.items() if method in out and row["verdict"] == "better"]
    because += [f"What {method} gains is not due to its attention, which it does not use." for method in unearned]
    left = {method: row for method, row in gains.items() if method not in out}
    clear = {method: row for method, row in left.items() if row["low"] > 0 and row["verdict"] == "better"}
    if asked and all(row["method"] in out for row in asked) and not left:
        answer = "CNN"
    elif clear:
        chosen = max(clear, key=lambda method: clear[method]["gain"])
        answer, best = ATTENTION[chosen], clear[chosen]
    elif left:
        small = all(row["high"] <= delta for row in left.values())
        answer = "CNN" if small or burden else "cannot tell"
    else:
        because += known.sentences() if known else ()
        answer = "CNN" if burden or (known and known.doubtful) else "cannot tell"
    ends = float(best["low"]), float(best["high"])
    return Advice(answer, *ends, _sentence(answer, best), tuple(because), measured.sentence())


def _of(row: Mapping[str, Any]) -> Interval:
    low, high = (math.nan if row[end] is None else row[end] for end in ("low", "high"))  # JSON has no nan
    return Interval((low + high) / 2, low, high)


def _burden(curve: Curve | None, reach: Reach | None, because: list[str]) -> bool:
    """Whether the CNN sees as much as the labels ask for; says why."""
    if curve is None:
        return False
    because.append(curve.sentence)
    if reach is None or curve.blind:
        return False
    within = [error for radius, error in zip(curve.radius_mm, curve.error, strict=True) if radius <= reach.effective_mm]
    if within and curve.saturation_mm <= reach.effective_mm and within[-1] - min(curve.error) > LEVEL:
        because.append(
            f"The curve is too uncertain to say so: its error still falls by {100 * (within[-1] - min(curve.error)):.0f} %."
        )
        return False
    inside = curve.saturation_mm <= reach.effective_mm
    because.append(
        f"The CNN looks {reach.effective_mm:.3g} {curve.unit} far, so global attention has "
        + ("nothing to add for these labels." if inside else "context to add that the CNN hardly sees.")
    )
    return inside


def _gains(pairs: Sequence[Mapping[str, Any]], delta: float) -> dict[str, dict[str, Any]]:
    """By attention method, the regime that speaks: a clear loss if there is one, else a clear gain, else the largest gain."""
    found: dict[str, dict[str, Any]] = {}
    order = {"worse": 0, "better": 1, "no difference": 2, "cannot tell": 3}
    for row in pairs:
        if row["method"] in ATTENTION and row["against"] not in ATTENTION and row["gain"] is not None:
            at = _of(row)
            judged = dict(row) | {"low": at.low, "high": at.high, "verdict": verdicts.verdict(at, delta)}
            before = found.get(row["method"])
            rank = (order[judged["verdict"]], -judged["gain"])
            if before is None or rank < (order[before["verdict"]], -before["gain"]):
                found[row["method"]] = judged
    return found


def _told(method: str, row: Mapping[str, Any]) -> str:
    """A row of the pilot in words."""
    return str(row.get("sentence") or f"{method} against {row['against']}: {row['verdict']}, {_points(row)}.")


def _points(row: Mapping[str, Any]) -> str:
    ends = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if math.isfinite(row["low"]) else "(no interval)"
    return f"{100 * row['gain']:+.1f} Dice points {ends}"


def _sentence(answer: str, best: Mapping[str, Any]) -> str:
    """The answer, and what it rests on in Dice points."""
    said = {
        "CNN": "No evidence that a transformer is needed: take the CNN.",
        "hybrid": "Attention pays here: take the hybrid.",
        "transformer": "Attention pays here: take the transformer.",
        "cannot tell": "Whether a transformer is needed cannot be told; until it can, keep the CNN.",
    }[answer]
    gain = f" Best attention model over the CNN: {_points(best)}." if "gain" in best else " No pilot was run."
    return said + gain
