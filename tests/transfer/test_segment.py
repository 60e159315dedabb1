"""One way of training, three ways of starting: what differs between the arms is what should, and nothing else."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headwater.train import loop, state
from headwater.transfer import adapt, segment

KEY = ("adapt", 0, 2)


@pytest.fixture(scope="module", params=["resenc-cva", "resenc-mae", "vit-cva"])
def pretrained(request, flat, tiny, tmp_path_factory) -> SimpleNamespace:
    """A tiny pretrained run on pictures: settings and the path of its state."""
    family, objective = request.param.split("-")
    settings = tiny(2, f"backbone.family={family}", f"pretrain.objective={objective}", "pretrain.steps=2")
    run = tmp_path_factory.mktemp("pretrained")
    loop.fit(flat, settings, run)
    return SimpleNamespace(settings=settings, path=run / "state" / "pretrain.safetensors", family=family)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_batches_are_a_function_of_step_and_seed(solid, tiny):
    few, settings = adapt.drawn(solid, 0, 2, 0), tiny(3)
    first, second = segment.batch_at(3, solid, few, settings, 9), segment.batch_at(3, solid, few, settings, 9)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], segment.batch_at(4, solid, few, settings, 9)[0])
    images, masks = first
    assert images.shape == (2, 1, 24, 24, 24) and masks.shape == (2, 24, 24, 24) and masks.dtype == torch.int64
    assert set(masks.unique().tolist()) <= set(range(solid.classes)) and masks.max() > 0 and torch.isfinite(images).all()


def test_image_and_mask_move_together(flat, tiny):
    """A scan that is its own mask stays so under the geometry of a batch, but for the voxels that lie at a border."""
    settings = tiny(2, "adapt.geometry=1", "adapt.intensity=0")
    store = replace(flat, images=np.array(flat.labels, np.float16))  # one channel, all labelled: the same places in the file
    for step in range(5):
        images, masks = segment.batch_at(step, store, flat.labelled[:3], settings, 0)
        assert ((images[:, 0] - masks).abs() < 0.5).float().mean() > 0.9


def test_all_arms_see_the_same_batches(flat, pretrained, monkeypatch):
    seen = {arm: [] for arm in segment.ARMS}
    few = adapt.drawn(flat, 0, 2, 0)
    for arm in segment.ARMS:
        note = seen[arm].append
        monkeypatch.setattr(segment, "train_step", lambda n, c, o, x, y, rate, s, note=note: note((x, y, rate)) or 0.0)
        segment.fit(arm, flat, few, pretrained.settings, pretrained.path, KEY)
    assert len(seen["scratch"]) == pretrained.settings.adapt.steps
    for arm in segment.ARMS[1:]:
        for mine, other in zip(seen[arm], seen["scratch"], strict=True):
            assert torch.equal(mine[0], other[0]) and torch.equal(mine[1], other[1]) and mine[2] == other[2]


def test_the_frozen_backbone_stays_bit_for_bit(flat, pretrained):
    few = adapt.drawn(flat, 0, 2, 0)
    before = segment.build("frozen", flat, pretrained.settings, pretrained.path, KEY).decoder.state_dict()
    network = segment.fit("frozen", flat, few, pretrained.settings, pretrained.path, KEY)
    saved = state.under(state.read(pretrained.path), "teacher.backbone.")
    assert equal(network.backbone.state_dict(), saved) and not any(p.requires_grad for p in network.backbone.parameters())
    assert not equal(network.decoder.state_dict(), before) and not network.training


def test_the_tuned_backbone_starts_at_the_teacher_and_moves(flat, pretrained):
    saved = state.under(state.read(pretrained.path), "teacher.backbone.")
    started = segment.build("fine-tuned", flat, pretrained.settings, pretrained.path, KEY)
    assert equal(started.backbone.state_dict(), saved) and all(p.requires_grad for p in started.parameters())
    tuned = segment.fit("fine-tuned", flat, adapt.drawn(flat, 0, 2, 0), pretrained.settings, pretrained.path, KEY)
    assert not equal(tuned.backbone.state_dict(), saved)


def test_the_tuned_decoder_inherits_all_but_its_head(flat, pretrained):
    tuned = segment.build("fine-tuned", flat, pretrained.settings, pretrained.path, KEY).decoder.state_dict()
    scratch = segment.build("scratch", flat, pretrained.settings, pretrained.path, KEY).decoder.state_dict()
    trained = state.under(state.read(pretrained.path), "teacher.heads.reconstruction.decoder.")
    assert tuned.keys() == scratch.keys()
    for key, value in tuned.items():
        inherited = pretrained.family == "resenc" and not key.startswith("head.")
        assert torch.equal(value, trained[key] if inherited else scratch[key]), key
    assert segment.inherit(segment.build("scratch", flat, pretrained.settings, pretrained.path, KEY).decoder, trained) == sorted(
        key for key in trained if pretrained.family == "resenc" and not key.startswith("head.")
    )


def test_a_start_is_a_function_of_its_key(flat, tiny):
    settings = tiny(2)
    one, other = (segment.untrained("scratch", flat, settings, KEY).state_dict() for _ in range(2))
    assert equal(one, other)
    assert not equal(one, segment.untrained("scratch", flat, settings, ("adapt", 1, 2)).state_dict())
    backbone = {key: value for key, value in one.items() if key.startswith("backbone.")}
    light = segment.untrained("frozen", flat, settings, KEY).state_dict()
    assert equal(backbone, {key: value for key, value in light.items() if key.startswith("backbone.")})


def test_scratch_needs_no_pretraining(flat, tiny, tmp_path):
    segment.build("scratch", flat, tiny(2), tmp_path / "none.safetensors", KEY)


def test_training_from_scratch_learns(flat, tiny, tmp_path):
    settings, few = tiny(2, "adapt.steps=60", "adapt.batch=4"), adapt.drawn(flat, 0, 4, 0)
    losses, step = [], segment.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "train_step", lambda *given: losses.append(step(*given)) or losses[-1])
        segment.fit("scratch", flat, few, settings, tmp_path / "none", KEY)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_step_that_is_not_finite_changes_nothing(flat, tiny):
    settings = tiny(2)
    network = segment.untrained("scratch", flat, settings, KEY)
    optimizer = loop.optimizer_for(network, 1e-3, 0.0)
    images, masks = segment.batch_at(0, flat, flat.labelled[:2], settings, 0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    segment.train_step(network, segment.criterion(), optimizer, images * float("nan"), masks, 1e-3, settings)
    assert equal(network.state_dict(), before) and not optimizer.state_dict()["state"]


@pytest.mark.parametrize("arm", ["scratch", "frozen"])
@pytest.mark.parametrize("family", ["resenc", "vit"])
def test_a_scan_in_patches_and_in_one_piece(flat, solid, tiny, arm, family):
    for store, ndim in ((flat, 2), (solid, 3)):
        network = segment.untrained(arm, store, tiny(ndim, f"backbone.family={family}"), KEY).eval()
        image = store.image(0)[..., :-3]  # no multiple of the stride
        whole = segment.predict(network, image, image.shape[1:], "fp32")
        assert whole.shape == image.shape[1:] and 0 <= whole.min() and whole.max() < store.classes
        one = segment.predict(network, image, image.shape[1:], "fp32", whole=0)
        assert (one == whole).float().mean() > 0.999, "a patch of the scan's size"
    patches = segment.predict(network, image, (16, 16, 16), "fp32", whole=0)
    assert patches.shape == whole.shape and 0 <= patches.min() and patches.max() < store.classes


def test_every_second_patch_of_a_large_scan_is_centred_on_a_structure(solid):
    rng = np.random.default_rng(0)
    found = [segment.centre(solid, 0, (16, 16, 16), rng) for _ in range(200)]
    there = [tuple(int(c + 0.5) for c in place) for place in found if place is not None]  # patches start at a whole voxel
    assert 70 < len(there) < 130
    values = [int(solid.label(0)[place]) for place in there]
    assert min(values) > 0
    counts = np.bincount(values, minlength=solid.classes)[1:]
    assert (counts > 0.15 * len(values)).all(), "each structure as often as the others"
    assert segment.centre(solid, 0, (24, 24, 24), rng) is None, "a scan that fits the patch is not cut"
    empty = replace(solid, labels=np.zeros_like(solid.labels))
    assert all(segment.centre(empty, 0, (16, 16, 16), rng) is None for _ in range(9))


def test_voxels_that_do_not_count_teach_nothing():
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(2, 3, 6, 7, generator=generator), torch.randint(0, 3, (2, 6, 7), generator=generator)
    masks[:, 2:4] = 255
    given = logits.clone().requires_grad_()
    segment.criterion()(*segment.counted(given, masks)).backward()
    assert not given.grad[:, :, 2:4].any() and given.grad[:, :, 4:].any()
    kept = [row for row in range(6) if row not in (2, 3)]
    cross = torch.nn.functional.cross_entropy
    whole = cross(*(lambda x, y: (x, y[:, 0]))(*segment.counted(logits, masks)))
    assert whole * 6 == pytest.approx(float(cross(logits[:, :, kept], masks[:, kept])) * 4, rel=1e-5)
    plain = torch.randint(0, 3, (2, 6, 7), generator=generator)
    assert segment.counted(logits, plain)[0] is logits
