"""Hands a `headwater.Watch` to other training loops, and what it sees to loggers. Each framework is imported when asked for."""

import logging
import math
import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from headwater.errors import InputError, Unhealthy

LOG = logging.getLogger("headwater")
PREFIX = "headwater/"
LEVELS = ("pooled", "dense", "output")
SAID = ("reliability", "null95", "rank", "rank_null95", "spread")  # of what a level tells; the rest is bookkeeping


def scalars(look: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers of a look by name, such as "headwater/dense/reliability", "headwater/rankme", "headwater/rankme/null".

    look: as `Watch.looks` and `Watch.on_look` have it. What could not be measured is left out; curves over layers stay in the
    watch's own file.
    """
    found = {f"{level}/{name}": look[level].get(name) for level in LEVELS if level in look for name in SAID}
    for name, number in look.get("panel", {}).items():
        found |= {name: number.get("value"), f"{name}/null": number.get("null")}
    return {PREFIX + name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def lightning_callback(watch: Any) -> Any:
    """A callback for Lightning, `Trainer(callbacks=[lightning_callback(watch)])`: the watch is told of every optimizer step.

    It looks when it finds it time to, in the first process only; its numbers go to the trainer's loggers. With action "stop" the
    fit ends as by early stopping. Works with lightning and pytorch_lightning. Raises: InputError if neither is installed.
    """
    package = _loaded("lightning.pytorch", "pytorch_lightning")

    class Watching(package.Callback):
        """The watch in Lightning's loop."""

        def __init__(self) -> None:
            self.waiting, self.step, self.blind = list(watch.looks), 0, False
            watch.on_look.append(self.waiting.append)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Once the model is as it will be trained."""
            self.blind = not trainer.is_global_zero or _split(trainer.model, trainer.world_size)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Once for each step of the optimizer, however many batches it takes."""
            if self.blind or trainer.global_step == self.step:
                return
            self.step = trainer.global_step
            try:
                watch(self.step, outputs.get("loss") if isinstance(outputs, Mapping) else outputs)
            except Unhealthy:
                trainer.should_stop = True
            while self.waiting:
                look = self.waiting.pop(0)
                for logger in trainer.loggers:
                    logger.log_metrics(scalars(look), step=look["step"])

    return Watching()


def trainer_callback(watch: Any) -> Any:
    """A callback for the Hugging Face Trainer, `Trainer(callbacks=[trainer_callback(watch)])`: the watch is told of every step.

    It looks when it finds it time to, in the first process only, and is told the loss last logged. With action "stop" training
    ends after the step. Raises: InputError if transformers is not installed.
    """
    package = _loaded("transformers")

    class Watching(package.TrainerCallback):
        """The watch in the Trainer's loop."""

        def __init__(self) -> None:
            self.blind = False

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            """Once the model is as it will be trained."""
            self.blind = not state.is_world_process_zero or _split(model, args.world_size)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Once for each step of the optimizer."""
            if self.blind:
                return
            try:
                watch(state.global_step, next((one["loss"] for one in reversed(state.log_history) if "loss" in one), None))
            except Unhealthy:
                control.should_training_stop = True

    return Watching()


def to_tensorboard(watch: Any, where: Any) -> Any:
    """Writes what the watch has seen and will see to TensorBoard, numbers as scalars and verdicts as text; returns the writer.

    where: a SummaryWriter, torch's or tensorboardX's, or a folder for a new one. Raises: InputError if tensorboard is not
    installed and a folder is given.
    """
    writer = where
    if not hasattr(where, "add_scalar"):
        _loaded("tensorboard")
        writer = import_module("torch.utils.tensorboard").SummaryWriter(str(where))

    def tensorboard(look: Mapping[str, Any]) -> None:
        for name, value in scalars(look).items():
            writer.add_scalar(name, value, look["step"])
        if "state" in look:
            writer.add_text(f"{PREFIX}verdict", f"{look['state']}: {look['sentence']}", look["step"])
        writer.flush()

    for look in watch.looks:
        tensorboard(look)
    watch.on_look.append(tensorboard)
    return writer


def to_wandb(watch: Any, run: Any = None) -> Any:
    """Logs what the watch sees to Weights & Biases, over an axis of its own, "headwater/step"; returns the run.

    The run's own step stays as it is: numbers travel with what the training logs next, or with its end.
    run: what wandb.init gave; the open one if left out. Raises: InputError if wandb is not installed or no run is open.
    """
    run = _loaded("wandb").run if run is None else run
    if run is None:
        raise InputError("no run of Weights & Biases is open: call wandb.init() first, or give its run")
    run.define_metric(f"{PREFIX}*", step_metric=f"{PREFIX}step")

    waiting: list[int] = []  # the run's step at which a look waits to be sent

    def wandb(look: Mapping[str, Any]) -> None:
        if waiting == [run.step]:
            run.log({}, commit=True)  # nothing was logged since the last look, which this one would overwrite
        told = {f"{PREFIX}{name}": look[name] for name in ("step", "state", "sentence") if name in look}
        run.log(scalars(look) | told, commit=False)
        waiting[:] = [run.step]

    for look in watch.looks:
        wandb(look)
    watch.on_look.append(wandb)
    return run


def _split(model: Any, processes: int) -> bool:
    """Whether each process holds a part of the model only (FSDP, ZeRO): run in one, it would wait for the others for ever."""
    names = {type(module).__name__ for module in model.modules()}
    parted = any(name.startswith(("FSDP", "FullySharded")) for name in names) or any(
        hasattr(p, "ds_id") for p in model.parameters()
    )
    if found := parted and processes > 1:
        LOG.warning(
            "headwater does not watch: the model is split over %s processes, and a look would need all of them", processes
        )
    return found


def _loaded(*names: str) -> ModuleType:
    """The package that the user has loaded already, else the first that is installed."""
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
                raise  # it is there, and something that it needs is not
    package = names[0].split(".")[0]
    raise InputError(f"{package} is not installed: pip install {package}")
