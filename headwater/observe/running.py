"""The watch of a run folder: looks at a run's network as often as the plan says, and notes what it saw in events.jsonl."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwater import runfolder
from headwater.errors import InputError
from headwater.observe.features import FEWEST
from headwater.observe.look import Start, look, reason
from headwater.observe.pairs import IMAGES, Probe, probe_views
from headwater.observe.reference import usual
from headwater.observe.verdict import TRAINED, Verdict, line, verdict
from headwater.observe.watch import EXPLAINED
from headwater.settings import Settings
from headwater.streams import numpy_stream


def chosen_from(scans: Sequence[int], seed: int) -> list[int]:
    """The scans a run is watched through: at most 96, the same for the same seed."""
    order = numpy_stream(seed, "probe").permutation(len(scans))[:IMAGES]
    return sorted(scans[i] for i in order)


class RunWatch:
    """Looks at a run's network through a fixed probe now and then, and notes what it saw.

    Goes on from the looks already in the run folder; what later looks are compared with is looked at anew in each sitting, on the
    network as it is before training.
    """

    def __init__(self, store: Any, chosen: Sequence[int], settings: Settings, run: Path, steps: int):
        """store: scans.store.Store; chosen: the scans the run learns from."""
        self.store, self.chosen = store, chosen_from(chosen, settings.seed)
        self.settings, self.run, self.steps = settings, Path(run), steps
        self.levels = TRAINED.get(settings.pretrain.objective, ("pooled", "dense"))
        self.looks = [e for e in runfolder.read_events(self.run) if e.get("event") == "watch"]
        self.probe: Probe | None = None
        self.start: Start | None = None
        self.verdict: Verdict | None = None

    def due(self, step: int) -> bool:
        """Whether to look after this step: `settings.pretrain.watch` times over the run at most, the last step among them."""
        times = self.settings.pretrain.watch
        return times > 0 and step * times // self.steps > (step - 1) * times // self.steps

    def begin(self, untrained: nn.Module) -> str:
        """The first look, at the network before training: noted in a new run, in one that goes on only compared with."""
        return self._noted(untrained, 0, noted=not self.looks)

    def look(self, network: nn.Module, step: int, loss: float | None = None) -> str:
        """Measures, appends the event, and returns one line for the terminal. With fewer than 8 scans it says so and goes on."""
        return self._noted(network, step, loss)

    def _noted(self, network: nn.Module, step: int, loss: float | None = None, noted: bool = True) -> str:
        self.verdict = None  # an older one leads to nothing
        if self.settings.pretrain.watch <= 0:
            return ""
        if len(self.chosen) < FEWEST:
            return f"not watched: agreement needs at least {FEWEST} scans, there are {len(self.chosen)}"
        started, backbone = time.monotonic(), getattr(network, "backbone", network)
        if self.probe is None:
            arrays = [self.store.image(i) for i in self.chosen]
            self.probe = probe_views(arrays, self.settings.views.crop, backbone.stride, seed=self.settings.seed)
        try:
            told = {"spacing": self.store.spacing, "precision": self.settings.precision, "seed": self.settings.seed}
            told |= {"prototypes": self.settings.objective.get("prototypes"), "loss": loss}
            seen, self.start = look(network, self.probe, step=step, start=self.start, **told)
        except (InputError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or isinstance(error, InputError):
                return f"not watched at step {step}: {str(error).splitlines()[0]}"
            raise
        if not noted:
            return ""
        event = runfolder.plain({"event": "watch", **seen.plain()})
        self.looks.append(event)
        self.verdict = verdict(self.looks, self.levels)
        first = len(self.looks) == 1
        event["state"], event["cause"] = ("start", "") if first else (self.verdict.state, self.verdict.cause)
        why = reason(network, self.probe, self.looks) if self.verdict.cause in EXPLAINED and not first else ""
        event["sentence"] = "Before training." if first else f"{self.verdict.sentence} {why}".strip()
        event |= {"shift_voxels": list(self.probe.shift), "apart_voxels": list(self.probe.apart)}
        event["usual"] = usual(self.looks[0], step / self.steps, self.settings.pretrain.objective)
        runfolder.append_event(self.run, {**event, "seconds": time.monotonic() - started})
        return "before training" if first else line(self.verdict)

    def forget_after(self, step: int) -> None:
        """Looks later than this step, which will happen again."""
        self.looks = [seen for seen in self.looks if seen.get("step", 0) <= step]
