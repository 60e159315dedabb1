"""Short runs on made-up pictures: what every objective gains as it is, and how it looks when it is broken."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headwater.objectives import OBJECTIVES
from headwater.observe.verdict import TRAINED
from headwater.scans import phantom

pytestmark = pytest.mark.slow

LEARNT = 40  # scans whose labels the probe learns from


@torch.no_grad()
def described(backbone, store, scans):
    """Tokens (N, D) of each scan, and which structure has most of each token's cell (N,)."""
    found, backbone = [], backbone.eval()
    for i in scans:
        label, stride = np.asarray(store.label(i)).squeeze(), backbone.stride
        label = np.pad(label, [(0, -n % s) for n, s in zip(label.shape, stride, strict=True)])
        cells = np.stack([label == k for k in range(len(phantom.NAMES) + 1)]).reshape(
            -1, label.shape[0] // stride[0], stride[0], label.shape[1] // stride[1], stride[1]
        )
        image = torch.from_numpy(np.array(store.image(i), np.float32))[None]
        found.append((backbone(image).tokens[0].numpy(), cells.sum((2, 4)).argmax(0).ravel()))
    return found


def dice(backbone, store):
    """Of each held-out scan: mean over its structures, by a linear probe on standardised tokens."""
    known, held = (described(backbone, store, store.split(name)) for name in ("train", "test"))
    rows, labels = (np.concatenate(part) for part in zip(*known[:LEARNT], strict=True))
    middle, scale = rows.mean(0), rows.std(0) + 1e-6 * rows.std()
    probe = LogisticRegression(C=0.03, max_iter=150).fit((rows - middle) / scale, labels)
    found = []
    for tokens, truth in held:
        said = probe.predict((tokens - middle) / scale)
        there = [k for k in (1, 2, 3) if (truth == k).any()]
        found.append(np.mean([2 * ((said == k) & (truth == k)).sum() / ((said == k).sum() + (truth == k).sum()) for k in there]))
    return np.array(found)


def interval(gain):
    """95 % of the mean gain over scans, bootstrapped."""
    drawn = np.random.default_rng(0).integers(0, len(gain), (4000, len(gain)))
    return np.quantile(gain[drawn].mean(1), (0.025, 0.975))


MEASURED = ("cva", "simclr", "jepa", "lejepa", "dino", "distil")  # one of each kind; all twelve: benchmarks/objectives.py


@pytest.mark.parametrize("name", MEASURED)
def test_features_tell_more_than_before_training(name, learn, pictures, record_property):
    """Structures of held-out scans, by a probe on frozen tokens: the gain over the own initialisation is above zero."""
    run = learn(name)
    before, after = dice(run.before, pictures), dice(run.after, pictures)
    low, high = interval(after - before)
    record_property("probe", f"{before.mean():.3f} to {after.mean():.3f}, gain {low:.3f} to {high:.3f}; {run.verdict.sentence}")
    assert low > 0, (name, low, high)
    assert run.verdict.state != "collapsed", run.verdict.sentence


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_broken_collapses_and_is_flagged(name, collapse, record_property):
    """On a small ViT: images differ a hundred times less at a level that is trained, and the watch says so."""
    run = collapse(name, True)
    record_property("watch", f"{run.verdict.state}: {run.verdict.sentence} {run.verdict.numbers}")
    assert run.verdict.state == "collapsed" and "start again" in run.verdict.sentence, run.verdict.sentence
    numbers = run.verdict.numbers
    assert min(numbers[level]["spread"] for level in TRAINED[name]) < 0.008 * 0.8, numbers


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_whole_is_not_flagged_there(name, collapse):
    """The same objective, network and scans with nothing taken away."""
    run = collapse(name, False)
    assert run.verdict.state != "collapsed", run.verdict.sentence
    assert min(run.verdict.numbers[level]["spread"] for level in TRAINED[name]) > 0.03, run.verdict.numbers
