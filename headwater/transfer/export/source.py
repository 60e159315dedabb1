"""What is exported: the network a run ended with, and what its plain files say of how it came about."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from headwater import backbones
from headwater.backbones.decoder import Decoder
from headwater.backbones.features import Backbone
from headwater.backbones.own import KEPT, STATE
from headwater.errors import InputError
from headwater.runfolder import read_events, read_json
from headwater.train import state
from headwater.transfer import model
from headwater.transfer.segment import PRETRAINED

SEGMENTER = Path("adapt") / "segmenter.safetensors"
WHAT = ("backbone", "segmenter")
RECORDS = {  # of a run folder, by what is read from them
    "passport": Path("passport.json"),
    "settings": Path("settings.json"),
    "verdicts": Path("verdicts.json"),
    "provenance": Path("provenance.json"),
    "observed": Path("observations") / "observe.json",
    "adapted": Path("adapt") / "summary.json",
    "store": Path("store") / "index.json",
}


@dataclass(frozen=True, eq=False)
class Source:
    """A run and the network of it that is given away. what: "backbone" or "segmenter"."""

    run: Path
    what: str

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the backbone is: family, size, channels, ndim, patch."""
        if self.what == "segmenter":
            return state.about(self.run / SEGMENTER)["backbone"]
        if (found := state.about(self.run / STATE).get("backbone")) is not None:
            return found
        settings, passport = self.records["settings"], self.records["passport"]  # older states do not say it themselves
        try:
            return {**settings["backbone"], "channels": passport["channels"], "ndim": passport["ndim"]}
        except (KeyError, TypeError) as fault:
            raise InputError(
                f"{self.run / STATE} does not say what network it holds: pretrain again with this version."
            ) from fault

    @cached_property
    def trained(self) -> model.Trained | None:
        """The finished segmenter, where that is exported."""
        return model.load(self.run / SEGMENTER) if self.what == "segmenter" else None

    @property
    def arm(self) -> str:
        """How a segmenter was trained; "" for a backbone."""
        return str(self.trained.about.get("arm") or "") if self.trained else ""

    @property
    def pretrained(self) -> bool:
        """Whether pretraining is in these weights."""
        return self.trained is None or self.arm in PRETRAINED

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Every tensor of the state of pretraining; none for a segmenter."""
        return {} if self.trained else state.read(self.run / STATE)

    @cached_property
    def backbone(self) -> Backbone:
        """The kept backbone, in evaluation mode."""
        if self.trained:
            return self.trained.network.backbone
        built = backbones.build(**self.told, seed=0)
        built.load_state_dict(state.under(self.weights, KEPT))
        return built.eval()

    @property
    def network(self) -> nn.Module:
        """What is exported: the backbone, or backbone and decoder."""
        return self.trained.network if self.trained else self.backbone

    @property
    def decoder(self) -> dict[str, Tensor]:
        """Weights of a U-Net decoder, by our names: the segmenter's, or the one that learned to reconstruct; none for others."""
        if self.trained:
            own = self.trained.network.decoder
            return dict(own.state_dict()) if isinstance(own, Decoder) else {}
        return state.under(self.weights, "teacher.heads.reconstruction.decoder.")

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """What the files of the run say, by the names of `RECORDS`; nothing where a stage was not run or its file is damaged."""
        return {name: _mapping(self.run / place) for name, place in RECORDS.items()}

    @property
    def looks(self) -> list[dict[str, Any]]:
        """What the watch said during pretraining."""
        return [event for event in read_events(self.run) if event.get("event") == "watch"]

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of the images it was trained on: a segmenter's patch, a backbone's view; 32 per axis where nothing says so."""
        if self.trained:
            return self.trained.patch
        crop = (self.records["settings"].get("views") or {}).get("crop")
        return tuple(crop) if crop and len(crop) == self.told["ndim"] else (32,) * self.told["ndim"]

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels of the patches to train a segmenter on."""
        found = (self.records["settings"].get("adapt") or {}).get("patch")
        return tuple(found) if found and len(found) == self.told["ndim"] and not self.trained else self.size

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm of the prepared scans; nothing where that is not known, or no scan states its own."""
        if self.records["store"].get("unit", "mm") != "mm":
            return ()
        if self.trained:
            return self.trained.spacing
        found = next((self.records[name]["spacing"] for name in ("store", "passport") if self.records[name].get("spacing")), ())
        return tuple(float(mm) for mm in found) if len(found) == self.told["ndim"] else ()

    @property
    def windows(self) -> list[list[float]]:
        """Low, high, mean and spread of each channel where all scans are scaled by the same; none where each by its own."""
        if self.trained:
            return [w.plain() for w in self.trained.rule.fixed]
        store = self.records["store"]
        return (store.get("records") or [{}])[0].get("windows", []) if store.get("scheme") == "set" else []


def source(run: Path | str, what: str = "") -> Source:
    """The network of a run folder. what: "backbone", "segmenter", or "" for the segmenter where there is one.

    Raises: InputError for what is no run folder, has not got so far, or is damaged.
    """
    run = Path(run)
    if not run.is_dir():
        raise InputError(f"{run} is no run folder: give the folder that headwater run or pretrain wrote (--out).")
    there = {"backbone": (run / STATE).is_file(), "segmenter": (run / SEGMENTER).is_file()}
    if what not in ("", *WHAT):
        raise InputError(f"There is no {what!r} in a run: give one of {', '.join(WHAT)}.")
    if not any(there.values()):
        raise InputError(f"{run} holds no trained network ({STATE}): run headwater pretrain on it first.")
    what = what or ("segmenter" if there["segmenter"] else "backbone")
    if not there[what]:
        first = {"backbone": "pretrain", "segmenter": "adapt"}[what]
        raise InputError(f"{run} holds no {what}: run headwater {first} on it first.")
    found = Source(run, what)
    _ = found.backbone  # whole, or an InputError now
    return found


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def words_of(source: Source) -> str:
    """What the network is, for a title: resenc nano, 3D."""
    told = source.told
    objective = (source.records["settings"].get("pretrain") or {}).get("objective")
    trained = f", {objective}" if objective and source.pretrained else ""
    return f"{told['family']} {told['size']}, {told['ndim']}D{trained}" + (", segmenter" if source.trained else "")


def plain_header(words: dict[str, Any]) -> dict[str, str]:
    """Metadata of a safetensors file that Headwater reads back."""
    return {"headwater": json.dumps(words, ensure_ascii=False)}
