"""A finished model observed: trained beside untrained, verdict, what explains it, and pictures; written for the page to read."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headwater import provenance, runfolder, subject
from headwater.errors import InputError
from headwater.observe import portrait
from headwater.observe.closer import closer
from headwater.observe.closer.labels import learned
from headwater.observe.closer.path import IMAGES, path
from headwater.observe.explain import Explanation, explain
from headwater.observe.features import FEWEST
from headwater.observe.look import look, measure
from headwater.observe.number import Number, absent
from headwater.observe.order import order_of
from headwater.observe.pairs import Pixels, Probe
from headwater.observe.running import chosen_from
from headwater.observe.verdict import verdict
from headwater.opening import open_model
from headwater.progress import Progress
from headwater.report import observation as page
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.subject import Subject, backbones_of
from headwater.transfer.examples import central, picture_size

FEW = 4  # images behind the explanation
TEXT = "It cannot be said whether the features are healthy: there are no two views of a text here to agree. See the panel."
CLOSE = 48  # images behind maps, words and neighbours
THUMB = 64  # pixels along the longer side
HEADS = 6  # heads whose eigenvalues are kept, those with the largest shares
STEPS = 5  # of the bar


def observe(seen: Subject, progress: Progress) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Everything there is to say of a model, as JSON holds it, and arrays for pictures.

    Keys: model, images, final, initial, pixels (levels of agreement), look, start (whole looks), verdict, explanation,
    eigenvalues, closer, motion, growth, seconds; with classes separability. What cannot be had is left out, and words say why.
    """
    began = time.monotonic()
    told = {"precision": seen.precision, "seed": seen.seed, "spacing": seen.spacing or None}
    with progress.track("Observing", STEPS) as advance:
        before, start = look(seen.untrained, seen.probe, step=0, **told)
        advance(1)
        after, _ = look(seen.trained, seen.probe, step=max(1, seen.step), start=start, **told)
        advance(1)
        explained, found = _explained(seen)
        advance(1)
        arrays, found["closer"] = _closer(seen)
        advance(1)
        found |= path(seen.trained, seen.untrained, _first(seen, IMAGES), seed=seen.seed)
        told_apart, gain = _learned(seen)
        found |= told_apart
        advance(1)
    panel = {**after.panel, "heads.ablation": _ablation(found["closer"]), **gain}
    if not seen.its_own:
        panel |= dict.fromkeys(("change", "weights"), absent("the network before this training is not at hand"))
    after = replace(after, panel=panel)
    found |= {"look": after.plain(), "start": before.plain(), **seen.about}
    found |= {"final": dict(after.levels), "initial": dict(before.levels)}
    if isinstance(seen.probe, Probe):
        found["shift_voxels"], found["apart_voxels"] = max(seen.probe.shift), max(seen.probe.apart)
        found["pixels"] = measure(Pixels(seen.probe.stride), seen.probe) if min(seen.probe.shift) else {}
    judged = verdict([found["start"], *seen.history, found["look"]], seen.levels)
    found["verdict"] = {"state": judged.state, "cause": judged.cause, "remedy": judged.remedy}
    found["verdict"]["sentence"] = judged.sentence + _pixels(found)
    if judged.state == "unknown" and not isinstance(seen.probe, Probe):
        found["verdict"] |= {"sentence": TEXT, "remedy": ""}
    found["eigenvalues"] = [] if explained is None else eigenvalues(explained)
    found["seconds"] = time.monotonic() - began
    return runfolder.plain(found), arrays


def _pixels(found: Mapping[str, Any]) -> str:
    """A sentence where pixels alone agree more than trained tokens do."""
    plain, dense = (found.get(side, {}).get("dense", {}).get("reliability", float("nan")) for side in ("pixels", "final"))
    said = f" Plain pixels agree more on these views ({plain:.2f}): stability is not usefulness, which labels decide."
    return said if plain > dense else ""


def _first(seen: Subject, count: int) -> Any:
    """The first images as the first view shows them; of texts the first, cut to the shortest: padding moves as well."""
    if isinstance(seen.probe, Probe):
        return seen.probe.part(0, 0, min(count, len(seen.probe)))
    few = {name: ids[:count] for name, ids in seen.probe.items()}
    mask = few.get("attention_mask")
    length = few["input_ids"].shape[1] if mask is None else max(2, int(mask.sum(1).min()))
    return {name: ids[:, :length] for name, ids in few.items()}


def _learned(seen: Subject) -> tuple[dict[str, Any], dict[str, Number]]:
    """Separability and reuse gain; nothing where classes were not asked for."""
    if seen.labels is None:
        return {}, {}
    if not isinstance(seen.probe, Probe):
        return {"separability": {"words": ["classes are of images, and this model reads text"]}}, {}
    images = seen.probe.part(0, 0, len(seen.probe))
    found, gain = learned(seen.trained, seen.untrained, images, seen.labels, seen.owners, seed=seen.seed)
    return {"separability": found}, gain


def _explained(seen: Subject) -> tuple[Explanation | None, dict[str, Any]]:
    batch = seen.probe.part(0, 0, FEW) if isinstance(seen.probe, Probe) else {k: v[:FEW] for k, v in seen.probe.items()}
    try:
        made = explain(seen.trained, batch)
    except (InputError, ValueError, RuntimeError, ArithmeticError) as error:
        return None, {"explanation": {"sentence": "", "layers": [], "words": [str(error).splitlines()[0]]}}
    return made, {"explanation": made.plain()}


def _closer(seen: Subject) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not isinstance(seen.probe, Probe):
        return {}, {"words": ["maps and components are of images, and this model reads text"], **_order(seen)}
    images = seen.probe.part(0, 0, min(CLOSE, len(seen.probe)))
    arrays, numbers = closer(seen.trained, images, untrained=seen.untrained, seed=seen.seed)
    return {**arrays, "thumbs": thumbs(images)}, numbers


def _order(seen: Subject) -> dict[str, Any]:
    """How much the order of ids matters, of texts cut to the shortest; its first mark stays."""
    mask = seen.probe.get("attention_mask")
    length = seen.probe["input_ids"].shape[1] if mask is None else int(mask.sum(1).min())
    try:
        found = order_of(seen.trained, seen.probe["input_ids"][:8, :length], fixed=(0,), draws=2, seed=seen.seed)
    except (InputError, RuntimeError, ValueError):
        return {}
    told = {"pooled": found.pooled["content"], "tokens": found.tokens["content"], "floor": found.floor}
    return {"order": {name: values.tolist() for name, values in told.items()}}


def thumbs(images: Tensor) -> np.ndarray:
    """(n, h, w) half precision: the images small, the middle plane of volumes, for lists of neighbours."""
    flat = images.float().mean(1)
    flat = flat[..., flat.shape[-1] // 2] if flat.ndim == 4 else flat
    step = -(-max(flat.shape[1:]) // THUMB)
    small = torch.nn.functional.avg_pool2d(flat[:, None], step, ceil_mode=True)[:, 0] if step > 1 else flat
    return small.half().numpy()


def _ablation(numbers: Mapping[str, Any]) -> Number:
    """What the head that matters most does to the pooled features."""
    each = [n for layer in numbers.get("heads") or [] for n in layer.get("ablation") or [] if n.get("value") is not None]
    if not each:
        return absent("no head could be switched off")
    most = max(each, key=lambda n: n["value"])
    null = most["null"] if most.get("null") is not None else float("nan")
    return Number(most["value"], null, most["how"], most.get("why") or "")


def eigenvalues(found: Explanation, most: int = HEADS) -> list[dict[str, Any]]:
    """All eigenvalues of W_V W_O of the heads that move the similarity of tokens most, with the disc of random ones."""
    every = [
        (abs(float(layer.parts[layer.names.index(head)])), i, head, split)
        for i, layer in enumerate(found.layers)
        for head, split in layer.directions.items()
        if head in layer.names and split.radius > 0
    ]
    every = [one for one in every if np.isfinite(one[0])]
    chosen = sorted(every, key=lambda one: -one[0])[:most]
    return [
        {
            "layer": i, "head": head, "share": float(found.layers[i].parts[found.layers[i].names.index(head)]),
            "radius": split.radius, "null95": split.null95, "how": split.how,
            "real": split.values.real.tolist(), "imaginary": split.values.imag.tolist(),
        }
        for _, i, head, split in sorted(chosen, key=lambda one: one[1:3])
    ]  # fmt: skip


def portraits(run: Path, store: Store, settings: Settings) -> dict[str, Any]:
    """Writes tokens.npz: slices of test scans beside their tokens, trained, untrained and pixels. Returns shares of variance."""
    initial, trained = backbones_of(run, store, settings)
    shown = store.split("test")[:6]
    planes = [central(store.label(i) if i in store.labelled else None, store.shape(i)) for i in shown]
    whole = [store.image(i) for i in (*shown, *chosen_from(store.split("train"), settings.seed))]
    networks = {"final": trained, "initial": initial, "pixels": Pixels(trained.stride)}
    pictures, shares = portrait.pictures(networks, whole, trained.stride, settings.precision, planes, picture_size(store))
    runfolder.write_whole(run / "observations" / "tokens.npz", lambda beside: np.savez_compressed(beside, **pictures))
    return {"explained": shares["final"], "explained_by": shares}


def of_file(
    model: Path, images: Path | str | None, out: Path | str | None, seed: int, progress: Progress, command: str,
    classes: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Any checkpoint through any images, written into `out` or runs/observe-NAME. Returns what is written, and "report".

    classes: folders, or the labels in an .npz or table, are classes that the features may tell apart.
    """
    if images is None:
        raise InputError(f"{model} is no run folder, which has scans of its own: give the images too (observe MODEL IMAGES).")
    opened = open_model(model, seed)
    folder = Path(out) if out is not None else Path("runs") / f"observe-{model.resolve().stem}"
    if folder.exists() and any(folder.iterdir()) and not (folder / "observe.json").exists():
        raise InputError(f"{folder} holds something else. Choose another --out for the observation.")
    return _written(folder, *observe(subject.of_file(opened, images, seed, classes), progress), command)


def of_run(
    run: Path, store: Store, settings: Settings, progress: Progress, command: str, classes: bool = False
) -> dict[str, Any]:
    """A run through its own scans, written into RUN/observations; with fewer than 8 scans pictures alone."""
    scans = len(chosen_from(store.split("train"), settings.seed))
    found: dict[str, Any] = {"why": f"agreement needs {FEWEST} scans, there are {scans}", "model": {"name": run.resolve().name}}
    arrays: dict[str, np.ndarray] = {}
    if scans >= FEWEST:
        found, arrays = observe(subject.of_run(run, store, settings, classes), progress)
    return _written(run / "observations", found | portraits(run, store, settings), arrays, command)


def _written(folder: Path, found: dict[str, Any], arrays: Mapping[str, np.ndarray], command: str) -> dict[str, Any]:
    """observe.json, closer.npz and the page, each whole or absent."""
    found = runfolder.plain(found | {"command": command, "versions": provenance.versions()})
    runfolder.private_folder(folder)
    runfolder.write_whole(folder / "closer.npz", lambda beside: np.savez_compressed(beside, **arrays))
    runfolder.write_json(folder / "observe.json", found)
    return {**found, "report": str(page.render(folder))}
