"""What labels say of a model: classes told by a linear probe after each layer, and by neighbours beside the start and pixels."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.motion import FOLDS, Separability, separability
from headwater.observe.number import Number, absent
from headwater.observe.probe import placed, plain, undisturbed
from headwater.observe.reading import read_all, reader
from headwater.observe.reuse import reuse_gain
from headwater.observe.trace import trace

BATCH = 16  # images at once
NONE = "no classes of these images are known"
NAMES = ("reuse.accuracy", "reuse.untrained", "reuse.pixels")
FAULTS = (InputError, ValueError, RuntimeError, ArithmeticError)


def learned(
    trained: nn.Module,
    untrained: nn.Module,
    images: Float[Tensor, "n C *S"],
    labels: Sequence[str],
    owners: Sequence[str] = (),
    *,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, Number]]:
    """Separability along depth, trained beside untrained, and the reuse gain, of images with a class ("": unknown).

    owners: patient of each image; images of one patient are never on both sides.
    Returns: separability for JSON ("trained", "untrained": see `told`; "images", "classes", "words"), and the reuse gain as
    numbers "reuse.accuracy", "reuse.untrained", "reuse.pixels". Classes of fewer than 5 images are left out; what is too few is
    said in "words" and by absent numbers.
    """
    rows, words = _enough(labels)
    if not rows:
        return {"words": words}, dict.fromkeys(NAMES, absent(words[0]))
    answers = torch.from_numpy(np.unique([labels[i] for i in rows], return_inverse=True)[1])
    whose = torch.from_numpy(np.unique([owners[i] for i in rows], return_inverse=True)[1]) if owners else None
    shown = images[rows]
    found: dict[str, Any] = {"images": len(rows), "classes": int(answers.max()) + 1, "words": words}
    for side, network in (("trained", trained), ("untrained", untrained)):
        try:
            found[side] = told(separability(_layers(network, shown), answers, seed, owners=whose))
        except FAULTS as error:
            words.append(f"separability, {side}: {str(error).splitlines()[0]}")
    try:
        pooled = [_pooled(network, shown) for network in (trained, untrained)]
        gain = reuse_gain(*pooled, shown.float().flatten(1), answers, whose, seed=seed)
        numbers = (gain.accuracy, gain.over_untrained, gain.over_pixels)
    except FAULTS as error:
        numbers = (absent(str(error).splitlines()[0]),) * 3
    return found, dict(zip(NAMES, numbers, strict=True))


def told(found: Separability) -> dict[str, Any]:
    """A separability for JSON; accuracy, error and null95 by state, where state 0 is what enters the first layer."""
    return {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in vars(found).items()}


def _enough(labels: Sequence[str]) -> tuple[list[int], list[str]]:
    """Images whose class has enough of them, none if fewer than two classes have; and what is left out."""
    counts = Counter(label for label in labels if label)
    kept = {label for label, count in counts.items() if count >= FOLDS}
    if not counts:
        return [], [NONE]
    if len(kept) < 2:
        each = ", ".join(str(count) for _, count in counts.most_common(4)) + (", ..." if len(counts) > 4 else "")
        return [], [f"labels tell something with 2 classes of {FOLDS} images each or more: here are classes of {each} images"]
    rare = len(counts) - len(kept)
    words = [f"{rare} of {len(counts)} classes have fewer than {FOLDS} images and are left out"] if rare else []
    unknown = sum(not label for label in labels)
    words += [f"{unknown} of {len(labels)} images have no class and are left out"] if unknown else []
    return [i for i, label in enumerate(labels) if label in kept], words


def _layers(network: nn.Module, images: Tensor) -> list[Float[Tensor, "n d"]]:
    """Mean token of every image in every state."""
    parts = []
    for batch in images.split(BATCH):
        streams = trace(network, batch, attend=0, reduce=lambda x: x.mean(1, keepdim=True)).streams
        parts.append([state[:, 0] for stream in streams for state in stream.path])
    return [torch.cat(states) for states in zip(*parts, strict=True)]


def _pooled(network: nn.Module, images: Tensor) -> Float[Tensor, "n E"]:
    inner = plain(network)
    with undisturbed(inner):
        read, _ = reader(inner, placed(images[:2], inner))
        return read_all(read, [placed(batch, inner) for batch in images.split(BATCH)]).pooled
