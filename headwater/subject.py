"""What is observed: a model beside itself before training, and the images it is looked at through; of a file or a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headwater import runfolder
from headwater.device import machine
from headwater.observe.pairs import Probe, probe_views
from headwater.observe.probe import placed, plain, undisturbed
from headwater.observe.reading import reader, strides
from headwater.observe.running import chosen_from
from headwater.observe.verdict import TRAINED
from headwater.opening import Opened, texts
from headwater.scans import identifiers
from headwater.scans.fit import fit
from headwater.scans.gather import MOST, gather
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.train import loop, state

LARGE = 5e7  # parameters above which half as many images are looked at


@dataclass(frozen=True, eq=False)
class Subject:
    """What is observed: the network, itself before training, what it is shown, and what is known of its training.

    probe: views of images, or a batch of ids. about: of model and images, for the page. history: looks during training. levels:
    that its objective trains. step: of the training that it was taken at. its_own: whether `untrained` is what training began
    from, not another draw. spacing: mm per voxel of the views, () unknown. labels, owners: class ("" unknown) and patient of each
    image of the probe; None: classes were not asked for.
    """

    trained: nn.Module
    untrained: nn.Module
    probe: Probe | Any
    about: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()
    levels: Sequence[str] = ("pooled", "dense")
    step: int = 1
    precision: str = "fp32"
    seed: int = 0
    its_own: bool = False
    spacing: tuple[float, ...] = ()
    labels: Sequence[str] | None = None
    owners: Sequence[str] = ()


def of_file(opened: Opened, place: Path | str, seed: int = 0, classes: bool = False) -> Subject:
    """The model and the images that lie at `place`, as the model takes them. Raises: InputError for what does not fit."""
    count = sum(p.numel() for p in opened.model.parameters())
    device = machine().device
    trained, untrained = opened.model.to(device), opened.untrained.to(device)
    shown = {"place": identifiers.known(False).folder(Path(place))}
    model = {"name": opened.name, "kind": type(opened.model).__name__, "parameters": count, "words": list(opened.words)}
    if opened.reads == "text":
        batch = texts(opened, place)
        rows, length = batch["input_ids"].shape
        words = [f"{rows} texts of up to {length} tokens; there are no two views of a text here, so agreement is not measured"]
        about = {"model": model, "images": {**shown, "used": rows, "words": words}}
        return Subject(trained, untrained, batch, about, seed=seed, labels=() if classes else None)
    gathered = gather(place, opened.wants.ndim, most=MOST if count < LARGE else MOST // 2, seed=seed, classes=classes)
    arrays, crop, words = fit(gathered.arrays, opened.wants)
    probe = _probe(trained, arrays, crop, opened.wants.stride, seed)
    images = {
        **shown, "used": len(arrays), "found": gathered.found, "crop": list(crop), "spacing": list(gathered.spacing),
        "words": [*words, *gathered.words],
    }  # fmt: skip
    as_read = all(a.shape[1:] == b.shape[1:] for a, b in zip(arrays, gathered.arrays, strict=True))
    spacing = gathered.spacing if as_read and len(gathered.spacing) == opened.wants.ndim else ()
    known = {"labels": gathered.labels, "owners": gathered.owners} if classes else {}  # fit keeps every image, in its order
    return Subject(trained, untrained, probe, {"model": model, "images": images}, seed=seed, spacing=spacing, **known)


def _probe(model: nn.Module, arrays: Sequence[np.ndarray], crop: Sequence[int], stride: Sequence[int], seed: int) -> Probe:
    """Hard views of the images; where the model does not say how many voxels a token has, it is tried."""
    if not stride:
        network = plain(model)
        with undisturbed(network):
            few = placed(torch.zeros(2, len(arrays[0]), *crop), network)
            stride = strides(reader(network, few)[0](few), crop)
    still = [s == 0 for s in stride]
    return probe_views(arrays, crop, [s or n for s, n in zip(stride, crop, strict=True)], seed=seed, still=still)


def of_run(run: Path, store: Store, settings: Settings, classes: bool = False) -> Subject:
    """A finished run of ours beside its very start, through the scans it was watched through. classes: those the run knows.

    Raises: InputError for fewer than 8 scans to learn from.
    """
    untrained, trained = backbones_of(run, store, settings)
    chosen = chosen_from(store.split("train"), settings.seed)
    arrays = [store.image(i) for i in chosen]
    probe = probe_views(arrays, settings.views.crop, trained.stride, seed=settings.seed)
    history = [e for e in runfolder.read_events(run) if e.get("event") == "watch"][1:-1]
    wanted = settings.pretrain
    model = {
        "name": run.resolve().name, "kind": f"{settings.backbone.family} {settings.backbone.size}, {wanted.objective}",
        "parameters": sum(p.numel() for p in trained.parameters()), "step": wanted.steps,
        "words": ["the teacher's backbone of the run, as it ended; untrained: the very start of that run"],
    }  # fmt: skip
    words = [f"views of {' x '.join(map(str, settings.views.crop))} voxels of the scans that the run learned from"]
    crop, spacing = list(settings.views.crop), list(store.spacing)
    images = {"used": len(arrays), "found": len(store), "crop": crop, "spacing": spacing, "words": words}
    groups, subjects = ([str(store.records[i].get(name) or "") for i in chosen] for name in ("group", "subject"))
    known = {"labels": groups, "owners": subjects} if classes else {}
    levels = TRAINED.get(wanted.objective, ("pooled", "dense"))
    return Subject(
        trained, untrained, probe, {"model": model, "images": images}, history, levels, wanted.steps, settings.precision,
        settings.seed, its_own=True, spacing=tuple(store.spacing), **known,
    )  # fmt: skip


def backbones_of(run: Path, store: Store, settings: Settings) -> tuple[nn.Module, nn.Module]:
    """The run's backbone before training, and as it ended."""
    untrained, trained = (loop.assemble(settings, store)[0].backbone.to(machine().device).eval() for _ in range(2))
    trained.load_state_dict(state.under(state.read(run / "state" / "pretrain.safetensors"), "teacher.backbone."))
    return untrained, trained
