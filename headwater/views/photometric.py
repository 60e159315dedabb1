"""Single changes of one z-scored crop (C, *S), each in place: noise, contrast, gamma, bias field, cut-out.

A function returns the crop that it changed. Random fields are drawn on the CPU from the given seed, so that they do not depend on
the device.
"""

from functools import cache
from math import exp, prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError
from headwater.streams import numpy_stream

TINY = 1e-7  # a range or spread below it is none
ORDER = 3  # of the polynomial behind a bias field


def noise_(x: Float[Tensor, "C *S"], sd: float, seed: int) -> Float[Tensor, "C *S"]:
    """Gaussian noise of standard deviation `sd` is added; the variance grows by sd^2, the mean stays. `normal` says its tails."""
    return x.add_(normal(tuple(x.shape), seed, "noise").to(x), alpha=sd)


def rician_(x: Float[Tensor, "C *S"], sd: float, seed: int) -> Float[Tensor, "C *S"]:
    """Rician noise, that of a magnitude image: |m + complex noise of `sd` in each part|, with m = x above the crop's lowest.

    Where m is far above sd it is Gaussian noise; where m is 0 the mean rises by sd sqrt(pi / 2), so that the crop's mean rises
    and its contrast to the background falls.

    Source:  Gudbjartsson and Patz 1995.
    """
    low = x.amin(_axes(x), keepdim=True)
    along, across = normal((2, *x.shape), seed, "rician").to(x)
    x.sub_(low).add_(along, alpha=sd)
    return x.mul_(x).addcmul_(across, across, value=sd * sd).sqrt_().add_(low)


def normal(shape: tuple[int, ...], seed: int, purpose: str) -> Float[Tensor, "..."]:
    """Gaussian values of mean 0 and standard deviation 1 on the CPU: each one of 65,536 even quantiles.

    None lies beyond 4.33, where of a million true ones 15 would. Half the time of torch.randn, which makes them one at a time.
    """
    count = prod(shape)
    words = numpy_stream(seed, purpose).bit_generator.random_raw(-(-count // 4))  # 64 bits: four values
    places = torch.from_numpy(words.view(np.uint16))[:count].int()
    return _quantiles().index_select(0, places).view(shape)


@cache
def _quantiles() -> Float[Tensor, "65536"]:
    values = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 0.5) / 65536)
    return (values / values.std(correction=0)).float()


def contrast_(x: Float[Tensor, "C *S"], factor: float) -> Float[Tensor, "C *S"]:
    """Distances to each channel's mean times `factor`, cut at its old range: spread changes, the mean stays but for the cut."""
    axes = _axes(x)
    mean, low, high = x.mean(axes, keepdim=True), x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    x.mul_(factor).add_(mean * (1 - factor))
    if 0 <= factor <= 1:
        return x
    torch.maximum(x, low, out=x)  # clamp_ with tensors takes five times as long
    return torch.minimum(x, high, out=x)


def gamma_(x: Float[Tensor, "C *S"], power: float) -> Float[Tensor, "C *S"]:
    """Each channel, taken to 0..1 by its range, to this power; then back to the mean and standard deviation it had."""
    axes, root = _axes(x), prod(x.shape[1:]) ** 0.5
    low, high, mean = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True), x.mean(axes, keepdim=True)
    x.sub_(mean)
    spread = torch.linalg.vector_norm(x, dim=axes, keepdim=True) / root  # many times faster than var_mean
    x.sub_(low - mean).mul_(1 / (high - low).clamp_min(TINY))
    least = max(exp(-69 / power), 1e-37)  # 1e-30 after the power; log of 0 and powers below 1e-38 take 30 times as long
    x.clamp_(min=least).log_().mul_(power).exp_()  # five times faster than pow
    x.sub_(x.mean(axes, keepdim=True))
    now = torch.linalg.vector_norm(x, dim=axes, keepdim=True) / root
    return x.mul_(spread / now.clamp_min(TINY)).add_(mean)


def bias_field_(x: Float[Tensor, "C *S"], spread: float, seed: int) -> Float[Tensor, "C *S"]:
    """The crop above its lowest value, times a smooth field: exp of a random polynomial of order 3, the same for all channels.

    The log of the field has mean 0 and standard deviation `spread` over the crop. Mean and spread of the crop change with it.

    Source:  Van Leemput et al. 1999; coefficients of Legendre polynomials drawn from a Gaussian and scaled are ours.
    """
    d = x.ndim - 1
    orders = np.indices((ORDER + 1,) * d).reshape(d, -1)
    chosen = orders[:, (orders.sum(0) > 0) & (orders.sum(0) <= ORDER)]
    drawn = numpy_stream(seed, "bias").standard_normal(chosen.shape[1])
    drawn *= spread / np.sqrt((drawn**2 / (2 * chosen + 1).prod(0)).sum())  # Legendre terms: variance 1 / (2 order + 1) each
    table = np.zeros((ORDER + 1,) * d)
    table[tuple(chosen)] = drawn
    field = torch.from_numpy(table).to(x)
    for n in x.shape[1:]:  # the first axis of coefficients becomes the last of voxels
        middle = (np.arange(n) + 0.5) * (2 / n) - 1
        values = torch.from_numpy(np.polynomial.legendre.legvander(middle, ORDER).T).to(x)
        field = torch.tensordot(field, values, ([0], [0]))
    low = x.amin(_axes(x), keepdim=True)
    return x.sub_(low).mul_(field.exp_()).add_(low)


def cut_out_(x: Float[Tensor, "C *S"], edge: float, seed: int) -> Float[Tensor, "C *S"]:
    """A box of `edge` times the crop's length per axis is set to 0, the scan's mean; it lies anywhere inside.

    Raises:  InputError if edge is not in [0, 1].
    Source:  DeVries and Taylor 2017 (arXiv 1708.04552); there the box may reach outside.
    """
    if not 0 <= edge <= 1:
        raise InputError(f"Cut-out of {edge} times the crop's edge: give a share from 0 (none) to 1, such as 0.3.")
    length = np.rint(edge * np.asarray(x.shape[1:])).astype(int)
    first = numpy_stream(seed, "cutout").integers(0, np.asarray(x.shape[1:]) - length, endpoint=True)
    x[(slice(None), *(slice(f, f + n) for f, n in zip(first.tolist(), length.tolist(), strict=True)))] = 0
    return x


def _axes(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))
