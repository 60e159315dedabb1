"""Segmentation with few labels: one way of training, several ways of starting."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from headwater import backbones
from headwater.backbones.decoder import Decoder, LightHead
from headwater.device import autocast, machine
from headwater.errors import InputError
from headwater.scans.store import Store
from headwater.settings import ARMS, Settings
from headwater.streams import numpy_stream, seeded
from headwater.train import state
from headwater.train.loop import described
from headwater.train.schedule import learning_rate
from headwater.transfer import layers, tiles
from headwater.transfer.batches import batch_at
from headwater.transfer.task import Task

FROZEN = ("random-frozen", "frozen")  # arms whose backbone stays as it is
PRETRAINED = ("frozen", "fine-tuned", "self-taught")  # arms that start from a pretrained backbone
WHOLE = 160**3  # voxels of a scan that may go through in one piece


class Segmenter(nn.Module):
    """A backbone and a decoder: (B, C, *S) -> logits (B, L, *S). task: what its logits mean."""

    def __init__(self, backbone: nn.Module, decoder: nn.Module, frozen: bool, task: Task | None = None) -> None:
        super().__init__()
        self.backbone, self.decoder, self.frozen, self.task = backbone, decoder, frozen, task
        if frozen:
            backbone.requires_grad_(False)

    def forward(self, x: Tensor, deep: bool = False) -> Tensor | list[Tensor]:
        """Logits at the image's size; deep: a list of them, fine to coarse, one only where the decoder has no coarse heads."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(x)
        size = tuple(x.shape[2:])
        if deep and getattr(self.decoder, "coarse_heads", None):
            return self.decoder(features, size, deep=True)
        return [self.decoder(features, size)] if deep else self.decoder(features, size)


def build(arm: str, store: Store, settings: Settings, pretrained: Path | None, key: tuple[int | str, ...]) -> Segmenter:
    """The network as an arm starts.

    "scratch": backbone and decoder new. "random-frozen": new backbone that stays as it is, a light head. "frozen": the same
    with a pretrained backbone. "fine-tuned" and "self-taught": pretrained backbone, and the pretrained decoder where the
    objective trained one (all but its last layers). Random parts are the same in all arms of equal keys.
    Raises: InputError for an arm that needs a pretrained backbone and is given none.
    """
    network = untrained(arm, store, settings, key)
    if arm not in PRETRAINED:
        return network
    if pretrained is None:
        raise InputError(f"The arm {arm} starts from a pretrained backbone: pretrain first, or leave it out of adapt.arms.")
    saved = state.read(pretrained)
    network.backbone.load_state_dict(state.under(saved, "teacher.backbone."))
    if not network.frozen:
        inherit(network.decoder, state.under(saved, "teacher.heads.reconstruction.decoder."))
    return network


def untrained(arm: str, store: Store, settings: Settings, key: tuple[int | str, ...] = ()) -> Segmenter:
    """The arm's network with random weights."""
    if arm not in ARMS:
        raise InputError(f"There is no arm {arm!r}: use some of {', '.join(ARMS)}.")
    frozen, task = arm in FROZEN, Task.of(store, settings)
    seed = int(numpy_stream(settings.seed, *key, "backbone").integers(2**31))
    backbone = backbones.build(**described(settings, store), seed=seed)
    with seeded(settings.seed, *key, "decoder"):
        decoder = LightHead(backbone, task.logits) if frozen else Decoder(backbone, task.logits, deep=settings.adapt.deep)
    return Segmenter(backbone, decoder, frozen, task)


def inherit(decoder: nn.Module, trained: dict[str, Tensor]) -> list[str]:
    """Copies what fits from a decoder that was trained to reconstruct; returns the names taken (last layers never are)."""
    own = decoder.state_dict()
    last = ("head.", "coarse_heads.")
    fitting = {k: v for k, v in trained.items() if k in own and own[k].shape == v.shape and not k.startswith(last)}
    decoder.load_state_dict(own | fitting)
    return sorted(fitting)


def fit(
    arm: str,
    store: Store,
    labelled: list[int],
    settings: Settings,
    pretrained: Path | None,
    key: tuple[int | str, ...],
    advance: Callable[[], None] = lambda: None,
    unlabelled: list[int] | tuple[int, ...] = (),
) -> Segmenter:
    """Trains one arm on the scans `labelled`; same steps, batches and augmentation for every arm with the same key.

    A pretrained backbone that is tuned stays as it is for the first `adapt.freeze` of the steps, and its stages learn the more
    slowly the earlier they are (`adapt.layer_decay`). "self-taught" also learns from the scans `unlabelled` (taught.py).
    """
    adapt, device = settings.adapt, machine().device
    network = build(arm, store, settings, pretrained, key).to(device).train()
    network.backbone.train(not network.frozen)
    tuned = arm in PRETRAINED and not network.frozen
    optimizer = optimizer_for(network, adapt.learning_rate, adapt.weight_decay, adapt.layer_decay if tuned else 1.0)
    loss, seed = network.task.loss().to(device), int(numpy_stream(settings.seed, *key, "batches").integers(2**62))
    lesson = None
    if arm == "self-taught":
        from headwater.transfer.taught import Lesson

        lesson = Lesson(network, store, list(unlabelled), settings, seed)
    for step in range(adapt.steps):
        if tuned:
            hold(network, step < round(adapt.freeze * adapt.steps))
        images, masks = (t.to(device) for t in batch_at(step, store, labelled, settings, seed))
        if lesson is not None:
            images, masks = lesson.batch(step, images, masks)
        rate = learning_rate(step, adapt.steps, adapt.learning_rate, adapt.warmup, adapt.schedule)
        train_step(network, loss, optimizer, images, masks, rate, settings)
        if lesson is not None:
            lesson.learn(network)
        advance()
    return (network if lesson is None else lesson.teacher).eval()


def hold(network: Segmenter, held: bool) -> None:
    """Whether the backbone stays as it is from now on; what it has learned so far it keeps."""
    if network.frozen != held:
        network.frozen = held
        network.backbone.requires_grad_(not held)


def optimizer_for(network: Segmenter, rate: float, decay: float, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """AdamW that does not decay biases, norms and single vectors.

    Groups of a backbone's layers have a `share` of the rate: 1 for the last stage or block, `layer_decay` times that for the
    one before, and so on to the first; the decoder's is 1. Source: BEiT (2106.08254).
    """
    shares = {f"backbone.{n}": s for n, s in layers.shares(network.backbone, layer_decay).items()} if layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            groups.setdefault((shares.get(name, 1.0), decay if p.ndim > 1 else 0.0), []).append(p)
    told = [{"params": ps, "weight_decay": d, "share": s, "lr": rate * s} for (s, d), ps in groups.items()]
    return torch.optim.AdamW(told, lr=rate, betas=(0.9, 0.98), foreach=True)


def train_step(
    network: Segmenter,
    loss_of: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    masks: Tensor,
    rate: float,
    settings: Settings,
) -> float:
    """One step; a step whose gradient is not finite changes nothing."""
    with autocast(settings.precision, images.device):
        scores = network(images, deep=settings.adapt.deep)
    scores = [s.float() for s in scores] if isinstance(scores, list) else scores.float()
    loss = loss_of(scores, masks)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
    loss.backward()
    norm = nn.utils.clip_grad_norm_([p for p in network.parameters() if p.grad is not None], settings.adapt.clip)
    if torch.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def predict(
    network: Segmenter, image: Shaped[np.ndarray, "C *S"], settings: Settings, task: Task | None = None
) -> Shaped[np.ndarray, "*S"]:
    """The class at each voxel of one prepared scan, as uint8, uint16 from 256 classes on; tiles as `tile` says (tiles.py)."""
    task, told = task or network.task, {"overlap": settings.adapt.overlap, "precision": settings.precision}
    patch = tile(image.shape[1:], settings.adapt.patch)
    return task.decide(tiles.scores(network, image, patch, channels=task.logits, **told))


def work(shape: tuple[int, ...], settings: Settings) -> int:
    """Voxels that the network sees to predict a scan of this shape, overlaps counted: what its seconds go with."""
    patch = tile(shape, settings.adapt.patch)
    sizes = zip(shape, patch, strict=True)
    return math.prod(p * len(tiles.starts(max(s, p), p, settings.adapt.overlap)) for s, p in sizes)


def usual(store: Store, settings: Settings, scans: list[int], one: int) -> float:
    """Mean work of predicting these scans, over that of scan `one`."""
    return float(np.mean([work(store.shape(i), settings) for i in scans])) / work(store.shape(one), settings)


def tile(shape: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """What a scan of this shape is predicted in: the patch of training, or the whole of a scan that is not much larger.

    Whole: at most twice the patch along every axis, and at most WHOLE voxels; one piece is quicker than many that overlap.
    """
    if math.prod(shape) > WHOLE or any(s > 2 * p for s, p in zip(shape, patch, strict=True)):
        return tuple(patch)
    return tuple(max(s, p) for s, p in zip(shape, patch, strict=True))
