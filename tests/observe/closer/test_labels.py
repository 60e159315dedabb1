"""What labels say: planted classes are told, shuffled ones are not, patients are not seen twice, too few are said."""

import numpy as np
import pytest
import torch

from headwater.backbones import build
from headwater.observe.closer.labels import NAMES, NONE, learned, told
from headwater.observe.motion import separability
from headwater.observe.trace import trace
from tests.observe.specimens import TimmViT, fingerprint, images, seeded


def striped(count=40, seed=0):
    """Pictures with stripes along one axis or the other, at random places, in noise; and which."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(count) % 2
    wave = np.sin(np.arange(16)[None] * np.pi / 2 + rng.uniform(0, 6, (count, 1)))
    made = np.repeat(wave[:, :, None], 16, 2)
    made = np.where(kinds[:, None, None] == 1, made.transpose(0, 2, 1), made) + rng.normal(0, 0.3, (count, 16, 16))
    return torch.from_numpy(made[:, None]).float(), ["across" if kind else "along" for kind in kinds]


@pytest.fixture(scope="module")
def networks():
    """Two draws of one small network."""
    return [build("vit", "nano", patch=4, channels=1, ndim=2, seed=seed).eval() for seed in (0, 1)]


def test_planted_classes_are_told_and_shuffled_ones_are_not(networks):
    x, kinds = striped()
    before = fingerprint(networks[0])
    found, gain = learned(*networks, x, kinds)
    assert fingerprint(networks[0]) == before and set(gain) == set(NAMES)
    assert (found["images"], found["classes"], found["words"]) == (40, 2, [])
    right = found["trained"]
    assert len(right["accuracy"]) == 7 and right["accuracy"][-1] > max(0.8, right["null95"][-1]) and right["chance"] == 0.5
    assert gain["reuse.accuracy"].null == 0.5 and gain["reuse.pixels"].low <= gain["reuse.pixels"].value
    mixed = [kinds[i] for i in np.random.default_rng(1).permutation(40)]
    assert learned(*networks, x, mixed)[0]["trained"]["accuracy"][-1] < 0.75


def test_layers_in_parts_are_those_of_all_images_at_once(networks):
    x, kinds = striped()
    stream = trace(networks[0], x, attend=0).stream
    answers = torch.from_numpy(np.unique(kinds, return_inverse=True)[1])
    wanted = told(separability([state.mean(1) for state in stream.path], answers))
    assert learned(*networks, x, kinds)[0]["trained"]["accuracy"] == pytest.approx(wanted["accuracy"], abs=0.03)


def test_nothing_is_gained_over_itself(networks):
    x, kinds = striped()
    gain = learned(networks[0], networks[0], x, kinds)[1]["reuse.untrained"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0) and "no evidence" in gain.why


def test_images_of_one_patient_do_not_vouch_for_each_other(networks):
    rng = np.random.default_rng(3)
    base = torch.from_numpy(rng.normal(size=(12, 1, 16, 16))).float()
    x = base.repeat_interleave(4, 0) + 0.01 * torch.from_numpy(rng.normal(size=(48, 1, 16, 16))).float()
    kinds, owners = [str(i // 4 % 2) for i in range(48)], [str(i // 4) for i in range(48)]
    blind, gain = learned(*networks, x, kinds)
    honest, fair = learned(*networks, x, kinds, owners)
    assert blind["trained"]["accuracy"][-1] > 0.9 and gain["reuse.accuracy"].value > 0.9, "each image has its copies"
    assert honest["trained"]["accuracy"][-1] < 0.8 and fair["reuse.accuracy"].value < 0.8, "noise has no class"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([""] * 12, NONE),
        ([], NONE),
        (["a"] * 12, "2 classes of 5 images each or more: here are classes of 12 images"),
        (["a"] * 8 + ["b"] * 4, "here are classes of 8, 4 images"),
        (list("abcdefghijkl"), "here are classes of 1, 1, 1, 1, ... images"),
    ],
)
def test_too_few_is_one_sentence(labels, said):
    found, gain = learned(seeded(TimmViT), seeded(TimmViT, 1), images(12), labels)
    assert set(found) == {"words"} and len(found["words"]) == 1 and said in found["words"][0]
    assert all(number.why == found["words"][0] for number in gain.values())


def test_rare_classes_and_images_without_one_are_left_out_and_said():
    labels = ["a", "b"] * 6 + ["c", "c", ""]
    found, _ = learned(seeded(TimmViT), seeded(TimmViT, 1), images(15), labels)
    assert (found["images"], found["classes"]) == (12, 2)
    assert found["words"] == [
        "1 of 3 classes have fewer than 5 images and are left out", "1 of 15 images have no class and are left out",
    ]  # fmt: skip


def test_features_that_are_not_finite_are_said():
    broken = seeded(TimmViT)
    with torch.no_grad():
        broken.blocks[2].mlp[0].weight.fill_(float("nan"))
    found, gain = learned(broken, seeded(TimmViT, 1), images(12), ["a", "b"] * 6)
    assert "trained" not in found and "untrained" in found and "NaN" in found["words"][0]
    assert all(number.why for number in gain.values())
