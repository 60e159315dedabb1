"""Why the tokens of any model grow alike, layer by layer: attribution, prediction near consensus and null curve in one call."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.apart import apart, ran
from headwater.observe.consensus import NullCurve, Prediction, Standing, null_curve, predict, standing
from headwater.observe.parts import Layer, layer_of, run
from headwater.observe.probe import plain, undisturbed
from headwater.observe.replay import steps
from headwater.observe.why import Attribution, Directions, attribute, gap, sentence, similarity

TOP = 3  # parts that are left out together, to see whether they did it
UNSPLIT = "its parts do not sum to what it does, so the block counts as one"


@dataclass(frozen=True)
class Ablated:
    """A layer run again without its largest parts, what follows them reading the stream without them.

    given: sum of the shares of these parts; lost: growth lost without them; log_given, log_lost: the same of -log(1 - cosine).
    On the latter scale they agree within 20 % where tokens move by less than a third of their length, and mostly beyond; where
    they do not, parts stand in for each other or work through each other, and `log_lost` is what leaving them out does.
    """

    parts: tuple[str, ...]
    given: float
    lost: float
    log_given: float
    log_lost: float


@dataclass(frozen=True)
class Explanation:
    """What each of L blocks does to the similarity of tokens, and why.

    names of the modules; layers: their attributions; predictions (with their standing): from each block linearised at equal
    tokens; curve: the null; ablations: every block without its three largest parts, None where it has one part. sentence: the
    plain finding, layers counted from 0. words: what could not be told, one sentence each.
    """

    names: tuple[str, ...]
    layers: tuple[Attribution, ...]
    predictions: tuple[Prediction, ...]
    standing: Standing
    curve: NullCurve
    ablations: tuple[Ablated | None, ...]
    sentence: str
    words: tuple[str, ...]

    @property
    def residual(self) -> float:
        """The largest difference between the sum of a layer's parts and its measured change; nan where a layer has none."""
        return float(np.max(np.abs([layer.residual for layer in self.layers]))) if self.layers else math.nan

    def plain(self) -> dict[str, Any]:
        """For JSON: numbers as they are, what could not be found as None."""
        told = self.standing
        return {
            "sentence": self.sentence,
            "words": list(self.words),
            "layers": [_layer(*each) for each in zip(self.names, self.layers, self.predictions, self.ablations, strict=True)],
            "prediction": _numbers(told, "correlation", "null95", "error", "held") | {"layers": told.layers, "why": told.why},
            "curve": {name: [_number(v) for v in getattr(self.curve, name)] for name in ("times", "measured", "null")}
            | {"reach": _number(self.curve.reach), "why": self.curve.why},
        }


def explain(model: nn.Module, batch: Any, *, blocks: Sequence[str] | None = None) -> Explanation:
    """Explanation of the longest stretch of blocks of any model, from a probe batch; four images are plenty.

    batch, blocks: as `trace` takes them. The model's flags, buffers, gradients and random streams are as before. Cost: some
    thirty runs of the model, and one D x D product per part. Parts sum to the measured change within 1e-3 on every block that
    is not broken (its `why` says how). Raises: InputError where no blocks are found, or none with two tokens.
    """
    network = plain(model)
    with undisturbed(network):
        moves, tokens = steps(network, batch, blocks=blocks)
        if tokens.shape[1] < 2:
            raise InputError("there is one token per image where the model is longest: name blocks with several by blocks=")
        states, layers, found, words = [tokens], [], [], []
        for i, move in enumerate(moves):
            after = move(states[-1])
            if after.shape != tokens.shape:  # the last of a stage
                words.append((i, "it changes the number or width of tokens, and ends what is explained"))
                break
            layer, missing = apart(network, move, states[-1])
            split = attribute(layer, states[-1], after)
            if split.why and len(split.names) > 1:
                alone = layer_of({"block": lambda x, move=move: move(x) - x})
                split, layer, missing = attribute(alone, states[-1], after), alone, UNSPLIT
            words += [(i, missing)] if missing else []
            states, layers, found = [*states, after], [*layers, layer], [*found, split]
        if not found:
            raise InputError("no block keeps the number and width of tokens: name some that do with blocks=")
        moves = moves[: len(found)]
        predictions = [predict(move, *pair) for move, pair in zip(moves, pairwise(states), strict=True)]
        ablations = [ablated(*each) for each in zip(layers, found, states[:-1], strict=True)]
        curve, known = null_curve(torch.stack(states)), {module: name for name, module in network.named_modules()}
        began = [ran(network, move, tokens) for move in moves]
        names = tuple(known[calls[0][0]] if calls else f"block {i}" for i, calls in enumerate(began))
    return Explanation(
        names,
        tuple(found),
        tuple(predictions),
        standing(predictions),
        curve,
        tuple(ablations),
        sentence(found),
        _together(words),
    )


def ablated(layer: Layer, found: Attribution, tokens: Tensor) -> Ablated | None:
    """The layer without its three largest parts; None where it has one part, or its attribution is broken."""
    if found.why or len(found.names) < 2:
        return None
    top = tuple(found.largest(TOP))
    at = [found.names.index(name) for name in top]
    whole, without = run(layer, tokens), run(layer, tokens, top)
    left, more = gap(whole), gap(without)
    return Ablated(
        top,
        float(found.parts[at].sum()),
        similarity(whole) - similarity(without),
        float(found.logs[at].sum()),
        math.log(more / left) if left and more else math.nan,
    )


def _together(words: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """One sentence per reason, with the layers it holds for."""
    reasons: dict[str, list[int]] = {}
    for i, why in words:
        reasons.setdefault(why, []).append(i)
    return tuple(f"layer{'s' * (len(at) > 1)} {', '.join(map(str, at))}: {why}" for why, at in reasons.items())


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(of: object, *names: str) -> dict[str, float | None]:
    return {name: _number(getattr(of, name)) for name in names}


def _layer(name: str, found: Attribution, told: Prediction, cut: Ablated | None) -> dict[str, Any]:
    columns = zip(*(each.tolist() for each in (found.parts, found.logs, found.chance)), strict=True)
    return _numbers(found, "before", "after", "residual", "step") | {
        "name": name,
        "why": found.why,
        "parts": {
            part: dict(zip(("share", "log", "chance"), map(_number, row), strict=True))
            for part, row in zip(found.names, columns, strict=True)
        },
        "directions": {head: _split(split) for head, split in found.directions.items()},
        "prediction": _numbers(told, "change", "measured", "dc", "ac", "cosine") | {"valid": told.valid, "why": told.why},
        "without": None if cut is None else {"parts": list(cut.parts)} | _numbers(cut, "given", "lost", "log_given", "log_lost"),
    }


def _split(split: Directions, most: int = 3) -> dict[str, Any]:
    """The eigen-directions with the largest shares."""
    rows = zip(split.values[:most].tolist(), split.parts[:most].tolist(), strict=True)
    told = [{"real": value.real, "imaginary": value.imag, "share": _number(share)} for value, share in rows]
    return {"eigenvalues": told, "radius": split.radius, "null95": split.null95, "why": split.why}
