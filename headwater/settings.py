"""Everything a run can be told, as values: frozen, nested, written whole into the run folder."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from headwater.errors import InputError


ARMS = ("scratch", "random-frozen", "frozen", "fine-tuned", "self-taught")  # ways to start a segmenter


@dataclass(frozen=True)
class Views:
    """How one scan becomes two views. Lengths in voxels of the prepared scans, angles in degrees."""

    parent: tuple[int, ...] = ()  # the patch that both crops come from
    crop: tuple[int, ...] = ()
    overlap: tuple[float, float] = (0.4, 0.8)  # shared volume over crop volume
    rotation: float = 15.0
    scale: tuple[float, float] = (0.8, 1.25)
    geometry: float = 0.5  # share of parents that are rotated, scaled and bent, each by itself
    elastic: float = 0.0  # strength of elastic change: 0 none, 0.95 the most that cannot fold
    independent: bool = False  # every view has its own rotation, scale, flips and elastic change; else both share their parent's
    mirror: tuple[int, ...] = ()  # axes; none, since sides often carry meaning in anatomy
    padding: str = "reflect"  # of scans smaller than the parent: reflect | zero | refuse
    locals: int = 0  # further small crops of each scan, unmasked
    local_crop: tuple[int, ...] = ()  # none: half the crop
    intensity: float = 1.0  # strength of intensity changes, 1 as published
    further: float = 0.0  # chance of Rician noise, low resolution, bias field, histogram, Fourier mixing and cut-out, each
    mask_ratio: float = 0.75
    mask_block: int = 1  # in tokens


@dataclass(frozen=True)
class Backbone:
    """Which network."""

    family: str = "resenc"  # as backbones.FAMILIES has them
    size: str = "nano"  # nano | small | base | large
    patch: int = 4  # voxels per token and axis


@dataclass(frozen=True)
class Pretrain:
    """How the backbone is trained without labels."""

    objective: str = "cva"  # as objectives.OBJECTIVES has them
    steps: int = 0  # 0: from the budget
    batch: int = 8  # scans per step, two crops each
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps
    momentum: float = 0.995  # of the teacher
    clip: float = 1.0  # gradient norm
    transport: float = 0.0  # weight of what the path through the network costs; backbone.family=continuous only
    watch: int = 20  # how often the watch looks, over the whole run
    alarm: str = "warn"  # what a bad verdict of the watch does: warn, stop, back (to the last healthy state, at half the rate)
    save: int = 100  # steps between states


@dataclass(frozen=True)
class Adapt:
    """How few labels are spent, and how a segmenter is trained."""

    counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 0  # 0: from the budget
    seeds: int = 1  # trainings of each draw
    arms: tuple[str, ...] = ("scratch", "random-frozen", "frozen", "fine-tuned")  # and self-taught
    steps: int = 0  # 0: from the budget
    final: int = 0  # steps of the one model that is kept for predicting; 0: from the budget
    batch: int = 2
    patch: tuple[int, ...] = ()
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    rotation: float = 15.0
    scale: tuple[float, float] = (0.85, 1.2)
    geometry: float = 0.7
    intensity: float = 1.0
    mirror: tuple[int, ...] = ()  # axes that may be mirrored: those which the masks do not contradict
    foreground: float = 0.5  # share of patches that are centred on a structure, in scans larger than the patch
    schedule: str = "cosine"  # cosine | poly
    deep: bool = True  # deep supervision
    layer_decay: float = 1.0  # of a pretrained backbone's rate, from each stage to the one before it
    freeze: float = 0.0  # share of the steps in which a pretrained backbone stays as it is
    regions: tuple[str, ...] = ()  # structures that overlap, such as 1+2+3,2+3,3: sums of values in the masks, largest first
    overlap: float = 0.5  # of the tiles a large scan is predicted in


@dataclass(frozen=True)
class Compare:
    """How networks are compared."""

    methods: tuple[str, ...] = (
        "resenc",
        "hybrid",
        "swin",
        "vit",
        "parabolic",
    )  # backbones; the first is what others are held against
    labels: int = 0  # labelled scans to learn from; 0: all
    seeds: int = 0  # trainings of each; 0: from the budget
    steps: int = 0  # 0: from the budget
    delta: float = 0.01  # of Dice, below which a difference does not matter
    retrain: bool = False  # train each transformer once more, without attention from its first step on


@dataclass(frozen=True)
class Settings:
    """A whole run."""

    seed: int = 0
    budget: float = 30.0  # minutes
    precision: str = "auto"  # auto | fp32 | bf16
    spacing: tuple[float, ...] = ()  # mm, of the prepared scans; none: the middle of what is there
    views: Views = field(default_factory=Views)
    backbone: Backbone = field(default_factory=Backbone)
    pretrain: Pretrain = field(default_factory=Pretrain)
    objective: dict[str, Any] = field(default_factory=dict)  # options of the objective, where they differ from its own defaults
    adapt: Adapt = field(default_factory=Adapt)
    compare: Compare = field(default_factory=Compare)


T = TypeVar("T")


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain values."""
    return dataclasses.asdict(settings)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """The settings back from `to_dict`'s values or a settings.json.

    Raises: InputError for a name that does not exist.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"{kind.__name__} has no setting {unknown[0]!r}. It has: {', '.join(fields)}.")
    made = {}
    for name, value in values.items():
        inner = fields[name].type
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            made[name] = from_dict(inner, value)
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def change(settings: Settings, assignment: str) -> Settings:
    """`settings` with one line changed, as `--set pretrain.batch=4` says it.

    Raises: InputError for an unknown name, a value of another type, or one that cannot work.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise InputError(f"--set {assignment}: expected name=value, such as --set pretrain.batch=4.")
    changed = _change(settings, path.strip().split("."), text.strip(), assignment)
    check(changed)
    return changed


def _change(node: Any, path: list[str], text: str, assignment: str) -> Any:
    names = {f.name: f.type for f in dataclasses.fields(node)}
    if path[0] not in names:
        raise InputError(f"--set {assignment}: there is no setting {path[0]!r} here. There are: {', '.join(names)}.")
    old = getattr(node, path[0])
    if isinstance(old, dict):  # options of whatever was chosen, which knows their names
        if len(path) != 2:
            raise InputError(f"--set {assignment}: name one option of {path[0]}, such as {path[0]}.width=128.")
        return dataclasses.replace(node, **{path[0]: {**old, path[1]: _plain(text)}})
    if dataclasses.is_dataclass(old):
        if len(path) == 1:
            inner = ", ".join(f.name for f in dataclasses.fields(old))
            raise InputError(
                f"--set {assignment}: {path[0]} has parts: {inner}. Name one, such as {path[0]}.{inner.split(', ')[0]}."
            )
        return dataclasses.replace(node, **{path[0]: _change(old, path[1:], text, assignment)})
    if len(path) > 1:
        raise InputError(f"--set {assignment}: {path[0]} has no parts.")
    return dataclasses.replace(node, **{path[0]: _value(old, names[path[0]], text, assignment)})


def _plain(text: str) -> Any:
    """A number, true or false where the text is one; else the text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, (int, float)) else text


def _value(old: Any, kind: Any, text: str, assignment: str) -> Any:
    """The text as a value of the field's type; `old` serves as an example."""
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"--set {assignment}: expected true or false, such as {assignment.split('=')[0]}=true.")
        return text.lower() == "true"
    if isinstance(old, tuple) and get_args(kind)[0] is str:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        value = json.loads(f"[{text.strip('[]()').rstrip(',')}]" if isinstance(old, tuple) else text)
    except json.JSONDecodeError:
        value = None
    if isinstance(old, tuple):
        inner = get_args(kind)[0]
        allowed = (int,) if inner is int else (int, float)
        if isinstance(value, list) and all(isinstance(v, allowed) and not isinstance(v, bool) for v in value):
            return tuple(inner(v) for v in value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(old, float):
            return float(value)
        if isinstance(value, int):
            return value
    wanted = {int: "a whole number", float: "a number", tuple: "numbers with commas between"}[type(old)]
    example = json.dumps(old or (16, 16, 16)).strip("[]") if isinstance(old, tuple) else old
    raise InputError(f"--set {assignment}: expected {wanted}, such as {assignment.split('=')[0]}={example}.")


def check(settings: Settings) -> None:
    """Raises InputError for the first value that cannot work."""
    for remedy, fits, values in _rules(settings):
        for name, value in values.items():
            if not fits(value):
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
                raise InputError(f"{name} cannot be {shown}: {remedy}.")


def _rules(settings: Settings) -> list[tuple[str, Callable[[Any], bool], dict[str, Any]]]:
    """What to do, what fits, and the values that have to, by name."""
    views, pretrain, adapt, compare = settings.views, settings.pretrain, settings.adapt, settings.compare
    return [
        (
            "give whole numbers from 1",
            lambda v: all(isinstance(n, int) and n >= 1 for n in (v if isinstance(v, tuple) else (v,))),
            {"pretrain.batch": pretrain.batch, "pretrain.save": pretrain.save, "adapt.batch": adapt.batch}
            | {"backbone.patch": settings.backbone.patch, "views.mask_block": views.mask_block, "views.crop": views.crop}
            | {"views.parent": views.parent, "views.local_crop": views.local_crop}
            | {"adapt.patch": adapt.patch, "adapt.counts": adapt.counts, "adapt.seeds": adapt.seeds},
        ),
        (
            "give 0 (decided from the budget, or none) or more",
            lambda v: v >= 0,
            {"pretrain.steps": pretrain.steps, "pretrain.watch": pretrain.watch, "pretrain.transport": pretrain.transport}
            | {
                "adapt.steps": adapt.steps,
                "adapt.final": adapt.final,
                "adapt.draws": adapt.draws,
                "compare.labels": compare.labels,
            }
            | {"compare.seeds": compare.seeds, "compare.steps": compare.steps, "compare.delta": compare.delta},
        ),
        (
            "give a number above 0",
            lambda v: 0 < v < math.inf,
            {f"spacing ({i + 1})": mm for i, mm in enumerate(settings.spacing)}
            | {"budget": settings.budget, "pretrain.clip": pretrain.clip, "adapt.clip": adapt.clip}
            | {"pretrain.learning_rate": pretrain.learning_rate, "adapt.learning_rate": adapt.learning_rate},
        ),
        (
            "give a share from 0 to 1",
            lambda v: 0 <= v <= 1,
            {"pretrain.warmup": pretrain.warmup, "pretrain.momentum": pretrain.momentum, "views.geometry": views.geometry}
            | {"views.further": views.further}
            | {"adapt.warmup": adapt.warmup, "adapt.geometry": adapt.geometry, "views.overlap": max(views.overlap)}
            | {"adapt.foreground": adapt.foreground, "adapt.freeze": adapt.freeze, "adapt.layer_decay": adapt.layer_decay},
        ),
        ("give a share between 0 and 1, such as 0.75", lambda v: 0 < v < 1, {"views.mask_ratio": views.mask_ratio}),
        (
            "give two positive numbers, the smaller first, such as 0.8,1.2",
            lambda v: len(v) == 2 and 0 < v[0] <= v[1],
            {"views.overlap": views.overlap, "views.scale": views.scale, "adapt.scale": adapt.scale},
        ),
        ("give 0 (none) to 0.95, such as 0.5", lambda v: 0 <= v <= 0.95, {"views.elastic": views.elastic}),
        ("give 0 to 0.9, such as 0.5", lambda v: 0 <= v <= 0.9, {"adapt.overlap": adapt.overlap}),
        ("give a whole number from 0", lambda v: v >= 0, {"views.locals": views.locals}),
        ("use one of cosine, poly", lambda v: v in ("cosine", "poly"), {"adapt.schedule": adapt.schedule}),
        (
            "use some of scratch, random-frozen, frozen, fine-tuned, self-taught",
            lambda v: v and set(v) <= set(ARMS),
            {"adapt.arms": adapt.arms},
        ),
        ("use one of reflect, zero, refuse", lambda v: v in ("reflect", "zero", "refuse"), {"views.padding": views.padding}),
        ("use one of warn, stop, back", lambda v: v in ("warn", "stop", "back"), {"pretrain.alarm": pretrain.alarm}),
        ("use one of auto, fp32, bf16", lambda v: v in ("auto", "fp32", "bf16"), {"precision": settings.precision}),
    ]
