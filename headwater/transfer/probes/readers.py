"""The small models that read frozen features: linear with a strength chosen inside, nearest neighbours, nearest class mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

NEIGHBOURS = 10
STRENGTHS = (1e-4, 1e-2, 1.0)  # C of the logistic regression on standardised features
RIDGE = tuple(10.0**k for k in range(-2, 6))
LARGE = 1000  # rows from which on the largest strength is taken
Rows = Float[np.ndarray, "n d"]
Splits = Sequence[tuple[np.ndarray, np.ndarray]]


def linear(x: Rows, y: Integer[np.ndarray, "n"], splits: Splits = ()) -> Any:
    """Logistic regression on standardised features, its strength by the log-loss on `splits` of the same rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTHS[2 if len(x) >= LARGE else 1], max_iter=300))
    if len(x) >= LARGE or not splits:
        return made.fit(x, y)
    grid = {"logisticregression__C": STRENGTHS}
    return GridSearchCV(made, grid, cv=list(splits), scoring="neg_log_loss").fit(x, y).best_estimator_


def calibrated(model: Any, x: Rows, y: Integer[np.ndarray, "n"], splits: Splits) -> Any:
    """The same model with one temperature (Guo et al. 1706.04599), fitted to what it says of the rows that `splits` hold back."""
    from sklearn.base import clone
    from sklearn.calibration import CalibratedClassifierCV

    return CalibratedClassifierCV(clone(model), method="temperature", cv=list(splits), ensemble=False).fit(x, y)


def neighbours(x: Rows, y: np.ndarray, numbers: bool = False) -> Any:
    """The vote (or mean) of the 10 nearest in cosine of the standardised features, weighted by closeness."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind = KNeighborsRegressor if numbers else KNeighborsClassifier
    return make_pipeline(StandardScaler(), kind(min(NEIGHBOURS, len(x)), weights="distance", metric="cosine")).fit(x, y)


def ridge(x: Rows, y: Float[np.ndarray, "n"]) -> Any:
    """Ridge regression on standardised features, its strength by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(RIDGE)).fit(x, y)


def nearest_mean(x: Rows, y: Integer[np.ndarray, "n"], there: Float[np.ndarray, "m d"], classes: int) -> Float[np.ndarray, "m K"]:
    """Shares of the classes by cosine to the mean of each (Snell et al. 1703.05175); x and `there` standardised alike."""
    means = np.stack([x[y == k].mean(0) if (y == k).any() else np.zeros(x.shape[1]) for k in range(classes)])
    unit = [a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (there, means)]
    close = np.exp(10 * (unit[0] @ unit[1].T)) * np.isin(np.arange(classes), y)
    return close / close.sum(1, keepdims=True)


def shares(model: Any, x: Rows, classes: int) -> Float[np.ndarray, "m K"]:
    """Probabilities for all classes, 0 for those the model has not seen."""
    found = np.zeros((len(x), classes))
    found[:, model.classes_] = model.predict_proba(x)
    return found


def calibration_error(probabilities: Float[np.ndarray, "m K"], y: Integer[np.ndarray, "m"], bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and accuracy, in bins of equally many answers."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == y
    parts = np.array_split(np.argsort(sure, kind="stable"), min(bins, len(y)))
    return float(sum(len(p) * abs(sure[p].mean() - right[p].mean()) for p in parts) / len(y))
