"""Intervals over scans: voxels of one scan are no independent witnesses, scans are."""

import numpy as np

FEWEST = 5  # scans below which a bootstrap interval would promise too much
DRAWS = 300


def resample(units: int, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """(draws, units) how often each scan is drawn, with replacement (Efron 1979)."""
    return rng.multinomial(units, np.full(units, 1 / max(1, units)), size=draws).astype(float) if units else np.zeros((draws, 0))


def interval(values: np.ndarray, units: int) -> tuple[float, float] | None:
    """95 % percentile interval of bootstrap values; None with fewer than five scans or if values are not finite."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if units < FEWEST or len(values) < 20:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def sums(values: np.ndarray, unit: np.ndarray, units: int) -> np.ndarray:
    """(n, ...) to (units, ...): summed over what belongs to each scan."""
    total = np.zeros((units, *values.shape[1:]))
    np.add.at(total, unit, values)
    return total


def spread(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % range of a few draws of one number under a null (Student's t for a next draw)."""
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean, mean
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values)))
    return mean, mean - half, mean + half


def weighted_mean(values: np.ndarray, unit: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(draws,) mean over scans, each counted as often as its subject was drawn; NaN where none was."""
    weights = draws[:, unit]
    total = weights.sum(axis=1)
    return np.divide(weights @ values, total, out=np.full(len(draws), np.nan), where=total > 0)


def weighted_median(values: np.ndarray, unit: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(draws,) median over scans, each counted as often as its subject was drawn; NaN where none was."""
    order = np.argsort(values)
    weights = np.cumsum(draws[:, unit[order]], axis=1)
    at = (weights >= weights[:, -1:] / 2).argmax(axis=1)
    return np.where(weights[:, -1] > 0, values[order][at], np.nan)
