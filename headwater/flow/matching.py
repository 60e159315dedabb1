"""Flow matching: learns the velocity that moves noise to data, samples by it, gives the log-likelihood of what it makes.

A field is trained to return the velocity of the path between pairs (noise, data); its least-squares optimum is the velocity of
their law. Source: Lipman et al. 2210.02747; minibatch transport: Tong et al. 2302.00482; sphere: Chen & Lipman 2302.03660.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.flow.density import log_density
from headwater.flow.divergence import rademacher
from headwater.flow.integrate import solve
from headwater.flow.paths import Gaussian, Path, Time
from headwater.flow.sphere import check_finite, check_on_sphere, tangent
from headwater.flow.terms import Learned
from headwater.flow.transport import pairing

COUPLINGS = ("independent", "transport")
CHUNK = 2048  # points whose likelihood is followed at once


@final
class Field(nn.Module):
    """A small perceptron field(t, x); a residual on top of the exact velocity of a Gaussian where `start` gives one.

    Its last layer is zero at first: before training it is exactly `start`, so that what it learns is what is not Gaussian, and
    far from the data it stays near the Gaussian. Computes in its own precision, float32, and returns that of x.
    Args:   d: width of points. start: paths.Gaussian.fit(path, samples), flat only. generator: draws the first weights.
    """

    def __init__(
        self,
        d: int,
        generator: torch.Generator,
        *,
        start: Gaussian | None = None,
        width: int = 128,
        depth: int = 4,
        waves: int = 8,
    ):
        super().__init__()
        if d < 1 or width < 1 or depth < 1 or waves < 1:
            raise ValueError(f"Field: d={d}, width={width}, depth={depth}, waves={waves}: all must be at least 1")
        self.start = start
        sizes = [d + waves, *[width] * depth]
        self.layers = nn.ModuleList(_layer(a, b, generator) for a, b in zip(sizes, sizes[1:], strict=False))
        self.last = _layer(width, d, generator)
        nn.init.zeros_(self.last.weight)
        self.register_buffer("waves", torch.arange(1, waves + 1) * math.pi)

    def forward(self, t: Time, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The velocity at x; t is a number or (B, N, 1)."""
        here = self.last.weight
        known = x if self.start is None else self.start.standard(t, x)[0]
        when = torch.as_tensor(t, dtype=here.dtype, device=here.device)
        clock = (when * self.waves).cos().expand(*x.shape[:-1], -1)
        state = torch.cat((known.to(here.dtype), clock), -1)
        for index, layer in enumerate(self.layers):
            after = nn.functional.silu(layer(state))
            state = state + after if index else after
        out = self.last(state).to(x.dtype)
        return out if self.start is None else self.start(t, x) + self._sized(t, out)

    def _sized(self, t: Time, out: Tensor) -> Tensor:
        """The residual along the axes of the Gaussian, as large as the path's velocity varies there."""
        _, _, da, ds = self.start.path.at(t)
        size = (da**2 * self.start.variance.to(out) + ds**2).sqrt()
        return (out * size) @ self.start.axes.to(out).T


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of points under a flow, in nats, and what it may be off as a number of this flow.

    value (N,). probe_error (N,): standard error of the random divergence, zero where it is exact. step_error (N,): by how much
    the value moved when the step was halved; the value is that of the halved step, so this bounds its error where steps converge.
    How well the flow fits the data is in none of these.
    """

    value: Float[Tensor, "N"]
    probe_error: Float[Tensor, "N"]
    step_error: Float[Tensor, "N"]

    @property
    def error(self) -> Float[Tensor, "N"]:
        """Both together."""
        return (self.probe_error.square() + self.step_error.square()).sqrt()

    @property
    def mean(self) -> tuple[float, float]:
        """Mean over the points and its error: probes are independent between points, the error of the step is not."""
        probes = float(self.probe_error.square().mean()) / len(self.value)
        return float(self.value.mean()), math.sqrt(probes + float(self.step_error.mean()) ** 2)


def matching_loss(
    field: Callable, t: Float[Tensor, "1 N 1"], x0: Float[Tensor, "1 N D"], x1: Float[Tensor, "1 N D"], path: Path
) -> Float[Tensor, ""]:
    """Mean over pairs and coordinates of |field(t, x_t) - velocity of the path|^2, on the sphere of the field's tangent part."""
    x, wanted = path.between(t, x0, x1)
    said = field(t, x)
    if said.shape != x.shape:
        raise ValueError(f"matching: the field maps {tuple(x.shape)} to {tuple(said.shape)}; a velocity keeps the shape")
    said = tangent(x, said) if path.space == "sphere" else said
    return (said - wanted).square().mean()


def train(
    field: nn.Module,
    samples: Float[Tensor, "N D"],
    *,
    path: Path,
    generator: torch.Generator,
    coupling: str = "independent",
    steps: int = 2000,
    batch: int = 512,
    rate: float = 1e-2,
) -> Float[Tensor, "steps"]:
    """Trains field(t, x) in place by Adam with a cosine rate and returns the losses.

    Args:   samples: data, in space path.space, on the field's device. coupling: "independent", or "transport": each batch paired
            at least squared distance (exact; straighter flows, but see paths about scores). t is stratified over the batch.
    Raises: ValueError for samples that are not finite or off the sphere, and when the loss is no longer finite.
    """
    _check(samples, path, "train")
    if coupling not in COUPLINGS or steps < 1 or batch < 1:
        raise ValueError(
            f"train: coupling {coupling!r}, steps={steps}, batch={batch}: coupling is one of {COUPLINGS}, others >= 1"
        )
    place = generator.device
    optimiser = torch.optim.Adam([p for p in field.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1, pct_start=0.05)
    losses = []
    for _ in range(steps):
        x1 = samples[torch.randint(len(samples), (batch,), generator=generator, device=place).to(samples.device)]
        x0 = path.base(batch, samples.shape[1], generator, samples.dtype)[0].to(samples.device)
        if coupling == "transport":
            x1 = x1[pairing(x0, x1, space=path.space)]
        drawn = torch.rand(batch, generator=generator, dtype=torch.float64, device=place)
        t = path.end * (torch.arange(batch, device=place) + drawn) / batch
        loss = matching_loss(field, t.to(samples)[None, :, None], x0[None], x1[None], path)
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"train: the loss is {float(loss.detach())} after {len(losses)} steps: scale the samples or lower rate={rate}"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sample(
    field: Callable,
    n: int,
    d: int,
    *,
    path: Path,
    generator: torch.Generator,
    step: float = 1 / 32,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "n d"]:
    """n points that the flow makes of the base, by Runge-Kutta of order 4 from 0 to path.end."""
    with torch.no_grad():
        start = path.base(n, d, generator, dtype)
        return solve(Learned(field, space=path.space), start, (0.0, path.end), method="rk4", step=step).end[0]


def log_likelihood(
    field: Callable,
    x: Float[Tensor, "N D"],
    *,
    path: Path,
    step: float = 1 / 32,
    probes: int = 0,
    generator: torch.Generator | None = None,
) -> Likelihood:
    """Log-likelihood of points under the flow, by its divergence along the way back to the base; solved twice, at step and half.

    Args:   probes: 0 takes the exact divergence (d derivatives); else so many random signs per point, the same in both solves.
    Raises: ValueError for points that are not finite or off the sphere, and for probes without a generator.
    """
    _check(x, path, "log_likelihood")
    if probes and generator is None:
        raise ValueError(f"log_likelihood: probes={probes} are random: pass a generator, or probes=0 for the exact divergence")
    v, parts = Learned(field, space=path.space), []
    for chunk in x.detach().split(CHUNK):
        chunk = chunk[:, None]  # each point a cloud of its own
        signs = rademacher(probes, chunk, generator) if probes else None
        with torch.no_grad():
            coarse, fine = (
                log_density(v, chunk, path.base_log_density, (0.0, path.end), probes=signs, method="rk4", step=size)
                for size in (step, step / 2)
            )
        parts.append((fine[0][:, 0], fine[1][:, 0], (fine[0] - coarse[0])[:, 0].abs()))
    return Likelihood(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose first weights come from the generator and nowhere else."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, device=generator.device)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _check(x: Tensor, path: Path, where: str) -> None:
    if not len(x):
        raise ValueError(f"{where}: no points given")
    check_on_sphere(x, where) if path.space == "sphere" else check_finite(x, where)
