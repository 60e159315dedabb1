"""How new is a sample? A density on features, trained in seconds, and a sample's percentile among ones it was not trained on.

Features are standardised and turned to their leading axes; what those leave out counts by the log of its length. On these
coordinates a Gaussian (Mahalanobis distance) is bent by flow matching for as long as the likelihood of samples set aside rises,
so it is never worse than the Gaussian there. Folds take turns at being set aside: every sample gets a score of a member that
has not seen it.
"""

import copy
import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.matching import Field, Likelihood, log_likelihood, train
from headwater.flow.paths import Gaussian, VariancePreserving
from headwater.flow.sphere import check_finite

FEWEST = 30
DIMS = 16  # leading axes kept at most
FOLDS = 3
STAGES = (100, 100, 200, 400, 800, 1600)  # training steps between two looks at the samples set aside
PATIENCE = 800  # steps before a fall ends training: two lobes of a mixture may show only after a plateau of several hundred
LOOKED_AT = 256  # samples set aside whose likelihood decides
STEP = 1 / 6
PATH = VariancePreserving()


@dataclass(frozen=True)
class Summary:
    """Features as few coordinates of variance about 1: leading axes, and the log of the length that they leave out.

    mean, scale (d,): of each feature. axes (d, k). spread (k,): along the axes. rest: mean and spread of the log length; None if
    the axes leave nothing out.
    """

    mean: Float[Tensor, "d"]
    scale: Float[Tensor, "d"]
    axes: Float[Tensor, "d k"]
    spread: Float[Tensor, "k"]
    rest: tuple[float, float] | None

    @classmethod
    def fit(cls, x: Float[Tensor, "n d"], most: int) -> "Summary":
        """At most `most` axes, and no more than one for five samples."""
        mean, scale = x.mean(0), x.std(0)
        tiny = 1e-9 * mean.abs()  # rounding of a feature that never varies, whatever the units of the others
        if not bool((scale > tiny).any()):
            raise ValueError(f"novelty: all {len(x)} samples have the same features: there is no density to fit")
        scale = torch.where(scale > tiny, scale, scale[scale > tiny].min())  # one that never varied: a small change of it counts
        _, size, axes = torch.linalg.svd((x - mean) / scale, full_matrices=False)
        rank = int((size > 1e-6 * size[0]).sum())
        kept = min(most, rank, max(1, len(x) // 5))
        axes, spread = axes[:kept].T, size[:kept] / math.sqrt(len(x) - 1)
        made = cls(mean, scale, axes, spread, None)
        if kept == x.shape[1]:
            return made
        left = made.left_out(x)
        return cls(mean, scale, axes, spread, (float(left.mean()), max(float(left.std()), 1e-3)))

    def left_out(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """Log of the length that the axes leave out."""
        z = (x - self.mean) / self.scale
        return (torch.linalg.vector_norm(z - z @ self.axes @ self.axes.T, dim=1) + 1e-6).log()

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """The coordinates: k, and one more if something is left out."""
        led = (x - self.mean) / self.scale @ self.axes / self.spread
        if self.rest is None:
            return led
        return torch.column_stack((led, (self.left_out(x) - self.rest[0]) / self.rest[1]))

    @property
    def log_volume(self) -> float:
        """log |d coordinates / d features| where nothing is left out, else d (axes of standardised features, log length)."""
        one = -float(self.spread.log().sum())
        return one - float(self.scale.log().sum()) if self.rest is None else one - math.log(self.rest[1])


@dataclass(frozen=True)
class Member:
    """One density: coordinates, the flow on them, the scores (m,) of the samples set aside, falling from none, and the training
    steps that served them best (0: the Gaussian itself)."""

    summary: Summary
    field: Field
    aside: Float[Tensor, "m"]
    steps: int

    def score(self, x: Float[Tensor, "n d"]) -> Likelihood:
        """Log-density at x and its numerical error."""
        found = _likelihood(self.field, self.steps, self.summary(x))
        return Likelihood(found.value + self.summary.log_volume, found.probe_error, found.step_error)


@final
class Density:
    """A density on features: `fit`, then `log_density` and `novelty`. members: one for each fold; d: width of features."""

    def __init__(self, members: list[Member], d: int):
        self.members, self.d = members, d

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n d"],
        *,
        generator: torch.Generator,
        dims: int = DIMS,
        folds: int = FOLDS,
        steps: int = 1600,
    ) -> "Density":
        """Fits on n samples of d features, of any scale. Some 5 to 30 s on one core, less for fewer samples.

        Args:   dims: leading axes kept at most. folds: members, each with n / folds samples set aside. steps: most to train.
        Raises: ValueError for fewer than 30 samples, features that are not finite or do not vary at all.
        """
        n = len(features)
        if n < FEWEST or not 2 <= folds <= n // 10 or dims < 1 or steps < 0:
            raise ValueError(
                f"novelty: {n} samples, folds={folds}, dims={dims}, steps={steps}: needs {FEWEST} samples, 10 a fold"
            )
        check_finite(features, "novelty")
        x = features.detach().double().to(generator.device)
        order = torch.randperm(n, generator=generator, device=generator.device)
        parts = order.tensor_split(folds)
        members = []
        for k, aside in enumerate(parts):
            kept = torch.cat([part for j, part in enumerate(parts) if j != k])
            members.append(_member(x[kept], x[aside], generator, dims, steps))
        return cls(members, features.shape[1])

    def log_density(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Log-density in nats, mean over the members, and its standard error.

        With all axes kept it is a density in the units of the features; else one of the leading axes of the standardised features
        and of the log length left out. The error holds what the members differ by (samples, starts) and the numerical one.
        """
        found = [member.score(self._checked(x)) for member in self.members]
        values = torch.stack([one.value for one in found])
        numerical = torch.stack([one.error for one in found]).mean(0)
        among = values.std(0) / math.sqrt(len(found))
        return values.mean(0), (among.square() + numerical.square()).sqrt()

    def novelty(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """Percentile, 0 to 100: the share of samples set aside that are more probable than x, mean over the members.

        Uniform for samples like those it was fitted on. The most that m samples set aside allow is 100 (m + 1/2) / (m + 1).
        """
        x = self._checked(x)
        shares = []
        for member in self.members:
            above = (member.aside[None] > member.score(x).value[:, None]).sum(1).double()
            shares.append(100 * (above + 0.5) / (len(member.aside) + 1))
        return torch.stack(shares).mean(0)

    def _checked(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.d or not len(x):
            raise ValueError(f"novelty: samples of shape {tuple(x.shape)}; this density is on {self.d} features")
        check_finite(x, "novelty")
        return x.detach().to(self.members[0].summary.mean)


def _likelihood(field: Field, steps: int, x: Tensor) -> Likelihood:
    """A field that was not trained is its Gaussian: in closed form, a thousand times as fast as following it, equal to 1e-3."""
    if steps:
        return log_likelihood(field, x, path=PATH, step=STEP)
    value = field.start.log_density(PATH.end, x)
    return Likelihood(value, torch.zeros_like(value), torch.zeros_like(value))


def _member(x: Tensor, aside: Tensor, generator: torch.Generator, dims: int, steps: int) -> Member:
    """Trains in stages, each ending at rate zero, until the samples set aside get less likely; keeps the best."""
    summary = Summary.fit(x, dims)
    here, there = summary(x), summary(aside)
    field = Field(here.shape[1], generator, start=Gaussian.fit(PATH, here))
    best, kept, spent, taken = -math.inf, field, 0, 0
    for stage in (0, *STAGES):
        if stage:
            if spent + stage > steps:
                break
            train(field, here.float(), path=PATH, generator=generator, steps=stage)
            spent += stage
        reached = float(_likelihood(field, spent, there[:LOOKED_AT]).value.mean())
        if reached > best:
            best, kept, taken = reached, copy.deepcopy(field), spent
        elif spent >= PATIENCE:
            break
    member = Member(summary, kept, torch.empty(0), taken)
    return Member(summary, kept, member.score(aside).value, taken)
