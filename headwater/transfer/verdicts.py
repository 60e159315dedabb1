"""Which of two ways is better, and how sure that is: paired over subjects, trainings as a random effect, Holm over a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from jaxtyping import Float

from headwater.transfer.scores import Interval

LEVEL = 0.05


@dataclass(frozen=True)
class Noise:
    """Variance of the mean score between trainings of one method, in the mean over methods, and how many degrees it rests on."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class Difference:
    """A mean difference of two methods; its variance from test subjects and from trainings, with the degrees of freedom of each.

    Both variances hold what subjects and trainings make together, so their sum is never too small on average.
    """

    gain: float
    subjects: float
    subjects_freedom: int
    seeds: float
    seeds_freedom: int

    def reach(self, level: float = LEVEL) -> float:
        """Half the width of the interval at 1 - level: the reaches of both sources, added in the squares.

        Student's t with Satterthwaite's degrees of freedom for the sum, as usual, is too narrow where two or three trainings
        decide (simulated false verdicts 7 to 14 %, here 1 to 5 %). nan where a source is unknown.
        """
        from scipy.special import stdtrit  # Student's quantile, without the overhead of scipy.stats

        if min(self.subjects_freedom, self.seeds_freedom) < 1 or not np.isfinite(self.gain):
            return nan
        both = ((self.subjects, self.subjects_freedom), (self.seeds, self.seeds_freedom))
        return sqrt(sum(stdtrit(freedom, level / 2) ** 2 * variance for variance, freedom in both))

    def p(self) -> float:
        """The smallest level at which nought is outside the interval, to 1e-9 times itself; nan where that is unknown."""
        from scipy.optimize import brentq

        if np.isnan(self.reach()):
            return nan
        if abs(self.gain) <= (smallest := self.reach(1.0)):  # 0 without variance and without a gain
            return 1.0
        if abs(self.gain) > self.reach(1e-12) or smallest == inf:
            return 1e-12
        return float(np.exp(brentq(lambda x: self.reach(float(np.exp(x))) - abs(self.gain), np.log(1e-12), 0.0)))


@dataclass(frozen=True)
class Judged:
    """One pair of a table. interval: of method minus against, at the level that Holm leaves it."""

    method: str
    against: str
    interval: Interval
    p: float
    verdict: str


def verdict(interval: Interval, delta: float) -> str:
    """better | worse | no difference | cannot tell: a difference wholly within +-delta is none, even where it is clear."""
    if not np.isfinite([interval.low, interval.high]).all():
        return "cannot tell"
    if -delta <= interval.low and interval.high <= delta:
        return "no difference"
    return {1: "better", -1: "worse", 0: "cannot tell"}[interval.clear]


def noise(scores: Sequence[np.ndarray]) -> Noise:
    """Pooled over methods, each (seeds, subjects) and trained two times or more; 0 degrees where none was."""
    more = [one for one in scores if len(one) > 1 and one.size]
    found, counts = [np.var(one.mean(axis=1), ddof=1) for one in more], [len(one) - 1 for one in more]
    return Noise(float(np.average(found, weights=counts)) if counts else nan, sum(counts))


def difference(
    ours: Float[np.ndarray, "seeds subjects"], theirs: Float[np.ndarray, "others subjects"], pooled: Noise
) -> Difference:
    """Ours minus theirs, scored on the same subjects; trainings need not be equally many.

    Two or three trainings say little about how much trainings differ, so that variance is pooled over all methods of the table
    (where the two of this pair differ by more, theirs counts: a method that trains unsteadily is not taken for a steady one).
    Trainings are not paired, though their batches are equal: that makes the interval wider, if anything.
    """
    own = noise([ours, theirs])
    variance = np.fmax(pooled.variance, own.variance) * (1 / len(ours) + 1 / len(theirs))
    each = ours.mean(axis=0) - theirs.mean(axis=0)
    many = len(each)
    by_subject = float(each.var(ddof=1) / many) if many > 1 else nan
    return Difference(float(each.mean()) if many else nan, by_subject, many - 1, float(variance), pooled.freedom)


def judge(scores: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]], delta: float) -> list[Judged]:
    """Verdicts on all pairs of one table, in their order: a false "better" or "worse" anywhere in it in at most 5 % of tables.

    Simulated (benchmarks/compare.py): 0 to 5 %; 6 % for two methods one of which trains three times as unsteadily.

    Args:   scores: (seeds, subjects) by method, in 0..1; subjects that are nan for any are left out. pairs: method, against.
            delta: a difference below which nothing matters.
    Holm (1979): the clearest of m pairs has its interval at 1 - 0.05 / m, the next at 1 - 0.05 / (m - 1), and so on until one
    is not clear; the rest have that one's level.
    """
    known = np.all([np.isfinite(one).all(axis=0) for one in scores.values()], axis=0)
    kept = {name: np.asarray(one, np.float64)[:, known] for name, one in scores.items()}
    pooled = noise(list(kept.values()))
    found = [difference(kept[one], kept[other], pooled) for one, other in pairs]
    chances = [one.p() for one in found]
    order = sorted(range(len(pairs)), key=lambda i: inf if np.isnan(chances[i]) else chances[i])
    level, judged = LEVEL / max(1, len(pairs)), [None] * len(pairs)
    stepping = True
    for place, i in enumerate(order):
        if stepping:
            level = LEVEL / (len(pairs) - place)
            stepping = chances[i] < level
        reach, gain = found[i].reach(level), found[i].gain
        interval = Interval(gain, max(-1.0, gain - reach), min(1.0, gain + reach)) if reach == reach else Interval(gain, nan, nan)
        judged[i] = Judged(*pairs[i], interval, chances[i], verdict(interval, delta))
    return judged


def sentence(judged: Judged, where: str = "") -> str:
    """A verdict in words, in Dice points; where: such as "equal steps"."""
    one, other, at, where = judged.method, judged.against, judged.interval, f" at {where}" if where else ""
    if not np.isfinite(at.low):
        return f"{one} against {other}{where}: cannot tell; an interval needs two test subjects and two trainings of a method."
    said = {
        "better": f"{one} is better than {other}",
        "worse": f"{one} is worse than {other}",
        "no difference": f"{one} and {other}: no difference that matters",
        "cannot tell": f"{one} against {other}: cannot tell",
    }[judged.verdict]
    return f"{said}{where}: {100 * at.mean:+.1f} Dice points [{100 * at.low:.1f}, {100 * at.high:.1f}]."


def suitability(scores: Mapping[str, np.ndarray]) -> dict[str, float | str | None]:
    """Whether a set can tell methods apart: their spread beside that of trainings of one method (nnU-Net Revisited, 2404.09556).

    between, within: standard deviations of mean scores, 0..1; chance: of such a spread between methods that are all alike (F).
    """
    from scipy.stats import f

    known = np.all([np.isfinite(one).all(axis=0) for one in scores.values()], axis=0)
    kept = [np.asarray(one, np.float64)[:, known] for one in scores.values()]
    pooled, means = noise(kept), np.array([one.mean() if one.size else nan for one in kept])
    if len(kept) < 2 or pooled.freedom < 1 or not np.isfinite(means).all():
        why = "Whether this set can tell methods apart is unknown: that takes two methods and two trainings of one."
        return {"between": None, "within": None, "chance": None, "sentence": why}
    between, within = float(means.std(ddof=1)), sqrt(pooled.variance)
    least = min(len(one) for one in kept)
    ratio = least * between**2 / pooled.variance if pooled.variance else inf if between else 0.0
    chance = float(f.sf(ratio, len(kept) - 1, pooled.freedom))
    words = f"methods differ by {100 * between:.1f} Dice points, trainings of one method by {100 * within:.1f}"
    if chance < LEVEL:
        said = f"This set can tell these methods apart: {words}."
    else:
        said = (
            f"This set cannot tell these methods apart, so no ranking on it means much: {words} (chance of as much {chance:.2f})."
        )
    return {"between": between, "within": within, "chance": chance, "sentence": said}
