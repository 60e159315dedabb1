"""Depth as time, trained beside untrained: how tokens move through the layers, what they pay, what small changes become."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.motion import Growth, Motion, growth, motion
from headwater.observe.number import Number, absent
from headwater.observe.probe import first_images, plain, size_of, undisturbed
from headwater.observe.replay import steps
from headwater.observe.trace import trace

IMAGES = 8  # whose tokens are followed, fewer where they are many
PAIRS = 2**22  # pairs of tokens compared in a state, about
FEW = 2  # images whose small changes are followed
LONGEST = 1024  # tokens of an image, beyond which small changes cost too much
DIRECTIONS, SWEEPS, PROBES = 2, 3, 6  # of the derivatives: some seconds for a small network
UNTRAINED = "the same network before training"
FAULTS = (InputError, ValueError, RuntimeError, ArithmeticError, NotImplementedError)
Sides = dict[str, nn.Module]


def path(
    trained: nn.Module, untrained: nn.Module, batch: Any, *, blocks: Sequence[str] | None = None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Motion and growth along the longest stretch of blocks, of the first images of a batch; the untrained network is the null.

    Returns: "motion" and "growth", for JSON. Each: "trained", "untrained" (what `moved` and `grown` give), "panel" (numbers by
    name, each with its null), "words" (what could not be had, one sentence each). This never raises for what a model is.
    """
    networks = {"trained": trained, "untrained": untrained}
    return {"motion": _motion(networks, batch, blocks, seed), "growth": _growth(networks, batch, blocks, seed)}


def moved(found: Motion) -> dict[str, Any]:
    """A motion as means over its images: lists along depth (speed: relative to the tokens' length; turn, radians; similarity and
    clusters by state; chance: similarity of unrelated tokens), and energy, transport, length, displacement, units of tokens."""
    along = {name: value.nanmean(-1) for name, value in (("speed", found.relative), ("turn", found.turn))}
    along |= {"similarity": found.similarity.nanmean(-1), "chance": found.chance}
    along |= {"clusters": found.clusters.double().mean(-1), "tight": found.tight.nanmean(-1), "costs": found.costs.mean(-1)}
    whole = {name: getattr(found, name) for name in ("energy", "transport", "length", "displacement", "error")}
    ratio = {"paid": _over(found.energy, found.transport), "way": _over(found.length, found.displacement)}
    return {name: x.tolist() for name, x in along.items()} | {name: float(x.mean()) for name, x in whole.items()} | ratio


def grown(found: Growth) -> dict[str, Any]:
    """A growth as means over its images: exponents, largest first, with what the last sweep changed at most (residual); by layer
    stretch and divergence with their standard errors."""
    images = found.stretch.shape[1]
    made: dict[str, Any] = {"exponents": found.exponents.mean(-1), "residual": found.residual.amax(-1)}
    for name in ("stretch", "divergence"):
        made[name] = getattr(found, name).mean(-1)
        made[f"{name}_error"] = getattr(found, f"{name}_error").square().sum(-1).sqrt() / images  # probes of each image its own
    return {name: value.tolist() for name, value in made.items()}


def _over(top: Tensor, below: Tensor) -> float:
    """Mean ratio over the images in which anything moved; nan if none did."""
    went = below > 0
    return float((top[went] / below[went]).mean()) if bool(went.any()) else math.nan


def _motion(networks: Sides, batch: Any, blocks: Sequence[str] | None, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"words": []}
    faults: dict[str, str] = {}
    for side, network in networks.items():
        try:
            width = trace(network, first_images(batch, 1), blocks=blocks, attend=0).stream.tokens.shape[2]
            few = first_images(batch, max(1, min(IMAGES, PAIRS // width**2)))
            stream = trace(network, few, blocks=blocks, attend=0).stream
            got = moved(motion(stream.path, seed))
            found[side] = got
        except FAULTS as error:
            faults[side] = str(error).splitlines()[0]
            continue
        found |= {"images": size_of(few), "tokens": width, "layers": len(got["speed"])}
        if got["error"] > 0:
            found["words"].append(
                f"{side}: transport is that of 256 tokens of each image; its root may be off by {got['error']:.2g}"
            )
    found["words"] += _said("motion", faults)
    found["panel"] = {name: number.plain() for name, number in _paid(found).items()}
    return found


def _said(part: str, faults: dict[str, str]) -> list[str]:
    """What could not be had, once where it is the same of both networks."""
    once = len(faults) == 2 and len(set(faults.values())) == 1
    return [f"{part}: {faults['trained']}"] if once else [f"{part}, {side}: {fault}" for side, fault in faults.items()]


def _paid(found: dict[str, Any]) -> dict[str, Number]:
    """What the journey costs and where it ends, each number beside the untrained network's."""
    now, then = found.get("trained"), found.get("untrained") or {}
    names = ("energy", "transport", "paid", "way")
    if now is None:
        return dict.fromkeys((*names, "clusters"), absent(found["words"][0], UNTRAINED))
    numbers = {name: _number(now[name], then.get(name, math.nan)) for name in names}
    return numbers | {"clusters": _number(now["clusters"][-1], then.get("clusters", [math.nan])[-1])}


def _number(value: float, null: float) -> Number:
    return absent("no token moves", UNTRAINED) if math.isnan(value) else Number(value, null, UNTRAINED)


def _growth(networks: Sides, batch: Any, blocks: Sequence[str] | None, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"images": min(FEW, size_of(batch))}
    faults: dict[str, str] = {}
    for side, network in networks.items():
        try:
            found[side] = grown(_derived(network, first_images(batch, FEW), blocks, seed))
        except FAULTS as error:
            faults[side] = str(error).splitlines()[0]
    found["words"] = _said("growth", faults)
    now, then = found.get("trained"), found.get("untrained")
    if now is None:
        found["panel"] = {"exponent": absent(found["words"][0], UNTRAINED).plain()}
        return found
    null = math.nan if then is None else then["exponents"][0]
    found["panel"] = {"exponent": Number(now["exponents"][0], null, UNTRAINED, _unsettled(now, then)).plain()}
    return found


def _unsettled(now: dict[str, Any], then: dict[str, Any] | None) -> str:
    """A reservation where the last sweep still raised the leading exponent of either network by more than a twentieth."""
    sides = [(name, side) for name, side in (("here", now), ("untrained", then)) if side is not None]
    late = [name for name, side in sides if side["residual"][0] > abs(side["exponents"][0]) / 20]
    return f"{' and '.join(late)} at least that: {SWEEPS} sweeps were not enough to settle it" if late else ""


def _derived(network: nn.Module, few: Any, blocks: Sequence[str] | None, seed: int) -> Growth:
    with undisturbed(plain(network)):
        found, start = steps(network, few, blocks=blocks)
        if start.shape[1] > LONGEST:
            raise InputError(f"not sought for {start.shape[1]:,} tokens an image, {LONGEST:,} at most: it would take too long")
        return growth(found, start, count=DIRECTIONS, sweeps=SWEEPS, probes=PROBES, seed=seed)
