"""The watch: looks at a model now and then while it trains, says what it saw, and acts if it is told to."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from headwater import runfolder
from headwater.errors import InputError, Unhealthy
from headwater.observe.features import FEWEST
from headwater.observe.look import FEW, look, reason
from headwater.observe.pairs import IMAGES, Probe, of_images
from headwater.observe.probe import first_images, placed, plain, undisturbed
from headwater.observe.reading import reader, strides
from headwater.observe.verdict import ALARMS, Verdict, verdict
from headwater.streams import numpy_stream

SHARE = 0.01  # of the time that looks may take, where nobody says how often
EARLY = 0.05  # of the time so far, for the second look: most faults of wiring show then
EXPLAINED = ("token", "point", "dimensional", "head")  # causes that layers and heads can be asked for
BACK = 3  # times a run is rolled back at most
ACTIONS = ("warn", "stop", "roll back")
LOG = logging.getLogger("headwater")


class Watch:
    """Two lines in anybody's training loop: `watch = headwater.Watch(model, images)`, and `watch(step)` after each step.

    It never changes the model, its gradients or the random streams, and never ends the loop unless told to: what goes wrong in it
    is logged once. What it says goes to the logger "headwater": information if healthy, a warning if not.

    Attributes: looks: what was seen, as JSON holds it. verdict: the last one. off: why it does not look, empty if it does.
    on_look: functions called with each look and its verdict as one dict.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Any,
        *,
        out: Path | str | None = None,
        every: int | None = None,
        teacher: nn.Module | None = None,
        groups: Sequence[int] | Tensor | None = None,
        prototypes: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        action: str = "warn",
        blocks: Sequence[str] | None = None,
        features: Callable[[nn.Module, Any], Any] | None = None,
        levels: Sequence[str] = ("pooled", "dense"),
        spacing: Sequence[float] | None = None,
        precision: str = "fp32",
        seed: int = 0,
    ):
        """Looks for the first time: build it before training.

        model: any module. images: (n, C, *S) as the model takes them, at least 8, of which 96 are used; or a dict of ids or such,
        where views cannot be made. out: file to which looks are added as JSON lines. every: steps between looks (None: so
        seldom that they take 1 % of the time). teacher: whose weights follow the model's, if any. groups: scanner or site of each
        image. prototypes: K of a prototype objective. action: "warn", "stop" (raises Unhealthy), or "roll back" (to the last
        healthy state, and halves the learning rates of `optimizer`). blocks, features: where tokens are, if it guesses wrongly.
        levels: what training asks to agree: "pooled" (images) or "dense" (places; a masked autoencoder's), or both.
        spacing: mm per voxel and axis, if distances shall be in mm. precision: "fp32" or "bf16", of the forward passes.
        Of several ranks the first looks; all do, at every `every` steps, if the model is sharded or an action is wanted.
        Raises: InputError for an action or option that makes no sense.
        """
        blind = _checked(model, every, optimizer, action, levels, precision, prototypes)
        self.model, self.teacher, self.optimizer = model, teacher, optimizer
        self.every, self.action, self.out = every, action, None if out is None else Path(str(out))
        blocks = (blocks,) if isinstance(blocks, str) else blocks
        self.told = {"blocks": blocks, "features": features, "spacing": spacing, "precision": precision, "seed": seed}
        self.told |= {"prototypes": prototypes}
        self.levels = tuple(levels)
        self.groups = groups
        self.looks: list[dict[str, Any]] = []
        self.verdict: Verdict | None = None
        self.on_look: list[Callable[[dict[str, Any]], None]] = []
        self.off, self._start, self._healthy, self._back, self._said = blind, None, None, 0, set()
        self._last, self._cost, self._spent, self._told = -1, 0.0, 0.0, ("", "")
        try:
            if not self.off:
                self.groups = None if groups is None else _grouped(groups)
                self.probe = self._probe(images, seed)
                self._look(0, None)
                self._keep(0)
        except Exception as error:
            self.off = _sentence(error)
            LOG.warning("headwater does not watch: %s", self.off)
        self._spent, self._began = 0.0, time.monotonic()

    def __call__(self, step: int, loss: float | Tensor | None = None) -> Verdict | None:
        """Looks if it is time to, and returns the verdict then; None otherwise. loss: of this step, to see it stuck at ln K.

        Raises: Unhealthy with action "stop", when features have collapsed, are random or something is wired wrongly.
        """
        if self.off:
            return None
        try:
            step = int(step)
            if step <= self._last or not self._due(step):
                return None
            found = self._look(step, loss)
        except Exception as error:
            self._warn(f"headwater could not look at step {step}: {_sentence(error)}")
            self._last, self._spent = step if isinstance(step, int) else self._last, self._spent + self._cost
            return None
        return self._act(step, found)

    def _due(self, step: int) -> bool:
        if self.every is not None:
            return step % self.every == 0
        share = EARLY if len(self.looks) == 1 else SHARE
        return self._spent + self._cost <= share * (time.monotonic() - self._began)

    def _probe(self, images: Any, seed: int) -> Probe | Any:
        """Hard views of images; anything else as it is, at most 96 of it."""
        images = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        if not isinstance(images, (Tensor, Mapping, tuple)):
            raise InputError(
                f"images are a {type(images).__name__}: give one tensor (n, C, *S); of a loader next(iter(loader))[0]"
            )
        if isinstance(images, Tensor) and images.ndim > 3 and not images.is_floating_point():
            raise InputError(f"images are {images.dtype}: give them as the model takes them, such as images.float() / 255")
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 3:
            return first_images(images, IMAGES)
        if self.groups is not None and len(self.groups) != len(images):
            raise InputError(f"{len(self.groups)} groups for {len(images)} images: give one scanner or site per image")
        if len(images) > IMAGES:
            chosen = np.sort(numpy_stream(seed, "probe").permutation(len(images))[:IMAGES])
            images, self.groups = images[chosen], None if self.groups is None else self.groups[chosen]
        if len(images) < FEWEST:
            raise InputError(f"agreement between views needs at least {FEWEST} images, there are {len(images)}")
        network = plain(self.model)
        with undisturbed(network):
            few = placed(images[:FEW], network)
            read, _ = reader(network, few, features=self.told["features"], blocks=self.told["blocks"])
            return of_images(images, strides(read(few), images.shape[2:]), seed=seed)

    def _look(self, step: int, loss: float | Tensor | None) -> Verdict:
        began = time.monotonic()
        told = {**self.told, "loss": _value(loss)}
        seen, self._start = look(
            self.model, self.probe, step=step, start=self._start, teacher=self.teacher, groups=self.groups, **told
        )
        self.looks.append(seen.plain())
        self.verdict = found = verdict(self.looks, self.levels)
        first = len(self.looks) == 1
        event = {**self.looks[-1], "state": "start" if first else found.state, "cause": "" if first else found.cause}
        why = reason(self.model, self.probe, self.looks) if found.cause in EXPLAINED and not first else ""
        self._last, self._cost = step, time.monotonic() - began
        self._spent += self._cost
        event |= {"sentence": "Before training." if first else f"{found.sentence} {why}".strip(), "seconds": self._cost}
        self._tell(event)
        return found

    def _tell(self, event: dict[str, Any]) -> None:
        """To the log, the file and whoever listens."""
        level = logging.WARNING if event["state"] in ALARMS else logging.INFO
        now = (event["state"], event["cause"])
        words = event["sentence"] if now != self._told or level == logging.INFO else f"still {event['cause'] or 'so'}."
        self._told = now
        LOG.log(level, "step %s  %s: %s", f"{event['step']:,}", event["state"], words)
        if self.out is not None:
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                with self.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runfolder.plain(event), ensure_ascii=False) + "\n")
            except OSError as error:
                self._warn(f"headwater cannot write {self.out}: {_sentence(error)}")
        for listener in self.on_look:
            try:
                listener(event)
            except Exception as error:
                self._warn(f"headwater: {getattr(listener, '__name__', listener)} failed: {_sentence(error)}")

    def _act(self, step: int, found: Verdict) -> Verdict:
        if self.action == "stop" and found.state in ALARMS:
            raise Unhealthy(f"Training stopped at step {step:,}. {found.sentence}")
        if found.state == "healthy":
            self._keep(step)
        if self.action == "roll back" and found.state in ALARMS and self._healthy is not None and self._back < BACK:
            self._roll_back(step)
        return found

    def _keep(self, step: int) -> None:
        """What to roll back to: the newest healthy state, or the start."""
        if self.action == "roll back":
            self._healthy = (step, self._back, *(_held(x.state_dict()) for x in self._parts()))

    def _parts(self) -> list[Any]:
        return [x for x in (plain(self.model), self.optimizer, self.teacher and plain(self.teacher)) if x is not None]

    def _roll_back(self, step: int) -> None:
        """Weights and moments as they were at the last healthy look; learning rates halved once more for each time."""
        then, halved, *states = self._healthy  # how often the rates of that state had been halved
        self._back += 1
        for part, state in zip(self._parts(), states, strict=True):
            part.load_state_dict(_held(state))
        for group in self.optimizer.param_groups:
            for name in ("lr", "initial_lr"):
                if name in group:
                    group[name] *= 0.5 ** (self._back - halved)
        self.looks = [seen for seen in self.looks if seen["step"] <= then]
        LOG.warning("step %s  rolled back to step %s, with half the learning rate", f"{step:,}", f"{then:,}")

    def _warn(self, words: str) -> None:
        """Once for the same fault."""
        key = words.split(":")[-1]
        if key not in self._said:
            self._said.add(key)
            LOG.warning(words)


def _checked(
    model: nn.Module,
    every: int | None,
    optimizer: Any,
    action: str,
    levels: Sequence[str],
    precision: str,
    prototypes: int | None,
) -> str:
    """Why this rank does not look, empty if it does. Raises: InputError for what makes no sense."""
    if action not in ACTIONS:
        raise InputError(f"a watch cannot {action!r}: use one of {', '.join(ACTIONS)}")
    if action == "roll back" and optimizer is None:
        raise InputError("a watch that rolls back needs the optimizer: Watch(model, images, optimizer=..., action='roll back')")
    if not levels or not set(levels) <= {"pooled", "dense"}:
        raise InputError(f"a watch cannot judge levels {', '.join(levels) or '(none)'}: use pooled, dense or both")
    if precision not in ("fp32", "bf16") or (prototypes is not None and prototypes < 2):
        raise InputError(f"precision {precision}, {prototypes} prototypes: use fp32 or bf16, and 2 prototypes or more (or None)")
    if every is not None and every < 1:
        raise InputError(f"a watch cannot look every {every} steps: use 1 or more, or leave it out")
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ""
    together = action != "warn" or any(type(module).__name__.startswith(("FSDP", "FullySharded")) for module in model.modules())
    if together and every is None:
        raise InputError("ranks that look together need to know when: say every= how many steps")
    return "" if together or dist.get_rank() == 0 else "the first rank watches"


def _grouped(groups: Any) -> Tensor:
    """Scanners or sites, by whatever name, as numbers. Raises: InputError for anything but one per image."""
    names = np.asarray(groups)
    if names.ndim != 1:
        raise InputError(f"groups of shape {names.shape}: give one scanner or site per image")
    return torch.from_numpy(np.unique(names, return_inverse=True)[1])


def _value(loss: Any) -> float | None:
    """The loss as a number; None for what is none."""
    try:
        return float(loss.detach() if isinstance(loss, Tensor) else loss)
    except (TypeError, ValueError, RuntimeError):
        return None


def _held(state: Any) -> Any:
    """A copy on the CPU of a nested state."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: _held(part) for name, part in state.items()}
    return type(state)(_held(part) for part in state) if isinstance(state, (list, tuple)) else state


def _sentence(error: BaseException) -> str:
    words = str(error).strip().split("\n")[0]
    return words if isinstance(error, InputError) else f"{type(error).__name__}: {words}"
