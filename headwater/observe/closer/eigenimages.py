"""Images as a mean and a few pictures: how much of a data set is linear, and what its main directions look like."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from headwater.errors import InputError
from headwater.observe.spectra import noise

FLAT = "Gaussian noise with a flat spectrum, as many images of as many pixels"


@dataclass(frozen=True, eq=False)
class EigenImages:
    """Principal components of images. mean (C, *S); pictures (k, C, *S), of length 1, each with its largest pixel positive;
    explained (k,), shares of variance.

    error (m + 1,): share of the variance that is missing when images are rebuilt from the mean and 0, 1, ..., m pictures, 1 to 0.
    unseen (j + 1,): the same of images that the pictures were not fitted on (half of the owners), relative to the fitted mean;
    the error that counts. null, unseen_null: the same curves of Gaussian noise with a flat spectrum, in closed form (Marchenko
    and Pastur 1967; 1 - k/P for P pixels). why: empty, or what is missing."""

    mean: Float[Tensor, "C *S"]
    pictures: Float[Tensor, "k C *S"]
    explained: Float[Tensor, "k"]
    error: Float[Tensor, "m"]
    null: Float[Tensor, "m"]
    unseen: Float[Tensor, "j"]
    unseen_null: Float[Tensor, "j"]
    why: str = ""

    def needed(self, share: float = 0.9) -> tuple[int | None, int | None]:
        """Pictures that leave less than 1 - share of the variance missing in unseen images, and in noise; None: not reached."""
        return tuple(
            next((k for k, missing in enumerate(curve.tolist()) if missing <= 1 - share), None)
            for curve in (self.unseen, self.unseen_null)
        )


def eigen_images(images: Float[Tensor, "n C *S"], k: int = 8, owners: Integer[Tensor, "n"] | None = None) -> EigenImages:
    """The k leading pictures by singular values of the centred images, and the curves of what few pictures leave out.

    Images that are not finite are left out. Memory: three times the images, in float64, and n x n.

    Args: owners: images of one owner (patient) are either fitted on or unseen. Raises: InputError for fewer than two images.
    """
    x = images.detach().cpu().double().flatten(1)
    whole = x.isfinite().all(1)
    why = "" if bool(whole.all()) else f"{int((~whole).sum())} of {len(x)} images are not finite and were left out"
    x = x[whole]
    if len(x) < 2:
        raise InputError(f"eigen-images need two finite images or more, got {len(x)}")
    shape = images.shape[1:]
    mean, axes, values = _decomposed(x)
    sign = torch.where(axes.gather(1, axes.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)
    total = float(values.sum())
    if not total > 0:
        why = "all images are the same"
    share = values / total if total > 0 else torch.full_like(values, math.nan)
    n, pixels = x.shape
    flat = noise(len(values), pixels / max(n - 1, 1))
    curve, unseen, unseen_null = _left(share), torch.full((1,), math.nan), torch.full((1,), math.nan)
    owner = (torch.arange(len(images)) if owners is None else owners.cpu().unique(return_inverse=True)[1])[whole]
    kept = owner % 2 == 0
    if total > 0 and int(kept.sum()) > 1 and int((~kept).sum()) > 0:
        unseen = _unseen(x[kept], x[~kept])
        unseen_null = (1 - torch.arange(len(unseen)).double() / pixels).clamp(min=0)
    else:
        why = why or "too few owners to keep half of them unseen"
    pictures = (axes * sign)[: min(k, len(values))].unflatten(1, shape)
    parts = mean.unflatten(0, shape), pictures, share[: len(pictures)], curve, _left(flat / flat.sum()), unseen, unseen_null
    return EigenImages(*(part.float() for part in parts), why)


def _decomposed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, directions (m, P) and their sums of squares, largest first, m = min(n - 1, P), by the smaller of the two products."""
    mean = x.mean(0)
    centred, most = x - mean, min(len(x) - 1, x.shape[1])
    if x.shape[1] <= len(x):
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        return mean, vectors.T.flip(0)[:most], values.flip(0)[:most].clamp(min=0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    values, axes = values.flip(0)[:most].clamp(min=0), vectors.T.flip(0)[:most] @ centred
    return mean, axes / axes.norm(dim=1, keepdim=True).clamp(min=1e-300), values


def _left(share: Tensor) -> Tensor:
    """What is left after 0, 1, ... parts of a whole."""
    return torch.cat([torch.ones(1, dtype=share.dtype), 1 - share.cumsum(0)]).clamp(min=0)


def _unseen(fitted: Tensor, others: Tensor) -> Tensor:
    """Missing share of other images by number of pictures."""
    mean, axes, values = _decomposed(fitted)
    axes = axes[values > 1e-12 * values.max()]
    away = others - mean
    return _left(((away @ axes.T).square().sum(0) / away.square().sum()))


def rebuilt(found: EigenImages, images: Float[Tensor, "n C *S"], k: int) -> Float[Tensor, "n C *S"]:
    """Images from the mean and the first k pictures."""
    flat = found.pictures[:k].flatten(1)
    away = (images.detach().cpu().float() - found.mean).flatten(1)
    return found.mean + (away @ flat.T @ flat).unflatten(1, images.shape[1:])
