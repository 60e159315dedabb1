"""Self-distillation: Sinkhorn, centring and the pairs of views, against loops."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from headwater import backbones, objectives
from headwater.errors import InputError
from headwater.objectives import Network
from headwater.objectives.prototypes import sinkhorn
from headwater.views import Views


def test_sinkhorn_spreads_rows_over_prototypes():
    scores = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    found = sinkhorn(scores, 0.5)
    torch.testing.assert_close(found.sum(1), torch.ones(24))
    torch.testing.assert_close(found.sum(0), torch.full((4,), 6.0), rtol=0.15, atol=0.0)
    assert F.softmax(scores / 0.5, 1).sum(0).std() > 3 * found.sum(0).std()
    exact = torch.exp(scores.double() / 0.5)  # the paper's algorithm, in plain numbers
    for _ in range(3):
        exact /= exact.sum(0, keepdim=True) * 4
        exact /= exact.sum(1, keepdim=True) * 24
    torch.testing.assert_close(found.double(), exact * 24, rtol=1e-4, atol=1e-6)


def test_sinkhorn_is_entropic_transport():
    """Repeated, it is the plan of least cost with equal shares: POT finds the same."""
    ot = pytest.importorskip("ot")
    scores = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)).double()
    plan = ot.sinkhorn([1 / 12] * 12, [1 / 3] * 3, -scores.numpy(), 0.3, stopThr=1e-12)
    turned = scores
    for _ in range(60):  # sinkhorn() does three rounds: give it its own logarithm again
        turned = 0.3 * sinkhorn(turned, 0.3).log()
    torch.testing.assert_close(sinkhorn(turned, 0.3) / 12, torch.from_numpy(plan), rtol=1e-5, atol=1e-8)


def case(local=False, **options):
    torch.manual_seed(0)
    objective = objectives.build("dino", prototypes=5, width=16, **options)
    backbone = backbones.build("vit", "nano", 1, 2)
    student = Network(backbone, objective.heads(backbone))
    teacher = copy.deepcopy(student).requires_grad_(False)
    for p in teacher.parameters():
        p.add_(0.05 * torch.randn_like(p))
    keep = torch.rand(2, 3, 16).argsort(-1) < 6
    extra = torch.randn(2, 3, 1, 8, 8) if local else None
    views = Views(torch.randn(2, 3, 1, 16, 16), torch.zeros(2, 3, 2, 2), keep.view(2, 3, 4, 4), local=extra)
    return objective, student, teacher, views


def entropy(target, scores, warm=0.1):
    """Cross entropy of two rows, in plain Python."""
    total = math.log(sum(math.exp(s / warm) for s in scores.tolist()))
    return sum(t * (total - s / warm) for t, s in zip(target.tolist(), scores.tolist(), strict=True))


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("centring", ["sinkhorn", "centre", "none"])
def test_parts_by_loops(local, centring):
    objective, student, teacher, views = case(local, centring=centring)
    sort, guide = student.heads["prototypes"], teacher.heads["prototypes"]
    sort.centres.copy_(0.3 * torch.randn(2, 5))
    before = sort.centres.clone()
    x = views.x.flatten(0, 1)
    with torch.no_grad():
        whole, seen = teacher(x), student(x, views.keep.flatten(0, 1))

    def target(scores, level):
        if centring == "sinkhorn":
            return sinkhorn(scores, 0.05)
        return F.softmax((scores - (before[level] if centring == "centre" else 0)) / 0.05, -1)

    with torch.no_grad():
        true = target(guide(whole.pooled), 0).view(2, 3, 5)
        said = [(v, part) for v, part in enumerate(sort(seen.pooled).view(2, 3, 5))]
        if local:
            said += [(None, sort(student(part).pooled)) for part in views.local]
        pairs = [(a[b], true[w, b]) for (v, a), w, b in itertools.product(said, range(2), range(3)) if v != w]
        assert len(pairs) == 3 * (2 + 4 * local)
        exact = sum(entropy(t, s) for s, t in pairs) / len(pairs)
        hidden = ~views.keep.flatten(0, 1).flatten(1)
        answers = sort(student.heads["refill"](seen).tokens[hidden])
        dense = target(guide(whole.tokens[hidden]), 1)
        exact_dense = sum(entropy(t, s) for s, t in zip(answers, dense, strict=True)) / len(answers)
    loss, parts = objective(student, teacher, views)
    assert math.isclose(parts["pooled"].item(), exact, rel_tol=1e-4)
    assert math.isclose(parts["dense"].item(), exact_dense, rel_tol=1e-4)
    assert torch.isclose(loss, parts["pooled"] + parts["dense"])
    moved = (sort.centres - before).abs().max()
    if centring == "centre":
        torch.testing.assert_close(sort.centres[0], 0.9 * before[0] + 0.1 * guide(whole.pooled).mean(0))
    assert (moved > 0) == (centring == "centre")


def test_scores_are_cosines():
    _, student, _, views = case()
    scores = student.heads["prototypes"](5 * torch.randn(7, student.backbone.dim))
    assert scores.shape == (7, 5) and scores.abs().max() <= 1 + 1e-5


def test_faults():
    for options, words in (
        ({"centring": "mean"}, "sinkhorn, centre, none"),
        ({"prototypes": 1}, "objective.prototypes=64"),
        ({"sharp": 0.2}, "at most the student's 0.1"),
    ):
        with pytest.raises(InputError, match=words):
            objectives.build("dino", **options)
    objective, student, teacher, views = case()
    with pytest.raises(InputError, match="mask_ratio=0.75"):
        objective(student, teacher, Views(views.x, views.boxes))
