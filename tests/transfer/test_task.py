"""What is asked of a segmenter: losses against formulas written out, voxels that do not count, regions by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headwater.errors import InputError
from headwater.settings import change
from headwater.transfer.task import Task, resized, weights

PLAIN = Task((0, 3, 7, 9), ("background", "a", "b", "c"))
NESTED = Task((0, 1, 2, 3), ("background", "a", "b", "c"), ((1, 2, 3), (2, 3), (3,)))


def drawn(channels: int, size: tuple[int, ...], classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *size, generator=generator), torch.randint(0, classes, (2, *size), generator=generator)


def overlap(chances: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """One minus Dice of each channel over the whole batch, smoothed by 1e-5, and the mean of that."""
    axes = (0, *range(2, chances.ndim))
    return (1 - (2 * (chances * truth).sum(axes) + 1e-5) / (chances.sum(axes) + truth.sum(axes) + 1e-5)).mean()


@pytest.mark.parametrize("size", [(9, 8), (5, 6, 7)])
def test_classes_cost_dice_and_cross_entropy(size):
    from monai.losses import DiceCELoss

    scores, masks = drawn(4, size)
    truth = F.one_hot(masks, 4).movedim(-1, 1).float()
    expected = overlap(scores.softmax(1), truth) + F.cross_entropy(scores, masks)
    assert PLAIN.loss()(scores, masks) == pytest.approx(float(expected), rel=1e-5)
    peer = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
    assert torch.equal(PLAIN.loss()(scores, masks), peer(scores, masks[:, None]))


@pytest.mark.parametrize("size", [(9, 8), (5, 6, 7)])
def test_regions_cost_dice_and_binary_cross_entropy(size):
    scores, masks = drawn(3, size)
    truth = torch.stack([masks >= 1, masks >= 2, masks >= 3], 1).float()
    expected = overlap(scores.sigmoid(), truth) + F.binary_cross_entropy_with_logits(scores, truth)
    assert NESTED.loss()(scores, masks) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("task", [PLAIN, NESTED], ids=["classes", "regions"])
@pytest.mark.parametrize("size", [(8, 8), (6, 6, 6)])
def test_voxels_that_do_not_count_teach_nothing(task, size):
    scores, masks = drawn(task.logits, size)
    masks[0, 2:5] = 255
    masks[1, :, 3] = 7  # any class beyond the last

    def taught(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = scores.clone().requires_grad_()
        loss = task.loss()([scores, scores[:, :, ::2], scores], masks)
        return loss.detach(), torch.autograd.grad(loss, scores)[0]

    loss, gradient = taught(scores)
    lost = (resized(masks, size) >= 4)[:, None].expand_as(scores)
    wild = torch.where(lost, 50 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(1)), scores)
    fine = task.loss()(scores, masks)
    assert torch.equal(fine, task.loss()(wild, masks))
    one = scores.clone().requires_grad_()
    task.loss()(one, masks).backward()
    assert not one.grad[lost].any() and one.grad[~lost].any()
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    kept = [row for row in range(size[0]) if not 2 <= row < 5]  # of one scan: leaving rows out is the same as not counting them
    first, alone = task.loss()(scores[:1], masks[:1]), task.loss()(scores[:1, :, kept], masks[:1, kept])
    assert first == pytest.approx(float(alone), rel=1e-5)


def test_where_nothing_counts_there_is_no_loss():
    scores = torch.randn(2, 4, 5, 5, requires_grad=True)
    loss = PLAIN.loss()([scores, scores[:, :, ::2, ::2], scores], torch.full((2, 5, 5), 255))
    loss.backward()
    assert loss == 0 and not scores.grad.any()


@pytest.mark.parametrize("task", [PLAIN, NESTED], ids=["classes", "regions"])
def test_empty_foreground_and_missing_classes_give_finite_gradients(task):
    scores, masks = drawn(task.logits, (6, 6))
    for missing in (masks.clamp(max=2), torch.zeros_like(masks)):
        one = scores.clone().requires_grad_()
        task.loss()(one, missing).backward()
        assert torch.isfinite(one.grad).all() and one.grad.any()


def test_coarse_scores_weigh_half_each_and_the_coarsest_nothing():
    assert weights(1) == [1.0] and weights(2) == [1.0, 0.0]
    assert weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    scores, masks = drawn(4, (8, 8))
    half, quarter = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 2, 2)
    loss = PLAIN.loss()
    expected = 2 / 3 * loss(scores, masks) + 1 / 3 * loss(half, masks[:, 1::2, 1::2])
    assert loss([scores, half, quarter], masks) == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(resized(masks, (8, 8)), masks)
    wide = torch.full((1, 4, 4), 65535)
    assert torch.equal(resized(wide, (2, 2)), wide[:, :2, :2]), "numbers of classes stay whole"


def test_the_class_of_a_voxel():
    scores = np.zeros((4, 2, 2), np.float32)
    scores[2, 0, 0] = scores[3, 1, 1] = 1
    found = PLAIN.decide(scores)
    assert found.tolist() == [[2, 0], [0, 3]] and found.dtype == np.uint8
    assert np.array_equal(PLAIN.decide(torch.from_numpy(scores)), found)
    assert np.array_equal(PLAIN.decide(PLAIN.probabilities(scores), probable=True), found)
    many = Task(tuple(range(300)), ("x",) * 300)
    assert many.decide(np.eye(300, dtype=np.float32)).tolist() == list(range(300)) and many.logits == 300
    assert many.decide(np.eye(300, dtype=np.float32)).dtype == np.uint16


def test_regions_by_hand():
    """Five voxels: nothing, the largest, two of them, all, and the smallest alone, which then wins."""
    inside = np.array([[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], bool)
    scores = np.where(inside, 2.0, -2.0).astype(np.float32)
    assert NESTED.decide(scores).tolist() == [0, 1, 2, 3, 3] and NESTED.logits == 3 and NESTED.classes == 4
    chances = NESTED.probabilities(scores)
    assert chances == pytest.approx(1 / (1 + np.exp(-scores))) and isinstance(chances, np.ndarray)
    assert NESTED.decide(chances, probable=True).tolist() == [0, 1, 2, 3, 3]
    tumour = Task((0, 1, 2, 4), ("background", "necrosis", "oedema", "enhancing"), ((1, 2, 3), (1, 3), (3,)))
    assert tumour.own == (2, 1, 3) and tumour.decide(scores).tolist() == [0, 2, 1, 3, 3]


def test_regions_are_sums_of_values_in_the_masks(flat, tiny):
    store = replace(flat, values=(0, 1, 2, 4))
    task = Task.of(store, change(tiny(2), "adapt.regions=1+2+4,1+4,4"))
    assert task.regions == ((1, 2, 3), (1, 3), (3,)) and task.names == store.names and task.values == (0, 1, 2, 4)
    assert Task.of(store, tiny(2)).regions == () and Task.of(store, tiny(2)).logits == 4


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ("1+2+3,2+x,3", "no sum of values"),
        ("1+2+5,2,1", "names the value 5, which is not in the masks. There are: 1, 2, 3"),
        ("0+1,2,3", "names the value 0"),
        ("1+2+3,3", "exactly one value that no later region holds, it has 1, 2"),
        ("3,2+3,1+2+3", "it has none: give the largest"),
        ("1+2,2", "the value 3 of the masks is in no region"),
    ],
)
def test_regions_that_cannot_be(flat, tiny, regions, said):
    with pytest.raises(InputError, match=said):
        Task.of(flat, change(tiny(2), f"adapt.regions={regions}"))
