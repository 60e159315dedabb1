"""The pretraining loop: settings in, a trained backbone and its story out."""

import copy
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwater import backbones, objectives, runfolder
from headwater.device import autocast, machine
from headwater.errors import InputError, Unhealthy
from headwater.interrupt import Interrupted, wishes
from headwater.objectives.network import Network
from headwater.observe.running import RunWatch
from headwater.observe.verdict import ALARMS
from headwater.progress import Progress, Silent
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream, seeded
from headwater.train import state
from headwater.train.schedule import learning_rate, teacher_momentum
from headwater.views.batch import Views, make_views

SLOWEST = 1 / 8  # of the learning rate: after three times back it stays as it is


def objective_of(settings: Settings) -> objectives.Objective:
    """What a backbone will be asked to do. Raises InputError for a name or an option that does not exist."""
    return objectives.build(settings.pretrain.objective, **settings.objective)


def assemble(settings: Settings, store: Store) -> tuple[Network, objectives.Objective]:
    """The student as it is before any training, and what it will be asked to do."""
    backbone = backbones.build(**described(settings, store), seed=settings.seed)
    objective = objective_of(settings)
    images, prototypes = len(store.split("train")), getattr(objective, "prototypes", 0)
    if prototypes > images:
        fits = 2 ** max(1, (images // 2).bit_length() - 1)
        raise InputError(f"{prototypes} prototypes for {images} scans would hold one scan each: set objective.prototypes={fits}.")
    if settings.pretrain.transport and settings.backbone.family != "continuous":
        raise InputError("Only networks in continuous depth have a path to charge for: set backbone.family=continuous.")
    with seeded(settings.seed, "heads"):
        return Network(backbone, objective.heads(backbone)), objective


def described(settings: Settings, store: Store) -> dict[str, Any]:
    """What `backbones.build` needs to make this backbone again; kept beside its weights."""
    return {**asdict(settings.backbone), "channels": store.channels, "ndim": store.ndim}


def members(step: int, batch: int, count: int, seed: int) -> list[int]:
    """Which of `count` scans a step sees: every scan once per epoch, each epoch in another order."""
    places = range(step * batch, (step + 1) * batch)
    orders = {epoch: numpy_stream(seed, "epoch", epoch).permutation(count) for epoch in {p // count for p in places}}
    return [int(orders[p // count][p % count]) for p in places]


def views_at(step: int, store: Store, chosen: list[int], settings: Settings, backbone: nn.Module, masked: bool = True) -> Views:
    """The batch of a step: a function of settings and step alone; masked, where the objective wants it."""
    places = members(step, settings.pretrain.batch, len(chosen), settings.seed)
    scans, partners = [store.image(chosen[i]) for i in places], None
    if settings.views.further and len(chosen) > 1:  # another scan for each, for changes that mix two
        drawn = [int(numpy_stream(settings.seed, step, k, "partner").integers(1, len(chosen))) for k in range(len(places))]
        partners = [store.image(chosen[(i + n) % len(chosen)]) for i, n in zip(places, drawn, strict=True)]
    stride, told = backbone.stride if masked else None, {"seed": settings.seed, "step": step, "spacing": store.spacing}
    return make_views(scans, settings.views, stride=stride, partners=partners, **told)


def optimizer_for(network: nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW that does not decay biases, norms and single vectors."""
    learned = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), foreach=True)


def step(
    student: Network,
    teacher: Network,
    objective: objectives.Objective,
    optimizer: torch.optim.Optimizer,
    views: Views,
    rate: float,
    momentum: float,
    settings: Settings,
) -> dict[str, Any]:
    """One training step; returns the loss and its parts."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with autocast(settings.precision, views.x.device):
        loss, parts = objective(student, teacher, views)
        if settings.pretrain.transport:
            charge = student.cost.mean()
            loss, parts["transport"] = loss + settings.pretrain.transport * charge, charge.detach()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(student.parameters(), settings.pretrain.clip)
    if torch.isfinite(norm):  # a step that is not changes nothing, and its values show in the events
        optimizer.step()
        follow(teacher, student, momentum)
    optimizer.zero_grad(set_to_none=True)
    student.cost = None  # it holds the whole graph
    return {"loss": float(loss.detach()), "gradient": float(norm), "parts": {name: float(value) for name, value in parts.items()}}


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """The teacher's parameters and running statistics move a little towards the student's."""
    pairs = [(t, s) for t, s in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True)]
    torch._foreach_lerp_(
        [t for t, _ in pairs if t.is_floating_point()], [s for t, s in pairs if t.is_floating_point()], 1 - momentum
    )
    for t, s in pairs:
        if not t.is_floating_point():
            t.copy_(s)


def fit(store: Store, settings: Settings, run: Path, *, progress: Progress | None = None, stop_at: int | None = None) -> Network:
    """Pretrains on every scan that is not held out, or goes on where an earlier call was stopped.

    Writes state/pretrain.safetensors (the newest state), events.jsonl (each step, each look of the watch).
    Returns: the teacher, which is what later stages use.
    Raises:  Interrupted after saving, when asked to stop (Ctrl-C, or `stop_at`, which tests use); Unhealthy, if
             pretrain.alarm is "stop" and the watch says so.
    """
    progress = progress or Silent()
    device, steps, path = machine().device, settings.pretrain.steps, run / "state" / "pretrain.safetensors"
    student, objective = assemble(settings, store)
    student, teacher = student.to(device), copy.deepcopy(student).requires_grad_(False).to(device)
    optimizer = optimizer_for(student, settings.pretrain.learning_rate, settings.pretrain.weight_decay)
    modules = {"student": student, "teacher": teacher}
    done, slower = (state.load(path, modules, optimizer), state.about(path).get("slower", 1.0)) if path.exists() else (0, 1.0)
    forget_after(run, done)
    chosen = store.split("train")
    eye = RunWatch(store, chosen, settings, run, steps)
    waited, started = 0.0, time.monotonic()
    with ThreadPoolExecutor(1) as ahead, wishes() as stop, progress.track("Pretraining", steps) as advance:
        alone(ahead)
        advance(done)
        advance(0, eye.begin(teacher if done == 0 else assemble(settings, store)[0].to(device)))
        coming = ahead.submit(views_at, done, store, chosen, settings, student.backbone, objective.masked)
        while done < steps:
            asked = time.monotonic()
            views = coming.result().to(device)
            waited += time.monotonic() - asked
            coming = ahead.submit(views_at, done + 1, store, chosen, settings, student.backbone, objective.masked)
            rate = slower * learning_rate(done, steps, settings.pretrain.learning_rate, settings.pretrain.warmup)
            momentum = teacher_momentum(done, settings.pretrain.momentum)
            with seeded(settings.seed, "step", done):
                values = step(student, teacher, objective, optimizer, views, rate, momentum, settings)
            done += 1
            runfolder.append_event(
                run, {"event": "step", "step": done, "of": steps, "rate": rate, "seconds": time.monotonic() - asked, **values}
            )
            advance(1, eye.look(teacher, done, values["loss"]) if eye.due(done) else "")
            stopping, words = stop() or done == stop_at, {"backbone": described(settings, store), "slower": slower}
            if done == steps or done % settings.pretrain.save == 0 or stopping:
                state.save(path, done, modules, optimizer, **words)
            if eye.due(done) and (then := respond(eye, settings.pretrain.alarm, run, modules, optimizer, done, words)) != done:
                done, slower = then, slower / 2
                coming = ahead.submit(views_at, done, store, chosen, settings, student.backbone, objective.masked)
            if stopping and done < steps:
                raise Interrupted(f"Pretraining stopped after step {done} of {steps}")
    runfolder.append_event(run, {"event": "pretrained", "step": done, "waiting": waited / max(1e-9, time.monotonic() - started)})
    return teacher


def respond(
    eye: RunWatch,
    alarm: str,
    run: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    done: int,
    words: dict[str, Any],
) -> int:
    """What a verdict of the watch leads to: the step to go on from, `done` unless the run goes back to its last healthy state.

    Going back loads state/healthy.safetensors and forgets what came after; the caller halves the learning rate, the one thing
    that changes. Three times at most. Raises: Unhealthy with alarm "stop".
    """
    path, judged = run / "state" / "healthy.safetensors", eye.verdict
    if alarm == "warn" or judged is None:
        return done
    if judged.state == "healthy" and alarm == "back":
        state.save(path, done, modules, optimizer, **words)
    if judged.state not in ALARMS:
        return done
    if alarm == "stop":
        state.save(run / "state" / "pretrain.safetensors", done, modules, optimizer, **words)
        raise Unhealthy(f"Pretraining stopped at step {done:,} of {eye.steps:,}. {judged.sentence}")
    if not path.exists() or words["slower"] <= SLOWEST:
        return done
    then = state.load(path, modules, optimizer)
    forget_after(run, then)
    eye.forget_after(then)
    runfolder.append_event(run, {"event": "rolled back", "step": then, "from": done, "because": judged.sentence})
    state.save(run / "state" / "pretrain.safetensors", then, modules, optimizer, **{**words, "slower": words["slower"] / 2})
    return then


def alone(worker: ThreadPoolExecutor) -> None:
    """Lets a worker compute with one thread of its own, while the caller keeps all.

    Views are many small operations; spread over cores that the network keeps busy, each would wait for all of them: a step
    takes 1.4 times as long (benchmarks/results, views). torch keeps the count per thread, MKL one for all, so it is set back.
    """

    def settle() -> int:
        torch.set_num_threads(1)
        return torch.get_num_threads()  # a new thread takes its count when first asked for it

    threads = torch.get_num_threads()
    worker.submit(settle).result()
    torch.set_num_threads(threads)


def forget_after(run: Path, step: int) -> None:
    """Drops events later than the state that is resumed: they will happen again."""
    kept = [e for e in runfolder.read_events(run) if e.get("step", 0) <= step and not (step == 0 and e.get("event") == "watch")]
    runfolder.write_text(run / "events.jsonl", "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in kept))
