"""How new is a scan to a backbone? A density on the features of the scans it learned from, kept beside its weights.

Novelty is about images, not about answers: a scan that is like those learned from may still be segmented wrongly, and an unusual
one rightly.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headwater.backbones.features import Backbone
from headwater.backbones.own import STATE, load_own
from headwater.errors import InputError
from headwater.flow.matching import Field
from headwater.flow.novelty import FEWEST, PATH, Density, Member, Summary
from headwater.flow.paths import Gaussian
from headwater.progress import Progress, Silent
from headwater.runfolder import write_whole
from headwater.scans import identifiers
from headwater.scans.layouts import one_or_more
from headwater.scans.readers import read
from headwater.scans.ready import Rule, ready
from headwater.scans.scan import Source
from headwater.scans.store import Store
from headwater.streams import numpy_stream, torch_stream
from headwater.transfer import borrowed
from headwater.transfer.frozen import resting, summary

KEPT = Path("state") / "familiar.safetensors"  # of a run folder
MOST, LEAST = 300, 90  # scans behind a density; fewer where scans are large
VOXELS = 2**26  # in all of them together, about
UNUSUAL = 95.0  # percentile


@dataclass(frozen=True, eq=False)
class Familiar:
    """What a backbone has seen: its features as a density. scans: how many are behind it."""

    backbone: Backbone
    density: Density
    scans: int

    def score(self, image: np.ndarray) -> tuple[float, str]:
        """Of one prepared scan (C, *S): the percentile, 0 to 100, and a sentence.

        The percentile is the share of the scans learned from (each judged by a density that has not seen it) that are less
        unusual; uniform for more scans like those. Raises: InputError for a scan the backbone cannot take or with NaN.
        """
        if not np.isfinite(image).all():
            raise InputError("The scan holds NaN or infinity after it was prepared: its novelty cannot be told.")
        return self.judge(summary(self.backbone, image))

    def judge(self, features: Float[Tensor, "d"]) -> tuple[float, str]:
        """The same of the scan's features."""
        percentile = float(self.density.novelty(features[None])[0])
        return percentile, self.words(percentile)

    def words(self, percentile: float) -> str:
        """What a percentile means."""
        if percentile >= self.highest - 1e-9:
            return f"new: more unusual than each of the {self.scans} scans that the backbone learned from"
        if percentile >= UNUSUAL:
            return f"unusual: more so than {percentile:.0f} % of the {self.scans} scans that the backbone learned from"
        return f"familiar: {percentile:.0f} % of the {self.scans} scans that the backbone learned from are less unusual"

    @property
    def highest(self) -> float:
        """The largest percentile that so many scans allow."""
        return float(np.mean([100 * (len(m.aside) + 0.5) / (len(m.aside) + 1) for m in self.density.members]))


def familiar(run: Path, progress: Progress | None = None) -> Familiar:
    """What the backbone of a run has seen.

    Fitted on first asking (half a minute, and a pass through the scans) with a fixed seed, then kept in
    RUN/state/familiar.safetensors; fitted anew when the backbone has been trained further. Ask once, then score many scans.

    A run whose backbone is another run's (session.borrow) is asked of that, for there lie the scans that were learned from.

    Raises: InputError for a run without a pretrained backbone, for one that learned from fewer than 30 scans, and where the run
            that the backbone is from is gone.
    """
    if not (Path(run) / STATE).is_file():
        raise InputError(f"{run} holds no pretrained backbone ({STATE} is missing): pretrain one first, or give another run.")
    learned = borrowed.origin(Path(run))
    if learned is None:
        raise InputError(f"The backbone of {run} is another run's, which is no longer there: what it has seen cannot be told.")
    file, kept = learned / STATE, learned / KEPT
    backbone = resting(load_own(file).backbone)
    with open(file, "rb") as opened:
        mark = hashlib.file_digest(opened, "sha256").hexdigest()
    found = _read(kept, mark)
    if found is None:
        features = reference(backbone, Store.open(learned / "store"), progress or Silent())
        density = Density.fit(features.double(), generator=torch_stream(0, "familiar"))
        found = density, len(features)
        try:
            _write(kept, density, {"of": mark, "scans": len(features)})
        except OSError:
            pass  # a run that cannot be written to: fitted again at the next asking
    return Familiar(backbone, *found)


def reference(backbone: Backbone, store: Store, progress: Progress) -> Float[Tensor, "n d"]:
    """Features of scans learned from: all, or 90 to 300 drawn by a fixed seed where they are many or large."""
    scans = store.split("train")
    if len(scans) < FEWEST:
        raise InputError(f"Novelty needs {FEWEST} scans that the backbone learned from, this run has {len(scans)}.")
    usual = float(np.median([math.prod(store.shape(i)) for i in scans]))
    count = int(np.clip(VOXELS / usual, LEAST, MOST))
    chosen = sorted(numpy_stream(0, "familiar").permutation(scans)[:count].tolist())
    rows = []
    with progress.track("What the backbone has seen", len(chosen)) as advance:
        for i in chosen:
            rows.append(summary(backbone, store.image(i)))
            advance(1)
    return torch.stack(rows)


def _write(path: Path, density: Density, about: dict) -> None:
    tensors, members = {}, []
    for k, member in enumerate(density.members):
        parts = {name: getattr(member.summary, name) for name in ("mean", "scale", "axes", "spread")} | {"aside": member.aside}
        parts |= {f"field.{name}": value for name, value in member.field.state_dict().items()}
        tensors |= {f"{k}.{name}": value.detach().cpu().contiguous() for name, value in parts.items()}
        members.append({"rest": member.summary.rest, "steps": member.steps})
    told = {"headwater": json.dumps({**about, "members": members, "d": density.d})}
    write_whole(path, lambda beside: save_file(tensors, beside, metadata=told))


def _read(path: Path, mark: str) -> tuple[Density, int] | None:
    """The density that is kept, and the scans behind it; None if there is none, none that is whole, or one of other weights."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["headwater"])
            if about["of"] != mark:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        members = [_member(tensors, f"{k}.", told) for k, told in enumerate(about["members"])]
        return Density(members, about["d"]), about["scans"]
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
        return None


def _member(tensors: dict[str, Tensor], prefix: str, told: dict) -> Member:
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    rest = None if told["rest"] is None else tuple(told["rest"])
    made = Summary(own["mean"], own["scale"], own["axes"], own["spread"], rest)
    weights = {name.removeprefix("field."): value for name, value in own.items() if name.startswith("field.")}
    d = len(weights["start.mean"])
    blank = Gaussian(PATH, torch.zeros_like(weights["start.mean"]), torch.eye(d, dtype=weights["start.axes"].dtype))
    field = Field(d, torch_stream(0, "familiar"), start=blank)
    field.load_state_dict(weights)
    return Member(made, field, own["aside"], told["steps"])


@dataclass(frozen=True)
class Row:
    """One scan beside what a backbone has seen. name: as it may be shown. percentile: nan where it cannot be told, then
    `sentence` says why."""

    name: str
    percentile: float
    sentence: str


def scored(run: Path, scans: Path, *, show_identifiers: bool = False, progress: Progress | None = None) -> Iterator[Row]:
    """Every scan of a folder, table or list, or one, one in memory at a time, prepared as those of the run were.

    Raises: InputError as `familiar` and `understand` do.
    """
    progress = progress or Silent()
    known, rule = familiar(run, progress), Rule.of(Store.open(Path(run) / "store"))
    items, names = one_or_more(scans).items, identifiers.known(show_identifiers)
    with progress.track("Beside what it has seen", len(items)) as advance:
        for item in items:
            yield Row(names.name(item.name), *_judged(known, rule, item.source))
            advance(1)


def _judged(known: Familiar, rule: Rule, source: Source) -> tuple[float, str]:
    try:
        scan = read(source)
        if scan.ndim != len(rule.spacing):
            return math.nan, f"has {scan.ndim} axes, the backbone learned from scans of {len(rule.spacing)}"
        return known.score(ready(scan, None, rule).image)
    except InputError as fault:
        return math.nan, getattr(fault, "fault", str(fault))
