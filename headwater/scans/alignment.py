"""How much of one scan is another one, flipped, moved a little and shown in another contrast."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from headwater.scans.fingerprint import taper

REACH = 0.08  # of the field of view: how far a copy may be moved or stretched
WIDTH = 1 / 32  # of the field of view: spread of the Gaussian that both are smoothed by
_HOPELESS = (0.2, 0.1)  # unexplained at the first and second look: not worth another
_TOGETHER = 256  # pairs glanced at in one product of matrices


@dataclass(frozen=True)
class Match:
    """The best overlay of a second scan on a first one.

    residual: share of the second one's variance that the first does not explain, 0 (the same) to 1 (nothing shared).
    flipped:  axes along which the second is flipped. shift: where its middle lies in the first, as a share of the field of
    view. stretch: by how much its field of view is the larger, per axis; 0 for the same size.
    """

    residual: float
    flipped: tuple[int, ...] = ()
    shift: tuple[float, ...] = ()
    stretch: tuple[float, ...] = ()

    def words(self) -> str:
        """What was done to the scan, such as "flipped along axis 1"; intensity and size are looked through."""
        said = [f"flipped along {_axes(self.flipped)}"] if self.flipped else []
        moved = [axis for axis, share in enumerate(self.shift) if abs(share) > 0.004]
        said += [f"moved along {_axes(moved)}"] if moved else []
        said += ["cropped or stretched"] if any(abs(share) > 0.01 for share in self.stretch) else []
        return " and ".join(said) or "in place"


def _axes(axes: Sequence[int]) -> str:
    return f"{'axes' if len(axes) > 1 else 'axis'} {', '.join(map(str, axes))}"


def glance(prints: Sequence[np.ndarray], firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Residuals (m) of scans `seconds` (m) laid over scans `firsts` (m), at rest, in their best flips, on half the cells.

    What `match` begins with, for many pairs at once; prints are fingerprints of one shape (*g), the rest are indices into them.
    """
    if not len(firsts):
        return np.zeros(0)
    who, where = np.unique(np.concatenate([firsts, seconds]), return_inverse=True)
    cells = len(prints[who[0]]) // 2
    blocks = [np.stack([prints[i] for i in who[start : start + _TOGETHER]]) for start in range(0, len(who), _TOGETHER)]
    small = np.concatenate([_standard(_warped(block, cells, WIDTH)).astype(np.float32) for block in blocks])
    ones, others = where[: len(firsts)], where[len(firsts) :]
    parts = [slice(start, start + _TOGETHER) for start in range(0, len(firsts), _TOGETHER)]
    return np.concatenate([_glance(small, ones[part], others[part]) for part in parts])


def _glance(small: np.ndarray, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """The same for few pairs of standardised images (n, *g)."""
    used, rows = np.unique(firsts, return_inverse=True)
    bases = _basis(small[used])  # (u, N, k)
    grams = (bases.transpose(0, 2, 1) @ bases).astype(np.float64)
    grams += 1e-6 * bases.shape[1] * np.eye(bases.shape[2])
    axes = range(1, small.ndim)
    plain = small[seconds] * np.sqrt(_weights(small.shape[1:])).astype(np.float32)  # flips leave the weights as they are
    flips = [np.flip(plain, [axes[axis] for axis in flip]).reshape(len(plain), -1) for flip in _flips(len(axes))]
    shared = (bases[rows].transpose(0, 2, 1) @ np.stack(flips, -1)).astype(np.float64)  # (m, k, 2^d)
    explained = (shared * np.linalg.solve(grams[rows], shared)).sum(1) / bases.shape[1]
    return np.clip(1 - explained.max(1), 0, 1)


def match(first: np.ndarray, second: np.ndarray, cells: int, width: float = WIDTH) -> Match:
    """A second scan laid over a first one, both (*S) of two or three axes and any size; compared on `cells` per axis.

    The second, in each flip, is regressed on the smoothed first, its square and cube (a change of contrast), its gradient
    (a shift) and its gradient times the place (a stretch); the best flips are followed by Gauss-Newton steps, in which
    the first is resampled where the regression says. Weights fall to zero at the border of the field of view.
    """
    d = first.ndim
    still = (0.0,) * d
    here, plain = (_standard(_warped(image[None], cells, width))[0] for image in (first, second))
    if not (here.any() and plain.any()):
        return Match(1.0)
    basis = _basis(here[None])[0]
    flips, roots = _flips(d), np.sqrt(_weights(plain.shape)).ravel()
    targets = np.stack([np.flip(plain, flip).ravel() * roots for flip in flips], 1)  # (N, 2^d)
    residuals, slopes = _regress(basis, targets)
    best = Match(1.0)
    for which in np.argsort(residuals, kind="stable")[:2]:
        if residuals[which] > 3 * residuals.min():
            break  # a scan that is nearly its own mirror image has two flips to try
        start = Match(float(residuals[which]), flips[which], still, still)
        one = _follow(first, targets[:, which : which + 1], start, slopes[:, which], cells, width)
        best = one if one.residual < best.residual else best
    return best


def _flips(d: int) -> list[tuple[int, ...]]:
    """All 2^d of them, as axes to turn round; none first."""
    return [flip for k in range(d + 1) for flip in itertools.combinations(range(d), k)]


def _follow(first: np.ndarray, target: np.ndarray, start: Match, slopes: np.ndarray, cells: int, width: float) -> Match:
    """Gauss-Newton from the regression at rest; the best overlay met on the way."""
    best, shift, stretch = start, np.zeros(first.ndim), np.zeros(first.ndim)
    residual = start.residual
    for limit in _HOPELESS:
        if residual > limit:
            break
        steepness = slopes[1] + 3 * slopes[3]  # mean slope of the change of contrast, values being standardised
        if abs(steepness) < 0.2:
            break
        step = slopes[4:] / steepness
        shift = np.clip(shift + step[: first.ndim], -2 * REACH, 2 * REACH)  # the field of view is 2 wide
        stretch = np.clip(stretch + step[first.ndim :], -REACH, REACH)
        basis = _basis(_standard(_warped(first[None], cells, width, tuple(shift), tuple(stretch))))[0]
        residuals, columns = _regress(basis, target)
        residual, slopes = float(residuals[0]), columns[:, 0]
        if residual < best.residual:
            half = tuple(float(s) / 2 for s in shift)
            best = Match(residual, start.flipped, half, tuple(float(s) for s in stretch))
    return best


def _regress(basis: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unexplained share (m) and coefficients (k, m) of targets (N, m) regressed on a basis (N, k); both weighted."""
    gram = basis.T @ basis
    gram[np.diag_indices(len(gram))] += 1e-6 * len(basis)  # columns may be zero, as of a scan one voxel thin
    slopes = np.linalg.solve(gram, basis.T @ targets)
    off = targets - basis @ slopes
    return np.einsum("nm,nm->m", off, off) / np.einsum("nm,nm->m", targets, targets), slopes


def _basis(images: np.ndarray) -> np.ndarray:
    """Regressors (n, N, 4 + 2d) of standardised smoothed images (n, *g), under the weights."""
    d, cells = images.ndim - 1, images.shape[1]
    slopes = [np.gradient(images, 2 / cells, axis=axis + 1) for axis in range(d)]
    places = [_places(cells).reshape([-1 if a == axis else 1 for a in range(d)]) for axis in range(d)]
    moves = [slope * place.astype(images.dtype) for slope, place in zip(slopes, places, strict=True)]
    columns = np.stack([np.ones_like(images), images, images**2, images**3, *slopes, *moves], -1)
    columns *= np.sqrt(_weights(images.shape[1:])).astype(images.dtype)[..., None]
    return columns.reshape(len(images), -1, 4 + 2 * d)


def _standard(images: np.ndarray) -> np.ndarray:
    """Mean 0 and spread 1 of each image (n, *g) under the weights; 0 where it is flat."""
    weights, axes = _weights(images.shape[1:]), tuple(range(1, images.ndim))
    off = images - (images * weights).mean(axes, keepdims=True)
    spread = np.sqrt((off * off * weights).mean(axes, keepdims=True))
    flat = spread <= 1e-6 * np.abs(images).max(axes, keepdims=True)
    return np.where(flat, 0, off / np.where(flat, 1, spread))


@lru_cache(8)
def _weights(shape: tuple[int, ...]) -> np.ndarray:
    """The square of the taper, of mean 1: what enters at the border of a shifted copy counts for nothing."""
    whole = taper(shape) ** 2
    return whole / whole.mean()


@lru_cache(256)
def _places(cells: int) -> np.ndarray:
    """Middles of the cells, -1 to 1."""
    return (np.arange(cells) + 0.5) / cells * 2 - 1


def _warped(
    images: np.ndarray, cells: int, width: float, shift: tuple[float, ...] = (), stretch: tuple[float, ...] = ()
) -> np.ndarray:
    """Images (n, *S) smoothed and seen on a grid of cells that is moved and stretched over their field of view; at rest if ()."""
    images = np.asarray(images, np.float64)
    for axis in range(images.ndim - 1):
        move, more = (round(shift[axis], 5), round(stretch[axis], 5)) if shift else (0.0, 0.0)
        kernel = _kernel(images.shape[1], cells, width, move, more)
        images = np.tensordot(images, kernel, axes=(1, 1))  # the axes come round once
    return images


@lru_cache(512)
def _kernel(n: int, cells: int, width: float, shift: float, stretch: float) -> np.ndarray:
    """Weights (cells, n) of n voxels in Gaussian means about moved places."""
    places = _places(cells) * (1 + stretch) + shift
    spread = 2 * max(width, 0.4 / n)  # of few voxels at least the nearest one counts
    weights = np.exp(-0.5 * ((np.clip(places, -1, 1)[:, None] - _places(n)) / spread) ** 2)
    return weights / weights.sum(1, keepdims=True)
