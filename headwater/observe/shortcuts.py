"""Do features follow what they should not: the scale of intensities, or the scanner?"""

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from headwater.observe.features import FEWEST, agreement
from headwater.observe.number import Number, absent, broken

QUANTILES = tuple(k / 10 for k in range(1, 10))
SAMPLED = 4096  # voxels behind an image's quantiles
FOLDS = 5
STRENGTHS = tuple(10.0**k for k in range(-2, 4))  # of the ridge, on standardised quantiles


def of(pooled: tuple[Tensor, Tensor | None], images: Tensor | None, groups: Tensor | None, seed: int) -> dict[str, Number]:
    """Both numbers, absent where images or groups are."""
    by_intensity = absent("no images were given") if images is None else intensity(pooled[0], images)
    if groups is None or pooled[1] is None:
        return {"shortcut.intensity": by_intensity, "shortcut.group": absent("no groups (scanner, site) were given")}
    return {"shortcut.intensity": by_intensity, "shortcut.group": within(pooled[0], pooled[1], groups, seed)}


def intensity(pooled: Float[Tensor, "n d"], images: Float[Tensor, "n C *S"]) -> Number:
    """Share of the features' variance that nine quantiles of the image's own intensities predict (ridge, cross-validated).

    Returns: at most 1; below 0 where they predict worse than the mean does. Untrained networks score high too: compare with
    the start of the same network.
    """
    how = "the mean of all images"
    if len(pooled) < 4 * FOLDS:
        return absent(f"{len(pooled)} images are too few for {FOLDS} folds", how)
    if why := broken(pooled):
        return absent(why, how)
    flat = images.flatten(1)
    flat = flat[:, :: max(1, flat.shape[1] // SAMPLED)].float()
    told = torch.quantile(flat, torch.tensor(QUANTILES), dim=1).T.double().numpy()
    wanted = pooled.double().numpy()
    scatter = float(((wanted - wanted.mean(0)) ** 2).sum())
    if not scatter > 0:
        return absent("every image has the same features", how)
    return Number(1 - float(((wanted - _predicted(told, wanted)) ** 2).sum()) / scatter, 0.0, how)


def _predicted(told: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Ridge on standardised columns, each fifth from the others; strength: least leave-one-out error there.

    In numpy, as scikit-learn's would add 40 MB to a training run for this one number; tested against it.
    """
    said = np.empty_like(wanted)
    for fold in np.array_split(np.arange(len(told)), FOLDS):
        rest = np.setdiff1d(np.arange(len(told)), fold)
        mean, scale = told[rest].mean(0), told[rest].std(0)
        x, new = ((told[rows] - mean) / np.where(scale > 0, scale, 1) for rows in (rest, fold))
        y = wanted[rest] - wanted[rest].mean(0)
        u, s, vt = np.linalg.svd(x, full_matrices=False)

        def error(strength: float, u: np.ndarray = u, s: np.ndarray = s, y: np.ndarray = y) -> float:
            shrink = s**2 / (s**2 + strength)
            lever = (u**2 * shrink).sum(1) + 1 / len(y)
            return float((((y - u * shrink @ (u.T @ y)) / (1 - lever)[:, None]) ** 2).mean())

        best = min(STRENGTHS, key=error)
        said[fold] = new @ (vt.T * (s / (s**2 + best)) @ (u.T @ y)) + wanted[rest].mean(0)
    return said


def within(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], groups: Integer[Tensor, "n"], seed: int) -> Number:
    """Reliability between two views once each group's mean is removed: what is left of agreement within a scanner.

    Null: what permuted pairs reach in 95 of 100 draws. Within it, while the whole agreement is high: features tell scanners apart
    and nothing else.
    """
    how = "95th percentile of permuted pairs, group means removed"
    kinds, place, counts = np.unique(groups.cpu().numpy(), return_inverse=True, return_counts=True)
    if len(kinds) < 2:
        return absent("all images are of one group", how)
    keep = torch.from_numpy(counts[place] > 1)
    if int(keep.sum()) < FEWEST:
        return absent(f"fewer than {FEWEST} images share their group with another", how)
    if why := broken(a) or broken(b):
        return absent(why, how)
    index = torch.from_numpy(place)
    rest = []
    for x in (a.double(), b.double()):
        sums = torch.zeros(len(kinds), x.shape[1], dtype=x.dtype).index_add_(0, index, x)
        rest.append((x - (sums / torch.from_numpy(counts)[:, None])[index])[keep])
    found = agreement(*rest, seed=seed)
    return Number(found.reliability, found.null95, how, found.why)
