"""The clone gap: there where classes differ in higher orders, absent where mean and covariance say it all."""

import numpy as np
import pytest

from headwater.scans.distribution import clones
from headwater.scans.distribution.clones import clone, clone_gap, dealt, predict, whitened
from headwater.scans.distribution.finding import beside
from headwater.scans.distribution.labelled import Labelled
from headwater.streams import numpy_stream

SCANS, EACH, WIDTH = 16, 24, 12


def data(draw, classes: int = 2, shift: float = 0.0, seed: int = 0, scans: int = SCANS) -> Labelled:
    """Scans of patches: draw(class, rng, n) gives (n, d); every scan is moved by its own offset of that size."""
    rng = numpy_stream(seed, "classes")
    label = np.tile(np.repeat(np.arange(classes), EACH), scans)
    scan = np.repeat(np.arange(scans), classes * EACH)
    flat = np.concatenate([draw(k, rng, EACH) for _ in range(scans) for k in range(classes)])
    flat = flat + shift * rng.standard_normal((scans, flat.shape[1]))[scan]
    return Labelled(flat, label, scan, scan, scans, tuple("abcdef"[:classes]), "values in the masks")


def same(k, rng, n):
    return rng.standard_normal((n, WIDTH))


def means(k, rng, n):
    return rng.standard_normal((n, WIDTH)) + 0.8 * k * np.eye(WIDTH)[0]


def covariances(k, rng, n):
    return rng.standard_normal((n, WIDTH)) * np.where(np.arange(WIDTH) < 4, 1 + 1.5 * k, 1)


def tails(k, rng, n):
    """Equal mean and covariance: Gaussian, or two-valued along the principal axes."""
    x = rng.standard_normal((n, WIDTH))
    return np.linspace(3, 1, WIDTH) * (np.sign(x) * 0.954 + 0.3 * rng.standard_normal((n, WIDTH)) if k else x)


def measured(given, seed=0) -> dict:
    findings, plots = clone_gap(given, numpy_stream(seed, "gap"))
    return {f.name: f for f in findings} | {p.name + " plot": p for p in plots}


def test_clones_have_the_very_same_moments():
    given = data(tails, shift=0.1)
    fake = clone(given.flat, given.label, given.scan, numpy_stream(0, "clone"))
    for k in (0, 1):
        a, b = given.flat[given.label == k], fake[given.label == k]
        assert np.allclose(a.mean(axis=0), b.mean(axis=0)) and np.allclose(np.cov(a.T), np.cov(b.T))
        one = (given.label == k) & (given.scan == 3)
        assert np.allclose(given.flat[one].mean(axis=0), fake[one].mean(axis=0))
    left = fake[given.label == 1] - given.flat[given.label == 1]
    assert np.abs(left).max() > 1  # and are others
    for points, fourth in ((given.flat, 1.35), (fake, 3.0)):  # two values became Gaussian ones
        z = points[given.label == 1] / points[given.label == 1].std(axis=0)
        assert (z**4).mean() == pytest.approx(fourth, abs=0.3)


def test_clones_of_few_patches_and_of_flat_ones():
    flat = np.zeros((12, 5))
    flat[:6, 0] = np.arange(6)
    label, scan = np.repeat([0, 1], 6), np.tile(np.arange(3), 4)
    fake = clone(flat, label, scan, numpy_stream(0, "few"))
    assert np.allclose(np.cov(fake[:6].T), np.cov(flat[:6].T)) and (fake[6:] == 0).all()


def test_redrawn_covariances_would_make_clones_too_easy():
    """Why moments are matched exactly: of two equal classes, clones with a covariance drawn anew are told apart."""
    right = {"exact": [], "redrawn": []}
    for seed in range(6):
        given = data(same, seed=seed, scans=4)
        rng = numpy_stream(seed, "redrawn")
        first = clone(given.flat, given.label, np.zeros(len(given.label), int), rng)
        again = np.empty_like(first)
        for k in (0, 1):
            mine = given.label == k
            once = rng.multivariate_normal(np.zeros(WIDTH), np.cov(given.flat[mine].T), mine.sum())
            again[mine] = rng.multivariate_normal(np.zeros(WIDTH), np.cov(once.T), mine.sum())
        half = dealt(given.label, given.unit) == 0
        for name, points in (("exact", first), ("redrawn", again)):
            answer = predict("quadratic", points[half], given.label[half], given.unit[half], points[~half])
            right[name].append((answer == given.label[~half]).mean())
    assert np.mean(right["redrawn"]) > np.mean(right["exact"]) + 0.02
    assert np.mean(right["exact"]) == pytest.approx(0.5, abs=0.06)


def test_higher_orders_open_a_gap():
    found = measured(data(tails))
    gap = found["clone gap"]
    assert gap.value > 0.2 and gap.interval[0] > gap.null.high and gap.sentence.startswith("Higher orders matter:")
    assert abs(found["clone gap of a linear probe"].value) < 0.12  # a linear probe cannot see them
    assert "does as well on Gaussian" in found["clone gap of a linear probe"].sentence
    assert found["probe accuracy"].value > 0.75 and "tells something" in found["probe accuracy"].sentence


@pytest.mark.parametrize("draw, best", [(means, "linear"), (covariances, "quadratic")])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_mean_and_covariance_leave_no_gap(draw, best, shift):
    found = measured(data(draw, shift=shift, scans=24))
    gap = found["clone gap"]
    assert beside(gap.value, gap.interval, gap.null) == 0 and abs(gap.value) < 0.06
    assert f"with a {best} classifier may do" in gap.sentence
    assert abs(gap.null.value) < 0.03 and gap.null.of == "clones of clones"


def test_nothing_to_find_is_said():
    found = measured(data(same))
    assert "No probe is sure" in found["clone gap"].sentence or "cannot be told" in found["clone gap"].sentence
    assert "tells nothing certain" in found["probe accuracy"].sentence


def test_contrast_that_differs_makes_patches_harder_than_clones():
    def contrasts(k, rng, n):
        return (1 + 3 * k) * rng.standard_normal((n, WIDTH)) * np.exp(1.5 * rng.standard_normal((n, 1)))

    gap = measured(data(contrasts))["clone gap"]
    assert gap.interval[1] < gap.null.low and "promise more than patches hold" in gap.sentence


@pytest.mark.slow
def test_false_alarms_are_rare():
    """Twelve sets of Gaussian classes that differ in both moments: the gap is told from none at most once."""
    alarms = 0
    for seed in range(12):
        gap = measured(data(lambda k, rng, n: means(k, rng, n) * (1 + 0.3 * k), shift=0.3, seed=seed), seed)["clone gap"]
        alarms += beside(gap.value, gap.interval, gap.null) != 0
    assert alarms <= 1


def test_two_halves_of_subjects_with_every_class():
    label = np.array([0, 0, 1, 1, 0, 1, 0, 1])
    unit = np.array([0, 0, 1, 1, 2, 3, 4, 5])
    side = dealt(label, unit)
    assert all(len(set(side[unit == u])) == 1 for u in range(6))
    assert all(set(label[side == s]) == {0, 1} for s in (0, 1))


def test_whitened():
    rng = numpy_stream(0, "white")
    flat = rng.standard_normal((900, 3)) @ rng.standard_normal((3, 40))
    points = whitened(flat)
    assert points.shape == (900, 3) and np.allclose(np.cov(points.T, bias=True), np.eye(3))
    assert whitened(rng.standard_normal((100, 40))).shape == (100, 5)


def test_the_combined_probe_sees_what_each_sees():
    for draw, least in ((means, 0.62), (covariances, 0.8), (tails, 0.75)):
        given = data(draw, scans=24)
        half = dealt(given.label, given.unit) == 0
        points = whitened(given.flat)
        right = {}
        for probe in clones.PROBES:
            answer = predict(probe, points[half], given.label[half], given.unit[half], points[~half])
            right[probe] = (answer == given.label[~half]).mean()
        assert right["combined"] > least and right["combined"] >= max(right.values()) - 0.04, (draw, right)


def test_like_scikit_learn_qda():
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    given = data(covariances, classes=3)
    half = dealt(given.label, given.unit) == 0
    oracle = QuadraticDiscriminantAnalysis(priors=[1 / 3] * 3).fit(given.flat[half], given.label[half]).predict(given.flat[~half])
    answer = predict("quadratic", given.flat[half], given.label[half], given.unit[half], given.flat[~half])
    assert (answer == oracle).mean() > 0.93  # shrinking aside


def test_bars():
    plot = measured(data(means))["clone gap plot"]
    assert [s.name for s in plot.series] == ["real patches", "Gaussian clones", "chance"]
    bars = plot.series[0]
    assert bars.labels == clones.PROBES and all(
        low <= y <= high for low, y, high in zip(bars.low, bars.y, bars.high, strict=True)
    )


def test_few_scans_and_none():
    few = measured(data(tails, scans=4))["clone gap"]
    assert few.interval is None and "so few scans" in few.sentence
    found = measured("there are no masks and no classes")
    assert all(f.value is None and f.sentence.endswith("there are no masks and no classes.") for f in found.values())
    lone = data(means)
    only = Labelled(lone.flat, (lone.scan == 0).astype(int), lone.scan, lone.unit, SCANS, ("a", "b"), "groups of scans")
    assert "both sides of a split" in measured(only)["clone gap"].sentence
