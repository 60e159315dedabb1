"""How far around a voxel must one look to know its label? A small probe on crops of growing radius; no network is trained.

And how far a network looks: its theoretical and its effective receptive field, in the same mm.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from headwater.backbones.convolutions import InstanceNorm
from headwater.errors import InputError
from headwater.scans.store import Store
from headwater.streams import numpy_stream
from headwater.transfer.scores import interval

RADII = 7
SUBJECTS = 16  # at most
FEWEST = 4  # subjects without which an error over subjects means little
CLASSES = 6  # the most frequent
VOXELS = 30  # of each class and scan
OUTSIDE = 5000  # voxels of the background among which the alike are looked for
TREES = 40
CELLS = {2: 5, 3: 3}  # a crop is averaged to so many cells along each axis
ENERGY = 0.95  # of a gradient that lies inside the effective radius (two standard deviations, as in Luo et al. 1701.04128)


@dataclass(frozen=True)
class Curve:
    """Error of the probe against the radius of the crop: mean over classes, then over subjects held out, with its 95 % interval.

    radius_mm: half the width of the crop. chance: error on shuffled labels. saturation_mm: the smallest radius whose error
    exceeds the least by no more than one standard error of the difference, subject by subject; blind: pairs of classes that no
    radius tells apart, of which the curve says nothing. unit: of lengths, as the store has it; all "mm" here are in it.
    """

    radius_mm: tuple[float, ...]
    error: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chance: float
    saturation_mm: float
    blind: tuple[tuple[str, str], ...]
    subjects: int
    voxels: int
    sentence: str
    unit: str = "mm"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reach:
    """How far a network looks from a voxel, mm: what could matter to it at all, and where 95 % of its gradient's energy lies."""

    theoretical_mm: float
    effective_mm: float


def curve(store: Store, labelled: Sequence[int], seed: int = 0) -> Curve:
    """The context curve of some labelled scans, the first of each subject; cross-validated by subject.

    Voxels: as many of each structure, and of background each as bright as one of those, so that easy background does not hide
    what the question is. Features of a radius: the crops of all radii up to it, each averaged to a few cells, with
    the mean strength of its gradients along each axis and of its contrast; what lies outside the scan is 0, the mean. The place
    in the image is no feature: it can be known only from a crop that holds an edge of the scan. Classifier: extremely
    randomised trees (scikit-learn). Raises InputError with fewer than four labelled subjects or fewer than two classes.
    """
    rng = numpy_stream(seed, "context")
    first = list({store.subjects[i]: i for i in reversed(labelled)}.values())
    scans = sorted(rng.permutation(first)[:SUBJECTS].tolist())
    if len(scans) < FEWEST:
        raise InputError(f"The context curve needs labelled scans of {FEWEST} subjects, here are {len(scans)}: give more masks.")
    radii = _radii(store, scans)
    flat, label, group = [], [], []
    wanted = _frequent(store, scans)
    for place, i in enumerate(scans):
        voxels, classes = _voxels(store, i, wanted, rng)
        if len(np.unique(classes)) < 2:
            continue  # one class alone is no question
        flat.append(_crops(store.image(i), voxels, radii, store.spacing))
        label.append(classes)
        group.append(np.full(len(classes), place))
    if len(label) < FEWEST:
        raise InputError(f"The context curve needs {FEWEST} scans with two classes, here are {len(label)}: give more masks.")
    features, labels, groups = np.concatenate(flat), np.concatenate(label), np.concatenate(group)
    found = [_shares(features[:, : k + 1], labels, groups, seed) for k in range(len(radii))]
    return _read(found, radii, labels, groups, features[:, -1:], store.names, seed, store.unit)


def reach(network: nn.Module, store: Store, labelled: Sequence[int], seed: int = 0, places: int = 8) -> Reach:
    """How far a segmenter of this store's scans looks. It is handed back as it was.

    Theoretical: half the longest way from a voxel to an input voxel with a gradient, without norms, which average over the whole
    scan and so look everywhere a little; inf if it ends at the edge of the test image. Effective: the half width of the box that
    holds 95 % of the squared gradient of the logits of `places` voxels of structures, each of its own scan, mean over places;
    never more than the theoretical one: what norms bring from farther off is an average and has no place.
    Radii are those of boxes, as in the curve. A network that has not learned yet looks less far than it will.
    """
    rng, kept, was = numpy_stream(seed, "reach"), [], network.training
    network.eval()
    for i in rng.permutation(list(labelled))[:places].tolist():
        mask = np.asarray(store.label(i))
        inside = np.argwhere((mask > 0) & (mask < store.classes))
        if len(inside):
            at = inside[rng.integers(len(inside))]
            strength = _gradient(network, torch.from_numpy(store.image(i).astype(np.float32))[None], at) ** 2
            far, order = _distances(strength.shape, at, store.spacing)
            share = np.cumsum(strength.ravel()[order])
            kept.append(far.ravel()[order][np.searchsorted(share, ENERGY * share[-1])])
    network.train(was)
    if not kept:
        raise InputError("How far a network looks is measured on labelled scans with structures; these have none.")
    far = _theoretical(network, store)
    return Reach(far, min(far, float(np.mean(kept))))


def _gradient(network: nn.Module, x: torch.Tensor, at: np.ndarray) -> np.ndarray:
    """(*S) strength of the gradient of the largest logit over the others at one voxel, summed over channels."""
    x = x.to(next(network.parameters()).device).requires_grad_(True)
    with torch.enable_grad():
        logits = network(x)[(0, slice(None), *at.tolist())]
        (slope,) = torch.autograd.grad(logits.max() - logits.mean(), x)
    return slope[0].abs().sum(0).cpu().double().numpy()


def _distances(shape: tuple[int, ...], at: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(*S) largest distance along any axis from a voxel, mm, and the order of the flattened voxels from near to far."""
    axes = [abs(np.arange(n) - c) * mm for n, c, mm in zip(shape, at, spacing, strict=True)]
    far = np.max(np.stack(np.meshgrid(*axes, indexing="ij")), axis=0)
    return far, np.argsort(far, axis=None, kind="stable")


def _theoretical(network: nn.Module, store: Store, longest: int = 256) -> float:
    """Half the width in mm of what can matter to a voxel, along the axis where that is most; inf if everything can."""
    bare, widest = copy.deepcopy(network).eval(), 0.0
    for part in bare.modules():
        if isinstance(part, InstanceNorm):
            part.forward = lambda x, *rest: x
    for axis, mm in enumerate(store.spacing):
        size = [16 if a != axis else longest for a in range(store.ndim)]
        noise = numpy_stream(0, "reach", axis).standard_normal((1, store.channels, *size), np.float32)
        at = np.array([n // 2 for n in size])
        seen = np.flatnonzero(np.moveaxis(_gradient(bare, torch.from_numpy(noise), at), axis, 0).reshape(longest, -1).any(1))
        if seen[0] == 0 or seen[-1] == longest - 1:
            return math.inf
        widest = max(widest, mm * max(at[axis] - seen[0], seen[-1] - at[axis]))
    return float(widest)


def _radii(store: Store, scans: Sequence[int]) -> np.ndarray:
    """Radii in mm: from a voxel and a half of the finest axis to three quarters of the widest scan, at equal ratios."""
    widest = np.median([max(n * mm for n, mm in zip(store.shape(i), store.spacing, strict=True)) for i in scans])
    return np.geomspace(1.5 * min(store.spacing), max(0.75 * widest, 3 * min(store.spacing)), RADII)


def _frequent(store: Store, scans: Sequence[int]) -> list[int]:
    """The classes that most scans hold, background first."""
    counts = np.zeros(store.classes, int)
    for i in scans:
        present = np.unique(store.label(i))
        counts[present[present < store.classes]] += 1
    order = np.argsort(-counts[1:], kind="stable") + 1
    return [0, *sorted(k for k in order[: CLASSES - 1].tolist() if counts[k])]


def _voxels(store: Store, i: int, wanted: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, d) and classes (n,) of voxels of one scan: of each structure, and of background as bright as those are."""
    from scipy.ndimage import uniform_filter

    mask = np.asarray(store.label(i))
    flat, bright = mask.ravel(), uniform_filter(store.image(i)[0].astype(np.float32), 3, mode="nearest").ravel()
    chosen = [rng.permutation(np.flatnonzero(flat == k))[:VOXELS] for k in wanted[1:]]
    inside, outside = np.concatenate([*chosen, np.zeros(0, int)]), rng.permutation(np.flatnonzero(flat == 0))[:OUTSIDE]
    if len(inside) and len(outside):  # for each of some voxels of structures the background voxel nearest in brightness
        outside = outside[np.argsort(bright[outside], kind="stable")]
        asked = bright[rng.permutation(inside)[:VOXELS]]
        after = (
            np.searchsorted(bright[outside], asked).clip(1, len(outside) - 1) if len(outside) > 1 else np.zeros(len(asked), int)
        )
        before = np.maximum(after - 1, 0)
        nearer = abs(bright[outside[before]] - asked) < abs(bright[outside[after]] - asked)
        chosen.append(np.unique(outside[np.where(nearer, before, after)]))
    voxels = np.concatenate([*chosen, np.zeros(0, int)])
    return np.stack(np.unravel_index(voxels, mask.shape), 1), flat[voxels].astype(int)


def _crops(image: np.ndarray, voxels: np.ndarray, radii: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """(n, radii, features) of crops around the voxels: means over boxes, looked up in summed-area tables."""
    x = image.astype(np.float32)
    steps = [np.abs(np.diff(x, axis=a + 1, append=x.take([-1], a + 1))).mean(0) for a in range(len(spacing))]
    tables = [_table(c) for c in x], [_table(s) for s in (*steps, np.square(x).mean(0))]
    cells, scaled = CELLS[len(spacing)], []
    for radius in radii:
        half = np.round(radius / np.array(spacing), 6) + 0.5
        edges = [np.rint(np.linspace(-h, h, cells + 1) + 0.5).astype(int) for h in half]  # relative to the voxel
        row = []
        for cell in product(range(cells), repeat=len(spacing)):
            start = np.array([e[c] for e, c in zip(edges, cell, strict=True)])
            stop = np.array([max(e[c + 1], e[c] + 1) for e, c in zip(edges, cell, strict=True)])
            row += [_means(t, voxels + start, voxels + stop) for t in tables[0]]
        whole = voxels + np.array([e[0] for e in edges]), voxels + np.array([e[-1] for e in edges])
        row += [_means(t, *whole) for t in tables[1]]
        scaled.append(np.stack(row, 1))
    return np.stack(scaled, 1).astype(np.float32)


def _table(x: np.ndarray) -> np.ndarray:
    """Sums over all boxes that begin at the corner, one longer along each axis (Crow 1984)."""
    sums = np.pad(x.astype(np.float64), [(1, 0)] * x.ndim)
    for axis in range(x.ndim):
        np.cumsum(sums, axis, out=sums)
    return sums


def _means(table: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """(n,) means over the boxes [start, stop), with 0 outside the image."""
    size, total = np.array(table.shape) - 1, 0.0
    bounds = np.clip(start, 0, size), np.clip(stop, 0, size)
    for corner in product((0, 1), repeat=table.ndim):
        at = tuple(bounds[c][:, a] for a, c in enumerate(corner))
        total = total + (-1) ** (table.ndim - sum(corner)) * table[at]
    return total / np.prod(stop - start, axis=1)


def _shares(
    features: Float[np.ndarray, "n R F"], labels: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, "n K"]:
    """Probability of each class (in the order of np.unique) for voxels of subjects held out."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import GroupKFold

    flat, known = features.reshape(len(features), -1), np.unique(labels)
    given = np.zeros((len(labels), len(known)))
    for learn, held in GroupKFold(min(4, len(np.unique(groups)))).split(flat, labels, groups):
        trees = ExtraTreesClassifier(TREES, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=1)
        trees.fit(flat[learn], labels[learn])
        given[np.ix_(held, np.searchsorted(known, trees.classes_))] = trees.predict_proba(flat[held])
    return given


def _errors(given: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(subjects,) mean over a subject's classes of the share of wrong voxels."""
    wrong = np.unique(labels)[given.argmax(1)] != labels
    each = [[wrong[(groups == g) & (labels == k)].mean() for k in np.unique(labels[groups == g])] for g in np.unique(groups)]
    return np.array([np.mean(row) for row in each])


def _read(
    found: list[np.ndarray],
    radii: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    widest: np.ndarray,
    names: tuple[str, ...],
    seed: int,
    unit: str,
) -> Curve:
    """The curve from what the probe gave at each radius."""
    errors = np.stack([_errors(given, labels, groups) for given in found])  # (radii, subjects)
    bounds = [interval(row[None], seed, bounds=(0.0, 1.0)) for row in errors]
    rng, shuffled = numpy_stream(seed, "context", "shuffled"), labels.copy()
    for g in np.unique(groups):
        shuffled[groups == g] = rng.permutation(labels[groups == g])
    chance = float(_errors(_shares(widest, shuffled, groups, seed), shuffled, groups).mean())
    best = int(errors.mean(1).argmin())
    at = next(i for i, more in enumerate(errors - errors[best]) if more.mean() <= _standard_error(more))
    known, blind = np.unique(labels), []
    for a, b in combinations(range(len(known)), 2):
        some = np.isin(labels, known[[a, b]])
        rows = [_errors(given[some][:, [a, b]], labels[some], groups[some]) for given in found]
        lowest = min(rows, key=lambda row: row.mean())
        if lowest.mean() + 3 * _standard_error(lowest) >= 0.5:
            blind.append((names[known[a]], names[known[b]]))
    words = (
        f"The label of a voxel is known as well from {radii[at]:.3g} {unit} around it as from more: "
        f"error {100 * errors[at].mean():.0f} % (least {100 * errors[best].mean():.0f} %, chance {100 * chance:.0f} %)."
    )
    if blind:
        pairs = ", ".join(f"{a} from {b}" for a, b in blind)
        words = f"The probe tells {pairs} at no radius, so the context curve says nothing."
    return Curve(
        tuple(float(r) for r in radii), tuple(b.mean for b in bounds), tuple(b.low for b in bounds),
        tuple(b.high for b in bounds), chance, float(radii[at]), tuple(blind), len(np.unique(groups)), len(labels), words, unit,
    )  # fmt: skip


def _standard_error(values: np.ndarray) -> float:
    """Of the mean over subjects."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))
