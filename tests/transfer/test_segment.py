"""One way of training, several ways of starting: what differs between the arms is what should, and nothing else."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headwater.errors import InputError
from headwater.settings import ARMS, change
from headwater.train import loop, state
from headwater.transfer import adapt, batches, segment, tiles

KEY = ("adapt", 0, 2)


@pytest.fixture(scope="module", params=["resenc-mae", "vit-cva"])
def pretrained(request, flat, tiny, tmp_path_factory) -> SimpleNamespace:
    """A tiny pretrained run on pictures: settings and the path of its state."""
    family, objective = request.param.split("-")
    settings = tiny(2, f"backbone.family={family}", f"pretrain.objective={objective}", "pretrain.steps=2")
    run = tmp_path_factory.mktemp("pretrained")
    loop.fit(flat, settings, run)
    return SimpleNamespace(settings=settings, path=run / "state" / "pretrain.safetensors", family=family)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


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
    settings, few = tiny(2, "adapt.steps=50"), adapt.drawn(flat, 0, 4, 0)
    losses, step = [], segment.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "train_step", lambda *given: losses.append(step(*given)) or losses[-1])
        segment.fit("scratch", flat, few, settings, tmp_path / "none", KEY)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_all_arms_see_the_same_batches_and_rates(flat, pretrained, monkeypatch):
    seen = {arm: [] for arm in ARMS}
    few = adapt.drawn(flat, 0, 2, 0)
    for arm in ARMS:
        note = seen[arm].append
        monkeypatch.setattr(segment, "train_step", lambda n, c, o, x, y, rate, s, note=note: note((x, y, rate)) or 0.0)
        segment.fit(arm, flat, few, pretrained.settings, pretrained.path, KEY)
    assert len(seen["scratch"]) == pretrained.settings.adapt.steps
    for arm in ARMS[1:]:
        for mine, other in zip(seen[arm], seen["scratch"], strict=True):
            assert torch.equal(mine[0], other[0]) and torch.equal(mine[1], other[1]) and mine[2] == other[2]


def test_the_tuned_decoder_inherits_all_but_its_heads(flat, pretrained):
    tuned = segment.build("fine-tuned", flat, pretrained.settings, pretrained.path, KEY).decoder.state_dict()
    scratch = segment.build("scratch", flat, pretrained.settings, pretrained.path, KEY).decoder
    trained = state.under(state.read(pretrained.path), "teacher.heads.reconstruction.decoder.")
    assert tuned.keys() == scratch.state_dict().keys()
    for key, value in tuned.items():
        inherited = pretrained.family == "resenc" and not key.startswith(("head.", "coarse_heads."))
        assert torch.equal(value, trained[key] if inherited else scratch.state_dict()[key]), key
    assert segment.inherit(scratch, trained) == sorted(
        key for key in trained if pretrained.family == "resenc" and not key.startswith("head.")
    )


def test_the_random_backbone_stays_too_and_needs_no_pretraining(flat, tiny):
    settings, few = tiny(2), adapt.drawn(flat, 0, 2, 0)
    started = segment.untrained("random-frozen", flat, settings, KEY)
    network = segment.fit("random-frozen", flat, few, settings, None, KEY)
    assert equal(network.backbone.state_dict(), started.backbone.state_dict())
    assert not equal(network.decoder.state_dict(), started.decoder.state_dict())
    assert started.decoder.__class__ is segment.untrained("frozen", flat, settings, KEY).decoder.__class__
    for arm in segment.PRETRAINED:
        with pytest.raises(InputError, match=f"{arm} starts from a pretrained backbone"):
            segment.build(arm, flat, settings, None, KEY)
    with pytest.raises(InputError, match="no arm 'tuned'"):
        segment.untrained("tuned", flat, settings)


@pytest.mark.parametrize("pretrained", ["resenc-mae"], indirect=True)
def test_a_frozen_start_holds_the_backbone_for_its_share_of_the_steps(flat, tiny, pretrained, monkeypatch):
    settings = change(change(pretrained.settings, "adapt.steps=4"), "adapt.freeze=0.5")
    saved = state.under(state.read(pretrained.path), "teacher.backbone.")
    same, step = [], segment.train_step

    def watched(network, *rest):
        loss = step(network, *rest)
        same.append(equal(network.backbone.state_dict(), saved))
        return loss

    monkeypatch.setattr(segment, "train_step", watched)
    network = segment.fit("fine-tuned", flat, adapt.drawn(flat, 0, 2, 0), settings, pretrained.path, KEY)
    assert same == [True, True, False, False] and not network.frozen
    same.clear()
    segment.fit("scratch", flat, adapt.drawn(flat, 0, 2, 0), settings, None, KEY)
    assert same == [False] * 4


def test_early_layers_of_a_pretrained_backbone_learn_more_slowly(flat, tiny):
    network = segment.untrained("scratch", flat, tiny(2), KEY)
    optimizer = segment.optimizer_for(network, 1e-3, 0.1, 0.5)
    places = {
        id(p): (name, g) for g in optimizer.param_groups for name, q in network.named_parameters() for p in g["params"] if p is q
    }
    assert len(places) == len(list(network.parameters()))
    for p in network.parameters():
        name, group = places[id(p)]
        depth = 3 if name.startswith("decoder") else 0 if "stem" in name else int(name.split(".")[2])  # the first stage is empty
        assert group["share"] == 0.5 ** (3 - depth) and group["lr"] == 1e-3 * group["share"]
        assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0)
    images, masks = batches.batch_at(0, flat, flat.labelled[:2], tiny(2), 0)
    segment.train_step(network, network.task.loss(), optimizer, images, masks, 1e-2, tiny(2))
    assert {g["lr"] / g["share"] for g in optimizer.param_groups} == {1e-2} and len({g["lr"] for g in optimizer.param_groups}) > 3
    assert {g["share"] for g in segment.optimizer_for(network, 1e-3, 0.1).param_groups} == {1.0}


def test_a_step_that_is_not_finite_changes_nothing(flat, tiny):
    settings = tiny(2)
    network = segment.untrained("scratch", flat, settings, KEY)
    optimizer = segment.optimizer_for(network, 1e-3, 0.0)
    images, masks = batches.batch_at(0, flat, flat.labelled[:2], settings, 0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    segment.train_step(network, network.task.loss(), optimizer, images * float("nan"), masks, 1e-3, settings)
    assert equal(network.state_dict(), before) and not optimizer.state_dict()["state"]


@pytest.mark.parametrize("family", ["resenc", "vit", "swin"])
def test_scores_at_several_sizes(flat, tiny, family):
    settings = tiny(2, f"backbone.family={family}")
    x = torch.randn(2, 1, 24, 24)
    for arm in ("scratch", "frozen"):
        network = segment.untrained(arm, flat, settings, KEY).eval()
        found = network(x, deep=True)
        assert torch.equal(found[0], network(x)) and found[0].shape == (2, flat.classes, 24, 24)
        assert len(found) == (1 if family == "vit" or arm == "frozen" else 3)
        assert [f.shape[2] for f in found] == sorted({f.shape[2] for f in found}, reverse=True)
    flatly = segment.untrained("scratch", flat, change(settings, "adapt.deep=false"), KEY)
    assert len(flatly(x, deep=True)) == 1


@pytest.mark.parametrize(("arm", "family"), [("scratch", "resenc"), ("frozen", "vit")])
def test_a_scan_in_patches_and_in_one_piece(flat, solid, tiny, arm, family):
    for store, ndim in ((flat, 2), (solid, 3)):
        settings = tiny(ndim, f"backbone.family={family}")
        network = segment.untrained(arm, store, settings, KEY).eval()
        image = store.image(0)[..., :-3]  # no multiple of the stride
        whole = segment.predict(network, image, settings)
        x = torch.from_numpy(np.array(image, np.float32))[None]
        fill = [side for n in reversed(image.shape[1:]) for side in (max(0, 24 - n) // 2, max(0, 24 - n) - max(0, 24 - n) // 2)]
        with torch.no_grad():
            scores = network(torch.nn.functional.pad(x, fill, mode="reflect"))[0]
        kept = scores[(slice(None), *(slice(max(0, 24 - n) // 2, max(0, 24 - n) // 2 + n) for n in image.shape[1:]))]
        assert whole.dtype == np.uint8 and np.array_equal(whole, kept.argmax(0).numpy())
        small = replace(settings, adapt=replace(settings.adapt, patch=(16,) * ndim))
        rod = np.concatenate([image[(slice(None), slice(None), *[slice(16)] * (ndim - 1))]] * 2, 1)
        tiled = segment.predict(network, rod, small)
        assert tiled.shape == rod.shape[1:] and tiled.max() < store.classes


def test_tiles_of_a_scan():
    assert segment.tile((35, 50, 35), (32, 40, 32)) == (35, 50, 35), "little larger: whole"
    assert segment.tile((20, 90), (32, 40)) == (32, 40), "more than twice as long"
    assert segment.tile((3, 40), (32, 40)) == (32, 40), "smaller: filled up to the patch"
    assert segment.tile((200, 200, 200), (128,) * 3) == (128,) * 3, "too many voxels"


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (5, 7)])
def test_scans_smaller_than_a_token(flat, tiny, shape):
    network = segment.untrained("scratch", flat, tiny(2), KEY).eval()
    assert segment.predict(network, np.zeros((1, *shape), np.float16), tiny(2)).shape == shape


def test_regions_are_trained_and_predicted(flat, tiny):
    settings = tiny(2, "adapt.regions=1+2+3,2+3,3", "adapt.steps=3")
    network = segment.fit("scratch", flat, adapt.drawn(flat, 0, 2, 0), settings, None, KEY)
    image = flat.image(0)
    scores = tiles.scores(network, image, (32, 32), channels=3)
    found = segment.predict(network, image, settings)
    assert np.array_equal(found > 0, (scores > 0).any(0)) and found.max() <= 3


def test_a_class_that_no_labelled_scan_has_and_no_class_at_all(flat, tiny):
    few = adapt.drawn(flat, 0, 2, 0)
    for most in (2, 0):
        store = replace(flat, labels=np.where(flat.labels <= most, flat.labels, 0))
        for changes in ((), ("adapt.regions=1+2+3,2+3,3",)):
            network = segment.fit("scratch", store, few, tiny(2, *changes), None, KEY)
            assert all(torch.isfinite(p).all() for p in network.parameters())
            assert np.isfinite(segment.predict(network, store.image(0), tiny(2, *changes))).all()


def test_voxels_that_do_not_count_change_no_training(flat, tiny):
    """Grey values are the same, and a part of the masks does not count: whatever networks learn, they learn from the rest."""
    few, settings = adapt.drawn(flat, 0, 2, 0), tiny(2, "adapt.steps=3")
    gone = np.where(flat.labels == 3, 255, flat.labels).astype(np.uint8)
    network = segment.fit("scratch", replace(flat, labels=gone, ignores=True), few, settings, None, KEY)
    before = segment.untrained("scratch", flat, settings, KEY)
    assert torch.isfinite(network.decoder.head.weight).all()
    assert not torch.equal(network.decoder.head.weight, before.decoder.head.weight)


@pytest.mark.parametrize("pretrained", ["resenc-mae"], indirect=True)
def test_self_taught_without_unlabelled_scans_learns_from_masks_alone(flat, pretrained):
    few = adapt.drawn(flat, 0, 2, 0)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        step = segment.train_step
        patch.setattr(segment, "train_step", lambda *given: seen.append(step(*given)))
        segment.fit("fine-tuned", flat, few, pretrained.settings, pretrained.path, KEY)
        segment.fit("self-taught", flat, few, pretrained.settings, pretrained.path, KEY)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


@pytest.mark.parametrize("pretrained", ["resenc-mae"], indirect=True)
def test_self_taught_learns_from_unlabelled_scans(flat, pretrained):
    settings, few = change(pretrained.settings, "adapt.steps=3"), adapt.drawn(flat, 0, 2, 0)
    more = [i for i in flat.split("train") if i not in few]
    alone = segment.fit("self-taught", flat, few, settings, pretrained.path, KEY)
    taught = segment.fit("self-taught", flat, few, settings, pretrained.path, KEY, unlabelled=more)
    assert not equal(alone.state_dict(), taught.state_dict()) and not taught.training
    assert all(torch.isfinite(p).all() for p in taught.parameters())


def test_work_is_what_the_tiles_hold(flat, tiny):
    settings = change(tiny(2, "adapt.patch=16,16"), "adapt.overlap=0.5")
    for shape in ((12, 20), (30, 40), (100, 33)):
        patch = segment.tile(shape, settings.adapt.patch)
        grid = tiles.Grid.of(shape, patch, 0.5, torch.device("cpu"))
        assert segment.work(shape, settings) == grid.count * patch[0] * patch[1]
    each = [segment.work(flat.shape(i), settings) for i in range(3)]
    assert segment.usual(flat, settings, [0, 1, 2], 2) == pytest.approx(sum(each) / 3 / each[2])
