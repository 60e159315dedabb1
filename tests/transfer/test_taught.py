"""Self-taught: batches keep what is known, take what the teacher is sure of, and the teacher follows."""

import copy

import pytest
import torch
from headwater.transfer import batches, draws, segment, taught

KEY = ("adapt", 0, 2)


@pytest.fixture(params=[2, 3])
def lesson(request, flat, solid, tiny):
    """A lesson, its store, network, and a batch of the labelled scans."""
    store, settings = {2: flat, 3: solid}[request.param], tiny(request.param, "adapt.steps=10", "adapt.batch=4")
    few = draws.drawn(store, 0, 2, 0)
    network = segment.untrained("scratch", store, settings, KEY)
    made = taught.Lesson(network, store, draws.unlabelled(store, few), settings, 3)
    return made, store, network, batches.batch_at(9, store, few, settings, 3)


def test_masks_alone_teach_at_first(lesson):
    made, _, _, (images, masks) = lesson
    same = made.batch(0, images, masks)
    assert same[0] is images and same[1] is masks
    made.unlabelled = []
    assert made.batch(9, images, masks)[0] is images, "and always where nothing is unlabelled"


def test_what_is_labelled_stays_and_the_rest_comes_from_the_teacher(lesson):
    made, store, _, (images, masks) = lesson
    mixed, told = made.batch(9, images, masks)
    weak, strong, beyond = made.patches(9, len(images))
    assert weak.shape == strong.shape and not torch.equal(weak, strong), "grey values change, places do not"
    kept = (mixed == images).all(1)
    assert mixed.shape == images.shape and told.dtype == torch.int64
    assert torch.equal(told[kept], masks[kept]), "no mask changes where the labelled scan shows"
    assert torch.equal(mixed.movedim(1, -1)[~kept], strong.movedim(1, -1)[~kept])
    assert (told[~kept & beyond] == batches.unknown(store.classes)).all(), "nothing is known beyond a scan"
    share = (~kept).flatten(1).float().mean(1)
    assert (share > 0.1).all() and (share < 0.9).all(), "each image shows both"
    assert set(told.unique().tolist()) <= {*range(store.classes), batches.unknown(store.classes)}
    assert torch.equal(mixed, made.batch(9, images, masks)[0]) and not torch.equal(mixed, made.batch(8, images, masks)[0])


class Sure(torch.nn.Module):
    """A teacher that knows one class, so surely."""

    def __init__(self, classes: int, known: int, chance: float) -> None:
        super().__init__()
        odds = torch.full((classes,), (1 - chance) / (classes - 1))
        odds[known] = chance
        self.logits = odds.log()

    def forward(self, x):
        return self.logits.view(1, -1, *[1] * (x.ndim - 2)).expand(len(x), -1, *x.shape[2:])


def test_only_what_the_teacher_is_sure_of_counts(lesson):
    made, store, _, (images, _) = lesson
    made.teacher = Sure(store.classes, 2, 0.97)
    assert (made.masks(images) == 2).all()
    made.teacher = Sure(store.classes, 2, 0.6)
    assert (made.masks(images) == batches.unknown(store.classes)).all()


def test_regions_that_are_sure(flat, tiny):
    values = [str(v) for v in flat.values[1:]]
    settings = tiny(2, "adapt.regions=" + ",".join("+".join(values[n:]) for n in range(len(values))))
    network = segment.untrained("scratch", flat, settings, KEY)
    made = taught.Lesson(network, flat, [0], settings, 0)
    made.teacher = lambda x: torch.tensor([4.0, -4.0, -4.0])[: len(values)].view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])
    images = torch.zeros(2, 1, 8, 8)
    assert (made.masks(images) == 1).all(), "in the largest region and in no other"
    made.teacher = lambda x: torch.zeros(len(x), len(values), *x.shape[2:])
    assert (made.masks(images) == batches.unknown(flat.classes)).all()


def test_the_teacher_follows_and_never_learns_by_itself(lesson):
    made, _, network, _ = lesson
    start = copy.deepcopy(made.teacher.state_dict())
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    made.learn(network)
    moved = [(new - start[key]).mean().item() for key, new in made.teacher.named_parameters()]
    assert all(0 < step <= 1 for step in moved), "some of the way"
    for _ in range(20):
        made.learn(network)
    for (_, ours), theirs in zip(made.teacher.named_parameters(), network.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=0.02)
    assert not any(p.requires_grad for p in made.teacher.parameters()) and not made.teacher.training
    assert all(p.requires_grad for p in network.parameters()), "the student still learns"


def test_a_block_is_a_box_of_its_size_anywhere():
    corners = set()
    for step in range(30):
        inside = taught.block((12, 9), 0, step)
        assert inside.sum() == 8 * 6
        first = inside.nonzero().min(0).values.tolist()
        corners.add(tuple(first))
    assert len(corners) > 8 and torch.equal(taught.block((12, 9), 0, 5), taught.block((12, 9), 0, 5))


def test_a_whole_training_gives_the_teacher(flat, tiny, monkeypatch):
    settings = tiny(2, "adapt.steps=4")
    few = draws.drawn(flat, 0, 2, 0)
    monkeypatch.setattr(segment, "PRETRAINED", ())  # from scratch, for there is no pretrained state here
    made = [
        segment.fit("self-taught", flat, few, settings, None, KEY, unlabelled=rest) for rest in ([], draws.unlabelled(flat, few))
    ]
    plain, with_more = (network.state_dict() for network in made)
    assert not made[0].training and any(not torch.equal(plain[key], with_more[key]) for key in plain)
