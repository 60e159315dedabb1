"""Small runs with a failure planted in them, and healthy ones: what benchmarks/planted.py watches.

Every run is the product's own step (train.loop.step) on pictures held in memory, a few seconds on one core. A failure strikes at
its onset: the objective, a weight, the data or the wiring is changed, and from there training goes on by itself. What a `Kind`
does is real training under a real mistake; no look is ever made up.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from headwater import objectives, recipes
from headwater.backbones.attention import Attention, Block, Style
from headwater.backbones.features import Backbone, Features
from headwater.backbones.positions import angles, coordinates
from headwater.backbones.resenc import ResEnc
from headwater.backbones.vit import ViT
from headwater.objectives.distil import Distillation
from headwater.objectives.latent import both_levels
from headwater.objectives.network import Network
from headwater.scans import phantom
from headwater.scans.normalise import normalise, window
from headwater.settings import Settings
from headwater.streams import numpy_stream, seeded
from headwater.train import loop
from headwater.train.schedule import learning_rate, teacher_momentum
from headwater.views.batch import make_views
from torch import Tensor, nn

COUNT, SHOWN, SIDE, CROP, PARENT, PATCH = 192, 64, 48, 24, 40, 4  # pictures and voxels
WIDTH, DEPTH, HEADS = 48, 4, 6  # of the ViT
STEPS, BATCH, RATE = 100, 8, 2e-3
MARKS = 8  # made-up scanners
WIDE, CELLS = ("cva", "simclr", "byol", "vicreg", "dino"), ("cva", "byol", "vicreg", "lejepa")  # heads and maps made smaller


# pictures ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures in memory, with what `train.loop` asks of a store. groups: the scanner of each, where known."""

    name: str
    arrays: tuple[np.ndarray, ...]  # (1, *S), z-scored
    groups: tuple[int, ...] = ()
    channels: ClassVar[int] = 1
    ndim: ClassVar[int] = 2
    spacing: ClassVar[tuple[float, ...]] = (1.0, 1.0)

    def __len__(self) -> int:
        return len(self.arrays)

    def image(self, index: int) -> np.ndarray:
        return self.arrays[index]

    def shape(self, index: int) -> tuple[int, ...]:
        return self.arrays[index].shape[1:]

    def split(self, part: str) -> list[int]:
        return list(range(len(self.arrays))) if part == "train" else []


def scored(image: np.ndarray) -> np.ndarray:
    """(1, *S) float32, clipped and z-scored as the product does."""
    return normalise(image[None], (window(image),))[0].astype(np.float32)


def evened(image: np.ndarray) -> np.ndarray:
    """An image with its local mean taken away and its local contrast evened out: a patch is more than its brightness."""
    from scipy.ndimage import gaussian_filter

    away = image - gaussian_filter(image, 5.0)
    return away / np.sqrt(gaussian_filter(away**2, 8.0) + 0.01 * away.var())


@functools.cache
def phantoms() -> Pictures:
    """Made-up anatomy, evened; the second scanner's values are a hundred times larger, so the scanner is known."""
    raw = [phantom.phantom(0, index, (SIDE, SIDE))[0] for index in range(COUNT)]
    return Pictures("phantoms", tuple(scored(evened(image)) for image in raw), tuple(int(image.max() > 2000) for image in raw))


@functools.cache
def hippocampus(folder: Path) -> Pictures:
    """The middle slice along the first axis of each training volume, continued by reflection to PARENT voxels."""
    import nibabel

    held, made = set((folder / "test.txt").read_text().split()), []
    for path in sorted((folder / "images").glob("*.nii.gz")):
        if not any(path.name.startswith(name.split(".")[0]) for name in held):
            volume = np.asarray(nibabel.load(path).dataobj, np.float32)
            slice_ = volume[volume.shape[0] // 2]
            made.append(scored(np.pad(slice_, [(0, max(0, PARENT - n)) for n in slice_.shape], mode="reflect")))
    return Pictures("hippocampus", tuple(made))


@functools.cache
def mednist(folder: Path) -> Pictures:
    """As many pictures of each of the six kinds, none constant."""
    from PIL import Image

    kinds, made = sorted(p for p in folder.iterdir() if p.is_dir()), []
    for kind in kinds:
        read = (np.asarray(Image.open(path).convert("L"), np.float32) for path in sorted(kind.glob("*.jpeg"))[::7])
        made += [scored(image) for image in read if image.std() > 1][: COUNT // len(kinds)]
    return Pictures("mednist", tuple(made))


def pictures_in(folder: Path | None) -> dict[str, Pictures]:
    """Phantoms, and what is there of the real sets."""
    found = {"phantoms": phantoms()}
    for name, read in (("hippocampus", hippocampus), ("mednist", mednist)):
        if folder is not None and (folder / name).is_dir():
            found[name] = read(folder / name)
    return found


def marked(pictures: Pictures) -> Pictures:
    """The same pictures with stripes, of a direction that each of MARKS made-up scanners has for itself."""
    made, groups = [], []
    for index, array in enumerate(pictures.arrays):
        turn, where = math.pi * (index % MARKS) / MARKS, np.indices(array.shape[1:])
        wave = np.cos((where[0] * math.cos(turn) + where[1] * math.sin(turn)) * 2 * math.pi / 5)
        made.append((array + 2 * wave).astype(np.float32))
        groups.append(index % MARKS)
    return replace(pictures, arrays=tuple(made), groups=tuple(groups))


def lit(pictures: Pictures) -> Pictures:
    """The same pictures, each with a brightness of its own."""
    rng = numpy_stream(0, "lit")
    return replace(pictures, arrays=tuple((a + 0.3 * rng.standard_normal()).astype(np.float32) for a in pictures.arrays))


def woven(pictures: Pictures) -> Pictures:
    """The same pictures under a weave of their own: twelve waves, each as strong as chance has it: many ways to differ."""
    made, rng = [], numpy_stream(0, "weave")
    for array in pictures.arrays:
        where, weave = np.indices(array.shape[1:]), np.zeros(array.shape[1:])
        for k in range(12):
            turn, period = math.pi * k / 12, (4, 6, 9)[k % 3]
            phase = (where[0] * math.cos(turn) + where[1] * math.sin(turn)) * 2 * math.pi / period
            weave += rng.standard_normal() * np.cos(phase + rng.uniform(0, 2 * math.pi))
        made.append((0.5 * array + 0.5 * weave).astype(np.float32))
    return replace(pictures, arrays=tuple(made))


# runs -------------------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A training run that is under way; a failure changes what is in it."""

    pictures: Pictures
    settings: Settings
    student: Network
    teacher: Network
    objective: Any
    optimizer: torch.optim.Optimizer
    done: int = 0
    loss: float = math.nan
    factor: float = 1.0  # of the learning rate
    guarded: bool = True  # by the product's clipping, and its refusal of steps that are not finite

    @property
    def steps(self) -> int:
        return self.settings.pretrain.steps

    def step(self) -> None:
        """One step of training."""
        told, n = self.settings, self.done
        how, stride = told.pretrain, self.student.backbone.stride if self.objective.masked else None
        places = loop.members(n, how.batch, len(self.pictures), told.seed)
        some = [self.pictures.image(i) for i in places]
        views = make_views(some, told.views, stride=stride, seed=told.seed, step=n, spacing=self.pictures.spacing)
        if isinstance(self.objective, ByScanner):
            self.objective.groups = [self.pictures.groups[i] for i in places]
        rate = self.factor * learning_rate(n, self.steps, how.learning_rate, how.warmup)
        momentum, given = teacher_momentum(n, how.momentum), (self.student, self.teacher, self.objective, self.optimizer, views)
        with seeded(self.settings.seed, "step", n):
            take = loop.step if self.guarded else unguarded
            self.loss = take(*given, rate, momentum, self.settings)["loss"]
        self.done += 1


def unguarded(
    student: Network,
    teacher: Network,
    objective: Any,
    optimizer: torch.optim.Optimizer,
    views: Any,
    rate: float,
    momentum: float,
    settings: Settings,
) -> dict[str, float]:
    """A step as many loops have it: nothing is clipped, nothing is checked."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss, _ = objective(student, teacher, views)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    loop.follow(teacher, student, momentum)
    return {"loss": float(loss.detach())}


APART = Style(initial="orthogonal")  # heads that differ from the start


def backbone_of(name: str, seed: int, style: Style = APART, depth: int = DEPTH) -> Backbone:
    """A small residual encoder ("resenc"), a small ViT ("vit"), or one that starts as the product's do ("plain")."""
    with seeded(seed, "weights", name):
        if name == "resenc":
            return ResEnc(2, 1, (16, 32, 64), (0, 1, 1), PATCH)
        return ViT(2, 1, WIDTH, depth, HEADS, PATCH, Style() if name == "plain" else style)


def settings_of(pictures: Pictures, name: str, seed: int, steps: int, rate: float, **options: Any) -> Settings:
    """The recipe of an objective, made small."""
    made = recipes.default((SIDE, SIDE), False, name, len(pictures))
    views = replace(made.views, crop=(CROP, CROP), parent=(PARENT, PARENT))
    if made.views.locals:
        views = replace(views, local_crop=(16, 16))
    pretrain = replace(made.pretrain, batch=BATCH, steps=steps, learning_rate=rate, momentum=0.98)
    told = {**made.objective, **({"width": 64} if name in WIDE else {}), **({"cells": 4} if name in CELLS else {}), **options}
    return replace(made, seed=seed, precision="fp32", views=views, pretrain=pretrain, objective=told)


def started(pictures: Pictures, settings: Settings, backbone: Backbone, objective: Any = None) -> Run:
    """A run before its first step."""
    objective = objective or objectives.build(settings.pretrain.objective, **settings.objective)
    with seeded(settings.seed, "heads"):
        student = Network(backbone, objective.heads(backbone))
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = loop.optimizer_for(student, settings.pretrain.learning_rate, settings.pretrain.weight_decay)
    return Run(pictures, settings, student, teacher, objective, optimizer)


# healthy ----------------------------------------------------------------------------------------------------------------------

LENGTH = {"mae": (200, 2e-3), "adversarial": (150, 3e-3), "dino": (200, 4e-3)}  # steps, peak rate, where few show nothing
SORTED = {"prototypes": 16}  # of dino: more stay at the uniform answer for all of a short run; a ViT does so in any case


class Remembered(Distillation):
    """Distillation from a network in memory in place of one in a file."""

    def __init__(self, teacher: Backbone):
        super().__init__(source="memory")
        object.__setattr__(self, "held", teacher)

    def teacher(self, backbone: Backbone) -> Backbone:
        return self.held


@functools.cache
def guide(pictures: Pictures, kind: str) -> Backbone:
    """What a short healthy run ends with, for distillation."""
    run = healthy("vicreg", pictures, kind, 1000)
    for _ in range(run.steps):
        run.step()
    return run.student.backbone.eval().requires_grad_(False)


def healthy(name: str, pictures: Pictures, kind: str, seed: int) -> Run:
    """An objective under its recipe."""
    steps, rate = LENGTH.get(name, (STEPS, RATE))
    settings = settings_of(pictures, name, seed, steps, rate, **(SORTED if name == "dino" else {}))
    objective = Remembered(guide(pictures, kind)) if name == "distil" else None
    return started(pictures, settings, backbone_of(kind, seed), objective)


# objectives that are mistakes -------------------------------------------------------------------------------------------------


class Mistake:
    """An objective without heads of its own, so that a run can be given it at any step."""

    masked: ClassVar[bool] = False

    def heads(self, backbone: Backbone) -> nn.ModuleDict:
        return nn.ModuleDict()

    def __call__(self, student: Network, teacher: Network, views: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.loss(student(views.x.flatten(0, 1)), views)
        return loss, {"loss": loss.detach()}

    def loss(self, seen: Features, views: Any) -> Tensor:
        raise NotImplementedError


class OneForAll(Mistake):
    """Every token must say what the pooled vector says, of its own view and of the other: places are aligned with all places."""

    def loss(self, seen: Features, views: Any) -> Tensor:
        tokens = F.normalize(seen.tokens, dim=-1).unflatten(0, views.x.shape[:2])
        pooled = F.normalize(seen.pooled, dim=-1).unflatten(0, views.x.shape[:2]).flip(0)
        scores = torch.einsum("vbnd,vcd->vbnc", tokens, pooled) / 0.2
        own = torch.arange(scores.shape[1]).view(1, -1, 1).expand(scores.shape[:3])
        own = F.cross_entropy(scores.flatten(0, 2), own.flatten())
        return own + 5 * (1 - F.cosine_similarity(seen.tokens, seen.pooled[:, None], dim=-1).mean())


class Noise(Mistake):
    """Targets have nothing to do with the images: other noise for every view, place and step."""

    def loss(self, seen: Features, views: Any) -> Tensor:
        return F.mse_loss(seen.tokens, torch.randn_like(seen.tokens)) + F.mse_loss(seen.pooled, torch.randn_like(seen.pooled))


class ByScanner(Mistake):
    """Positives are views of the same scanner: the number of the scanner was taken for that of the patient."""

    def loss(self, seen: Features, views: Any) -> Tensor:
        rows = F.normalize(seen.pooled, dim=-1)
        same = torch.as_tensor(self.groups).repeat(len(views.x))
        alone = torch.eye(len(rows), dtype=torch.bool)
        scores = (rows @ rows.T / 0.2).masked_fill(alone, float("-inf")).log_softmax(-1)
        positive = (same[:, None] == same) & ~alone
        return -(scores.masked_fill(~positive, 0).sum(-1) / positive.sum(-1)).mean()


class Brightness(Mistake):
    """Features are asked for a view's mean intensity and for nothing else."""

    def loss(self, seen: Features, views: Any) -> Tensor:
        with seeded(0, "brightness"):
            way = F.normalize(torch.randn(seen.pooled.shape[1]), dim=0)
        told = 8 * views.x.flatten(0, 1).flatten(1).mean(1)
        return (seen.pooled - told[:, None] * way).square().sum(-1).mean()


class Places(Mistake):
    """Every token must say where it is; what is there does not count."""

    def loss(self, seen: Features, views: Any) -> Tensor:
        turn = angles(coordinates(seen.grid), 16)
        with seeded(0, "places"):
            target = torch.cat([turn.sin(), turn.cos()], -1) @ torch.randn(2 * turn.shape[-1], seen.tokens.shape[-1])
        away = seen.tokens - seen.tokens.mean((0, 1))
        return 1 - F.cosine_similarity(away, (target - target.mean(0)).expand_as(away), dim=-1).mean()


@dataclass(frozen=True)
class Flipped(Mistake):
    """The sign of the agreement is wrong: views of a place, or of an image, must differ. contrast: whole images are told apart
    as they should be, and only places are asked to differ."""

    contrast: bool = False

    def __call__(self, student: Network, teacher: Network, views: Any) -> tuple[Tensor, dict[str, Tensor]]:
        seen = student(views.x.flatten(0, 1))
        made = both_levels(nn.Identity(), seen, views, student.backbone.stride, 4, {"pooled": 1.0, "dense": 1.0})
        loss = objectives.nt_xent(made["pooled"][..., 0], temperature=0.2) if self.contrast else 0.0
        for z in [made["dense"]] if self.contrast else made.values():
            a, b = (view - view.mean((0, 2), keepdim=True) for view in z)
            loss = loss + 2 * F.cosine_similarity(a, b, dim=1).mean()
        return loss, {"loss": loss.detach()}


# failures ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A failure. wrong: in a phrase; cause: what the verdict should name, and what it may; onset: share of the steps done when it
    strikes; strike: changes the run then; hold: does so again after every later step."""

    wrong: str
    cause: tuple[str, ...]
    objective: str = "vicreg"
    onset: float = 0.25
    strike: Callable[[Run], None] = lambda run: None
    hold: Callable[[Run], None] = lambda run: None
    options: dict[str, Any] = field(default_factory=dict)
    style: Style = APART
    depth: int = DEPTH
    scene: Callable[[Pictures], Pictures] | None = None
    rate: float = RATE
    steps: int = STEPS
    backbone: str = "vit"


def bare(run: Run, **options: Any) -> None:
    """The objective anew with other options, and its heads gone: nothing stands between the features and what is asked."""
    run.objective = objectives.build(run.settings.pretrain.objective, **run.settings.objective, **options)
    for net in (run.student, run.teacher):
        for name in ("projector", "expander"):
            if name in net.heads:
                net.heads[name] = nn.Identity()
        if "predictor" in net.heads:
            del net.heads["predictor"]


def asks(objective: Any) -> Callable[[Run], None]:
    """Another objective from the onset on."""

    def strike(run: Run) -> None:
        run.objective = objective

    return strike


def alias(run: Run) -> None:
    """teacher = student, without a copy."""
    run.student.requires_grad_(True)
    run.teacher = run.student


def uniform(run: Run) -> None:
    """All prototypes are one: every image fits each as well as any other, and no gradient tells otherwise."""
    for net in (run.student, run.teacher):
        directions = net.heads["prototypes"].directions
        directions.data[:] = directions.data[:1].clone()


@torch.no_grad()
def same_heads(run: Run) -> None:
    """Head 0 is copied into all heads of each layer; values are turned at random, and turned back by the output map."""
    for index, part in enumerate(m for m in run.student.modules() if isinstance(m, Attention)):
        heads = part.heads
        weight, out = part.qkv.weight.unflatten(0, (3, heads, -1)), part.out.weight.unflatten(1, (heads, -1))
        for head in range(1, heads):
            turn = np.linalg.qr(numpy_stream(run.settings.seed, "turn", index, head).normal(size=(weight.shape[2],) * 2))[0]
            turn = torch.from_numpy(turn).float()
            weight[:2, head] = weight[:2, 0]
            weight[2, head] = turn @ weight[2, 0]
            out[:, head] = out[:, 0] @ turn.T


def faster(factor: float) -> Callable[[Run], None]:
    """The learning rate times a factor, nothing clipped."""

    def strike(run: Run) -> None:
        run.factor, run.guarded = factor, False

    return strike


def narrow(run: Run) -> None:
    """Features pass through two channels: whatever else a layer holds is lost."""
    with seeded(run.settings.seed, "narrow"):
        neck = nn.Sequential(nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False))
    for net in (run.student, run.teacher):
        net.backbone.norm = nn.Sequential(net.backbone.norm, copy.deepcopy(neck).requires_grad_(net is run.student))
    run.optimizer.add_param_group({"params": list(run.student.backbone.norm[1].parameters()), "weight_decay": 0.0})


def not_finite(run: Run) -> None:
    """The loss overflows once, and nobody looks: the step goes into the weights."""
    run.guarded, kept = False, run.objective

    def overflow(*told: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = kept(*told)
        run.objective = kept
        return loss * float("inf"), parts

    overflow.masked = kept.masked
    run.objective = overflow


@torch.no_grad()
def no_positions(run: Run) -> None:
    """The table of positions is zero and stays so."""
    for net in (run.student, run.teacher):
        net.backbone.stack.positions.table.zero_()


def no_residual(run: Run) -> None:
    """Blocks hand on what attention gives and leave out what came in, so that every block mixes tokens and none keeps them."""
    for net in (run.student, run.teacher):
        for block in (m for m in net.modules() if isinstance(m, Block)):
            block.forward = functools.partial(attention_alone, block)


def attention_alone(block: Block, x: Tensor, *places: Tensor | None) -> Tensor:
    """A block without its residual path and without feed-forward."""
    return block.attention(block.norm_attention(x), *places)


KINDS = {
    "point": Kind("gradient into the teacher, no predictor", ("point",), "byol", strike=lambda run: bare(run, guarded=False)),
    "dimensional": Kind("features through two channels", ("dimensional",), strike=narrow, scene=woven),
    "tokens": Kind("every token asked for the whole image", ("token",), strike=asks(OneForAll())),
    "tokens_depth": Kind("attention without residual path", ("token",), onset=0.0, strike=no_residual, depth=6),
    "heads": Kind("heads tied up to a rotation", ("head",), strike=same_heads, hold=same_heads),
    "alias": Kind("the teacher is the student", ("alias",), "byol", onset=0.0, strike=alias),
    "prototypes": Kind(
        "no centring",
        ("prototype", "point"),
        "dino",
        onset=0.5,
        strike=lambda run: bare(run, centring="none"),
        options=SORTED,
        rate=4e-3,
        steps=200,
        backbone="resenc",
    ),
    "stuck": Kind("all prototypes equal", ("stuck",), "dino", onset=0.0, strike=uniform, options={"dense": 0.0}),
    "noise": Kind("noise for targets", ("noise",), "simclr", strike=asks(Noise()), rate=2 * RATE),
    "flipped": Kind("the sign of the agreement wrong", ("noise",), strike=asks(Flipped())),
    "unlearned": Kind("a rate of 1e-9", ("unlearned",), onset=0.0, rate=1e-9),
    "entropy": Kind("rate 100 times too high", ("entropy", "diverged"), strike=faster(100.0)),
    "decay": Kind("images told apart, places asked to differ", ("decay",), strike=asks(Flipped(contrast=True))),
    "position": Kind(
        "every token asked for its place", ("position",), strike=asks(Places()), style=replace(APART, positions="sinusoidal")
    ),
    "order": Kind(
        "positions zero", ("order",), "mae", 0.0, no_positions, no_positions, style=replace(APART, positions="learned", reach=6)
    ),
    "scanner": Kind("scanner taken for patient", ("shortcut",), onset=0.0, strike=asks(ByScanner()), scene=marked, rate=2 * RATE),
    "intensity": Kind("features asked for brightness", ("shortcut",), strike=asks(Brightness()), scene=lit, rate=2 * RATE),
    "diverged": Kind("one step that is not finite", ("diverged",), strike=not_finite),
}


def planted(name: str, pictures: Pictures, seed: int) -> Run:
    """A run whose failure is yet to strike."""
    kind = KINDS[name]
    if kind.scene:
        pictures = kind.scene(pictures)
    settings = settings_of(pictures, kind.objective, seed, kind.steps, kind.rate, **kind.options)
    return started(pictures, settings, backbone_of(kind.backbone, seed, kind.style, kind.depth))


def due(run: Run, looks: int) -> bool:
    """Whether to look after the steps done: `looks` times over the run, the last step among them."""
    return run.done * looks // run.steps > (run.done - 1) * looks // run.steps


def onset_of(kind: Kind | None, run: Run) -> int:
    """The step before which the failure strikes; never: the run's length."""
    return run.steps if kind is None else round(kind.onset * run.steps)


def going(run: Run, looks: int, kind: Kind | None = None, after: float = 1.0) -> Iterator[int]:
    """Trains on from where a run is, and yields the steps done when it is time to look: before the first, then `looks` times.

    A failure of onset 0 strikes before the first look: it is how the run was wired. A failing run ends `after` its onset, a share
    of its steps.
    """
    onset = onset_of(kind, run)
    last = run.steps if kind is None else min(run.steps, onset + round(after * run.steps))
    if run.done == 0:
        if onset == 0:
            kind.strike(run)
        yield 0
    while run.done < last:
        if run.done == onset and onset:
            kind.strike(run)
        run.step()
        if kind is not None and run.done > onset:
            kind.hold(run)
        if due(run, looks):
            yield run.done
