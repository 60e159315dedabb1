"""Segmentation with few labels: one way of training, three ways of starting."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from headwater import backbones
from headwater.backbones.decoder import Decoder, LightHead
from headwater.device import autocast, machine
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream, seeded
from headwater.train import state
from headwater.train.loop import members, optimizer_for
from headwater.train.schedule import learning_rate
from headwater.views.intensity import apply_intensity, draw_intensity
from headwater.views.spatial import draw_placements, place

ARMS = ("scratch", "frozen", "fine-tuned")


class Segmenter(nn.Module):
    """A backbone and a decoder: (B, C, *S) -> logits (B, K, *S)."""

    def __init__(self, backbone: nn.Module, decoder: nn.Module, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.decoder, self.frozen = backbone, decoder, frozen
        if frozen:
            backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(x)
        return self.decoder(features, tuple(x.shape[2:]))


def build(arm: str, store: Store, settings: Settings, pretrained: Path, key: tuple[int | str, ...]) -> Segmenter:
    """The network as an arm starts.

    "scratch": backbone and decoder new. "frozen": pretrained backbone that stays as it is, a new light head.
    "fine-tuned": pretrained backbone, and the pretrained decoder where the objective trained one (all but its last layer).
    Random parts are the same in "scratch" and "fine-tuned" for equal keys.
    """
    network = untrained(arm, store, settings, key)
    if arm == "scratch":
        return network
    saved = state.read(pretrained)
    network.backbone.load_state_dict(state.under(saved, "teacher.backbone."))
    if arm == "fine-tuned":
        inherit(network.decoder, state.under(saved, "teacher.heads.reconstruction.decoder."))
    return network


def untrained(arm: str, store: Store, settings: Settings, key: tuple[int | str, ...] = ()) -> Segmenter:
    """The arm's network with random weights."""
    chosen = settings.backbone
    seed = int(numpy_stream(settings.seed, *key, "backbone").integers(2**31))
    backbone = backbones.build(chosen.family, chosen.size, store.channels, store.ndim, chosen.patch, seed=seed)
    with seeded(settings.seed, *key, "decoder"):
        decoder = (LightHead if arm == "frozen" else Decoder)(backbone, store.classes)
    return Segmenter(backbone, decoder, frozen=arm == "frozen")


def criterion() -> nn.Module:
    """Dice plus cross-entropy (MONAI), all classes, Dice over the whole batch."""
    from monai.losses import DiceCELoss

    return DiceCELoss(softmax=True, to_onehot_y=True, batch=True)


def inherit(decoder: nn.Module, trained: dict[str, Tensor]) -> list[str]:
    """Copies what fits from a decoder that was trained to reconstruct; returns the names taken (the last layer never is)."""
    own = decoder.state_dict()
    fitting = {k: v for k, v in trained.items() if k in own and own[k].shape == v.shape and not k.startswith("head.")}
    decoder.load_state_dict(own | fitting)
    return sorted(fitting)


def batch_at(
    step: int, store: Store, labelled: list[int], settings: Settings, seed: int
) -> tuple[Float[Tensor, "B C *S"], Int[Tensor, "B *S"]]:
    """Images and masks of a step, the same for every arm."""
    adapt, images, masks = settings.adapt, [], []
    for place_in_batch, member in enumerate(members(step, adapt.batch, len(labelled), seed)):
        scan, stream = labelled[member], partial(numpy_stream, seed, step, place_in_batch)
        placement = draw_placements(
            stream("placement"),
            [store.shape(scan)],
            adapt.patch,
            rotation=adapt.rotation,
            scale=adapt.scale,
            probability=adapt.geometry,
            spacing=store.spacing,
        )[0]
        placement = replace(placement, centre=centre(store, scan, adapt.patch, stream("centre")) or placement.centre)
        image = place(store.image(scan), placement)
        images.append(apply_intensity(image[None], draw_intensity(stream("intensity"), 1, adapt.intensity))[0])
        masks.append(place(store.label(scan)[None], placement, mode="nearest")[0])
    return torch.stack(images), torch.stack(masks).long()


def centre(store: Store, index: int, patch: tuple[int, ...], rng: np.random.Generator) -> tuple[float, ...] | None:
    """For scans larger than the patch, every second patch is centred on a voxel of some structure; else None."""
    if all(s <= p for s, p in zip(store.shape(index), patch, strict=True)) or rng.random() < 0.5:
        return None
    mask = store.label(index)
    present = np.unique(mask[(mask > 0) & (mask < store.classes)])  # not those that do not count
    if len(present) == 0:
        return None
    places = np.argwhere(mask == rng.choice(present))
    voxel = places[rng.integers(len(places))]
    return tuple(float(c) - p // 2 + (p - 1) / 2 for c, p in zip(voxel, patch, strict=True))  # the patch starts at a whole voxel


def fit(
    arm: str,
    store: Store,
    labelled: list[int],
    settings: Settings,
    pretrained: Path,
    key: tuple[int | str, ...],
    advance: Callable[[], None] = lambda: None,
) -> Segmenter:
    """Trains one arm on the scans `labelled`; same steps, batches and augmentation for every arm with the same key."""
    adapt, device = settings.adapt, machine().device
    network = build(arm, store, settings, pretrained, key).to(device).train()
    network.backbone.train(not network.frozen)
    optimizer, loss = optimizer_for(network, adapt.learning_rate, adapt.weight_decay), criterion()
    seed = int(numpy_stream(settings.seed, *key, "batches").integers(2**62))
    for step in range(adapt.steps):
        images, masks = batch_at(step, store, labelled, settings, seed)
        rate = learning_rate(step, adapt.steps, adapt.learning_rate, adapt.warmup)
        train_step(network, loss, optimizer, images.to(device), masks.to(device), rate, settings)
        advance()
    return network.eval()


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
    for group in optimizer.param_groups:
        group["lr"] = rate
    with autocast(settings.precision, images.device):
        logits = network(images)
    loss = loss_of(*counted(logits.float(), masks))
    loss.backward()
    norm = nn.utils.clip_grad_norm_([p for p in network.parameters() if p.grad is not None], settings.adapt.clip)
    if torch.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def counted(logits: Float[Tensor, "B K *S"], masks: Int[Tensor, "B *S"]) -> tuple[Tensor, Tensor]:
    """Logits and masks (B, 1, *S) in which voxels that do not count (classes from K on) are background, told with certainty."""
    skipped = masks[:, None] >= logits.shape[1]
    if not skipped.any():
        return logits, masks[:, None]
    sure = torch.full_like(logits, -20.0)
    sure[:, 0] = 20.0
    return torch.where(skipped, sure, logits), masks[:, None].masked_fill(skipped, 0)


@torch.no_grad()
def predict(
    network: Segmenter, image: np.ndarray, patch: tuple[int, ...], precision: str, whole: int = 160**3
) -> Integer[Tensor, "*S"]:
    """The most probable structure at each voxel of one scan (C, *S), as uint8 (int16 from 257 classes).

    A scan of at most `whole` voxels goes through in one piece, a larger one in overlapping patches with Gaussian weights (MONAI).
    """
    from monai.inferers import sliding_window_inference

    device = next(network.parameters()).device
    x = torch.from_numpy(image.astype(np.float32))[None]
    thin = [max(0, s - n) for n, s in zip(x.shape[2:], network.backbone.stride, strict=True)]
    x = nn.functional.pad(x, [side for w in reversed(thin) for side in (0, w)]).to(device)
    with autocast(precision, device):
        if x[0, 0].numel() <= whole:
            logits = network(x)
        else:
            logits = sliding_window_inference(x, patch, 2, lambda part: network(part).float(), overlap=0.5, mode="gaussian")
    kept = logits[(0, slice(None), *(slice(n) for n in image.shape[1:]))]
    return kept.float().argmax(0).to(torch.uint8 if len(kept) <= 256 else torch.int16).cpu()
