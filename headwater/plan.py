"""From a budget in minutes and a measured step to the number of steps, draws and labels, each with its reason."""

import time
from dataclasses import replace
from math import ceil
from pathlib import Path

from headwater.costs import Costs
from headwater.device import Machine
from headwater.errors import InputError
from headwater.runfolder import write_json
from headwater.scans.store import Store
from headwater.settings import Pretrain, Settings

WARMING = 0.3  # share of the budget for pretraining when there are labels to spend the rest on
FEWEST, MOST = 40, 1000  # steps of one adaptation that are worth making
SHORTEST = 20  # steps of pretraining that are worth making
LOOKING = 0.01  # share of pretraining that the watch takes, where that is enough for LOOKS
LOOKS, CROWDED = 6, 0.15  # looks that a short run has too, and the share that they may take then
LONGER = 2  # times the steps of one adaptation, at least, that the model which is kept for predicting is trained for
LONGEST = 4000  # steps of it that are worth making
DRAWS = 3  # of labels: what an interval needs at least; more when the budget allows
SHORTER = ", most of it for adapting (--set adapt.arms=scratch,fine-tuned makes it less; without --labels there is none)"
MARGIN = 0.9  # of the budget is planned: reading, looking at features and writing the page need the rest

FAMILIES = {  # in words
    "resenc": "residual encoder",
    "unet": "plain U-Net encoder",
    "hybrid": "residual encoder with transformer blocks at its end",
    "vit": "vision transformer",
    "mixed": "vision transformer with heads of different kernels",
    "continuous": "vision transformer in continuous depth",
    "swin": "Swin transformer",
    "parabolic": "parabolic network",
    "hamiltonian": "Hamiltonian network",
    "second_order": "second-order network",
}
OBJECTIVES = {
    "cva": "consistent view alignment + masked autoencoding",
    "mae": "masked autoencoding",
    "ae": "plain autoencoding, a control",
    "denoise": "denoising, a control",
    "simclr": "contrast of whole scans",
    "byol": "latent prediction without negatives",
    "jepa": "masked latent prediction",
    "vicreg": "agreement with decorrelation",
    "lejepa": "agreement with a Gaussian embedding",
    "dino": "self-distillation into prototypes",
    "distil": "distillation from a finished network",
    "adversarial": "masked autoencoding against a critic",
}


def spend(settings: Settings, costs: Costs, labelled: int, tests: int, borrowed: bool = False) -> Settings:
    """Divides the budget; what the user has set by hand stays. borrowed: the backbone is another run's, all is for adapting.

    Raises: InputError when the budget is too small for anything, with one that would do.
    """
    settings = replace(settings, precision=costs.precision)
    counts = tuple(c for c in settings.adapt.counts if c <= labelled) if costs.adapt else ()
    if costs.adapt and not counts:
        raise InputError(
            f"There are {labelled} labelled scans to learn from, fewer than any of the label counts {settings.adapt.counts}: "
            f"give more masks, or --set adapt.counts=1,{labelled}."
        )
    if costs.batch != settings.pretrain.batch:
        settings = replace(settings, pretrain=replace(settings.pretrain, batch=costs.batch))
    seconds = 60 * settings.budget * MARGIN
    if borrowed:
        return _adapting(settings, costs, counts, tests, seconds)
    least = _least(settings, costs, tests) if counts else 0.0
    settings = _pretraining(settings, costs, WARMING if counts else 1.0, least)
    if not counts:
        return replace(settings, adapt=replace(settings.adapt, counts=()))
    return _adapting(settings, costs, counts, tests, seconds - _pretraining_seconds(settings, costs))


def _pretraining_seconds(settings: Settings, costs: Costs) -> float:
    return settings.pretrain.steps * costs.pretrain + (settings.pretrain.watch + 2) * costs.look


def _least(settings: Settings, costs: Costs, tests: int) -> float:
    """Seconds of the smallest adaptation that is worth making: one count of labels, one draw unless more are asked for."""
    told, per_step, worst = settings.adapt, sum(costs.adapt.values()), max(costs.adapt.values())
    if told.steps:
        return 0.0
    n, final = (told.draws or 1) * told.seeds, told.final or LONGER * FEWEST
    return n * (FEWEST * per_step + len(costs.adapt) * tests * costs.test) + final * worst


def _pretraining(settings: Settings, costs: Costs, share: float, least: float = 0.0) -> Settings:
    """Steps and looks that fit a share of the budget; looks take LOOKING of it if that buys LOOKS, unless set by hand.

    least: seconds that adapting needs afterwards, which a budget that is named has to hold as well.
    """
    seconds, told = share * 60 * settings.budget * MARGIN, settings.pretrain
    if told.watch == Pretrain().watch and costs.look:
        often, most = (int(share * seconds / costs.look) - 2 for share in (LOOKING, CROWDED))
        told = replace(told, watch=max(2, min(LOOKS, most), min(told.watch, often)))
    looks = (told.watch + 2) * costs.look
    steps = told.steps or int((seconds - looks) / costs.pretrain)
    if steps < SHORTEST and not told.steps:
        needed = (SHORTEST * costs.pretrain + 4 * costs.look) / ((1 - CROWDED) * share)
        remedy = SHORTER if least / (1 - WARMING) > needed else ""
        raise InputError(_too_short(settings, max(needed, least / (1 - WARMING)), remedy))
    return replace(settings, pretrain=replace(told, steps=steps))


def _adapting(settings: Settings, costs: Costs, counts: tuple[int, ...], tests: int, left: float) -> Settings:
    """Steps, draws and label counts that fit what is left: fewer counts first, then fewer draws, never under FEWEST steps."""
    told, per_step, worst = settings.adapt, sum(costs.adapt.values()), max(costs.adapt.values())
    scoring = len(costs.adapt) * tests * costs.test

    def jobs(draws: int, counts: tuple[int, ...]) -> int:
        return draws * told.seeds * len(counts)

    def steps(draws: int, counts: tuple[int, ...]) -> int:
        n = jobs(draws, counts)
        return int((left - n * scoring - told.final * worst) / (n * per_step + (0 if told.final else LONGER * worst)))

    thinner = [counts] + [(*counts[: n - 1], counts[-1]) for n in range(len(counts) - 1, 1, -1)]
    options = [(draws, c) for draws in ([told.draws] if told.draws else range(DRAWS, 0, -1)) for c in thinner]
    options += [(options[-1][0], counts[:1])]
    if told.steps:
        draws, counts, each = options[0][0], counts, told.steps
    else:
        found = next(((d, c) for d, c in options if steps(d, c) >= FEWEST), None)
        if found is None:
            raise InputError(_too_short(settings, _least(settings, costs, tests) / (1 - WARMING), SHORTER))
        draws, counts = found
        while not told.draws and steps(draws + 1, counts) >= MOST and draws < 10:
            draws += 1
        each = min(MOST, steps(draws, counts))
    rest = 0.0 if told.steps else left - jobs(draws, counts) * (each * per_step + scoring)
    final = told.final or max(LONGER * each, min(LONGEST, int(rest / worst)))
    return replace(settings, adapt=replace(told, counts=counts, draws=draws, steps=each, final=final))


def _too_short(settings: Settings, needed: float, remedy: str = "") -> str:
    least = ceil(10 * needed / (60 * MARGIN) + 0.5) / 10
    counted = f"{settings.budget:g} minute{'s' * (settings.budget != 1)}"
    return f"A budget of {counted} is too short for this machine: give at least --budget {least:.1f}{remedy}."


def minutes(settings: Settings, costs: Costs, tests: int) -> tuple[float, float]:
    """Expected minutes of pretraining and of adaptation."""
    pretrain = _pretraining_seconds(settings, costs)
    if not costs.adapt:
        return pretrain / 60, 0.0
    adapt = settings.adapt
    each = adapt.steps * sum(costs.adapt.values()) + len(costs.adapt) * tests * costs.test
    final = adapt.final * max(costs.adapt.values())
    return pretrain / 60, (len(adapt.counts) * adapt.draws * adapt.seeds * each + final) / 60


def lines(
    settings: Settings,
    costs: Costs,
    store: Store,
    machine: Machine,
    tests: int,
    parameters: float,
    mirror: str = "",
    borrowed: bool = False,
) -> list[dict[str, str]]:
    """What will be done and why, for the terminal, plan.json and the page. mirror: why axes are mirrored or not."""
    pretraining, adapting = minutes(settings, costs, tests)
    pretraining = 0.0 if borrowed else pretraining
    chosen, view, adapt = settings.backbone, settings.views, settings.adapt
    where = machine.accelerator or f"{machine.cores} cores and no accelerator"
    kind, goal = FAMILIES[chosen.family], OBJECTIVES[settings.pretrain.objective]
    voxels = "voxels" if store.ndim == 3 else "pixels"
    rows = [
        ("spacing", _spacing(store), "the backbone learned at it" if borrowed else _why_spacing(store, settings), "spacing"),
        (
            "backbone",
            f"{kind}, {chosen.size}, {parameters:.1f} M parameters",
            "it is another run's" if borrowed else f"there are {where}" + _safe(chosen.family),
            "backbone.family, backbone.size",
        ),
        (
            "views",
            f"two crops of {_by(view.crop)} {voxels} out of {_by(view.parent)}",
            f"half of the scans are {_by(_median(store))} {voxels} or less",
            "views.crop, views.parent",
        ),
        ("batch", f"{settings.pretrain.batch} scans", _why_batch(settings, costs, len(store.split("train"))), "pretrain.batch"),
        (
            "pretrain",
            f"{goal}, {settings.pretrain.steps:,} steps, " + ("done before" if borrowed else _minutes(pretraining)),
            "the backbone is another run's" if borrowed else _why_steps(settings, costs),
            "pretrain.steps, budget",
        ),
    ]
    if adapt.counts:
        names = ", ".join(str(c) for c in adapt.counts)
        rows.append(
            (
                "adapt",
                f"{names} label{'s' * (names != '1')} x {adapt.draws} draw{'s' * (adapt.draws != 1)} x "
                f"{len(costs.adapt)} arms, {adapt.steps} steps each; "
                f"{adapt.final} steps of the model that is kept; {_minutes(adapting)}",
                f"the budget is {settings.budget:g} min, and {tests} scans are kept for testing",
                "adapt.counts, adapt.draws, adapt.steps, adapt.arms, adapt.final",
            )
        )
        rows.append(
            ("mirroring", _mirrored(settings, store), f"the masks say: {mirror}" if mirror else "you said so", "adapt.mirror")
        )
    size = (store.images.nbytes + store.labels.nbytes) / 2**30
    needs = f"the trial steps in {settings.precision} took that of {costs.free:.1f} GiB free; disk {size + 0.1:.1f} GiB"
    rows.append(("memory", f"{costs.memory:.1f} GiB", needs, "pretrain.batch, views.crop"))
    done = time.strftime("%H:%M", time.localtime(time.time() + 60 * (pretraining + adapting) + 30))
    rows.append(("done", f"about {done}", f"this is {_minutes(pretraining + adapting)} of work", "budget"))
    return [{"name": name, "choice": choice, "because": why, "set": told} for name, choice, why, told in rows]


def _safe(family: str) -> str:
    return "; a CNN is the safe start with few scans" if family == "resenc" else ""


def _spacing(store: Store) -> str:
    if store.unit != "mm" and set(store.spacing) == {1.0}:
        return "as stored"
    return " x ".join(f"{s:.3g}" for s in store.spacing) + f" {store.unit}"


def _mirrored(settings: Settings, store: Store) -> str:
    """Axes that are mirrored while adapting, in words."""
    words = {"R": "left-right", "L": "left-right", "A": "front-back", "P": "front-back", "S": "up-down", "I": "up-down"}
    named = [words[store.orientation[a]] if store.orientation else f"axis {a}" for a in settings.adapt.mirror]
    return ", ".join(named) if named else "none"


def _why_spacing(store: Store, settings: Settings) -> str:
    if store.unit != "mm" and not settings.spacing:
        return "no scan states its own"
    return "you said so" if settings.spacing else "it is the middle of the scans'" if len(store) > 1 else "it is the scan's own"


def _why_batch(settings: Settings, costs: Costs, scans: int) -> str:
    """What the number of scans in a step rests on."""
    if costs.batch < settings.pretrain.batch or costs.memory > 0.6 * costs.free:
        return f"more would not fit into {costs.free:.1f} GiB of free memory"
    if settings.pretrain.batch >= scans:
        return f"there are {scans} scans to learn from"
    return f"two crops of {_by(settings.views.crop)} of each keep the machine busy"


def _why_steps(settings: Settings, costs: Costs) -> str:
    """Seconds of a step, and what the watch takes beside the steps where that is a tenth of a minute or more."""
    looking = (settings.pretrain.watch + 2) * costs.look / 60
    watched = f"; looks of the watch take {_minutes(looking)}" if looking >= 0.1 else ""
    return f"one step took {costs.pretrain:.2f} s here{_faster(costs)}{watched}"


def _faster(costs: Costs) -> str:
    """How much the chosen precision gains over the other, if there was a choice."""
    others = {precision: seconds for precision, seconds in costs.steps.items() if precision != costs.precision}
    return "".join(f" ({p} would take {s / costs.pretrain:.2f}x as long here)" for p, s in others.items())


def save(run: Path, rows: list[dict[str, str]], costs: Costs) -> None:
    """plan.json"""
    from dataclasses import asdict

    write_json(run / "plan.json", {"lines": rows, "costs": asdict(costs)})


def _median(store: Store) -> tuple[int, ...]:
    import numpy as np

    return tuple(int(n) for n in np.median([store.shape(i) for i in range(len(store))], axis=0))


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _minutes(value: float) -> str:
    return f"{value:.0f} min" if value >= 9.5 else f"{value:.1f} min"
