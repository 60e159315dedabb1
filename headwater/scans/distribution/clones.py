"""The clone gap: what a probe finds in real patches beyond what it finds in Gaussian ones of equal mean and covariance.

Refinetti et al. 2023 and Belrose et al. 2024 use such clones to ask which moments a network has learnt.
"""

import numpy as np

from headwater.scans.distribution.finding import Finding, Null, Plot, Series, absent, beside
from headwater.scans.distribution.labelled import Labelled
from headwater.scans.distribution.intervals import interval, resample, spread, sums

PROBES = ("linear", "quadratic", "combined")
_WIDTH = 32  # whitened principal components
_CLONES = 6
_CELL = 8  # patches of one class in one scan from which on its own mean is kept
_NAMES = {"combined": "clone gap", "linear": "clone gap of a linear probe"}
_ACCURACY = "probe accuracy"


def whitened(flat: np.ndarray, width: int = _WIDTH) -> np.ndarray:
    """(n, d) to its leading principal components (n, at most width) of variance 1; at least 20 patches to a component.

    Probes look along these: they are structured in images, but what lies along no few of them stays hidden (the same trap
    as random directions).
    """
    centred = flat - flat.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(flat))
    most = max(1, min(width, len(flat) // 20, int((values > 1e-6 * values[-1]).sum())))
    return centred @ (vectors[:, ::-1][:, :most] / np.sqrt(values[::-1][:most]))


def clone(points: np.ndarray, label: np.ndarray, scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian points (n, q) in place of the real ones, of exactly the same mean and covariance in each class.

    Exactly: a covariance drawn anew would add noise of its own, which marks the class, and clones would be easier than
    patches. Given their mean and covariance, Gaussian patches and their clones have one and the same distribution. The
    mean of each class in each scan is kept too, for scans differ, and clones that did not would carry over better;
    scans with fewer than eight patches of a class share one mean.
    """
    drawn = np.empty_like(points)
    for mine in (np.flatnonzero(label == k) for k in np.unique(label)):
        _, cell, count = np.unique(scan[mine], return_inverse=True, return_counts=True)
        cell = np.unique(np.where(count[cell] < _CELL, -1, cell), return_inverse=True)[1]
        count = np.bincount(cell)[:, None]
        means = sums(points[mine], cell, len(count)) / count
        _, size, right = np.linalg.svd(points[mine] - means[cell], full_matrices=False)
        rank = max(0, min(int((size > 1e-9 * size[0]).sum()), len(mine) - len(count)))
        noise = rng.standard_normal((len(mine), rank))
        noise -= (sums(noise, cell, len(count)) / count)[cell]
        drawn[mine] = means[cell] + (np.linalg.qr(noise)[0] * size[:rank]) @ right[:rank]
    return drawn


def predict(probe: str, points: np.ndarray, label: np.ndarray, unit: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Classes (m,) that a probe fitted on points (n, q), label and unit (n,) gives to test (m, q); classes weigh the same.

    linear: logistic regression. quadratic: one shrunk Gaussian per class (QDA), which is all that mean and covariance can
    tell. combined: logistic regression on what those two and a kernel machine say of patches of other subjects, so that it
    sees at least what either sees: against Gaussian clones nothing beats the quadratic one.
    """
    if probe != "combined":
        return SCORES[probe](points, label, test).argmax(axis=1)
    from sklearn.linear_model import LogisticRegression

    half = dealt(label, unit)
    if any(len(set(label[half == s].tolist())) <= label.max() for s in (0, 1)):
        return predict("quadratic", points, label, unit, test)
    inner = np.empty((len(points), len(SCORES), int(label.max()) + 1))
    for s in (0, 1):
        for k, score in enumerate(SCORES.values()):
            inner[half == s, k] = score(points[half != s], label[half != s], points[half == s])
    outer = np.stack([score(points, label, test) for score in SCORES.values()], axis=1)
    inner, outer = (a.reshape(len(a), -1) for a in (inner, outer))
    mean, deviation = inner.mean(axis=0), inner.std(axis=0) + 1e-9
    judge = LogisticRegression(class_weight="balanced", max_iter=300).fit((inner - mean) / deviation, label)
    return judge.predict((outer - mean) / deviation)


def _linear_scores(points: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(m, classes) log probabilities of logistic regression."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=0.1, class_weight="balanced", max_iter=300).fit(points, label)
    return np.log(np.maximum(fitted.predict_proba(test), 1e-12))


def _quadratic_scores(points: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(m, classes) log density under the Gaussian of each class less the mean over classes, its size on a log scale.

    Covariances are shrunk towards a ball (Ledoit and Wolf 2004).
    """
    from sklearn.covariance import ledoit_wolf

    scores = []
    for k in range(int(label.max()) + 1):
        mine = points[label == k]
        left = test - mine.mean(axis=0)
        covariance = ledoit_wolf(mine)[0] + 1e-6 * np.eye(points.shape[1])
        scores.append(-(left * np.linalg.solve(covariance, left.T).T).sum(axis=1) - np.linalg.slogdet(covariance)[1])
    density = np.stack(scores, axis=1)
    return np.arcsinh(density - density.mean(axis=1, keepdims=True))


def _kernel_scores(points: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(m, classes) of ridge regression with a Gaussian kernel on [z, |z|].

    Without |z| it is blind at this number of patches: 32 Laplace against 32 Gaussian values, 1,200 patches, 51 % right
    where 50 is chance, as is a small network; 70 % with |z|, as boosted trees.
    """
    from scipy.linalg import solve

    points, test = (np.concatenate([z, np.abs(z)], axis=1).astype(np.float32) for z in (points, test))
    classes = int(label.max()) + 1
    target = (np.eye(classes)[label] - 1 / classes).astype(np.float32)
    weight = np.bincount(label, minlength=classes)[label] * classes / len(label)
    kernel = _kernel(points, points)
    kernel[np.diag_indices(len(points))] += (0.1 * weight).astype(np.float32)
    return _kernel(test, points) @ solve(kernel, target, assume_a="pos")


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.exp(np.maximum(square, 0) / -a.shape[1])


SCORES = {"linear": _linear_scores, "quadratic": _quadratic_scores, "kernel": _kernel_scores}


def dealt(label: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """(n,) 0 or 1 by subject: subjects that have the same classes are dealt out in turn."""
    names = np.unique(unit)
    has = {u: tuple(np.unique(label[unit == u]).tolist()) for u in names.tolist()}
    order = sorted(has, key=lambda u: (has[u], u))
    side = dict(zip(order, (k % 2 for k in range(len(order))), strict=True))
    return np.array([side[u] for u in unit.tolist()])


def _right(probe: str, points: np.ndarray, data: Labelled, fold: np.ndarray) -> np.ndarray:
    """(units, classes) patches classified rightly by a probe fitted on the other fold."""
    right = np.zeros((data.units, len(data.names)))
    for this in (0, 1):
        test = fold == this
        good = predict(probe, points[~test], data.label[~test], data.unit[~test], points[test]) == data.label[test]
        np.add.at(right, (data.unit[test][good], data.label[test][good]), 1)
    return right


def _balanced(right: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(..., classes) counts to the mean over classes of the share right; a class nobody has is left out."""
    share = np.divide(right, count, out=np.full(np.broadcast_shapes(right.shape, count.shape), np.nan), where=count > 0)
    return np.asarray(np.nanmean(share, axis=-1))


def clone_gap(data: Labelled | str, rng: np.random.Generator) -> tuple[list[Finding], list[Plot]]:
    """Gap and accuracy of the combined probe and gap of a linear one; balanced over classes, tested on other subjects.

    Interval: bootstrap over test subjects, the same for real and clone. Null: clones of clones, whose gap is 0.
    """
    names = [*_NAMES.values(), _ACCURACY]
    sides = () if isinstance(data, str) else dealt(data.label, data.unit)
    if not isinstance(data, str) and any(len(set(data.label[sides == s])) < len(data.names) for s in (0, 1)):
        data = "a class has too few subjects to be on both sides of a split"
    if isinstance(data, str):
        return [absent(name, "share", data) for name in names], []
    points = whitened(data.flat)
    first = [clone(points, data.label, data.scan, rng) for _ in range(_CLONES)]
    second = [clone(c, data.label, data.scan, rng) for c in first]
    count = np.zeros((data.units, len(data.names)))
    np.add.at(count, (data.unit, data.label), 1)
    draws = resample(data.units, rng)
    score = {probe: _score(probe, points, first, second if probe in _NAMES else [], data, sides) for probe in PROBES}
    findings = [_gap(probe, score, count, draws, data) for probe in _NAMES]
    return [*findings, _accuracy(score["combined"][0], count, draws, data)], [_bars(score, count, draws, data)]


def _score(
    probe: str, points: np.ndarray, first: list[np.ndarray], second: list[np.ndarray], data: Labelled, fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right answers on real patches (units, classes), on clones and on clones of clones (clones, units, classes)."""
    real = _right(probe, points, data, fold)
    clones, again = (np.array([_right(probe, c, data, fold) for c in many]) for many in (first, second))
    return real, clones, again


def _total(right: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(..., units, classes) to balanced accuracy (...)."""
    return _balanced(right.sum(axis=-2), count.sum(axis=0))


def _gap(probe: str, score: dict, count: np.ndarray, draws: np.ndarray, data: Labelled) -> Finding:
    """Accuracy on real patches less the mean over clones."""
    real, clones, again = score[probe]
    right, clone_right = float(_total(real, count)), float(_total(clones, count).mean())
    value = right - clone_right
    seen = draws @ count
    boot = _balanced(draws @ real, seen) - _balanced(draws @ clones.mean(axis=0), seen)
    null = Null("clones of clones", *spread(_total(clones, count) - _total(again, count).mean()))
    span = interval(boot, data.units)
    side = beside(value, span, null) if span else 0
    if probe == "linear":
        sentence = _linear(side, right, clone_right)
    else:
        simple = {name: float(_total(score[name][0], count)) for name in ("linear", "quadratic")}
        found = _accuracy(real, count, draws, data)
        sentence = _combined(
            side, span, (right, clone_right), simple, beside(right, found.interval, found.null) > 0, len(data.names)
        )
    return Finding(_NAMES[probe], value, "share", sentence, span, None, null)


def _combined(
    side: int, span: tuple[float, float] | None, right: tuple[float, float], simple: dict[str, float], finds: bool, classes: int
) -> str:
    """One sentence on the gap of the combined probe. finds: whether it does better than guessing."""
    numbers = f"probes are right for {right[0]:.1%} of real patches, {right[1]:.1%} of Gaussian ones, chance {1 / classes:.0%}"
    points = 100 * (right[0] - right[1])
    alone = f"on real ones a linear classifier alone reaches {simple['linear']:.1%}, a quadratic one {simple['quadratic']:.1%}"
    if side > 0:
        much = "Higher orders matter" if points >= 2 else "Higher orders matter a little"
        return f"{much}: {numbers}; {alone}."
    if side < 0:
        why = "as where contrast differs between places or scans"
        return f"Mean and covariance promise more than patches hold, {why}: {numbers}; {alone}."
    if span is None or span[1] - span[0] > 0.1:
        return f"A gap cannot be told from none with so few scans: {numbers}."
    if not finds:
        return f"No probe is sure to find the classes, so the gap says nothing: {numbers}."
    if max(simple.values()) < right[0] - 0.03:
        return f"Gaussian patches are as easy to tell apart, but no simple classifier does it: {numbers}; {alone}."
    best = "linear" if simple["linear"] >= right[0] - 0.03 else "quadratic"
    return f"Mean and covariance carry what probes find: {numbers}; principal components with a {best} classifier may do."


def _linear(side: int, real: float, clones: float) -> str:
    """One sentence on the gap of the linear probe."""
    numbers = f"{real:.1%} right on real patches, {clones:.1%} on Gaussian ones"
    if side > 0:
        return f"A linear probe does better on real patches than their mean and covariance alone allow ({numbers})."
    if side < 0:
        return f"A linear probe does worse on real patches than on Gaussian ones of equal mean and covariance ({numbers})."
    return f"A linear probe does as well on Gaussian patches of equal mean and covariance ({numbers}), within what can be told."


def _accuracy(real: np.ndarray, count: np.ndarray, draws: np.ndarray, data: Labelled) -> Finding:
    """Balanced accuracy of the combined probe, beside what guessing gives."""
    value, chance = float(_total(real, count)), 1 / len(data.names)
    half = 1.96 * float(np.sqrt((chance * (1 - chance) / count.sum(axis=0)).sum())) / len(data.names)
    null = Null("guessing", chance, max(0.0, chance - half), min(1.0, chance + half))
    span = interval(_balanced(draws @ real, draws @ count), data.units)
    numbers = f"{value:.1%} right over {len(data.names)} classes ({data.of}), chance {chance:.0%}"
    side = beside(value, span, null)
    if side > 0:
        sentence = f"A patch tells something about its class: {numbers}."
    elif side < 0:
        sentence = f"A probe does worse than guessing, so scans of a class differ from one another: {numbers}."
    else:
        sentence = f"A patch of this size tells nothing certain about its class: {numbers}."
    return Finding(_ACCURACY, value, "share", sentence, span, None, null)


def _bars(score: dict, count: np.ndarray, draws: np.ndarray, data: Labelled) -> Plot:
    seen = draws @ count
    rows: dict[str, list] = {"real patches": [], "Gaussian clones": []}
    for probe in PROBES:
        real, clones, _ = score[probe]
        for name, right in (("real patches", real), ("Gaussian clones", clones.mean(axis=0))):
            value = float(_total(right, count))
            rows[name].append((value, *(interval(_balanced(draws @ right, seen), data.units) or (value, value))))
    at = tuple(float(i) for i in range(len(PROBES)))
    series = [Series(name, at, *_columns(found), labels=PROBES) for name, found in rows.items()]
    series.append(Series("chance", (at[0], at[-1]), (1 / len(data.names),) * 2))
    return Plot("clone gap", "Probes on real patches and on Gaussian clones", "probe", "balanced accuracy", tuple(series))


def _columns(rows: list) -> tuple:
    y, low, high = (tuple(column) for column in zip(*rows, strict=True))
    return y, "bars", low, high
