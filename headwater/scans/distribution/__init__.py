"""Is the data Gaussian or something else? Numbers about patches of a folder of scans, each with its null and a sentence."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from headwater.errors import InputError
from headwater.progress import Progress, Silent
from headwater.scans.distribution import clones, correlation, dimension, gaussianity, labelled, linear, spectral
from headwater.scans.distribution.finding import Distribution, Finding, Null, Plot, Series
from headwater.scans.distribution.patches import PER_SCAN, Cut, Patches, Sample, cut, gather, usual, witnesses
from headwater.scans.distribution.intervals import FEWEST
from headwater.streams import numpy_stream

__all__ = ["Distribution", "Finding", "Null", "Plot", "Sample", "Series", "describe"]

SCANS = 48  # drawn
SMALL_SCANS = 384  # drawn of scans so small that together they have no more than _VOXELS
_VOXELS = 1 << 21
_PATCHES = 4800
_LABELLED = 1800

_Row = tuple[Cut, spectral.Spectrum, correlation.Decay, Sample]


def describe(read: Callable[[int], Sample], count: int, *, seed: int = 0, progress: Progress = Silent()) -> Distribution:
    """Looks at a random 48 of `count` scans (up to 384 small ones), one at a time, and measures how voxels are distributed.

    read: gives scan i of 0..count-1; one that cannot be read (InputError), has no contrast, NaN or infinite voxels, or
    other axes or channels than most is left out and noted. Each is brought to median 0 and spread 1 first.
    Never raises for what the data is: what cannot be measured is a finding without a value, and says why.
    """
    import scipy.linalg  # noqa: F401  (has linear algebra of its own, which is to be there when threads are limited)
    from threadpoolctl import threadpool_limits

    rows, notes = _draw(read, count, seed, progress)
    used, patch = usual([c for c, *_ in rows]) if rows else ([], ())
    notes += _said(len(rows) - len(used), "other axes or channels than most, or too small for the patch")
    kept = [row for row in rows if any(row[0] is c for c in used)]
    unit, units = witnesses(used)
    if 0 < units < FEWEST:
        notes.append(f"Fewer than {FEWEST} subjects: the numbers describe these scans, not others, and have no interval.")
    mm = "mm" if all(sample.spaced for *_, sample in kept) else "voxels"
    patches = gather(used, patch, _PATCHES, numpy_stream(seed, "distribution", "gather")) if used else _nothing()
    stages = {
        "gaussianity": lambda rng: gaussianity.gaussianity(patches, rng),
        "spectrum": lambda rng: spectral.spectrum([row[1] for row in kept], unit, units, mm, rng),
        "correlation": lambda rng: correlation.correlation([row[2] for row in kept], unit, units, mm, rng),
        "dimension": lambda rng: dimension.dimension(patches, rng),
        "linear": lambda rng: linear.linear(patches, rng),
        "clones": lambda rng: clones.clone_gap(labelled.labelled(used, patch, _LABELLED, rng), rng),
    }
    findings: list[Finding] = []
    plots: list[Plot] = []
    small = threadpool_limits(1)  # of matrices this small, threads would mostly wait for each other
    with small, progress.track("Measuring the distribution", total=len(stages)) as advance:
        for name, stage in stages.items():
            more, pictures = stage(numpy_stream(seed, "distribution", name))
            findings, plots = findings + more, plots + pictures
            advance(1)
    tried, flat = sum(c.tried for c in used), sum(c.flat for c in used)
    spacing = tuple(float(s) for s in np.median([sample.spacing for *_, sample in kept], axis=0)) if kept else ()
    return Distribution(
        scans=len(used), of=count, patches=len(patches.array), patch=patch, channels=patches.array.shape[1], spacing=spacing,
        unit=mm, background=flat / tried if tried else None, findings=tuple(findings), plots=tuple(plots), notes=tuple(notes),
    )  # fmt: skip


def _draw(read: Callable[[int], Sample], count: int, seed: int, progress: Progress) -> tuple[list[_Row], list[str]]:
    """What is kept of each scan drawn: its patches, spectrum, autocorrelation and description; and notes."""
    order = numpy_stream(seed, "distribution", "scans").permutation(count)[:SMALL_SCANS].tolist()
    rows: list[_Row] = []
    unread = bare = 0
    total = min(count, SCANS)
    shuffles = max(1, 16 // max(1, total))  # one scan needs several to know its null
    most = max(PER_SCAN, min(_PATCHES // max(1, total), 8 * PER_SCAN))
    with progress.track("Drawing patches", total=total) as advance:
        for done, i in enumerate(order):
            if done >= SCANS and done >= total:
                break
            try:
                sample = read(i)
            except InputError:
                unread += 1
                continue
            rng = numpy_stream(seed, "distribution", "scan", i)
            found = cut(sample, rng, most)
            if done == 0 or not rows:
                total = int(np.clip(_VOXELS // max(1, np.asarray(sample.array).size), SCANS, SMALL_SCANS))
            if found is None:
                bare += 1
            else:
                light = replace(sample, array=np.zeros(0), mask=None)  # voxels are not kept
                rows.append((found, spectral.of_scan(sample, rng, shuffles), correlation.of_scan(sample, rng), light))
            advance(1 if done < min(count, SCANS) else 0)
    unreadable = _said(unread, "a file that cannot be read")
    return rows, unreadable + _said(bare, "no contrast, NaN or infinite voxels, or neither two nor three axes")


def _said(number: int, what: str) -> list[str]:
    """One note on scans left out, if there are any."""
    return [f"{number} of the scans drawn {'is' if number == 1 else 'are'} left out: {what}."] if number else []


def _nothing() -> Patches:
    """No patches at all."""
    return Patches(np.zeros((0, 1, 1, 1), np.float32), np.zeros(0, int), 0)
