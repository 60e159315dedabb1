"""Which of several checkpoints to take, without labels: scores of each on the same images, best first."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.errors import InputError
from headwater.observe.look import look
from headwater.opening import open_model
from headwater.progress import Progress, Silent
from headwater.subject import Subject, of_file

TRUSTED = "dense gain"  # tau with a probe of tokens 0.42 and 0.72, with one of image classes none (benchmarks/ranking.py)


def scores(final: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, float]:
    """Label-free scores of a look (`Look.plain()`) beside that at its own start, each the larger the better; nan where unknown.

    gain: agreement between views less that before training. directions: signal rank. alpha-ReQ: minus its distance from 1.
    uniformity, alignment: with their signs turned.
    """
    found = {}
    for level in ("dense", "pooled"):
        now, then = ((look.get(level) or {}) for look in (final, start))
        found[f"{level} gain"] = _number(now.get("reliability")) - _number(then.get("reliability"))
        found[f"{level} agreement"] = _number(now.get("reliability"))
        found[f"{level} directions"] = _number(now.get("rank"))
        found[f"{level} directions gain"] = _number(now.get("rank")) - _number(then.get("rank"))
    panel = {name: _number(entry.get("value")) for name, entry in (final.get("panel") or {}).items()}
    get = lambda name: panel.get(name, math.nan)  # noqa: E731
    return found | {
        "RankMe": get("rankme"), "alpha-ReQ": -abs(get("alpha_req") - 1), "LiDAR": get("lidar"),
        "LiDAR corrected": get("lidar_corrected"), "participation ratio": get("participation_ratio"),
        "uniformity": -get("uniformity"), "alignment": -get("alignment"), "feature deviation": get("feature_deviation"),
        "locality": get("locality"), "content share": get("variance.content"), "not intensity": -get("shortcut.intensity"),
    }  # fmt: skip


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def measured(seen: Subject) -> dict[str, float]:
    """The scores of one model."""
    before, start = look(seen.untrained, seen.probe, step=0, precision=seen.precision, seed=seen.seed)
    after, _ = look(seen.trained, seen.probe, step=max(1, seen.step), start=start, precision=seen.precision, seed=seen.seed)
    return scores(after.plain(), before.plain())


def rank(
    models: Sequence[Path | str], images: Path | str, *, seed: int = 0, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Checkpoints by their dense gain on the same images, best first: [{"model", "rank", "scores"}].

    Only checkpoints of one kind of network, or of one run, can be compared so: another patch or width changes every score. It is
    for dense tasks, such as segmentation; for image-level classes no score was found that can be trusted.
    Raises: InputError for fewer than two models, and what `opening` and `gather` raise.
    """
    if len(models) < 2:
        raise InputError("There is nothing to rank: give two models or more.")
    progress, rows = progress or Silent(), []
    with progress.track("Ranking", len(models)) as advance:
        for model in models:
            opened = open_model(model, seed)
            if opened.reads != "images":
                raise InputError(
                    f"{model} reads text, of which there are no two views to agree: only models of images are ranked."
                )
            rows.append({"model": str(model), "scores": measured(of_file(opened, images, seed))})
            advance(1)
    rows.sort(key=lambda row: (-math.inf if math.isnan(row["scores"][TRUSTED]) else row["scores"][TRUSTED]), reverse=True)
    return [{**row, "rank": place + 1} for place, row in enumerate(rows)]
