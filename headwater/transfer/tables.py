"""From scores of finished trainings to the tables of a comparison: means, verdicts on pairs, knock-outs, and words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater.settings import Settings
from headwater.transfer import outcome, scores, verdicts
from headwater.transfer.even import Plan

LEARNED = 0.05  # Dice below which there is nothing to knock out
EQUAL = {"steps": "equal steps", "time": "equal time"}


def summarise(
    found: Mapping[Any, Mapping[str, np.ndarray]], subjects: Sequence[str], plan: Plan, ways: Sequence[Any], settings: Settings
) -> dict[str, Any]:
    """The summary of a comparison.

    Args: found: what each job (compare.Job) wrote. subjects: whose each test scan is. ways: the contenders (compare.Contender),
          the first of which all others are held against.
    """
    first, *others = ways
    table, pairs, suitable = [], [], None
    for regime in plan.steps:
        jobs = {way.name: way.jobs(plan, regime) for way in ways}
        dice = {name: np.stack([per_subject(found[job]["dice"], subjects) for job in mine]) for name, mine in jobs.items()}
        pooled = verdicts.noise(list(dice.values()))
        table += [_row(name, regime, jobs[name], dice[name], found, pooled) for name in dice]
        against = [(way.name, first.name) for way in others]
        pairs += [
            {
                "method": j.method, "against": j.against, "regime": regime, "gain": j.interval.mean, "low": j.interval.low,
                "high": j.interval.high, "p": j.p, "verdict": j.verdict, "sentence": verdicts.sentence(j, EQUAL[regime]),
            }
            for j in verdicts.judge(dice, against, settings.compare.delta)
        ]  # fmt: skip
        suitable = suitable or verdicts.suitability(dice)
    return {
        "methods": [way.name for way in ways],
        "regimes": list(plan.steps),
        "seeds": plan.seeds,
        "delta": settings.compare.delta,
        "test_subjects": len(set(subjects)),
        "left_out": dict(plan.left_out),
        "table": table,
        "pairs": pairs,
        "suitability": suitable,
        "knockout": [_knockout(way, found, subjects, plan, settings) for way in ways if plan.costs[way.family].attention],
        "words": [*plan.words, *(f"{words}." for words in plan.left_out.values()), *_cautions(found, plan)],
    }


def _cautions(found: Mapping[Any, Mapping[str, np.ndarray]], plan: Plan) -> list[str]:
    """What seconds and memory mean."""
    if "time" not in plan.steps:
        return []
    spent = [float(saved["seconds"]) for job, saved in found.items() if job.steps == plan.steps["time"][job.method]]
    off = max((abs(s / plan.seconds - 1) for s in spent), default=0.0)
    said = ["Memory is the most that the whole process held, so at most what a training needs."]
    if off > 0.25:
        said.append(f"Seconds came out up to {100 * off:.0f} % off what was measured beforehand: the machine was not idle.")
    return said


def per_subject(dice: Float[np.ndarray, "scans K"], subjects: Sequence[str]) -> Float[np.ndarray, " subjects"]:
    """Mean over the structures that a scan has, then over the scans of a subject; nan where nothing is known."""
    return outcome.by_subject(outcome.mean(dice, 1), list(subjects))


def _row(
    name: str, regime: str, jobs: Sequence[Any], dice: np.ndarray, found: Mapping[Any, Mapping], pooled: verdicts.Noise
) -> dict[str, Any]:
    """A method in a regime; its interval is over subjects and trainings, not paired with anything."""
    known = dice[:, np.isfinite(dice).all(axis=0)]
    mean, reach = float(known.mean()) if known.size else np.nan, np.nan
    if known.shape[1] > 1:
        each = known.mean(axis=0)
        seeds = (pooled.variance / len(known), pooled.freedom)
        reach = verdicts.Difference(mean, float(each.var(ddof=1) / len(each)), len(each) - 1, *seeds).reach()
    return {
        "method": name,
        "regime": regime,
        "steps": jobs[0].steps,
        "seconds": float(np.mean([found[job]["seconds"] for job in jobs])),
        "memory_gib": float(np.max([found[job]["memory"] for job in jobs])),
        "parameters": int(found[jobs[0]]["parameters"]),
        "trials": 0,  # nothing is tuned for any method
        "mean": mean,
        "low": float(np.fmax(0.0, mean - reach)) if np.isfinite(reach) else np.nan,
        "high": float(np.fmin(1.0, mean + reach)) if np.isfinite(reach) else np.nan,
    }


def _knockout(
    way: Any, found: Mapping[Any, Mapping[str, np.ndarray]], subjects: Sequence[str], plan: Plan, settings: Settings
) -> dict[str, Any]:
    """What a method loses when attention is taken from its trained networks, and when it never had any."""
    jobs = way.jobs(plan, "steps")
    whole = np.stack([per_subject(found[job]["dice"], subjects) for job in jobs])

    def change(kind: str) -> scores.Interval:
        without = np.stack([per_subject(found[job][f"dice_{kind}"], subjects) for job in jobs])
        return scores.interval(without - whole, settings.seed, bounds=(-1.0, 1.0))

    main, own = change("branch"), change("own")
    if not (reached := float(np.nanmean(whole)) if np.isfinite(whole).any() else 0.0) > LEARNED:
        main = own = scores.Interval(np.nan, np.nan, np.nan)
    row = {"method": way.name, "change": main.mean, "low": main.low, "high": main.high}
    row["own"] = {"change": own.mean, "low": own.low, "high": own.high}
    row["retrained"] = _retrained(way, found, subjects, whole, settings)
    words = knockout_sentence(way.name, main, settings.compare.delta)
    if not reached > LEARNED:
        words = f"{way.name} learned next to nothing (Dice {100 * reached:.1f}): what its attention is worth cannot be told."
    if row["retrained"] is not None:
        words += f" {row['retrained']['sentence']}"
    return row | {"sentence": words}


def _retrained(
    way: Any, found: Mapping[Any, Mapping[str, np.ndarray]], subjects: Sequence[str], whole: np.ndarray, settings: Settings
) -> dict[str, Any] | None:
    """A training that never had attention, against those that had; None where there is none."""
    mine = [saved["dice"] for job, saved in found.items() if job.method == way.family and not job.attention]
    if not mine:
        return None
    named = {"without": np.stack([per_subject(dice, subjects) for dice in mine]), way.name: whole}
    (judged,) = verdicts.judge(named, [("without", way.name)], settings.compare.delta)
    said = {
        "better": "Trained without attention from the start it is better",
        "worse": "Trained without attention from the start it is worse",
        "no difference": "Trained without attention from the start it is as good",
        "cannot tell": "Whether it would learn as much without attention cannot be told",
    }[judged.verdict]
    at = judged.interval
    return {
        "change": at.mean, "low": at.low, "high": at.high, "verdict": judged.verdict,
        "sentence": f"{said}: {_points(at)}.",
    }  # fmt: skip


def knockout_sentence(name: str, change: scores.Interval, delta: float) -> str:
    """What the knock-out of a trained network says."""
    said = {
        "better": f"{name} is better without its attention",
        "worse": f"{name} uses its attention",
        "no difference": f"attention does nothing that matters in {name}: a network without it would do",
        "cannot tell": f"whether {name} uses its attention cannot be told",
    }[verdicts.verdict(change, delta)]
    return f"With attention knocked out: {said}, {_points(change)}."


def _points(change: scores.Interval) -> str:
    """In Dice points."""
    if not np.isfinite(change.low):
        return f"{100 * change.mean:+.1f} Dice points, without an interval" if np.isfinite(change.mean) else "no score"
    return f"{100 * change.mean:+.1f} Dice points [{100 * change.low:.1f}, {100 * change.high:.1f}]"
