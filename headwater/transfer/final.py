"""The segmenter to use: the arm that helped, on all labels but a fifth of the subjects, who say how good it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headwater import runfolder
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.transfer import components, model, scores, segment
from headwater.transfer.draws import structures, trainable, unlabelled

FIFTH = 5  # one of so many subjects is kept to validate on, where there are so many
MOST = 40  # scans validated on


def split(store: Store, seed: int) -> tuple[list[int], list[int]]:
    """Labelled scans to learn from, and those of a fifth of the subjects to validate on (none of fewer than five)."""
    subjects = list(dict.fromkeys(store.subjects[i] for i in trainable(store)))
    order = numpy_stream(seed, "final").permutation(len(subjects))
    held = {subjects[i] for i in order[: len(subjects) // FIFTH]}
    learned = [i for i in trainable(store) if store.subjects[i] not in held]
    return learned, [i for i in trainable(store) if store.subjects[i] in held][:MOST]


def steps(settings: Settings) -> int:
    """Of its training: `adapt.final`, or as many as any other network's."""
    return settings.adapt.final or settings.adapt.steps


def train(
    arm: str, store: Store, settings: Settings, folder: Path, pretrained: Path | None, advance: Callable[[], None]
) -> dict[str, Any]:
    """Trains the arm, writes FOLDER/segmenter.safetensors; one that is there is kept.

    Returns: arm, labels (scans learned from), validation (scans), dice (0..1, their mean over structures, before components are
             chosen; nan without), per_structure, largest (names of the structures of which only the largest component
             stays, for that is better on the validation scans), sentence.
    """
    path, note = folder / "segmenter.safetensors", folder / "segmenter.json"
    settings = replace(settings, adapt=replace(settings.adapt, steps=steps(settings)))
    if path.exists() and note.exists() and (told := runfolder.read_json(note)).get("arm") == arm:
        for _ in range(settings.adapt.steps):
            advance()
        return told
    learned, held = split(store, settings.seed)
    rest = unlabelled(store, learned, [store.subjects[i] for i in held])
    network = segment.fit(arm, store, learned, settings, pretrained, ("adapt", "final"), advance, rest)
    truths = [np.asarray(store.label(i)) for i in held]
    predictions = [segment.predict(network, store.image(i), settings) for i in held]
    kept = components.chosen(predictions, truths, range(1, store.classes)) if held else ()
    told = {"arm": arm, "labels": len(learned), "validation": len(held)}
    told |= _validated(store, settings, predictions, truths)
    told |= {"largest": [store.names[k] for k in kept], "file": path.name}
    told["sentence"] = _sentence(told)
    model.save(path, network, store, settings, arm=arm, largest=kept, about=told)
    runfolder.write_json(note, told)
    return runfolder.plain(told)


def _validated(store: Store, settings: Settings, predictions: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, Any]:
    """Mean Dice of the scans kept back, and of each structure."""
    asked = structures(store, settings)
    told = [scores.overlaps(*pair, list(asked.values()), store.classes) for pair in zip(predictions, truths, strict=True)]
    rows = np.array(told).reshape(len(truths), len(asked))
    known = np.isfinite(rows)
    with np.errstate(invalid="ignore"):
        each = np.where(known, rows, 0).sum(0) / known.sum(0)
    mean = float(each[np.isfinite(each)].mean()) if known.any() else float("nan")
    return {"dice": mean, "per_structure": dict(zip(asked, each.tolist(), strict=True))}


def _sentence(told: dict[str, Any]) -> str:
    """What was trained on how much, how good it is, and what is done to its masks."""
    scans = f"{told['labels']} labelled scan{'s' * (told['labels'] != 1)}"
    if not told["validation"]:
        return (
            f"The segmenter ({told['arm']}) learned from all {scans}: too few to keep some back, so how good it is nobody knows."
        )
    good = (
        f"Dice {100 * told['dice']:.1f} on {told['validation']} kept back"
        if np.isfinite(told["dice"])
        else "those kept back show nothing"
    )
    only = f"; of {', '.join(told['largest'])} only the largest piece is kept" if told["largest"] else ""
    return f"The segmenter ({told['arm']}) learned from {scans}: {good}{only}."
