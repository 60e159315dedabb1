"""How far a linear code gets: variance that principal components explain in scans they have not seen."""

import numpy as np

from headwater.scans.distribution.finding import Finding, Null, Plot, Series, absent, short
from headwater.scans.distribution.patches import Patches
from headwater.scans.distribution.intervals import interval, resample, spread, sums

SHARES = (0.5, 0.9, 0.95, 0.99)
_SHUFFLES = 3
_FEWEST = 20  # patches in each half


def explained(flat: np.ndarray, half: np.ndarray) -> np.ndarray:
    """(n, d) and halves (n,) of 0 and 1 to (n, 1 + k): squared error of each patch with 0..k components.

    Components and mean are of the other half. Column 0 is the squared distance from that half's mean.
    """
    errors = []
    for this in (0, 1):
        train, test = flat[half != this], flat[half == this]
        mean = train.mean(axis=0)
        _, vectors = np.linalg.eigh((train - mean).T @ (train - mean))
        rank = min(flat.shape[1], min((half == 0).sum(), (half == 1).sum()) - 1)
        scores = (test - mean) @ vectors[:, ::-1][:, :rank]
        whole = ((test - mean) ** 2).sum(axis=1, keepdims=True)
        errors.append(np.concatenate([whole, whole - np.cumsum(scores**2, axis=1)], axis=1))
    result = np.empty((len(flat), errors[0].shape[1]))
    result[half == 0], result[half == 1] = errors
    return np.maximum(result, 0)


def needed(error: np.ndarray, share: float) -> np.ndarray:
    """(..., 1 + k) summed squared errors to the fewest components that explain `share`; NaN if k do not."""
    reached = error <= (1 - share) * error[..., :1] * (1 + 1e-9)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), np.nan)


def linear(patches: Patches, rng: np.random.Generator) -> tuple[list[Finding], list[Plot]]:
    """Components for 50, 90, 95 and 99 % of the variance of held-out scans, each half coded by components of the other.

    Interval: bootstrap over scans, components fixed. Null: every voxel shuffled between patches, which keeps its own
    distribution and removes what voxels share.
    """
    names = {share: f"components for {share:.0%} of the variance" for share in SHARES}
    half = _halves(patches, rng)
    if patches.units < 2 or min((half == 0).sum(), (half == 1).sum()) < _FEWEST:
        why = (
            "it takes two subjects, one to fit and one to test"
            if patches.units < 2
            else "there are too few patches with contrast"
        )
        return [absent(name, "components", why) for name in names.values()], []
    flat = patches.flat
    width = flat.shape[1]
    every = sums(explained(flat, half), patches.unit, patches.units)  # (units, 1 + k)
    total = every.sum(axis=0)
    shuffled = [explained(rng.permuted(flat, axis=0), half).sum(axis=0) for _ in range(_SHUFFLES)]
    draws = resample(patches.units, rng) @ every
    findings = [_finding(names[share], share, total, draws, shuffled, patches.units, width) for share in SHARES]
    return findings, [_plot(total, np.mean(shuffled, axis=0), width)]


def _halves(patches: Patches, rng: np.random.Generator) -> np.ndarray:
    """(n,) 0 or 1 by subject."""
    side = rng.permutation(np.arange(patches.units) % 2)
    return side[patches.unit]


def _finding(
    name: str, share: float, total: np.ndarray, draws: np.ndarray, shuffled: list[np.ndarray], units: int, width: int
) -> Finding:
    value = float(needed(total, share))
    most = len(total) - 1
    if not np.isfinite(value):
        return absent(name, "components", f"{most} of {width} components, all that could be fitted, explain less")
    by_chance = np.array([needed(s, share) for s in shuffled])
    if np.isfinite(by_chance).all():
        middle, low, high = spread(by_chance)
        null = Null("voxels shuffled between patches", middle, max(low, 0.0), min(high, float(width)))
        beyond = f"{short(null.value)} if voxels shared nothing"
    else:
        null, beyond = None, f"more than {most} if voxels shared nothing"
    span = interval(needed(draws, share), units)
    few = f"{int(value)} linear component{'s' if value != 1 else ''} of {width}"
    worth = "" if null is None or value < null.low else ", so a linear code saves nothing"
    return Finding(
        name,
        value,
        "components",
        f"{few} explain{'s' if value == 1 else ''} {share:.0%} of the variance of scans they have not seen ({beyond}){worth}.",
        span,
        None,
        null,
    )


def _plot(total: np.ndarray, shuffled: np.ndarray, width: int) -> Plot:
    some = np.unique(np.concatenate([[0], np.geomspace(1, len(total) - 1, 60).round()]).astype(int))
    real, null = ((1 - t / t[0])[some] for t in (total, shuffled))
    series = (
        Series("scans", tuple(some.astype(float).tolist()), tuple(real.tolist())),
        Series("shuffled voxels", tuple(some.astype(float).tolist()), tuple(null.tolist())),
    )
    return Plot(
        "linear code", f"Variance explained by components (of {width})", "components", "share explained, held-out scans", series
    )
